"""What `import exporttools` offers: each name resolves, what a user types is starred, and nothing heavy is loaded."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import exporttools

STUB = Path(exporttools.__file__).with_suffix(".pyi")
NAMES = {
    alias.asname or alias.name
    for node in ast.parse(STUB.read_text()).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}
ROOMS = {"analysis", "plots", "report"}
# These only come out of calls, or are a layout's parts.
NOT_STARRED = {
    "Comparison", "Constant", "Dataset", "DatasetVerification", "ExportPlan", "ExportReport", "Field", "Finding", "ImportReport",
    "ImportedTraces", "Join", "ReportOutcome", "Signer", "SigningKey", "Source", "SourceSnapshot", "TrustedKey", "Verification",
}  # fmt: skip


def test_every_name_resolves() -> None:
    for name in NAMES:
        assert getattr(exporttools, name) is not None


def test_what_a_user_types_is_starred() -> None:
    assert exporttools.__all__ == sorted(set(exporttools.__all__))
    assert set(exporttools.__all__) == NAMES - ROOMS - NOT_STARRED


def test_dir_is_what_there_is() -> None:
    assert set(dir(exporttools)) == NAMES


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="No exporttools attribute nope"):
        exporttools.nope  # type: ignore[attr-defined]  # noqa: B018


def test_rooms_are_there_without_an_import_of_their_own() -> None:
    code = "import exporttools as et; print(et.plots.timeline.__name__, et.analysis.cost_by.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "timeline cost_by\n"


@pytest.mark.parametrize("code", ["import exporttools", "import exporttools.cli", "from exporttools.errors import *"])
def test_an_import_loads_nothing_heavy(code: str) -> None:
    heavy = {"pandas", "matplotlib", "duckdb", "sqlalchemy", "pyarrow", "numpy", "narwhals"}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert heavy & set(done.stdout.split()) == set()


def test_the_package_is_imported_from_a_zip_file(tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "packages"), "zip", STUB.parents[1], "exporttools")
    code = "import exporttools as et; print(et.__file__, et.cost_by.__name__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": archive},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{archive}/exporttools/__init__.py cost_by\n"
