"""Makes a second PostgreSQL connection see what the first one sees, and proves it before a row is read.

An Engine may set up its connections by a ``connect`` event, SET ROLE, SET search_path or a setting that row-level security
reads. A second connection, which ADBC opens itself, has none of that. Here the first one's user, role, search path and
settings are read, given to the second for the length of its transaction, and read back. No rows of users come in here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from exporttools.text.inert import one_line

Query = Callable[[str], Sequence[Sequence[Any]]]
"""Runs a statement and returns all its rows."""

# What each driver sets for itself, and what is the transaction's own. No SELECT of ours depends on them.
_NOT_COMPARED = (
    "application_name", "client_encoding", "transaction_deferrable", "transaction_isolation", "transaction_read_only",
)  # fmt: skip

# Who reads, in which schemas (a temporary table makes a schema of its session's own), and every setting that a session, its
# client, its role or its database was given. PostgreSQL lists neither `role` nor custom settings such as `app.tenant_id`.
_STATE = """
SELECT 'session user', session_user::text
UNION ALL SELECT 'current user', current_user::text
UNION ALL SELECT 'schemas', array_to_string(current_schemas(true), ', ')
UNION ALL SELECT 'set ' || name, coalesce(current_setting(name, true), '') FROM unnest(ARRAY[{named}]) AS name
UNION ALL SELECT 'set ' || name, setting FROM pg_settings
 WHERE source NOT IN ('default', 'environment variable', 'configuration file', 'command line', 'global', 'override')
 AND context <> 'internal' AND name NOT IN ({not_compared})
"""

# Functions with an SQL body have no source text of their own.
_CODE = """
SELECT pg_get_expr(polqual, polrelid) FROM pg_policy WHERE polqual IS NOT NULL
UNION ALL SELECT pg_get_viewdef(c.oid) FROM pg_class AS c WHERE relkind IN ('v', 'm') AND relnamespace NOT IN
 ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
UNION ALL SELECT pg_get_functiondef(p.oid) FROM pg_proc AS p WHERE prokind IN ('f', 'p') AND pronamespace NOT IN
 ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
 AND (prosrc ILIKE '%current_setting%' OR prosrc = '')
"""

_READ = re.compile(r"current_setting\s*\(", re.IGNORECASE)
_READ_BY_NAME = re.compile(r"current_setting\s*\(\s*'((?:[^']|'')+)'(?:::text)?\s*[,)]", re.IGNORECASE)


def custom_settings(query: Query) -> tuple[str, ...] | None:
    """The settings that the database's policies, views and functions read by name.

    PostgreSQL lists no custom settings, so their names are taken from the code that reads them.

    Returns
    -------
    tuple of str or None
        None if some code computes the name of the setting it reads: no list is complete then.
    """
    names: set[str] = set()
    for (code,) in query(_CODE):
        named = _READ_BY_NAME.findall(code or "")
        if len(named) < len(_READ.findall(code or "")):
            return None
        names |= {name.replace("''", "'") for name in named}
    return tuple(sorted(names))


class SessionsDiffer(Exception):
    """The second connection cannot be made the first one's equal; says what differs."""


def make_equal(first: Query, second: Query, *, custom: Sequence[str]) -> str | None:
    """Give the second connection's transaction what the first one's session has, and prove it.

    Parameters
    ----------
    first, second : callable
        Queries on the two connections, each in a transaction.
    custom : sequence of str
        See :func:`custom_settings`.

    Returns
    -------
    str or None
        The statement that made them equal, or None if they were.

    Raises
    ------
    SessionsDiffer
        Something still differs.
    Exception
        The second driver's error, if it may not change a setting.
    """
    statement = _STATE.format(
        named=", ".join(map(_literal, ["role", *custom])), not_compared=", ".join(map(_literal, _NOT_COMPARED))
    )
    wanted, found = _state(first, statement), _state(second, statement)
    settings = [name for name in wanted if name.startswith("set ") and wanted[name] != found.get(name)]
    statement_of_changes = None
    if settings:
        # The role comes last: a lesser one may not set what its session's user may.
        ordered = sorted(settings, key=lambda name: name == "set role")
        changes = (
            f"set_config({_literal(name.removeprefix('set '))}, {_literal(wanted[name])}, true)" for name in ordered
        )
        statement_of_changes = f"SELECT {', '.join(changes)}"
        second(statement_of_changes)
        found = _state(second, statement)
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise SessionsDiffer(f"{name.removeprefix('set ')} is {_shown(name, found)}, not {_shown(name, wanted)}")
    return statement_of_changes


def _state(query: Query, statement: str) -> dict[str, str]:
    return {str(name): str(value) for name, value in query(statement)}


def _shown(name: str, state: dict[str, str]) -> str:
    """A value for the log. A custom setting's is not shown: it may be a tenant or a secret."""
    if name not in state:
        return "not set"
    return "another value" if "." in name else one_line(repr(state[name]), 100)


def _literal(text: str) -> str:
    """A string literal, whatever standard_conforming_strings says."""
    escaped = text.replace("'", "''")
    return f"'{escaped}'" if "\\" not in text else " E'" + escaped.replace("\\", "\\\\") + "'"
