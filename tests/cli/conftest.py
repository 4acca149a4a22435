"""What tests of commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.databases import create_native, one_of_each


@pytest.fixture
def url(tmp_path: Path) -> str:
    """An SQLite database of one incident with a run, a trace and three steps."""
    return create_native(f"sqlite:///{tmp_path / 'cli.sqlite'}", one_of_each())
