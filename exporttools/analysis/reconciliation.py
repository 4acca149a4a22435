"""Do the totals that a platform recorded agree with the steps? Every difference, and every side that is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import narwhals as nw
import pyarrow as pa

from exporttools.analysis.columns import Kind
from exporttools.analysis.engines import concat, sort
from exporttools.analysis.frames import RUN_KEYS, collect, read, to_native
from exporttools.analysis.trees import RollUpsOption, read_own_amounts
from exporttools.errors import ConfigError
from exporttools.text.words import plural

if TYPE_CHECKING:
    from narwhals.typing import IntoFrameT

    from exporttools.analysis.frames import ArrowSteps

ROUNDING_CENTS = 0.5
"""Recorded totals are whole US cents, so that half a cent is rounding."""

_FINDINGS = ("differs", "no run", "listed twice", "no total", "no steps", "agrees")
_MISSING = {
    "no total": ("has no total", "have no total"),
    "no steps": ("has no steps", "have no steps"),
    "no run": ("has steps but is not among the runs", "have steps but are not among the runs"),
    "listed twice": ("is listed twice", "are listed twice"),
}
# Sums of many costs differ in their last bits with the order of adding.
_FLOAT_SLACK_CENTS = 1e-6


@overload
def reconcile_costs(
    runs: IntoFrameT, steps: IntoFrameT, *, tolerance_cents: float = ..., roll_ups: RollUpsOption = ...
) -> IntoFrameT: ...
@overload
def reconcile_costs(
    runs: ArrowSteps, steps: Any, *, tolerance_cents: float = ..., roll_ups: RollUpsOption = ...
) -> pa.Table: ...
def reconcile_costs(
    runs: Any, steps: Any, *, tolerance_cents: float = ROUNDING_CENTS, roll_ups: RollUpsOption = "skip"
) -> Any:
    """Compare each run's recorded total with the sum of its steps.

    Parameters
    ----------
    runs : frame of runs
        Has ``run_id``, ``total_cost_cents`` (US cents; NULL if not recorded); ``tenant_id``, if both frames have it.
    steps : frame of steps, of the same kind
        Has ``run_id``, ``cost_cents`` (US cents); ``tenant_id``, if both frames have it. The steps of all the runs' traces.
    tolerance_cents : float
        Differences up to this size are rounding.
    roll_ups : {"skip", "count"}
        As for :func:`cost_by`.

    Returns
    -------
    frame
        Of the same kind (of two DuckDB connections, on that of the steps), a row for each run of either frame. Columns: ``tenant_id``, if both frames have it;
        ``run_id``; ``recorded_cost_cents`` (NULL without a total); ``step_cost_cents`` (NULL without steps); ``steps``;
        ``difference_cents``, recorded minus steps (NULL if a side is missing); ``finding``: ``agrees``, ``differs``,
        or what is missing: ``no total``, ``no steps``, ``no run`` (steps of a run that is not in `runs`); a run that
        is in `runs` more than once is ``listed twice``. Differences come first, the greatest at the top.

    Raises
    ------
    ConfigError
        A column is missing or of another type, or the frames are of different kinds.

    See Also
    --------
    reconciliation_verdict : The result in one line.

    Examples
    --------
    >>> import polars as pl
    >>> runs = pl.DataFrame({"run_id": ["r1", "r2"], "total_cost_cents": [3, 9]})
    >>> steps = pl.DataFrame({"run_id": ["r1", "r1", "r2"], "cost_cents": [1.2, 2.1, 4.0]})
    >>> reconcile_costs(runs, steps).select("run_id", "difference_cents", "finding").rows()
    [('r2', 5.0, 'differs'), ('r1', -0.2999999999999998, 'agrees')]
    """
    if not tolerance_cents >= 0:
        raise ConfigError(f"tolerance_cents is {tolerance_cents!r}; expected a number >= 0")
    recorded = read(runs, {"run_id": Kind.KEY, "total_cost_cents": Kind.NUMBER}, what="runs", optional=RUN_KEYS)
    needed = {"run_id": Kind.KEY, "cost_cents": Kind.NUMBER}
    spent = read_own_amounts(steps, needed, optional=RUN_KEYS, roll_ups=roll_ups)
    if recorded.implementation is not spent.implementation or type(recorded.data) is not type(spent.data):
        raise ConfigError(f"runs are in {recorded.described}, steps in {spent.described}; expected frames of one kind")
    keys = [key for key in RUN_KEYS if recorded.has(key) and spent.has(key)]
    total, cents = nw.col("total_cost_cents"), nw.col("cost_cents")
    one, none = nw.lit(1), nw.lit(0)
    columns = [*keys, "recorded_cost_cents", "step_cost_cents", "totals", "runs", "steps"]
    left = recorded.data.with_columns(
        recorded_cost_cents=total.cast(nw.Float64).fill_null(0.0),
        step_cost_cents=nw.lit(0.0),
        totals=nw.when(total.is_null()).then(none).otherwise(one).cast(nw.Int64),
        runs=one.cast(nw.Int64),
        steps=none.cast(nw.Int64),
    ).select(*columns)
    right = spent.data.with_columns(
        recorded_cost_cents=nw.lit(0.0),
        step_cost_cents=cents.cast(nw.Float64).fill_null(0.0),
        totals=none.cast(nw.Int64),
        runs=none.cast(nw.Int64),
        steps=one.cast(nw.Int64),
    ).select(*columns)
    summed = concat(left, right).group_by(*keys).agg(*(nw.col(name).sum() for name in columns[len(keys) :]))
    difference = nw.col("recorded_cost_cents") - nw.col("step_cost_cents")
    finding = nw.lit("agrees")
    for name, found in (
        ("differs", difference.abs() > tolerance_cents + _FLOAT_SLACK_CENTS),
        ("no steps", nw.col("steps") == 0),
        ("no total", nw.col("totals") == 0),
        ("listed twice", nw.col("runs") > 1),
        ("no run", nw.col("runs") == 0),
    ):
        finding = nw.when(found).then(nw.lit(name)).otherwise(finding)
    both = (nw.col("totals") == 1) & (nw.col("steps") > 0) & (nw.col("runs") == 1)
    result = summed.with_columns(
        finding=finding,
        difference_cents=nw.when(both).then(difference),
        rank=nw.when(both).then(difference.abs()).otherwise(nw.lit(0.0)),
    ).with_columns(
        recorded_cost_cents=nw.when(nw.col("totals") > 0).then(nw.col("recorded_cost_cents")),
        step_cost_cents=nw.when(nw.col("steps") > 0).then(nw.col("step_cost_cents")),
        steps=nw.col("steps").cast(nw.Int64),
    )
    order = nw.lit(len(_FINDINGS)).cast(nw.Int64)
    for place, name in enumerate(_FINDINGS):
        order = nw.when(nw.col("finding") == name).then(nw.lit(place).cast(nw.Int64)).otherwise(order)
    result = result.with_columns(place=order)
    result = sort(result, "place", "rank", *keys, descending=[False, True, *(False for _ in keys)])
    return to_native(
        result.select(*keys, "recorded_cost_cents", "step_cost_cents", "steps", "difference_cents", "finding")
    )


def reconciliation_verdict(reconciled: Any) -> str:
    """Say in one line what :func:`reconcile_costs` found.

    Parameters
    ----------
    reconciled : frame
        The result of :func:`reconcile_costs`.

    Returns
    -------
    str

    Raises
    ------
    ConfigError
        A column is missing or of another type.

    Examples
    --------
    >>> import polars as pl
    >>> runs = pl.DataFrame({"run_id": ["r1", "r2", "r3"], "total_cost_cents": [3, 9, None]})
    >>> steps = pl.DataFrame({"run_id": ["r1", "r1", "r2"], "cost_cents": [1.2, 2.1, 4.0]})
    >>> reconciliation_verdict(reconcile_costs(runs, steps))
    '1 of 3 runs differs from its steps, by +5.00 US cents (recorded minus steps); 1 agrees, 1 has no total'
    """
    frame = read(reconciled, {"finding": Kind.KEY, "difference_cents": Kind.NUMBER}, what="reconciliation")
    counted = frame.data.group_by("finding").agg(nw.len().alias("count"), nw.col("difference_cents").sum())
    schema = pa.schema([("finding", pa.string()), ("count", pa.int64()), ("difference_cents", pa.float64())])
    found = {row["finding"]: row for row in collect(frame, counted, schema).to_pylist()}
    counts = {name: found[name]["count"] for name in ("differs", "agrees", *_MISSING) if name in found}
    total = sum(counts.values())
    if not total:
        return "no runs and no steps: nothing to reconcile"
    agreeing, differing = counts.pop("agrees", 0), counts.pop("differs", 0)
    rest = [f"{count:,} {_MISSING[name][count > 1]}" for name, count in counts.items()]
    if differing:
        by = found["differs"]["difference_cents"]
        verb = "differs from its steps" if differing == 1 else "differ from their steps"
        head = f"{differing:,} of {plural(total, 'run')} {verb}, by {by:+,.2f} US cents (recorded minus steps)"
        rest = [f"{agreeing:,} {'agrees' if agreeing == 1 else 'agree'}"] * bool(agreeing) + rest
    elif agreeing:
        # A run without steps and one listed twice have a total, which nobody has compared.
        compared = " that could be compared" if counts.keys() & {"no steps", "listed twice"} else ""
        head = (
            f"the one recorded total{compared} agrees with its steps"
            if agreeing == 1
            else f"all {agreeing:,} recorded totals{compared} agree with their steps"
        )
        rest[:1] = [text.replace(" ", f" of {total:,} runs ", 1) for text in rest[:1]]
    elif total == 1:
        head, rest = "the one run could not be compared", [f"it {_MISSING[name][0]}" for name in counts]
    else:
        head = f"none of {total:,} runs could be compared"
    return f"{head}; {', '.join(rest)}" if rest else head
