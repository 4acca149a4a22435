"""What calls would have cost on another model or at another time: against the price list's own arithmetic."""

from __future__ import annotations

import datetime as dt
import math
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from genai_prices import Usage, calc_price
from hypothesis import given
from hypothesis import strategies as st

from exporttools import MissingExtra, read_traces
from exporttools.analysis import cost_by, reprice, repricing_by, repricing_verdict
from exporttools.errors import ColumnNotFound, ConfigError
from exporttools.records.schema import TOKEN_KINDS
from tests.analysis.steps import NOON, every_kind, frame, local_kinds, step
from tests.analysis.test_frames import SHAPES
from tests.frames import FrameKind, assert_same, rows

# Dask and Spark deprecate things of their own and of each other's.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

JUNE = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
ADDED = ["cost_cents_before", "repricing", "repriced_as", "assumed"]
MODELS = ("claude-opus-4-6", "claude-haiku-4-5", "gpt-5.5", "gemini-2.5-pro", "o3")


def calls(*changes: dict[str, Any]) -> pa.Table:
    """Steps with a model, tokens by kind, and a price basis."""
    usual: dict[str, Any] = {
        "model": "claude-opus-4-6", "price_basis": None, "input_tokens": 1_000_000, "output_tokens": 100_000,
        "cache_read_tokens": 0, "cache_write_tokens": 0, "cache_write_1h_tokens": 0, "reasoning_tokens": 0,
    }  # fmt: skip
    texts = ("model", "price_basis")
    extra = [usual | {name: value for name, value in c.items() if name in usual} for c in changes]
    table = frame(
        *(
            step(i, **{"tokens": 1_100_000, "cost_cents": 7.0} | {n: v for n, v in c.items() if n not in usual})
            for i, c in enumerate(changes)
        )
    )
    for name in usual:
        kind = pa.string() if name in texts else pa.int64()
        table = table.append_column(name, pa.array([row[name] for row in extra], kind))
    return table


def with_kinds(ledger: pa.Table) -> pa.Table:
    """The sample, as if it said of what kind its tokens were, and with models that are known."""
    known = dict(zip(("heron-3", "lark-2", "lark-mini-2", "condor-1"), MODELS, strict=False))
    models = [known.get(model, model) for model in ledger["model"].to_pylist()]
    tokens = ledger["tokens"].to_numpy()
    used = pa.array(tokens > 0)
    for name, counts in {
        "input_tokens": tokens - tokens // 5, "output_tokens": tokens // 5, "cache_read_tokens": tokens // 3,
        "cache_write_tokens": tokens // 7, "cache_write_1h_tokens": tokens // 11,
    }.items():  # fmt: skip
        ledger = ledger.append_column(name, pc.if_else(used, pa.array(counts, pa.int64()), None))
    return ledger.set_column(ledger.column_names.index("model"), "model", pa.array(models, pa.string()))


def theirs(model: str, at: dt.datetime, provider: str | None = None, **usage: int) -> float:
    """What the library says, in US cents."""
    found = calc_price(Usage(**usage), model, provider_id=provider, genai_request_timestamp=at)
    return float(found.total_price * 100)


@every_kind
def test_every_kind_of_frame_gives_the_same_answer_and_stays_as_it_was(kind: FrameKind, ledger: pa.Table) -> None:
    table = with_kinds(ledger)
    expected = reprice(table, {"claude-opus-4-6": "claude-haiku-4-5", "gpt-5.5": "unheard-of-1"})
    assert expected.column_names == [*table.column_names, *ADDED]
    assert expected["step_index"].equals(table["step_index"])
    given_frame = kind.make(table)
    before = rows(given_frame)
    answer = reprice(given_frame, {"claude-opus-4-6": "claude-haiku-4-5", "gpt-5.5": "unheard-of-1"})
    assert type(answer) is type(given_frame)
    assert rows(given_frame) == before
    order = [("trace_id", "ascending"), ("step_index", "ascending")]
    assert_same(rows(answer).sort_by(order), rows(expected).sort_by(order))
    assert repricing_verdict(answer) == repricing_verdict(expected)
    assert_same(repricing_by(answer, "agent_id"), rows(repricing_by(expected, "agent_id")))
    assert_same(cost_by(answer, "agent_id"), rows(cost_by(expected, "agent_id")))


@local_kinds
@pytest.mark.parametrize("shape", SHAPES)
def test_odd_frames_have_answers(kind: FrameKind, shape: str) -> None:
    table = SHAPES[shape]
    for name, of in (("input_tokens", pa.int64()), ("output_tokens", pa.int64()), ("model", pa.string())):
        table = table.append_column(name, pa.nulls(len(table), of))
    found = rows(reprice(kind.make(table), "claude-haiku-4-5"))
    assert len(found) == len(table)
    assert found.column_names == [*table.column_names, *ADDED]
    assert set(found["repricing"].to_pylist()) <= {"kept", "unknown tokens"}


