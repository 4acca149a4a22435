"""Places that cannot be written to: one line on standard error that names the place, and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.invoking import call

ARGUMENTS = {
    "bundle": ("bundle", "i1", "-o"),
    "zip": ("bundle", "i1", "--zip", "-o"),
    "export": ("export",),
    "report": ("report", "i1", "-o"),
    "reports": ("report", "--since", "2026-10-01", "-o"),
    "keygen": ("keygen",),
    "lab": ("lab", "--directory"),
    "sample": ("sample", "--runs", "60", "-o"),
    "into": ("sample", "--runs", "60", "--into"),
    "demo": ("demo", "-o"),
}


@pytest.mark.parametrize("place", ["file/below", "x" * 300 + ".sqlite", "/proc/nothing.sqlite"])
@pytest.mark.parametrize("command", ARGUMENTS)
def test_a_place_that_cannot_be_made(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    before = sorted(path.name for path in tmp_path.iterdir())
    target = f"sqlite:///{place}" if command == "into" else place
    result = call("-d", url, *ARGUMENTS[command], target)
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1), result.output
    assert result.stderr.startswith("error: ")
    assert place.split("/below", maxsplit=1)[0][:40] in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert Path("file").read_text() == "mine"


@pytest.mark.parametrize(("command", "message"), [("lab", "file: File exists"), ("sample", "file: File exists")])
def test_a_file_where_a_directory_should_be(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    result = call("-d", url, *ARGUMENTS[command], "file")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"error: {message}\n")
