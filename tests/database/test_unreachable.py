"""A server that cannot be reached, or lacks the database: named in each text that a user may see, but never the password."""

from __future__ import annotations

import pytest
from sqlalchemy import make_url

from exporttools import ConnectionFailed, ExportBundleStore

PASSWORD = "s3cret"


@pytest.fixture(params=["refused", "no such database"])
def unreachable(request: pytest.FixtureRequest) -> tuple[ExportBundleStore, str]:
    """A store, and its server and database as messages name them."""
    if request.param == "refused":
        url = f"postgresql://reader:{PASSWORD}@127.0.0.1:9/agents?connect_timeout=2"
        return ExportBundleStore(url), "postgresql://127.0.0.1:9/agents"
    server = make_url(request.getfixturevalue("postgres_server"))
    return ExportBundleStore(server.set(database="nowhere", password=PASSWORD)), "/nowhere"


def test_an_unreachable_server_is_named_without_the_password(unreachable: tuple[ExportBundleStore, str]) -> None:
    store, name = unreachable
    with pytest.raises(ConnectionFailed) as caught:
        store.get_incident("i1")
    label = store._reader.database.label
    assert label.startswith("postgresql://")
    assert label.endswith(name)
    assert str(caught.value).startswith(f"{label}: ")
    assert "reader" not in label
    assert label in repr(store)
    assert caught.value.__cause__ is not None
    for text in (str(caught.value), repr(caught.value), repr(store), label, str(caught.value.__cause__)):
        assert PASSWORD not in text
