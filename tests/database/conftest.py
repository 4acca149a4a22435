"""What the room's tests share: a database with one incident, run and trace, and a store on it."""

from __future__ import annotations

import pytest

from exporttools import ExportBundleStore
from tests.databases import create_native, one_of_each


@pytest.fixture
def url(fresh_url: str) -> str:
    """A database with one of each."""
    return create_native(fresh_url, one_of_each())


@pytest.fixture
def store(url: str) -> ExportBundleStore:
    """A store on a database with one of each."""
    return ExportBundleStore(url)
