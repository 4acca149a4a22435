"""No password is shown, however a database is named and however wrongly: not in part, not in any place."""

from __future__ import annotations

import logging
import pickle
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import make_url

from exporttools import ExportBundleStore, ExportToolsError, SqlTraceStore, export_dataset
from exporttools.bundle import write_bundle
from exporttools.connections.urls import DatabaseLike
from exporttools.loading import load_tables
from tests.cli.invoking import call
from tests.databases import create_native, one_of_each

PASSWORDS = [
    f"kiwi{mark}plum"
    for mark in (
        "@",
        ":",
        "/",
        "#",
        "?",
        "%",
        "&",
        "=",
        " ",
        "'",
        "\\",
        "%40",
        "@/",
        "@?",
        "?x=",
        "@h/d?a=",
        "://",
        "&a=",
    )
]

TEXTS = {
    "URL": "postgresql://me:{}@127.0.0.1:1/db",
    "URL without a port": "postgresql://me:{}@127.0.0.1/db?port=1",
    "URL of a password alone": "postgresql://:{}@127.0.0.1:1/db",
    "URL with another scheme": "postgres://me:{}@127.0.0.1:1/db",
    "URL of another driver": "postgresql+psycopg2://me:{}@127.0.0.1:1/db",
    "URL of another database": "mysql://me:{}@127.0.0.1:1/db",
    "URL without a scheme": "me:{}@127.0.0.1:1/db",
    "URL of a short user without a scheme": "m:{}@127.0.0.1:1/db",
    "URL without a colon": "postgresql//me:{}@127.0.0.1:1/db",
    "URL without a slash": "postgresql:/me:{}@127.0.0.1:1/db",
    "SQLite with a password": "sqlite://me:{}@127.0.0.1:1/db",
    "password= in the query": "postgresql://127.0.0.1:1/db?user=me&password={}",
    "sslpassword= in the query": "postgresql://me@127.0.0.1:1/db?sslpassword={}",
    "password= in the path": "postgresql://127.0.0.1:1/db;password={}",
    "libpq": "host=127.0.0.1 port=1 password={}",
    "libpq, quoted": "host=127.0.0.1 port=1 password='{}' dbname=db",
    "libpq on a socket": "host=/absent/socket password={}",
    "libpq of an SQLite file": "password={} dbname=/absent/agents.sqlite",
    "env:": "env:postgresql://me:{}@127.0.0.1:1/db",
    "SQLite with three slashes": "sqlite:///me:{}@127.0.0.1:1/db",
    "too long for a path": "host=127.0.0.1 port=1 password={} " + "x" * 5000,
}


def url_object(text: str) -> sa.URL:
    return sa.URL.create("postgresql", "me", text, "127.0.0.1", 1, "db")


def engine_of_a_password(text: str) -> sa.Engine:
    return sa.create_engine(url_object(text).set(drivername="postgresql+psycopg"))


def engine_of_a_mistake(text: str) -> sa.Engine:
    return sa.create_engine(
        sa.URL.create("postgresql+psycopg", "me", "first", f"127.0.0.1,{text}@x", 1, f"{text}@x", {"password": text})
    )


OBJECTS: dict[str, Callable[[str], DatabaseLike]] = {
    "URL object": url_object,
    "Engine": engine_of_a_password,
    "Engine made with a mistake": engine_of_a_mistake,
    "function": lambda text: lambda: f"postgresql://me:{text}@127.0.0.1:1/db",
    "path": lambda text: Path(f"postgresql://me:{text}@127.0.0.1:1/db"),
}


def said_of(database: DatabaseLike) -> Iterator[str]:
    """All that this package says of a database that it cannot read."""
    for make in (ExportBundleStore, SqlTraceStore):
        try:
            store = make(database)
        except ExportToolsError as error:
            yield from traceback.format_exception(error)  # with its causes: all of them are ours
            continue
        yield repr(store)
        read = (
            store.list_runs if isinstance(store, ExportBundleStore) else lambda of=store: of.get_trace_summary("r", "t")
        )
        for act in (read, lambda of=store: pickle.dumps(of)):
            try:
                yield repr(act())
            except ExportToolsError as error:
                yield from traceback.format_exception_only(error)
            except (TypeError, AttributeError, pickle.PicklingError):
                pass  # a function that cannot be pickled, or a trace store of locks


def assert_unseen(password: str, said: str) -> None:
    for part in (password, *re.findall("kiwi|plum", password)):
        assert part not in said


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("name", TEXTS)
def test_no_text_that_names_a_database_is_shown(name: str, password: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    text = TEXTS[name].format(password)
    said = "".join(said_of(text))
    assert said
    assert_unseen(password, said + caplog.text)


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("name", OBJECTS)
def test_no_object_that_names_a_database_is_shown(name: str, password: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="exporttools")
    said = "".join(said_of(OBJECTS[name](password)))
    assert said
    assert_unseen(password, said + caplog.text)


@pytest.mark.parametrize("name", TEXTS)
def test_the_command_line_shows_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = TEXTS[name].format("kiwi@plum")
    monkeypatch.setenv("EXPORTTOOLS_DATABASE_URL", text)
    for arguments in (["--database", text, "incidents"], ["show", "i1"], ["report", "i1"]):
        result = call(*arguments)
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert_unseen("kiwi@plum", result.output + result.stderr)


@pytest.mark.parametrize("password", PASSWORDS)
def test_loading_shows_none(password: str) -> None:
    for text in TEXTS.values():
        with pytest.raises(ExportToolsError) as caught:
            load_tables(text.format(password).replace("/db", "/absent/db"), [])  # no directory to make a file in
        assert_unseen(password, "".join(traceback.format_exception_only(caught.value)))


@pytest.mark.parametrize("password", ["kiwi@plum", "kiwi'plum", "kiwi plum%"], ids=["at", "quote", "percent"])
def test_no_file_holds_one(
    fresh_postgres_url: str, password: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    create_native(fresh_postgres_url, one_of_each())
    url = make_url(fresh_postgres_url).set(password=password).render_as_string(hide_password=False)
    store = ExportBundleStore(url)
    bundle = store.get_export_bundle("i1")
    assert bundle is not None
    write_bundle(bundle, tmp_path / "bundle")
    report = export_dataset(store, tmp_path / "dataset", progress=False)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"content_digest" in written
    said = repr(store) + repr(bundle) + str(bundle.source) + str(report) + caplog.text
    assert_unseen(password, said + written.decode("latin-1"))
