"""The rule by which each cent and token is counted once where steps are parts of others.

Platforms record an agent's or a chain's usage on its own span and again on the calls that it consists of. What a step
repeats is left out of every sum. Bundles state sums made by this rule: a change here needs a new bundle format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from exporttools.records.intervals import union_lengths
from exporttools.records.schema import TRACE_STEPS
from exporttools.records.step_trees import Floats, Integers, StepTree, build_tree

CONTAINER_TYPES: frozenset[str] = frozenset(
    {
        "agent", "agent_run", "agent_step", "chain", "conversation", "crew", "entity", "flow", "graph", "interaction",
        "invoke_agent", "invoke_workflow", "pipeline", "root", "run", "session", "span", "task", "team", "thread", "trace",
        "turn", "workflow",
    }
)  # fmt: skip
"""Step types, case folded, that consist of other steps, as OpenTelemetry, OpenInference, Langfuse, MLflow and agent
frameworks call them. Usage that such a step has beyond that of its parts is its own."""

CONTAINER_TOLERANCE = 0.02
"""How far a container's usage may be from that of its parts to repeat it: platforms count and round in other places."""

_EQUAL = 1e-6
_USAGE = ("tokens", "cost_cents")
AMOUNTS: tuple[str, ...] = tuple(
    column.name for column in (*TRACE_STEPS.columns, *TRACE_STEPS.extra) if column.additive
)
"""The amounts that are counted once: usage by its rule, time as each step's own."""

PLACE = ("step_index", "parent_step_index", "timestamp", "step_type")
"""The columns that the rule reads beside the amounts."""

ROLL_UP_WORDS = (None, "whole", "part", "ambiguous")
"""What of a step's usage is left out, by its code: nothing, all, what its parts have, or nothing although no rule fits."""

_WHOLE, _PART, _AMBIGUOUS = 1, 2, 3


@dataclass(frozen=True, slots=True)
class RollUps:
    """What to leave out of sums over steps.

    Attributes
    ----------
    tree : StepTree
    code : array of int
        Shape (steps,); the place in :data:`ROLL_UP_WORDS`.
    left_out : mapping of str to array
        By amount, of shape (steps,): how much of each step's is not its own. Only amounts of which anything is left out.
    """

    tree: StepTree
    code: NDArray[np.int8]
    left_out: Mapping[str, NDArray[Any]]

    @property
    def words(self) -> pa.Array:
        """The word of each step's code."""
        return pa.array(ROLL_UP_WORDS, pa.string()).take(pa.array(self.code))

    @property
    def steps(self) -> int:
        """How many steps repeat the usage of their parts, wholly or in part."""
        return int(np.count_nonzero((self.code == _WHOLE) | (self.code == _PART)))

    @property
    def ambiguous(self) -> int:
        """How many steps have usage, as their parts do, and fit no rule: they count whole."""
        return int(np.count_nonzero(self.code == _AMBIGUOUS))


