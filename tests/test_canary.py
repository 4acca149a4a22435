"""Promise 10: no row of another tenant, anywhere. Every command and every public name, in every world of :mod:`tests.worlds`.

What is not in a table below makes a test fail: a new command, name or method has to be added. That the canary would be
seen is shown by the same calls within its own tenant, and by what lies in each database.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from matplotlib import pyplot as plt
from typer.main import get_command

import exporttools
from exporttools import Dataset, ExportBundleStore, SqlTraceStore, analysis, plots, report
from exporttools.cli import app
from exporttools.database.readers import BulkSession
from exporttools.records.validity import Origin
from exporttools.report.notebook import run_notebook
from tests.canaries import LONG, OURS, RUNS, STEPS, THEIRS, WORD, marked_files, shown, tells
from tests.cli.invoking import call
from tests.databases import run_sql, stored
from tests.tenants import TABLES
from tests.worlds import PLAIN, World, make_world

et = exporttools


in_sqlite = pytest.mark.parametrize("world", [PLAIN["sqlite"]], indirect=True)
in_plain_worlds = pytest.mark.parametrize("world", PLAIN.values(), indirect=True)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Work in an empty directory, and log everything."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    caplog.set_level(logging.DEBUG)
    yield
    plt.close("all")


# Commands


def option(tenant: str | None) -> list[str]:
    return [] if tenant is None else ["-t", tenant]


COMMANDS: dict[str, list[tuple[str, ...]]] = {
    "incidents": [("incidents",), ("incidents", "-f", "json"), ("incidents", "-f", "csv"), ("incidents", "-n", "0")],
    "show": [("show", "i1"), ("show", "r1", "-f", "json"), ("show", "i1", "-f", "csv"), ("show", "nobody")],
    "cost": [
        ("cost", "--by", "agent_id,step_type,model", "-f", "json"),
        ("cost", "--by", "tenant_id", "--every", "1d"),
        ("cost", "--by", "run_id", "-f", "csv"),
        ("cost", "--by", "termination_reason,goal"),
        ("cost", "--as-model", "o3"),
    ],
    "anomalies": [
        ("anomalies", "--false-alarms", "1", "-f", "json"),
        ("anomalies", "--each", "step", "--by", "tenant_id,name", "--false-alarms", "1", "-f", "csv"),
    ],
    "compare": [("compare", "r1", "r2"), ("compare", "i1", "r2", "-f", "json"), ("compare", "r1", "r1", "-f", "csv")],
    "bundle": [("bundle", "i1"), ("bundle", "r2", "--zip", "-o", "two.zip")],
    "export": [
        ("export", "own", "--dry-run", "-f", "json"),
        ("export", "own"),
        ("export", "own", "-f", "json"),
    ],
    "dataset": [
        ("dataset", "{fleet}"),
        ("dataset", "{fleet}", "-f", "json"),
        ("dataset", "{fleet}", "--sql", "from ledger", "-f", "json"),
        *(
            ("dataset", "{fleet}", "-f", "csv", "--sql", f"from {table}")
            for table in ("incidents", "runs", "traces", "trace_steps")
        ),
        ("dataset", "{fleet}", "--sql", "from nothing"),
        ("dataset", "{fleet}", "--verify"),
        ("dataset", "{fleet}", "--compact", "7d"),
    ],
    "lab": [("lab", "--directory", "notebooks")],
    "report": [("report", "--until", "2026-10-05")],  # with an incident: below
}
# Every other call is answered.
REFUSED = {("dataset", "{fleet}", "--sql", "from nothing"), ("cost", "--as-model", "o3")}
REFUSED_WITHIN_A_TENANT = {("dataset", "{fleet}", "--verify"), ("dataset", "{fleet}", "--compact", "7d")}
# These read no tenant's rows, and refuse one.
REFUSING = {"demo", "import", "sample", "verify", "keygen"}


def told(world: World, tenant: str | None, caplog: pytest.LogCaptureFixture, command: str, before: bool = True) -> str:
    """All that a command's calls within the tenant write: outputs, errors, log records, and the files' names."""
    caplog.clear()
    texts = []
    for arguments in COMMANDS[command] if before else COMMANDS[command][:2]:
        given = [argument.format(fleet=world.fleet) for argument in arguments]
        first, last = (option(tenant), []) if before else ([], option(tenant))
        result = call("-d", world.url, *first, *given, *last)
        assert result.exception is None or isinstance(result.exception, SystemExit), (arguments, result.exception)
        refused = arguments in REFUSED or (tenant is not None and arguments in REFUSED_WITHIN_A_TENANT)
        assert (result.exit_code == 2) == refused, (arguments, result.output)
        texts += [result.stdout, result.stderr]
    return "\n".join([*texts, caplog.text, shown(Path.cwd())])


def test_every_command_is_in_the_table() -> None:
    assert set(get_command(app).commands) == COMMANDS.keys() | REFUSING  # type: ignore[attr-defined]
    for command in REFUSING:
        result = call("-t", OURS, command)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == f"error: {command} does not read the rows of a tenant; leave --tenant out\n"


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"lab"}))
def test_no_command_tells(world: World, caplog: pytest.LogCaptureFixture, command: str, before: bool) -> None:
    assert not tells(told(world, world.tenant, caplog, command, before))


@in_sqlite
@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"lab", "report"}))
def test_a_canary_would_be_seen(world: World, caplog: pytest.LogCaptureFixture, command: str) -> None:
    assert tells(told(world, THEIRS, caplog, command))


def test_lab_hands_the_tenant_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    environments: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execve", lambda program, command, environment: environments.append(environment))
    assert call("-d", world.url, *option(world.tenant), *COMMANDS["lab"][0]).exit_code == 0
    assert [environment.get("EXPORTTOOLS_TENANT_ID") for environment in environments] == [world.tenant]


@pytest.mark.slow
def test_reports_and_notebooks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told_by_notebooks(world, world.tenant, monkeypatch) == set()


@pytest.mark.slow
@in_plain_worlds
def test_a_canary_in_reports_and_notebooks_would_be_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere = {"one.html", "all", "export.ipynb", "cost.ipynb", "investigate.ipynb", "fleet", "i1.bundle"}
    assert told_by_notebooks(world, THEIRS, monkeypatch) == everywhere


def told_by_notebooks(world: World, tenant: str | None, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The files and directories with the canary that reports and notebooks write within the tenant."""
    assert call("-d", world.url, *option(tenant), "report", "i1", "-o", "one.html").exit_code == 0
    assert call("-d", world.url, "report", "--since", "2026-10-01", "-o", "all", *option(tenant)).exit_code == 0
    monkeypatch.setenv("EXPORTTOOLS_DATABASE_URL", world.url)
    if tenant is not None:
        monkeypatch.setenv("EXPORTTOOLS_TENANT_ID", tenant)
    days = {"since": "2026-10-05", "until": "2026-10-06"}
    run_notebook("export_parquet", Path("export.ipynb").absolute(), days)
    run_notebook("cost_analysis", Path("cost.ipynb").absolute(), days | {"usual_since": "2026-10-04"})
    run_notebook("investigate_incident", Path("investigate.ipynb").absolute(), {"incident_id": "i1"})
    return {path.relative_to(Path.cwd()).parts[0] for path in marked_files(Path.cwd())}


