"""Runs as rows: what each of them took as a whole, and its average step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import narwhals as nw

from exporttools.analysis import failures
from exporttools.analysis.baselines import BY, MEASURES, PRICE, PROFILE_MEASURES, RUN_MEASURES, listed
from exporttools.analysis.columns import Kind, require_integer, require_keys
from exporttools.analysis.engines import epoch_us, sort
from exporttools.analysis.frames import Frame, to_native
from exporttools.analysis.trees import read_own_amounts

if TYPE_CHECKING:
    import pyarrow as pa
    from narwhals.typing import IntoFrameT

    from exporttools.analysis.frames import ArrowSteps

_START, _END = "exporttools_start", "exporttools_end"


@overload
def run_totals(frame: IntoFrameT, *, by: Sequence[str] = ...) -> IntoFrameT: ...
@overload
def run_totals(frame: ArrowSteps, *, by: Sequence[str] = ...) -> pa.Table: ...
def run_totals(frame: Any, *, by: Sequence[str] = BY[:1]) -> Any:
    """What each run took as a whole: its steps, failed steps, cost, tokens and time.

    A run that loops takes too much as a whole, though each of its steps is as usual.

    Parameters
    ----------
    frame : frame of steps
        Has `by`, ``run_id``, ``timestamp`` (with a time zone), ``cost_cents`` (US cents), ``tokens``, ``duration_ms`` (ms);
        optionally ``tenant_id`` and ``status``. NULL and NaN count as 0.
    by : sequence of str
        What runs are told apart by; a row for each run and each value of these.

    Returns
    -------
    frame
        Of the same kind, and lazy if that is. Columns: ``tenant_id``, ``run_id``; `by`; ``steps``; ``failed``, those of
        the steps that failed, if the frame has ``status`` as text; ``cost_cents``, ``tokens`` and ``duration_ms``, summed
        over the steps; ``elapsed_ms`` from the start of the first to the end of the last, which is less if steps ran at
        the same time and more if there were pauses (NULL without a ``timestamp``). Sorted by ``tenant_id``, ``run_id``, `by`.
        Steps without a run have no row.

    Raises
    ------
    ConfigError
        A column is missing or of another type.

    Examples
    --------
    >>> import polars as pl, datetime as dt
    >>> noon = dt.datetime(2026, 10, 5, 12, tzinfo=dt.UTC)
    >>> steps = pl.DataFrame({"run_id": ["r1", "r1"], "agent_id": ["a", "a"], "cost_cents": [1.0, 2.0], "tokens": [100, 300],
    ...     "timestamp": [noon, noon + dt.timedelta(seconds=5)], "duration_ms": [500.0, 700.0]})
    >>> run_totals(steps).select("run_id", "steps", "cost_cents", "duration_ms", "elapsed_ms").rows()
    [('r1', 2, 3.0, 1200.0, 5700.0)]
    """
    by = require_keys("by", listed("by", by), (*RUN_MEASURES, "duration_ms"))
    needed = dict.fromkeys((*by, "run_id"), Kind.KEY) | dict.fromkeys(MEASURES, Kind.NUMBER)
    source = read_own_amounts(frame, needed | {"timestamp": Kind.TIME}, optional=("tenant_id",), texts=["status"])
    source = epoch_us(source, "timestamp", _START)
    # In two parts: pyarrow refuses to make a float of an integer that no float holds exactly.
    whole_ms = nw.col(_START) // 1000
    rest_us = nw.col(_START) - whole_ms * 1000  # pandas has no % of Arrow's integers
    start_ms = whole_ms.cast(nw.Float64) + rest_us.cast(nw.Float64) / 1000
    took_ms = nw.col("duration_ms").fill_null(0).cast(nw.Float64)
    if source.has("rolled_up_duration_ms"):
        took_ms += nw.col("rolled_up_duration_ms").fill_null(0)
    data = source.data.with_columns(start_ms.alias(_START), (start_ms + took_ms).alias(_END))
    sums = [nw.col(name).sum() for name in MEASURES]
    failed = ["failed"] if source.is_text("status") else []
    if failed:
        data = data.with_columns(nw.when(failures.failed(source)).then(nw.lit(1)).otherwise(nw.lit(0)).alias("failed"))
        sums.append(nw.col("failed").sum())
    keys = _run_keys(source, by)
    found = data.filter(~nw.col("run_id").is_null()).group_by(*keys).agg(
        nw.len().alias("steps"), *sums, nw.col(_START).min(), nw.col(_END).max()
    )  # fmt: skip
    whole = ("steps", *failed, "tokens")
    found = found.with_columns(
        *(nw.col(name).fill_null(0).cast(nw.Int64) for name in whole),
        *(nw.col(name).fill_null(0).cast(nw.Float64) for name in ("cost_cents", "duration_ms")),
        (nw.col(_END) - nw.col(_START)).alias("elapsed_ms"),
    )
    names = [*keys, "steps", *failed, "cost_cents", "tokens", "duration_ms", "elapsed_ms"]
    return to_native(sort(found.select(*names), *keys))


def _run_keys(source: Frame, by: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*source.has("tenant_id"), "run_id", *by]))


@overload
def run_profiles(frame: IntoFrameT, *, by: Sequence[str] = ..., at_least: int = ...) -> IntoFrameT: ...
@overload
def run_profiles(frame: ArrowSteps, *, by: Sequence[str] = ..., at_least: int = ...) -> pa.Table: ...
def run_profiles(frame: Any, *, by: Sequence[str] = BY[:2], at_least: int = 1) -> Any:
    """The average step of each run: how many steps there were, and their mean cost, tokens and duration.

    Single steps vary widely, a run's mean does not. What crept in over all steps of a run, such as a more expensive model or
    longer contexts, shows here.

    Parameters
    ----------
    frame : frame of steps
        Has `by`, ``run_id``, ``cost_cents`` (US cents), ``tokens``, ``duration_ms`` (ms); optionally ``tenant_id``.
    by : sequence of str
        As for :func:`baseline`, which takes the result.
    at_least : int
        How many steps of a group a run needs to get a row: the mean of a few says little.

    Returns
    -------
    frame
        Of the same kind. Columns: ``tenant_id``, ``run_id``; `by`; ``steps``; ``cost_cents``, ``tokens`` and
        ``duration_ms`` per step; ``cost_cents_per_1000_tokens`` (NULL without tokens). A row for each run and group.

    Raises
    ------
    ConfigError
        A column is missing or of another type, or `at_least` is not an integer >= 0.

    Examples
    --------
    >>> import polars as pl
    >>> steps = pl.DataFrame({"run_id": ["r1", "r1"], "agent_id": ["a", "a"], "step_type": ["llm_call"] * 2,
    ...     "cost_cents": [1.0, 2.0], "tokens": [100, 300], "duration_ms": [500.0, 700.0]})
    >>> run_profiles(steps).select("run_id", "steps", "cost_cents", "tokens").rows()
    [('r1', 2, 1.5, 200.0)]
    """
    require_integer("at_least", at_least, 0)
    by = require_keys("by", listed("by", by), ("steps", *PROFILE_MEASURES))
    needed = dict.fromkeys((*by, "run_id"), Kind.KEY) | dict.fromkeys(MEASURES, Kind.NUMBER)
    source = read_own_amounts(frame, needed, optional=("tenant_id",))
    keys = _run_keys(source, by)
    grouped = source.data.group_by(*keys).agg(nw.len().alias("steps"), *(nw.col(name).mean() for name in MEASURES))
    kept = grouped.with_columns(nw.col("steps").cast(nw.Int64)).filter(nw.col("steps") >= at_least)
    price = nw.when(nw.col("tokens") > 0).then(nw.col("cost_cents") * 1000 / nw.col("tokens"))
    return to_native(sort(kept.with_columns(price.alias(PRICE)), *keys))
