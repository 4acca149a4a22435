"""Where the canary test reads: two tenants in one database, and sessions that may see only one of them.

A session is set up by an Engine's events, which stores are given, or by what the server holds for a role, for a URL cannot
say it. Whoever connects without that sees the canary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from exporttools import ExportBundleStore, export_dataset
from tests.canaries import OURS, THEIRS, WORD, create, our_rows, their_rows
from tests.databases import run_sql
from tests.pgbouncer import pgbouncer
from tests.tenants import TABLES, allow, engine_with, role_on, url_of

Database = str | sa.Engine


@dataclass(frozen=True)
class World:
    """A database of both tenants, and how it is read.

    Attributes
    ----------
    database : str or Engine
        What stores are given.
    url : str
        What commands are given.
    owner_url : str
        Sees all rows, where nothing else says so.
    tenant : str or None
        The tenant that readers name. None where they name none, and the database alone keeps the other one's rows back.
    fleet : Path
        A dataset of all rows that the database shows.
    reads_in_bulk : bool or None
        Whether long reads are in bulk, or refused to be; None where there is no such thing.
    """

    database: Database
    url: str
    owner_url: str
    tenant: str | None
    fleet: Path
    reads_in_bulk: bool | None

    def store(self, tenant_id: str | None) -> ExportBundleStore:
        return ExportBundleStore(self.database, tenant_id=tenant_id)


Session = Callable[[str], AbstractContextManager[tuple[Database, str]]]
"""Fills an empty database whose owner's URL is given, and yields what stores and commands are given."""


@contextmanager
def both_tenants(url: str) -> Iterator[tuple[Database, str]]:
    create(url, our_rows(), their_rows(), their_rows(suffix=f"-{WORD}"))
    yield url, url


@contextmanager
def row_security(url: str) -> Iterator[tuple[Database, str]]:
    with role_limited_by_a_setting(url) as reader:
        yield engine_with(url_of(url), f"SET ROLE {reader}", f"SET app.tenant_id = '{OURS}'"), url_of(url, reader)


