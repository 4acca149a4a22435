"""Data for the analysis, and its results as Arrow, folded to what a plot has room for. Nothing is drawn here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from exporttools.analysis.frames import read, to_arrow
from exporttools.errors import ConfigError, InconsistentData
from exporttools.plots.measures import Measure, choose_measure
from exporttools.records.export_bundle import ExportBundle
from exporttools.text.inert import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporttools.analysis.columns import Kind
    from exporttools.analysis.groups import Floats, Indices

_AMOUNTS = ("cost_cents", "tokens", "duration_ms")


@dataclass(frozen=True, slots=True)
class StepFrame:
    """Steps to pass to the analysis.

    Attributes
    ----------
    frame : Any
        A frame of any kind. The analysis does not warn that a limit cut it: the plot says so.
    total : int or None
        How many steps there were before a limit, if one cut them.
    title : str or None
        A bundle's incident or run.
    """

    frame: Any
    total: int | None = None
    title: str | None = None


def read_step_frame(data: Any) -> StepFrame:
    """Take the steps of a bundle, a SnapshotTable or a frame of any kind."""
    frame = read(data, {}, warn=False)
    return StepFrame(frame.native, frame.total, data.headline if isinstance(data, ExportBundle) else None)


def collected(result: Any, what: str, needed: Mapping[str, Kind], *, optional: Sequence[str] = ()) -> pa.Table:
    """The needed columns of a result of the analysis, as Arrow; `what` is what messages call it."""
    return to_arrow(read(result, needed, what=what, optional=optional, warn=False))


def finite_numbers(table: pa.Table, column: str) -> Floats:
    """A column as float64, with 0 for NULL.

    Raises
    ------
    InconsistentData
        A number is infinite.
    """
    values = table[column].cast(pa.float64(), safe=False)
    found: Floats = np.nan_to_num(values.to_numpy(), nan=0.0, posinf=np.inf, neginf=-np.inf)
    if np.isinf(found).any():
        raise InconsistentData(f"steps: {column} adds up to infinity; a plot needs finite numbers", column=column)
    return found


def spent(table: pa.Table) -> tuple[Measure, Floats]:
    """What to show as spent, and how much of it each group spent.

    Raises
    ------
    InconsistentData
        An amount is negative or infinite.
    """
    measure, amounts = choose_measure(finite_numbers(table, "cost_cents"), finite_numbers(table, "tokens"))
    if (amounts < 0).any():
        raise InconsistentData(
            f"steps: {measure.column} adds up to {amounts.min():g} in a group; expected a number >= 0",
            column=measure.column,
        )
    return measure, amounts


def require_key_names(parameter: str, keys: Sequence[Any]) -> None:
    """Refuse to group by anything but column names, and by amounts."""
    for key in keys:
        if not isinstance(key, str) or key in _AMOUNTS:
            raise ConfigError(f"{parameter} is {one_line(repr(key), 60)}; expected a column other than an amount")


def require_positive(limit: Any) -> None:
    """Refuse a `limit` of what is drawn that is not a positive integer: unlike a limit of rows, it cannot be None or 0."""
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ConfigError(f"limit is {one_line(repr(limit), 60)}; expected a positive integer")


def group_names(table: pa.Table, keys: Sequence[str]) -> list[str]:
    """The names of the groups, one per row: the values of their keys, which are untrusted text."""
    columns = [table[key].to_pylist() for key in keys]
    return [" · ".join("NULL" if v is None else str(v) or "(empty)" for v in row) for row in zip(*columns, strict=True)]


def fold(amounts: Floats, limit: int) -> tuple[Indices, Indices]:
    """Which groups are shown, the greatest first; and which are folded, if there are more than `limit`.

    Examples
    --------
    >>> fold(np.array([1.0, 5.0, 3.0]), 2)
    (array([1]), array([2, 0]))
    """
    order = np.argsort(-amounts, kind="stable")
    shown = len(order) if len(order) <= limit else limit - 1
    return order[:shown], order[shown:]
