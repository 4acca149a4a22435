"""The frozen records and the bundle of them: what belongs together, what is missing, exact totals."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exporttools import (
    ConfigError,
    ExportBundle,
    IncidentSnapshot,
    RunSnapshot,
    SnapshotTable,
    SourceSnapshot,
    TraceStepSnapshot,
    TraceSummarySnapshot,
)
from exporttools.files.digests import combined_digest, table_digest
from exporttools.records.statuses import FAILED_STATUSES
from tests.databases import NOON, incident, run, trace
from tests.steps import HOSTILE, Tags, a_step, steps_of, with_extra

INCIDENT = IncidentSnapshot(**incident())
RUN = RunSnapshot(**run())
TRACE = TraceSummarySnapshot(**trace())
SOURCE = SourceSnapshot("sqlite", "3.45", "native", None, NOON)


def bundle_of(**changes: Any) -> ExportBundle:
    """One of each with three steps."""
    steps = steps_of(a_step(0), a_step(1, status="error"), a_step(2))
    parts: dict[str, Any] = {"incident": INCIDENT, "run": RUN, "trace": TRACE, "steps": steps, "source": SOURCE}
    return ExportBundle(**parts | changes)


# The records


@pytest.mark.parametrize("record", [INCIDENT, RUN, TRACE, a_step()], ids=lambda record: type(record).__name__)
def test_a_record_is_a_row(record: Any) -> None:
    fields = [field.name for field in dataclasses.fields(record)]
    assert record.to_dict() == dataclasses.asdict(record)
    assert list(record.to_dict()) == fields
    table = record.to_arrow()
    assert table.schema.equals(type(record).RECORD_TYPE.arrow_schema(), check_metadata=True)
    assert table.to_pylist() == [record.to_dict()]
    frame = record.to_pandas()
    assert frame.shape == (1, len(fields))
    assert list(frame.columns) == fields
    for other in (pickle.loads(pickle.dumps(record)), copy.deepcopy(record)):
        assert other == record
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, fields[0], "other")
    with pytest.raises((AttributeError, TypeError)):
        record.other = 1
    assert hash(record) == hash(copy.deepcopy(record))
    assert repr(record).startswith(f"{type(record).__name__}({fields[0]}=")
    seen = Tags(record._repr_html_())
    assert seen.tags == {"table", "tbody", "tr", "th", "td"} | ({"i"} if None in record.to_dict().values() else set())
    assert all(name in seen.text for name in fields)


def test_a_records_integers_stay_integers_in_pandas() -> None:
    frame = RunSnapshot("r", "t").to_pandas()
    assert str(frame["total_cost_cents"].dtype) == "Int64"
    assert frame["total_cost_cents"][0] is pd.NA


def test_a_record_is_checked_when_it_becomes_a_row() -> None:
    with pytest.raises(ConfigError, match="started_at is datetime.datetime.*, a naive datetime"):
        RunSnapshot("r", "t", started_at=dt.datetime(2026, 1, 1)).to_arrow()
    with pytest.raises(ConfigError, match="^total_cost_cents is True; expected an int64$"):
        RunSnapshot("r", "t", total_cost_cents=True).to_pandas()


def test_hostile_text_is_inert() -> None:
    hostile = RunSnapshot(HOSTILE, HOSTILE, goal=HOSTILE * 50_000)
    assert not {"\x1b", "\u202e", "\n"} & set(repr(hostile))
    assert len(repr(hostile)) < 1200
    html = hostile._repr_html_()
    assert "script" not in Tags(html).tags
    assert len(html) < 2000


# What belongs together


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"run": RunSnapshot(**run(tenant_id="globex"))}, "the parts of a bundle belong to one tenant; found 'acme', 'globex'"),
        ({"run": RunSnapshot(**run(run_id="r2"))}, "incident, run and trace of a bundle name one run_id; found 'r1', 'r2'"),
        ({"trace": TraceSummarySnapshot(**trace(run_id="r2"))}, "incident, run and trace of a bundle name one run_id; found 'r1', 'r2'"),
        ({"incident": IncidentSnapshot(**incident(source_run_id=None))},
         "incident, run and trace of a bundle name one run_id; found 'r1', None"),
        ({"trace": None}, "a bundle with 3 steps needs the trace that they belong to"),
        ({"steps": SnapshotTable(TraceStepSnapshot, steps_of(a_step()).to_arrow(), total=7)},
         "a bundle needs all 7 steps of its trace; a limit cut them to 1"),
        ({"steps": steps_of(a_step(0), a_step(2), a_step(1))},
         "steps: row 2 has step_index = 1 after 2; expected strictly ascending. "
         "Sort the steps by step_index, with one step for each"),
        ({"steps": steps_of(a_step(1), a_step(1))},
         "steps: row 1 has step_index = 1 after 1; expected strictly ascending. "
         "Sort the steps by step_index, with one step for each"),
        ({"steps": SnapshotTable(TraceStepSnapshot, pa.concat_tables([steps_of(a_step(5)).to_arrow(), steps_of(a_step(4)).to_arrow()]))},
         "steps: row 1 has step_index = 4 after 5; expected strictly ascending. "
         "Sort the steps by step_index, with one step for each"),
        ({"trace_count": 0}, "trace_count is 0; expected at least 1, as many as the bundle has"),
        ({"trace_count": -1, "trace": None, "steps": None}, "trace_count is -1; expected at least 0, as many as the bundle has"),
        ({"trace_count": 1.0}, "trace_count is 1.0; expected an int"),
        ({"trace_count": True}, "trace_count is True; expected an int"),
        ({"trace_count": "1"}, "trace_count is '1'; expected an int"),
        ({"incident": RUN}, "expected IncidentSnapshot or None; found RunSnapshot"),
        ({"run": {}}, "expected RunSnapshot or None; found dict"),
        ({"run": SnapshotTable.from_records(RunSnapshot, [RUN, RUN])}, "expected at most one RunSnapshot; found 2 runs · 24 US cents"),
        ({"run": SnapshotTable.empty(IncidentSnapshot)}, "expected at most one RunSnapshot; found 0 incidents"),
        ({"steps": SnapshotTable.empty(RunSnapshot)}, "expected a SnapshotTable of TraceStepSnapshot or None; found 0 runs"),
        ({"steps": [a_step()]}, "expected a SnapshotTable of TraceStepSnapshot or None; found list"),
    ],
)  # fmt: skip
def test_parts_that_do_not_belong_together(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bundle_of(**parts)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("parts", "missing", "name"),
    [
        ({}, (), "i1"),
        ({"incident": None}, ("incident",), "r1"),
        ({"incident": None, "run": None}, ("incident", "run"), "t1"),
        ({"run": None}, ("run",), "i1"),
        ({"steps": None}, ("steps",), "i1"),
        ({"trace": None, "steps": None}, ("trace", "steps"), "i1"),
        ({"incident": IncidentSnapshot(**incident(source_run_id=None)), "run": None, "trace": None, "steps": None},
         ("run", "trace", "steps"), "i1"),
        ({"incident": None, "run": None, "trace": None, "steps": None}, ("incident", "run", "trace", "steps"), "empty bundle"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said(parts: dict[str, Any], missing: tuple[str, ...], name: str) -> None:
    bundle = bundle_of(**parts)
    assert bundle.missing == missing
    assert bundle.name == name
    assert bundle.tenant_id == (None if len(missing) == 4 else "acme")
    assert (f", missing {', '.join(missing)}>" in repr(bundle)) == bool(missing)
    assert (f"missing{', '.join(missing)}" in Tags(bundle._repr_html_()).text) == bool(missing)
    assert [part for part, table in bundle.tables.items() if not len(table)] == list(missing)


def test_parts_are_as_they_were_given() -> None:
    bundle = bundle_of(trace_count=3)
    assert (bundle.incident, bundle.run, bundle.trace) == (INCIDENT, RUN, TRACE)
    assert (bundle.trace_count, bundle.source, len(bundle.steps)) == (3, SOURCE, 3)
    assert "one of the run's 3" in Tags(bundle._repr_html_()).text
    assert "one of" not in bundle_of()._repr_html_()
    assert (bundle_of().trace_count, bundle_of(trace=None, steps=None).trace_count) == (1, 0)
    tables = {part: SnapshotTable.from_records(type(record), [record]) for part, record in
              (("incident", INCIDENT), ("run", RUN), ("trace", TRACE))}  # fmt: skip
    assert bundle_of(**tables) == bundle_of()


# Totals


def test_totals_are_exact() -> None:
    steps = steps_of(*(a_step(i, cost_cents=0.1, duration_ms=1e16 if i == 0 else 1.0, tokens=2**62) for i in range(10)))
    bundle = bundle_of(steps=steps)
    assert bundle.totals == {"steps": 10, "failed": 0, "tokens": 10 * 2**62, "cost_cents": 1.0, "duration_ms": 1e16 + 9}
    assert sum([0.1] * 10) != 1.0  # what adding up would give
    chunked = SnapshotTable(TraceStepSnapshot, pa.concat_tables([steps[:3].to_arrow(), steps[3:].to_arrow()]))
    assert bundle_of(steps=chunked).totals == bundle.totals
    assert bundle_of(steps=None).totals == {"steps": 0, "failed": 0, "tokens": 0, "cost_cents": 0.0, "duration_ms": 0.0}
    assert (
        bundle_of(steps=steps_of(a_step(0, cost_cents=1e308), a_step(1, cost_cents=1e308))).totals["cost_cents"]
        == math.inf
    )


def test_errors_are_the_steps_whose_status_is_one() -> None:
    statuses = [*sorted(FAILED_STATUSES), "ok", "", "Error", "errors"]
    bundle = bundle_of(steps=steps_of(*(a_step(i, status=status) for i, status in enumerate(statuses))))
    assert bundle.totals["failed"] == len(FAILED_STATUSES) == 4


def test_the_time_range_is_of_the_steps() -> None:
    early, late = dt.datetime(1, 1, 1, tzinfo=dt.UTC), dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC)
    bundle = bundle_of(steps=steps_of(a_step(0, timestamp=late), a_step(1), a_step(2, timestamp=early)))
    assert bundle.time_range == (early, late)
    assert bundle.time_range[0].tzinfo is dt.UTC
    assert bundle_of(steps=None).time_range is None


def test_totals_are_made_once_on_first_use() -> None:
    bundle = bundle_of()
    assert bundle._row_totals is None
    assert bundle.totals["steps"] == 3
    first = bundle.row_totals
    assert list(first) == ["incident", "run", "trace", "steps"]
    assert [totals.rows for totals in first.values()] == [1, 1, 1, 3]
    assert (bundle.content_digest, bundle.time_range) == (bundle_of().content_digest, (NOON, bundle.steps[2].timestamp))
    assert all(bundle.row_totals[part] is totals for part, totals in first.items())
    first.clear()
    assert bundle.totals["steps"] == 3
    assert pickle.loads(pickle.dumps(bundle)).table_digests == bundle.table_digests


# Immutable, equal by value


def test_a_bundle_cannot_be_changed() -> None:
    bundle = bundle_of()
    for name in ("source", "trace_count", "redacted", "run", "steps", "other", "_tables"):
        with pytest.raises(AttributeError) as caught:
            setattr(bundle, name, None)
        assert str(caught.value) == f"an ExportBundle is immutable; build a new one to change {name}"
        with pytest.raises(AttributeError) as caught:
            delattr(bundle, name)
        assert str(caught.value) == f"an ExportBundle is immutable; build a new one without {name}"
    bundle.tables.clear()
    assert bundle.missing == ()
    with pytest.raises(TypeError, match="unhashable"):
        hash(bundle)


OTHERS: list[Callable[[], object]] = [
    lambda: bundle_of(incident=None),
    lambda: bundle_of(run=dataclasses.replace(RUN, goal=None)),
    lambda: bundle_of(trace=dataclasses.replace(TRACE, violation_step_index=2)),
    lambda: bundle_of(steps=steps_of(a_step(0), a_step(1, status="error"), a_step(3))),
    lambda: bundle_of(steps=bundle_of().steps[:2]),
    lambda: bundle_of(steps=with_extra(bundle_of().steps, model=pa.array(["m"] * 3))),
]


@pytest.mark.parametrize("other", OTHERS)
def test_other_rows_are_another_bundle(other: Callable[[], ExportBundle]) -> None:
    assert bundle_of() != other()
    assert bundle_of().content_digest != other().content_digest


def test_equal_wherever_and_whenever_it_was_read() -> None:
    elsewhere = SourceSnapshot("postgresql", "18.1", "aos", "7:7:", NOON + dt.timedelta(days=1))
    for source in (elsewhere, None):
        assert bundle_of(source=source) == bundle_of()
        assert bundle_of(source=source).content_digest == bundle_of().content_digest
    assert bundle_of(trace_count=2) != bundle_of()
    assert bundle_of(trace_count=2).content_digest == bundle_of().content_digest  # the digest is over the rows
    assert bundle_of() != "a bundle"


def test_chunks_do_not_matter() -> None:
    steps = bundle_of().steps
    chunked = SnapshotTable(TraceStepSnapshot, pa.concat_tables([steps[:1].to_arrow(), steps[1:].to_arrow()]))
    assert bundle_of(steps=chunked) == bundle_of()
    assert bundle_of(steps=chunked).content_digest == bundle_of().content_digest


def test_the_digest_is_of_the_four_tables_in_order() -> None:
    bundle = bundle_of()
    names = ["incidents", "runs", "traces", "trace_steps"]
    digests = [table_digest(name, table.to_arrow()) for name, table in zip(names, bundle.tables.values(), strict=True)]
    assert bundle.table_digests == dict(zip(names, digests, strict=True))
    assert bundle.content_digest == combined_digest(digests)


def test_a_bundle_pickles_and_copies() -> None:
    bundle = bundle_of(trace_count=2, steps=with_extra(bundle_of().steps, model=pa.array(["m", None, "é"])))
    for other in (pickle.loads(pickle.dumps(bundle)), copy.copy(bundle), copy.deepcopy(bundle)):
        assert other == bundle
        assert (other.source, other.trace_count, other.content_digest) == (SOURCE, 2, bundle.content_digest)
        assert other.steps.extra_columns == ("model",)


# Redacted

CANARY = "CANARY-0f7c"


def full_bundle() -> ExportBundle:
    """With the canary in every text that may be redacted, extra columns among them, in several chunks and slices."""
    fields = dict.fromkeys(["severity", "policy_id", "policy_name", "violation_type"], CANARY)
    incident_table = SnapshotTable.from_records(IncidentSnapshot, [IncidentSnapshot(**incident(**fields))])
    fields = dict.fromkeys(["agent_id", "goal", "policy_snapshot_id", "termination_reason"], CANARY)
    steps = with_extra(
        steps_of(*(a_step(i, content_hash=f"{CANARY}{i}") for i in range(6))),
        model=pa.array([CANARY, None] * 3), weight=pa.array([1.5] * 6), error=pa.array([CANARY] * 6),
    )  # fmt: skip
    chunks = [steps[1:3].to_arrow(), steps[3:5].to_arrow()]
    return bundle_of(
        incident=with_extra(incident_table, summary=pa.array([CANARY]), weight=pa.array([7])),
        run=RunSnapshot(**run(**fields)),
        steps=SnapshotTable(TraceStepSnapshot, pa.concat_tables(chunks)),
        trace_count=2,
    )


TEXTS = (
    "incidents.policy_id", "incidents.policy_name", "incidents.severity", "incidents.source_run_id", "incidents.summary",
    "incidents.violation_type", "runs.agent_id", "runs.goal", "runs.policy_snapshot_id", "runs.termination_reason",
    "trace_steps.content_hash", "trace_steps.error", "trace_steps.model",
)  # fmt: skip


def columns_of(bundle: ExportBundle) -> dict[str, pa.ChunkedArray]:
    tables = [(table.record_type.table, table.to_arrow()) for table in bundle.tables.values()]
    return {f"{name}.{column}": table[column] for name, table in tables for column in table.column_names}


def test_what_is_redacted_is_null_and_nothing_else_is() -> None:
    bundle = full_bundle()
    shown = bundle.redact("goal", "trace_steps.error")
    assert shown.redacted == ("runs.goal", "trace_steps.error")
    before, after = columns_of(bundle), columns_of(shown)
    for name, column in after.items():
        assert column.null_count == len(column) if name in shown.redacted else column.equals(before[name])
    for part, table in shown.tables.items():
        assert table.schema.equals(bundle.tables[part].schema, check_metadata=True)
    assert (shown.trace_count, shown.source) == (bundle.trace_count, bundle.source)
    assert (shown.totals, shown.time_range) == (bundle.totals, bundle.time_range)
    assert shown.content_digest != bundle.content_digest
    assert (bundle.redacted, bundle.run and bundle.run.goal) == ((), CANARY)
    assert bundle == full_bundle()


def test_everything_that_may_be_redacted() -> None:
    shown = full_bundle().redact(*TEXTS)
    assert shown.redacted == TEXTS == tuple(sorted(TEXTS))
    assert {name for name, column in columns_of(shown).items() if column.null_count == len(column)} == set(TEXTS)
    assert shown.totals == full_bundle().totals
    assert shown.incident is not None
    assert (shown.incident.id, shown.incident.source_run_id) == ("i1", None)


def test_a_bare_name_is_that_column_wherever_it_is() -> None:
    runs = with_extra(SnapshotTable.from_records(RunSnapshot, [RUN]), error=pa.array(["x"]))
    bundle = bundle_of(run=runs, steps=with_extra(bundle_of().steps, error=pa.array(["a", "b", "c"])))
    assert bundle.redact("error").redacted == ("runs.error", "trace_steps.error")
    assert bundle.redact("runs.error").redacted == ("runs.error",)
    assert columns_of(bundle.redact("runs.error"))["trace_steps.error"].to_pylist() == ["a", "b", "c"]
    assert bundle.redact() == bundle


def test_a_column_named_like_a_table_and_its_column() -> None:
    dotted = {"runs.goal": pa.array(["x"] * 3), "error.message": pa.array(["y"] * 3)}
    bundle = bundle_of(steps=with_extra(bundle_of().steps, **dotted))
    assert bundle.redact("runs.goal").redacted == ("runs.goal",)
    assert bundle.redact("trace_steps.runs.goal").redacted == ("trace_steps.runs.goal",)
    assert bundle.redact("error.message").redacted == ("trace_steps.error.message",)


def test_redacting_adds_to_what_is_redacted() -> None:
    bundle = full_bundle()
    both = bundle.redact("goal").redact("severity")
    assert both == bundle.redact("severity", "runs.goal", "goal") == both.redact("goal")
    assert both.redacted == ("incidents.severity", "runs.goal")
    assert both != bundle.redact("goal")


def test_an_empty_part_may_have_a_column_redacted() -> None:
    shown = ExportBundle(run=RUN).redact("policy_name", "content_hash")
    assert shown.redacted == ("incidents.policy_name", "trace_steps.content_hash")
    assert shown.missing == ("incident", "trace", "steps")
    assert ExportBundle().redact("goal").redacted == ("runs.goal",)


def test_a_bundle_says_what_is_redacted() -> None:
    run_without_goal = dataclasses.replace(RUN, goal=None)
    told = bundle_of(run=run_without_goal, redacted=["trace_steps.content_hash", "runs.goal", "runs.goal"])
    assert told == bundle_of().redact("goal", "content_hash")
    assert told.redacted == ("runs.goal", "trace_steps.content_hash")
    untold = bundle_of(run=run_without_goal)
    assert untold != told
    assert untold.content_digest == told.content_digest  # the digest is over the rows
    for other in (pickle.loads(pickle.dumps(told)), copy.copy(told), copy.deepcopy(told)):
        assert (other, other.redacted) == (told, told.redacted)
    assert repr(told) == (
        "<ExportBundle 'i1' of 'acme': 3 steps · 303 tokens · 1.5 US cents · 2,700.75 ms, "
        "redacted runs.goal, trace_steps.content_hash>"
    )
    assert "redactedruns.goal, trace_steps.content_hash" in Tags(told._repr_html_()).text
    assert "redacted" not in repr(untold) + untold._repr_html_()


def test_a_run_id_that_was_taken_out_is_not_another() -> None:
    shown = bundle_of().redact("source_run_id")
    assert shown.incident is not None
    assert shown.incident.source_run_id is None
    assert shown.run == RUN
    with pytest.raises(ConfigError, match="^incident, run and trace of a bundle name one run_id; found 'r1', 'r2'$"):
        bundle_of(
            incident=shown.incident,
            trace=TraceSummarySnapshot(**trace(run_id="r2")),
            redacted=["incidents.source_run_id"],
        )
    with pytest.raises(ConfigError, match="^incident, run and trace of a bundle name one run_id; found 'r1', None$"):
        bundle_of(incident=shown.incident)


ACCEPTED = (
    "What can be: incidents.source_run_id, incidents.severity, incidents.policy_id, incidents.policy_name, "
    "incidents.violation_type, runs.agent_id, runs.goal, runs.policy_snapshot_id, runs.termination_reason, "
    "trace_steps.content_hash"
)


@pytest.mark.parametrize(
    ("column", "name", "why"),
    [
        ("tenant_id", "incidents.tenant_id", "every row needs a value there"),
        ("run_id", "runs.run_id", "every row needs a value there"),
        ("traces.run_id", "traces.run_id", "every row needs a value there"),
        ("step_type", "trace_steps.step_type", "every row needs a value there"),
        ("trace_steps.status", "trace_steps.status", "every row needs a value there"),
        ("total_cost_cents", "runs.total_cost_cents", "it holds no text, but int64"),
        ("runs.started_at", "runs.started_at", "it holds no text, but timestamp[us, tz=UTC]"),
        ("duration_ms", "trace_steps.duration_ms", "it holds no text, but double"),
        ("goals", "goals", "there is no such column"),
        ("run.goal", "run.goal", "there is no such column"),
        ("incidents.goal", "incidents.goal", "there is no such column"),
        ("model", "model", "there is no such column"),
        ("", "", "there is no such column"),
        ("\x1b[31mgo\nal", "go al", "there is no such column"),
    ],
)
def test_what_cannot_be_redacted(column: str, name: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bundle_of().redact("goal", column)
    assert str(caught.value) == f"'{name}' cannot be redacted: {why}. {ACCEPTED}"
    if column == name:
        with pytest.raises(ConfigError) as caught:
            bundle_of(redacted=[column])
        assert str(caught.value) == f"'{name}' cannot be redacted: {why}. {ACCEPTED}"


def test_a_bare_name_is_redacted_everywhere_or_nowhere() -> None:
    runs = with_extra(SnapshotTable.from_records(RunSnapshot, [RUN]), status=pa.array(["ok"]), error=pa.array([1]))
    bundle = bundle_of(run=runs, steps=with_extra(bundle_of().steps, error=pa.array(["a", "b", "c"])))
    with pytest.raises(ConfigError, match="^'trace_steps.status' cannot be redacted: every row needs a value there. "):
        bundle.redact("status")
    assert bundle.redact("runs.status").redacted == ("runs.status",)
    with pytest.raises(ConfigError, match="^'runs.error' cannot be redacted: it holds no text, but int64. "):
        bundle.redact("error")
    with pytest.raises(ConfigError, match=", trace_steps.content_hash, trace_steps.error$"):
        bundle.redact("error")


@pytest.mark.parametrize("redacted", ["runs.goal", 5, None, [None], [["runs.goal"]]])
def test_redacted_is_a_list_of_names(redacted: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        bundle_of(redacted=redacted)
    expected = "expected names of columns, such as ['runs.goal']"
    assert str(caught.value) == f"redacted is {redacted!r}; {expected}"


def test_a_column_to_redact_is_named_by_text() -> None:
    with pytest.raises(ConfigError) as caught:
        bundle_of().redact(["goal"])  # type: ignore[arg-type]
    assert str(caught.value) == "['goal'] cannot be redacted: expected a column's name, such as 'runs.goal'"


def test_a_redacted_column_has_no_value() -> None:
    with pytest.raises(ConfigError) as caught:
        bundle_of(redacted=["trace_steps.content_hash", "runs.goal"])
    assert str(caught.value) == "'runs.goal' is said to be redacted; expected NULL, found a value in 1 of 1 rows"
    steps = with_extra(bundle_of().steps, model=pa.array([None, "m", ""]))
    with pytest.raises(ConfigError) as caught:
        bundle_of(steps=steps, redacted=["trace_steps.model"])
    assert (
        str(caught.value) == "'trace_steps.model' is said to be redacted; expected NULL, found a value in 2 of 3 rows"
    )


def written(bundle: ExportBundle) -> bytes:
    """Whatever anyone may write of a bundle: Parquet with every statistic, Arrow streams, pickles, what is shown."""
    sink = io.BytesIO()
    for table in (table.to_arrow() for table in bundle.tables.values()):
        for dictionary in (True, False):
            parquet = io.BytesIO()
            pq.write_table(table, parquet, compression="none", use_dictionary=dictionary, write_page_index=True)
            sink.write(parquet.getvalue())
        with pa.ipc.new_stream(pa.PythonFile(stream := io.BytesIO(), "w"), table.schema) as writer:
            writer.write_table(table)
        sink.write(stream.getvalue())
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        sink.write(pickle.dumps(bundle, protocol))
    sink.write((repr(bundle) + bundle._repr_html_()).encode())
    return sink.getvalue()


def test_nothing_of_a_redacted_text_is_left() -> None:
    bundle = full_bundle()
    assert written(bundle).count(CANARY.encode()) > 100
    shown = bundle.redact(*TEXTS)
    assert CANARY.encode() not in written(shown)
    for name, column in columns_of(shown).items():
        if name in TEXTS:
            assert not any(any(bytes(buffer)) for chunk in column.chunks for buffer in chunk.buffers() if buffer)
    for name in TEXTS:  # each on its own
        part = bundle.redact(name)
        assert 0 < written(part).count(CANARY.encode()) < written(bundle).count(CANARY.encode()) or "source" in name


def test_text_beneath_a_null_goes_too() -> None:
    offsets = pa.py_buffer(np.array([0, len(CANARY)], "<i4").tobytes())
    masked = pa.StringArray.from_buffers(1, offsets, pa.py_buffer(CANARY.encode()), pa.py_buffer(b"\0"))
    assert masked.to_pylist() == [None]
    bundle = bundle_of(run=with_extra(SnapshotTable.from_records(RunSnapshot, [RUN]), note=masked))
    assert CANARY.encode() in written(bundle)
    assert CANARY.encode() not in written(bundle.redact("note"))


# Seen


def test_repr() -> None:
    assert repr(bundle_of()) == "<ExportBundle 'i1' of 'acme': 3 steps · 303 tokens · 1.5 US cents · 2,700.75 ms>"
    assert (
        repr(ExportBundle()) == "<ExportBundle 'empty bundle' of 'None': 0 steps, missing incident, run, trace, steps>"
    )


def test_a_hostile_bundle_is_inert() -> None:
    bundle = ExportBundle(
        IncidentSnapshot(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, NOON),
        RunSnapshot(HOSTILE, HOSTILE, goal=HOSTILE * 50_000),
        TraceSummarySnapshot(HOSTILE, HOSTILE, HOSTILE),
        with_extra(steps_of(a_step(0, step_type=HOSTILE)), **{HOSTILE: pa.array([HOSTILE])}),
    )
    seen = Tags(bundle._repr_html_())
    table = {"table", "thead", "tbody", "tr", "th", "td", "p", "i"}
    assert seen.tags <= {"h3", *table, "details", "summary", "svg", "text", "path", "line", "title"}
    assert not {name for name in seen.attributes if name.startswith("on") or name in ("href", "src", "id")}
    assert "<script>alert('x')" in seen.text
    shown = bundle.redact(HOSTILE)
    assert shown.redacted == (f"trace_steps.{HOSTILE}",)
    assert "redactedtrace_steps.<script>alert('x')" in Tags(shown._repr_html_()).text
    for text in (bundle._repr_html_(), repr(bundle), shown._repr_html_(), repr(shown)):
        assert not {"\x1b", "\u202e", "\n"} & set(text)
        assert len(text) < 12_000
