"""The notebooks run from top to bottom, and are committed with outputs that name no machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from exporttools.notebook import copy_notebooks, run_notebook

from .databases import create_native, one_of_each

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.mark.parametrize("incident_id", ["inc-0000-7", "inc-0000-8"])
def test_an_incident_without_a_run_or_a_trace_is_shown_too(
    tmp_path: Path, incident_id: str, sample_urls: dict[str, str]
) -> None:
    parameters = {"incident_id": incident_id, "database_url": sample_urls["sqlite"]}
    done = run_notebook("investigate_incident", tmp_path / "out.ipynb", parameters)
    assert "intact, unsigned" in done.read_text()


def test_it_runs_on_postgresql(fresh_postgres_url: str, tmp_path: Path) -> None:
    url = create_native(fresh_postgres_url, one_of_each())
    done = run_notebook("investigate_incident", tmp_path / "out.ipynb", {"incident_id": "i1", "database_url": url})
    assert (tmp_path / "i1.bundle" / "bagit.txt").is_file()
    assert "image/png" in done.read_text()


def test_it_is_committed_with_outputs_of_no_machine() -> None:
    text = (NOTEBOOKS / "investigate_incident.ipynb").read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert sum(bool(cell["outputs"]) for cell in cells) >= 7
    assert re.findall(r"/(?:root|home|tmp|work|Users)/", text) == []
    assert not any(output["output_type"] in ("error", "stream") for cell in cells for output in cell["outputs"])


def test_copies_leave_what_is_there(tmp_path: Path) -> None:
    (copy,) = copy_notebooks(tmp_path / "work")
    copy.write_text("mine")
    assert copy_notebooks(tmp_path / "work") == [copy]
    assert copy.read_text() == "mine"