@contextmanager
def role_switch(url: str) -> Iterator[tuple[Database, str]]:
    """Their policies let the role that connects see everything, and the one it becomes our rows only."""
    _create_with_owners(url)
    with role_on(url, "lesser") as lesser, role_on(url) as login:
        allow(url, login, "true")
        run_sql(url, *(f"CREATE POLICY ours ON {table} TO {lesser} USING (owner = '{OURS}')" for table in TABLES))
        run_sql(url, f"GRANT {lesser} TO {login}", f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {lesser}")
        run_sql(url, f"ALTER ROLE {login} SET role = {lesser}")
        yield engine_with(url_of(url), f"SET ROLE {lesser}"), url_of(url, login)


@contextmanager
def session_authorization(url: str) -> Iterator[tuple[Database, str]]:
    """No setting makes a second connection's session another user's."""
    with role_limited_by_a_setting(url) as reader:
        switched = f"SET SESSION AUTHORIZATION {reader}", f"SET app.tenant_id = '{OURS}'"
        yield engine_with(url_of(url), *switched), url_of(url, reader)


@contextmanager
def search_path(url: str) -> Iterator[tuple[Database, str]]:
    with schema_for_each_tenant(url) as reader:
        yield engine_with(url_of(url), "SET search_path = ours"), url_of(url, reader)


@contextmanager
def schema_translate_map(url: str) -> Iterator[tuple[Database, str]]:
    with schema_for_each_tenant(url) as reader:
        options = {"schema_translate_map": {None: "ours"}}
        yield sa.create_engine(url_of(url), execution_options=options), url_of(url, reader)


@contextmanager
def behind_pgbouncer(url: str) -> Iterator[tuple[Database, str]]:
    with role_limited_by_a_setting(url) as reader, pgbouncer(url, reader) as through:
        run_sql(url, f"ALTER ROLE {reader} SET app.tenant_id = '{OURS}'")
        yield through, through


@contextmanager
def set_in_each_transaction_behind_pgbouncer(url: str) -> Iterator[tuple[Database, str]]:
    """What a session is set to would be the next client's behind a pooler; what a transaction is set to ends with it."""
    with role_limited_by_a_setting(url) as reader, pgbouncer(url, "postgres", reader) as through:
        engine = sa.create_engine(through, connect_args={"prepare_threshold": None})

        @sa.event.listens_for(engine, "begin")
        def set_tenant(connection: sa.Connection) -> None:
            connection.exec_driver_sql(f"SET LOCAL ROLE {reader}")
            connection.exec_driver_sql(f"SET LOCAL app.tenant_id = '{OURS}'")

        yield engine, url_of(through, reader)


@contextmanager
def role_limited_by_a_setting(url: str) -> Iterator[str]:
    """Create rows of both tenants, and a role that sees those of the tenant it is set to, which is ours where it connects."""
    _create_with_owners(url)
    with role_on(url) as reader:
        allow(url, reader, "owner = current_setting('app.tenant_id', true)")
        run_sql(url, f"ALTER ROLE {reader} SET app.tenant_id = '{OURS}'")
        yield reader


@contextmanager
def schema_for_each_tenant(url: str) -> Iterator[str]:
    """Create each tenant's rows in a schema of its own, theirs as the default, and a role for which ours is."""
    theirs = their_rows(tenant_id=OURS), their_rows(tenant_id=OURS, suffix=f"-{WORD}")
    for schema, rows in (("ours", [our_rows()]), ("theirs", theirs)):
        create(url, *rows)
        run_sql(url, f"CREATE SCHEMA {schema}", *(f"ALTER TABLE {table} SET SCHEMA {schema}" for table in TABLES))
    database = sa.make_url(url).database
    with role_on(url) as reader:
        run_sql(
            url,
            f"ALTER DATABASE {database} SET search_path = theirs",
            f"ALTER ROLE {reader} IN DATABASE {database} SET search_path = ours",
            *(f"GRANT USAGE ON SCHEMA {schema} TO {reader}" for schema in ("ours", "theirs")),
            *(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {reader}" for schema in ("ours", "theirs")),
        )
        yield reader


def _create_with_owners(url: str) -> None:
    """Create rows whose owner is in a column of its own: some of theirs have our tenant_id, so that naming it does not help."""
    unlike = their_rows(suffix=f"-{WORD}", tenant_id=OURS)
    unlike["trace_steps"] += [
        row | {"step_index": row["step_index"] + 10_000} for row in their_rows(tenant_id=OURS)["trace_steps"]
    ]
    create(url, our_rows(), their_rows(), unlike)
    for table in TABLES:
        whose = f"CASE WHEN strpos({table}::text, '{WORD}') > 0 THEN '{THEIRS}' ELSE '{OURS}' END"
        run_sql(url, f"ALTER TABLE {table} ADD COLUMN owner text", f"UPDATE {table} SET owner = {whose}")


WORLDS: dict[str, tuple[Session, bool | None]] = {
    "sqlite": (both_tenants, None),
    "postgresql": (both_tenants, True),
    "row_security": (row_security, True),
    "role_switch": (role_switch, True),
    "session_authorization": (session_authorization, False),
    "search_path": (search_path, True),
    "schema_translate_map": (schema_translate_map, True),
    "pgbouncer": (behind_pgbouncer, True),
    "pgbouncer_transactions": (set_in_each_transaction_behind_pgbouncer, True),
}
"""How each world is set up, and whether long reads in it are in bulk."""

PLAIN = {name: pytest.param((name, OURS), id=name) for name in ("sqlite", "postgresql")}
"""Nothing but the tenant that readers name keeps theirs from them."""

SPECIAL = [
    pytest.param(
        (name, tenant),
        id=name if tenant is None else f"{name}, {tenant}",
        marks=[] if (name, tenant) == ("row_security", None) else pytest.mark.slow,
    )
    for name in WORLDS
    if name not in PLAIN
    for tenant in (None, OURS)
]
"""The database keeps theirs from readers, who name no tenant, or ours."""

EVERY_WORLD = [*PLAIN.values(), *SPECIAL]


@contextmanager
def make_world(name: str, url: str, tenant: str | None, directory: Path) -> Iterator[World]:
    """Set up a world in an empty database, and export what it shows."""
    session, reads_in_bulk = WORLDS[name]
    with session(url) as (database, command_url):
        fleet = directory / "fleet"
        try:
            export_dataset(ExportBundleStore(database), fleet, progress=False)
            yield World(database, command_url, url, tenant, fleet, reads_in_bulk)
        finally:
            if isinstance(database, sa.Engine):
                database.dispose()
