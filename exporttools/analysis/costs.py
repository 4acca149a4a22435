"""Where the money went: cost by any column and by run, and the sums that every cost is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import narwhals as nw

from exporttools.analysis import failures
from exporttools.analysis.columns import Kind, require_integer, require_keys
from exporttools.analysis.engines import sort
from exporttools.analysis.frames import RUN_KEYS, Frame, read, to_native
from exporttools.analysis.trees import FOUND, RollUpsOption, read_own_amounts
from exporttools.errors import ConfigError
from exporttools.records.schema import TOKEN_KINDS
from exporttools.text.inert import one_line

if TYPE_CHECKING:
    import pyarrow as pa
    from narwhals.typing import IntoFrameT

    from exporttools.analysis.frames import ArrowSteps

Amount = Literal["cost_cents", "tokens", "steps", "duration_ms"]

SUMMED = ("cost_cents", "tokens", "steps", "duration_ms")
"""What is added up of steps; ``steps`` is their number."""

_RESULT = (
    *SUMMED, "share", "failed", "cost_cents_per_1000_tokens", "runs", "cost_cents_per_run", *TOKEN_KINDS, "roll_ups",
    "ambiguous",
)  # fmt: skip
_WHOLE = ("tokens", *TOKEN_KINDS, "steps", "failed", "roll_ups", "ambiguous", "runs")
NEEDED = {"cost_cents": Kind.NUMBER, "tokens": Kind.NUMBER, "duration_ms": Kind.NUMBER}
"""What a frame of steps must have for that."""

_RUN, _KNOWN = "exporttools_run", "exporttools_known"


@overload
def cost_by(frame: IntoFrameT, *keys: str, roll_ups: RollUpsOption = ...) -> IntoFrameT: ...
@overload
def cost_by(frame: ArrowSteps, *keys: str, roll_ups: RollUpsOption = ...) -> pa.Table: ...
def cost_by(frame: Any, *keys: str, roll_ups: RollUpsOption = "skip") -> Any:
    """What each group of steps cost, the most expensive first.

    Parameters
    ----------
    frame : frame of steps
        Has `keys`; ``cost_cents`` (US cents), ``tokens``, ``duration_ms`` (ms); optionally ``run_id`` and ``tenant_id``,
        to count runs, ``status``, to count failed steps, and ``input_tokens`` and the other kinds of tokens. NULL and
        NaN count as 0. With ``parent_step_index`` it also needs ``step_index``, and ``trace_id``, ``run_id`` and
        ``tenant_id`` if it has several traces.
    *keys : str
        Columns to group by, such as ``"agent_id", "step_type"``; NULL is a group of its own. Without any, the result is
        one row.
    roll_ups : {"skip", "count"}
        Where steps are parts of others (``parent_step_index``), count each cent and token once and of each step its own
        time (see :func:`step_tree`), or add up all that is recorded.

    Returns
    -------
    frame
        Of the same kind (pyarrow for a SnapshotTable), and lazy if that is. Columns: `keys`; ``cost_cents``;
        ``share`` of the whole cost, from 0 to 1 (NULL if nothing cost anything); ``tokens``; ``steps``; ``failed``,
        those of the steps that failed, if the frame has ``status`` as text; ``duration_ms``;
        ``cost_cents_per_1000_tokens`` (NULL without tokens); ``runs`` and ``cost_cents_per_run``, if the frame has
        ``run_id``; the kinds of tokens that it has; and, if steps may be parts of others, ``roll_ups``, the steps of
        which usage was left out since their parts have it, and ``ambiguous``, those counted whole although their parts
        have usage too. Sorted by cost, then by keys.

    Raises
    ------
    ConfigError
        A column is missing or of another type.

    Notes
    -----
    Runs are identified by ``run_id`` within ``tenant_id``; steps without a run count for none.

    Examples
    --------
    >>> import polars as pl
    >>> steps = pl.DataFrame({"step_type": ["llm_call", "tool_call", "llm_call"], "run_id": ["r1", "r1", "r2"],
    ...     "cost_cents": [1.5, 0.0, 4.5], "tokens": [900, 0, 2100], "duration_ms": [800.0, 90.0, 1900.0]})
    >>> cost_by(steps, "step_type").select("step_type", "cost_cents", "share", "runs", "cost_cents_per_1000_tokens").rows()
    [('llm_call', 6.0, 1.0, 2, 2.0), ('tool_call', 0.0, 0.0, 1, None)]
    """
    return to_native(_cost_by(frame, keys, roll_ups))


def _cost_by(data: Any, keys: Sequence[str], roll_ups: RollUpsOption) -> Any:
    keys = require_keys("keys", keys, _RESULT)
    needed = dict.fromkeys(keys, Kind.KEY) | NEEDED
    frame = read_own_amounts(data, needed, optional=RUN_KEYS, texts=["status"], kinds=TOKEN_KINDS, roll_ups=roll_ups)
    rows, counts = frame.data, {}
    if frame.is_text("status"):
        counts["failed"] = failures.failed(frame)
    if FOUND in frame.names and roll_ups == "skip":
        counts["roll_ups"] = nw.col(FOUND).is_in(["whole", "part"])
        counts["ambiguous"] = nw.col(FOUND) == "ambiguous"
    if counts:
        rows = rows.with_columns(**{name: _one_if(condition) for name, condition in counts.items()})
    kinds = frame.has(*TOKEN_KINDS)
    result = summed_by(frame, rows, keys, [*SUMMED, *kinds, *counts])
    cents, all_cents = nw.col("cost_cents"), nw.col("cost_cents").sum()
    # In two parts: pyarrow refuses to make a float of an integer that no float holds exactly.
    millions = nw.col("tokens") // 1_000_000
    rest = nw.col("tokens") - millions * 1_000_000  # pandas has no % of Arrow's integers
    tokens = millions.cast(nw.Float64) * 1_000_000 + rest.cast(nw.Float64)
    result = result.with_columns(
        share=nw.when(all_cents > 0).then(cents / all_cents),
        cost_cents_per_1000_tokens=nw.when(tokens > 0).then(cents * 1000 / tokens),
    )
    failed = [name for name in counts if name == "failed"]
    columns = [*keys, "cost_cents", "share", "tokens", "steps", *failed, "duration_ms", "cost_cents_per_1000_tokens"]
    if frame.has("run_id"):
        result = result.with_columns(cost_cents_per_run=nw.when(nw.col("runs") > 0).then(cents / nw.col("runs")))
        columns += ["runs", "cost_cents_per_run"]
    result = result.select(*columns, *kinds, *(name for name in counts if name != "failed"))
    if keys:
        result = sort(result, "cost_cents", *keys, descending=[True, *(False for _ in keys)])
    return result


def summed_by(frame: Frame, data: Any, keys: Sequence[str], summed: Sequence[str] = SUMMED) -> Any:
    """Sums and counts by `keys`; runs are counted within each tenant first, and then added up."""
    sums = [nw.len().alias(name) if name == "steps" else nw.col(name).sum() for name in summed]
    if not frame.has("run_id"):
        return _typed(_grouped(data, keys, *sums))
    data = data.with_columns(nw.col("run_id").alias(_RUN))  # `run_id` itself may be a key
    within = [name for name in frame.has("tenant_id") if name not in keys]
    if frame.implementation.is_dask():
        # There Narwhals adds up the n_unique of partitions, and so counts a run twice that lies in two.
        result = _grouped(data, [*keys, *within, _RUN], *sums)
        result = result.with_columns(runs=_one_if(~nw.col(_RUN).is_null()))
    else:
        counts = [nw.col(_RUN).n_unique().alias("runs"), nw.col(_RUN).count().alias(_KNOWN)]
        result = _grouped(data, [*keys, *within], *sums, *counts)
        # n_unique counts the NULL of steps without a run as well.
        result = result.with_columns(runs=nw.col("runs").cast(nw.Int64) - _one_if(nw.col(_KNOWN) < nw.col("steps")))
        if not within:
            return _typed(result)
    return _typed(_grouped(result, keys, *(nw.col(name).sum() for name in (*summed, "runs"))))


def _one_if(condition: Any) -> Any:
    return nw.when(condition).then(nw.lit(1)).otherwise(nw.lit(0)).cast(nw.Int64)


def _grouped(data: Any, keys: Sequence[str], *sums: Any) -> Any:
    return data.group_by(*keys).agg(*sums) if keys else data.select(*sums)


def _typed(data: Any) -> Any:
    """Sums in the same types for every kind of frame: SQL engines widen integers, and the sum of no rows is NULL there."""
    names = data.collect_schema().names()
    whole = [nw.col(name).fill_null(0).cast(nw.Int64) for name in _WHOLE if name in names]
    return data.with_columns(
        *(nw.col(name).fill_null(0).cast(nw.Float64) for name in ("cost_cents", "duration_ms")), *whole
    )


@overload
def top_runs(frame: IntoFrameT, limit: int = ..., *, by: Amount = ..., roll_ups: RollUpsOption = ...) -> IntoFrameT: ...
@overload
def top_runs(frame: ArrowSteps, limit: int = ..., *, by: Amount = ..., roll_ups: RollUpsOption = ...) -> pa.Table: ...
def top_runs(frame: Any, limit: int = 10, *, by: Amount = "cost_cents", roll_ups: RollUpsOption = "skip") -> Any:
    """The runs that cost most, or that used most of something else.

    Parameters
    ----------
    frame : frame of steps
        Has ``run_id``, ``cost_cents`` (US cents), ``tokens``, ``duration_ms`` (ms); optionally ``tenant_id``,
        ``agent_id`` and ``status``.
    limit : int
        The maximum number of runs.
    by : {"cost_cents", "tokens", "steps", "duration_ms"}
        What to rank by. ``duration_ms`` is the sum over steps, not the time from first to last.
    roll_ups : {"skip", "count"}
        As for :func:`cost_by`.

    Returns
    -------
    frame
        Of the same kind. Columns: ``tenant_id``, ``run_id``, ``agent_id``, as far as the frame has them;
        ``cost_cents``, ``share`` of all runs' cost, ``tokens``, ``steps``, ``failed`` (as in :func:`cost_by`),
        ``duration_ms``, ``cost_cents_per_1000_tokens``, and the rest as in :func:`cost_by`; the greatest first.

    Raises
    ------
    ConfigError
        A column is missing or of another type, or `limit` or `by` is not valid.

    Examples
    --------
    >>> import polars as pl
    >>> steps = pl.DataFrame({"run_id": ["r1", "r2", "r2"], "cost_cents": [1.5, 0.5, 4.0], "tokens": [9, 3, 24],
    ...     "duration_ms": [5.0, 1.0, 1.0]})
    >>> top_runs(steps, 1).select("run_id", "cost_cents", "steps").rows()
    [('r2', 4.5, 2)]
    """
    if by not in SUMMED:
        raise ConfigError(f"by is {one_line(repr(by), 60)}; expected one of {', '.join(SUMMED)}")
    require_integer("limit", limit, 0)
    steps = read(frame, {"run_id": Kind.KEY}, optional=("tenant_id", "agent_id"))
    keys = steps.has("tenant_id", "run_id", "agent_id")
    result = _cost_by(steps.native, keys, roll_ups).drop("runs", "cost_cents_per_run")
    if by != "cost_cents":
        result = sort(result, by, *keys, descending=[True, *(False for _ in keys)])
    return to_native(result.filter(~nw.col("run_id").is_null()).head(limit))
