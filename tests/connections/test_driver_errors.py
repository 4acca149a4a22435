"""Every text for a driver's error, raised by a real server or a real file wherever one can be made to raise it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import make_url

from exporttools import (
    ConnectionFailed,
    ExportBundleStore,
    InconsistentData,
    QueryTimeout,
    SchemaMismatch,
    StoreError,
)
from exporttools.connections.driver_errors import _BY_SQLITE_MESSAGE, _BY_SQLSTATE, driver_says, translated_errors
from tests.databases import create_native, one_of_each

PASSWORD = "hunter2"

Provoke = Callable[[Any], None]


def translated(provoke: Callable[[], object]) -> StoreError:
    """What the package raises where `provoke` raises a driver's error."""
    with pytest.raises(StoreError) as caught, translated_errors("the label", [PASSWORD]):
        provoke()
    assert PASSWORD not in str(caught.value)
    return caught.value


# PostgreSQL: how to provoke each SQLSTATE on a connection, then the error, its text, and whether to try again.


def lock_twice(connection: psycopg.Connection) -> None:
    connection.execute("CREATE TABLE locked (x int)")
    connection.commit()
    connection.execute("LOCK TABLE locked")
    with psycopg.connect(connection.info.dsn, password=PASSWORD) as other:
        other.execute("SET lock_timeout = 10")
        other.execute("SELECT * FROM locked")


def end_itself(connection: psycopg.Connection) -> None:
    with psycopg.connect(connection.info.dsn, password=PASSWORD, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.info.backend_pid])
    connection.execute("SELECT 1")


def conflict(connection: psycopg.Connection) -> None:
    connection.execute("CREATE TABLE raced (x int)")
    connection.execute("INSERT INTO raced VALUES (1)")
    connection.commit()
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.execute("SELECT * FROM raced")
    with psycopg.connect(connection.info.dsn, password=PASSWORD) as other:
        other.execute("UPDATE raced SET x = 2")
    connection.execute("UPDATE raced SET x = 3")


def read_forbidden(connection: psycopg.Connection) -> None:
    connection.execute("CREATE TABLE forbidden (x int)")
    connection.execute("CREATE ROLE nobody_reads")
    connection.execute("SET ROLE nobody_reads")
    connection.execute("SELECT * FROM forbidden")


def connect_as(**changes: Any) -> Provoke:
    def connect(connection: psycopg.Connection) -> None:
        connection.execute("CREATE ROLE full_role LOGIN CONNECTION LIMIT 0")
        connection.execute("CREATE ROLE locked_role NOLOGIN")
        connection.commit()
        try:
            psycopg.connect(connection.info.dsn, password=PASSWORD, **changes)
        finally:
            connection.execute("DROP ROLE full_role")
            connection.execute("DROP ROLE locked_role")
            connection.commit()

    return connect


def statement(*statements: str) -> Provoke:
    def run(connection: psycopg.Connection) -> None:
        for text in statements:
            connection.execute(text)  # type: ignore[arg-type]

    return run


def lose_connection(connection: psycopg.Connection) -> None:
    """Poolers and proxies report class 08; a server itself does so only when asked to."""
    connection.execute("DO $$ BEGIN RAISE EXCEPTION 'the pooler lost the server' USING ERRCODE = '08006'; END $$")


SQLSTATES: dict[str, tuple[Provoke, type[StoreError], str, bool]] = {
    "57014": (
        statement("SET statement_timeout = 10", "SELECT pg_sleep(20)"),
        QueryTimeout, "the statement was cancelled; raise statement_timeout or narrow the read", True,
    ),
    "55P03": (lock_twice, QueryTimeout, "timed out waiting for a lock", True),
    "08": (lose_connection, ConnectionFailed, "the connection failed", True),
    "28": (connect_as(user="locked_role"), ConnectionFailed, "the server refused the user or password", False),
    "3D000": (connect_as(dbname="nowhere"), ConnectionFailed, "the database does not exist", False),
    "53300": (connect_as(user="full_role"), ConnectionFailed, "the server has no connections left", True),
    "57P": (end_itself, ConnectionFailed, "the server closed the connection", True),
    "42P01": (statement("SELECT * FROM gone"), SchemaMismatch, "a table of the layout no longer exists", False),
    "42703": (statement("SELECT gone"), SchemaMismatch, "a column of the layout no longer exists", False),
    "42501": (read_forbidden, StoreError, "permission denied; reading needs SELECT on the tables", False),
    "25006": (
        statement("SET TRANSACTION READ ONLY", "CREATE TABLE mine (x int)"),
        StoreError, "the database is open read-only", False,
    ),
    "40": (conflict, StoreError, "the read conflicted with a change and was rolled back; try again", True),
    "22": (statement("SELECT 'x'::text::int"), InconsistentData, "a stored value cannot be read", False),
}  # fmt: skip


