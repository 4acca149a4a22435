"""A written bundle, and a copy of it to change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from exporttools import write_bundle
from tests.bundle.bags import a_bundle


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that is only to be copied."""
    return write_bundle(a_bundle(), tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.fixture
def bag(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "bundle"))
