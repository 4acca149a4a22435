"""Many threads and processes read everything at once, while a writer moves money and keeps the totals."""

from __future__ import annotations

import datetime as dt
import gc
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import sqlalchemy as sa
from sqlalchemy import make_url

from exporttools import ExportBundleStore
from exporttools.records.schema import TRACE_STEPS
from tests.databases import NOON, create_native, incident, run, run_sql, step, trace, wal_mode, writable

THREADS, PROCESSES, THREADS_A_PROCESS = 32, 4, 2
RUNS = 6
STEPS = {1: 2_500} | dict.fromkeys(range(2, RUNS + 1), 20)
"""The first trace is long enough to be read in bulk."""

CENTS_A_RUN = 10_000
TOTAL_CENTS = RUNS * CENTS_A_RUN
"""What the runs cost, and the steps of their traces, at any point in time."""

CANARY = "globex"
MIDNIGHT = NOON.replace(hour=0)

MORE_RSS_BYTES = 64 << 20
"""How much larger the process may be at the end than in the middle: allocators keep what many threads once needed."""


@pytest.fixture
def fleet_url(fresh_url: str) -> str:
    """A fleet of a tenant, each run with an incident, a trace and steps; and another tenant's rows under the same ids."""
    tenants = ("acme", CANARY)
    numbers = range(1, RUNS + 1)
    create_native(
        fresh_url,
        {
            "incidents": [
                incident(id=f"i{n}", source_run_id=f"r{n}", tenant_id=tenant, policy_name=tenant)
                for tenant in tenants
                for n in numbers
            ],
            "runs": [
                run(run_id=f"r{n}", tenant_id=tenant, goal=tenant, total_cost_cents=CENTS_A_RUN)
                for tenant in tenants
                for n in numbers
            ],
            "traces": [
                trace(trace_id=f"t{n}", run_id=f"r{n}", tenant_id=tenant) for tenant in tenants for n in numbers
            ],
            "trace_steps": [
                step(0, trace_id=f"t{n}", tenant_id=tenant, cost_cents=float(CENTS_A_RUN), content_hash=tenant)
                for tenant in tenants
                for n in numbers
            ],
        },
    )
    more_steps = (
        "INSERT INTO trace_steps ({columns}) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {last})"
        " SELECT {values} FROM trace_steps, n WHERE trace_id = 't{n}' AND step_index = 0"
    )
    columns = [column.name for column in TRACE_STEPS.stored_columns()]
    values = [{"step_index": "i", "cost_cents": "0"}.get(name, name) for name in columns]
    run_sql(
        fresh_url,
        *(
            more_steps.format(columns=", ".join(columns), values=", ".join(values), last=STEPS[n] - 1, n=n)
            for n in numbers
        ),
        "CREATE UNIQUE INDEX steps_key ON trace_steps (tenant_id, trace_id, step_index)",
        "CREATE UNIQUE INDEX runs_key ON runs (tenant_id, run_id)",
    )
    return wal_mode(fresh_url)


Read = Callable[[ExportBundleStore, int], None]


def get_incident(store: ExportBundleStore, n: int) -> None:
    found = store.get_incident(f"i{n}")
    assert found is not None
    assert (found.id, found.policy_name) == (f"i{n}", "acme")


def get_run_by_run_id(store: ExportBundleStore, n: int) -> None:
    found = store.get_run_by_run_id(f"r{n}")
    assert found is not None
    assert (found.run_id, found.goal) == (f"r{n}", "acme")


def get_trace_summary(store: ExportBundleStore, n: int) -> None:
    found = store.get_trace_summary(f"r{n}")
    assert found is not None
    assert (found.trace_id, found.tenant_id) == (f"t{n}", "acme")


def get_trace_steps(store: ExportBundleStore, n: int) -> None:
    steps = store.get_trace_steps(f"t{n}").to_arrow()
    assert steps["step_index"].to_pylist() == list(range(STEPS[n]))
    assert pc.unique(steps["content_hash"]).to_pylist() == ["acme"]


def list_incidents(store: ExportBundleStore, n: int) -> None:
    assert [found.policy_name for found in store.list_incidents(since=MIDNIGHT)] == ["acme"] * RUNS
    assert store.list_incidents(limit=n).total == (RUNS if n < RUNS else None)


