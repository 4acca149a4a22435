"""A small bundle to test with, and its parts."""

from __future__ import annotations

from typing import Any

from exporttools import ExportBundle, IncidentSnapshot, RunSnapshot, SourceSnapshot, TraceSummarySnapshot
from tests.databases import NOON, incident, run, trace
from tests.steps import a_step, steps_of

INCIDENT = IncidentSnapshot(**incident())
RUN = RunSnapshot(**run())
TRACE = TraceSummarySnapshot(**trace())
SOURCE = SourceSnapshot("sqlite", "3.45", "native", None, NOON)


def bundle_of(**changes: Any) -> ExportBundle:
    """One of each with three steps."""
    steps = steps_of(a_step(0), a_step(1, status="error"), a_step(2))
    parts: dict[str, Any] = {"incident": INCIDENT, "run": RUN, "trace": TRACE, "steps": steps, "source": SOURCE}
    return ExportBundle(**parts | changes)
