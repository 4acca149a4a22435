"""The ways to name a database, and the messages for anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url

from exporttools import ConfigError, ExportBundleStore
from exporttools.connections.urls import ACCEPTED, libpq_conninfo, parse_url, resolved, safe_label

NEITHER = f"database is neither a URL nor the path of a file (not shown: it may hold a password); expected {ACCEPTED}"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", NEITHER),
        ("nonsense", NEITHER),
        ("postgresql:/host/db", NEITHER),
        ("root:secret@host", NEITHER),
        ("/data/tenant=acme/agents.sqlite", NEITHER),
        ("secret://me@host/db", f"the URL's dialect is not supported; expected {ACCEPTED}"),
        ("postgresql+secret://me@host/db", "the URL's driver is not supported; use postgresql:// (psycopg 3)"),
        (
            "sqlite://me:secret@host/db",
            "an SQLite URL has three slashes before its path: sqlite:///path/to/file.sqlite",
        ),
        (
            "postgresql://me@host/db?password=x&secret=y",
            "the URL has an option that libpq does not know (not shown: it may be part of a password); see libpq's "
            "parameter key words, and write & in a password as %26",
        ),
        (
            "env:postgresql://me:secret@host/db",
            "env: is not followed by a variable's name, such as env:AGENTS_DB (not shown: it may hold a password)",
        ),
        ("mysql://root:secret@host/db", f"the dialect 'mysql' is not supported; expected {ACCEPTED}"),
        (
            "postgresql+psycopg2://me:secret@host/db",
            "the driver 'psycopg2' is not supported; use postgresql:// (psycopg 3)",
        ),
        (
            "postgresql://me:secret@host:port/db",
            "the URL that starts with postgresql:// cannot be parsed; in a user name, a password and an option "
            f"write @ as %40, ? as %3F and = as %3D; expected {ACCEPTED}",
        ),
        (
            "postgresql://me:secret@host/db?options=-c%20x",
            "the URL has options=..., which connection poolers refuse; set defaults for the role on the server, or use "
            "statement_timeout=",
        ),
        (
            "sqlite://",
            "an in-memory SQLite database opened here would be empty; pass the Engine that holds it, or a file",
        ),
        (
            "sqlite:///x.db?mode=rw",
            "options in an SQLite URL are not accepted: the file is always opened read-only; give its plain path",
        ),
        (7, f"database is of type int; expected {ACCEPTED}"),
        (
            "env:EXPORTTOOLS_NOT_SET",
            "the environment variable 'EXPORTTOOLS_NOT_SET' is not set; set it to a database URL",
        ),
    ],
)
def test_anything_else_is_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ExportBundleStore(url)
    assert str(caught.value) == message
    assert "secret" not in str(caught.value)


def test_a_variable_or_a_function_names_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTS_DB", "postgresql://reader@db.internal/agents")
    assert resolved("env:AGENTS_DB") == "postgresql://reader@db.internal/agents"
    assert resolved(lambda: "agents.sqlite") == "agents.sqlite"
    assert resolved("agents.sqlite") == "agents.sqlite"


@pytest.mark.parametrize(
    ("name", "drivername", "database"),
    [
        ("postgres://h/agents", "postgresql+psycopg", "agents"),
        ("postgresql+psycopg://h/agents", "postgresql+psycopg", "agents"),
        ("sqlite:///agents.sqlite", "sqlite+pysqlite", "agents.sqlite"),
        ("agents.db", "sqlite+pysqlite", "agents.db"),
        (Path("agents"), "sqlite+pysqlite", "agents"),
        (make_url("postgresql://h/agents"), "postgresql+psycopg", "agents"),
    ],
)
def test_the_driver_is_ours(name: str | Path, drivername: str, database: str) -> None:
    url = parse_url(name)
    assert (url.drivername, url.database) == (drivername, database)


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("postgresql://me:secret@db.internal:5433/agents", "postgresql://db.internal:5433/agents"),
        ("postgresql://me:secret@/agents?host=/run/pg", "postgresql:///run/pg/agents"),
        ("postgresql://me:secret@/agents?host=a&host=b", "postgresql://a,b/agents"),
        ("postgresql:///agents", "postgresql://localhost/agents"),
        ("sqlite:////data/agents.sqlite", "sqlite:////data/agents.sqlite"),
        ("sqlite:////absent/day=1/agents.sqlite", "sqlite:///***"),
        ("postgresql://me:secret@host/d%40b", "postgresql://host/***"),
    ],
)
def test_a_label_holds_neither_user_nor_password(url: str, label: str) -> None:
    assert safe_label(parse_url(url)) == label


def test_an_existing_file_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "day=1" / "a@b:c"
    path.parent.mkdir()
    path.touch()
    assert safe_label(parse_url(str(path))) == f"sqlite:///{path}"


def test_the_connection_string_is_one_that_libpq_reads() -> None:
    url = parse_url("postgresql://me:s%40cret@db.internal/agents")
    assert libpq_conninfo(url) == "postgresql://me:s%40cret@db.internal/agents"