@pytest.fixture
def connection(fresh_postgres_url: str) -> Iterator[psycopg.Connection]:
    """A connection that may break; its server asks for no password, so one is only carried along."""
    with closing(psycopg.connect(fresh_postgres_url, password=PASSWORD)) as connection:
        yield connection


def test_every_sqlstate_has_a_test() -> None:
    assert SQLSTATES.keys() == _BY_SQLSTATE.keys()


@pytest.mark.parametrize("sqlstate", SQLSTATES)
def test_a_sqlstate_says_what_it_means(connection: psycopg.Connection, sqlstate: str) -> None:
    provoke, error_type, text, transient = SQLSTATES[sqlstate]
    error = translated(lambda: provoke(connection))
    assert type(error) is error_type
    assert str(error).startswith(f"the label: {text}. The driver says: ")
    assert error.transient is transient
    assert isinstance(error.__cause__, psycopg.Error)


@pytest.mark.parametrize(
    ("server_says", "text"),
    [
        ('password authentication failed for user "reader"', "the server refused the user or password"),
        ('Peer authentication failed for user "reader"', "the server refused the user or password"),
        ('no pg_hba.conf entry for host "10.0.0.7", user "reader"', "the server refused the user or password"),
        ('role "reader" does not exist', "the server refused the user or password"),
        ('database "agents" does not exist', "the database does not exist"),
        ("sorry, too many clients already", "the server has no connections left"),
        (
            "remaining connection slots are reserved for roles with the SUPERUSER attribute",
            "the server has no connections left",
        ),
        ("der Server startet", "the server cannot be reached or closed the connection"),
    ],
)
def test_a_refused_connection_has_no_sqlstate_but_the_servers_words(server_says: str, text: str) -> None:
    """The words of PostgreSQL's sources (postinit.c, auth.c, proc.c); the test's own server asks for no password."""
    refused = psycopg.OperationalError(f'connection failed: connection to server at "h" failed: FATAL:  {server_says}')
    assert str(translated(raising(refused))).startswith(f"the label: {text}. The driver says: ")


def raising(error: BaseException) -> Callable[[], None]:
    def provoke() -> None:
        raise error

    return provoke


# SQLite, likewise on the path of a file.


def be_locked(path: Path) -> None:
    with closing(sqlite3.connect(path)) as writer, closing(sqlite3.connect(path, timeout=0)) as reader:
        writer.execute("BEGIN EXCLUSIVE")
        reader.execute("SELECT * FROM runs")


def open_a_directory(path: Path) -> None:
    with closing(sqlite3.connect(path.parent)) as connection:
        connection.execute("SELECT 1")


def read_text_file(path: Path) -> None:
    path.write_text("not a database" * 1000)
    query("SELECT * FROM runs")(path)


