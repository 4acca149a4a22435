"""The notebooks run from top to bottom, and are committed with outputs that name no machine."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pyarrow as pa
import pytest

from exporttools import ConfigError, ExportBundleStore, ReportError
from exporttools.report.notebook import copy_notebooks, run_notebook
from tests.databases import create_native, one_of_each

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.mark.parametrize("incident_id", ["inc-0000-7", pytest.param("inc-0000-8", marks=pytest.mark.slow)])
def test_an_incident_without_a_run_or_a_trace_is_shown_too(
    tmp_path: Path, incident_id: str, sample_urls: dict[str, str]
) -> None:
    parameters = {"incident_id": incident_id, "database_url": sample_urls["sqlite"]}
    done = run_notebook("investigate_incident", tmp_path / "out.ipynb", parameters)
    assert "intact, unsigned" in done.read_text()


@pytest.mark.slow
def test_it_runs_on_postgresql(fresh_postgres_url: str, tmp_path: Path) -> None:
    url = create_native(fresh_postgres_url, one_of_each())
    done = run_notebook("investigate_incident", tmp_path / "out.ipynb", {"incident_id": "i1", "database_url": url})
    assert (tmp_path / "i1.bundle" / "bagit.txt").is_file()
    assert "image/png" in done.read_text()


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("cost_analysis", "export_parquet")),
        "investigate_incident",
    ],
)
def test_they_read_only_the_tenant_of_the_environment(
    tmp_path: Path,
    name: str,
    sample: dict[str, pa.Table],
    sample_urls: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As `lab` opens them: nothing but the environment names the database and the tenant."""
    incident = next(row for row in sample["incidents"].to_pylist() if row["id"] == "inc-0000-1")
    tenant = incident["tenant_id"]
    monkeypatch.setenv("EXPORTTOOLS_DATABASE_URL", sample_urls["sqlite"])
    monkeypatch.setenv("EXPORTTOOLS_TENANT_ID", tenant)
    text = run_notebook(name, tmp_path / "out.ipynb", {}).read_text()
    others = [row for row in sample["runs"].to_pylist() if row["tenant_id"] != tenant]
    assert len(others) > 100
    theirs = {row[column] for row in others for column in ("tenant_id", "run_id")}
    assert [found for found in sorted(theirs) if found in text] == []


def test_the_environments_tenant_is_said(sample_urls: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPORTTOOLS_TENANT_ID", "acme-retail")
    store = ExportBundleStore(sample_urls["postgresql"])
    assert repr(store).endswith(" · tenant 'acme-retail' by EXPORTTOOLS_TENANT_ID>")
    assert {run.tenant_id for run in store.list_runs()} == {"acme-retail"}
    assert repr(ExportBundleStore(sample_urls["postgresql"], tenant_id="cobalt-health")).endswith(" 'cobalt-health'>")
    assert pickle.loads(pickle.dumps(ExportBundleStore(sample_urls["sqlite"]))).tenant_id == "acme-retail"
    monkeypatch.setenv("EXPORTTOOLS_TENANT_ID", " ")
    with pytest.raises(
        ConfigError, match=r"^EXPORTTOOLS_TENANT_ID is empty, perhaps from a shell variable that is not"
    ):
        ExportBundleStore(sample_urls["postgresql"])


def test_a_cell_that_fails_is_said(tmp_path: Path, sample_urls: dict[str, str]) -> None:
    parameters = {"incident_id": "nobody", "database_url": sample_urls["sqlite"]}
    with pytest.raises(
        ReportError, match=r"^cell \d of the notebook investigate_incident failed: LookupError: no incident 'nobody'"
    ):
        run_notebook("investigate_incident", tmp_path / "out.ipynb", parameters)


def test_the_week_of_a_fleet(tmp_path: Path, sample_urls: dict[str, str]) -> None:
    done = run_notebook("cost_analysis", tmp_path / "out.ipynb", {"database_url": sample_urls["postgresql"]})
    text = done.read_text()
    assert "1 of 131 runs differs from its steps, by -20.46 US cents" in text
    assert "run-0000-269" in text
    assert text.count("image/png") == 3
    assert (tmp_path / "fleet" / "_manifest").is_dir()


def test_an_export_is_resumed_verified_and_asked(tmp_path: Path, sample_urls: dict[str, str]) -> None:
    done = run_notebook("export_parquet", tmp_path / "out.ipynb", {"database_url": sample_urls["sqlite"]})
    text = done.read_text()
    assert "windows_committed=8" in text
    assert "windows_committed=7" in text
    assert "windows_committed=0" in text
    assert "code-assistant" in text


@pytest.mark.parametrize("name", ["investigate_incident", "cost_analysis", "export_parquet"])
def test_they_are_committed_with_outputs_of_no_machine(name: str) -> None:
    text = (NOTEBOOKS / f"{name}.ipynb").read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert sum(bool(cell["outputs"]) for cell in cells) >= 8
    assert re.findall(r"/(?:root|home|tmp|work|Users)/", text) == []
    assert not any(output["output_type"] in ("error", "stream") for cell in cells for output in cell["outputs"])


def test_copies_leave_what_is_there(tmp_path: Path) -> None:
    copies = copy_notebooks(tmp_path / "work")
    assert [copy.stem for copy in copies] == ["cost_analysis", "export_parquet", "investigate_incident"]
    copies[0].write_text("mine")
    assert copy_notebooks(tmp_path / "work") == copies
    assert copies[0].read_text() == "mine"
