"""Sessions and their steps as the four native tables: prices, incidents and positions are put in here, once for all formats."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import PurePath, PureWindowsPath
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from exporttools.analysis.prices import PriceList
from exporttools.importing.column_arrays import array_of, positions
from exporttools.importing.events import Session, Step
from exporttools.importing.incident_rules import INCIDENT_RULES, RunSteps
from exporttools.importing.resolving import SessionSteps
from exporttools.records.schema import ARROW_TYPES, INCIDENTS, RUNS, TOKEN_KINDS, TRACE_STEPS, TRACES, arrow_schema
from exporttools.times import DAY_US, from_epoch_us

TENANT = "local"
"""The tenant of all imported rows: whoever uses this machine."""

SCHEMAS: dict[str, pa.Schema] = {
    "incidents": arrow_schema(INCIDENTS.stored_columns()),
    "runs": arrow_schema(RUNS.stored_columns(RUNS.extra)),
    "traces": arrow_schema(TRACES.stored_columns()),
    "trace_steps": arrow_schema(TRACE_STEPS.stored_columns(TRACE_STEPS.extra)),
}
"""The tables' columns, the well-known extra ones included."""

_OF_RUNS = {"tenant_id": "tenant_id", "trace_id": "run_id", "project": "project"}
"""The columns of steps that are the same within a run, and what they are called there."""

_STEPS = pa.schema([column for column in SCHEMAS["trace_steps"] if column.name not in _OF_RUNS])

_ROWS_PER_CHUNK = 4_096


@dataclass(slots=True)
class Billing:
    """Where the costs of calls come from.

    Attributes
    ----------
    reported, priced : int
        Calls whose cost is stated in the files, and those that were priced here.
    unpriced : Counter of str
        By model, the calls that used tokens and have no known price; they cost 0.
    unknown_tiers : Counter of str
        Those of them that were made in a tier without a known price, by model and tier.
    lower_bounds : int
        Calls whose usage was written before they had ended; they have cost at least that.
    """

    reported: int = 0
    priced: int = 0
    unpriced: Counter[str] = field(default_factory=Counter)
    unknown_tiers: Counter[str] = field(default_factory=Counter)
    lower_bounds: int = 0


class _Rows:
    """Rows of a table. They become arrays a few thousand at a time: as objects they take ten times as much memory."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._values: dict[str, list[Any]] = {name: [] for name in schema.names}
        self._arrays: dict[str, list[pa.Array]] = {name: [] for name in schema.names}

    def add(self, *row: Any) -> None:
        """Add a row."""
        self.add_columns({name: (value,) for name, value in zip(self._schema.names, row, strict=True)})

    def add_columns(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Add rows, given column by column."""
        for name, values in self._values.items():
            values += columns[name]
        if len(values) >= _ROWS_PER_CHUNK:
            self._end_chunk()

    def columns(self) -> dict[str, pa.ChunkedArray]:
        """All of them."""
        self._end_chunk()
        return {column.name: pa.chunked_array(self._arrays[column.name], column.type) for column in self._schema}

    def table(self) -> pa.Table:
        """All of them."""
        return pa.Table.from_arrays(list(self.columns().values()), schema=self._schema)

    def _end_chunk(self) -> None:
        for column in self._schema:
            self._arrays[column.name].append(array_of(self._values[column.name], column.type))
            self._values[column.name].clear()