def read_damaged_page(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[4096:8192] = b"\xff" * 4096  # the second page: a table's root
    path.write_bytes(damaged)
    query("SELECT * FROM incidents")(path)


def fail_to_read(path: Path) -> None:
    """No file of a test can be made to fail a read, so the error is the driver's class with SQLite's text."""
    raise sqlite3.OperationalError("disk I/O error")


def interrupt_itself(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.set_progress_handler(lambda: 1, 1)
        connection.execute("SELECT * FROM runs")


def write_read_only(path: Path) -> None:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.execute("DELETE FROM runs")


def query(sql: str) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(sql).fetchall()

    return run


SQLITE_MESSAGES: dict[str, tuple[Callable[[Path], None], type[StoreError], str, bool]] = {
    "interrupted": (
        interrupt_itself,
        QueryTimeout, "the statement ran longer than statement_timeout; raise it or narrow the read", True,
    ),
    "database is locked": (be_locked, QueryTimeout, "timed out waiting for a writer to unlock the database", True),
    "unable to open database file": (open_a_directory, ConnectionFailed, "the file cannot be opened", False),
    "file is not a database": (read_text_file, ConnectionFailed, "the file is not an SQLite database", False),
    "malformed": (read_damaged_page, ConnectionFailed, "the file is damaged", False),
    "disk I/O error": (fail_to_read, ConnectionFailed, "the file cannot be read", False),
    "no such table": (query("SELECT * FROM gone"), SchemaMismatch, "a table of the layout no longer exists", False),
    "no such column": (query("SELECT gone FROM runs"), SchemaMismatch, "a column of the layout no longer exists", False),
    "Could not decode to UTF-8": (
        query("SELECT CAST(x'ff' AS TEXT)"), InconsistentData, "a stored text is not valid UTF-8", False,
    ),
    "readonly database": (write_read_only, StoreError, "the database is open read-only", False),
}  # fmt: skip


def test_every_sqlite_message_has_a_test() -> None:
    assert SQLITE_MESSAGES.keys() == _BY_SQLITE_MESSAGE.keys()


@pytest.mark.parametrize("message", SQLITE_MESSAGES)
def test_a_sqlite_message_says_what_it_means(tmp_path: Path, message: str) -> None:
    provoke, error_type, text, transient = SQLITE_MESSAGES[message]
    path = tmp_path / "agents.sqlite"
    create_native(f"sqlite:///{path}", one_of_each())
    error = translated(lambda: provoke(path))
    assert type(error) is error_type
    assert str(error).startswith(f"the label: {text}. The driver says: ")
    assert message in str(error)
    assert error.transient is transient


# What no row of the tables is about


def divide_by_zero_with_adbc(url: str) -> None:
    with closing(adbc_driver_postgresql.dbapi.connect(url)) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("SELECT 1 / 0")


def test_adbc_has_sqlstates_too(fresh_postgres_url: str) -> None:
    error = translated(lambda: divide_by_zero_with_adbc(fresh_postgres_url))
    assert type(error) is InconsistentData
    assert str(error).startswith("the label: a stored value cannot be read. The driver says: ")


def test_an_unknown_sqlstate_is_named(connection: psycopg.Connection) -> None:
    error = translated(lambda: connection.execute("CREATE SCHEMA public"))
    assert type(error) is StoreError
    assert str(error) == (
        'the label: the server reported SQLSTATE 42P06. The driver says: schema "public" already exists'
    )


def test_an_unknown_sqlite_error_is_repeated(tmp_path: Path) -> None:
    error = translated(lambda: query("SELECT (")(tmp_path / "new.sqlite"))
    assert type(error) is StoreError
    assert str(error) == "the label: SQLite reported an error. The driver says: incomplete input"


def test_a_value_that_the_driver_cannot_hold(connection: psycopg.Connection) -> None:
    error = translated(lambda: connection.execute("SELECT timestamptz 'infinity'").fetchall())
    assert type(error) is InconsistentData
    assert str(error).startswith("the label: a stored value cannot be read. The driver says: ")


@pytest.mark.parametrize("connect", [psycopg.connect, adbc_driver_postgresql.dbapi.connect], ids=["psycopg", "adbc"])
def test_a_server_that_is_not_there(connect: Callable[[str], object]) -> None:
    error = translated(lambda: connect(f"postgresql://reader:{PASSWORD}@127.0.0.1:9/agents?connect_timeout=2"))
    assert type(error) is ConnectionFailed
    assert str(error).startswith("the label: the server cannot be reached or closed the connection. The driver says: ")
    assert error.transient is True


def test_an_error_of_the_driver_alone(connection: psycopg.Connection) -> None:
    error = translated(lambda: connection.execute("SELECT %s", [object()]))
    assert type(error) is StoreError
    assert str(error).startswith("the label: the database driver failed. The driver says: cannot adapt ")


def test_no_connection_of_the_pool_becomes_free(fresh_url: str) -> None:
    url = make_url(create_native(fresh_url, one_of_each()))
    drivername = {"postgresql": "postgresql+psycopg"}.get(url.drivername, url.drivername)
    engine = sa.create_engine(
        url.set(drivername=drivername), poolclass=sa.QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.01
    )
    store = ExportBundleStore(engine)
    with engine.connect(), pytest.raises(QueryTimeout) as caught:
        store.list_runs()
    assert ": timed out waiting for a free connection in the pool; QueuePool limit of size 1" in str(caught.value)
    engine.dispose()


def test_a_table_that_is_gone_when_it_is_inspected(fresh_url: str) -> None:
    engine = sa.create_engine(fresh_url.replace("postgresql://", "postgresql+psycopg://"))
    error = translated(lambda: sa.inspect(engine).get_columns("gone"))
    assert type(error) is SchemaMismatch
    assert str(error) == "the label: the table gone does not exist"
    engine.dispose()


def test_an_error_of_sqlalchemy_alone(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'new.sqlite'}")
    with engine.connect() as connection:
        error = translated(lambda: connection.execute(sa.text("SELECT :missing")))
    assert type(error) is StoreError
    assert "A value is required for bind parameter 'missing'" in str(error)
    engine.dispose()


@pytest.mark.parametrize(
    "form", ["a'b\\c @+", "a%27b%5Cc%20%40%2B", "a%27b%5Cc %40+", "a%27b%5Cc+%40%2B", "a\\'b\\\\c @+"]
)
def test_a_password_is_erased_in_every_form_that_drivers_write_it(form: str) -> None:
    assert driver_says(psycopg.Error(f"cannot parse {form} here"), ["a'b\\c @+"]) == "cannot parse *** here"


def test_a_password_that_a_driver_repeats_is_erased() -> None:
    error = translated(raising(psycopg.OperationalError(f"cannot parse host=h password={PASSWORD}")))
    assert str(error) == (
        "the label: the server cannot be reached or closed the connection. "
        "The driver says: cannot parse host=h password=***"
    )