TOKENS = st.integers(0, 400_000)
CALLS = st.fixed_dictionaries(
    {
        "model": st.sampled_from(MODELS), "timestamp": st.datetimes(dt.datetime(2025, 1, 1), dt.datetime(2026, 12, 31), timezones=st.just(dt.UTC)),
        "plain": TOKENS, "cache_read_tokens": TOKENS, "short": TOKENS, "cache_write_1h_tokens": TOKENS, "output_tokens": TOKENS,
    }
)  # fmt: skip


@given(st.lists(CALLS, max_size=6), st.sampled_from([None, *MODELS]), st.sampled_from([None, JUNE]))
def test_costs_are_the_library_s(made: list[dict[str, Any]], model: str | None, at: dt.datetime | None) -> None:
    for call in made:
        call["cache_write_tokens"] = call.pop("short") + call["cache_write_1h_tokens"]
        call["input_tokens"] = call.pop("plain") + call["cache_read_tokens"] + call["cache_write_tokens"]
        call["tokens"] = call["input_tokens"] + call["output_tokens"]
    found = reprice(calls(*made), model, at=at)
    for call, row in zip(made, found.to_pylist(), strict=True):
        usage = {name: call[name] for name in TOKEN_KINDS if name in call}
        if not call["tokens"]:
            assert (row["repricing"], row["cost_cents"]) == ("unknown tokens", None)
            continue
        expected = theirs(model or call["model"], at or call["timestamp"], **usage)
        assert row["cost_cents"] == pytest.approx(expected, rel=1e-12)
        assert (row["repricing"], row["repriced_as"], row["assumed"]) == ("priced", model or call["model"], None)


@pytest.mark.real
def test_real_sessions_by_their_own_prices_cost_what_they_were_imported_with(real: Path) -> None:
    if not (real / "sessions").is_dir():
        pytest.skip(f"no real sessions at {real}")
    steps = read_traces(real / "sessions").trace_steps
    found = reprice(steps)
    priced = found.filter(pc.equal(steps["cost_source"], "priced"))
    assert len(priced) == 406
    assert priced["cost_cents"].to_pylist() == priced["cost_cents_before"].to_pylist()
    assert set(priced["repricing"].to_pylist()) == {"priced"}
    assert priced["assumed"].null_count == len(priced)
    unpriced = found.filter(pc.equal(steps["cost_source"], "none"))
    assert set(unpriced["repricing"].to_pylist()) == {"unknown model"}
    none = found.filter(pc.is_null(steps["cost_source"]))
    assert none["cost_cents"].to_pylist() == none["cost_cents_before"].to_pylist()


@local_kinds
def test_what_is_done_with_each_step(kind: FrameKind) -> None:
    tool = {"model": None, "tokens": 0, "input_tokens": None, "output_tokens": None, "cost_cents": 3.0}
    steps = calls(
        {}, tool, {"model": "lark-2"}, {"model": None}, {"input_tokens": None}, {"output_tokens": None},
        {"cache_read_tokens": 900_000, "cache_write_tokens": 200_000}, {"cache_write_1h_tokens": 1}, {"output_tokens": -1},
        {"input_tokens": 0, "output_tokens": 0, "tokens": 0, "cost_cents": 0.0}, {"input_tokens": 0, "output_tokens": 0, "tokens": 0},
        {"price_basis": "genai-prices 0.1, claude-opus-4-6, fast"}, {"cost_cents": math.nan}, tool | {"cost_cents": None},
    )  # fmt: skip
    found = rows(reprice(kind.make(steps), at=JUNE)).to_pylist()
    assert [(row["cost_cents"], row["repricing"], row["repriced_as"]) for row in found] == [
        (750.0, "priced", "claude-opus-4-6"), (3.0, "kept", None), (None, "unknown model", "lark-2"), (None, "unknown model", None),
        *[(None, "unknown tokens", None)] * 5, (0.0, "kept", None), (None, "unknown tokens", None),
        (None, "unknown tier", "claude-opus-4-6, fast"), (750.0, "priced", "claude-opus-4-6"), (None, "kept", None),
    ]  # fmt: skip
    assert [row["cost_cents_before"] for row in found] == [7.0, 3.0, *[7.0] * 7, 0.0, 7.0, 7.0, None, None]


def test_one_model_for_all_prices_calls_whose_model_is_not_known() -> None:
    steps = calls({"model": None}, {"model": "lark-2"})
    assert reprice(steps, "claude-haiku-4-5", at=JUNE)["cost_cents"].to_pylist() == [150.0, 150.0]
    assert reprice(steps.drop_columns(["model"]), "claude-haiku-4-5", at=JUNE)["cost_cents"].to_pylist() == [
        150.0,
        150.0,
    ]


