"""What explains how a run differs from its agent's normal ones, in US cents and milliseconds that add up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, overload

import narwhals as nw
import numpy as np
import pyarrow as pa

from exporttools.analysis.arrow_functions import apply
from exporttools.analysis.columns import Kind
from exporttools.analysis.frames import TRACE_KEYS, Frame, arrow_schema, collect, from_arrow, to_native
from exporttools.analysis.groups import group, numbers
from exporttools.analysis.judging import unusual
from exporttools.analysis.sequences import Sequences
from exporttools.analysis.trees import own_amounts, read_recorded
from exporttools.errors import ConfigError
from exporttools.records.export_bundle import ExportBundle
from exporttools.text.inert import one_line
from exporttools.text.words import plural

if TYPE_CHECKING:
    from narwhals.typing import IntoFrameT

    from exporttools.analysis.frames import ArrowSteps

AT_LEAST = 5
"""How many normal traces an agent needs for a difference from them to mean something."""

_RARE_ENDING = 0.1
_AMOUNTS = ("count", "cost_cents", "tokens", "busy_ms", "waiting_ms")
_STEP = {
    "step_index": Kind.WHOLE, "timestamp": Kind.TIME, "step_type": Kind.TEXT, "status": Kind.TEXT,
    "cost_cents": Kind.NUMBER, "tokens": Kind.NUMBER, "duration_ms": Kind.NUMBER,
}  # fmt: skip
_PARENT = "parent_step_index"
_OPTIONAL = ("name", "model", "content_hash")
_SCHEMA = pa.schema(
    [
        ("step_type", pa.string()), ("name", pa.string()), ("cause", pa.string()), ("count", pa.float64()),
        ("usual_count", pa.float64()), ("cost_cents", pa.float64()), ("duration_ms", pa.float64()), ("reason", pa.string()),
    ]
)  # fmt: skip


@overload
def what_changed(bundle: ExportBundle, fleet: IntoFrameT, *, at_least: int = ...) -> IntoFrameT: ...
@overload
def what_changed(bundle: ExportBundle, fleet: ArrowSteps, *, at_least: int = ...) -> pa.Table: ...
def what_changed(bundle: ExportBundle, fleet: Any, *, at_least: int = AT_LEAST) -> Any:
    """What explains how a bundle's run differs from its agent's normal ones, the greatest contribution first.

    Parameters
    ----------
    bundle : ExportBundle
        With its run and steps.
    fleet : frame of steps
        The steps of many runs, with or without the bundle's own. Has ``agent_id``, ``run_id``, ``step_index``,
        ``timestamp`` (with a time zone), ``step_type``, ``status``, ``cost_cents`` (US cents), ``tokens``,
        ``duration_ms`` (ms); optionally ``tenant_id``, ``trace_id``, ``name``, ``model`` and ``content_hash``.
    at_least : int
        How many normal traces the agent needs.

    Returns
    -------
    frame
        Of the kind of `fleet`, computed at once. Columns: ``step_type`` and ``name`` of the steps that a row is
        about; ``cause``: ``repeated calls``, ``new calls``, ``more calls``, ``fewer calls``, ``more tokens per call``,
        ``fewer tokens per call``, ``dearer tokens``, ``cheaper tokens``, ``dearer calls``, ``cheaper calls``,
        ``slower calls``, ``faster calls``, ``longer waiting``, ``shorter waiting`` or ``ended early``; ``count`` of
        such steps and ``usual_count`` in a normal trace; the contributions ``cost_cents`` and ``duration_ms``;
        ``reason``, in words. Contributions add up to the difference between this trace and a normal one, in cost and in
        time from first start to last end. Sorted by their size relative to a normal trace's cost or time, whichever is more.

    Raises
    ------
    ConfigError
        The bundle has no run or no steps, a column is missing or of another type, or the agent has too few normal traces.

    Notes
    -----
    A normal trace is the mean of the agent's other traces, without those whose cost or time is unusually large
    (by the rule of :func:`anomalies`). For each step type and name, the difference in cost is
    (n - N) c + n (t - T) p + n t (q - p), for n and N calls, t and T tokens per call, q and p US cents per token, and c = T p:
    more calls, more tokens per call, and dearer tokens; without tokens, (n - N) c + n (d - c). Time is explained in the same
    way. Steps that repeat an earlier ``content_hash`` of their trace are counted apart. Where steps are parts of others
    (``parent_step_index``), each cent counts once, and time belongs to the innermost step: time in which only an agent's
    or another container's span ran is waiting for the next step.

    Examples
    --------
    >>> from exporttools import ExportBundleStore
    >>> from exporttools.database.embedded import embedded_database
    >>> store = ExportBundleStore(embedded_database())
    >>> fleet = store.scan_trace_steps().read_all()
    >>> changed = what_changed(store.get_export_bundle("inc-0000-4"), fleet)
    >>> changed.select(["name", "cause"]).to_pylist()[0]
    {'name': 'fetch_logs', 'cause': 'slower calls'}
    """
    if not isinstance(bundle, ExportBundle):
        raise ConfigError(f"bundle is a {type(bundle).__name__}; expected an ExportBundle")
    run = bundle.run
    if run is None or not len(bundle.steps):
        raise ConfigError(f"what_changed needs a run and its steps; this bundle is missing {', '.join(bundle.missing)}")
    known = read_recorded(
        fleet, _STEP | {"agent_id": Kind.KEY, "run_id": Kind.KEY}, what="fleet", optional=(*TRACE_KEYS, *_OPTIONAL)
    )
    agent = nw.col("agent_id")
    others = known.data.filter(agent.is_null() if run.agent_id is None else agent == run.agent_id)
    own = nw.col("run_id") == run.run_id
    if known.has("tenant_id"):
        own &= nw.col("tenant_id") == run.tenant_id
    mine = read_recorded(bundle, _STEP, optional=_OPTIONAL)
    shared = [name for name in mine.has(*_OPTIONAL) if known.has(name)]  # comparable only if both have it
    normal = _Normal.of(
        replace(known, data=others.filter(~own)), [*shared, *known.has(_PARENT)], run.agent_id, at_least
    )
    columns = [*_STEP, *shared, *mine.has(_PARENT)]
    profile = _profile(collect(mine, mine.data, arrow_schema(mine, columns)), [])
    calls = _calls(profile, np.ones(1))
    causes = list(_causes(calls, normal, _ending(profile)))
    scale_cents = normal.cost_cents or sum(call.cost_cents for call in calls.values()) or 1.0
    scale_ms = normal.duration_ms or 1.0
    causes.sort(key=lambda row: -max(abs(row["cost_cents"]) / scale_cents, abs(row["duration_ms"]) / scale_ms))
    return to_native(from_arrow(known, pa.Table.from_pylist(causes, schema=_SCHEMA)))


@dataclass(slots=True)
class _Calls:
    """The steps of one type and name: in a trace, or on average in a normal one."""

    count: float = 0.0
    cost_cents: float = 0.0
    tokens: float = 0.0
    busy_ms: float = 0.0
    waiting_ms: float = 0.0
    models: dict[str, float] = field(default_factory=dict)

    @property
    def model(self) -> str | None:
        """The model called most often."""
        return max(self.models, key=lambda name: self.models[name], default=None)


_Key = tuple[str | None, str | None, bool]


@dataclass(frozen=True, slots=True)
class _Normal:
    """A normal trace of an agent: the mean of those whose cost and time are not unusual."""

    traces: int
    calls: dict[_Key, _Calls]
    endings: dict[str | None, float]

    @property
    def cost_cents(self) -> float:
        return sum(call.cost_cents for call in self.calls.values())

    @property
    def duration_ms(self) -> float:
        return sum(call.busy_ms + call.waiting_ms for call in self.calls.values())

    @classmethod
    def of(cls, frame: Frame, optional: Sequence[str], agent_id: str | None, at_least: int) -> _Normal:
        keys = list(frame.has(*TRACE_KEYS))
        columns = [*keys, *_STEP, *optional]
        schema = pa.schema([*arrow_schema(frame, keys), *_PROFILE])

        def profile(table: pa.Table) -> pa.Table:
            return _profile(table, keys)

        found = apply(frame, columns, profile, schema, together=keys)
        table = collect(frame, found, schema)
        traces = group(table, keys)
        elapsed = numbers(table, "busy_ms") + numbers(table, "waiting_ms")
        cost, time = (traces.sums(values) for values in (numbers(table, "cost_cents"), elapsed))
        kept = ~(unusual(cost) | unusual(time)) if len(traces) else np.zeros(0, np.bool_)
        count = int(kept.sum())
        if count < at_least:
            raise ConfigError(
                f"fleet: {plural(count, 'normal trace')} of agent {one_line(repr(agent_id), 80)}; expected at least {at_least}. "
                f"Pass more of its runs, or a smaller at_least"
            )
        table = table.filter(pa.array(kept[traces.of_row]))
        weight = np.full(len(table), 1 / count)
        endings: dict[str | None, float] = {}
        for ending in table["ending"].drop_null().to_pylist():
            endings[ending] = endings.get(ending, 0.0) + 1 / count
        return cls(count, _calls(table, weight), endings)


_PROFILE = pa.schema(
    [
        ("step_type", pa.string()), ("name", pa.string()), ("model", pa.string()), ("repeated", pa.bool_()),
        *((name, pa.float64()) for name in _AMOUNTS), ("ending", pa.string()), ("last_step_index", pa.int64()),
    ]
)  # fmt: skip


def _profile(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    """For each trace, the sums over its steps of one type, name and model, repeats apart; and how it ended."""
    steps = Sequences.of(own_amounts(table, keys, recorded=["duration_ms"]), keys)
    rows = len(steps.table)
    texts = {
        name: steps.table[name] if name in steps.table.column_names else pa.nulls(rows, pa.string())
        for name in ("step_type", "name", "model")
    }
    ordered = pa.table(
        {"trace": steps.trace, **{key: steps.table[key] for key in keys}, **texts, "repeated": steps.repeated()}
    )
    groups = group(ordered, ["trace", *texts, "repeated"])
    amounts = {
        "count": np.ones(rows),
        "cost_cents": np.nan_to_num(numbers(steps.table, "cost_cents")),
        "tokens": np.nan_to_num(numbers(steps.table, "tokens")),
        "busy_ms": steps.busy_ms,
        "waiting_ms": steps.waiting_ms,
    }
    last = np.flatnonzero(np.r_[np.diff(steps.trace) > 0, True][:rows])
    ends = np.zeros(len(groups), np.intp)
    ends[groups.of_row[last]] = last + 1
    at = pa.array(np.maximum(ends - 1, 0), mask=ends == 0)
    profile = ordered.select([*keys, *texts, "repeated"]).take(pa.array(groups.first))
    for name, values in amounts.items():
        profile = profile.append_column(name, pa.array(groups.sums(values)))
    profile = profile.append_column("ending", steps.table["status"].take(at))
    return profile.append_column("last_step_index", steps.table["step_index"].take(at))


def _calls(profile: pa.Table, weight: Any) -> dict[_Key, _Calls]:
    """Weighted sums over a profile, by step type, name and whether the steps are repeats."""
    calls: dict[_Key, _Calls] = {}
    for row, each in zip(profile.to_pylist(), np.broadcast_to(weight, len(profile)).tolist(), strict=True):
        call = calls.setdefault((row["step_type"], row["name"], row["repeated"]), _Calls())
        for name in _AMOUNTS:
            setattr(call, name, getattr(call, name) + each * row[name])
        if row["model"] is not None:
            call.models[row["model"]] = call.models.get(row["model"], 0.0) + each * row["count"]
    return calls


def _ending(profile: pa.Table) -> dict[str, Any]:
    """The group of steps that the trace ended in."""
    return next(row for row in profile.to_pylist() if row["last_step_index"] is not None)


def _causes(calls: dict[_Key, _Calls], normal: _Normal, ending: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The contributions that are not 0."""
    early = normal.endings.get(ending["ending"], 0.0) < _RARE_ENDING
    fewer = {"calls": 0.0, "cost_cents": 0.0, "duration_ms": 0.0}
    for key in sorted(calls.keys() | normal.calls.keys(), key=lambda key: tuple(map(str, key))):
        step_type, name, _ = key
        mine, usual = calls.get(key, _Calls()), normal.calls.get(key, _Calls())
        for cause, cost_cents, duration_ms, reason in _contributions(key, mine, usual):
            if early and cause == "fewer calls":
                fewer["calls"] += usual.count - mine.count
                fewer["cost_cents"] += cost_cents
                fewer["duration_ms"] += duration_ms
            elif cost_cents or duration_ms:
                yield {
                    "step_type": step_type, "name": name, "cause": cause, "count": mine.count, "usual_count": usual.count,
                    "cost_cents": cost_cents, "duration_ms": duration_ms, "reason": reason,
                }  # fmt: skip
    if early:
        what = _what(ending["step_type"], ending["name"])
        calls_missed = f"; {fewer.pop('calls'):,.3g} fewer calls than usual"
        yield {
            "step_type": ending["step_type"], "name": ending["name"], "cause": "ended early", "count": 1.0,
            "usual_count": normal.endings.get(ending["ending"], 0.0), **fewer,
            "reason": f"ended with step {ending['last_step_index']:,}, {what}, {one_line(ending['ending'], 40)}{calls_missed}",
        }  # fmt: skip


