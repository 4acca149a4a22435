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

Query = Callable[[str], Sequence[tuple[Any, ...]]]
"""Runs a statement and returns all its rows."""

# What each driver sets for itself and no SELECT of ours depends on, and what is the transaction's own.
_OWN_SETTINGS = (
    "application_name", "client_encoding", "transaction_deferrable", "transaction_isolation", "transaction_read_only",
)  # fmt: skip

# Settings whose source is neither the server's default nor its configuration: what a session, its client, its role or its
# database was given. `role` and custom settings (`app.tenant_id`) are in no such list (guc.c, GUC_NO_SHOW_ALL).
_STATE = """
SELECT 'session_user', session_user::text
UNION ALL SELECT 'current_user', current_user::text
UNION ALL SELECT 'current schemas', array_to_string(current_schemas(true), ',')
UNION ALL SELECT 'table ' || name, to_regclass(name)::oid::text FROM unnest(ARRAY[{tables}]::text[]) AS name
UNION ALL SELECT 'set ' || name, current_setting(name, true) FROM unnest(ARRAY['role', {custom}]::text[]) AS name
UNION ALL SELECT 'set ' || name, setting FROM pg_settings
WHERE source IN ('session', 'client', 'user', 'database', 'database user', 'interactive') AND context <> 'internal'
AND name NOT IN ({own})
"""

_CODE = """
SELECT pg_get_expr(polqual, polrelid) FROM pg_policy WHERE polqual IS NOT NULL
UNION ALL SELECT prosrc FROM pg_proc WHERE prosrc LIKE '%current_setting%' AND pronamespace NOT IN
 ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
UNION ALL SELECT definition FROM pg_views WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
 AND definition LIKE '%current_setting%'
"""
_NAMED = re.compile(r"current_setting\s*\(\s*'((?:[^']|'')+)'(?:::text)?\s*[,)]", re.IGNORECASE)
_READ = re.compile(r"current_setting\s*\(", re.IGNORECASE)


def custom_settings(query: Query) -> tuple[str, ...] | None:
    """The custom settings that the database's policies, functions and views read.

    PostgreSQL lists no custom settings, so their names are taken from the code that reads them.

    Returns
    -------
    tuple of str or None
        None: some code computes the name of the setting it reads, so that no list is complete.
    """
    names: set[str] = set()
    for (code,) in query(_CODE):
        named = _NAMED.findall(code or "")
        if len(named) < len(_READ.findall(code or "")):
            return None
        names |= {name.replace("''", "'") for name in named}
    return tuple(sorted(names))


def make_equal(first: Query, second: Query, *, tables: Sequence[str], custom: Sequence[str]) -> str | None:
    """Give the second connection's transaction what the first one's session has, and compare.

    Parameters
    ----------
    first, second : callable
        Each in a transaction of its connection.
    tables : sequence of str
        The tables that will be read; each must be the same table for both.
    custom : sequence of str
        See :func:`custom_settings`.

    Returns
    -------
    str or None
        What differs, in words; None: they are equal.

    Raises
    ------
    Exception
        The driver's, where the second connection may not change a setting. The caller gives it up.
    """
    state = _STATE.format(
        tables=", ".join(map(_literal, tables)) or "NULL",
        custom=", ".join(map(_literal, custom)) or "NULL",
        own=", ".join(map(_literal, _OWN_SETTINGS)),
    )
    wanted, found = dict(first(state)), dict(second(state))
    names = [name for name in wanted.keys() | found.keys() if name is not None]
    differing = sorted(name.removeprefix("set ") for name in names if name.startswith("set ") and wanted.get(name) != found.get(name))
    if differing:
        # The role comes last: a lesser one may not change what its session's user may.
        for name in sorted(differing, key=lambda name: name == "role"):
            value = wanted.get(f"set {name}")
            if value is None and f"set {name}" not in wanted:
                return f"{name} is set on the second connection alone"
            second(f"SELECT set_config({_literal(name)}, {_literal(value or '')}, true)")
        found = dict(second(state))
    for name in sorted(names):
        if wanted.get(name) != found.get(name) and not (wanted.get(name) is None and found.get(name) == ""):
            return f"{name.removeprefix('set ')} is {_shown(name, found)}, not {_shown(name, wanted)}"
    return None


def _shown(name: str, state: dict[str, str | None]) -> str:
    """A value for the log, but never a custom setting's: it may be a tenant or a secret."""
    return "another value" if "." in name else one_line(repr(state.get(name)), 100)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'" if "\\" not in text else "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
