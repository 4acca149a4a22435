"""Opening a database: read-only, without creating anything, from a URL, a path or an Engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from exporttools import ConfigError, ConnectionFailed, ExportBundleStore, QueryTimeout, SchemaMismatch, StoreError
from tests.databases import writable


def test_nothing_is_written(store: ExportBundleStore, backend: str) -> None:
    assert store.get_incident("i1")
    message = {"sqlite": "attempt to write a readonly database", "postgresql": "25006|read-only transaction"}[backend]
    with store._reader.database.transaction() as connection, pytest.raises(sa.exc.DBAPIError, match=message):
        connection.execute(sa.text("DELETE FROM incidents"))
    engine = writable(_url_of(store))
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM incidents")).scalar_one() == 1
    engine.dispose()


def _url_of(store: ExportBundleStore) -> str:
    return store._reader.database._url.render_as_string(hide_password=False)


def test_a_missing_sqlite_file_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "no.sqlite"
    for database in (path, str(path), f"sqlite:///{path}"):
        with pytest.raises(ConnectionFailed, match=r"no such file; expected an SQLite database. Nothing was created."):
            ExportBundleStore(database).list_incidents()
    with pytest.raises(ConnectionFailed, match="it is a directory; expected an SQLite database. Nothing was created."):
        ExportBundleStore(tmp_path / ".").list_incidents()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("this is not a database, however long the text may be" * 100)
    with pytest.raises(ConnectionFailed, match="the file is not an SQLite database"):
        ExportBundleStore(tmp_path / "text.sqlite").list_incidents()


def test_a_statement_timeout(url: str, backend: str) -> None:
    store = ExportBundleStore(url, statement_timeout=0.05)
    if backend == "sqlite":
        slow = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000000) SELECT max(i) FROM n"
        )
    else:
        slow = "SELECT pg_sleep(20)"
    database = store._reader.database
    with (
        pytest.raises(QueryTimeout, match="statement_timeout"),
        database.transaction() as connection,
        database.translated_errors(),
    ):
        connection.execute(sa.text(slow)).all()
    assert store.get_incident("i1")
    for bad in (0, -1, float("nan")):
        with pytest.raises(
            ConfigError, match="statement_timeout is .*; expected seconds, more than 0 and less than a million, or None"
        ):
            ExportBundleStore(url, statement_timeout=bad)


def test_an_engine_is_used_as_it_is(url: str, backend: str) -> None:
    engine = writable(url)
    store = ExportBundleStore(engine)
    assert store.get_export_bundle("i1") == ExportBundleStore(url).get_export_bundle("i1")
    with engine.begin() as connection:  # its connections write as before
        connection.execute(sa.text("DELETE FROM incidents"))
    assert store.get_incident("i1") is None
    engine.dispose()


def test_an_in_memory_engine() -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False})
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alerts (id TEXT)")
    with pytest.raises(SchemaMismatch, match=r"Tables found: alerts"):
        ExportBundleStore(engine).list_incidents()
    with engine.connect() as connection:
        connection.execute(sa.text("INSERT INTO alerts VALUES ('open')"))
        with pytest.raises(
            StoreError,
            match="^the Engine's connection has an open transaction; commit it, or pass an Engine with a connection per thread$",
        ):
            ExportBundleStore(engine).list_incidents()
    engine.dispose()


def test_engines_of_other_databases_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"an Engine of mysql\+pymysql is not supported; expected postgresql://"):
        ExportBundleStore(sa.create_engine("mysql+pymysql://h/d", module=__import__("sqlite3")))
    with pytest.raises(ConfigError) as caught:
        ExportBundleStore(sa.create_engine("postgresql+pg8000://h/d", module=__import__("sqlite3")))
    assert str(caught.value) == ("the driver 'pg8000' is not supported; create the Engine with postgresql+psycopg://")