def test_some_models_replaced_and_the_others_kept() -> None:
    steps = calls({}, {"model": "o3"}, {"model": None})
    found = reprice(steps, {"claude-opus-4-6": "claude-haiku-4-5"}, at=JUNE).to_pylist()
    assert [(row["cost_cents"], row["repricing"]) for row in found] == [(150.0, "priced"), (7.0, "kept"), (7.0, "kept")]


def test_each_step_has_the_prices_of_its_time_and_without_one_those_of_today() -> None:
    may, now = dt.datetime(2025, 5, 1, tzinfo=dt.UTC), dt.datetime.now(dt.UTC)
    o3 = {"model": "o3", "output_tokens": 0}
    steps = calls(o3 | {"timestamp": may}, o3 | {"timestamp": NOON}, o3 | {"timestamp": None})
    today = theirs("o3", now, input_tokens=10**6)
    found = reprice(steps)
    assert found["cost_cents"].to_pylist() == [1000.0, 200.0, today]
    assert found["assumed"].to_pylist() == [None, None, "prices of today"]
    assert reprice(steps.drop_columns(["timestamp"]), at=may)["cost_cents"].to_pylist() == [1000.0] * 3
    assert reprice(steps, at=may)["assumed"].null_count == 3
    with pytest.raises(ColumnNotFound, match="steps: no column timestamp; found "):
        reprice(steps.drop_columns(["timestamp"]))


def test_cache_writes_of_unknown_length_are_those_for_five_minutes_and_that_is_said() -> None:
    written = {"cache_write_tokens": 10**6, "output_tokens": 0}
    steps = calls(written | {"cache_write_1h_tokens": 10**6}, written, written | {"cache_write_1h_tokens": None})
    found = reprice(steps, at=JUNE)
    assert found["cost_cents"].to_pylist() == [1000.0, 625.0, 625.0]
    assert found["assumed"].to_pylist() == [None, None, "cache writes for 5 minutes"]
    without = reprice(steps.drop_columns(["cache_write_1h_tokens"]), at=JUNE)
    assert without["assumed"].to_pylist() == ["cache writes for 5 minutes"] * 3
    uncached = reprice(
        steps.drop_columns(["cache_write_1h_tokens", "cache_write_tokens", "cache_read_tokens"]), at=JUNE
    )
    assert uncached["cost_cents"].to_pylist() == [500.0] * 3
    assert uncached["assumed"].to_pylist() == ["no cache"] * 3


def test_tiers() -> None:
    fast = "genai-prices 0.1, claude-opus-4-8, fast"
    steps = calls(
        {"model": "claude-opus-4-8"},
        {"model": "claude-opus-4-8", "price_basis": fast},
        {"model": "claude-opus-4-8", "price_basis": "fast"},
    )
    own = reprice(steps, at=NOON)
    standard = own["cost_cents"][0].as_py()
    assert own["cost_cents"].to_pylist()[1:] == [own["cost_cents"][1].as_py()] * 2
    assert own["cost_cents"][1].as_py() > standard
    assert own["repriced_as"].to_pylist() == ["claude-opus-4-8", "claude-opus-4-8, fast", "claude-opus-4-8, fast"]
    assert reprice(steps, at=NOON, tier="standard")["cost_cents"].to_pylist() == [standard] * 3
    november = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)  # the tier has known prices since October
    batch = reprice(steps, "gpt-5.5", at=november, tier="batch")
    assert batch["repricing"].to_pylist() == ["priced"] * 3
    assert (
        batch["cost_cents"][0].as_py()
        < reprice(steps, "gpt-5.5", at=november, tier="standard")["cost_cents"][0].as_py()
    )
    assert reprice(steps, "claude-haiku-4-5", at=NOON, tier="galactic")["repricing"].to_pylist() == ["unknown tier"] * 3
    assert reprice(steps, "claude-haiku-4-5", at=NOON)["repricing"].to_pylist() == [
        "priced",
        "unknown tier",
        "unknown tier",
    ]


