"""What the same calls would have cost: on another model, or by the prices of another time.

A step's cost is made anew from its tokens by kind and a price list; what cannot be priced is left unknown and said to be.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, overload

import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exporttools.analysis.arrow_functions import with_columns
from exporttools.analysis.columns import Kind, require_keys
from exporttools.analysis.engines import sort
from exporttools.analysis.frames import collect, read, to_native
from exporttools.analysis.groups import group
from exporttools.analysis.prices import PriceList
from exporttools.analysis.trees import read_own_amounts
from exporttools.errors import ConfigError
from exporttools.text.inert import one_line
from exporttools.text.words import amount_text, plural
from exporttools.times import epoch_us

if TYPE_CHECKING:
    from narwhals.typing import IntoFrameT

    from exporttools.analysis.frames import ArrowSteps
    from exporttools.analysis.groups import Flags, Integers

STANDARD = "standard"
"""The tier of calls that ask for none."""

_SCHEMA = pa.schema(
    [
        ("cost_cents", pa.float64()), ("cost_cents_before", pa.float64()), ("repricing", pa.string()),
        ("repriced_as", pa.string()), ("assumed", pa.string()),
    ]
)  # fmt: skip
_PRICED, _KEPT = "priced", "kept"
_UNKNOWN_MODEL, _UNKNOWN_TIER, _UNKNOWN_TOKENS = "unknown model", "unknown tier", "unknown tokens"
_NEEDED = {
    "cost_cents": Kind.NUMBER, "tokens": Kind.WHOLE, "input_tokens": Kind.WHOLE, "output_tokens": Kind.WHOLE,
}  # fmt: skip
_PARTS = ("cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens")
_ASSUMED = ("prices of today", "no cache", "cache writes for 5 minutes")
_NAMES_SHOWN = 5
_COMPARED = ("calls", "cost_cents", "repriced_cents", "difference_cents", "unpriced_calls", "unpriced_cents")


@overload
def reprice(
    steps: IntoFrameT,
    model: str | Mapping[str, str] | None = ...,
    *,
    at: dt.datetime | None = ...,
    provider: str | None = ...,
    tier: str | None = ...,
) -> IntoFrameT: ...
@overload
def reprice(
    steps: ArrowSteps,
    model: str | Mapping[str, str] | None = ...,
    *,
    at: dt.datetime | None = ...,
    provider: str | None = ...,
    tier: str | None = ...,
) -> pa.Table: ...
def reprice(
    steps: Any,
    model: str | Mapping[str, str] | None = None,
    *,
    at: dt.datetime | None = None,
    provider: str | None = None,
    tier: str | None = None,
) -> Any:
    """What the same calls would have cost on another model, or at another time.

    Parameters
    ----------
    steps : frame of steps
        Has ``cost_cents`` (US cents), ``tokens``, ``input_tokens`` and ``output_tokens`` (caches and reasoning included);
        ``model``, unless `model` names one for all; ``timestamp`` (with a time zone), unless `at` is given. Optionally
        ``cache_read_tokens``, ``cache_write_tokens`` and of those ``cache_write_1h_tokens``; and ``price_basis``, which
        says in what tier a call was made.
    model : str or mapping of str to str, optional
        The model for all calls; or for those of some models, ``{"claude-opus-4-6": "claude-haiku-4-5"}``, while all others
        keep their cost. By default each call's own.
    at : datetime.datetime, optional
        With a time zone: the time whose prices apply. By default that of each step; today, if a step has none.
    provider : str, optional
        ``anthropic``, ``openai``, ``google``, ...; by default the one whose model it looks like.
    tier : str, optional
        ``batch``, ``flex``, ``priority``, ``fast``, ...; ``standard`` for none. By default the tier that each call was made in.

    Returns
    -------
    frame
        Of the same kind, with the same rows and columns, but for ``cost_cents``, the new cost, and four columns more:
        ``cost_cents_before``; ``repricing``, what was done; ``repriced_as``, the model, and the tier if it is not the
        standard; and ``assumed``, what the price rests on besides (NULL if nothing). ``repricing`` is

        - ``priced``
        - ``kept``: the step calls no model (it has neither a model nor tokens), or one that `model` does not map
        - ``unknown model``, ``unknown tier``: ``repriced_as`` has no price then; the new cost is NULL
        - ``unknown tokens``: the step does not say which of its tokens were input and which output, or what it says
          cannot be; the new cost is NULL

        Where steps are parts of others (``parent_step_index``), the tokens and costs are each step's own, and further
        columns say what was left out, as in a dataset's ledger: functions that add up take them as they are.

    Raises
    ------
    ConfigError
        A column is missing or of another type, or an argument is not valid.
    MissingExtra
        ``genai-prices`` is not installed.

    See Also
    --------
    repricing_by : The result by any columns.
    repricing_verdict : The result in one line.

    Notes
    -----
    Prices are those of ``genai-prices``, on this machine. Whoever adds up the result should know what is not in it: sums
    count NULL as 0. Token counts stay as they are, though another model may cut the same text into more or fewer tokens,
    cache other parts of it, or need other calls. Without ``cache_write_1h_tokens``, cache writes are priced as writes for
    5 minutes; without ``cache_read_tokens`` and ``cache_write_tokens``, all input is priced as input; ``assumed`` says so.
    All columns of a DuckDB relation are brought into memory: project it to those that you need first.

    Examples
    --------
    >>> import polars as pl, datetime as dt
    >>> steps = pl.DataFrame({"model": ["claude-opus-4-6", None], "tokens": [1_100_000, 0], "input_tokens": [1_000_000, None],
    ...     "output_tokens": [100_000, None], "cache_read_tokens": [0, None], "cache_write_tokens": [0, None], "cost_cents": [750.0, 0.0]})
    >>> cheaper = reprice(steps, "claude-haiku-4-5", at=dt.datetime(2026, 6, 1, tzinfo=dt.UTC))
    >>> cheaper.select("cost_cents", "cost_cents_before", "repricing", "repriced_as").rows()
    [(150.0, 750.0, 'priced', 'claude-haiku-4-5'), (0.0, 0.0, 'kept', None)]
    """
    _require_arguments(model, at, provider, tier)
    PriceList()  # is it installed?
    needed = _NEEDED | ({"timestamp": Kind.TIME} if at is None else {})
    needed |= {} if isinstance(model, str) else {"model": Kind.TEXT}
    found = read(steps, needed)
    optional = {"model": Kind.TEXT, "price_basis": Kind.TEXT} | dict.fromkeys(_PARTS, Kind.WHOLE)
    needed |= {name: kind for name, kind in optional.items() if found.has(name)}
    frame = read_own_amounts(found.native, needed, every_column=True, warn=False)
    now_us = epoch_us(dt.datetime.now(dt.UTC) if at is None else at)

    def work(table: pa.Table) -> pa.Table:
        prices = PriceList()  # each worker's own: one that is sent is 15 MB
        calls = _Calls(table, model, tier, prices.tiers, None if at is None else now_us, now_us)
        return calls.priced(prices, provider)

    return to_native(with_columns(frame, list(frame.kinds), work, _SCHEMA))


def repricing_verdict(repriced: Any) -> str:
    """Say in one line what :func:`reprice` found, what it could not price, and what it assumed.

    Parameters
    ----------
    repriced : frame
        The result of :func:`reprice`.

    Returns
    -------
    str

    Raises
    ------
    ConfigError
        A column is missing or of another type.

    Examples
    --------
    >>> import polars as pl, datetime as dt
    >>> steps = pl.DataFrame({"model": ["claude-opus-4-6", None], "tokens": [1_100_000, 0], "input_tokens": [1_000_000, None],
    ...     "output_tokens": [100_000, None], "cost_cents": [750.0, 0.0]})
    >>> repricing_verdict(reprice(steps, "claude-haiku-4-5", at=dt.datetime(2026, 6, 1, tzinfo=dt.UTC)))
    '1 of 1 model call would have cost 150.00 US cents instead of 750.00 US cents (-80%); assumed: no cache in 1 call; 1 other step keeps its cost'
    """
    keys = ("repricing", "repriced_as", "assumed")
    amounts = ("cost_cents", "cost_cents_before")
    frame = read(repriced, dict.fromkeys(keys, Kind.KEY) | dict.fromkeys(amounts, Kind.NUMBER), what="repriced steps")
    sums = frame.data.group_by(*keys).agg(nw.len().alias("steps"), *(nw.col(name).sum() for name in amounts))
    schema = pa.schema(
        [*((name, pa.string()) for name in keys), ("steps", pa.int64()), *((name, pa.float64()) for name in amounts)]
    )
    rows = collect(frame, sums, schema).to_pylist()
    priced = [row for row in rows if row["repricing"] == _PRICED]
    unpriced = [row for row in rows if row["repricing"] not in (_PRICED, _KEPT)]
    count, missing = (sum(row["steps"] for row in found) for found in (priced, unpriced))
    kept = sum(row["steps"] for row in rows) - count - missing
    if not count + missing:
        return "no model calls to price"
    if count:
        after, before = (math.fsum(row[name] or 0.0 for row in priced) for name in amounts)
        change = f" ({after / before - 1:+.0%})" if before > 0 else ""
        head = (
            f"{count:,} of {plural(count + missing, 'model call')} would have cost {amount_text(after, 'US cents')} "
            f"instead of {amount_text(before, 'US cents')}{change}"
        )
    else:
        head = f"none of {plural(missing, 'model call')} could be priced"
    parts = [head]
    if missing:
        before = math.fsum(row["cost_cents_before"] or 0.0 for row in unpriced)
        parts.append(f"not priced: {_reasons(unpriced)} ({amount_text(before, 'US cents')} before)")
    assumed: Counter[str] = Counter()
    for row in priced:
        assumed.update(dict.fromkeys((row["assumed"] or "").split(", ") if row["assumed"] else (), row["steps"]))
    if assumed:
        parts.append("assumed: " + ", ".join(f"{what} in {plural(n, 'call')}" for what, n in sorted(assumed.items())))
    if kept:
        parts.append(plural(kept, "other step keeps its cost", "other steps keep their cost"))
    return "; ".join(parts)


def repricing_by(repriced: Any, *keys: str) -> Any:
    """What each group of steps cost and what it would have cost, the most expensive first.

    Parameters
    ----------
    repriced : frame
        The result of :func:`reprice`.
    *keys : str
        Columns to group by; NULL is a group of its own.

    Returns
    -------
    frame
        Of the same kind. Columns: `keys`; ``calls`` that were priced; ``cost_cents``, what all steps cost;
        ``repriced_cents``, what they would have cost, without those that could not be priced; ``difference_cents``
        between the two, without those either; ``unpriced_calls`` and ``unpriced_cents``, how many those are and what they cost.

    Raises
    ------
    ConfigError
        A column is missing or of another type.

    Examples
    --------
    >>> import polars as pl, datetime as dt
    >>> steps = pl.DataFrame({"model": ["claude-opus-4-6", "lark-2"], "tokens": [1_100_000, 9], "input_tokens": [1_000_000, None],
    ...     "output_tokens": [100_000, None], "cost_cents": [750.0, 9.0]})
    >>> cheaper = reprice(steps, "claude-haiku-4-5", at=dt.datetime(2026, 6, 1, tzinfo=dt.UTC))
    >>> repricing_by(cheaper).rows()
    [(1, 759.0, 150.0, -600.0, 1, 9.0)]
    """
    by = require_keys("keys", keys, _COMPARED)
    needed = {"cost_cents": Kind.NUMBER, "cost_cents_before": Kind.NUMBER, "repricing": Kind.KEY}
    frame = read(repriced, dict.fromkeys(by, Kind.KEY) | needed, what="repriced steps")
    is_priced, is_kept = nw.col("repricing") == _PRICED, nw.col("repricing") == _KEPT
    before, after = (nw.col(name).fill_null(0.0) for name in ("cost_cents_before", "cost_cents"))
    one, nothing = nw.lit(1), nw.lit(0)
    rows = frame.data.with_columns(
        calls=nw.when(is_priced).then(one).otherwise(nothing).cast(nw.Int64),
        cost_cents=before,
        repriced_cents=after,
        unpriced_calls=nw.when(is_priced | is_kept).then(nothing).otherwise(one).cast(nw.Int64),
        unpriced_cents=nw.when(is_priced | is_kept).then(nw.lit(0.0)).otherwise(before),
    )
    sums = [nw.col(name).sum() for name in _COMPARED if name != "difference_cents"]
    summed = rows.group_by(*by).agg(*sums) if by else rows.select(*sums)
    whole = [nw.col(name).fill_null(0).cast(nw.Int64) for name in ("calls", "unpriced_calls")]
    cents = [nw.col(name).fill_null(0.0) for name in ("cost_cents", "repriced_cents", "unpriced_cents")]
    compared = nw.col("repriced_cents") - (nw.col("cost_cents") - nw.col("unpriced_cents"))
    result = summed.with_columns(*whole, *cents).with_columns(difference_cents=compared).select(*by, *_COMPARED)
    return to_native(sort(result, "cost_cents", *by, descending=[True, *(False for _ in by)]))


def _reasons(unpriced: list[dict[str, Any]]) -> str:
    """How many calls could not be priced and why: the most frequent names, then the number of the others."""
    counts: Counter[str] = Counter()
    for row in unpriced:
        name = "" if row["repriced_as"] is None else f" {one_line(row['repriced_as'], 60)}"
        why = {_UNKNOWN_TOKENS: "with unknown tokens"}.get(row["repricing"]) or f"of {row['repricing']}{name}"
        counts[why] += row["steps"]
    shown = counts.most_common(_NAMES_SHOWN)
    rest = counts.total() - sum(n for _, n in shown)
    return ", ".join([*(f"{n:,} {why}" for why, n in shown), *([f"{rest:,} of others"] if rest else [])])


class _Calls:
    """Steps in memory, and what they are to be priced as."""

    def __init__(
        self,
        table: pa.Table,
        model: str | Mapping[str, str] | None,
        tier: str | None,
        tiers: frozenset[str],
        at_us: int | None,
        now_us: int,
    ) -> None:
        self._before = table["cost_cents"]
        self._usage = {name: _whole(table, name) for name in ("input_tokens", "output_tokens", *_PARTS)}
        known = {name: _is_known(table, name) for name in self._usage}
        fresh, written = self._usage["input_tokens"], self._usage["cache_write_tokens"]
        fits = (self._usage["cache_read_tokens"] + written <= fresh) & (self._usage["cache_write_1h_tokens"] <= written)
        for counts in self._usage.values():
            fits &= counts >= 0
        has_model = _is_known(table, "model")
        says = known["input_tokens"] & known["output_tokens"]
        used = np.where(says, fresh + self._usage["output_tokens"] > 0, _whole(table, "tokens") > 0)
        unsaid = has_model & ~used & np.asarray(pc.fill_null(pc.greater(self._before, 0.0), False))
        self._wanted = _wanted(table, model)
        mapped = _is_known(self._wanted, "repriced_as") if isinstance(model, Mapping) else np.ones(len(table), np.bool_)
        self.is_call = (used | unsaid) & mapped
        self.is_clear = self.is_call & used & says & fits
        self._tier = _tiers(table, tier, tiers)
        self._at_us = np.full(len(table), now_us) if at_us is not None else _times(table, now_us)
        untimed = np.zeros(len(table), np.bool_) if at_us is not None else ~_is_known(table, "timestamp")
        uncached = ~known["cache_read_tokens"] & ~known["cache_write_tokens"]
        short = (written > 0) & ~known["cache_write_1h_tokens"]
        self._assumed = np.stack([untimed, uncached, short])

    def priced(self, prices: PriceList, provider: str | None) -> pa.Table:
        cents = np.full(len(self.is_call), np.nan)
        done = np.select([~self.is_call, ~self.is_clear], [_KEPT, _UNKNOWN_TOKENS], _PRICED).astype(object)
        as_what = np.full(len(cents), None, object)
        asked = pa.table({"model": self._wanted["repriced_as"], "tier": self._tier})
        groups = group(asked, ["model", "tier"])
        for number, first in enumerate(groups.first.tolist()):
            rows = np.flatnonzero((groups.of_row == number) & self.is_clear)
            model, tier = asked["model"][first].as_py(), asked["tier"][first].as_py()
            if not len(rows):
                continue
            usage = {name: counts[rows] for name, counts in self._usage.items()}
            found = (
                None
                if model is None
                else prices.price_calls(model, self._at_us[rows], provider=provider, tier=tier, **usage)
            )
            as_what[rows] = model if model is None or tier is None else f"{model}, {tier}"
            if found is None:
                done[rows] = _UNKNOWN_MODEL
            else:
                cents[rows] = found
                done[rows[np.isnan(found)]] = _UNKNOWN_TIER
        is_priced = done == _PRICED
        cost = pc.if_else(pa.array(self.is_call), pa.array(cents, from_pandas=True), self._before.combine_chunks())
        return pa.table(
            [
                cost,
                self._before,
                pa.array(done, pa.string()),
                pa.array(as_what, pa.string()),
                _said(self._assumed & is_priced),
            ],
            schema=_SCHEMA,
        )


def _require_arguments(model: Any, at: Any, provider: Any, tier: Any) -> None:
    names = [*model.keys(), *model.values()] if isinstance(model, Mapping) else [] if model is None else [model]
    if not all(isinstance(name, str) and name for name in names) or (isinstance(model, Mapping) and not model):
        raise ConfigError(
            f"model is {one_line(repr(model), 80)}; expected a model's name, a mapping of names to names, or None"
        )
    if at is not None and (not isinstance(at, dt.datetime) or at.utcoffset() is None):
        raise ConfigError(f"at is {one_line(repr(at), 80)}; expected a datetime with a time zone, or None")
    for name, value in (("provider", provider), ("tier", tier)):
        if value is not None and (not isinstance(value, str) or not value):
            raise ConfigError(f"{name} is {one_line(repr(value), 80)}; expected a name, or None")


def _wanted(table: pa.Table, model: str | Mapping[str, str] | None) -> pa.Table:
    """The model to price each step as."""
    if isinstance(model, str):
        return pa.table({"repriced_as": pa.repeat(pa.scalar(model), len(table))})
    if model is None:
        return pa.table({"repriced_as": table["model"]})
    return pa.table({"repriced_as": _translated(table["model"], model.get)})


def _translated(column: pa.ChunkedArray, translate: Any) -> pa.Array:
    """A column of text with each value translated, and NULL for NULL."""
    encoded = column.combine_chunks().dictionary_encode()
    return pa.array([translate(value) for value in encoded.dictionary.to_pylist()], pa.string()).take(encoded.indices)


def _tiers(table: pa.Table, tier: str | None, tiers: frozenset[str]) -> pa.Array:
    """The tier to price each step in; NULL for the standard."""
    if tier is not None:
        return pa.array([None if tier == STANDARD else tier], pa.string()).take(pa.array(np.zeros(len(table), np.intp)))
    if "price_basis" not in table.column_names:
        return pa.nulls(len(table), pa.string())

    def of_basis(basis: str) -> str | None:
        """A basis is the name of the prices, the model and the tier; of a cost that was reported, it may be the tier."""
        tier = basis.split(", ")[-1]
        return tier if tier in tiers else None

    return _translated(table["price_basis"], of_basis)


def _whole(table: pa.Table, name: str) -> Integers:
    if name not in table.column_names:
        return np.zeros(len(table), np.int64)
    return np.asarray(pc.fill_null(table[name], 0).to_numpy(), np.int64)


def _is_known(table: pa.Table, name: str) -> Flags:
    if name not in table.column_names:
        return np.zeros(len(table), np.bool_)
    return np.asarray(pc.is_valid(table[name]).to_numpy(), np.bool_)


def _times(table: pa.Table, now_us: int) -> Integers:
    return np.asarray(pc.fill_null(table["timestamp"].cast(pa.int64()), now_us).to_numpy(), np.int64)


def _said(assumed: Flags) -> pa.Array:
    """What was assumed of each step, in words."""
    code = (assumed * (1 << np.arange(len(_ASSUMED)))[:, None]).sum(axis=0)
    words = [
        ", ".join(word for bit, word in enumerate(_ASSUMED) if number & 1 << bit) or None
        for number in range(1 << len(_ASSUMED))
    ]
    return pa.array(words, pa.string()).take(pa.array(code))
