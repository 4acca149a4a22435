"""Data of any kind -> what the analysis takes; its answers -> Arrow, folded to what a picture holds. Nothing is drawn here."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
import pyarrow as pa

from exporttools.errors import ConfigError, InconsistentData
from exporttools.records.export_bundle import ExportBundle
from exporttools.records.snapshot_table import SnapshotTable
from exporttools.text.inert import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporttools.analysis.groups import Floats, Indices

_AMOUNTS = ("cost_cents", "tokens", "duration_ms")


@dataclass(frozen=True, slots=True)
class StepFrame:
    """A frame of steps that the analysis takes; ``total`` is how many there were before a limit, where one cut them."""

    frame: Any
    total: int | None = None
    title: str | None = None


def read_step_frame(data: Any) -> StepFrame:
    """Take the steps out of a bundle or table; a bundle's steps get the columns that say whose they are.

    The analysis warns of steps that a limit cut; a picture says so itself, so the frame goes on without that mark.
    """
    if isinstance(data, ExportBundle):
        table = data.steps.to_arrow()
        known = {
            "tenant_id": getattr(data.run or data.trace, "tenant_id", None),
            "run_id": getattr(data.run or data.trace, "run_id", None),
            "agent_id": getattr(data.run, "agent_id", None),
        }
        for name, value in known.items():
            if value is not None and name not in table.column_names:
                table = table.append_column(name, pa.repeat(pa.scalar(value, pa.string()), len(table)))
        return StepFrame(table, data.steps.total, data.headline)
    if isinstance(data, SnapshotTable):
        return StepFrame(data.to_arrow(), data.total)
    attributes = getattr(data, "attrs", None)
    if isinstance(attributes, dict) and attributes.get("truncated"):
        total = attributes.get("total")
        data = copy.copy(data)  # shallow: the caller's frame keeps its mark
        data.attrs = {}
        return StepFrame(data, total if isinstance(total, int) else None)
    return StepFrame(data if is_frame(data) else _stream(data))


def is_frame(data: Any) -> bool:
    """Whether Narwhals knows it."""
    try:
        nw.from_native(data)
    except TypeError:
        return False
    return True


def _stream(data: Any) -> Any:
    """Arrow from anywhere, in memory; a reader can be read only once. What is none is left to the analysis to refuse."""
    return pa.table(data) if hasattr(data, "__arrow_c_stream__") else data


def collected(answer: Any, what: str, *columns: str) -> pa.Table:
    """An answer of the analysis in memory, as Arrow.

    Raises
    ------
    ConfigError
        It is no frame, or one of `columns` is missing; the message names those there are.
    """
    if isinstance(answer, SnapshotTable):
        answer = answer.to_arrow()
    if not is_frame(answer):
        raise ConfigError(f"{what}: expected a frame; found {type(answer).__name__}")
    frame = nw.from_native(answer)
    found = frame.collect_schema().names()
    if absent := [name for name in columns if name not in found]:
        names = ", ".join(one_line(name, 60) for name in found) or "no columns"
        raise ConfigError(f"{what}: no column {', '.join(absent)}; found {names}")
    return frame.collect("pyarrow").to_arrow() if isinstance(frame, nw.LazyFrame) else frame.to_arrow()


def numbers(table: pa.Table, column: str) -> Floats:
    """A column as float64, nothing for NULL.

    Raises
    ------
    ConfigError
        It has other than numbers.
    InconsistentData
        A number is infinite.
    """
    try:
        values = table[column].cast(pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise ConfigError(f"column {column!r} is of type {table[column].type}; expected numbers") from None
    found: Floats = np.nan_to_num(values.to_numpy(), nan=0.0, posinf=np.inf, neginf=-np.inf)
    if np.isinf(found).any():
        raise InconsistentData(f"steps: {column} adds up to an infinite number; a picture needs finite ones")
    return found


def spent(table: pa.Table) -> tuple[str, Floats]:
    """The unit and the amounts that say what was spent: cents, or tokens where nothing has a cost.

    Raises
    ------
    InconsistentData
        An amount is below 0 or infinite.
    """
    cents, tokens = numbers(table, "cost_cents"), numbers(table, "tokens")
    unit, name, amounts = ("US cents", "cost_cents", cents)
    if not cents.any() and tokens.any():
        unit, name, amounts = "tokens", "tokens", tokens
    if (amounts < 0).any():
        raise InconsistentData(f"steps: {name} is {amounts.min():g} in all for a group; expected a number from 0 on")
    return unit, amounts


def require_key_names(what: str, keys: Sequence[Any]) -> None:
    """Refuse to group by what is no name, or by an amount."""
    for key in keys:
        if not isinstance(key, str) or key in _AMOUNTS:
            raise ConfigError(f"{what} is {one_line(repr(key), 60)}; expected a column that is no amount")


def require_limit(limit: Any) -> None:
    """Refuse a limit that is no count."""
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ConfigError(f"limit is {one_line(repr(limit), 60)}; expected a whole number from 1 on")


def group_names(table: pa.Table, keys: Sequence[str]) -> list[str]:
    """The groups' names, one a row: their keys' values, which are untrusted text."""
    columns = [table[key].to_pylist() for key in keys]
    return [" · ".join("NULL" if v is None else str(v) or "(empty)" for v in row) for row in zip(*columns, strict=True)]


def fold(amounts: Floats, limit: int) -> tuple[Indices, Indices]:
    """Which groups are shown by themselves, the greatest first, and which are folded, where there are more than `limit`.

    Examples
    --------
    >>> fold(np.array([1.0, 5.0, 3.0]), 2)
    (array([1]), array([2, 0]))
    """
    order = np.argsort(-amounts, kind="stable")
    shown = len(order) if len(order) <= limit else limit - 1
    return order[:shown], order[shown:]
