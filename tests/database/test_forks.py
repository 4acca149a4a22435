"""After a fork, parent and child read on connections of their own; each reads its own truth."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from exporttools import ExportBundleStore, StoreError
from exporttools.database import forks, readers
from exporttools.database import trace_store as trace_store_module
from tests.databases import create_native, run, run_sql, step, trace, wal_mode, writable

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning"),
]

RUNS = 20
UNFIT = (
    ": this process was forked while SQLite was being read, which SQLite's locks do not survive; fork outside of snapshots "
    "and scans, or start processes by 'spawn'"
)
INSIDE = (
    ": this read or snapshot was begun before the process was forked, and belongs to the parent; begin it again in the "
    "child, outside of the parent's block"
)


FLEET = {  # the number of a trace's steps and their tokens tell the runs apart
    "runs": [run(run_id=f"r{i}") for i in range(RUNS)],
    "traces": [trace(trace_id=f"t{i}", run_id=f"r{i}") for i in range(RUNS)],
    "trace_steps": [step(j, trace_id=f"t{i}", tokens=i) for i in range(RUNS) for j in range(i + 1)],
}


@pytest.fixture
def fleet(fresh_url: str) -> str:
    return wal_mode(create_native(fresh_url, FLEET))


def in_child(act: Callable[[], Any]) -> Any:
    """What `act` returns in a forked child."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        try:
            said = pickle.dumps(act())
        except BaseException:  # noqa: BLE001
            said = pickle.dumps(traceback.format_exc())
        os.write(send, said)
        os.close(send)
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        answer = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return pickle.loads(answer)


def truth(store: ExportBundleStore, number: int) -> tuple[Any, ...]:
    found = store.get_run_by_run_id(f"r{number}")
    assert found is not None
    tokens = store.get_trace_steps(f"t{number}", "acme").to_arrow()["tokens"].to_pylist()
    return found.run_id, tokens


def expected(number: int) -> tuple[Any, ...]:
    return f"r{number}", [number] * (number + 1)