def find_roll_ups(table: pa.Table, trace: Any = None, tree: StepTree | None = None) -> RollUps | None:
    """Find what steps repeat of the usage and time of their parts.

    A step that consists of others (``parent_step_index``) repeats their usage if its tokens, or its cost if it or they have
    no tokens, equal the sum over its descendants, each counted once; or if it is a container
    (:data:`CONTAINER_TYPES`) and its tokens or its cost are within 2 % of it. Then it counts nothing. A container that has
    more than its descendants counts the rest. A step that is no container and has less has usage of its own, which counts. What
    fits none of these counts whole and is ambiguous. A step's time is its own: its interval without the union of its children's.

    Parameters
    ----------
    table : pyarrow.Table
        Has ``step_index`` if it has ``parent_step_index``; of ``timestamp``, ``step_type`` and :data:`AMOUNTS` what it has.
        NULL counts as 0.
    trace : array of int, optional
        The trace of each row, numbered from 0; by default all rows are of one.
    tree : StepTree, optional
        Their tree, if it is known already.

    Returns
    -------
    RollUps or None
        None if no step is part of another.

    Raises
    ------
    InconsistentData
        Two steps of a trace have the same index, and steps name their parents.

    Examples
    --------
    >>> noon = pa.array([0, 0, 1_000_000], pa.timestamp("us", "UTC"))
    >>> steps = pa.table({"step_index": [0, 1, 2], "parent_step_index": [None, 0, 0], "timestamp": noon,
    ...     "step_type": ["agent", "llm_call", "tool_call"], "tokens": [900, 900, 0], "cost_cents": [1.5, 1.5, 0.0],
    ...     "duration_ms": [3000.0, 800.0, 500.0]})
    >>> found = find_roll_ups(steps)
    >>> found.left_out["tokens"].tolist(), found.left_out["duration_ms"].tolist()
    ([900, 0, 0], [1300.0, 0.0, 0.0])
    """
    tree = read_tree(table, trace) if tree is None else tree
    if tree is None:
        return None
    with np.errstate(over="ignore", invalid="ignore"):  # amounts may be any finite numbers
        code = _judge(tree, table)
        left_out = {"duration_ms": _covered_ms(tree, table)}
        if ((code == _WHOLE) | (code == _PART)).any():
            for name in AMOUNTS:
                if name in table.column_names and name != "duration_ms":
                    values = _whole(table[name]) if pa.types.is_integer(table[name].type) else _number(table, name)
                    left_out[name] = _left_out(tree, code, values)
    left_out = {name: out for name, out in left_out.items() if out.any()}
    return RollUps(tree, code, left_out)


def read_tree(table: pa.Table, trace: Any = None) -> StepTree | None:
    """The tree of the steps of a table, which has ``step_index`` if it has ``parent_step_index``; None if no step is part of another.

    Raises
    ------
    InconsistentData
        Two steps of a trace have the same index, and steps name their parents.
    """
    if "parent_step_index" not in table.column_names or table["parent_step_index"].null_count == len(table):
        return None
    placed = table["step_index"].is_valid().to_numpy()
    index, parents = (_whole(table[name]) for name in ("step_index", "parent_step_index"))
    known = table["parent_step_index"].is_valid().to_numpy() & placed
    number = np.zeros(len(table), np.int64) if trace is None else np.asarray(trace, np.int64)
    if not placed.all():  # a step without a place is in a trace of its own
        number = np.where(placed, number, number.max(initial=0) + 1 + np.arange(len(table)))
    tree = build_tree(number, index, parents, known)
    return tree if len(tree.levels) > 1 else None


def containers_of(table: pa.Table, tree: StepTree) -> NDArray[np.bool_]:
    """Which steps are containers that other steps are parts of."""
    found: NDArray[np.bool_] = _is_container(table) & tree.has_children
    return found


def _judge(tree: StepTree, table: pa.Table) -> NDArray[np.int8]:
    """The code of each step, from the leaves up: what its descendants have is known once each of them is judged."""
    recorded = {name: _number(table, name) for name in _USAGE}
    own = {name: values.copy() for name, values in recorded.items()}
    below = {name: np.zeros(len(tree)) for name in _USAGE}
    container, whole_steps = _is_container(table), tree.has_children
    code = np.zeros(len(tree), np.int8)
    for rows in tree.bottom_up():
        inner = rows[whole_steps[rows]]
        by_tokens = (recorded["tokens"][inner] > 0) & (below["tokens"][inner] > 0)
        mine, theirs = (np.where(by_tokens, of["tokens"][inner], of["cost_cents"][inner]) for of in (recorded, below))
        both = (mine > 0) & (theirs > 0) & np.isfinite(theirs)
        away = np.abs(mine - theirs)
        repeats = (away <= _EQUAL * theirs) | (container[inner] & (away <= CONTAINER_TOLERANCE * theirs))
        # A container's cost may repeat that of its parts where its tokens do not, such as those of the last call alone.
        cents, more_cents = (of["cost_cents"][inner] for of in (recorded, below))
        by_cost = (cents > 0) & (np.abs(cents - more_cents) <= CONTAINER_TOLERANCE * more_cents)
        repeats |= container[inner] & by_cost
        own_use = np.where(~container[inner] & (mine < theirs * (1 - CONTAINER_TOLERANCE)), 0, _AMBIGUOUS)
        rest = np.where(container[inner] & (mine > theirs), _PART, own_use)
        code[inner] = np.where(both, np.where(repeats, _WHOLE, rest), 0)
        for name in _USAGE:
            own[name][inner] -= _repeated(recorded[name][inner], below[name][inner], code[inner])
            tree.add_to_parents(rows, own[name], below[name])
    return code