def list_runs(store: ExportBundleStore, n: int) -> None:
    assert sum(found.total_cost_cents or 0 for found in store.list_runs()) == TOTAL_CENTS
    assert store.list_runs(limit=n, agent_id="triage").total == (RUNS if n < RUNS else None)


def list_traces(store: ExportBundleStore, n: int) -> None:
    assert {found.trace_id for found in store.list_traces()} == {f"t{number}" for number in STEPS}
    assert [found.trace_id for found in store.list_traces(run_id=f"r{n}")] == [f"t{n}"]


def scan_trace_steps(store: ExportBundleStore, n: int) -> None:
    with store.scan_trace_steps() as reader:
        steps = reader.read_all()
    assert steps.num_rows == sum(STEPS.values())
    assert pc.unique(steps["tenant_id"]).to_pylist() == pc.unique(steps["content_hash"]).to_pylist() == ["acme"]
    assert pc.sum(steps["cost_cents"]).as_py() == TOTAL_CENTS


def a_scan_that_stops_early(store: ExportBundleStore, n: int) -> None:
    with store.scan_trace_steps(run_id=[f"r{n}", "r1"]) as reader:
        assert reader.read_next_batch().num_rows > 0


def load_trace_steps(store: ExportBundleStore, n: int) -> None:
    relation = store.load_trace_steps(columns=["cost_cents", "tenant_id"])
    assert relation.aggregate("sum(cost_cents), min(tenant_id)").fetchall() == [(TOTAL_CENTS, "acme")]


def get_export_bundle(store: ExportBundleStore, n: int) -> None:
    for bundle in (store.get_export_bundle(f"i{n}"), store.get_export_bundle(run_id=f"r{n}")):
        assert bundle is not None
        assert bundle.run is not None
        assert bundle.run.total_cost_cents == pc.sum(bundle.steps.to_arrow()["cost_cents"]).as_py()
        assert set(bundle.missing) <= {"incident"}


def snapshot(store: ExportBundleStore, n: int) -> None:
    with store.snapshot() as at_once:
        runs = at_once.list_runs()
        with at_once.scan_trace_steps(columns=["run_id", "cost_cents"]) as reader:
            steps = reader.read_all().group_by("run_id").aggregate([("cost_cents", "sum")])
        assert at_once.get_run_by_run_id(f"r{n}") in runs
    by_run = dict(zip(steps["run_id"].to_pylist(), steps["cost_cents_sum"].to_pylist(), strict=True))
    assert by_run == {found.run_id: found.total_cost_cents for found in runs}
    assert sum(by_run.values()) == TOTAL_CENTS


def window_snapshot(store: ExportBundleStore, n: int) -> None:
    with store.window_snapshot() as window:
        (day,) = window.tenant_days("acme", MIDNIGHT, MIDNIGHT + dt.timedelta(days=1))
        runs = pa.Table.from_batches(window.runs(day))
        steps = pa.Table.from_batches(window.trace_steps(day, sorted(f"t{number}" for number in STEPS)))
    assert day.runs == runs.num_rows == RUNS
    assert pc.sum(runs["total_cost_cents"]).as_py() == pc.sum(steps["cost_cents"]).as_py() == TOTAL_CENTS


READS: tuple[Read, ...] = (
    get_incident, get_run_by_run_id, get_trace_summary, get_trace_steps, list_incidents, list_runs, list_traces,
    scan_trace_steps, a_scan_that_stops_early, load_trace_steps, get_export_bundle, snapshot, window_snapshot,
)  # fmt: skip


@dataclass(frozen=True)
class Load:
    """What a process under load did, and what it kept once its store was gone."""

    reads: int
    more_rss_bytes: int
    arrow_bytes: int
    descriptors: int


