"""`rls_setting`: row-level security policies learn the tenant in every transaction, on both readers' connections."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import make_url

from exporttools import ConfigError, ExportBundleStore, SqlTraceStore, export_dataset, open_dataset, plan_export
from exporttools.database import readers, window_reader
from exporttools.database import trace_store as trace_store_module
from exporttools.database.opening import Database
from exporttools.database.readers import BulkReader, BulkSession, stream_rows
from exporttools.records.schema import Column
from exporttools.records.validity import Origin
from tests.databases import NOON, run_sql
from tests.tenants import TABLES, allow, role_on, shared_tables, url_of

SETTING = "app.tenant_id"
LONG = 5_000
"""How many steps each tenant's trace has: enough to be read in bulk, and in several fetches by rows."""

Use = Callable[[ExportBundleStore, Any], Any]


def steps_of(store: ExportBundleStore) -> list[Any]:
    with store.scan_trace_steps(columns=["tenant_id"]) as reader:
        return reader.read_all()["tenant_id"].to_pylist()


def bundle_of(store: ExportBundleStore) -> Any:
    found = store.get_export_bundle("i1")
    return found and (found.missing, [recorded.content_hash for recorded in found.steps])


def exported(store: ExportBundleStore, directory: Any) -> Any:
    plan = plan_export(store, directory)
    export_dataset(store, directory, progress=False)
    rows = open_dataset(directory)
    return plan.runs, {t: set(rows.to_arrow(t)["tenant_id"].to_pylist()) for t in rows.tables}


# Every kind of read, and what it returns of a tenant's rows.
READS: dict[str, tuple[Use, Callable[[str], Any]]] = {
    "get_incident": (lambda s, d: s.get_incident("i1").policy_name, lambda t: t),  # type: ignore[union-attr]
    "get_run_by_run_id": (lambda s, d: s.get_run_by_run_id("r1").goal, lambda t: t),  # type: ignore[union-attr]
    "get_trace_summary": (lambda s, d: s.get_trace_summary("r1").tenant_id, lambda t: t),  # type: ignore[union-attr]
    "get_trace_steps": (lambda s, d: [f.content_hash for f in s.get_trace_steps("t1")], lambda t: [t] * LONG),
    "list_incidents": (lambda s, d: [f.policy_name for f in s.list_incidents()], lambda t: [t]),
    "list_runs": (lambda s, d: [f.goal for f in s.list_runs()], lambda t: [t]),
    "list_traces": (lambda s, d: [f.tenant_id for f in s.list_traces()], lambda t: [t]),
    "scan_trace_steps": (lambda s, d: steps_of(s), lambda t: [t] * LONG),
    "load_trace_steps": (lambda s, d: s.load_trace_steps(columns=["tenant_id"]).fetchall(), lambda t: [(t,)] * LONG),
    "get_export_bundle": (lambda s, d: bundle_of(s), lambda t: ((), [t] * LONG)),
    "export": (exported, lambda t: (1, {table: {t} for table in TABLES})),
}


@pytest.fixture(scope="module")
def secured(postgres_server: str) -> Iterator[str]:
    """The URL of two tenants' rows for a role that sees, by policies that every role but a superuser is held to, one's."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE secured")
    url = make_url(postgres_server).set(database="secured").render_as_string(hide_password=False)
    shared_tables(url)
    run_sql(
        url,
        "INSERT INTO trace_steps SELECT s.tenant_id, trace_id, i, timestamp, step_type, tokens, cost_cents, duration_ms, status,"
        f" content_hash FROM trace_steps AS s, generate_series(3, {LONG - 1}) AS i WHERE step_index = 0",
        *(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY" for table in TABLES),
    )
    with role_on(url) as role:
        allow(url, role, f"tenant_id = current_setting('{SETTING}', true)")
        yield url_of(url, role)


@pytest.fixture(params=["its own connections", "an Engine"])
def database(request: pytest.FixtureRequest, secured: str) -> Iterator[Any]:
    if request.param == "its own connections":
        yield secured
        return
    engine = sa.create_engine(secured)
    yield engine
    engine.dispose()


@pytest.fixture(params=["bulk", "rows"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Long reads go through ADBC and must, or cannot."""
    if request.param == "rows":
        monkeypatch.setattr(BulkReader, "_joined", lambda *_: None)
    else:
        monkeypatch.setattr(trace_store_module, "stream_rows", None)
        monkeypatch.setattr(trace_store_module, "read_table", None)
        monkeypatch.setattr(window_reader, "stream_rows", None)
    return str(request.param)


@pytest.mark.parametrize("name", READS)
def test_every_read_is_within_the_policies(database: Any, reader: str, name: str, tmp_path: Any) -> None:
    use, truth = READS[name]
    shared = ExportBundleStore(database, rls_setting=SETTING)
    for number, tenant in enumerate(("acme", "globex", "acme")):
        assert use(shared.for_tenant(tenant), tmp_path / str(number)) == truth(tenant)
    alone = ExportBundleStore(database, rls_setting=SETTING, tenant_id="globex")
    assert use(alone, tmp_path / "alone") == truth("globex")
    assert left_on_the_connections(shared) == {""}