def _left_out(tree: StepTree, code: NDArray[np.int8], recorded: NDArray[Any]) -> NDArray[Any]:
    """How much of an amount is left out of each step."""
    own, below, whole_steps = recorded.copy(), np.zeros_like(recorded), tree.has_children
    for rows in tree.bottom_up():
        inner = rows[whole_steps[rows]]
        own[inner] -= _repeated(recorded[inner], below[inner], code[inner])
        tree.add_to_parents(rows, own, below)
    out: NDArray[Any] = recorded - own
    return out


def _repeated(own: NDArray[Any], below: NDArray[Any], code: NDArray[np.int8]) -> NDArray[Any]:
    """How much of a step's amount its descendants have: all of it, within the tolerance, or theirs."""
    repeated = np.where(own <= below * (1 + CONTAINER_TOLERANCE), own, below)
    out: NDArray[Any] = np.where(((code == _WHOLE) | (code == _PART)) & (below > 0), repeated, 0)
    return out


def _covered_ms(tree: StepTree, table: pa.Table) -> Floats:
    """How long children of each step ran within its interval."""
    covered = np.zeros(len(tree))
    if "timestamp" not in table.column_names:
        return covered
    duration = _number(table, "duration_ms")
    timed = table["timestamp"].is_valid().to_numpy() & (duration > 0)
    children = np.concatenate(tree.levels[1:])  # those of one step side by side
    children = children[timed[children] & timed[tree.parent[children]]]
    parents = tree.parent[children]
    start_us = _whole(table["timestamp"])
    # From the parent's start, so that no float is as large as a date.
    begin = (start_us[children] - start_us[parents]) / 1000
    end = np.minimum(begin + duration[children], duration[parents])
    begin = np.maximum(begin, 0.0)
    within = end > begin
    parents = parents[within]
    first, lengths = union_lengths(parents, begin[within], end[within])
    covered[parents[first]] = np.minimum(lengths, duration[parents[first]])
    return covered


def _is_container(table: pa.Table) -> NDArray[np.bool_]:
    if "step_type" not in table.column_names or not len(table):
        return np.zeros(len(table), np.bool_)
    encoded = table["step_type"].combine_chunks().dictionary_encode(null_encoding="encode")
    types = encoded.dictionary.to_pylist()
    known = np.array([name is not None and name.strip().casefold() in CONTAINER_TYPES for name in types], np.bool_)
    containers: NDArray[np.bool_] = known[encoded.indices.to_numpy()]
    return containers


def _whole(column: pa.ChunkedArray) -> Integers:
    values: Integers = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
    return values


def _number(table: pa.Table, name: str) -> Floats:
    """A column of numbers, with 0 for NULL and NaN; zeros if there is no such column."""
    if name not in table.column_names:
        return np.zeros(len(table))
    values: Floats = np.nan_to_num(pc.fill_null(table[name].cast(pa.float64(), safe=False), 0.0).to_numpy(), nan=0.0)
    return values


def count_once(table: pa.Table, found: RollUps, columns: Sequence[str] = AMOUNTS) -> pa.Table:
    """A table with the amounts that are each step's own in place of those recorded. NULL stays NULL."""
    for name in columns:
        if name in found.left_out and name in table.column_names:
            own = pc.subtract(table[name], pa.array(found.left_out[name]).cast(table[name].type))
            table = table.set_column(table.column_names.index(name), table.schema.field(name), own)
    return table
