"""A bundle of records: what belongs together, what is missing, exact totals."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import math
import pickle
from collections.abc import Callable
from typing import Any

import pyarrow as pa
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
from tests.databases import NOON, incident, run, trace
from tests.records.bundles import INCIDENT, RUN, SOURCE, TRACE, bundle_of
from tests.steps import HOSTILE, Tags, a_step, steps_of, with_extra

# What belongs together


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"run": RunSnapshot(**run(tenant_id="globex"))}, "the parts of a bundle belong to one tenant; found 'acme', 'globex'"),
        ({"run": RunSnapshot(**run(run_id="r2"))}, "the incident, run and trace of a bundle share one run_id; found 'r1', 'r2'"),
        ({"trace": TraceSummarySnapshot(**trace(run_id="r2"))}, "the incident, run and trace of a bundle share one run_id; found 'r1', 'r2'"),
        ({"incident": IncidentSnapshot(**incident(source_run_id=None))},
         "the incident, run and trace of a bundle share one run_id; found 'r1', None"),
        ({"trace": None}, "a bundle with 3 steps needs their trace"),
        ({"trace": None, "steps": steps_of(a_step())}, "a bundle with 1 step needs their trace"),
        ({"steps": SnapshotTable(TraceStepSnapshot, steps_of(a_step()).to_arrow(), total=7000)},
         "a bundle needs all 7,000 steps of its trace; a limit cut them to 1"),
        ({"steps": steps_of(a_step(0), a_step(2), a_step(1))},
         "steps: row 2 has step_index = 1 after 2; expected strictly ascending order. "
         "Sort the steps by step_index and drop duplicates"),
        ({"steps": steps_of(a_step(1), a_step(1))},
         "steps: row 1 has step_index = 1 after 1; expected strictly ascending order. "
         "Sort the steps by step_index and drop duplicates"),
        ({"steps": SnapshotTable(TraceStepSnapshot, pa.concat_tables([steps_of(a_step(5)).to_arrow(), steps_of(a_step(4)).to_arrow()]))},
         "steps: row 1 has step_index = 4 after 5; expected strictly ascending order. "
         "Sort the steps by step_index and drop duplicates"),
        ({"trace_count": 0}, "trace_count is 0; expected at least 1, the number of traces in the bundle"),
        ({"trace_count": -1, "trace": None, "steps": None}, "trace_count is -1; expected at least 0, the number of traces in the bundle"),
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


@pytest.mark.parametrize(("recorded", "said"), [(None, "unknown"), (0, "0 US cents"), (1234, "1,234 US cents")])
def test_a_cost_that_is_not_recorded_is_unknown(recorded: int | None, said: str) -> None:
    bundle = bundle_of(run=dataclasses.replace(RUN, total_cost_cents=recorded))
    assert f"recorded cost{said}trace" in Tags(bundle._repr_html_()).text
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


def test_failed_steps_are_counted_by_their_status() -> None:
    statuses = ["error", "FAILED", "STATUS_CODE_ERROR", "rate limited", "ok", "", "blocked", "errors"]
    bundle = bundle_of(steps=steps_of(*(a_step(i, status=status) for i, status in enumerate(statuses))))
    assert bundle.totals["failed"] == 4


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
