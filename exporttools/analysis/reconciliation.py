"""Whether the totals that a platform recorded agree with the steps: every difference, and which side is missing."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import pyarrow as pa

from exporttools.analysis.frames import RUN_KEYS, Kind, collect, give, read, sort
from exporttools.errors import ConfigError

ROUNDING_CENTS = 0.5
"""Recorded totals are whole cents: half a cent is no difference."""

_FINDINGS = ("differs", "no run", "listed twice", "no total", "no steps", "agrees")
# Sums of many costs differ in their last bits with the order of adding.
_FLOAT_SLACK_CENTS = 1e-6


def reconcile_costs(runs: Any, steps: Any, *, tolerance_cents: float = ROUNDING_CENTS) -> Any:
    """Each run's recorded total against the sum of its steps.

    Parameters
    ----------
    runs : frame of runs
        Columns in: ``run_id``, ``total_cost_cents`` (US cents; NULL: not recorded); ``tenant_id``, where both have it.
    steps : frame of steps, of the same kind
        Columns in: ``run_id``, ``cost_cents`` (US cents); ``tenant_id``, where both have it. Of all the runs' traces.
    tolerance_cents : float
        Differences up to this size are rounding.

    Returns
    -------
    frame
        Of the kind that came in. A row for each run of either side. Columns: ``tenant_id``, where both have it;
        ``run_id``; ``recorded_cost_cents`` (NULL: no total); ``step_cost_cents`` (NULL: no steps); ``steps``;
        ``difference_cents``, recorded less steps (NULL where a side is missing); ``finding``: ``agrees``, ``differs``,
        or what is missing: ``no total``, ``no steps``, ``no run`` (steps of a run that is not among `runs`); a run that
        stands in `runs` more than once is ``listed twice``. What differs comes first, the greatest difference at the top.

    Raises
    ------
    ConfigError
        A column is missing or of another kind, or the frames are of two kinds.

    See Also
    --------
    reconciliation_verdict : The whole in one line.

    Examples
    --------
    >>> import polars as pl
    >>> runs = pl.DataFrame({"run_id": ["r1", "r2"], "total_cost_cents": [3, 9]})
    >>> steps = pl.DataFrame({"run_id": ["r1", "r1", "r2"], "cost_cents": [1.2, 2.1, 4.0]})
    >>> reconcile_costs(runs, steps).select("run_id", "difference_cents", "finding").rows()
    [('r2', 5.0, 'differs'), ('r1', -0.2999999999999998, 'agrees')]
    """
    if not tolerance_cents >= 0:
        raise ConfigError(f"tolerance_cents is {tolerance_cents!r}; expected a number from 0 on")
    recorded = read(runs, {"run_id": Kind.KEY, "total_cost_cents": Kind.NUMBER}, what="runs", optional=RUN_KEYS)
    spent = read(steps, {"run_id": Kind.KEY, "cost_cents": Kind.NUMBER}, optional=RUN_KEYS)
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
    summed = nw.concat([left, right]).group_by(*keys).agg(*(nw.col(name).sum() for name in columns[len(keys) :]))
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
    answer = summed.with_columns(
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
    answer = answer.with_columns(place=order)
    answer = sort(answer, "place", "rank", *keys, descending=[False, True, *(False for _ in keys)])
    return give(answer.select(*keys, "recorded_cost_cents", "step_cost_cents", "steps", "difference_cents", "finding"))


def reconciliation_verdict(reconciled: Any) -> str:
    """What :func:`reconcile_costs` found, in one line.

    Parameters
    ----------
    reconciled : frame
        As :func:`reconcile_costs` gave it.

    Returns
    -------
    str

    Raises
    ------
    ConfigError
        It is no such frame.

    Examples
    --------
    >>> import polars as pl
    >>> runs = pl.DataFrame({"run_id": ["r1", "r2", "r3"], "total_cost_cents": [3, 9, None]})
    >>> steps = pl.DataFrame({"run_id": ["r1", "r1", "r2"], "cost_cents": [1.2, 2.1, 4.0]})
    >>> reconciliation_verdict(reconcile_costs(runs, steps))
    '1 of 3 runs differs from its steps, by +5.00 cents (recorded less steps); 1 agrees, 1 has no total'
    """
    frame = read(reconciled, {"finding": Kind.KEY, "difference_cents": Kind.NUMBER}, what="reconciliation")
    counted = frame.data.group_by("finding").agg(nw.len().alias("count"), nw.col("difference_cents").sum())
    schema = pa.schema([("finding", pa.string()), ("count", pa.int64()), ("difference_cents", pa.float64())])
    found = {row["finding"]: row for row in collect(frame, counted, schema).to_pylist()}
    counts = {name: found[name]["count"] for name in _FINDINGS if name in found}
    total = sum(counts.values())
    if not total:
        return "no runs and no steps: nothing to reconcile"
    differing = counts.get("differs", 0)
    if differing:
        by = found["differs"]["difference_cents"]
        verb = "differs from its steps" if differing == 1 else "differ from their steps"
        head = f"{differing:,} of {_runs(total)} {verb}, by {by:+,.2f} cents (recorded less steps)"
    elif counts.get("agrees"):
        head = f"no total of {_runs(total)} differs from its steps"
    else:
        head = f"of {_runs(total)} none could be compared"
    words = {
        "agrees": ("agrees", "agree"),
        "no total": ("has no total", "have no total"),
        "no steps": ("has no steps", "have no steps"),
        "no run": ("has steps but is not among the runs", "have steps but are not among the runs"),
        "listed twice": ("is listed twice", "are listed twice"),
    }
    rest = [
        f"{counts[name]:,} {one if counts[name] == 1 else many}"
        for name, (one, many) in words.items()
        if name in counts
    ]
    return f"{head}; {', '.join(rest)}" if rest else head


def _runs(count: int) -> str:
    return f"{count:,} run" if count == 1 else f"{count:,} runs"
