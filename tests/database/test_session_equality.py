"""A second connection sees what the first one sees, or is not read from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import psycopg
import pytest

from exporttools.connections.urls import libpq_conninfo, parse_url
from exporttools.database.session_equality import SessionsDiffer, custom_settings, make_equal

Query = Callable[[str], Sequence[Sequence[Any]]]

POLICY = "CREATE TABLE t (n integer); CREATE POLICY p ON t USING (n = current_setting('app.tenant_id', true)::integer);"


@pytest.fixture
def first(fresh_postgres_url: str) -> Iterator[Query]:
    with psycopg.connect(libpq_conninfo(parse_url(fresh_postgres_url)), autocommit=True) as connection:

        def query(statement: str) -> Sequence[Sequence[Any]]:
            cursor = connection.execute(statement)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

        yield query


@pytest.fixture
def second(fresh_postgres_url: str) -> Iterator[Query]:
    """In a transaction: what is set there is local to it."""
    with closing(adbc.connect(libpq_conninfo(parse_url(fresh_postgres_url)), autocommit=True)) as connection:

        def query(statement: str) -> Sequence[Sequence[Any]]:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []

        query("BEGIN READ ONLY")
        yield query


def test_equal_sessions_need_no_change(first: Query, second: Query) -> None:
    assert make_equal(first, second, custom=[]) is None


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("search_path", "a, public"),
        ("search_path", r'"it' r's \ odd"'),
        ("row_security", "off"),
        ("TimeZone", "Asia/Kathmandu"),
        ("statement_timeout", "1234"),
        ("app.tenant_id", "acme"),
        ("app.tenant_id", ""),
        ("role", "reader"),
    ],
)
def test_what_the_first_was_set_to_the_second_is_given(first: Query, second: Query, setting: str, value: str) -> None:
    first("DROP ROLE IF EXISTS reader")
    first("CREATE ROLE reader")
    try:
        quoted = value.replace("'", "''")
        first(f"SELECT set_config('{setting}', '{quoted}', false)")
        make_equal(first, second, custom=["app.tenant_id"])
        shown = f"SELECT coalesce(current_setting('{setting}', true), '')"
        assert second(shown)[0][0] == first(shown)[0][0]
        assert second("SELECT current_user")[0][0] == first("SELECT current_user")[0][0]
    finally:
        second("ROLLBACK")
        first("RESET ROLE")
        first("DROP ROLE reader")


def test_what_was_given_ends_with_the_transaction(first: Query, second: Query) -> None:
    first("SET search_path = a")
    statement = make_equal(first, second, custom=[])
    assert statement == "SELECT set_config('search_path', 'a', true)"
    second("ROLLBACK")
    assert second("SELECT current_setting('search_path')")[0][0] == '"$user", public'


def test_a_temporary_table_makes_them_differ(first: Query, second: Query) -> None:
    first("CREATE TEMP TABLE runs (n integer)")
    with pytest.raises(SessionsDiffer, match=r"^the list of schemas differs$"):
        make_equal(first, second, custom=[])


def test_another_session_user_makes_them_differ(first: Query, second: Query) -> None:
    first("DROP ROLE IF EXISTS other")
    first("CREATE ROLE other")
    try:
        first("SET SESSION AUTHORIZATION other")
        with pytest.raises(SessionsDiffer, match=r"^the current user differs$"):
            make_equal(first, second, custom=[])
    finally:
        first("RESET SESSION AUTHORIZATION")
        first("DROP ROLE other")


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("SELECT 1", ()),
        (POLICY, ("app.tenant_id",)),
        (
            "CREATE VIEW v AS SELECT current_setting('app.a') AS a, Current_Setting ( 'app.b' , true) AS b",
            ("app.a", "app.b"),
        ),
        (
            "CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN current_setting('app.c'); END $$",
            ("app.c",),
        ),
        ("CREATE FUNCTION f() RETURNS text LANGUAGE sql RETURN current_setting('app.d')", ("app.d",)),
        ("CREATE VIEW v AS SELECT current_setting('app.''e')", ("app.'e",)),
        ("CREATE VIEW v AS SELECT current_setting('app.' || 'x')", None),
        ("CREATE FUNCTION f(n text) RETURNS text LANGUAGE sql AS $$ SELECT current_setting(n) $$", None),
    ],
)
def test_the_settings_that_code_in_the_database_reads(first: Query, code: str, names: tuple[str, ...] | None) -> None:
    first(code)
    assert custom_settings(first) == names
