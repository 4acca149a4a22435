"""The fate of every line of a session: what it says, whether that counts, and where else it is said."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from exporttools.errors import TraceImportError
from exporttools.importing.events import End, Event, Fate, Note, Repeated, Step
from exporttools.importing.file_reading import FORMATS, FileRead, opened_records
from exporttools.importing.resolving import resolve
from exporttools.importing.session_import import PathLike, read_sources
from exporttools.text.inert import one_line
from exporttools.text.words import plural


@dataclass(frozen=True, slots=True)
class ExplainedRecord:
    """What became of a line.

    Attributes
    ----------
    path : str
    record : int
        The line's number, from 1.
    fate : str
        ``counted``, ``copy``, ``metadata`` or ``rejected``.
    says : str
        What it holds that may count, and where a copy's own is counted.
    """

    path: str
    record: int
    fate: str
    says: str


def explain_session(
    session_id: str, paths: PathLike | Sequence[PathLike] | None = None, *, progress: bool = True
) -> list[ExplainedRecord]:
    """Explain every line of the files of a session, read together with all others.

    Parameters
    ----------
    session_id : str
        The run's id.
    paths : str, path or sequence of them, optional
        As for :func:`exporttools.read_traces`.
    progress : bool

    Raises
    ------
    TraceImportError
        No file has a session of that id.
    """
    reads = read_sources(paths, progress=progress)
    resolved = resolve(reads)
    own = [read for read in reads if session_id in read.sessions]
    if not own:
        raise TraceImportError(
            f"no file has a session {one_line(repr(session_id), 80)}; {plural(len(resolved.sessions), 'session')} found"
        )
    owners = {step.key: step for session in resolved.sessions for step in session.steps}
    places = {
        key: f"{read.source.path}:{step.record}"
        for read in reads
        for key, step in read.steps.items()
        if owners[key] is step
    }
    return [explained for read in own for explained in _explained(read, places)]


def _explained(read: FileRead, places: dict[str, str]) -> list[ExplainedRecord]:
    says: dict[int, list[str]] = {rejected.record: [rejected.reason] for rejected in read.rejected}
    with closing(read.source.open()) as stream:
        records = opened_records(read, stream)
        for event in FORMATS[read.format].events(records, read.source):
            text = _text(event, places, f"{read.source.path}:")
            if text is not None:
                says.setdefault(text[0], []).append(text[1])
    return [
        ExplainedRecord(str(read.source.path), number, Fate(fate).name.lower(), "; ".join(says.get(number, [])))
        for number, fate in enumerate(read.fates, 1)
    ]


def _text(event: Event, places: dict[str, str], own: str) -> tuple[int, str] | None:
    """The record that an event is of, and what it says there."""
    if isinstance(event, Step):
        used = "" if event.usage is None else f", {plural(event.usage.tokens, 'token')}"
        what = f"{event.step_type} {event.name or ''}".rstrip() + used
        if event.status == "error":
            what += f", failed: {event.error or 'it does not say why'}"
        place = places.get(event.key)
        if place is None:  # of a conversion, or written since the file was read
            return None
        counted = place == f"{own}{event.record}"
        shown = place.removeprefix(own)
        return event.record, what if counted else f"{what}: counted at {'line ' if shown != place else ''}{shown}"
    if isinstance(event, End):
        return event.record, "the end of a call" if event.status != "error" else f"a call failed: {event.error or ''}"
    if isinstance(event, Repeated):
        return event.record, "repeats what was counted before"
    if isinstance(event, Note):
        return event.record, event.what
    return None
