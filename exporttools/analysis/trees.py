"""Steps that are parts of others: each cent, token and millisecond counted once, and the tree itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, overload

import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exporttools.analysis.arrow_functions import apply, with_columns
from exporttools.analysis.columns import KINDS, Kind
from exporttools.analysis.frames import TRACE_KEYS, Frame, arrow_schema, has_only_nulls, read, to_native
from exporttools.analysis.groups import group
from exporttools.analysis.step_times import critical_ms, parents_by_time, require_places, tree_of
from exporttools.errors import ConfigError
from exporttools.records.roll_ups import AMOUNTS, PLACE, RollUps, count_once, find_roll_ups
from exporttools.records.schema import ARROW_TYPES, TRACE_STEPS
from exporttools.records.step_trees import flat_tree
from exporttools.text.inert import one_line

if TYPE_CHECKING:
    from narwhals.typing import IntoFrameT

    from exporttools.analysis.frames import ArrowSteps

RollUpsOption = Literal["skip", "count"]
Parents = Literal["recorded", "time"]

ROLL_UP = "roll_up"
"""The column that says of each step whether its usage repeats that of its parts, where a result or a ledger has it."""

FOUND = "exporttools_roll_up"
"""The same column in the frames that :func:`read_own_amounts` makes: users may have one of their own that is called as above."""

_PARENT = "parent_step_index"
_KIND_OF = {column.name: KINDS[column.type] for column in (*TRACE_STEPS.columns, *TRACE_STEPS.extra)}
_TYPE_OF = {column.name: column.type for column in (*TRACE_STEPS.columns, *TRACE_STEPS.extra)}
_OWN = ("cost_cents", "tokens", "duration_ms")
_ROLLED_UP = tuple(f"rolled_up_{name}" for name in _OWN)


def read_own_amounts(
    data: Any,
    needed: Mapping[str, Kind],
    *,
    what: str = "steps",
    optional: Sequence[str] = (),
    texts: Sequence[str] = (),
    kinds: Sequence[str] = (),
    recorded: Sequence[str] = (),
    every_column: bool = False,
    roll_ups: RollUpsOption = "skip",
    warn: bool = True,
) -> Frame:
    """Take a frame of steps as :func:`exporttools.analysis.frames.read` does, with each step's own amounts.

    Parameters
    ----------
    data, needed, what, optional, warn
        As there.
    texts : sequence of str
        Columns of text, if the frame has them as text.
    kinds : sequence of str
        Kinds of tokens, if the frame has them.
    recorded : sequence of str
        Needed amounts that stay as they were recorded, such as the ``duration_ms`` of a bar on a time axis.
    every_column : bool
        Keep the other columns as well. By default only what is needed stays.
    roll_ups : {"skip", "count"}
        Whether to leave out what steps repeat of their parts, or to count all that is recorded.

    Returns
    -------
    Frame
        If steps may be parts of others and `roll_ups` is ``"skip"``, with the column :data:`FOUND`; or with `every_column` that and what
        was left out as in a dataset's ledger: :data:`ROLL_UP`, ``rolled_up_cost_cents``, ``rolled_up_tokens`` and ``rolled_up_duration_ms``.

    Raises
    ------
    ConfigError
        As there; or `roll_ups` is not valid, or it is not clear which steps are parts of which.
    """
    if roll_ups not in ("skip", "count"):
        raise ConfigError(f"roll_ups is {one_line(repr(roll_ups), 60)}; expected 'skip' or 'count'")
    frame = read(data, needed, what=what, optional=optional, numbers=kinds, warn=warn)
    frame = replace(frame, kinds=dict(frame.kinds) | {name: Kind.TEXT for name in texts if frame.is_text(name)})
    if _is_ledger(frame):  # a ledger, whose amounts are each step's own
        frame = frame if every_column else _with_found(frame)
        return _as_recorded(frame, recorded if roll_ups == "skip" else AMOUNTS)
    if roll_ups == "count" or _PARENT not in frame.names or has_only_nulls(frame, _PARENT):
        return frame
    if "step_index" not in frame.names:
        raise ConfigError(
            f"{what}: without the column 'step_index' it is not clear which steps {_PARENT!r} means; keep both, or pass "
            f"roll_ups='count' to count steps and their parts alike"
        )
    if every_column and (taken := frame.has(ROLL_UP, *(f"rolled_up_{name}" for name in AMOUNTS))):
        raise ConfigError(f"{what}: the result has a column {taken[0]!r} of its own; rename yours")
    return _own_amounts(frame, recorded, every_column)


def with_own_amounts(data: Any) -> Any:
    """A frame of steps with each step's own amounts and what they leave out, as in a dataset's ledger: rows may be cut from it
    without their parts, and still count once. The frame itself if no step can be part of another.
    """
    frame = read(data, {})
    if _PARENT not in frame.names or _is_ledger(frame):
        return data
    needed = dict.fromkeys(frame.has(*_OWN), Kind.NUMBER)
    return to_native(read_own_amounts(frame.native, needed, every_column=True, warn=False).data)


def read_recorded(
    data: Any, needed: Mapping[str, Kind], *, what: str = "steps", optional: Sequence[str] = (), warn: bool = True
) -> Frame:
    """Take a frame of steps as :func:`exporttools.analysis.frames.read` does, with the amounts that were recorded and, if it
    has it, ``parent_step_index``: for functions of Arrow tables that call :func:`own_amounts` themselves.
    """
    frame = read(data, needed, what=what, optional=(*optional, _PARENT), warn=warn)
    return _as_recorded(frame) if _is_ledger(frame) else frame


def own_amounts(table: pa.Table, keys: Sequence[str], what: str = "steps", *, recorded: Sequence[str] = ()) -> pa.Table:
    """A table of whole traces with each step's own amounts, but for those that are to stay as `recorded`.

    Raises
    ------
    ConfigError
        It is not clear which steps are parts of which.
    """
    found = _find(table, keys, what)
    return table if found is None else count_once(table, found, [name for name in AMOUNTS if name not in recorded])


def _is_ledger(frame: Frame) -> bool:
    """Whether a frame has each step's own amounts and what they leave out."""
    return frame.has(*_ROLLED_UP) == _ROLLED_UP


