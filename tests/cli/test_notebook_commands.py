"""The command lab, up to where JupyterLab begins; tests/browser opens it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.invoking import call


def test_lab_copies_the_notebooks_and_names_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    monkeypatch.chdir(tmp_path)
    result = call("-d", "sqlite:///agents.sqlite", "lab", "--directory", tmp_path / "work", "--no-browser")
    assert (result.exit_code, result.output) == (0, "")
    ((program, command, environment),) = started
    assert (program, command[1:3]) == (sys.executable, ["-m", "jupyterlab"])
    assert command[3:] == [f"--ServerApp.root_dir={tmp_path / 'work'}", "--no-browser"]
    # The notebooks run in another directory.
    assert environment["EXPORTTOOLS_DATABASE_URL"] == f"sqlite+pysqlite:///{tmp_path / 'agents.sqlite'}"
    assert "EXPORTTOOLS_TENANT_ID" not in environment
    assert (tmp_path / "work" / "investigate_incident.ipynb").is_file()
