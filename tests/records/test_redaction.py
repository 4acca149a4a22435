"""Redacted texts: NULL in the bundle, listed by it, and gone from its memory."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exporttools import (
    ConfigError,
    ExportBundle,
    IncidentSnapshot,
    RunSnapshot,
    SnapshotTable,
    TraceStepSnapshot,
    TraceSummarySnapshot,
)
from tests.databases import incident, run, trace
from tests.records.bundles import RUN, bundle_of
from tests.steps import Tags, a_step, steps_of, with_extra

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
    assert list(after) == list(before)
    for name in shown.redacted:
        assert after.pop(name).null_count == len(before[name])
    for name, column in after.items():
        assert column.equals(before[name])
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
    with pytest.raises(
        ConfigError, match="^the incident, run and trace of a bundle share one run_id; found 'r1', 'r2'$"
    ):
        bundle_of(
            incident=shown.incident,
            trace=TraceSummarySnapshot(**trace(run_id="r2")),
            redacted=["incidents.source_run_id"],
        )
    with pytest.raises(
        ConfigError, match="^the incident, run and trace of a bundle share one run_id; found 'r1', None$"
    ):
        bundle_of(incident=shown.incident)


ACCEPTED = (
    "Redactable columns: incidents.source_run_id, incidents.severity, incidents.policy_id, incidents.policy_name, "
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
        ("total_cost_cents", "runs.total_cost_cents", "it holds int64, not text"),
        ("runs.started_at", "runs.started_at", "it holds timestamp[us, tz=UTC], not text"),
        ("duration_ms", "trace_steps.duration_ms", "it holds double, not text"),
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
    with pytest.raises(ConfigError) as caught:
        bundle_of(redacted=[name])
    assert str(caught.value) == f"'{name}' cannot be redacted: {why}. {ACCEPTED}"


def test_a_bare_name_is_redacted_everywhere_or_nowhere() -> None:
    runs = with_extra(SnapshotTable.from_records(RunSnapshot, [RUN]), status=pa.array(["ok"]), error=pa.array([1]))
    bundle = bundle_of(run=runs, steps=with_extra(bundle_of().steps, error=pa.array(["a", "b", "c"])))
    with pytest.raises(ConfigError, match="^'trace_steps.status' cannot be redacted: every row needs a value there. "):
        bundle.redact("status")
    assert bundle.redact("runs.status").redacted == ("runs.status",)
    with pytest.raises(ConfigError, match="^'runs.error' cannot be redacted: it holds int64, not text. "):
        bundle.redact("error")
    with pytest.raises(ConfigError, match=", trace_steps.content_hash, trace_steps.error$"):
        bundle.redact("error")


@pytest.mark.parametrize("redacted", ["runs.goal", 5, None, [None], [["runs.goal"]]])
def test_redacted_is_a_list_of_names(redacted: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        bundle_of(redacted=redacted)
    expected = "expected column names such as ['runs.goal']"
    assert str(caught.value) == f"redacted is {redacted!r}; {expected}"


def test_a_column_to_redact_is_named_by_text() -> None:
    with pytest.raises(ConfigError) as caught:
        bundle_of().redact(["goal"])  # type: ignore[arg-type]
    assert str(caught.value) == "['goal'] cannot be redacted: expected a column name such as 'runs.goal'"


def test_a_redacted_column_has_no_value() -> None:
    with pytest.raises(ConfigError) as caught:
        bundle_of(redacted=["trace_steps.content_hash", "runs.goal"])
    assert str(caught.value) == "'runs.goal' is listed as redacted, but 1 of 1 row holds a value"
    steps = with_extra(bundle_of().steps, model=pa.array([None, "m", ""]))
    with pytest.raises(ConfigError) as caught:
        bundle_of(steps=steps, redacted=["trace_steps.model"])
    assert str(caught.value) == "'trace_steps.model' is listed as redacted, but 2 of 3 rows hold a value"


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
    for name in TEXTS:
        chunks = columns_of(shown)[name].chunks
        assert not any(any(bytes(buffer)) for chunk in chunks for buffer in chunk.buffers() if buffer)
    left = {name: written(bundle.redact(name)).count(CANARY.encode()) for name in TEXTS}  # each on its own
    assert min(left.values()) > 0
    # Its value has to be the run's id, so it is the one text that cannot hold the canary.
    assert [name for name in TEXTS if left[name] >= written(bundle).count(CANARY.encode())] == [
        "incidents.source_run_id"
    ]


def test_text_beneath_a_null_goes_too() -> None:
    offsets = pa.py_buffer(np.array([0, len(CANARY)], "<i4").tobytes())
    masked = pa.StringArray.from_buffers(1, offsets, pa.py_buffer(CANARY.encode()), pa.py_buffer(b"\0"))
    assert masked.to_pylist() == [None]
    bundle = bundle_of(run=with_extra(SnapshotTable.from_records(RunSnapshot, [RUN]), note=masked))
    assert CANARY.encode() in written(bundle)
    assert CANARY.encode() not in written(bundle.redact("note"))
