"""One point in time across incident, run, trace and steps, while a writer moves money from one run to the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from exporttools import ExportBundle, ExportBundleStore
from exporttools.database import trace_store as trace_store_module
from exporttools.database.readers import BulkReader
from tests.databases import create_native, incident, run, run_sql, step, trace, wal_mode, writable

READS = 200


@pytest.fixture
def moving_money(fresh_url: str) -> Iterator[str]:
    """A database in which a thread moves cents between two runs and the steps of their traces, in one transaction a move.

    At any point in time the total is 100 and each run's cost is that of its trace's one step.
    """
    rows = {
        "incidents": [incident(id=f"i{i}", source_run_id=f"r{i}") for i in (1, 2)],
        "runs": [run(run_id=f"r{i}", total_cost_cents=50) for i in (1, 2)],
        "traces": [trace(trace_id=f"t{i}", run_id=f"r{i}") for i in (1, 2)],
        "trace_steps": [step(0, trace_id=f"t{i}", cost_cents=50.0) for i in (1, 2)],
    }
    url = wal_mode(create_native(fresh_url, rows))
    stop, moved = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def move() -> None:
        engine = writable(url)
        try:
            amount, sign = 0, 1
            while not stop.is_set():
                amount, sign = (amount + 1) % 40, -sign
                with engine.begin() as connection:
                    for name, share in (("1", 50 + sign * amount), ("2", 50 - sign * amount)):
                        connection.execute(
                            sa.text("UPDATE runs SET total_cost_cents = :c WHERE run_id = :r"),
                            {"c": share, "r": f"r{name}"},
                        )
                        connection.execute(
                            sa.text("UPDATE trace_steps SET cost_cents = :c WHERE trace_id = :t"),
                            {"c": share, "t": f"t{name}"},
                        )
                moved.set()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)
        finally:
            engine.dispose()

    thread = threading.Thread(target=move)
    thread.start()
    moved.wait(timeout=10)
    yield url
    stop.set()
    thread.join()
    assert failures == []


def _seen(bundle: ExportBundle | None) -> tuple[int | None, float]:
    assert bundle is not None
    assert bundle.run is not None
    return bundle.run.total_cost_cents, bundle.steps[0].cost_cents


def test_a_bundle_is_of_one_point_in_time(moving_money: str) -> None:
    store = ExportBundleStore(moving_money)
    seen = [_seen(store.get_export_bundle("i1")) for _ in range(READS)]
    assert [pair for pair in seen if pair[0] != pair[1]] == []
    assert len(set(seen)) > 1  # the writer was at work


def test_a_snapshot_holds_for_every_read_inside(moving_money: str) -> None:
    store = ExportBundleStore(moving_money)
    totals = set()
    for _ in range(READS // 4):
        with store.snapshot() as at_once:
            runs = at_once.list_runs()
            cents = [found.total_cost_cents or 0 for found in runs]
            totals.add(sum(cents))
            step_cents = [at_once.get_trace_steps(f"t{i}", "acme")[0].cost_cents for i in (1, 2)]
            assert sum(step_cents) == 100
            assert at_once.list_runs() == runs
            with at_once.snapshot():  # one inside is the same
                assert store.list_runs() == runs
    assert totals == {100}


def test_bulk_reads_are_at_the_same_point_in_time(moving_money: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ADBC reads on a connection of its own, which has to join the snapshot."""
    monkeypatch.setattr(trace_store_module, "BULK_ROWS", 1)
    joined = []
    read_table = BulkReader.read_table
    monkeypatch.setattr(
        BulkReader,
        "read_table",
        lambda *given, **named: joined.append(1) or read_table(*given, **named),
    )
    store = ExportBundleStore(moving_money)
    seen = [_seen(store.get_export_bundle("i1")) for _ in range(READS // 2)]
    assert [pair for pair in seen if pair[0] != pair[1]] == []
    assert len(joined) == (READS // 2 if "postgresql" in moving_money else 0)


def test_other_threads_are_not_in_the_snapshot(fresh_url: str) -> None:
    url = wal_mode(create_native(fresh_url, {"runs": [run()]}))
    store = ExportBundleStore(url)
    counts = []
    with store.snapshot():
        run_sql(url, "DELETE FROM runs")
        thread = threading.Thread(target=lambda: counts.append(len(store.list_runs())))
        thread.start()
        thread.join()
        counts.append(len(store.list_runs()))
    counts.append(len(store.list_runs()))
    assert counts == [0, 1, 0]
