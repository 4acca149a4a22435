"""Two tenants whose ids are the same, in shared tables or in a schema each, and what every kind of read sees of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import make_url

from exporttools import ExportBundleStore, ExportToolsError, export_dataset, open_dataset
from tests.databases import create_native, incident, run, run_sql, step, trace

TABLES = ("incidents", "runs", "traces", "trace_steps")
STEPS = 3
COST_CENTS = {"acme": 0.5, "globex": 7.0}

Seen = dict[str, Any]


def rows_of(tenant: str, *, tenant_id: str) -> dict[str, list[dict[str, Any]]]:
    """An incident, its run, trace and steps; only their content says which tenant's they are."""
    return {
        "incidents": [incident(tenant_id=tenant_id, policy_name=tenant)],
        "runs": [run(tenant_id=tenant_id, goal=tenant)],
        "traces": [trace(tenant_id=tenant_id)],
        "trace_steps": [
            step(i, tenant_id=tenant_id, cost_cents=COST_CENTS[tenant], content_hash=tenant) for i in range(STEPS)
        ],
    }


def shared_tables(url: str) -> None:
    """Both tenants in the same tables, told apart by tenant_id."""
    acme, globex = (rows_of(tenant, tenant_id=tenant) for tenant in ("acme", "globex"))
    create_native(url, {table: acme[table] + globex[table] for table in TABLES})


def schema_per_tenant(url: str, *, globex: str = "globex") -> None:
    """A schema for each tenant, with the same table names and the same tenant_id."""
    for tenant, schema in (("acme", "acme"), ("globex", globex)):
        create_native(url, rows_of(tenant, tenant_id="acme"))
        if schema != "public":
            run_sql(url, f"CREATE SCHEMA {schema}", *(f"ALTER TABLE {table} SET SCHEMA {schema}" for table in TABLES))


def engine_with(url: str, *on_connect: str, **options: Any) -> sa.Engine:
    """An Engine that runs statements at every new connection, as SQLAlchemy's documentation advises."""
    engine = sa.create_engine(url, **options)

    @sa.event.listens_for(engine, "connect")
    def set_up(driver: Any, _record: Any) -> None:
        driver.autocommit = True  # else the first rollback takes a SET back
        for statement in on_connect:
            driver.execute(statement)
        driver.autocommit = False

    return engine


def url_of(url: str, username: str | None = None) -> str:
    """The URL with the driver of this package, and with another user."""
    found = make_url(url).set(drivername="postgresql+psycopg")
    return (found if username is None else found.set(username=username)).render_as_string(hide_password=False)


@contextmanager
def role_on(url: str, name: str = "reader") -> Iterator[str]:
    """A role that owns no tables; dropped afterwards."""
    role = f"{name}_{make_url(url).database}"
    run_sql(url, f"CREATE ROLE {role} LOGIN")
    try:
        yield role
    finally:
        run_sql(url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def allow(url: str, role: str, policy: str) -> None:
    """Let a role read the tables, within a row-level policy."""
    run_sql(
        url,
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
        *(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY" for table in TABLES),
        *(f"CREATE POLICY scope ON {table} TO {role} USING ({policy})" for table in TABLES),
    )


def seen_by(store: ExportBundleStore, destination: Path) -> Seen:
    """What each kind of read returns, or that it was refused."""

    def dataset() -> Any:
        export_dataset(store, destination, progress=False)
        tables = open_dataset(destination)
        return {
            "runs": tables.to_arrow("runs")["goal"].to_pylist(),
            "steps": _plain_steps(tables.to_arrow("trace_steps")),
        }

    def bundle() -> Any:
        found = store.get_export_bundle("i1")
        assert found is not None
        return {
            "incident": found.incident and found.incident.policy_name,
            "run": found.run and found.run.goal,
            "steps": [recorded.content_hash for recorded in found.steps],
            "missing": list(found.missing),
        }

    def scan() -> Any:
        with store.scan_trace_steps() as reader:
            return _plain_steps(reader.read_all())

    return {
        "get_trace_steps": _outcome(
            lambda: [recorded.content_hash for recorded in store.get_trace_steps("t1", tenant_id="acme")]
        ),
        "scan_trace_steps": _outcome(scan),
        "get_export_bundle": _outcome(bundle),
        "export_dataset": _outcome(dataset),
    }


def only_acme() -> Seen:
    """What each kind of read has to return where the session may see only acme's rows."""
    steps = [("acme", "t1", index, COST_CENTS["acme"], "acme") for index in range(STEPS)]
    hashes = ["acme"] * STEPS
    return {
        "get_trace_steps": hashes,
        "scan_trace_steps": steps,
        "get_export_bundle": {"incident": "acme", "run": "acme", "steps": hashes, "missing": []},
        "export_dataset": {"runs": ["acme"], "steps": steps},
    }


def all_refused() -> Seen:
    """What each kind of read has to return where the session may not read the tables."""
    return dict.fromkeys(only_acme(), "refused")


def _outcome(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (ExportToolsError, pa.ArrowException, OSError):
        return "refused"


def _plain_steps(table: pa.Table) -> list[tuple[Any, ...]]:
    columns = ("tenant_id", "trace_id", "step_index", "cost_cents", "content_hash")
    return sorted(zip(*(table[name].to_pylist() for name in columns), strict=True))
