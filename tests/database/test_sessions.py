"""PROMISES row 20: what an Engine's connections were set to holds for the bulk reader's connection too, or it is not used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import make_url

from exporttools import ExportBundleStore
from exporttools.database import trace_store as trace_store_module
from exporttools.database.readers import BulkReader
from tests.databases import run_sql
from tests.tenants import (
    STEPS,
    TABLES,
    Seen,
    all_refused,
    allow,
    engine_with,
    only_acme,
    role_on,
    schema_per_tenant,
    seen_by,
    shared_tables,
    url_of,
)

BY_SETTING = "tenant_id = current_setting('app.tenant_id', true)"

MakeEngine = Callable[[str, str], sa.Engine]


def row_security_by_a_setting(url: str, role: str) -> sa.Engine:
    shared_tables(url)
    allow(url, role, BY_SETTING)
    return engine_with(url_of(url, role), "SET app.tenant_id = 'acme'")


def row_security_by_a_setting_with_another_default(url: str, role: str) -> sa.Engine:
    shared_tables(url)
    allow(url, role, BY_SETTING)
    run_sql(url, f"ALTER ROLE {role} IN DATABASE {make_url(url).database} SET app.tenant_id = 'globex'")
    return engine_with(url_of(url, role), "SET app.tenant_id = 'acme'")


def row_security_by_a_setting_of_the_transaction(url: str, role: str) -> sa.Engine:
    shared_tables(url)
    allow(url, role, BY_SETTING)
    engine = sa.create_engine(url_of(url, role))

    @sa.event.listens_for(engine, "begin")
    def set_tenant(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SET LOCAL app.tenant_id = 'acme'")

    return engine


def a_lesser_role(url: str, role: str) -> sa.Engine:
    shared_tables(url)
    allow(url, role, "tenant_id = 'acme'")
    return engine_with(url_of(url), f"SET ROLE {role}")


def a_role_without_rights(url: str, role: str) -> sa.Engine:
    shared_tables(url)
    run_sql(url, f"GRANT SELECT ON incidents, runs, traces TO {role}")
    return engine_with(url_of(url), f"SET ROLE {role}")


def another_session_user(url: str, role: str) -> sa.Engine:
    shared_tables(url)
    allow(url, role, "tenant_id = 'acme'")
    return engine_with(url_of(url), f"SET SESSION AUTHORIZATION {role}")


def a_policy_on_the_session_user(url: str, role: str) -> sa.Engine:
    shared_tables(url)
    allow(url, role, f"tenant_id = CASE session_user WHEN '{role}' THEN 'globex' ELSE 'acme' END")
    return engine_with(url_of(url), f"SET ROLE {role}")


def a_search_path(url: str, role: str) -> sa.Engine:
    schema_per_tenant(url)
    run_sql(url, f"ALTER DATABASE {make_url(url).database} SET search_path = globex")
    return engine_with(url_of(url), "SET search_path = acme")


def a_schema_translate_map(url: str, role: str) -> sa.Engine:
    schema_per_tenant(url)
    return sa.create_engine(url_of(url), execution_options={"schema_translate_map": {None: "acme"}})


def a_schema_translate_map_away_from_tables_of_the_same_name(url: str, role: str) -> sa.Engine:
    schema_per_tenant(url, globex="public")
    return sa.create_engine(url_of(url), execution_options={"schema_translate_map": {None: "acme"}})


def a_temporary_table_in_front(url: str, role: str) -> sa.Engine:
    schema_per_tenant(url, globex="public")
    for table in set(TABLES) - {"trace_steps"}:
        run_sql(url, f"DROP TABLE {table}", f"ALTER TABLE acme.{table} SET SCHEMA public")
    return engine_with(url_of(url), "CREATE TEMPORARY TABLE trace_steps AS SELECT * FROM acme.trace_steps")


def row_security_off(url: str, role: str) -> sa.Engine:
    """The server then refuses what a policy would cut."""
    shared_tables(url)
    allow(url, role, "tenant_id = 'acme'")
    return engine_with(url_of(url, role), "SET row_security = off")


SESSIONS: dict[MakeEngine, Seen] = {
    row_security_by_a_setting: only_acme(),
    row_security_by_a_setting_with_another_default: only_acme(),
    row_security_by_a_setting_of_the_transaction: only_acme(),
    a_lesser_role: only_acme(),
    a_role_without_rights: all_refused(),
    another_session_user: only_acme(),
    a_policy_on_the_session_user: only_acme(),
    a_search_path: only_acme(),
    a_schema_translate_map: only_acme(),
    a_schema_translate_map_away_from_tables_of_the_same_name: only_acme(),
    a_temporary_table_in_front: only_acme(),
    row_security_off: all_refused(),
}


every_session = pytest.mark.parametrize(
    ("session", "truth"),
    [pytest.param(make, truth, id=make.__name__) for make, truth in SESSIONS.items()],
    indirect=["session"],
)


@pytest.fixture
def session(request: pytest.FixtureRequest, fresh_postgres_url: str) -> Iterator[sa.Engine]:
    """An Engine whose connections are set up, on a database with rows of two tenants."""
    with role_on(fresh_postgres_url) as role:
        engine = request.param(fresh_postgres_url, role)
        yield engine
        engine.dispose()


@every_session
def test_promise_20_rows_are_read_in_the_engines_session(
    session: sa.Engine, truth: Seen, tmp_path: Path, rows_only: None
) -> None:
    assert seen_by(ExportBundleStore(session), tmp_path / "dataset") == truth


@every_session
def test_promise_20_bulk_reads_are_in_the_engines_session(
    session: sa.Engine, truth: Seen, tmp_path: Path, bulk_wherever_possible: None
) -> None:
    assert seen_by(ExportBundleStore(session), tmp_path / "dataset") == truth


def test_promise_20_a_setting_may_change_from_read_to_read(
    fresh_postgres_url: str, bulk_wherever_possible: None
) -> None:
    """As where an Engine's event sets the tenant of a request: what one read was set to is not left to the next."""
    tenants = ["acme", "globex", "nobody", "acme"]
    current: list[str] = []
    shared_tables(fresh_postgres_url)
    with role_on(fresh_postgres_url) as role:
        allow(fresh_postgres_url, role, BY_SETTING)
        engine = sa.create_engine(url_of(fresh_postgres_url, role))

        @sa.event.listens_for(engine, "begin")
        def set_tenant(connection: sa.Connection) -> None:
            connection.exec_driver_sql(f"SET LOCAL app.tenant_id = '{current[-1]}'")

        store = ExportBundleStore(engine)
        seen = []
        for tenant in tenants:
            current.append(tenant)
            with store.scan_trace_steps(columns=["tenant_id"]) as reader:
                seen.append(reader.read_all()["tenant_id"].to_pylist())
        engine.dispose()
    assert seen == [["acme"] * STEPS, ["globex"] * STEPS, [], ["acme"] * STEPS]


@pytest.fixture
def rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every read is row by row, as where ADBC cannot join the snapshot."""

    @contextmanager
    def no_session(_reader: BulkReader, _connection: sa.Connection, _tenant: str | None) -> Iterator[None]:
        yield None

    monkeypatch.setattr(BulkReader, "session", no_session)


@pytest.fixture
def bulk_wherever_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short traces are read in bulk too."""
    monkeypatch.setattr(trace_store_module, "BULK_ROWS", 1)