def _as_recorded(frame: Frame, amounts: Sequence[str] = _OWN) -> Frame:
    """The frame of a ledger with some amounts as they were recorded."""
    names = [name for name in amounts if name in frame.kinds and frame.has(f"rolled_up_{name}")]
    if not names:
        return frame
    data = frame.data.with_columns(*(nw.col(name) + nw.col(f"rolled_up_{name}").fill_null(0) for name in names))
    return replace(frame, data=data)


def _with_found(frame: Frame) -> Frame:
    """The frame of a ledger with the column :data:`FOUND`, if it still has what that says."""
    if not frame.is_text(ROLL_UP):
        return frame
    return replace(frame, data=frame.data.with_columns(nw.col(ROLL_UP).alias(FOUND)), names=(*frame.names, FOUND))


def _own_amounts(frame: Frame, recorded: Sequence[str], every_column: bool) -> Frame:
    keys = frame.has(*TRACE_KEYS)
    types = frame.data.collect_schema()
    amounts = {
        name: Kind.WHOLE if types[name].is_integer() else Kind.NUMBER
        for name in frame.has(*AMOUNTS)
        if name in frame.kinds or name in _OWN or every_column
    }
    placing = {name: _KIND_OF[name] for name in frame.has(*PLACE) if name not in frame.kinds}
    kinds = dict(frame.kinds) | dict.fromkeys(keys, Kind.KEY) | amounts | placing
    source = read(frame.native, kinds, what=frame.what, warn=False)
    replaced = [name for name in amounts if name not in recorded]
    kept = replaced if every_column else [name for name in kinds if name not in placing]
    left_out = [(f"rolled_up_{name}", ARROW_TYPES[_TYPE_OF[name]]) for name in replaced]
    word = ROLL_UP if every_column else FOUND
    result = pa.schema([*arrow_schema(source, kept), *left_out, (word, pa.string())])
    what = frame.what  # and not the frame, which cannot be sent to workers

    def count(table: pa.Table) -> pa.Table:
        found = _find(table, keys, what)
        own = table if found is None else count_once(table, found, replaced)
        columns = {name: own[name] for name in kept}
        for name, arrow_type in left_out:
            out = None if found is None else found.left_out.get(name.removeprefix("rolled_up_"))
            columns[name] = pa.array(np.zeros(len(table)) if out is None else out).cast(arrow_type)
        columns[word] = pa.nulls(len(table), pa.string()) if found is None else found.words
        return pa.table(columns)

    columns = list(dict.fromkeys([*kinds, *keys]))
    if every_column:
        data = with_columns(source, columns, count, result, together=keys)
        names = tuple(data.collect_schema().names())
    else:
        data = apply(source, columns, count, result, together=keys)
        names = tuple(result.names)
    return Frame(
        frame.native,
        data,
        frame.what,
        names,
        {name: kind for name, kind in kinds.items() if name in names},
        frame.total,
    )


def _find(table: pa.Table, keys: Sequence[str], what: str) -> RollUps | None:
    trace = group(table, keys).of_row
    tree = tree_of(table, trace, keys, what)
    return None if tree is None else find_roll_ups(table, trace, tree)


