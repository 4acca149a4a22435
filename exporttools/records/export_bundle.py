"""ExportBundle: an incident, its run, a trace and its steps, with the names of redacted columns.

Immutable and consistent: parts that do not belong together are refused. No database, no file.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from exporttools.errors import ConfigError
from exporttools.files.digests import combined_digest
from exporttools.records.inline_timeline import timeline_svg
from exporttools.records.redaction import matching_columns, redacted_columns, without_text
from exporttools.records.row_totals import RowTotals, first_step_back
from exporttools.records.snapshot_table import SnapshotTable, SnapshotType
from exporttools.records.snapshots import (
    IncidentSnapshot,
    RunSnapshot,
    SourceSnapshot,
    TraceStepSnapshot,
    TraceSummarySnapshot,
)
from exporttools.text.inert import html_text, one_line
from exporttools.text.words import plural
from exporttools.times import time_text

S = TypeVar("S", bound=SnapshotType)


class ExportBundle:
    """An incident, its run, one of the run's traces and all of its steps, read at one point in time. Immutable.

    Parameters
    ----------
    incident, run, trace : snapshot, one-row SnapshotTable or None
        A table may have extra columns; the bundle's Parquet files have them too.
    steps : SnapshotTable of TraceStepSnapshot, optional
        All steps of the trace, in strictly ascending order of ``step_index``.
    trace_count : int, optional
        How many traces the run has; `trace` is one of them.
    source : SourceSnapshot, optional
        Where and when the parts were read.
    redacted : iterable of str, optional
        The text columns that were redacted, such as ``"runs.goal"``; see :meth:`redact`.

    Raises
    ------
    ConfigError
        The parts do not belong together, the steps were cut by a limit or are out of order, or a column cannot be
        redacted or still holds a value.

    Notes
    -----
    Two bundles are equal if they have the same rows, number of traces and redacted columns, wherever and whenever
    they were read.

    Examples
    --------
    >>> run = RunSnapshot(run_id="r1", tenant_id="acme", total_cost_cents=12)
    >>> bundle = ExportBundle(run=run)
    >>> bundle.missing
    ('incident', 'trace', 'steps')
    """

    __slots__ = ("_row_totals", "_tables", "redacted", "source", "trace_count")

    redacted: tuple[str, ...]
    source: SourceSnapshot | None
    trace_count: int
    _row_totals: dict[str, RowTotals] | None
    _tables: dict[str, SnapshotTable[Any]]

    def __init__(
        self,
        incident: IncidentSnapshot | SnapshotTable[IncidentSnapshot] | None = None,
        run: RunSnapshot | SnapshotTable[RunSnapshot] | None = None,
        trace: TraceSummarySnapshot | SnapshotTable[TraceSummarySnapshot] | None = None,
        steps: SnapshotTable[TraceStepSnapshot] | None = None,
        *,
        trace_count: int | None = None,
        source: SourceSnapshot | None = None,
        redacted: Iterable[str] = (),
    ) -> None:
        if steps is not None and not (isinstance(steps, SnapshotTable) and steps.snapshot_type is TraceStepSnapshot):
            found = steps.describe() if isinstance(steps, SnapshotTable) else type(steps).__name__
            raise ConfigError(f"expected a SnapshotTable of TraceStepSnapshot or None; found {found}")
        tables: dict[str, SnapshotTable[Any]] = {
            "incident": _at_most_one(IncidentSnapshot, incident),
            "run": _at_most_one(RunSnapshot, run),
            "trace": _at_most_one(TraceSummarySnapshot, trace),
            "steps": SnapshotTable.empty(TraceStepSnapshot) if steps is None else steps,
        }
        object.__setattr__(self, "_tables", tables)
        object.__setattr__(self, "_row_totals", None)
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "redacted", redacted_columns(tables, redacted))
        object.__setattr__(self, "trace_count", len(tables["trace"]) if trace_count is None else trace_count)
        self._require_belonging_together()

    def _require_belonging_together(self) -> None:
        incident, run, trace = self.incident, self.run, self.trace
        tenants = {part.tenant_id for part in (incident, run, trace) if part is not None}
        if len(tenants) > 1:
            raise ConfigError(f"the parts of a bundle belong to one tenant; found {_shown(tenants)}")
        # A redacted run_id is NULL, which is not a mismatch.
        known = "incidents.source_run_id" not in self.redacted
        run_ids = {incident.source_run_id} if incident is not None and known else set()
        run_ids |= {part.run_id for part in (run, trace) if part is not None}
        if len(run_ids) > 1:
            raise ConfigError(f"the incident, run and trace of a bundle share one run_id; found {_shown(run_ids)}")
        if len(self.steps) and trace is None:
            raise ConfigError(f"a bundle with {plural(len(self.steps), 'step')} needs their trace")
        if self.steps.truncated:
            raise ConfigError(
                f"a bundle needs all {self.steps.total:,} steps of its trace; a limit cut them to {len(self.steps):,}"
            )
        if (step_back := first_step_back(self.steps.to_arrow()["step_index"])) is not None:
            row, before, index = step_back
            raise ConfigError(
                f"steps: row {row} has step_index = {index} after {before}; expected strictly ascending order. "
                "Sort the steps by step_index and drop duplicates"
            )
        if not isinstance(self.trace_count, int) or isinstance(self.trace_count, bool):
            raise ConfigError(f"trace_count is {one_line(repr(self.trace_count))}; expected an int")
        if self.trace_count < len(self._tables["trace"]):
            expected = len(self._tables["trace"])
            raise ConfigError(
                f"trace_count is {self.trace_count}; expected at least {expected}, the number of traces in the bundle"
            )

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an ExportBundle is immutable; build a new one to change {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"an ExportBundle is immutable; build a new one without {name}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_bundle, (tuple(self._tables.values()), self.trace_count, self.source, self.redacted)

    @property
    def incident(self) -> IncidentSnapshot | None:
        """The incident, or None if the bundle is of a run alone."""
        return next(iter(self._tables["incident"]), None)

    @property
    def run(self) -> RunSnapshot | None:
        """The run, or None if the incident has no run or it no longer exists."""
        return next(iter(self._tables["run"]), None)

    @property
    def trace(self) -> TraceSummarySnapshot | None:
        """The trace, or None if the run has no trace."""
        return next(iter(self._tables["trace"]), None)

    @property
    def steps(self) -> SnapshotTable[TraceStepSnapshot]:
        """All steps of the trace, in order of ``step_index``; may be empty."""
        return self._tables["steps"]

    @property
    def tables(self) -> dict[str, SnapshotTable[Any]]:
        """The parts as tables: ``incident``, ``run`` and ``trace`` with at most one row, then ``steps``."""
        return dict(self._tables)

    @property
    def tenant_id(self) -> str | None:
        """The tenant whose data it is, or None if the bundle is empty."""
        return next((part.tenant_id for part in (self.incident, self.run, self.trace) if part is not None), None)

    @property
    def name(self) -> str:
        """The id of the incident, or else of the run, or else of the trace."""
        ids = (self.incident and self.incident.id, self.run and self.run.run_id, self.trace and self.trace.trace_id)
        return next((name for name in ids if name), "empty bundle")

    @property
    def headline(self) -> str:
        """One line on what the bundle is about: its incident with violation type and severity, or else its run or trace.

        Examples
        --------
        >>> ExportBundle(run=RunSnapshot(run_id="r1", tenant_id="acme")).headline
        'Run r1'
        """
        incident = self.incident
        if incident is None:
            kind = "Run " if self.run is not None else "Trace " if self.trace is not None else ""
            return f"{kind}{one_line(self.name, 80)}"
        facts = (
            incident.violation_type and one_line(incident.violation_type, 40),
            incident.severity and f"{one_line(incident.severity, 20)} severity",
        )
        said = ", ".join(fact for fact in facts if fact)
        return f"Incident {one_line(incident.id, 80)}" + (f": {said}" if said else "")

    @property
    def file_name(self) -> str:
        """The name made safe for a file name: an id may hold anything, even slashes and leading dots."""
        plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in self.name)
        return plain.lstrip(".")[:100] or "bundle"

    @property
    def missing(self) -> tuple[str, ...]:
        """Which of the four parts are missing."""
        return tuple(part for part, table in self._tables.items() if not len(table))

    def redact(self, *columns: str) -> ExportBundle:
        """Return a copy with NULL in place of some text columns, to show to those who may not read them.

        Parameters
        ----------
        *columns : str
            ``"runs.goal"`` is one column of one table; ``"goal"`` is every column of that name. Nullable text columns
            can be redacted, a layout's extra columns too. Columns that are already redacted stay redacted. The same
            words in other columns are not touched.

        Returns
        -------
        ExportBundle
            Its ``redacted`` lists the columns. Counts, sums and times are the same; the content digest is of the new rows.

        Raises
        ------
        ConfigError
            A column does not exist, does not hold text, or is not nullable.

        Examples
        --------
        >>> bundle = ExportBundle(run=RunSnapshot(run_id="r1", tenant_id="acme", goal="sort Ann's mail"))
        >>> shown = bundle.redact("goal")
        >>> shown.run.goal is None, shown.redacted, bundle.run.goal
        (True, ('runs.goal',), "sort Ann's mail")
        """
        names = {*self.redacted, *(name for column in columns for name in matching_columns(self._tables, column))}
        tables = [without_text(table, names) for table in self._tables.values()]
        return ExportBundle(*tables, trace_count=self.trace_count, source=self.source, redacted=names)

    @property
    def row_totals(self) -> dict[str, RowTotals]:
        """The totals of each part's rows, computed once on first use. Add no rows to them."""
        if self._row_totals is None:
            totals = {part: RowTotals.of(table.record_type, table.to_arrow()) for part, table in self._tables.items()}
            object.__setattr__(self, "_row_totals", totals)
        return dict(self._row_totals)  # type: ignore[arg-type]

    @property
    def totals(self) -> Mapping[str, int | float]:
        """The number of ``steps`` and of ``failed`` ones, and the sums of their ``tokens``, ``cost_cents`` and ``duration_ms``.

        Where steps are parts of others (the extra column ``parent_step_index``), each cent and token counts once, and of
        each step its own time; see :func:`exporttools.step_tree`.
        """
        steps = self.row_totals["steps"]
        return {"steps": steps.rows, "failed": steps.failed, **steps.own_sums}

    @property
    def rolled_up(self) -> Mapping[str, int | float]:
        """What `totals` leave out, since it is recorded on steps and again on their parts.

        The sums of ``tokens``, ``cost_cents`` and ``duration_ms``; of how many ``steps`` usage was left out; and how many
        are ``ambiguous``: they count whole although their parts have usage too.
        """
        return dict(self.row_totals["steps"].rolled_up)

    @property
    def time_range(self) -> tuple[dt.datetime, dt.datetime] | None:
        """When the first and the last step started, or None without steps."""
        return self.row_totals["steps"].time_range

    @property
    def content_digest(self) -> str:
        """SHA-256 over the rows (see :mod:`exporttools.files.digests`): the same for the same rows, whatever their database."""
        return combined_digest(self.table_digests.values())

    @property
    def table_digests(self) -> dict[str, str]:
        """The content digest of each table, by the table's name."""
        return {self._tables[part].record_type.table: totals.content_digest for part, totals in self.row_totals.items()}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ExportBundle):
            return NotImplemented
        return (
            self._tables == other._tables and self.trace_count == other.trace_count and self.redacted == other.redacted
        )

    __hash__ = None  # type: ignore[assignment]  # equal by value, and hashing would read every row

    def __repr__(self) -> str:
        missing = f", missing {', '.join(self.missing)}" if self.missing else ""
        redacted = f", redacted {one_line(', '.join(self.redacted), 600)}" if self.redacted else ""
        of = f"{one_line(self.name, 80)!r} of {one_line(self.tenant_id, 40)!r}"
        return f"<ExportBundle {of}: {self.steps.describe()}{missing}{redacted}>"

    def _repr_html_(self) -> str:
        trace = self.trace
        at = None if trace is None else trace.violation_step_index
        facts = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>{html_text(value, 300)}</td></tr>"
            for name, value in self._facts()
        )
        steps = f"<details><summary>steps</summary>{self.steps._repr_html_()}</details>" if len(self.steps) else ""
        return (
            f"<h3 style='margin:0.4em 0'>{html_text(self.headline, 200)}</h3><table>{facts}</table>"
            f"{timeline_svg(self.steps.to_arrow(), at)}{steps}"
        )

    def _facts(self) -> Iterator[tuple[str, str]]:
        """Yield what people want to know first, as names and texts. NULLs are left out, except that a cost is then unknown."""
        incident, run, trace = self.incident, self.run, self.trace
        if self.tenant_id is not None:
            yield "tenant", self.tenant_id
        if incident is not None:
            yield "recorded", f"{time_text(incident.created_at)} UTC"
            if policy := " ".join(
                filter(None, (incident.policy_name, incident.policy_id and f"({incident.policy_id})"))
            ):
                yield "policy", policy
        if run is not None:
            yield "run", f"{run.run_id}" + (f" of {run.agent_id}" if run.agent_id else "")
            if run.goal:
                yield "goal", run.goal
            began, ended = (time_text(at) if at else "not recorded" for at in (run.started_at, run.completed_at))
            yield (
                "from, to (UTC)",
                f"{began}, {ended}" + (f": {run.termination_reason}" if run.termination_reason else ""),
            )
            cents = run.total_cost_cents
            yield "recorded cost", "unknown" if cents is None else f"{cents:,} US cents"
        if trace is not None:
            others = f", one of the run's {self.trace_count}" if self.trace_count > 1 else ""
            at = "" if trace.violation_step_index is None else f"; violation at step {trace.violation_step_index:,}"
            yield "trace", f"{trace.trace_id}{others}{at}"
            yield "steps", f"{self.steps.describe()}, {self.totals['failed']:,} failed"
        if self.missing:
            yield "missing", ", ".join(self.missing)
        if self.redacted:
            yield "redacted", ", ".join(self.redacted)


def _at_most_one(snapshot_type: type[S], part: S | SnapshotTable[S] | None) -> SnapshotTable[S]:
    if isinstance(part, SnapshotTable):
        if part.snapshot_type is not snapshot_type or len(part) > 1:
            raise ConfigError(f"expected at most one {snapshot_type.__name__}; found {part.describe()}")
        return part
    if part is not None and not isinstance(part, snapshot_type):
        raise ConfigError(f"expected {snapshot_type.__name__} or None; found {type(part).__name__}")
    return SnapshotTable.from_records(snapshot_type, [] if part is None else [part])


def _shown(ids: Iterable[str | None]) -> str:
    return ", ".join(sorted(one_line(repr(found)) for found in ids))


def _restore_bundle(
    tables: tuple[SnapshotTable[Any], ...],
    trace_count: int,
    source: SourceSnapshot | None,
    redacted: tuple[str, ...],
) -> ExportBundle:
    return ExportBundle(*tables, trace_count=trace_count, source=source, redacted=redacted)
