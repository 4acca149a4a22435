"""The bundles of the sample's planted incidents."""

from __future__ import annotations

import pytest

from exporttools import ExportBundle, ExportBundleStore


@pytest.fixture(scope="module")
def bundles(sample_urls: dict[str, str]) -> dict[int, ExportBundle]:
    store = ExportBundleStore(sample_urls["sqlite"])
    return {number: store.get_export_bundle(f"inc-0000-{number}") for number in range(1, 9)}  # type: ignore[misc]