@overload
def step_tree(frame: IntoFrameT, *, parents: Parents = ...) -> IntoFrameT: ...
@overload
def step_tree(frame: ArrowSteps, *, parents: Parents = ...) -> pa.Table: ...
def step_tree(frame: Any, *, parents: Parents = "recorded") -> Any:
    """Which step is part of which, and what each has of its own.

    Parameters
    ----------
    frame : frame of steps
        Has ``step_index``, ``timestamp`` (with a time zone), ``step_type``, ``cost_cents`` (US cents), ``tokens``,
        ``duration_ms`` (ms); ``parent_step_index``, unless `parents` is ``"time"``; optionally ``tenant_id``, ``run_id``,
        ``trace_id``, ``name``. Without the first three of those, all rows are one trace.
    parents : {"recorded", "time"}
        ``"time"``: in a trace in which no step names a parent, a step is part of a longer one whose interval contains its
        own; of several, of the one that began last. A guess: steps that run side by side look alike.

    Returns
    -------
    frame
        Of the same kind, a row for each step, in the same order but on Dask and PySpark. Columns: ``tenant_id``, ``run_id``,
        ``trace_id``, as far as the frame has them; ``step_index``, ``timestamp``, ``step_type``, ``name`` if the frame has it;
        ``parent_step_index``, NULL for a root; ``depth``, 0 for a root; ``descendants``, how many steps are part of it; ``cost_cents``, ``tokens``,
        ``duration_ms`` as recorded; ``own_cost_cents`` and ``own_tokens``, without what its descendants have;
        ``own_duration_ms``, its interval without the union of its children's; ``critical_ms``, for how long it was
        the step that the end of its trace waited for; ``roll_up``, whether its usage repeats that of its descendants:
        NULL, ``whole``, ``part`` (what it has beyond theirs is its own) or ``ambiguous`` (no rule fits, so it counts whole).

    Raises
    ------
    ConfigError
        A column is missing or of another type, two steps of a trace have the same index, or a ``timestamp`` or
        ``step_index`` is NULL.

    Notes
    -----
    The rule is that of :func:`exporttools.records.roll_ups.find_roll_ups`. A step whose parent is not in its trace is a
    root; so is, of steps that are parts of each other, the one with the smallest index. The critical path is walked back
    from the end of a trace: what ended last before the point reached was waited for, and inside it the same holds
    for its children. Its times add up to those in which any step ran on that path.

    Examples
    --------
    >>> import polars as pl, datetime as dt
    >>> noon = dt.datetime(2026, 10, 5, 12, tzinfo=dt.UTC)
    >>> steps = pl.DataFrame({"step_index": [0, 1, 2], "parent_step_index": [None, 0, 0], "timestamp": [noon] * 3,
    ...     "step_type": ["agent", "llm_call", "llm_call"], "tokens": [900, 500, 400], "cost_cents": [9.0, 5.0, 4.0],
    ...     "duration_ms": [1000.0, 800.0, 600.0]})
    >>> step_tree(steps).select("depth", "own_tokens", "own_duration_ms", "critical_ms", "roll_up").rows()
    [(0, 0, 200.0, 200.0, 'whole'), (1, 500, 800.0, 800.0, None), (1, 400, 600.0, 0.0, None)]
    """
    if parents not in ("recorded", "time"):
        raise ConfigError(f"parents is {one_line(repr(parents), 60)}; expected 'recorded' or 'time'")
    needed = {name: _KIND_OF[name] for name in ("step_index", "timestamp", "step_type", *_OWN)}
    needed |= {_PARENT: Kind.WHOLE} if parents == "recorded" else {}
    source = read_recorded(frame, needed, optional=(*TRACE_KEYS, "name"))
    keys = source.has(*TRACE_KEYS)
    schema = pa.schema(
        [
            *arrow_schema(source, [*keys, "step_index", "timestamp", "step_type", *source.has("name")]),
            *((name, pa.int64()) for name in (_PARENT, "depth", "descendants")),
            *arrow_schema(source, _OWN),
            ("own_cost_cents", pa.float64()), ("own_tokens", pa.int64()), ("own_duration_ms", pa.float64()),
            ("critical_ms", pa.float64()), (ROLL_UP, pa.string()),
        ]
    )  # fmt: skip

    what = source.what

    def build(table: pa.Table) -> pa.Table:
        require_places(table)
        trace = group(table, keys).of_row
        if _PARENT not in table.column_names:
            table = table.append_column(_PARENT, pa.nulls(len(table), pa.int64()))
        if parents == "time":
            guessed = pc.coalesce(table[_PARENT], parents_by_time(table, trace))
            table = table.set_column(table.column_names.index(_PARENT), _PARENT, guessed)
        found = _find(table, keys, what)
        tree = flat_tree(len(table)) if found is None else found.tree
        own = table if found is None else count_once(table, found)
        has_parent = tree.parent >= 0
        named = (
            table["step_index"].take(pa.array(np.where(has_parent, tree.parent, 0)))
            if len(table)
            else table["step_index"]
        )
        columns = {name: table[name] for name in schema.names if name in table.column_names}
        columns |= {f"own_{name}": own[name] for name in _OWN}
        columns[_PARENT] = pc.if_else(pa.array(has_parent), named, None)
        columns["depth"], columns["descendants"] = pa.array(tree.depth), pa.array(tree.descendants)
        columns["critical_ms"] = pa.array(critical_ms(table, trace, tree))
        columns[ROLL_UP] = pa.nulls(len(table), pa.string()) if found is None else found.words
        return pa.table({name: columns[name] for name in schema.names})

    return to_native(apply(source, list(source.kinds), build, schema, together=keys))