class TableWriter:
    """Turns sessions into tables.

    Parameters
    ----------
    prices : PriceList or None
        None to price nothing.
    rules : collection of str
        See :data:`exporttools.importing.incident_rules.INCIDENT_RULES`.
    budget_cents : float or None
        What a run may cost.

    Attributes
    ----------
    billing : Billing
    calls, subagents, forks : int
    tokens : dict of str to int
        By kind.
    step_counts : list of int
        For each run, how many steps it has.
    digests : list of str
        For each run a digest of all its rows, by which a run that has changed is told.
    """

    def __init__(self, prices: PriceList | None, rules: Collection[str], budget_cents: float | None) -> None:
        self._prices, self._rules, self._budget_cents = prices, rules, budget_cents
        self.billing = Billing()
        self.calls = self.subagents = self.forks = 0
        self.tokens = dict.fromkeys(TOKEN_KINDS, 0)
        self.step_counts: list[int] = []
        self.digests: list[str] = []
        self._rows = {table: _Rows(schema) for table, schema in SCHEMAS.items()} | {"trace_steps": _Rows(_STEPS)}
        self._sessions = _Rows(_SESSIONS)
        self._costs_of_days: dict[int, array[float]] = {}
        self._days: dict[int, list[int]] = {}

    def tables(self, sessions: Iterable[SessionSteps]) -> dict[str, pa.Table]:
        """The four tables; rows in the order of the sessions."""
        for session in sessions:
            self._add(session)
        steps = self._rows.pop("trace_steps").columns()
        tables = {table: rows.table() for table, rows in self._rows.items()}
        of_run = positions(np.repeat(np.arange(len(self.step_counts)), self.step_counts))
        for name, of_runs in _OF_RUNS.items():
            steps[name] = tables["runs"][of_runs].take(of_run)
        schema = SCHEMAS["trace_steps"]
        return tables | {"trace_steps": pa.Table.from_arrays([steps[name] for name in schema.names], schema=schema)}

    def _add(self, session: SessionSteps) -> None:
        about, steps = session.session, session.steps
        run_id, project = about.session_id, project_of(about.cwd)
        columns = self._columns(session)
        run = RunSteps(steps, columns["cost_cents"], about.termination_reason, self._budget_cents)
        findings = [found for name in self._rules if (found := INCIDENT_RULES[name](run)) is not None]
        first = min((found.step_index for found in findings), default=None)
        incidents: list[tuple[Any, ...]] = [
            (f"{run_id}:{found.rule}", TENANT, run_id, found.severity, None, None, found.rule, steps[found.step_index].start_us)
            for found in findings
        ]  # fmt: skip
        trace_row = run_id, run_id, TENANT, first, None if first is None else steps[first].start_us
        run_row = (
            run_id, TENANT, about.agent_id, about.goal, None, _started(session), about.ended_us, about.termination_reason,
            None, session.format, about.agent_version, about.parent_session_id, project, about.cwd, about.git_branch,
        )  # fmt: skip
        self._rows["trace_steps"].add_columns(columns)
        self._rows["traces"].add(*trace_row)
        self._rows["runs"].add(*run_row)
        for incident in incidents:
            self._rows["incidents"].add(*incident)
        self.step_counts.append(len(steps))
        self.digests.append(hashlib.sha256(orjson.dumps([run_row, trace_row, incidents, columns])).hexdigest())
        self._sum(session, project, columns)

    def _columns(self, session: SessionSteps) -> dict[str, list[Any]]:
        """The steps of a session, without what they share."""
        steps = session.steps
        costs = list(map(self._cost, steps))
        usages = [step.usage for step in steps]
        columns: dict[str, list[Any]] = {
            "step_index": list(range(len(steps))),
            "timestamp": [step.start_us for step in steps],
            "tokens": [0 if usage is None else usage.tokens for usage in usages],
            "cost_cents": [cents for cents, _, _ in costs],
            "duration_ms": [
                0.0 if step.end_us is None else max(step.end_us - step.start_us, 0) / 1000 for step in steps
            ],
            "parent_step_index": session.parents,
            "cost_source": [source for _, source, _ in costs],
            "price_basis": [basis for _, _, basis in costs],
            "subagent": [step.agent for step in steps],
        }
        for name in ("step_type", "status", "content_hash", "name", "model", "error"):
            columns[name] = list(map(attrgetter(name), steps))
        for name in TOKEN_KINDS:
            columns[name] = [None if usage is None else getattr(usage, name) for usage in usages]
        return columns

    def _sum(self, session: SessionSteps, project: str | None, columns: Mapping[str, list[Any]]) -> None:
        """Add a session to the report's sums."""
        about, steps = session.session, session.steps
        called = [i for i, step in enumerate(steps) if step.usage is not None]
        tools = sum(step.usage is None and step.step_type in ("tool_call", "agent") for step in steps)
        for i in called:
            cents, tokens = columns["cost_cents"][i], columns["tokens"][i]
            day = steps[i].start_us // DAY_US
            sums = self._days.setdefault(day, [0, 0])
            sums[0] += 1
            sums[1] += tokens
            self._costs_of_days.setdefault(day, array("d")).append(cents)
        for name in TOKEN_KINDS:
            self.tokens[name] += sum(filter(None, columns[name]))
        self.calls += len(called)
        self.forks += session.is_fork or about.parent_session_id is not None
        self.subagents += len(set(columns["subagent"]) - {None})
        self._sessions.add(
            about.session_id, session.format, project, _started(session), about.ended_us, len(called), tools,
            columns["status"].count("error"), sum(columns["tokens"]), math.fsum(columns["cost_cents"]),
        )  # fmt: skip

    @property
    def cost_cents(self) -> float:
        """What all calls cost: the exact sum, rounded once, so that no order of sessions changes it."""
        return math.fsum(cents for costs in self._costs_of_days.values() for cents in costs)

    def by_session(self) -> pa.Table:
        """One row a session."""
        return self._sessions.table()

    def by_day(self) -> pa.Table:
        """One row a UTC day on which a call started."""
        rows = _Rows(_DAYS)
        for day in sorted(self._days):
            rows.add(day, *self._days[day], math.fsum(self._costs_of_days[day]))
        return rows.table()

    def _cost(self, step: Step) -> tuple[float, str | None, str | None]:
        """What a step cost, where that comes from, and by which prices."""
        usage = step.usage
        if usage is None:
            return 0.0, None, None
        self.billing.lower_bounds += step.is_lower_bound and usage.tokens > 0
        if step.cost_usd is not None:
            self.billing.reported += 1
            return step.cost_usd * 100, "reported", step.cost_basis or step.tier
        if not usage.tokens:
            return 0.0, None, None
        if self._prices is not None and step.model is not None:
            price = self._prices.price(
                step.model, from_epoch_us(step.start_us), provider=step.provider, tier=step.tier,
                input_tokens=usage.input_tokens, output_tokens=usage.output_tokens,
                cache_read_tokens=usage.cache_read_tokens, cache_write_tokens=usage.cache_write_tokens,
                cache_write_1h_tokens=usage.cache_write_1h_tokens,
            )  # fmt: skip
            if price is not None:
                self.billing.priced += 1
                return price.cost_cents, "priced", price.basis
            if step.tier is not None:
                self.billing.unknown_tiers[f"{step.model}, {step.tier}"] += 1
        self.billing.unpriced[step.model or "unknown model"] += 1
        return 0.0, "none", None


def project_of(cwd: str | None) -> str | None:
    r"""The last part of a path, of Unix or of Windows.

    Examples
    --------
    >>> project_of("/home/user/demo"), project_of(r"D:\code\demo")
    ('demo', 'demo')
    """
    if cwd is None:
        return None
    return (PureWindowsPath(cwd) if "\\" in cwd else PurePath(cwd)).name or None


def _started(session: SessionSteps) -> int | None:
    """When a run started: a fork with its own first step, not with what it has copied."""
    about: Session = session.session
    if session.is_fork and session.steps:
        return session.steps[0].start_us
    return about.started_us


_SESSIONS = pa.schema([
    ("run_id", pa.string()), ("source_format", pa.string()), ("project", pa.string()),
    ("started_at", ARROW_TYPES["timestamp"]), ("completed_at", ARROW_TYPES["timestamp"]),
    ("calls", pa.int64()), ("tool_calls", pa.int64()), ("failed", pa.int64()), ("tokens", pa.int64()),
    ("cost_cents", pa.float64()),
])  # fmt: skip
_DAYS = pa.schema([("day", pa.date32()), ("calls", pa.int64()), ("tokens", pa.int64()), ("cost_cents", pa.float64())])
