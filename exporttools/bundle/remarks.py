"""What is odd about a bundle, though not wrong: facts that do not fit together, and what a reader could overlook.

A remark never fails a bundle: databases record odd things, and a bundle shows what was recorded. One line for each kind of
oddity, however often it occurs. Steps are seen batch by batch and not kept.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from exporttools.bundle import description
from exporttools.records.export_bundle import ExportBundle
from exporttools.records.row_totals import RowTotals
from exporttools.text.inert import shown_name
from exporttools.text.words import amount_text, plural
from exporttools.times import SECOND_US, duration_text, parse_utc, time_text

ONE_CLOCK = dt.timedelta(seconds=1)
"""How far times in the rows may be out of order unremarked: many platforms record the end of a run in whole seconds."""

TWO_CLOCKS = dt.timedelta(minutes=5)
"""The same for times by the clocks of two machines: the platform's, the reader's, the writer's, the verifier's."""


class StepNumbers:
    """What remarks need to know of the steps' numbers.

    Parameters
    ----------
    violation : int, optional
        The ``step_index`` at which the trace was violated.
    """

    def __init__(self, violation: int | None = None) -> None:
        self.violation = violation
        self.has_violation = False
        self.first: int | None = None
        self.last: int | None = None
        self.count = 0

    def update(self, batch: pa.RecordBatch) -> None:
        """Add the next steps, in ascending order of ``step_index``."""
        numbers = batch["step_index"].to_numpy()
        if not len(numbers):
            return
        if self.first is None:
            self.first = int(numbers[0])
        self.last = int(numbers[-1])
        self.count += len(numbers)
        if self.violation is not None:
            place = np.searchsorted(numbers, self.violation)
            self.has_violation |= bool(place < len(numbers) and numbers[place] == self.violation)


def remarks(
    stated: Mapping[str, Any],
    head: ExportBundle,
    steps: RowTotals,
    numbers: StepNumbers,
    *,
    now: dt.datetime | None = None,
) -> Iterator[str]:
    """Yield what is odd about a bundle that verifies, in words that are safe to show.

    Parameters
    ----------
    stated : mapping
        Its description.
    head : ExportBundle
        Its parts without the steps.
    steps : RowTotals
        Of its steps.
    numbers : StepNumbers
        Of its steps.
    now : datetime.datetime, optional
        By this machine's clock; by default now.
    """
    if stated["format_version"] == 1:
        yield _format_1(steps)
    elif ambiguous := stated["rolled_up"]["ambiguous"]:
        whose = "it" if ambiguous == 1 else "them"
        yield f"{plural(ambiguous, 'step')} and parts of {whose} have usage, so the totals may count some of it twice"
    if head.trace_count > 1:
        yield f"the run has {head.trace_count:,} traces; the bundle contains one of them"
    yield from _steps_missing(numbers)
    yield from _out_of_order(head, steps)
    yield from _before_it_happened(stated, head, steps, now or dt.datetime.now(dt.UTC))


def hidden_columns(bag: Path, head: ExportBundle) -> Iterator[str]:
    """Yield which columns readers would take from the directories of a bundle's path, and not from its files.

    Parameters
    ----------
    bag : Path
        Where the bundle is.
    head : ExportBundle
        Its parts; the steps may be left out.
    """
    columns = {name for table in head.tables.values() for name in table.schema.names}
    for directory in Path(os.path.abspath(bag)).parts:  # noqa: PTH100 - resolve() would follow links, which readers do not
        column, equals, _ = directory.partition("=")
        if equals and column in columns:
            yield (
                f"the path has the directory {shown_name(directory, 60)}: DuckDB and others read {column} from it, the same in "
                "every row, and not from the file (in DuckDB, set hive_partitioning = false)"
            )


def _format_1(steps: RowTotals) -> str:
    left_out = steps.rolled_up
    if not left_out["steps"]:
        return "format 1: written by an earlier version of exporttools, and held to the rules of that format"
    return (
        f"format 1: the totals in {description.PATH} count {amount_text(left_out['cost_cents'], 'US cents')} and "
        f"{plural(int(left_out['tokens']), 'token')} twice, which steps repeat of their parts"
    )


def _steps_missing(numbers: StepNumbers) -> Iterator[str]:
    if numbers.first is None or numbers.last is None:
        return  # that there are no steps is said elsewhere
    if gaps := numbers.last - numbers.first + 1 - numbers.count:
        yield (
            f"step_index has gaps: of the numbers {numbers.first:,} to {numbers.last:,}, {gaps:,} "
            f"{'has' if gaps == 1 else 'have'} no step"
        )
    if numbers.violation is not None and not numbers.has_violation:
        yield f"the violation is at step {numbers.violation:,}, which is not among the steps"


def _out_of_order(head: ExportBundle, steps: RowTotals) -> Iterator[str]:
    """Times in the rows that cannot be in the order in which things happen."""
    run, trace, incident = head.run, head.trace, head.incident
    began, ended = (None, None) if run is None else (run.started_at, run.completed_at)
    first, last = steps.time_range or (None, None)
    violation = None if trace is None else trace.violation_timestamp
    recorded = None if incident is None else incident.created_at
    for earlier, later, what in (
        (began, ended, "the run ends {} before it starts"),
        (began, first, "the first step starts {} before the run"),
        (last, ended, "the last step starts {} after the run has ended"),
        (began, violation, "the violation is {} before the run starts"),
        (violation, ended, "the violation is {} after the run has ended"),
        (began, recorded, "the incident was recorded {} before the run starts"),
    ):
        if earlier is not None and later is not None and earlier - later > ONE_CLOCK:
            yield what.format(_text(earlier - later))


def _before_it_happened(
    stated: Mapping[str, Any], head: ExportBundle, steps: RowTotals, now: dt.datetime
) -> Iterator[str]:
    """Times of reading and writing that cannot be."""
    run, trace, incident = head.run, head.trace, head.incident
    written_at, read_at = parse_utc(stated["written_at"]), None if head.source is None else head.source.read_at
    happened = {
        "the run's start": None if run is None else run.started_at,
        "the run's end": None if run is None else run.completed_at,
        "the violation": None if trace is None else trace.violation_timestamp,
        "the record of the incident": None if incident is None else incident.created_at,
        "the last step's start": steps.time_range[1] if steps.time_range else None,
    }
    known = [(at, what) for what, at in happened.items() if at is not None]
    done, by = ("read", read_at) if read_at is not None else ("written", written_at)
    if known and max(known)[0] - by > TWO_CLOCKS:
        at, what = max(known)
        yield f"it was {done} {_text(at - by)} before what it tells of: {what}, {time_text(at)} UTC"
    if read_at is not None and read_at - written_at > TWO_CLOCKS:
        yield f"it was written {_text(read_at - written_at)} before it was read"
    if written_at - now > TWO_CLOCKS:
        yield f"it was written {_text(written_at - now)} in the future, by this machine's clock"


def _text(length: dt.timedelta) -> str:
    return duration_text(length.total_seconds() * SECOND_US)
