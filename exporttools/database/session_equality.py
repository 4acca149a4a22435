"""Makes a second PostgreSQL connection see what the first one sees, and proves it before a row is read.

An Engine may set up its connections by a ``connect`` event, SET ROLE, SET search_path or a setting that row-level security
reads. A second connection, which ADBC opens itself, has none of that. Here the first one's user, role, search path and
settings are read, given to the second for the length of its transaction, and read back. No rows of users come in here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
UNION ALL SELECT 'list of schemas', array_to_string(current_schemas(true), ', ')
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
    """The second connection cannot be made the first one's equal.

    Names what differs, and not the two values: a role, a schema or a setting may be a tenant's, and this is logged.
    """


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
        statement_of_changes = set_local({name.removeprefix("set "): wanted[name] for name in ordered})
        second(statement_of_changes)
        found = _state(second, statement)
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise SessionsDiffer(f"the {name.removeprefix('set ')} differs")
    return statement_of_changes


def set_local(settings: Mapping[str, str]) -> str:
    """The statement that gives settings these values until the transaction ends, in order.

    Examples
    --------
    >>> set_local({"app.tenant_id": "acme"})
    "SELECT set_config('app.tenant_id', 'acme', true)"
    """
    return f"SELECT {', '.join(f'set_config({_literal(n)}, {_literal(v)}, true)' for n, v in settings.items())}"


def _state(query: Query, statement: str) -> dict[str, str]:
    return {str(name): str(value) for name, value in query(statement)}


def _literal(text: str) -> str:
    """A string literal, whatever standard_conforming_strings says."""
    escaped = text.replace("'", "''")
    return f"'{escaped}'" if "\\" not in text else " E'" + escaped.replace("\\", "\\\\") + "'"