def test_rows_of_theirs_that_are_not_valid_do_not_matter(
    backend: str, fresh_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = {"sqlite": "tokens = 'CANARY', timestamp = 'CANARY'", "postgresql": "tokens = -918273645, timestamp = NULL"}
    with make_world(backend, fresh_url, OURS, tmp_path) as world:
        run_sql(
            world.url,
            f"UPDATE trace_steps SET step_type = NULL, cost_cents = NULL, {wrong[backend]} WHERE tenant_id = '{THEIRS}'",
            f"UPDATE runs SET completed_at = started_at, total_cost_cents = -918273645 WHERE tenant_id = '{THEIRS}'",
            f"INSERT INTO incidents SELECT * FROM incidents WHERE tenant_id = '{THEIRS}'",
        )
        for command in sorted(COMMANDS.keys() - {"lab", "report"}):
            assert not tells(told(world, OURS, caplog, command)), command
        assert call("-d", world.url, "-t", OURS, "show", "i1").exit_code == 0
        assert call("-d", world.url, "-t", OURS, "export", "own").exit_code == 0


# Names


def fleet_of(store: ExportBundleStore) -> Any:
    return store.scan_trace_steps().read_all()


def calls_of(store: ExportBundleStore) -> Any:
    """The fleet's steps, as if all of their tokens were input."""
    steps = fleet_of(store)
    return steps.append_column("input_tokens", steps["tokens"]).append_column(
        "output_tokens", pc.subtract(steps["tokens"], steps["tokens"])
    )


def written(store: ExportBundleStore, name: str = "b") -> Path:
    bundle = store.get_export_bundle("i1")
    assert bundle is not None
    return et.write_bundle(bundle, Path.cwd() / name)


def exported(store: ExportBundleStore) -> Any:
    return [et.export_dataset(store, "own", progress=False), Path.cwd() / "own"]


Use = Callable[[World, ExportBundleStore], Any]

# What each name gives within a tenant.
NAMES: dict[str, Use] = {
    "ExportBundleStore": lambda w, s: s,
    "SqlTraceStore": lambda w, s: SqlTraceStore(w.database, tenant_id=s.tenant_id),
    "anomalies": lambda w, s: et.anomalies(fleet_of(s), et.baseline(fleet_of(s)), false_alarms=1),
    "baseline": lambda w, s: et.baseline(fleet_of(s)),
    "compare_bundles": lambda w, s: et.compare_bundles(s.get_export_bundle("i1"), s.get_export_bundle(run_id="r2")),  # type: ignore[arg-type]
    "compare_runs": lambda w, s: et.compare_runs(s.get_export_bundle("i1"), s.get_export_bundle(run_id="r2")),
    "cost_by": lambda w, s: et.cost_by(fleet_of(s), "tenant_id", "name"),
    "cost_over_time": lambda w, s: et.cost_over_time(fleet_of(s), "1d", "agent_id"),
    "cumulative_cost": lambda w, s: et.cumulative_cost(s.get_export_bundle("i1")),
    "export_dataset": lambda w, s: exported(s),
    "open_dataset": lambda w, s: et.open_dataset(w.fleet, tenant_id=s.tenant_id),
    "percentiles": lambda w, s: et.percentiles(fleet_of(s), "tenant_id", "name"),
    "plan_export": lambda w, s: et.plan_export(s, "own"),
    "read_bundle": lambda w, s: et.read_bundle(written(s)),
    "reconcile_costs": lambda w, s: et.reconcile_costs(s.list_runs(), fleet_of(s)),
    "reconciliation_verdict": lambda w, s: et.reconciliation_verdict(et.reconcile_costs(s.list_runs(), fleet_of(s))),
    "repeated_calls": lambda w, s: et.repeated_calls(fleet_of(s)),
    "reprice": lambda w, s: et.reprice(calls_of(s), "o3"),
    "repricing_by": lambda w, s: et.repricing_by(et.reprice(calls_of(s)), "model"),
    "repricing_verdict": lambda w, s: et.repricing_verdict(et.reprice(calls_of(s))),
    "run_profiles": lambda w, s: et.run_profiles(fleet_of(s)),
    "run_totals": lambda w, s: et.run_totals(fleet_of(s)),
    "step_tree": lambda w, s: et.step_tree(fleet_of(s), parents="time"),
    "timeline": lambda w, s: et.timeline(s.get_export_bundle("i1")),
    "top_runs": lambda w, s: et.top_runs(fleet_of(s), 20),
    "verify_bundle": lambda w, s: et.verify_bundle(written(s)),
    "what_changed": lambda w, s: et.what_changed(s.get_export_bundle("i1"), fleet_of(s)),  # type: ignore[arg-type]
    "write_bundle": lambda w, s: written(s),
    "plots.anomalies": lambda w, s: plots.anomalies(fleet_of(s), et.baseline(fleet_of(s)), false_alarms=1),
    "plots.compare_runs": lambda w, s: plots.compare_runs(s.get_export_bundle("i1"), s.get_export_bundle(run_id="r2")),
    "plots.cost_breakdown": lambda w, s: plots.cost_breakdown(fleet_of(s), by="agent_id"),
    "plots.cost_over_time": lambda w, s: plots.cost_over_time(fleet_of(s), by="agent_id"),
    "plots.what_changed": lambda w, s: plots.what_changed(
        et.what_changed(s.get_export_bundle("i1"), fleet_of(s)), bundle=s.get_export_bundle("i1")  # type: ignore[arg-type]
    ),
}  # fmt: skip
# These read no rows of a database: kinds of results and settings, keys, files, rooms whose names are here one by one.
READS_NOTHING = {
    "AOS", "Column", "Comparison", "Constant", "DatasetVerification", "ExportBundle", "ExportPlan", "ExportReport", "Field",
    "Finding", "ImportReport", "ImportedTraces", "IncidentSnapshot", "Join", "Layout", "NATIVE", "ReportOutcome", "RunSnapshot", "Signer", "SigningKey", "SnapshotTable",
    "Source", "SourceSnapshot", "TraceStepSnapshot", "TraceStore", "TraceSummarySnapshot", "TrustedKey", "Verification",
    "__version__", "analysis", "load_signing_key", "load_trusted_key", "load_trusted_keys", "plots", "read_traces", "report", "write_key_pair",
}  # fmt: skip
ELSEWHERE = {
    "Dataset": "test_no_method_of_a_dataset_tells",
    "get_export_bundle_store": "test_the_stores_of_the_environment",
    "write_report": "test_reports_and_notebooks",
    "write_reports": "test_reports_and_notebooks",
}
# Whatever the tenant, these say only numbers of rows and files, digests or verdicts.
SAYS_NO_VALUES = {"compare_bundles", "plan_export", "reconciliation_verdict"}


def test_every_name_is_in_the_table() -> None:
    errors = {name for name in dir(et) if isinstance(thing := getattr(et, name), type) and issubclass(thing, Exception)}
    rooms = {f"plots.{name}" for name in plots.__all__} - {"plots.timeline", "plots.cumulative_cost"}
    assert set(dir(et)) | rooms == NAMES.keys() | READS_NOTHING | ELSEWHERE.keys() | errors
    assert {*analysis.__all__, *report.__all__} <= set(dir(et))
    assert set(ELSEWHERE.values()) <= globals().keys()


@pytest.mark.parametrize("name", NAMES)
def test_no_name_tells(world: World, caplog: pytest.LogCaptureFixture, name: str) -> None:
    assert not tells(shown(NAMES[name](world, world.store(world.tenant))) + caplog.text)
    assert marked_files(Path.cwd()) == []


@in_sqlite
@pytest.mark.parametrize("name", sorted(NAMES.keys() - SAYS_NO_VALUES))
def test_a_canary_of_a_name_would_be_seen(world: World, name: str) -> None:
    assert tells(shown(NAMES[name](world, world.store(THEIRS))))


def test_the_stores_of_the_environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPORTTOOLS_DATABASE_URL", world.url)
    if world.tenant is not None:
        monkeypatch.setenv("EXPORTTOOLS_TENANT_ID", world.tenant)
    monkeypatch.setattr("exporttools.database.store._singleton", None)
    for store in (et.get_export_bundle_store(), ExportBundleStore()):
        assert not tells(shown([store, store.list_runs(), store.scan_trace_steps(), store.get_export_bundle("i1")]))


# Methods

OF_RUNS = ["goal", "termination_reason", "total_cost_cents"]
STORE_METHODS: dict[str, Callable[..., Any]] = {
    "for_tenant": lambda s, **t: _for_tenant(s, **t),
    "get_export_bundle": lambda s, **t: [s.get_export_bundle("i1"), s.get_export_bundle(run_id="r1")],
    "get_columns": lambda s, **t: [s.get_columns(table) for table in ("runs", "traces", "trace_steps")],
    "get_incident": lambda s, **t: s.get_incident("i1"),
    "get_run_by_run_id": lambda s, **t: s.get_run_by_run_id("r1"),
    "get_trace_steps": lambda s, **t: [s.get_trace_steps("t1", **t), s.get_trace_steps("t2", **t)],
    "get_trace_summary": lambda s, **t: s.get_trace_summary("r1", **t),
    "list_incidents": lambda s, **t: s.list_incidents(**t),
    "list_runs": lambda s, **t: s.list_runs(limit=3, **t),
    "list_traces": lambda s, **t: [s.list_traces(**t), s.list_traces(run_id="r1", **t)],
    "load_trace_steps": lambda s, **t: [s.load_trace_steps(**t), s.load_trace_steps(run_columns=OF_RUNS, **t)],
    "scan_trace_steps": lambda s, **t: [
        s.scan_trace_steps(**t),
        s.scan_trace_steps(run_id="r1", **t),
        s.scan_trace_steps(columns=["tokens"], run_columns=OF_RUNS, **t),
    ],
    "scope": lambda s, **t: s.scope(None),
    "snapshot": lambda s, **t: _in_snapshot(s),
    "tenant_id": lambda s, **t: s.tenant_id,
    "trace_store": lambda s, **t: s.trace_store,
    "window_snapshot": lambda s, **t: exported(s),
}
TRACE_METHODS: dict[str, Callable[..., Any]] = {
    **{
        name: STORE_METHODS[name]
        for name in (
            "for_tenant",
            "get_columns",
            "get_trace_steps",
            "get_trace_summary",
            "list_traces",
            "scan_trace_steps",
        )
    },
    "over": lambda s, **t: SqlTraceStore.over(s.reader),
    "pick_trace": lambda s, **t: s.pick_trace("r1", **t),
    "step_batches": lambda s, **t: _batches(s, **t),
}
NEED_A_TENANT = {"get_trace_steps", "get_trace_summary", "pick_trace"}
DATASET_METHODS: dict[str, Callable[[Dataset], Any]] = {
    "bytes": lambda d: d.bytes,
    "content_digest": lambda d: d.content_digest,
    "content_digests": lambda d: d.content_digests,
    "facts": lambda d: d.facts,
    "files": lambda d: [d.files(table) for table in d.tables],
    "part_files": lambda d: d.part_files,
    "rows": lambda d: d.rows,
    "scan": lambda d: [d.scan(table) for table in d.tables],
    "schema": lambda d: [d.schema(table) for table in d.tables],
    "sql": lambda d: [d.sql(f"from {table}") for table in (*d.tables, "ledger")],
    "tables": lambda d: d.tables,
    "tenants": lambda d: d.tenants,
    "time_range": lambda d: d.time_range,
    "to_arrow": lambda d: [d.to_arrow(table) for table in d.tables],
}
ONLY_OF_ALL_ROWS = {"compact", "verify"}


def _for_tenant(store: ExportBundleStore | SqlTraceStore, tenant_id: str = OURS) -> Any:
    scoped = store.for_tenant(tenant_id)
    return [scoped, scoped.list_traces(), scoped.get_trace_steps("t1"), scoped.scan_trace_steps()]


def _in_snapshot(store: ExportBundleStore) -> Any:
    with store.snapshot() as same:
        return [same.list_runs(), same.get_export_bundle("i1")]


def _batches(store: SqlTraceStore, **tenant: str) -> Any:
    unlimited = dict.fromkeys(("tenant_id", "since", "until", "agent_id", "run_id", "columns", "run_columns"))
    schema, batches = store.step_batches(**{**unlimited, **tenant})  # type: ignore[arg-type]
    return [schema, *(str(batch.to_pylist()) for batch in batches)]


def tenant_of_the_call(name: str, world: World) -> dict[str, str]:
    """Of a method of a store that names none: what it cannot be called without."""
    return {"tenant_id": OURS} if world.tenant is None and name in NEED_A_TENANT else {}


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_every_method_is_in_the_table() -> None:
    assert public(ExportBundleStore) == STORE_METHODS.keys()
    assert public(SqlTraceStore) == TRACE_METHODS.keys()
    assert public(Dataset) == DATASET_METHODS.keys() | ONLY_OF_ALL_ROWS


@pytest.mark.parametrize("name", STORE_METHODS)
def test_no_method_of_a_store_tells(world: World, caplog: pytest.LogCaptureFixture, name: str) -> None:
    store = world.store(world.tenant)
    assert not tells(shown(STORE_METHODS[name](store, **tenant_of_the_call(name, world))) + caplog.text)
    assert marked_files(Path.cwd()) == []


@pytest.mark.parametrize("name", TRACE_METHODS)
def test_no_method_of_a_trace_store_tells(world: World, caplog: pytest.LogCaptureFixture, name: str) -> None:
    store = SqlTraceStore(world.database, tenant_id=world.tenant)
    assert not tells(shown(TRACE_METHODS[name](store, **tenant_of_the_call(name, world))) + caplog.text)


@in_plain_worlds
@pytest.mark.parametrize("kind", [ExportBundleStore, SqlTraceStore])
def test_a_tenant_of_the_call_is_as_good_as_one_of_the_store(world: World, kind: Any) -> None:
    uses = STORE_METHODS if kind is ExportBundleStore else TRACE_METHODS
    methods = {name for name in uses if inspect.isfunction(f := getattr(kind, name)) and _takes_tenant(f)} - {"scope"}
    assert methods >= {"get_trace_steps", "get_trace_summary", "list_traces", "scan_trace_steps"}
    unscoped = kind(world.database)
    for name in methods:
        assert not tells(shown(uses[name](unscoped, tenant_id=OURS))), name
        assert tells(shown(uses[name](unscoped, tenant_id=THEIRS))), name


def _takes_tenant(function: Any) -> bool:
    return "tenant_id" in inspect.signature(function).parameters


@pytest.mark.parametrize("name", DATASET_METHODS)
def test_no_method_of_a_dataset_tells(world: World, name: str) -> None:
    dataset = et.open_dataset(world.fleet, tenant_id=world.tenant)
    assert not tells(shown(DATASET_METHODS[name](dataset)))


def test_messages_name_no_other_tenant(world: World) -> None:
    """A key that both tenants have, and one that only the other has."""
    store = world.store(world.tenant)
    theirs = f"r1-{WORD}"
    assert store.get_run_by_run_id(theirs) is None
    assert store.get_export_bundle(run_id=theirs) is None
    assert len(store.get_trace_steps(f"t1-{WORD}", OURS)) == 0
    with closing(store.scan_trace_steps(run_id=theirs)) as steps:
        assert steps.read_all().num_rows == 0
    assert not tells(call("-d", world.url, *option(world.tenant), "show", "i2").output)


# Worlds


def test_the_canary_is_there(world: World) -> None:
    """In every table, for a session that is not set up; it may be that of a schema that only they have."""
    assert [table for table in TABLES if tells(str(stored(world.owner_url, table, "tenant_id")))] == [*TABLES]


def test_long_reads_are_in_bulk_or_say_why_not(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each with all of our rows, in whichever way it is read."""
    in_bulk: list[Origin] = []
    batches = BulkSession.batches

    def seen(session: BulkSession, statement: Any, columns: Any, *, read: str, origin: Origin) -> Any:
        in_bulk.append(origin)
        return batches(session, statement, columns, read=read, origin=origin)

    monkeypatch.setattr(BulkSession, "batches", seen)
    store = world.store(world.tenant)
    reads: dict[str, Callable[[], int]] = {
        "get_trace_steps": lambda: len(store.get_trace_steps("t1", OURS)),
        "get_export_bundle": lambda: len(store.get_export_bundle("i1").steps),  # type: ignore[union-attr, arg-type]
        "scan_trace_steps": lambda: store.scan_trace_steps(run_id="r1").read_all().num_rows,
        "export_dataset": lambda: et.export_dataset(store, "own", progress=False).rows["trace_steps"],
    }
    for name, read in reads.items():
        in_bulk.clear()
        caplog.clear()
        assert read() == LONG + 1 + (name == "export_dataset") * (RUNS - 1) * STEPS, name
        assert bool(in_bulk) == bool(world.reads_in_bulk), name
        assert ("reading rows, since" in caplog.text) == (world.reads_in_bulk is False), name
