"""What ships with the package is found, and what is missing is named with the places searched."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporttools import ConfigError
from exporttools.files import resources
from exporttools.files.resources import resource


def test_a_notebook_is_found() -> None:
    assert resource("notebooks/investigate_incident.ipynb").is_file()


def test_an_installed_wheel_is_searched_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "exporttools")
    checkout, wheel = tmp_path / "a.txt", tmp_path / "exporttools/_resources/a.txt"
    checkout.touch()
    assert resource("a.txt") == checkout
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    assert resource("a.txt") == wheel


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "exporttools")
    with pytest.raises(ConfigError) as caught:
        resource("a.txt")
    assert str(caught.value) == (
        f"a.txt is missing from this installation; looked in {tmp_path}/exporttools/_resources/a.txt and {tmp_path}/a.txt. "
        "Reinstall exporttools."
    )
