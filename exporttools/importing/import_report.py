"""What an import has read, counted and left out: a reconciliation that a stranger can follow. Reads no file."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from exporttools.text.inert import html_text, one_line
from exporttools.text.words import amount_text, plural

_SHOWN = 5
"""How many of a list's entries a person is shown; :meth:`ImportReport.to_dict` has them all."""


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """A line, or another record, that could not be read.

    Attributes
    ----------
    path : str
    record : int
        The line's number, from 1.
    reason : str
    """

    path: str
    record: int
    reason: str

    def __str__(self) -> str:
        return f"{one_line(self.path, 300)}:{self.record}: {one_line(self.reason)}"


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import has read, and what became of it.

    Attributes
    ----------
    files : mapping of str to int
        How many files were read, by format.
    skipped : tuple of str
        Files in the directories given that no format recognises, and those that could not be opened.
    records : int
        The lines read, blank ones left out; in a file that is one JSON document, its messages or steps.
    counted, copies, metadata, rejected : int
        What became of them: they add up to `records`. Counted: it begins, ends or pays for a step. Copies: all that it
        holds is counted in another record. Metadata: it holds no usage and no call. Rejected: it cannot be read.
    rejections : tuple of RejectedRecord
        Why: the first 1,000 of each file.
    bad_numbers : int
        Values that should be a number of tokens and are not. They count as 0.
    sessions, forks, subagents : int
        The runs; those of them that another one was copied into or has started; and the subagents that worked in them.
    sessions_left_out, calls_left_out : int
        Those that ended before `since`.
    usages : int
        The records that say what a call has used. They are the calls, and copies of them.
    calls : int
        The calls of models that are counted.
    tokens : mapping of str to int
        By kind. ``input_tokens`` includes what was read from caches and written to them, ``output_tokens`` reasoning.
    cost_cents : float
        In US cents.
    priced, reported : int
        Calls priced here, and calls whose cost the files state.
    unpriced, unknown_tiers : mapping of str to int
        Calls without a known price, which cost 0 here: by model; and those of them whose tier is the reason.
    lower_bounds : int
        Calls whose usage was written before they had ended: they have used at least that.
    lost_subagents : tuple of str
        Subagents whose own files are missing: what they cost is not known.
    notes : mapping of str to int
        What else one should know.
    by_session, by_day : pyarrow.Table
        One row a session, and one a UTC day: calls, tokens and cost.
    """

    files: Mapping[str, int]
    skipped: tuple[str, ...]
    records: int
    counted: int
    copies: int
    metadata: int
    rejected: int
    rejections: tuple[RejectedRecord, ...]
    bad_numbers: int
    sessions: int
    sessions_left_out: int
    forks: int
    subagents: int
    usages: int
    calls: int
    calls_left_out: int
    tokens: Mapping[str, int]
    cost_cents: float
    priced: int
    reported: int
    unpriced: Mapping[str, int]
    unknown_tiers: Mapping[str, int]
    lower_bounds: int
    lost_subagents: tuple[str, ...]
    notes: Mapping[str, int]
    by_session: pa.Table
    by_day: pa.Table

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a dict ready for JSON, nothing left out."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return plain | {
            "files": dict(self.files),
            "skipped": list(self.skipped),
            "rejections": [{"path": r.path, "record": r.record, "reason": r.reason} for r in self.rejections],
            "tokens": dict(self.tokens),
            "unpriced": dict(self.unpriced),
            "unknown_tiers": dict(self.unknown_tiers),
            "lost_subagents": list(self.lost_subagents),
            "notes": dict(self.notes),
            "by_session": _rows(self.by_session),
            "by_day": _rows(self.by_day),
        }

    def lines(self) -> dict[str, str]:
        """Return the reconciliation as names and sentences, for people."""
        tokens = self.tokens
        fresh = tokens["input_tokens"] - tokens["cache_read_tokens"] - tokens["cache_write_tokens"]
        copies = self.usages - self.calls - self.calls_left_out
        files = ", ".join(f"{count:,} of {title}" for title, count in self.files.items()) or "none"
        return {
            "files": files + _more(self.skipped, "; {} skipped: "),
            "lines": f"{self.records:,} = {self.counted:,} counted + {self.copies:,} copies + {self.metadata:,} metadata "
            f"+ {self.rejected:,} rejected",
            **({"rejected": _list(self.rejections)} if self.rejections else {}),
            **({"bad numbers": f"{self.bad_numbers:,}, which count as 0"} if self.bad_numbers else {}),
            "sessions": f"{self.sessions:,}, with {plural(self.forks, 'fork')} and {plural(self.subagents, 'subagent')}"
            + (f"; {self.sessions_left_out:,} ended earlier and are left out" if self.sessions_left_out else ""),
            "calls": f"{plural(self.usages, 'usage')} = {plural(self.calls, 'call')} + {plural(copies, 'copy', 'copies')}"
            + (f" + {self.calls_left_out:,} of sessions left out" if self.calls_left_out else ""),
            "tokens": f"{tokens['input_tokens'] + tokens['output_tokens']:,} = {fresh:,} in "
            f"+ {tokens['cache_read_tokens']:,} read from caches + {tokens['cache_write_tokens']:,} written to caches "
            f"+ {tokens['output_tokens']:,} out",
            "cost": f"{amount_text(self.cost_cents, 'US cents')}; {plural(self.priced, 'call')} priced by list, "
            f"{self.reported:,} as the files state",
            **self._doubts(),
        }

    def _doubts(self) -> dict[str, str]:
        """What makes the bill less than sure."""
        doubts = {}
        if self.unpriced:
            count = plural(sum(self.unpriced.values()), "call")
            doubts["unpriced"] = f"{count} without a known price cost 0 here: {_counts(self.unpriced)}"
        if self.unknown_tiers:
            doubts["unknown tiers"] = _counts(self.unknown_tiers)
        if self.lower_bounds:
            doubts["at least"] = f"{plural(self.lower_bounds, 'call')} whose output was counted before it had ended"
        if self.lost_subagents:
            lost = plural(len(self.lost_subagents), "subagent")
            doubts["not known"] = f"what {lost} cost, whose files are missing{_more(self.lost_subagents, ': ')}"
        return doubts | {f"note {i}": f"{what} ({count:,})" for i, (what, count) in enumerate(self.notes.items(), 1)}

    def __str__(self) -> str:
        lines = self.lines()
        width = max(map(len, lines))
        return "\n".join(f"{name:<{width}}  {text}" for name, text in lines.items())

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html_text(name)}</th><td style='text-align:left'>{html_text(text, 2000)}</td></tr>"
            for name, text in self.lines().items()
        )
        return f"<table><tbody>{rows}</tbody></table>"


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    return [
        {name: value.isoformat() if isinstance(value, (dt.date, dt.datetime)) else value for name, value in row.items()}
        for row in table.to_pylist()
    ]


def _list(items: tuple[Any, ...]) -> str:
    shown = "; ".join(one_line(str(item), 400) for item in items[:_SHOWN])
    return shown + (f"; and {len(items) - _SHOWN:,} more" if len(items) > _SHOWN else "")


def _counts(counts: Mapping[str, int]) -> str:
    shown = ", ".join(f"{one_line(name, 60)} ({count:,})" for name, count in itertools.islice(counts.items(), _SHOWN))
    return shown + (f", and {len(counts) - _SHOWN:,} more" if len(counts) > _SHOWN else "")


def _more(items: tuple[str, ...], heading: str) -> str:
    return heading.format(f"{len(items):,}") + _list(items) if items else ""
