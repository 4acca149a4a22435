"""What an export did, and what one would do: for terminals and notebooks. Exports nothing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from exporttools.text.inert import html_text, one_line


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
        Read again since they were provisional, and found to be as committed.
    windows_provisional : int
        Of the dataset's windows within the export: still to be read again by the next.
    open_runs : int
        Runs without an end in those windows.
    undated_runs : int
        Runs without a start, under ``day=__undated__``.
    retries : tuple of str
        Why windows were read again after a passing failure, for each time.
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
    retries: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self) | {"rows": dict(self.rows), "bytes": dict(self.bytes), "retries": list(self.retries)}

    def _lines(self) -> list[str]:
        written, size = sum(self.rows.values()), sum(self.bytes.values())
        counts = ", ".join(f"{count:,} {table}" for table, count in self.rows.items())
        speed = f", {written / self.seconds:,.0f} rows/s" if self.seconds and written else ""
        done = f"{megabytes(size)} in {self.seconds:,.1f} s{speed}"
        lines = [
            *([counts, done] if written else [f"nothing new; looked at in {self.seconds:,.1f} s"]),
            f"windows: {self.windows_committed:,} committed, {self.windows_skipped:,} skipped (settled before), "
            f"{self.windows_unchanged:,} unchanged",
        ]
        if self.windows_provisional:
            lines.append(
                f"provisional: {self.windows_provisional:,} windows with {self.open_runs:,} open runs; "
                "the next export reads them again"
            )
        if self.undated_runs:
            lines.append(f"undated: {self.undated_runs:,} runs without a start, under day=__undated__")
        if self.retries:
            lines.append(f"retries: {len(self.retries)}; the last since {one_line(self.retries[-1], 160)}")
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
        Both None: the runs without a start.
    why : str
        ``new`` or ``provisional``.
    runs, open_runs, incidents : int
        Of the whole window; open runs of new windows only.
    """

    since: dt.datetime | None
    until: dt.datetime | None
    why: str
    runs: int
    open_runs: int
    incidents: int

    @property
    def name(self) -> str:
        """How messages call it."""
        if self.since is None or self.until is None:
            return "undated runs"
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
        From the steps of a few hundred traces and what a step takes in Parquet; not a promise.
    """

    destination: str
    windows: tuple[PlannedWindow, ...]
    windows_skipped: int
    estimated_steps: int
    estimated_bytes: int

    @property
    def runs(self) -> int:
        """Runs in all windows."""
        return sum(window.runs for window in self.windows)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self) | {"windows": [asdict(window) for window in self.windows], "runs": self.runs}

    def summary(self) -> str:
        """One line."""
        return (
            f"{one_line(self.destination, 300)}: {len(self.windows):,} windows to read, {self.windows_skipped:,} settled; "
            f"{self.runs:,} runs, about {self.estimated_steps:,} steps and {megabytes(self.estimated_bytes)}"
        )

    def __str__(self) -> str:
        shown = [f"  {w.name}  {w.why}  {w.runs:,} runs, {w.incidents:,} incidents" for w in self.windows[:50]]
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


def megabytes(count: int) -> str:
    """A number of bytes for people.

    Examples
    --------
    >>> megabytes(250_000_000), megabytes(812)
    ('250 MB', '812 bytes')
    """
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= size:
            return f"{count / size:,.{0 if count >= 10 * size else 1}f} {unit}"
    return f"{count} bytes"


def _short(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%d") if moment.time() == dt.time() else moment.strftime("%Y-%m-%d %H:%M:%S")
