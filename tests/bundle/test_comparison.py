"""Comparing two bundles: the same rows, or exactly what differs."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporttools import (
    BundleUnreadable,
    Comparison,
    ConfigError,
    ExportBundle,
    IncidentSnapshot,
    RunSnapshot,
    SnapshotTable,
    SourceSnapshot,
    TraceStepSnapshot,
    TraceSummarySnapshot,
    VerificationFailed,
    compare_bundles,
    write_bundle,
    write_key_pair,
)
from exporttools.records.schema import ARROW_TYPES
from exporttools.records.snapshot_table import python_values
from tests.bundle.bags import a_bundle, bundles
from tests.databases import NOON, incident, run, trace
from tests.steps import HOSTILE, Tags, a_step, steps_of, with_extra

MICROSECOND = dt.timedelta(microseconds=1)
COLUMNS = ("table", "key", "change", "column", "a", "b")


def of_steps(*steps: TraceStepSnapshot, **extra: pa.Array) -> ExportBundle:
    return ExportBundle(trace=TraceSummarySnapshot(**trace()), steps=with_extra(steps_of(*steps), **extra))


def of_run(**changes: Any) -> ExportBundle:
    return ExportBundle(run=RunSnapshot(**run(**changes)))


def rows_of(comparison: Comparison) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in comparison.differences.to_pylist()]


def swapped(comparison: Comparison) -> Comparison:
    """What comparing b with a must give."""
    other = {"only in a": "only in b", "only in b": "only in a"}
    names = ["table", "key", "change", "column", "b", "a"]
    differences = comparison.differences.select(names).rename_columns(COLUMNS)
    changes = pa.array([other.get(change, change) for change in differences["change"].to_pylist()], pa.string())
    schema = comparison.differences.schema
    return Comparison(
        differences.set_column(2, schema.field("change"), changes).cast(schema),
        comparison.trace_counts[::-1],
        comparison.columns_only_in_b,
        comparison.columns_only_in_a,
        comparison.redacted,
    )


# The same


@pytest.mark.parametrize("bundle", [a_bundle(), ExportBundle(), of_run(), of_steps()])
def test_a_bundle_is_the_same_as_itself(bundle: ExportBundle) -> None:
    comparison = compare_bundles(bundle, pickle.loads(pickle.dumps(bundle)))
    assert comparison
    assert comparison.same
    assert rows_of(comparison) == []
    assert tuple(comparison.differences.schema.names) == COLUMNS
    assert (comparison.redacted, comparison.columns_only_in_a, comparison.columns_only_in_b) == ((), (), ())
    assert str(comparison) == "the same rows"
    assert repr(comparison) == "<Comparison: the same rows>"
    assert Tags(comparison._repr_html_()).text == "= the same rows"


def test_what_does_not_matter() -> None:
    at_once = of_steps(*(a_step(i, cost_cents=0.0) for i in range(5)), x=pa.array([1] * 5), y=pa.array(["w"] * 5))
    table = of_steps(*(a_step(i, cost_cents=-0.0) for i in range(5)), y=pa.array(["w"] * 5), x=pa.array([1] * 5)).steps
    chunks = pa.concat_tables([table.to_arrow().slice(0, 2), table.to_arrow().slice(2)])
    assert chunks["step_index"].num_chunks == 2
    bundle = ExportBundle(
        trace=at_once.trace,
        steps=SnapshotTable(TraceStepSnapshot, chunks),
        source=SourceSnapshot("sqlite", "3", "native", None, NOON),
    )
    assert compare_bundles(at_once, bundle).same
    assert compare_bundles(bundle, at_once).same


# What differs


def test_a_changed_value() -> None:
    comparison = compare_bundles(of_run(), of_run(total_cost_cents=15, goal=None))
    assert not comparison
    assert not comparison.same
    assert rows_of(comparison) == [
        ("runs", "r1", "changed", "goal", "sort the mail", None),
        ("runs", "r1", "changed", "total_cost_cents", "12", "15"),
    ]
    assert str(comparison) == (
        "not the same: 1 row differs\n"
        "  runs: 1 changed (goal in 1, total_cost_cents in 1)\n"
        "differences:\n"
        "  run r1: goal is 'sort the mail' in a, NULL in b\n"
        "  run r1: total_cost_cents is '12' in a, '15' in b"
    )
    assert repr(comparison) == "<Comparison: not the same: 1 row differs>"


def test_null_is_not_the_text_null() -> None:
    comparison = compare_bundles(of_run(goal="NULL"), of_run(goal=None))
    assert rows_of(comparison) == [("runs", "r1", "changed", "goal", "NULL", None)]
    assert "run r1: goal is 'NULL' in a, NULL in b" in str(comparison)
    assert not compare_bundles(of_run(goal=""), of_run(goal=None)).same


def test_values_are_told_apart_to_the_last_digit() -> None:
    a = of_steps(a_step(0), a_step(1, cost_cents=0.3), a_step(2, tokens=2**63 - 1))
    b = of_steps(a_step(0, timestamp=NOON + MICROSECOND), a_step(1, cost_cents=0.1 + 0.2), a_step(2, tokens=2**63 - 2))
    assert rows_of(compare_bundles(a, b)) == [
        ("trace_steps", "0", "changed", "timestamp", "2026-10-05 12:00:00.000000Z", "2026-10-05 12:00:00.000001Z"),
        ("trace_steps", "1", "changed", "cost_cents", "0.3", "0.30000000000000004"),
        ("trace_steps", "2", "changed", "tokens", "9223372036854775807", "9223372036854775806"),
    ]


def test_steps_are_matched_by_their_index_and_come_in_its_order() -> None:
    a = of_steps(*(a_step(i) for i in (0, 2, 9, 10)))
    b = of_steps(a_step(0, status="error"), a_step(1), a_step(9), a_step(10, status="error", tokens=7), a_step(100))
    comparison = compare_bundles(a, b)
    assert rows_of(comparison) == [
        ("trace_steps", "0", "changed", "status", "ok", "error"),
        ("trace_steps", "1", "only in b", None, None, None),
        ("trace_steps", "2", "only in a", None, None, None),
        ("trace_steps", "10", "changed", "tokens", "110", "7"),
        ("trace_steps", "10", "changed", "status", "ok", "error"),
        ("trace_steps", "100", "only in b", None, None, None),
    ]
    assert str(comparison).splitlines()[:5] == [
        "not the same: 5 rows differ",
        "  trace_steps: 2 changed (status in 2, tokens in 1), 1 only in a, 2 only in b",
        "differences:",
        "  step 0: status is 'ok' in a, 'error' in b",
        "  step 1: only in b",
    ]


def test_tables_come_in_their_order_and_rows_of_another_key_are_not_matched() -> None:
    a = ExportBundle(IncidentSnapshot(**incident(id="i2")), RunSnapshot(**run()))
    b = ExportBundle(
        IncidentSnapshot(**incident(id="i1")), RunSnapshot(**run()), TraceSummarySnapshot(**trace()), steps_of(a_step())
    )
    comparison = compare_bundles(a, b)
    assert [row[:3] for row in rows_of(comparison)] == [
        ("incidents", "i1", "only in b"), ("incidents", "i2", "only in a"), ("traces", "t1", "only in b"),
        ("trace_steps", "0", "only in b"),
    ]  # fmt: skip
    assert comparison.trace_counts == (0, 1)
    assert str(comparison) == (
        "not the same: 4 rows differ\n"
        "  incidents: 1 only in a, 1 only in b\n"
        "  traces: 1 only in b\n"
        "  trace_steps: 1 only in b\n"
        "  traces of the run: 0 in a, 1 in b\n"
        "differences:\n"
        "  incident i1: only in b\n"
        "  incident i2: only in a\n"
        "  trace t1: only in b\n"
        "  step 0: only in b"
    )


@pytest.mark.parametrize("part", ["incident", "run", "steps"])
def test_a_part_that_one_does_not_have(part: str) -> None:
    whole, without = a_bundle(), a_bundle(**{part: None})
    comparison = compare_bundles(whole, without)
    assert {row[2] for row in rows_of(comparison)} == {"only in a"}
    assert len(rows_of(comparison)) == len(whole.tables[part])
    # The steps that are not there have no extra column either.
    assert comparison.columns_only_in_a == (("trace_steps.model",) if part == "steps" else ())
    assert compare_bundles(without, whole) == swapped(comparison)


def test_the_count_of_traces() -> None:
    one, two = ExportBundle(trace=TraceSummarySnapshot(**trace())), a_bundle().trace
    comparison = compare_bundles(one, ExportBundle(trace=two, trace_count=2000))
    assert not comparison.same
    assert rows_of(comparison) == []
    assert comparison.trace_counts == (1, 2000)
    assert str(comparison) == "not the same\n  traces of the run: 1 in a, 2,000 in b"
    assert Tags(comparison._repr_html_()).text == "≠ not the sametraces of the run: 1 in a, 2,000 in b"


def test_extra_columns() -> None:
    a = of_steps(a_step(), model=pa.array(["large"]), weight=pa.array([1.5]), both=pa.array([1]), z=pa.array([1]))
    b = of_steps(a_step(), both=pa.array([2]), error=pa.array([None], pa.string()), weight=pa.array(["1.5"]))
    comparison = compare_bundles(a, b)
    assert rows_of(comparison) == [("trace_steps", "0", "changed", "both", "1", "2")]
    assert comparison.columns_only_in_a == ("trace_steps.model", "trace_steps.weight", "trace_steps.z")
    assert comparison.columns_only_in_b == ("trace_steps.error", "trace_steps.weight")
    assert str(comparison).splitlines()[2:5] == [
        "  columns only in a: trace_steps.model, trace_steps.z",
        "  columns only in b: trace_steps.error",
        "  columns whose type differs: trace_steps.weight",
    ]


def test_a_column_without_a_name() -> None:
    a, b = of_steps(a_step(), **{"": pa.array([1])}), of_steps(a_step(), **{"": pa.array([2])})
    assert rows_of(compare_bundles(a, b)) == [("trace_steps", "0", "changed", "", "1", "2")]
    assert str(compare_bundles(a, b)).endswith("step 0:  is '1' in a, '2' in b")


def test_a_column_alone_is_a_difference() -> None:
    a, b = of_steps(a_step()), of_steps(a_step(), error=pa.array([None], pa.string()))
    assert not compare_bundles(a, b).same
    assert str(compare_bundles(a, b)) == "not the same\n  columns only in b: trace_steps.error"
    assert str(compare_bundles(b, a)) == "not the same\n  columns only in a: trace_steps.error"


# What is redacted


def test_what_one_of_them_redacts_is_named_and_not_compared() -> None:
    whole = a_bundle()
    redacted = whole.redact("goal", "trace_steps.model")
    assert redacted != whole
    for comparison in (compare_bundles(whole, redacted), compare_bundles(redacted, whole)):
        assert comparison.same
        assert comparison.redacted == ("runs.goal", "trace_steps.model")
        assert str(comparison) == (
            "the same rows, as far as compared\n"
            "  redacted in one of them, not compared: runs.goal, trace_steps.model"
        )  # fmt: skip
        assert "= the same rows, as far as compared" in Tags(comparison._repr_html_()).text


def test_other_differences_are_still_found() -> None:
    a, b = of_run(goal="x").redact("goal"), of_run(goal="y", agent_id="other")
    comparison = compare_bundles(a, b)
    assert rows_of(comparison) == [("runs", "r1", "changed", "agent_id", "triage", "other")]
    assert comparison.redacted == ("runs.goal",)


def test_what_both_redact_is_equal() -> None:
    comparison = compare_bundles(of_run(goal="x").redact("goal"), of_run(goal="y").redact("goal", "agent_id"))
    assert comparison.same
    assert comparison.redacted == ("runs.agent_id",)


def test_a_redacted_column_that_the_other_does_not_have_is_a_difference() -> None:
    a = of_steps(a_step(), word=pa.array(["large"])).redact("word")
    for b in (of_steps(a_step()), of_steps(a_step(), word=pa.array([1]))):
        comparison = compare_bundles(a, b)
        assert not comparison.same
        assert comparison.columns_only_in_a == ("trace_steps.word",)
        assert comparison.redacted == ()
        assert compare_bundles(b, a) == swapped(comparison)


# From paths


def test_paths_are_read(tmp_path: Path) -> None:
    path = write_bundle(a_bundle(), tmp_path / "bundle")
    assert compare_bundles(path, str(path)).same
    assert compare_bundles(a_bundle(), path).same
    other = write_bundle(a_bundle(run=RunSnapshot(**run(goal="rest"))), tmp_path / "other")
    assert rows_of(compare_bundles(other, path)) == [("runs", "r1", "changed", "goal", "rest", "sort the mail")]
    run_alone = write_bundle(a_bundle(incident=None, trace=None, steps=None), tmp_path / "run")
    assert [row[:3] for row in rows_of(compare_bundles(run_alone, path))] == [
        ("incidents", "i1", "only in b"), ("traces", "t1", "only in b"),
        *(("trace_steps", str(i), "only in b") for i in range(3)),
    ]  # fmt: skip


def test_the_same_rows_are_no_proof_and_what_verifying_gave_is_said(tmp_path: Path) -> None:
    key = write_key_pair(tmp_path / "alice")
    signed = write_bundle(a_bundle(), tmp_path / "signed", signing_key=key)
    unsigned = write_bundle(a_bundle(), tmp_path / "unsigned")
    comparison = compare_bundles(signed, unsigned)
    assert comparison.verdicts == ("intact, signature not checked", "intact, unsigned")
    assert str(comparison) == "the same rows\n  a: intact, signature not checked\n  b: intact, unsigned"
    assert comparison.to_dict()["verdicts"] == {"a": "intact, signature not checked", "b": "intact, unsigned"}
    trusting = compare_bundles(signed, a_bundle(), trusted_keys=tmp_path / "alice.pub")
    assert trusting.verdicts == ("authentic, signed by alice.pub", None)
    assert str(trusting) == (
        "the same rows\n  a: authentic, signed by alice.pub\n  b: given in memory, not verified here"
    )
    for found in (comparison, trusting, compare_bundles(a_bundle(), a_bundle())):
        assert not {"✔", "✘"} & {*str(found), *repr(found), *found._repr_html_()}


def test_a_bundle_that_does_not_verify_is_not_compared(tmp_path: Path) -> None:
    path = write_bundle(a_bundle(), tmp_path / "bundle")
    with (path / "data" / "run.parquet").open("ab") as file:
        file.write(b"!")
    with pytest.raises(VerificationFailed, match='bundle" does not verify: .*run.parquet'):
        compare_bundles(a_bundle(), path)
    with pytest.raises(BundleUnreadable, match="no-such-bundle"):
        compare_bundles(tmp_path / "no-such-bundle", path)


@pytest.mark.parametrize(("given", "found"), [(None, "NoneType"), (b"path", "bytes"), (5, "int"), ({}, "dict")])
def test_neither_a_bundle_nor_a_path(given: Any, found: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compare_bundles(given, ExportBundle())
    assert str(caught.value) == f"a is of type {found}; expected an ExportBundle or the path of a bundle"
    with pytest.raises(ConfigError, match=f"^b is of type {found}; expected"):
        compare_bundles(ExportBundle(), given)


# What a comparison gives


def test_it_is_immutable_and_pickles() -> None:
    comparison = compare_bundles(of_run(), of_run(goal=None))
    with pytest.raises(dataclasses.FrozenInstanceError):
        comparison.redacted = ("runs.goal",)  # type: ignore[misc]
    assert not hasattr(comparison, "__dict__")
    copied = pickle.loads(pickle.dumps(comparison))
    assert copied == comparison
    assert copied != compare_bundles(of_run(), of_run())


def test_pandas() -> None:
    frame = compare_bundles(of_run(), of_run(goal=None, agent_id="x")).to_pandas()
    assert tuple(frame.columns) == COLUMNS
    assert frame["column"].tolist() == ["agent_id", "goal"]
    assert frame["a"].tolist() == ["triage", "sort the mail"]
    assert frame["b"].isna().tolist() == [False, True]
    assert {str(kind) for kind in frame.dtypes} == {"str"}
    assert compare_bundles(of_run(), of_run()).to_pandas().empty


def test_json() -> None:
    a = of_steps(a_step(0), a_step(1), model=pa.array(["x", "y"])).redact("content_hash")
    b = of_steps(a_step(0, tokens=7), a_step(2), error=pa.array(["x", None]))
    nothing = {"changed": 0, "only_in_a": 0, "only_in_b": 0, "columns": {}}
    only = {"table": "trace_steps", "column": None, "a": None, "b": None}
    assert json.loads(json.dumps(compare_bundles(a, b).to_dict())) == {
        "same": False,
        "rows": {
            "incidents": nothing, "runs": nothing, "traces": nothing,
            "trace_steps": {"changed": 1, "only_in_a": 1, "only_in_b": 1, "columns": {"tokens": 1}},
        },
        "trace_counts": {"a": 1, "b": 1},
        "columns_only_in_a": ["trace_steps.model"],
        "columns_only_in_b": ["trace_steps.error"],
        "redacted": ["trace_steps.content_hash"],
        "verdicts": {"a": None, "b": None},
        "differences": [
            {"table": "trace_steps", "key": "0", "change": "changed", "column": "tokens", "a": "100", "b": "7"},
            {"key": "1", "change": "only in a", **only},
            {"key": "2", "change": "only in b", **only},
        ],
    }  # fmt: skip
    assert compare_bundles(a, a).to_dict()["same"] is True


def test_the_first_ten_are_shown_and_it_says_so() -> None:
    a, b = (of_steps(*(a_step(i, status=status) for i in range(12))) for status in ("ok", "error"))
    comparison = compare_bundles(a, b)
    lines = str(comparison).splitlines()
    assert lines[:3] == [
        "not the same: 12 rows differ",
        "  trace_steps: 12 changed (status in 12)",
        "the first 10 of 12 differences:",
    ]
    assert [line.split(":")[0] for line in lines[3:]] == [f"  step {i}" for i in range(10)]
    seen = Tags(comparison._repr_html_())
    assert "≠ not the same: 12 rows differ" in seen.text
    assert "the first 10 of 12 differences:" in seen.text
    assert "step 9changedstatus'ok''error'" in seen.text
    assert "step 10" not in seen.text
    assert len(rows_of(comparison)) == 12


def test_long_texts_are_shown_where_they_part_and_kept_whole() -> None:
    text = "mail " * 400_000
    comparison = compare_bundles(of_run(goal=text + "a" * 100), of_run(goal=text + "b"))
    assert rows_of(comparison)[0][4:] == (text + "a" * 100, text + "b")
    line = str(comparison).splitlines()[-1]
    assert line == (
        "  run r1: goal (from character 2,000,001) is "
        f"…'ail mail mail mail {'a' * 61}'… in a, …'ail mail mail mail b' in b"
    )
    # One that is the beginning of the other, and one that parts early.
    line = str(compare_bundles(of_run(goal=text), of_run(goal=text + "b"))).splitlines()[-1]
    assert line.endswith("(from character 2,000,001) is …'ail mail mail mail ' in a, …'ail mail mail mail b' in b")
    line = str(compare_bundles(of_run(goal=text), of_run(goal="snail"))).splitlines()[-1]
    assert line == f"  run r1: goal is '{text[:79]} '… in a, 'snail' in b"


@pytest.mark.parametrize(("a", "b", "character"), [("the  end", "the end", 5), ("\u00e9", "e\u0301", 1)])
def test_where_texts_part_that_may_look_alike(a: str, b: str, character: int) -> None:
    line = str(compare_bundles(of_run(goal=a), of_run(goal=b))).splitlines()[-1]
    assert line.startswith(f"  run r1: goal (from character {character}) is ")


def test_hostile_text_is_inert() -> None:
    names = {HOSTILE: pa.array([HOSTILE * 10_000]), "\x1b]": pa.array(["\x1b]"]), "}\x07": pa.array(["w"])}
    a = ExportBundle(run=RunSnapshot(HOSTILE, HOSTILE, HOSTILE, HOSTILE * 50_000))
    steps = with_extra(steps_of(a_step(0, status=HOSTILE)), **names)
    trace_found = TraceSummarySnapshot(HOSTILE, HOSTILE, HOSTILE)
    b = ExportBundle(run=RunSnapshot(HOSTILE, HOSTILE, None, "\x1b]0;"), trace=trace_found, steps=steps)
    other = {HOSTILE: pa.array(["\x07"]), "only\x9b31m": pa.array([1])}
    c = ExportBundle(trace=trace_found, steps=with_extra(steps_of(a_step(0)), **other))
    for comparison in (compare_bundles(a, b), compare_bundles(b, c), compare_bundles(b.redact(HOSTILE), c)):
        html, text = comparison._repr_html_(), str(comparison)
        seen = Tags(html)
        assert seen.tags <= {"p", "b", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
        assert seen.attributes <= {"style"}
        for shown in (html, text, repr(comparison)):
            assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(shown)
            assert len(shown) < 10_000
        assert "<script>alert('x')" in seen.text
        assert "\n" not in html
        assert len(text.splitlines()) <= 3 + 4 + 5 + 10
    # An escape sequence that one name begins does not take the next name with it.
    assert "columns only in a: trace_steps., trace_steps.}�\n" in str(compare_bundles(b, c))


# Any bundles

VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    ARROW_TYPES["string"]: st.text(max_size=5),
    ARROW_TYPES["int64"]: st.integers(0, 2**63 - 1),
    ARROW_TYPES["float64"]: st.floats(0, allow_infinity=False, allow_nan=False),
    ARROW_TYPES["timestamp"]: st.datetimes(timezones=st.just(dt.UTC)),
}
READ_BACK: dict[pa.DataType, Callable[[str], Any]] = {
    ARROW_TYPES["string"]: str,
    ARROW_TYPES["int64"]: int,
    ARROW_TYPES["float64"]: float,
    ARROW_TYPES["timestamp"]: dt.datetime.fromisoformat,
}
# What holds a bundle together, and so is not changed in one of its parts alone.
TIES = {"tenant_id", "run_id", "source_run_id"}


def records_of(bundle: ExportBundle) -> dict[str, dict[str, Any]]:
    """The rows by their table and then by their key, in plain Python."""
    found: dict[str, dict[str, Any]] = {}
    for table in bundle.tables.values():
        (key,) = table.record_type.key
        rows = zip(*map(python_values, table.to_arrow().columns), strict=True)
        named = [dict(zip(table.schema.names, row, strict=True)) for row in rows]
        found[table.record_type.table] = {row[key]: row for row in named}
    return found


def with_cell(bundle: ExportBundle, part: str, row: int, column: str, value: Any) -> ExportBundle:
    tables = bundle.tables
    arrow, place = tables[part].to_arrow(), tables[part].schema.names.index(column)
    values = [*python_values(arrow[column])[:row], value, *python_values(arrow[column])[row + 1 :]]
    changed = arrow.set_column(place, arrow.schema.field(place), pa.array(values, arrow.schema.field(place).type))
    tables[part] = SnapshotTable(tables[part].snapshot_type, changed)
    return ExportBundle(*tables.values(), trace_count=bundle.trace_count)


@st.composite
def cells(draw: st.DrawFn, bundle: ExportBundle) -> tuple[str, int, str, Any]:
    """A part, a row and a column of a bundle, and another value for it."""
    part = draw(st.sampled_from([part for part in bundle.tables if part not in bundle.missing]))
    table = bundle.tables[part]
    row = draw(st.integers(0, len(table) - 1))
    free = {*table.schema.names} - TIES - {*table.record_type.key}
    field = table.schema.field(draw(st.sampled_from(sorted(free))))
    values = st.none() | VALUES[field.type] if field.nullable else VALUES[field.type]
    old = python_values(table.to_arrow()[field.name])[row]
    return part, row, field.name, draw(values.filter(lambda value: value != old))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(st.data())
def test_one_cell_is_one_difference(data: st.DataObject) -> None:
    a = data.draw(bundles())
    assert compare_bundles(a, a).same
    part, row, column, new = data.draw(cells(a))
    b = with_cell(a, part, row, column, new)
    comparison = compare_bundles(a, b)
    table = a.tables[part]
    record_type, arrow = table.record_type, table.to_arrow()
    ((table_found, key, change, column_found, *texts),) = rows_of(comparison)
    assert (table_found, change, column_found) == (record_type.table, "changed", column)
    assert key == str(arrow[record_type.key[0]][row].as_py())
    read_back = READ_BACK[arrow[column].type]
    old = python_values(arrow[column])[row]
    assert [text if text is None else read_back(text) for text in texts] == [old, new]
    assert not comparison.same
    assert comparison == Comparison(comparison.differences, (a.trace_count, a.trace_count))
    assert compare_bundles(b, a) == swapped(comparison)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_differences_are_those_that_plain_python_finds(data: st.DataObject) -> None:
    a = b = data.draw(bundles())
    for _ in range(data.draw(st.integers(0, 4))):
        b = with_cell(b, *data.draw(cells(b)))
    kept = data.draw(st.lists(st.booleans(), min_size=len(b.steps), max_size=len(b.steps)))
    tables = b.tables
    tables["steps"] = SnapshotTable(TraceStepSnapshot, b.steps.to_arrow().filter(pa.array(kept, pa.bool_())))
    for part in data.draw(st.sets(st.sampled_from(["incident", "run"]))):
        tables[part] = SnapshotTable.empty(tables[part].snapshot_type)
    b = ExportBundle(*tables.values(), trace_count=data.draw(st.integers(1, 2)))
    hidden = set(data.draw(st.sets(st.sampled_from(["runs.goal", "trace_steps.content_hash"]))))
    b = b.redact(*hidden)

    expected = []
    for table, rows_a in records_of(a).items():
        rows_b = records_of(b)[table]
        for key in sorted({*rows_a, *rows_b}):
            if key not in rows_b or key not in rows_a:
                change = "only in a" if key in rows_a else "only in b"
                expected.append((table, str(key), change, None))
                continue
            expected += [
                (table, str(key), "changed", column)
                for column, value in rows_a[key].items()
                if value != rows_b[key][column] and f"{table}.{column}" not in hidden
            ]
    comparison = compare_bundles(a, b)
    assert sorted(row[:4] for row in rows_of(comparison) if row[3]) == sorted(row for row in expected if row[3])
    assert [row[:3] for row in rows_of(comparison)] == [row[:3] for row in expected]
    assert comparison.redacted == tuple(sorted(hidden))
    assert comparison.same == (not expected and a.trace_count == b.trace_count)
    assert compare_bundles(b, a) == swapped(comparison)
    json.dumps(comparison.to_dict())
    Tags(comparison._repr_html_())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bundles(), bundles())
def test_swapping_swaps_what_is_found(a: ExportBundle, b: ExportBundle) -> None:
    assert compare_bundles(b, a) == swapped(compare_bundles(a, b))
