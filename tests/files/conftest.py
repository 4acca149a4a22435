"""Each test of durable writing runs with a directory and with a file."""

from __future__ import annotations

import pytest

from exporttools.files.durable import new_directory, new_file
from tests.files.writing import New


@pytest.fixture(params=[new_directory, new_file])
def new(request: pytest.FixtureRequest) -> New:
    """Each test runs with a directory and with a file."""
    made: New = request.param
    return made
