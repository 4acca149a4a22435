"""What an export did, or would do, for terminals and notebooks. Exports nothing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from exporttools.records.schema import RECORD_TYPES
from exporttools.text.inert import html_text, one_line
from exporttools.text.words import plural
from exporttools.times import time_text


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export did.

    Attributes
    ----------
    destination : str
    manifest : int
        The number of the newest manifest.
    rows, bytes : mapping of str to int
        Written by this export, by table.
    windows_committed : int
    windows_skipped : int
        Settled and committed by an earlier export.
    windows_unchanged : int
        Read again because they were provisional, and found unchanged.
    windows_provisional : int
        The dataset's windows within the exported period that the next export reads again.
    open_runs : int
        Runs without an end in the dataset's windows within the exported period.
    undated_runs, undated_incidents : int
        Runs without a start and incidents without a time of creation, under ``day=__undated__``.
    unowned_rows : mapping of str to int
        Incidents, runs and traces that the database holds without a tenant, by table; steps go with their trace.
    default_tenant : str or None
        The tenant that those are read as; None if there are no such rows.
    retries : tuple of str
        For each time that a window was read again after a transient failure, the reason.
    seconds : float
    """

    destination: str
    manifest: int
    rows: Mapping[str, int]
    bytes: Mapping[str, int]
    windows_committed: int
    windows_skipped: int
    windows_unchanged: int
    windows_provisional: int
    open_runs: int
    undated_runs: int
    undated_incidents: int
    unowned_rows: Mapping[str, int]
    default_tenant: str | None
    retries: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a dict ready for JSON."""
        mappings = {"rows": dict(self.rows), "bytes": dict(self.bytes), "unowned_rows": dict(self.unowned_rows)}
        return asdict(self) | mappings | {"retries": list(self.retries)}

    def _lines(self) -> list[str]:
        written, size = sum(self.rows.values()), sum(self.bytes.values())
        counts = ", ".join(f"{count:,} {table}" for table, count in self.rows.items())
        speed = f", {written / self.seconds:,.0f} rows/s" if self.seconds and written else ""
        done = f"{size_text(size)} in {self.seconds:,.1f} s{speed}"
        lines = [
            *([counts, done] if written else [f"nothing new; checked in {self.seconds:,.1f} s"]),
            f"windows: {self.windows_committed:,} committed, {self.windows_skipped:,} skipped (settled before), "
            f"{self.windows_unchanged:,} unchanged",
        ]
        if self.windows_provisional:
            lines.append(
                f"provisional: {plural(self.windows_provisional, 'window')} with {plural(self.open_runs, 'open run')}, "
                "read again by the next export"
            )
        undated = []
        if self.undated_runs:
            undated.append(f"{plural(self.undated_runs, 'run')} without a start")
        if self.undated_incidents:
            undated.append(f"{plural(self.undated_incidents, 'incident')} without a time of creation")
        if undated:
            lines.append(f"undated: {', '.join(undated)}, under day=__undated__")
        if self.unowned_rows:
            kinds = [(count, RECORD_TYPES[table]) for table, count in self.unowned_rows.items()]
            unowned = ", ".join(plural(count, kind.noun, kind.plural) for count, kind in kinds)
            lines.append(f"without a tenant: {unowned}, read as tenant {one_line(repr(self.default_tenant), 60)}")
        if self.retries:
            lines.append(f"retries: {len(self.retries):,}; the last one because of: {one_line(self.retries[-1], 160)}")
        return lines

    def __str__(self) -> str:
        return "\n".join(
            [f"{one_line(self.destination, 300)}: manifest {self.manifest}", *(f"  {line}" for line in self._lines())]
        )

    def _repr_html_(self) -> str:
        lines = "".join(f"<br>{html_text(line, 600)}" for line in self._lines())
        return f"<p><b>export</b> <code>{html_text(self.destination, 300)}</code>: manifest {self.manifest}{lines}</p>"


@dataclass(frozen=True, slots=True)
class PlannedWindow:
    """A window that an export would read.

    Attributes
    ----------
    since, until : datetime.datetime or None
        Both are None for the rows that have no place in time.
    why : str
        ``new`` or ``provisional``.
    runs, open_runs, incidents : int
        Counted by the plan for new windows, by the last export for provisional ones.
    """

    since: dt.datetime | None
    until: dt.datetime | None
    why: str
    runs: int
    open_runs: int
    incidents: int

    @property
    def name(self) -> str:
        """The window's name in messages."""
        if self.since is None or self.until is None:
            return "undated rows"
        return f"{_short(self.since)} to {_short(self.until)}"


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What an export would do.

    Attributes
    ----------
    destination : str
    windows : tuple of PlannedWindow
    windows_skipped : int
    estimated_steps, estimated_bytes : int
        Estimates, from what is exported already, or else from the steps of a few hundred traces.
    """

    destination: str
    windows: tuple[PlannedWindow, ...]
    windows_skipped: int
    estimated_steps: int
    estimated_bytes: int

    @property
    def runs(self) -> int:
        """The runs in all windows."""
        return sum(window.runs for window in self.windows)

    @property
    def undated_incidents(self) -> int:
        """The incidents without a time of creation."""
        return sum(window.incidents for window in self.windows if window.since is None)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as a dict ready for JSON."""
        windows = [asdict(window) for window in self.windows]
        return asdict(self) | {"windows": windows, "runs": self.runs, "undated_incidents": self.undated_incidents}

    def summary(self) -> str:
        """Return the plan in one line."""
        return (
            f"{one_line(self.destination, 300)}: {plural(len(self.windows), 'window')} to read, "
            f"{self.windows_skipped:,} settled; {plural(self.runs, 'run')}, "
            f"about {plural(self.estimated_steps, 'step')} and {size_text(self.estimated_bytes)}"
        )

    def __str__(self) -> str:
        shown = [
            f"  {w.name}  {w.why}  {plural(w.runs, 'run')}, {plural(w.incidents, 'incident')}"
            for w in self.windows[:50]
        ]
        more = [f"  ... {len(self.windows) - 50:,} more"] if len(self.windows) > 50 else []
        return "\n".join([self.summary(), *shown, *more])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td style='text-align:left'>{html_text(w.name)}</td><td>{w.why}</td><td>{w.runs:,}</td><td>{w.incidents:,}</td></tr>"
            for w in self.windows[:50]
        )
        more = f"<p>… {len(self.windows) - 50:,} more</p>" if len(self.windows) > 50 else ""
        head = "".join(f"<th>{name}</th>" for name in ("window", "why", "runs", "incidents"))
        return f"<p>{html_text(self.summary(), 600)}</p><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}"


def size_text(count: int) -> str:
    """Return a number of bytes as people read it.

    Examples
    --------
    >>> size_text(250_000_000), size_text(812)
    ('250 MB', '812 bytes')
    """
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= size:
            return f"{count / size:,.{0 if count >= 10 * size else 1}f} {unit}"
    return plural(count, "byte")


def _short(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%d") if moment.time() == dt.time() else time_text(moment)
