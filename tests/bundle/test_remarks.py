"""Odd facts are remarked, once each, and fail nothing; ordinary bundles have no remark."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from exporttools import (
    ExportBundle,
    ExportBundleStore,
    IncidentSnapshot,
    RunSnapshot,
    SnapshotTable,
    SourceSnapshot,
    TraceStepSnapshot,
    TraceSummarySnapshot,
    verify_bundle,
    write_bundle,
)
from exporttools.bundle.remarks import StepNumbers, remarks
from tests.bundle.bags import a_bundle
from tests.databases import NOON, incident, run, trace
from tests.steps import a_step, steps_of, with_extra

SECOND = dt.timedelta(seconds=1)
MINUTE = dt.timedelta(minutes=1)
END = NOON + 3 * MINUTE
READ = {"source": SourceSnapshot("postgresql", "18.1", "native", None, NOON + dt.timedelta(hours=1))}


def of_run(**changes: Any) -> dict[str, Any]:
    return READ | {"run": RunSnapshot(**run(**changes))}


def of_trace(**changes: Any) -> dict[str, Any]:
    return READ | {"trace": TraceSummarySnapshot(**trace(**changes))}


def of_steps(*indices: int, **changes: Any) -> dict[str, Any]:
    return READ | {"steps": steps_of(*(a_step(i, **changes) for i in indices))}


def nested(first: int, whole: int, part: int) -> SnapshotTable[TraceStepSnapshot]:
    """A step with usage, and one that is a part of it."""
    alike: dict[str, Any] = {"timestamp": NOON, "cost_cents": 0.0}
    rows = [a_step(first, tokens=whole, step_type="agent", **alike), a_step(first + 1, tokens=part, **alike)]
    return with_extra(steps_of(*rows), parent_step_index=pa.array([None, first], pa.int64()))


def read_at(moment: dt.datetime) -> dict[str, Any]:
    return {"source": SourceSnapshot("postgresql", "18.1", "native", None, moment)}


ODD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "nothing": (READ, []),
    "a run that ends before it starts": (
        of_run(completed_at=NOON - MINUTE) | {"trace": None, "steps": None},
        ["the run ends 1 min before it starts"],
    ),
    "steps before the run": (
        of_run(started_at=NOON + 30 * SECOND) | of_trace(violation_timestamp=None) | {"incident": None},
        ["the first step starts 30 s before the run"],
    ),
    "steps after the run": (of_run(completed_at=NOON + SECOND / 2), ["the last step starts 1.5 s after the run has ended"]),
    "a violation before the run": (
        of_trace(violation_timestamp=NOON - 2 * MINUTE), ["the violation is 2 min before the run starts"],
    ),
    "a violation after the run": (
        of_trace(violation_timestamp=END + MINUTE), ["the violation is 1 min after the run has ended"],
    ),
    "an incident before its run": (
        READ | {"incident": IncidentSnapshot(**incident(created_at=NOON - dt.timedelta(days=1)))},
        ["the incident was recorded 1 d before the run starts"],
    ),
    "a violation that is not there": (
        of_trace(violation_step_index=1_000), ["the violation is at step 1,000, which is not among the steps"],
    ),
    "a violation in a gap": (
        of_steps(0, 2, 5, timestamp=NOON),
        ["step_index has gaps: of the numbers 0 to 5, 3 have no step", "the violation is at step 1, which is not among the steps"],
    ),
    "one gap": (of_steps(1, 3, timestamp=NOON), ["step_index has gaps: of the numbers 1 to 3, 1 has no step"]),
    "a large gap": (
        of_steps(1, 2**31, timestamp=NOON),
        [f"step_index has gaps: of the numbers 1 to {2**31:,}, {2**31 - 2:,} have no step"],
    ),
    "usage that may count twice": (
        READ | {"steps": nested(0, 500, 900)}, ["1 step and parts of it have usage, so the totals may count some of it twice"],
    ),
    "usage that counts once": (READ | {"steps": nested(0, 900, 900)}, []),
    "more traces": (READ | {"trace_count": 3}, ["the run has 3 traces; the bundle contains one of them"]),
    "read before it happened": (
        read_at(END - 6 * MINUTE), ["it was read 6 min before what it tells of: the run's end, 2026-10-05 12:03:00 UTC"],
    ),
    "read before the incident was recorded": (
        read_at(NOON) | {"incident": IncidentSnapshot(**incident(created_at=NOON + 6 * MINUTE))},
        ["it was read 6 min before what it tells of: the record of the incident, 2026-10-05 12:06:00 UTC"],
    ),
    # What is ordinary
    "clocks of two machines": (read_at(END - 5 * MINUTE), []),
    "an end in whole seconds": (of_run(completed_at=NOON + SECOND), []),
    "an incident found long after": (
        READ | {"incident": IncidentSnapshot(**incident(created_at=NOON + 50 * MINUTE))}, [],
    ),
    "a run that goes on": (of_run(completed_at=None), []),
    "a run without times": (of_run(started_at=None, completed_at=None), []),
    "steps that begin at 1": (of_steps(1, 2, timestamp=NOON), []),
    "no trace": (READ | {"trace": None, "steps": None}, []),
    "no steps": (READ | {"steps": None}, []),
    "a run alone": (READ | {"incident": None, "trace": None, "steps": None}, []),
    "not read from a database": ({"source": None}, []),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_odd_facts_are_remarked_and_fail_nothing(case: str, tmp_path: Path) -> None:
    changes, expected = ODD[case]
    found = verify_bundle(write_bundle(a_bundle(**changes), tmp_path / "b"))
    assert (found.ok, list(found.remarks)) == (True, expected)
    for remark in expected:
        assert f"  remark      {remark}" in str(found).splitlines()
        assert remark.replace("'", "&#x27;") in found._repr_html_()
    assert found.to_dict()["remarks"] == expected


def remarked(bundle: ExportBundle, written_at: dt.datetime, now: dt.datetime) -> list[str]:
    stated = {"format_version": 2, "written_at": written_at.isoformat(), "rolled_up": {"ambiguous": 0}}
    numbers = StepNumbers()
    numbers.update(bundle.steps.to_arrow().to_batches()[0])
    return list(remarks(stated, bundle, bundle.row_totals["steps"], numbers, now=now))


def test_times_of_reading_and_writing() -> None:
    bundle, read = a_bundle(**READ), NOON + dt.timedelta(hours=1)
    assert remarked(bundle, read, read) == []
    assert remarked(bundle, read + 5 * MINUTE, read) == []
    assert remarked(bundle, read + 6 * MINUTE, read) == ["it was written 6 min in the future, by this machine's clock"]
    assert remarked(bundle, read - 6 * MINUTE, read) == ["it was written 6 min before it was read"]
    unread = a_bundle(source=None)
    assert remarked(unread, NOON - 3 * MINUTE, read) == [
        "it was written 6 min before what it tells of: the run's end, 2026-10-05 12:03:00 UTC"
    ]
    zone = dt.timezone(dt.timedelta(hours=-23))
    last = dt.datetime.max.replace(tzinfo=dt.UTC)
    first = dt.datetime.min.replace(tzinfo=dt.UTC)
    assert remarked(a_bundle(**read_at(first)), last, first)[1].endswith(" in the future, by this machine's clock")
    assert len(remarked(a_bundle(**read_at(NOON.astimezone(zone))), last, NOON)) == 1


def test_steps_are_seen_batch_by_batch() -> None:
    for size in (1, 2, 3, 100):
        numbers = StepNumbers(7)
        table = pa.table({"step_index": [0, 3, 7, 9, 12]})
        for batch in [*table.to_batches(max_chunksize=size), *table.slice(0, 0).to_batches()]:
            numbers.update(batch)
        assert (numbers.first, numbers.last, numbers.count, numbers.has_violation) == (0, 12, 5, True)


def test_made_up_incidents_are_not_odd(sample_urls: dict[str, str], tmp_path: Path) -> None:
    store = ExportBundleStore(sample_urls["sqlite"])
    for number, found in enumerate(store.list_incidents()):
        bundle = store.get_export_bundle(found.id)
        assert bundle is not None
        told = verify_bundle(write_bundle(bundle, tmp_path / str(number))).remarks
        assert [remark for remark in told if "traces" not in remark] == []


@pytest.mark.real
def test_real_incidents_are_not_odd(real: Path, tmp_path: Path) -> None:
    store = ExportBundleStore(real / "agents.sqlite")
    incidents = [(found.id, None) for found in store.list_incidents()]
    runs = [(None, found.run_id) for found in store.list_runs()]
    told = []
    for number, (incident_id, run_id) in enumerate(incidents + runs[::5]):
        bundle = store.get_export_bundle(incident_id, run_id=run_id)
        assert bundle is not None
        told += verify_bundle(write_bundle(bundle, tmp_path / str(number))).remarks
    assert len(incidents) == 3
    assert told == []


@pytest.mark.parametrize("where", ["status=good.bundle", "status=good/x.bundle", "model=cheap.bundle"])
def test_a_directory_that_names_a_column_is_remarked(tmp_path: Path, where: str) -> None:
    path = tmp_path / where
    path.parent.mkdir(exist_ok=True)
    bundle = a_bundle(**READ)
    verification = verify_bundle(write_bundle(bundle, path))
    assert verification.ok
    column, _, value = where.split("/")[0].partition("=")
    (remark,) = verification.remarks
    assert remark == (
        f"the path has the directory {column}={value}: DuckDB and others read {column} from it, the same in every row, and "
        "not from the file (in DuckDB, set hive_partitioning = false)"
    )
    file = path / "data/trace_steps.parquet"
    with duckdb.connect() as connection:
        assert connection.sql(f"select {column} from '{file}'").fetchall() == [(value,)] * 3
        honest = connection.sql(f"select {column} from read_parquet('{file}', hive_partitioning = false)").fetchall()
    assert [text for (text,) in honest] == bundle.steps.to_arrow()[column].to_pylist()


def test_other_names_with_an_equals_sign_are_ordinary(tmp_path: Path) -> None:
    path = tmp_path / "day=2026-10-05" / "1=1.bundle"
    path.parent.mkdir()
    assert verify_bundle(write_bundle(a_bundle(**READ), path)).remarks == ()
