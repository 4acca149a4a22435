"""A network that cuts, delays and trickles: each read is the truth or an error of ours, and nothing hangs."""

from __future__ import annotations

import datetime as dt
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import create_engine, make_url

from exporttools import ExportBundleStore, QueryTimeout, StoreError
from exporttools.database import deadlines
from tests.databases import NOON, breaks_cursors, create_native, one_of_each, run_sql, step, trace
from tests.proxy import Fault, FaultKind, Proxy

Read = Callable[[ExportBundleStore], Any]

FAULTS: tuple[FaultKind, ...] = ("close", "reset", "delay", "trickle")
MIDNIGHT = NOON.replace(hour=0)
STATEMENT_TIMEOUT_S = 5.0
HANGING_S = 60.0
"""Long after the deadline, which is the statement's timeout and what a busy machine adds."""


def steps_by_rows(store: ExportBundleStore) -> Any:
    return store.get_trace_steps("short").to_arrow()


def steps_in_bulk(store: ExportBundleStore) -> Any:
    return store.get_trace_steps("t1").to_arrow()


def bundle(store: ExportBundleStore) -> Any:
    return store.get_export_bundle("i1")


def lists(store: ExportBundleStore) -> Any:
    with store.snapshot():
        return store.list_incidents(), store.list_runs(), store.list_traces(limit=1), store.get_trace_summary("r1")


def scan(store: ExportBundleStore) -> Any:
    with store.scan_trace_steps() as reader:
        return reader.read_all()


def load(store: ExportBundleStore) -> Any:
    relation = store.load_trace_steps(columns=["trace_id", "step_index", "cost_cents"])
    return relation.aggregate("count(*), sum(step_index), sum(cost_cents)").fetchall()


def export_window(store: ExportBundleStore) -> Any:
    with store.window_snapshot() as snapshot:
        (day,) = snapshot.tenant_days(None, MIDNIGHT, MIDNIGHT + dt.timedelta(days=1))
        return [
            pa.Table.from_batches(batches)
            for batches in (
                snapshot.incidents(day),
                snapshot.runs(day),
                snapshot.traces(day),
                snapshot.trace_steps(day, ["short", "t1"]),
            )
        ]


READS: tuple[Read, ...] = (
    steps_by_rows, steps_in_bulk, bundle, lists, scan, load, export_window,
)  # fmt: skip


@pytest.fixture
def direct_url(fresh_postgres_url: str) -> str:
    """A database with a trace that is read by rows, and one that is read in bulk: half a megabyte."""
    rows = one_of_each(
        traces=[trace(), trace(trace_id="short", violation_step_index=None, violation_timestamp=None)],
        trace_steps=[step(i, trace_id="short") for i in range(3)],
    )
    create_native(fresh_postgres_url, rows)
    run_sql(
        fresh_postgres_url,
        "INSERT INTO trace_steps SELECT 'acme', 't1', i, timestamptz '2026-10-05 12:00Z' + i * interval '1 second',"
        " 'llm_call', i, i * 0.25, 1, 'ok', NULL FROM generate_series(0, 4999) i",
    )
    return fresh_postgres_url


@pytest.fixture
def proxy(direct_url: str) -> Iterator[Proxy]:
    proxy = Proxy(f"{make_url(direct_url).query['host']}/.s.PGSQL.5432")
    yield proxy
    proxy.close()


@pytest.fixture
def proxied_url(direct_url: str, proxy: Proxy) -> str:
    url = make_url(direct_url).set(host="127.0.0.1", port=proxy.port, query={"connect_timeout": "10"})
    return url.render_as_string(hide_password=False)


@pytest.mark.slow
@breaks_cursors
def test_promise_09_a_hundred_faults_yield_the_truth_or_an_error(
    direct_url: str, proxied_url: str, proxy: Proxy
) -> None:
    read_through_faults(direct_url, proxied_url, proxy, reads=100)