def read_everything(url: str, threads: int, seconds: float, seed: int) -> Load:
    """Read through one store in several threads, in two halves.

    Each thread begins a half with another read, so that many threads make all of them.
    """
    arrow_bytes = pa.total_allocated_bytes()
    store = ExportBundleStore(url, tenant_id="acme")
    reads, rss = 0, []
    for _half in range(2):
        ends_at = time.monotonic() + seconds / 2
        with ThreadPoolExecutor(threads) as pool:
            readers = [
                pool.submit(keep_reading, store, READS[number % len(READS)], seed + number, ends_at)
                for number in range(threads)
            ]
            reads += sum(reader.result() for reader in readers)
        rss.append(rss_bytes())
    del store
    gc.collect()
    return Load(reads, rss[1] - rss[0], pa.total_allocated_bytes() - arrow_bytes, descriptors_of(url))


def keep_reading(store: ExportBundleStore, read: Read, seed: int, ends_at: float) -> int:
    """Read once, and on until the time is over. Returns how often."""
    chance, done = random.Random(seed), 0
    while not done or time.monotonic() < ends_at:
        read(store, chance.choice((1, *STEPS)))
        read, done = chance.choice(READS), done + 1
    return done


def rss_bytes() -> int:
    """The memory that this process occupies."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def descriptors_of(url: str) -> int:
    """How many files of an SQLite database this process has open; 0 for any other database."""
    path = make_url(url).database if "sqlite" in url else "/no/such/file"
    targets = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them is closed by now
            targets.append(os.readlink(descriptor))
    return sum(target.startswith(str(path)) for target in targets)


@contextmanager
def money_moving(url: str) -> Iterator[list[int]]:
    """A thread moves cents from one run to another, and between their traces' first steps. Yields the amounts moved."""
    stop, moved = threading.Event(), threading.Event()
    amounts: list[int] = []
    chance = random.Random(12)

    def move() -> None:
        engine = writable(url)
        try:
            while not stop.is_set():
                giver, taker = chance.sample(range(1, RUNS + 1), 2)
                amount = chance.randrange(1, 10)
                with engine.begin() as connection:
                    for number, cents in ((giver, -amount), (taker, amount)):
                        connection.execute(
                            sa.text(
                                "UPDATE runs SET total_cost_cents = total_cost_cents + :c"
                                " WHERE run_id = :r AND tenant_id = 'acme'"
                            ),
                            {"c": cents, "r": f"r{number}"},
                        )
                        connection.execute(
                            sa.text(
                                "UPDATE trace_steps SET cost_cents = cost_cents + :c"
                                " WHERE trace_id = :t AND tenant_id = 'acme' AND step_index = 0"
                            ),
                            {"c": cents, "t": f"t{number}"},
                        )
                amounts.append(amount)
                moved.set()
        finally:
            engine.dispose()

    with ThreadPoolExecutor(1) as thread:
        writer = thread.submit(move)
        try:
            moved.wait(timeout=60)
            yield amounts
        finally:
            stop.set()
            writer.result()


def connections_left(url: str) -> list[str | None]:
    """What clients of a PostgreSQL database are doing, once there are none, or after a minute.

    A server takes a moment to see that a client is gone.
    """
    if "sqlite" in url:
        return []
    engine = writable(url)
    others = sa.text(
        "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
        " AND pid <> pg_backend_pid()"
    )
    gives_up_at = time.monotonic() + 60
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while (found := list(connection.scalars(others))) and time.monotonic() < gives_up_at:
            continue
    engine.dispose()
    return found


@pytest.mark.slow
def test_promise_07_a_minute_under_load(fleet_url: str) -> None:
    read_under_load(fleet_url, seconds=60)


def test_promise_07_under_load(fleet_url: str) -> None:
    read_under_load(fleet_url, seconds=5)


def read_under_load(url: str, *, seconds: float) -> None:
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as processes:
        with money_moving(url) as amounts:
            others = [
                processes.submit(read_everything, url, THREADS_A_PROCESS, seconds, seed)
                for seed in range(1, PROCESSES + 1)
            ]
            loads = [read_everything(url, THREADS, seconds, 0), *(other.result() for other in others)]
        assert connections_left(url) == []  # while the processes live
    assert len(amounts) > 1
    assert [load for load in loads if load.more_rss_bytes > MORE_RSS_BYTES or load.arrow_bytes > 0] == []
    # SQLite closes files late where another connection of the process has them open, as the writer's here.
    assert [*(load.descriptors for load in loads[1:]), descriptors_of(url)] == [0] * (PROCESSES + 1)