@contextmanager
def reading(store: ExportBundleStore) -> Iterator[None]:
    """Three threads that read all the while, and must never see anything but the truth."""
    stop = threading.Event()
    failures: list[Any] = []
    reads = [0] * 3

    def read(thread: int) -> None:
        while not stop.is_set():
            number = (reads[thread] * 7 + thread) % RUNS
            try:
                if truth(store, number) != expected(number):
                    failures.append(number)
            except Exception as error:  # noqa: BLE001
                failures.append(error)
            reads[thread] += 1

    threads = [threading.Thread(target=read, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert min(reads) > 0


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize("on_engine", [False, True])
def test_twenty_forks_while_threads_read(
    fleet: str, bulk: bool, on_engine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bulk:
        monkeypatch.setattr(trace_store_module, "BULK_ROWS", 1)
    engine = writable(fleet)
    store = ExportBundleStore(engine if on_engine else fleet)
    assert truth(store, 3) == expected(3)
    with reading(store):
        for i in range(20):
            found = in_child(lambda i=i: [truth(store, (i + j) % RUNS) for j in range(5)])
            assert found == [expected((i + j) % RUNS) for j in range(5)]
    assert truth(store, 4) == expected(4)
    engine.dispose()


def test_a_snapshot_belongs_to_the_process_that_took_it(fleet: str) -> None:
    store = ExportBundleStore(fleet)

    def read_inside() -> str:
        with pytest.raises(StoreError) as caught:
            store.list_runs()
        return str(caught.value)

    with store.snapshot():
        before = len(store.list_runs())
        assert in_child(read_inside).endswith(INSIDE)
        run_sql(fleet, "DELETE FROM runs")
        assert len(store.list_runs()) == before == RUNS
    assert len(store.list_runs()) == 0


def said_after_the_block(store: ExportBundleStore, act: Callable[[], Any]) -> Any:
    """What `act` returns in a child that was forked inside a snapshot, and has left its block."""
    receive, send = os.pipe()
    with store.snapshot():
        store.list_runs()
        child = os.fork()
    if child == 0:
        try:
            os.write(send, pickle.dumps(act()))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        return pickle.loads(pipe.read())


def test_a_child_that_leaves_the_parents_block_reads_again(fresh_postgres_url: str) -> None:
    store = ExportBundleStore(create_native(fresh_postgres_url, FLEET))
    assert said_after_the_block(store, lambda: truth(store, 2)) == expected(2)
    assert truth(store, 5) == expected(5)


def test_sqlite_is_not_read_where_its_locks_cannot_be_right(tmp_path: Path) -> None:
    store = ExportBundleStore(create_native(f"sqlite:///{tmp_path / 'fleet.sqlite'}", FLEET))

    def refused() -> str:
        with pytest.raises(StoreError) as caught:
            store.list_runs()
        return str(caught.value)

    assert said_after_the_block(store, refused).endswith(UNFIT)
    assert said_after_the_block(store, lambda: in_child(refused)).endswith(UNFIT)
    assert truth(store, 5) == expected(5)
    assert in_child(lambda: truth(store, 6)) == expected(6)


def test_a_fork_waits_for_sqlite_reads_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ExportBundleStore(create_native(f"sqlite:///{tmp_path / 'fleet.sqlite'}", FLEET))
    monkeypatch.setattr(forks, "FORK_WAIT_S", 0.05)
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with store.snapshot():
            inside.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(60)

    def refused() -> str:
        with pytest.raises(StoreError) as caught:
            store.list_runs()
        return str(caught.value)

    assert in_child(refused).endswith(UNFIT)
    assert len(store.list_runs()) == RUNS
    done.set()
    thread.join()
    assert in_child(lambda: len(store.list_runs())) == RUNS


@pytest.mark.parametrize("bulk", [False, True])
def test_a_scan_belongs_to_the_process_that_began_it(fleet: str, bulk: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "ROWS_PER_FETCH", 10)
    monkeypatch.setattr(readers, "_BULK_BATCH_BYTES", 1000)
    if not bulk:
        monkeypatch.setattr(readers.BulkReader, "_joined", lambda *_: None)
    store = ExportBundleStore(fleet)
    _, batches = store.trace_store.step_batches(  # type: ignore[attr-defined]
        tenant_id=None, since=None, until=None, agent_id=None, run_id=None, columns=["tokens"]
    )
    first = next(batches).num_rows

    def read_on() -> str:
        with pytest.raises(StoreError) as caught:
            next(batches)
        batches.close()
        return str(caught.value)

    assert in_child(read_on).endswith(INSIDE)
    assert first + sum(batch.num_rows for batch in batches) == sum(range(RUNS + 1))


def test_a_child_that_ends_as_usual_says_no_goodbye_for_its_parent(fleet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own, so that the child may run Python's whole shutdown."""
    program = """
import os, sys
from exporttools import ExportBundleStore
from exporttools.database import trace_store
trace_store.BULK_ROWS = 1
store = ExportBundleStore(sys.argv[1])
steps = store.get_trace_steps("t7", "acme")
child = os.fork()
if child == 0:
    assert len(store.get_trace_steps("t9", "acme")) == 10
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
bulk = store.trace_store._bulk
kept = list(bulk._idle)
assert store.get_trace_steps("t7", "acme") == steps
assert list(bulk._idle) == kept  # the same connection, still alive
print(len(kept))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, fleet], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stderr, done.stdout) == ("", "1\n" if "postgresql" in fleet else "0\n")


def test_a_child_waits_for_no_lock_that_a_thread_of_its_parent_held(
    fleet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_store_module, "BULK_ROWS", 1)
    store = ExportBundleStore(fleet)

    def read() -> Any:
        signal.alarm(30)  # a child that waits for a lock would wait for ever
        with store.window_snapshot() as window:
            return truth(store, 3), len(window.tenant_days(None, None, None))

    held = locks_of(store, set())
    for lock in held:
        lock.acquire()
    try:
        found = in_child(read)
    finally:
        for lock in held:
            lock.release()
    assert found == (expected(3), 0)
    assert read() == found
    signal.alarm(0)


def locks_of(thing: object, seen: set[int]) -> list[Any]:
    """The locks of an object of this package, and of all such objects that it holds."""
    if isinstance(thing, type(threading.Lock())):
        return [thing]
    if not type(thing).__module__.startswith("exporttools.") or id(thing) in seen:
        return []
    seen.add(id(thing))
    return [lock for held in getattr(thing, "__dict__", {}).values() for lock in locks_of(held, seen)]


def test_a_database_in_memory_is_copied_with_the_process() -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False})
    with engine.begin() as connection:
        for name in ("incidents", "runs", "traces", "trace_steps"):
            columns = {
                "incidents": "id TEXT, tenant_id TEXT, created_at TEXT",
                "runs": "run_id TEXT, tenant_id TEXT",
                "traces": "trace_id TEXT, run_id TEXT, tenant_id TEXT",
                "trace_steps": "tenant_id TEXT, trace_id TEXT, step_index INT, timestamp TEXT, step_type TEXT, tokens INT,"
                " cost_cents REAL, duration_ms REAL, status TEXT",
            }[name]
            connection.exec_driver_sql(f"CREATE TABLE {name} ({columns})")
        connection.exec_driver_sql("INSERT INTO runs VALUES ('r1', 'acme')")
    store = ExportBundleStore(engine)
    assert len(store.list_runs()) == 1
    assert in_child(lambda: len(store.list_runs())) == 1
    engine.dispose()