@breaks_cursors
def test_promise_09_ten_faults_yield_the_truth_or_an_error(direct_url: str, proxied_url: str, proxy: Proxy) -> None:
    read_through_faults(direct_url, proxied_url, proxy, reads=10)


def read_through_faults(direct_url: str, proxied_url: str, proxy: Proxy, *, reads: int) -> None:
    """Read again and again, each time through another fault at another byte; then everything, without any."""
    direct = ExportBundleStore(direct_url, tenant_id="acme")
    truths = {read: read(direct) for read in READS}
    store = ExportBundleStore(proxied_url, tenant_id="acme", statement_timeout=STATEMENT_TIMEOUT_S)
    sizes = {read: bytes_of(read, store, proxy) for read in READS}
    chance = random.Random(12)
    outcomes = []
    with ThreadPoolExecutor(1) as thread:
        for number in range(reads):
            read, kind = READS[number % len(READS)], chance.choice(FAULTS)
            proxy.inject(Fault(kind, after_bytes=chance.randrange(sizes[read])))
            try:
                outcome = thread.submit(outcome_of, read, store, truths[read]).result(timeout=HANGING_S)
            finally:
                proxy.mend()
            outcomes.append((read.__name__, kind, outcome, proxy.struck))
    assert [found for found in outcomes if found[2] == "wrong" or not found[3]] == []
    assert {outcome for *_, outcome, _ in outcomes} >= {"truth", "ConnectionFailed"}
    assert {read: read(store) for read in READS} == truths  # it works again


def outcome_of(read: Read, store: ExportBundleStore, truth: Any) -> str:
    """Whether a read returned the truth, something else, or an error of ours; any other error is raised."""
    try:
        return "truth" if read(store) == truth else "wrong"
    except StoreError as error:
        return type(error).__name__


def bytes_of(read: Read, store: ExportBundleStore, proxy: Proxy) -> int:
    """How many bytes the server answers to a read, once the store is connected."""
    read(store)
    before = proxy.passed
    read(store)
    return proxy.passed - before


@pytest.mark.slow
@breaks_cursors
@pytest.mark.parametrize("own_engine", [True, False])
@pytest.mark.parametrize("read", READS)
def test_promise_09_an_answer_that_never_comes_is_given_up(
    read: Read, own_engine: bool, proxied_url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's statement_timeout does not help where its answer, or its error, is lost on the way."""
    monkeypatch.setattr(deadlines, "GRACE_S", 0.5)
    engine = create_engine(make_url(proxied_url).set(drivername="postgresql+psycopg"))
    store = ExportBundleStore(proxied_url if own_engine else engine, tenant_id="acme", statement_timeout=0.5)
    truth, size = read(store), bytes_of(read, store, proxy)
    proxy.inject(Fault("silence", after_bytes=size // 2))
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(read, store)
        try:
            with pytest.raises(QueryTimeout) as caught:
                future.result(timeout=HANGING_S)
        finally:
            proxy.mend()
    assert str(caught.value).endswith(
        ": the server did not answer within 1 s, so the read was given up and its connection closed; is the network or the "
        "server overloaded? Try again, or raise statement_timeout"
    )
    assert caught.value.transient
    assert read(store) == truth  # on new connections
    engine.dispose()


def test_a_process_ends_that_waits_for_an_answer(proxied_url: str, proxy: Proxy) -> None:
    """ADBC's thread still waits, and nobody for it."""
    program = """
import sys
from exporttools import ExportBundleStore, QueryTimeout
from exporttools.database import deadlines
deadlines.GRACE_S = 0.1
store = ExportBundleStore(sys.argv[1], tenant_id="acme", statement_timeout=0.5)
store.get_trace_steps("t1")
print("ready", flush=True)
sys.stdin.readline()
try:
    store.get_trace_steps("t1")
except QueryTimeout:
    print("given up")
"""
    command = [sys.executable, "-c", program, proxied_url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        proxy.inject(Fault("silence", after_bytes=100_000))
        said, _ = process.communicate("go\n", timeout=HANGING_S)
    assert (said, process.returncode) == ("given up\n", 0)