@local_kinds
def test_costs_now_and_then_by_any_columns(kind: FrameKind) -> None:
    steps = calls(
        {"agent_id": "a"}, {"agent_id": "a", "input_tokens": None, "cost_cents": 5.0}, {"agent_id": "b"}, {"agent_id": "b", "cost_cents": None},
        {"agent_id": "b", "model": None, "tokens": 0, "input_tokens": None, "cost_cents": 1.0}, {"agent_id": None, "cost_cents": math.nan},
    )  # fmt: skip
    cheaper = reprice(kind.make(steps), "claude-haiku-4-5", at=JUNE)
    names = [
        "agent_id",
        "calls",
        "cost_cents",
        "repriced_cents",
        "difference_cents",
        "unpriced_calls",
        "unpriced_cents",
    ]
    found = rows(repricing_by(cheaper, "agent_id"))
    assert found.column_names == names
    assert [tuple(row.values()) for row in found.to_pylist()] == [
        ("a", 1, 12.0, 150.0, 143.0, 1, 5.0), ("b", 2, 8.0, 301.0, 293.0, 0, 0.0), (None, 1, 0.0, 150.0, 150.0, 0, 0.0),
    ]  # fmt: skip
    assert rows(repricing_by(cheaper)).to_pylist() == [
        dict(zip(names[1:], (4, 20.0, 601.0, 586.0, 1, 5.0), strict=True))
    ]
    with pytest.raises(ConfigError, match="cannot group by 'calls': the result has a column of that name"):
        repricing_by(cheaper, "calls")


def test_a_provider() -> None:
    assert reprice(calls({}), at=JUNE, provider="nobody")["repricing"].to_pylist() == ["unknown model"]
    assert reprice(calls({}), at=JUNE, provider="anthropic")["cost_cents"].to_pylist() == [750.0]


def test_columns_of_these_names_are_replaced_where_they_are() -> None:
    once = reprice(calls({}), "claude-haiku-4-5", at=JUNE)
    twice = reprice(once, at=JUNE)
    assert twice.column_names == once.column_names
    assert twice.select(["cost_cents", "cost_cents_before"]).to_pylist() == [
        {"cost_cents": 750.0, "cost_cents_before": 150.0}
    ]


def test_tokens_that_are_only_a_sum_are_never_split() -> None:
    with pytest.raises(ColumnNotFound, match="steps: no column input_tokens, output_tokens, model; found "):
        reprice(frame(step()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": 5}, "model is 5; expected a model's name, a mapping of names to names, or None"),
        ({"model": ""}, "model is ''; expected a model's name, a mapping of names to names, or None"),
        ({"model": {}}, "model is {}; expected a model's name, a mapping of names to names, or None"),
        ({"model": {"a": None}}, "model is {'a': None}; expected a model's name, a mapping of names to names, or None"),
        (
            {"at": dt.datetime(2026, 6, 1)},
            "at is datetime.datetime(2026, 6, 1, 0, 0); expected a datetime with a time zone, or None",
        ),
        ({"at": "2026"}, "at is '2026'; expected a datetime with a time zone, or None"),
        ({"tier": ""}, "tier is ''; expected a name, or None"),
        ({"provider": 1}, "provider is 1; expected a name, or None"),
    ],
)
def test_arguments_that_are_not_valid(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        reprice(calls({}), **arguments)
    assert str(caught.value) == message


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    with pytest.raises(MissingExtra, match=r"pip install 'exporttools\[prices\]'"):
        reprice(calls({}))


@pytest.mark.parametrize(
    ("steps", "verdict"),
    [
        (calls(), "no model calls to price"),
        (calls({}), "1 of 1 model call would have cost 150.00 US cents instead of 7 US cents (+2043%)"),
        (
            calls({"cost_cents": 0.0}, {"cost_cents": 0.0, "cache_write_1h_tokens": None, "cache_write_tokens": 1}),
            "2 of 2 model calls would have cost 300.00 US cents instead of 0 US cents; assumed: cache writes for 5 minutes in 1 call",
        ),
        (
            calls({}, {"input_tokens": None}, {"price_basis": "x, fast"}, {"price_basis": "x, fast"}, {"model": None, "tokens": 0, "input_tokens": None}),
            "1 of 4 model calls would have cost 150.00 US cents instead of 7 US cents (+2043%); not priced: 2 of unknown tier "
            "claude-haiku-4-5, fast, 1 with unknown tokens (21 US cents before); 1 other step keeps its cost",
        ),
        (calls({"output_tokens": None}), "none of 1 model call could be priced; not priced: 1 with unknown tokens (7 US cents before)"),
    ],
)  # fmt: skip
def test_the_verdict(steps: pa.Table, verdict: str) -> None:
    found = reprice(steps, "claude-haiku-4-5", at=JUNE)
    assert repricing_verdict(found) == verdict
    assert repricing_verdict(pl.from_arrow(found).lazy()) == verdict  # type: ignore[union-attr]


def test_the_verdict_names_what_is_unknown_and_is_one_line() -> None:
    names = [f"model {n}" for n in range(7)] + ["bad\n\x1b[31mname"] * 2
    found = repricing_verdict(reprice(calls(*({"model": name} for name in names)), at=JUNE))
    assert "not priced: 2 of unknown model bad name, 1 of unknown model model 0, " in found
    assert "3 of others (63 US cents before)" in found
    assert "\n" not in found
