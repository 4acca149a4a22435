"""A clean pyplot for each test, and the sample's store."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

from exporttools import ExportBundleStore


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    before = copy.deepcopy(dict(mpl.rcParams))
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


@pytest.fixture(scope="module")
def store(sample_urls: dict[str, str]) -> ExportBundleStore:
    return ExportBundleStore(sample_urls["sqlite"])
