"""How large is usual, and how large the largest: percentiles of any columns of numbers, by any columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, overload

import pyarrow as pa

from exporttools.analysis.arrow_functions import apply
from exporttools.analysis.columns import Kind, require_keys
from exporttools.analysis.engines import quantiles, sort
from exporttools.analysis.frames import arrow_schema, to_native
from exporttools.analysis.groups import group, numbers, sort_within
from exporttools.analysis.trees import RollUpsOption, read_own_amounts
from exporttools.errors import ConfigError
from exporttools.text.inert import one_line

if TYPE_CHECKING:
    from narwhals.typing import IntoFrameT

    from exporttools.analysis.frames import ArrowSteps

PERCENTS = (50, 90, 95, 99)
MEASURES = ("cost_cents", "duration_ms")


@overload
def percentiles(
    frame: IntoFrameT,
    *keys: str,
    measures: Sequence[str] = ...,
    percents: Sequence[float] = ...,
    roll_ups: RollUpsOption = ...,
) -> IntoFrameT: ...
@overload
def percentiles(
    frame: ArrowSteps,
    *keys: str,
    measures: Sequence[str] = ...,
    percents: Sequence[float] = ...,
    roll_ups: RollUpsOption = ...,
) -> pa.Table: ...
def percentiles(
    frame: Any,
    *keys: str,
    measures: Sequence[str] = MEASURES,
    percents: Sequence[float] = PERCENTS,
    roll_ups: RollUpsOption = "skip",
) -> Any:
    """The median and the upper percentiles of cost and time, or of other measures, for each group.

    Parameters
    ----------
    frame : frame of steps, or of anything else with these columns
        Has `keys` and `measures`. Of runs, pass their totals: ``percentiles(cost_by(steps, "agent_id", "run_id"), "agent_id")``.
    *keys : str
        Columns to group by; NULL is a group of its own. Without any, all rows are one group.
    measures : sequence of str
        Columns of numbers: ``cost_cents`` (US cents), ``duration_ms`` (ms), ``tokens``, ... NULL and NaN are left out.
    percents : sequence of float
        From 0 to 100; 50 is the median.
    roll_ups : {"skip", "count"}
        As for :func:`cost_by`. A step's ``duration_ms`` is always the time from its start to its end.

    Returns
    -------
    frame
        Of the same kind. Columns: `keys`; ``count``, the number of rows; and for each measure and percent, in the
        measure's unit, ``<measure>_p<percent>``, such as ``duration_ms_p95``; NULL if a group has no values. Sorted by `keys`.

    Raises
    ------
    ConfigError
        A column is missing or of another type, or `percents` has something else than numbers from 0 to 100.

    See Also
    --------
    baseline : Medians with their spread, to judge what is unusual.

    Notes
    -----
    Exact, interpolated linearly: like ``numpy.percentile``, ``DataFrame.quantile`` of pandas and ``PERCENTILE_CONT`` of SQL.

    Examples
    --------
    >>> import polars as pl
    >>> steps = pl.DataFrame({"agent_id": ["a"] * 5, "duration_ms": [10.0, 20.0, 30.0, 40.0, 900.0]})
    >>> percentiles(steps, "agent_id", measures=["duration_ms"], percents=[50, 75]).rows()
    [('a', 5, 30.0, 40.0)]
    """
    if isinstance(measures, str) or not measures:
        raise ConfigError(f"measures is {one_line(repr(measures), 60)}; expected a list of columns")
    wanted = {
        measure: {f"{measure}_p{percent:.12g}": percent / 100 for percent in _percents(percents)}
        for measure in measures
    }
    names = [name for of_measure in wanted.values() for name in of_measure]
    by = require_keys("keys", keys, ("count", *wanted, *names))
    needed = dict.fromkeys(by, Kind.KEY) | dict.fromkeys(wanted, Kind.NUMBER)
    source = read_own_amounts(frame, needed, recorded=["duration_ms"], roll_ups=roll_ups)
    found = quantiles(source, by, wanted)
    if found is not None:
        return to_native(sort(found, *by) if by else found)
    schema = pa.schema([*arrow_schema(source, by), ("count", pa.int64()), *((name, pa.float64()) for name in names)])

    def describe(table: pa.Table) -> pa.Table:
        groups = group(table, by)
        rows = pa.array(groups.first)
        columns = {name: table[name].take(rows) for name in by}
        columns["count"] = groups.sizes
        for measure, asked in wanted.items():
            ordered = sort_within(groups, numbers(table, measure))
            columns |= {name: pa.array(ordered.quantile(share), from_pandas=True) for name, share in asked.items()}
        return pa.table(columns, schema=schema)

    result = apply(source, [*by, *wanted], describe, schema, together=by)
    return to_native(sort(result, *by) if by else result)


def _percents(percents: Any) -> list[float]:
    found: list[Any] = list(dict.fromkeys(percents)) if isinstance(percents, Iterable) else []
    if found and all(not isinstance(p, bool) and isinstance(p, Real) and 0 <= float(p) <= 100 for p in found):
        return [float(p) for p in found]
    raise ConfigError(
        f"percents is {one_line(repr(percents), 60)}; expected a list of numbers from 0 to 100, such as [50, 99.9]"
    )
