"""What importing bundles loads: no driver, no pandas, no matplotlib."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from exporttools import read_bundle
from tests.bundle.bags import a_bundle


def _loaded(code: str, cwd: Path) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules)"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COVERAGE_PROCESS_START")
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return {module.split(".")[0] for module in done.stdout.split()}


DRIVERS = {
    "sqlalchemy",
    "psycopg",
    "psycopg_binary",
    "adbc_driver_postgresql",
    "adbc_driver_manager",
    "pandas",
    "matplotlib",
}


def test_importing_bundles_loads_no_driver_pandas_or_matplotlib(tmp_path: Path) -> None:
    loaded = _loaded("import exporttools.bundle", tmp_path)
    assert "pyarrow" in loaded
    assert loaded & {*DRIVERS, "duckdb"} == set()


def test_a_recipient_needs_no_driver_pandas_or_matplotlib(bag: Path, tmp_path: Path) -> None:
    # pyarrow imports pandas where it is installed, so here none of them is.
    code = f"""
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {sorted(DRIVERS)!r}:
            raise ModuleNotFoundError('No module named ' + name)
sys.meta_path.insert(0, NotInstalled())
import exporttools.bundle as b
b.write_bundle(b.read_bundle({str(bag)!r}), 'again')
assert b.verify_bundle('again')
print('verified')"""
    assert "verified" in _loaded(code, tmp_path)
    assert read_bundle(tmp_path / "again") == a_bundle()


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    loaded = _loaded("import exporttools", tmp_path)
    assert "exporttools" in loaded
    assert loaded & {*DRIVERS, "duckdb", "pyarrow", "numpy", "typer"} == set()
