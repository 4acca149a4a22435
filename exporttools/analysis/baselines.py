"""What is usual for each agent, step type and name: quantiles, and how far the largest values reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, overload

import pyarrow as pa
import pyarrow.compute as pc

from exporttools.analysis.arrow_functions import apply
from exporttools.analysis.columns import Kind, require_keys
from exporttools.analysis.engines import sort
from exporttools.analysis.frames import arrow_schema, read, to_arrow, to_native
from exporttools.analysis.groups import Groups, Sorting, group, numbers
from exporttools.analysis.tails import Tails, fit
from exporttools.analysis.trees import read_own_amounts
from exporttools.errors import ConfigError
from exporttools.text.inert import one_line

if TYPE_CHECKING:
    from narwhals.typing import IntoFrameT

    from exporttools.analysis.frames import ArrowSteps

AT_LEAST = 20
"""How many rows of a group a baseline needs for its statistics to mean something."""

BY = ("agent_id", "step_type", "name")
"""What steps are grouped by; ``name`` only if the frame has it."""

MEASURES = ("cost_cents", "tokens", "duration_ms")
RUN_MEASURES = ("cost_cents", "tokens", "elapsed_ms", "steps", "failed")
"""What is measured of the totals of runs, as far as the frame has it."""

PRICE = "cost_cents_per_1000_tokens"
PROFILE_MEASURES = (*MEASURES, PRICE)
"""What is measured of the mean steps of runs."""

_QUANTILES = {"median": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}
_TAIL = {f"tail_{field.name}": field.name for field in fields(Tails)}
_STATISTICS = (*_QUANTILES, *_TAIL)


@overload
def baseline(
    frame: IntoFrameT, *, by: Sequence[str] | None = ..., measures: Sequence[str] | None = ...
) -> IntoFrameT: ...
@overload
def baseline(
    frame: ArrowSteps, *, by: Sequence[str] | None = ..., measures: Sequence[str] | None = ...
) -> pa.Table: ...
def baseline(frame: Any, *, by: Sequence[str] | None = None, measures: Sequence[str] | None = None) -> Any:
    """What is usual: the size of each group, and the quantiles and the tail of each measure.

    Parameters
    ----------
    frame : frame of steps, of runs, or of anything else with these columns
        Has `by` and `measures`; the result of :func:`run_totals` or :func:`run_profiles`, for example.
    by : sequence of str, optional
        The columns to group by. By default ``agent_id``, ``step_type`` and, if the frame has it, ``name``, since one step
        type may cover tools that differ much; for the totals of runs, ``agent_id``.
    measures : sequence of str, optional
        Columns of numbers >= 0, ``cost_cents`` in US cents, ``duration_ms`` in ms. NULL and NaN are left out. By default
        ``cost_cents``, ``tokens`` and ``duration_ms``; for the totals of runs ``cost_cents``, ``tokens``, ``elapsed_ms``,
        ``steps`` and, if they have it, ``failed``; for the mean steps of runs also ``cost_cents_per_1000_tokens``.

    Returns
    -------
    frame
        Of the same kind. Columns: `by`; ``count``, the number of rows; and for each measure, in its unit,
        ``<measure>_median``, ``_p90``, ``_p95``, ``_p99`` and ``_max``; then its tail, by which :func:`anomalies`
        judges: ``<measure>_tail_start``, above which the larger half of the values above 0 lies, and ``_tail_end``, the
        largest of them but for the 1 % and one more that are set aside, in the measure's unit; ``_tail_share``, their share of all,
        from 0 to 1; ``_tail_spread``, the mean of ln(value / start); ``_tail_shape``, the mean of its square, relative to an
        exponential tail's; ``_tail_count``, how many values these means stand on. NULL if a group has no values, the tail's
        if it has none above 0. Sorted by `by`.

    Raises
    ------
    ConfigError
        A column is missing or of another type.

    Notes
    -----
    Quantiles are exact, interpolated linearly. By agent, step type and name, the names that have fewer than 20 rows
    of their agent and step type are one group, whose name is NULL: a name that stands once has nothing usual.

    Examples
    --------
    >>> import polars as pl
    >>> steps = pl.DataFrame({"agent_id": ["a"] * 5, "step_type": ["llm_call"] * 5, "tokens": [1, 2, 3, 4, 104]})
    >>> baseline(steps, measures=["tokens"]).select("count", "tokens_median", "tokens_p90", "tokens_max").rows()
    [(5, 3.0, 64.0, 104.0)]
    """
    if by is None or measures is None:
        found = read(frame, {})
        frame = found.native
        if by is None:
            by = BY[:1] if has_totals(found.names) else [*BY[:2], *found.has(BY[2])]
        if measures is None:
            measures = found.has(*RUN_MEASURES) if has_totals(found.names) else MEASURES
            measures = PROFILE_MEASURES if has_profiles(found.names) else measures
    measures = listed("measures", measures)
    by = require_keys("by", listed("by", by), ("count", *measures))
    source = read_own_amounts(frame, dict.fromkeys(by, Kind.KEY) | dict.fromkeys(measures, Kind.NUMBER))
    schema = pa.schema(
        [
            *arrow_schema(source, by),
            ("count", pa.int64()),
            *((f"{measure}_{statistic}", pa.float64()) for measure in measures for statistic in _STATISTICS),
        ]
    )

    def describe(table: pa.Table) -> pa.Table:
        table, groups = _grouped(table, by)
        columns = {name: table[name].take(pa.array(groups.first)) for name in by}
        columns["count"] = groups.sizes
        sorting = Sorting(groups)
        for measure in measures:
            ordered = sorting.sort(numbers(table, measure))
            found = {name: ordered.quantile(share) for name, share in _QUANTILES.items()}
            tails = fit(ordered)
            found |= {name: getattr(tails, attribute) for name, attribute in _TAIL.items()}
            columns |= {f"{measure}_{name}": pa.array(values, from_pandas=True) for name, values in found.items()}
        return pa.table(columns, schema=schema)

    together = by[:2] if has_names(by) else by
    return to_native(sort(apply(source, [*by, *measures], describe, schema, together=together), *by))


def has_totals(names: Sequence[str]) -> bool:
    """Whether a frame with these columns has the totals of runs."""
    return "elapsed_ms" in names


def has_profiles(names: Sequence[str]) -> bool:
    """Whether a frame with these columns has the mean steps of runs."""
    return PRICE in names and "steps" in names and not has_totals(names)


def has_names(by: Sequence[str]) -> bool:
    """Whether groups are those in which rare names are one."""
    return tuple(by) == BY


def _grouped(table: pa.Table, by: Sequence[str]) -> tuple[pa.Table, Groups]:
    """The groups of a table, in which rare names are NULL."""
    groups = group(table, by)
    if not has_names(by):
        return table, groups
    rare = groups.sizes < AT_LEAST
    if not rare.any():
        return table, groups
    names = pc.if_else(pa.array(rare[groups.of_row]), None, table[BY[2]])
    table = table.set_column(table.column_names.index(BY[2]), BY[2], names)
    return table, group(table, by)


def listed(parameter: str, names: Sequence[str]) -> list[str]:
    """Names of columns, each once.

    Raises
    ------
    ConfigError
        There is none, or it is a single string.
    """
    if isinstance(names, str) or not names:
        raise ConfigError(f"{parameter} is {one_line(repr(names), 60)}; expected a list of columns")
    return list(dict.fromkeys(names))


class KnownGroups:
    """The rows of a baseline, to look up by group. Small, and sent to workers.

    Attributes
    ----------
    by, measures : list of str
        What the baseline is grouped by, and what it measures.
    keys : list of tuple
        The group of each row.
    count : array of int
        How many rows there were of each.
    table : pyarrow.Table
        All of it.
    """

    def __init__(self, by: Sequence[str], measures: Sequence[str], table: pa.Table) -> None:
        self.by, self.measures, self.table = list(by), list(measures), table
        self.keys = group_keys(table, self.by)
        self.count = table["count"].to_numpy()
        self._row = {key: row for row, key in enumerate(self.keys)}
        self._statistics = {
            (measure, name): numbers(table, f"{measure}_{name}") for measure in self.measures for name in _STATISTICS
        }
        self._split = {key[:2] for key in self.keys if has_names(by) and key[2] is not None}

    @classmethod
    def read(cls, frame: Any, *, warn: bool = True) -> KnownGroups:
        """Read the result of :func:`baseline`, of any kind.

        Raises
        ------
        ConfigError
            It is something else.
        """
        known = read(frame, {"count": Kind.WHOLE}, what="baseline", warn=warn)
        by = list(known.names[: known.names.index("count")])
        suffix = f"_{next(iter(_TAIL))}"
        measures = [name.removesuffix(suffix) for name in known.names if name.endswith(suffix)]
        numeric = [f"{measure}_{name}" for measure in measures for name in _STATISTICS]
        kinds = dict.fromkeys(by, Kind.KEY) | {"count": Kind.WHOLE} | dict.fromkeys(numeric, Kind.NUMBER)
        return cls(by, measures, to_arrow(read(known.native, kinds, what="baseline", warn=warn)))

    def statistic(self, measure: str, name: str) -> Any:
        """A statistic of each group."""
        return self._statistics[measure, name]

    def tails(self, measure: str) -> Tails:
        """The tail of each group."""
        return Tails(*(self._statistics[measure, name] for name in _TAIL))

    def row(self, key: tuple[Any, ...]) -> int:
        """The row of a group, or for a name that is rare that of all rare ones; -1 if there is none."""
        found = self._row.get(key, -1)
        return self._row.get((*key[:2], None), -1) if found < 0 and has_names(self.by) else found

    def folded(self, table: pa.Table) -> pa.Table:
        """A table whose names are NULL where no group has them: what is unknown has few groups then."""
        if not has_names(self.by):
            return table
        names = table[BY[2]]
        known = pa.array(sorted({key[2] for key in self.keys if key[2] is not None}), names.type)
        folded = pc.if_else(pc.is_in(names, known), names, None)
        return table.set_column(table.column_names.index(BY[2]), BY[2], folded)

    def text(self, key: tuple[Any, ...]) -> str:
        """What messages call a group."""
        if has_names(self.by) and key[2] is None:
            return group_text(key[:2]) + (", of rare or no name" if key[:2] in self._split else "")
        return group_text(key)


def group_keys(table: pa.Table, by: Sequence[str]) -> list[tuple[Any, ...]]:
    """The values of each row in these columns."""
    return list(zip(*(table[name].to_pylist() for name in by), strict=True)) if by else [()] * len(table)


def group_text(key: Sequence[Any]) -> str:
    """The values that a group has in common, in one line.

    Examples
    --------
    >>> group_text(["a", None])
    'a · NULL'
    """
    return " · ".join("NULL" if value is None else one_line(value, 60) for value in key)
