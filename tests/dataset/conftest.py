"""A dataset made by hand, and storages on disk and in an object store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from exporttools.dataset.destinations import open_storage
from exporttools.dataset.storage import Storage
from tests.dataset.handmade import (
    HandmadeDataset,
)
from tests.s3 import s3_server


@pytest.fixture
def handmade(tmp_path: Path) -> HandmadeDataset:
    return HandmadeDataset(tmp_path / "d")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return open_storage(tmp_path / "place", create=True)
    request.getfixturevalue("s3")
    return open_storage(f"s3://fleet/{tmp_path.name}")