def left_on_the_connections(store: ExportBundleStore) -> set[str]:
    """What the setting is outside of any read, on the pool's connection and on the bulk reader's."""
    shown = f"SELECT coalesce(current_setting('{SETTING}', true), '')"
    with store._reader.database.engine.connect() as connection:
        values = [connection.exec_driver_sql(shown).scalar_one()]
    values += [second.rows(shown)[0][0] for second in store._reader.bulk._idle]
    return set(values)


def test_without_it_the_policies_let_nothing_through(secured: str) -> None:
    """So what the test above sees, it sees by the setting; and the role does not get around the policies."""
    store = ExportBundleStore(secured, tenant_id="acme")
    assert (len(store.list_runs()), store.get_incident("i1"), steps_of(store)) == (0, None, [])
    assert ExportBundleStore(secured, tenant_id="acme", rls_setting="app.other").get_incident("i1") is None
    assert SqlTraceStore(secured, rls_setting=SETTING).get_trace_summary("r1", "acme") is not None


def test_a_kept_connection_carries_no_tenant_to_the_next(secured: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The condition on tenant_id is taken away, so that the policies alone decide what is read."""
    monkeypatch.setattr("exporttools.database.scoped_reader.ScopedReader.is_tenant", lambda self, source, tenant: [])
    monkeypatch.setattr(trace_store_module, "stream_rows", None)  # there is no way but ADBC
    shared = ExportBundleStore(secured, rls_setting=SETTING)
    kept = []
    for tenant in ("acme", "globex", "nobody", "acme"):
        assert steps_of(shared.for_tenant(tenant)) == [tenant] * (LONG if tenant != "nobody" else 0)
        kept += [second.adbc for second in shared._reader.bulk._idle]
    assert len(kept) == 4
    assert len(set(kept)) == 1


@pytest.mark.parametrize("on_engine", [False, True])
def test_reads_of_two_tenants_in_one_snapshot(secured: str, on_engine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one stops between two fetches, and goes on after the other."""
    monkeypatch.setattr(readers, "ROWS_PER_FETCH", 1_000)
    engine = sa.create_engine(secured)
    shared = ExportBundleStore(engine if on_engine else secured, rls_setting=SETTING)
    acme, globex = shared.for_tenant("acme"), shared.for_tenant("globex")
    with shared.snapshot():
        with acme.scan_trace_steps(columns=["tenant_id"]) as bulk:
            assert [found.goal for found in globex.list_runs()] == ["globex"]
            assert bulk.read_all()["tenant_id"].to_pylist() == ["acme"] * LONG
        monkeypatch.setattr(BulkReader, "_joined", lambda *_: None)
        with acme.scan_trace_steps(columns=["tenant_id"]) as first, globex.scan_trace_steps() as second:
            found: dict[str, list[str]] = {"acme": [], "globex": []}
            for batches in zip(first, second, strict=True):
                for tenant, batch in zip(found, batches, strict=True):
                    found[tenant] += batch["tenant_id"].to_pylist()
                assert shared.list_runs(tenant_id="acme")[0].goal == "acme"
        assert found == {tenant: [tenant] * LONG for tenant in found}
        with acme.window_snapshot() as window:
            assert len(globex.list_incidents()) == 1
            [day] = window.tenant_days(None, *_day())
            counted = window.trace_steps(day, ["t1"])
            assert next(counted).num_rows > 0
            assert len(globex.list_incidents()) == 1
            assert sum(batch.num_rows for batch in counted) > 0
    engine.dispose()


def test_a_stream_that_goes_on_after_another_tenants_read(secured: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server holds each row against the policy as it is fetched, where it need not sort them first."""
    monkeypatch.setattr(readers, "ROWS_PER_FETCH", 1_000)
    database = Database(secured, rls_setting=SETTING)
    statement = sa.select(sa.column("tenant_id", sa.Text())).select_from(sa.table("trace_steps"))
    columns = [Column("tenant_id", "string", False, "")]
    with database.transaction() as connection:
        database.set_tenant(connection, "globex")
        found = []
        for batch in stream_rows(
            database, connection, statement, columns, read="steps", origin=Origin("trace_steps"), tenant="acme"
        ):
            found += batch["tenant_id"].to_pylist()
            database.set_tenant(connection, "globex")
    assert found == ["acme"] * LONG


def _day() -> tuple[dt.datetime, dt.datetime]:
    return NOON.replace(hour=0), NOON.replace(hour=23)


def test_a_call_that_names_a_tenant_is_within_the_policies_too(database: Any, reader: str, tmp_path: Any) -> None:
    store = ExportBundleStore(database, rls_setting=SETTING)
    with store.snapshot():
        for tenant in ("acme", "globex", "acme"):
            assert [found.goal for found in store.list_runs(tenant_id=tenant)] == [tenant]
            assert [found.policy_name for found in store.list_incidents(tenant_id=tenant)] == [tenant]
            assert len(store.get_trace_steps("t1", tenant)) == LONG
            with store.scan_trace_steps(tenant_id=tenant) as scanned:
                assert scanned.read_all().num_rows == LONG
    export_dataset(store, tmp_path / "fleet", tenant_id="acme", progress=False)
    assert open_dataset(tmp_path / "fleet").rows["trace_steps"] == LONG


def test_a_read_without_a_tenant_is_refused(secured: str, tmp_path: Any) -> None:
    """The policies would give no row, and nothing would say why."""
    store = ExportBundleStore(secured, rls_setting=SETTING)
    assert repr(store).endswith(" · no tenant, so each call names one · row-level security by app.tenant_id>")
    assert repr(store.for_tenant("acme")).endswith(" · tenant 'acme' · row-level security by app.tenant_id>")
    for read in (
        store.list_runs,
        store.list_incidents,
        store.list_traces,
        store.scan_trace_steps,
        lambda: store.get_incident("i1"),
        lambda: store.get_run_by_run_id("r1"),
        lambda: store.get_export_bundle("i1"),
        lambda: export_dataset(store, tmp_path / "fleet", progress=False),
    ):
        with pytest.raises(ConfigError) as caught:
            read()  # type: ignore[operator]
        assert str(caught.value) == (
            "with rls_setting='app.tenant_id', rows are read for one tenant; name it in the call where it takes tenant_id=, "
            "or read through store.for_tenant(...). To read all tenants, by a role that may, make a store without rls_setting"
        )


@pytest.mark.parametrize(
    "name", ["", "tenant_id", "role", "app.", ".app", "app.tenant-id", "app.x'; DROP", "app.x ", "app.x\n", 7, "ä.b"]
)
def test_what_is_not_a_custom_settings_name_is_refused(secured: str, name: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        ExportBundleStore(secured, rls_setting=name)
    assert str(caught.value).startswith("rls_setting is ")
    assert str(caught.value).endswith(
        "; expected the name of a setting that your policies read, with a prefix and a dot, such as 'app.tenant_id'"
    )


def test_sqlite_has_no_policies(tmp_path: Any) -> None:
    for kind in (ExportBundleStore, SqlTraceStore):
        with pytest.raises(ConfigError) as caught:
            kind(f"sqlite:///{tmp_path / 'x.sqlite'}", rls_setting=SETTING)
        assert str(caught.value) == (
            "rls_setting is 'app.tenant_id', but SQLite has no row-level security; leave it out, or name a PostgreSQL database"
        )


def test_a_tenant_of_any_text_is_set_as_it_is(fresh_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tenants = ["it's", "back\\slash", "100% :bind", "E'\\'", "a\nb", "💥", ""]
    shared_tables(fresh_postgres_url)
    insert = sa.text(
        "INSERT INTO trace_steps SELECT :tenant, 't1', 0, timestamp, step_type, tokens, cost_cents, duration_ms, status, :tenant"
        " FROM trace_steps WHERE tenant_id = 'acme' AND step_index = 0"
    )
    engine = sa.create_engine(url_of(fresh_postgres_url))
    with engine.begin() as connection:
        for tenant in tenants:
            connection.execute(insert, {"tenant": tenant})
    engine.dispose()
    monkeypatch.setattr(trace_store_module, "stream_rows", None)
    with role_on(fresh_postgres_url) as role:
        allow(fresh_postgres_url, role, f"tenant_id = current_setting('{SETTING}', true)")
        store = ExportBundleStore(url_of(fresh_postgres_url, role), rls_setting=SETTING)
        for tenant in tenants:
            assert steps_of(store.for_tenant(tenant)) == [tenant]
        with closing(store.scan_trace_steps(tenant_id="acme")) as abandoned:
            assert abandoned.read_next_batch().num_rows > 0
        store._reader.database.engine.dispose()


def test_the_session_of_a_bulk_read_knows_its_tenant(secured: str) -> None:
    """Rows are counted on the first connection, which another tenant's read may have used meanwhile."""
    engine = sa.create_engine(secured)
    shared = ExportBundleStore(engine, rls_setting=SETTING)
    acme = shared.for_tenant("acme")
    _, batches = acme.trace_store.step_batches(  # type: ignore[attr-defined]
        tenant_id=None, since=None, until=None, agent_id=None, run_id=None, columns=["tenant_id"]
    )
    assert sum(batch.num_rows for batch in batches) == LONG
    with acme.window_snapshot() as window:
        assert isinstance(window._bulk, BulkSession)
        [day] = window.tenant_days(None, *_day())
        shared.list_runs(tenant_id="globex")
        assert sum(batch.num_rows for batch in window.trace_steps(day, ["t1"])) == LONG
    engine.dispose()
