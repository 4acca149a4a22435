"""Prices of calls, against the library's own: any usage of any model, at any time; bands of input, tiers, what is unknown."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from genai_prices import Usage, data_snapshot
from hypothesis import given
from hypothesis import strategies as st

from exporttools import MissingExtra
from exporttools.analysis.prices import PriceList
from exporttools.times import epoch_us

PRICES = PriceList()
SNAPSHOT = data_snapshot.get_snapshot()
MODELS = [(provider, model) for provider in SNAPSHOT.providers for model in provider.models]
TIERS = [(provider, model, variant) for provider, model in MODELS for variant in model.price_variants or ()]
TIMES = st.datetimes(dt.datetime(2024, 1, 1), dt.datetime(2027, 12, 31), timezones=st.just(dt.UTC))
AUGUST = dt.datetime(2026, 8, 1, tzinfo=dt.UTC)


@st.composite
def usages(draw: st.DrawFn) -> dict[str, int]:
    """Tokens by kind, often about where bands begin."""
    edges = st.sampled_from([0, 1, 128_000, 200_000, 200_001, 256_000, 272_000, 272_001, 1_000_000, 4_000_001])
    tokens = draw(edges | st.integers(0, 3_000_000))
    read = draw(st.integers(0, tokens) | st.just(0))
    written = draw(st.integers(0, tokens - read) | st.just(0))
    return {
        "input_tokens": tokens, "output_tokens": draw(st.integers(0, 300_000)), "cache_read_tokens": read,
        "cache_write_tokens": written, "cache_write_1h_tokens": draw(st.integers(0, written) | st.just(0)),
    }  # fmt: skip


def theirs(
    provider: Any, model: Any, at: dt.datetime, usage: dict[str, int], context: dict[str, str] | None = None
) -> float:
    """What the library says, in US cents."""
    price = model.calc_price(Usage(**usage), provider, genai_request_timestamp=at, price_context=context)
    return float(price.total_price * 100)


@given(st.sampled_from(range(len(MODELS))), TIMES, usages())
def test_a_price_is_the_library_s(of: int, at: dt.datetime, usage: dict[str, int]) -> None:
    provider, model = MODELS[of]
    found = PRICES.price(model.id, at, provider=provider.id, **usage)
    try:
        known = SNAPSHOT.find_provider_model(model.id, None, provider.id, None)[1]
    except LookupError:
        assert found is None
    else:
        assert found is not None
        assert found.cost_cents == pytest.approx(theirs(provider, known, at, usage), rel=1e-12, abs=1e-15)


@given(st.sampled_from(range(len(TIERS))), TIMES, usages())
def test_a_tier_s_price_is_the_library_s_or_none(of: int, at: dt.datetime, usage: dict[str, int]) -> None:
    provider, model, variant = TIERS[of]
    ((name, tier),) = variant.when.items()
    found = PRICES.price(model.id, at, provider=provider.id, tier=tier, **usage)
    try:
        model = SNAPSHOT.find_provider_model(model.id, None, provider.id, None)[1]
    except LookupError:  # the data has models that their own ids do not find
        assert found is None
        return
    if found is None:
        active = [v for v in model.price_variants if v.constraint is None or v.constraint.active(at)]
        assert name not in ("service_tier", "speed", "processing") or not any(v.when == variant.when for v in active)
    else:
        assert found.cost_cents == pytest.approx(theirs(provider, model, at, usage, {name: tier}), rel=1e-12, abs=1e-15)
        assert found.basis.endswith(f", {tier}")


USAGE = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens")


@given(
    st.sampled_from([None, *TIERS]), st.sampled_from(range(len(MODELS))),
    st.lists(st.tuples(TIMES, usages()), max_size=8), st.sampled_from([1, 10**7]),
)  # fmt: skip
def test_many_calls_have_the_same_prices_to_the_last_digit(
    variant: Any, of: int, calls: list[tuple[dt.datetime, dict[str, int]]], times: int
) -> None:
    provider, model = MODELS[of] if variant is None else variant[:2]
    tier = None if variant is None else next(iter(variant[2].when.values()))
    calls = [(at, {name: times * count for name, count in usage.items()}) for at, usage in calls]
    found = PRICES.price_calls(
        model.id, np.array([epoch_us(at) for at, _ in calls], np.int64), provider=provider.id, tier=tier,
        **{name: np.array([usage[name] for _, usage in calls], np.int64) for name in USAGE},
    )  # fmt: skip
    one_by_one = [PRICES.price(model.id, at, provider=provider.id, tier=tier, **usage) for at, usage in calls]
    if found is None:
        assert set(one_by_one) <= {None}
    else:
        assert [None if np.isnan(cost) else cost for cost in found] == [p and p.cost_cents for p in one_by_one]


def test_prices_by_the_time_of_day() -> None:
    """Some models are cheaper at night, from a minute on."""
    at = [dt.datetime(2026, 6, 1, 0, 29, 59, 999_999, tzinfo=dt.UTC), dt.datetime(2026, 6, 1, 0, 30, tzinfo=dt.UTC)]
    million = dict.fromkeys(USAGE, np.zeros(2, np.int64)) | {"input_tokens": np.full(2, 10**6)}
    found = PRICES.price_calls("deepseek-reasoner", np.array([epoch_us(t) for t in at]), provider="deepseek", **million)
    expected = [cents("deepseek-reasoner", t, provider="deepseek", input_tokens=10**6) for t in at]
    assert found is not None
    assert found.tolist() == expected
    assert expected[0] != expected[1]


def test_tiers() -> None:
    assert {"batch", "flex", "priority", "fast"} <= PRICES.tiers


def cents(model: str, at: dt.datetime = AUGUST, **usage: Any) -> float | None:
    found = PRICES.price(model, at, **{"input_tokens": 0, "output_tokens": 0} | usage)
    return None if found is None else found.cost_cents


def test_prices_change() -> None:
    may, now = dt.datetime(2025, 5, 1, tzinfo=dt.UTC), AUGUST
    million = {"input_tokens": 10**6}
    assert (cents("o3", may, provider="openai", **million), cents("o3", now, provider="openai", **million)) == (
        1000.0,
        200.0,
    )


def test_writes_to_a_cache_for_an_hour_cost_more() -> None:
    written = {"provider": "anthropic", "input_tokens": 10**6, "cache_write_tokens": 10**6}
    assert cents("claude-opus-4-6", **written) == 625.0
    assert cents("claude-opus-4-6", **written, cache_write_1h_tokens=10**6) == 1000.0
    assert cents("claude-opus-4-6", **written, cache_write_1h_tokens=500_000) == 812.5


def test_above_a_number_of_input_tokens_the_whole_call_costs_more() -> None:
    at = {
        tokens: cents("gemini-2.5-pro", provider="google", input_tokens=tokens, output_tokens=1000)
        for tokens in (200_000, 200_001)
    }
    assert at[200_000] == pytest.approx(26.0)
    assert at[200_001] == pytest.approx(200_001 * 250 / 1e6 + 1.5)


def test_a_fast_call_costs_more_and_an_unknown_tier_is_not_guessed() -> None:
    asked = {"provider": "anthropic", "input_tokens": 10**6}
    standard, fast = cents("claude-opus-4-8", **asked), cents("claude-opus-4-8", **asked, tier="fast")
    assert standard is not None
    assert fast is not None
    assert fast > standard
    assert cents("claude-opus-4-8", **asked, tier="galactic") is None
    assert cents("claude-opus-4-6", **asked, tier="fast") is None
    # A tier that has its price only later.
    priority = {"provider": "openai", "input_tokens": 10**6, "tier": "priority"}
    assert cents("gpt-5", dt.datetime(2026, 10, 1, tzinfo=dt.UTC), **priority) is None
    assert cents("gpt-5", dt.datetime(2026, 11, 1, tzinfo=dt.UTC), **priority) is not None


def test_a_call_that_costs_by_itself() -> None:
    asked = {"provider": "perplexity", "input_tokens": 1000}
    assert cents("sonar-pro", **asked) == pytest.approx(1.4 + 0.3)
    assert cents("sonar-pro", provider="perplexity") == pytest.approx(1.4)


@pytest.mark.parametrize(
    ("model", "provider", "as_known"),
    [
        ("claude-opus-4-6", None, "claude-opus-4-6"),
        ("anthropic/claude-opus-4-6", None, "claude-opus-4-6"),
        ("anthropic/claude-opus-4-6", "nobody", "claude-opus-4-6"),
        ("gateway/claude-opus-4-6", "anthropic", "claude-opus-4-6"),
        ("claude-haiku-4-5-20251001", "anthropic", "claude-haiku-4-5"),
        ("", None, None),
        ("/", "anthropic", None),
        ("a/b/c", None, None),
        ("no such model", None, None),
        ("claude-opus-4-6", "nobody", None),
        ("\0\ud800\n", "anthropic", None),
    ],
)
def test_how_models_are_called(model: str, provider: str | None, as_known: str | None) -> None:
    found = PRICES.price(model, AUGUST, provider=provider, input_tokens=1, output_tokens=1)
    assert (found and found.basis.removeprefix(f"genai-prices {found.basis.split()[1]} ")) == as_known


@pytest.mark.parametrize("model", ["claude-" + "a" * 10**6, "gpt-" * 250_000, "/" * 10**6, "-" * 10**6])
def test_a_model_s_name_may_be_anything_and_long(model: str) -> None:
    PRICES.price(model, AUGUST, provider="anthropic", input_tokens=1, output_tokens=1)
    PRICES.price(model, AUGUST, input_tokens=1, output_tokens=1)


@pytest.mark.parametrize("at", [dt.datetime(1, 1, 1, tzinfo=dt.UTC), dt.datetime(9999, 12, 31, 23, 59, tzinfo=dt.UTC)])
def test_any_time(at: dt.datetime) -> None:
    for _, model in MODELS:
        PRICES.price(model.id, at, input_tokens=1, output_tokens=1)


def test_a_price_says_what_it_rests_on() -> None:
    from importlib.metadata import version

    found = PRICES.price("claude-opus-4-8", AUGUST, provider="anthropic", input_tokens=1, output_tokens=1, tier="fast")
    assert found is not None
    assert found.basis == f"genai-prices {version('genai-prices')}, claude-opus-4-8, fast"


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    with pytest.raises(
        MissingExtra,
        match=r"^pricing calls needs packages that are not installed: pip install 'exporttools\[prices\]'$",
    ):
        PriceList()


def test_no_network_is_needed() -> None:
    code = (
        "import socket; socket.socket.connect = None\n"
        "from exporttools.analysis.prices import PriceList; import datetime as dt\n"
        "print(PriceList().price('o3', dt.datetime(2026, 8, 1, tzinfo=dt.UTC), input_tokens=10**6, output_tokens=0).cost_cents)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("200.0\n", "")
