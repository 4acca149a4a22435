"""The commands demo and sample: standard output, standard error, exit code and files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from exporttools.errors import MissingExtra
from tests.cli.invoking import call


def test_sample(tmp_path: Path) -> None:
    result = call("sample", "--runs", "60", "--into", f"sqlite:///{tmp_path / 's.sqlite'}")
    assert result.exit_code == 0
    assert "60 runs" in result.stdout
    assert len(call("sample", "--runs", "60", "-o", str(tmp_path / "out")).stdout.splitlines()) == 4


def test_demo_takes_an_incident_from_database_to_proof(tmp_path: Path) -> None:
    for name in ("demo", "demo-2"):
        result = call("demo", "-o", str(tmp_path / "demo"))
        assert result.exit_code == 0, result.stderr
        assert f'authentic, signed by demo.key.pub: "{tmp_path / name / "inc-0000-1.bundle"}"\n' in result.stdout
        (command,) = [line.split()[1:] for line in result.stdout.splitlines() if " --trusted-key " in line]
        again = call(*command)
        assert (again.exit_code, again.stdout.partition(":")[0]) == (0, "authentic, signed by demo.key.pub")
        assert (tmp_path / name / "timeline.png").stat().st_size > 10_000
        notebook = json.loads((tmp_path / name / "investigate_incident.ipynb").read_text())
        assert (
            sum("image/png" in output.get("data", {}) for c in notebook["cells"] for output in c.get("outputs", []))
            == 4
        )


def test_demo_says_what_it_skips_without_the_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(extra: str, purpose: str) -> Callable[..., None]:
        def refuse(*arguments: object, **options: object) -> None:
            raise MissingExtra(extra, purpose)

        return refuse

    monkeypatch.setattr("exporttools.cli.demo.write_key_pair", missing("sign", "signing"))
    monkeypatch.setattr("exporttools.cli.demo.run_notebook", missing("lab", "running a notebook"))
    result = call("demo", "-o", tmp_path / "demo")
    assert (result.exit_code, result.stderr.splitlines()) == (
        0,
        [
            "SKIPPED: the bundle is not signed. "
            "signing needs packages that are not installed: pip install 'exporttools[sign]'",
            "running the notebook ...",
            "SKIPPED: the notebook was not run. "
            "running a notebook needs packages that are not installed: pip install 'exporttools[lab]'",
        ],
    )
    assert f'intact, unsigned: "{tmp_path / "demo" / "inc-0000-1.bundle"}"\n' in result.stdout


def test_demo_on_a_damaged_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporttools.cli.demo.ExportBundleStore.get_export_bundle", lambda store, incident_id: None)
    result = call("demo", "-o", tmp_path / "demo")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith(
        "sample.sqlite: incident 'inc-0000-1' is listed but cannot be read; the sample is damaged, reinstall exporttools\n"
    )
    assert list(tmp_path.iterdir()) == []