def _contributions(key: _Key, mine: _Calls, usual: _Calls) -> Iterator[tuple[str, float, float, str]]:
    """Cause, US cents, ms and words; the amounts add up to the difference between the two."""
    step_type, name, repeated = key
    what = _what(step_type, name)
    cost_cents = mine.cost_cents - usual.cost_cents
    duration_ms = (mine.busy_ms + mine.waiting_ms) - (usual.busy_ms + usual.waiting_ms)
    if repeated:
        yield (
            "repeated calls",
            cost_cents,
            duration_ms,
            f"repeated earlier calls of {what} {plural(mine.count, 'time')}; usually {usual.count:.2g}",
        )
        return
    if not usual.count:
        yield "new calls", cost_cents, duration_ms, f"{mine.count:,.0f} of {what}, which normal runs never call"
        return
    share = mine.count / usual.count
    cause = "more calls" if share > 1 else "fewer calls"
    usual_ms = usual.busy_ms + usual.waiting_ms
    words = f"{mine.count:,.0f} of {what}, usually {usual.count:.3g}"
    yield cause, (share - 1) * usual.cost_cents, (share - 1) * usual_ms, words
    if not mine.count:
        return
    expected = share * usual.cost_cents
    if mine.tokens and usual.tokens and usual.cost_cents:
        price, usual_price = mine.cost_cents / mine.tokens, usual.cost_cents / usual.tokens
        per_call, usual_per_call = mine.tokens / mine.count, usual.tokens / usual.count
        more_tokens = mine.tokens * usual_price - expected
        words = f"{per_call:,.0f} tokens per call of {what}, usually {usual_per_call:,.0f}"
        yield "more tokens per call" if more_tokens > 0 else "fewer tokens per call", more_tokens, 0.0, words
        changed = (
            f" ({one_line(mine.model, 40)} instead of {one_line(usual.model, 40)})" if mine.model != usual.model else ""
        )
        words = f"{price * 1000:.3g} US cents per 1,000 tokens of {what}, usually {usual_price * 1000:.3g}{changed}"
        dearer = mine.cost_cents - mine.tokens * usual_price
        yield "dearer tokens" if dearer > 0 else "cheaper tokens", dearer, 0.0, words
    else:
        words = f"{mine.cost_cents / mine.count:.3g} US cents per call of {what}, usually {usual.cost_cents / usual.count:.3g}"
        dearer = mine.cost_cents - expected
        yield "dearer calls" if dearer > 0 else "cheaper calls", dearer, 0.0, words
    for slower, faster, attribute in (
        ("slower calls", "faster calls", "busy_ms"),
        ("longer waiting", "shorter waiting", "waiting_ms"),
    ):
        each, usually = getattr(mine, attribute) / mine.count, getattr(usual, attribute) / usual.count
        difference = getattr(mine, attribute) - share * getattr(usual, attribute)
        place = "per call of" if attribute == "busy_ms" else "before each"
        yield (
            slower if difference > 0 else faster,
            0.0,
            difference,
            f"{each:,.0f} ms {place} {what}, usually {usually:,.0f}",
        )


def _what(step_type: str | None, name: str | None) -> str:
    return one_line(" ".join(filter(None, (step_type, name))) or "steps", 80)
