"""One file: which format it is in, and what its events add up to. Knows no other file, and no format's rules."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, BinaryIO

from exporttools.errors import UnrecognisedTrace
from exporttools.importing.atif import ATIF
from exporttools.importing.claude_code import CLAUDE_CODE
from exporttools.importing.codex import CODEX
from exporttools.importing.events import End, Event, Fate, Note, Rejected, Repeated, Session, Started, Step
from exporttools.importing.formats import Format
from exporttools.importing.gemini_cli import GEMINI_CLI
from exporttools.importing.json_records import LONGEST_LINE_BYTES, Records, parsed, whole_document
from exporttools.importing.source_files import SourceFile
from exporttools.text.inert import one_line

FORMATS: dict[str, Format] = {format_.name: format_ for format_ in (CLAUDE_CODE, CODEX, GEMINI_CLI, ATIF)}
"""The formats by name, in the order in which they are tried."""

_LINES_TRIED, _BYTES_TRIED = 40, 1 << 20


@dataclass(slots=True)
class FileRead:
    """What one file says, each step once.

    Attributes
    ----------
    source : SourceFile
    format : str
        The format's name.
    is_document : bool
        Whether the file is one JSON object, and its records are members of it.
    fates : bytearray
        A :class:`Fate` for each record; steps' records are COPY until it is decided which copy of a step counts.
    blank : int
        How many of the lines are blank, and METADATA in `fates`.
    sessions : dict of str to Session
    steps : dict of str to Step
        By key.
    ends : dict of str to list of End
        By key; those of steps that other files have included.
    started : dict of str to str
        The key of the step that started a subagent, by the subagent.
    usages : int
        How many records said what a call had used, copies included.
    notes : dict of (str, str) to int
        How often, by what was noted and what it is about.
    bad_numbers : int
    rejected : list of Rejected
        The first of those that cannot be read; all of them have that fate.
    """

    source: SourceFile
    format: str
    is_document: bool = False
    fates: bytearray = field(default_factory=bytearray)
    blank: int = 0
    sessions: dict[str, Session] = field(default_factory=dict)
    steps: dict[str, Step] = field(default_factory=dict)
    ends: dict[str, End] = field(default_factory=dict)
    started: dict[str, str] = field(default_factory=dict)
    usages: int = 0
    notes: dict[tuple[str, str], int] = field(default_factory=dict)
    bad_numbers: int = 0
    rejected: list[Rejected] = field(default_factory=list)

    @property
    def records(self) -> int:
        """How many records the file has, without blank lines."""
        return len(self.fates) - self.blank

    def fate(self, record: int, fate: Fate) -> None:
        """Note what became of a record, unless it has a greater fate already."""
        fates = self.fates
        if record > len(fates):
            fates.extend(bytes(record - len(fates)))
        if fate > fates[record - 1]:
            fates[record - 1] = fate

    def add(self, event: Event) -> None:
        """Take in what a record says."""
        if isinstance(event, Step):
            self._add_step(event)
        elif isinstance(event, End):
            self.ends.setdefault(event.key, event)
        elif isinstance(event, Session):
            known = self.sessions.get(event.session_id)
            self.sessions[event.session_id] = event if known is None else merged(known, event)
        elif isinstance(event, Started):
            self.started.setdefault(event.agent, event.key)
        elif isinstance(event, Repeated):
            self.fate(event.record, Fate.COPY)
        elif isinstance(event, Note):
            about = event.key or f"{self.source.path}:{event.record}"
            self.notes[event.what, about] = max(self.notes.get((event.what, about), 0), event.count)
        else:
            self.rejected.append(event)

    def _add_step(self, step: Step) -> None:
        self.fate(step.record, Fate.COPY)
        if step.usage is not None:
            self.usages += 1
        known = self.steps.setdefault(step.key, step)
        if known is step:
            return
        owner, copy = (step, known) if step.rank < known.rank else (known, step)
        take_greatest_usage(owner, copy)
        if owner.rank == copy.rank:  # the further lines of one answer
            owner.start_us = min(owner.start_us, copy.start_us)
            if copy.end_us is not None:
                owner.end_us = copy.end_us if owner.end_us is None else max(owner.end_us, copy.end_us)
            if copy.content_hash is not None:
                owner.content_hash = (
                    copy.content_hash
                    if owner.content_hash is None
                    else sha256(f"{owner.content_hash}{copy.content_hash}".encode()).hexdigest()
                )
        self.steps[step.key] = owner


def take_greatest_usage(owner: Step, copy: Step) -> None:
    """Give the copy of a step that counts the usage of another, if that is greater: usage grows while an answer is written."""
    if (
        copy.usage is not None
        and copy.usage is not owner.usage
        and (owner.usage is None or copy.usage.tokens > owner.usage.tokens)
    ):
        owner.usage = copy.usage
    owner.is_lower_bound = owner.is_lower_bound and copy.is_lower_bound


def merged(one: Session, other: Session) -> Session:
    """What two files, or two parts of one, say of a session; the session's own file goes first, then the earlier start."""
    first, second = sorted(
        (one, other), key=lambda s: (not s.is_main, s.started_us is None, s.started_us or 0, s.goal or "")
    )
    starts = [s.started_us for s in (first, second) if s.started_us is not None]
    ends = [s.ended_us for s in (first, second) if s.ended_us is not None]
    return Session(
        first.session_id,
        min(starts, default=None),
        max(ends, default=None),
        first.agent_id or second.agent_id,
        first.goal or second.goal,
        first.termination_reason if first.is_main else first.termination_reason or second.termination_reason,
        first.is_main,
        first.parent_session_id or second.parent_session_id,
        first.cwd or second.cwd,
        first.git_branch or second.git_branch,
        first.agent_version or second.agent_version,
    )


def read_file(source: SourceFile, format_name: str | None = None) -> FileRead | None:
    """Read a file.

    Parameters
    ----------
    source : SourceFile
    format_name : str, optional
        By default the format that recognises the file.

    Returns
    -------
    FileRead or None
        None if no format recognises the file.

    Raises
    ------
    UnrecognisedTrace
        The file is not in the format named.
    OSError
        It cannot be read.
    """
    with closing(source.open()) as stream:
        found = _format_of(source, stream)
        if found is None:
            return None
        format_, is_document = found
        if format_name is not None and format_.name != format_name:
            raise UnrecognisedTrace(
                f"{one_line(source.path)}: expected {FORMATS[format_name].title}; found {format_.title}"
            )
        read = FileRead(source, format_.name, is_document)
        with closing(source.rewound(stream)) as rewound:
            records = opened_records(read, rewound)
            for event in format_.events(records, source):
                read.add(event)
    read.blank, read.bad_numbers = records.blank, records.bad_numbers
    read.rejected = sorted([*records.rejected, *read.rejected], key=lambda rejected: rejected.record)
    if records.last:
        read.fate(records.last, Fate.METADATA)
    for number in itertools.chain((rejected.record for rejected in read.rejected), records.rejected_besides):
        read.fate(number, Fate.REJECTED)
    return read


def opened_records(read: FileRead, stream: BinaryIO) -> Records:
    """The records of a file that was recognised."""
    return Records(stream, FORMATS[read.format].elements if read.is_document else None)


def _format_of(source: SourceFile, stream: BinaryIO) -> tuple[Format, bool] | None:
    """The format that recognises a file, and whether the file is one document; None if there is none."""
    for value, is_whole in _first_values(source, stream):
        for format_ in FORMATS.values():
            is_document = format_.elements is not None and format_.elements in value
            if format_.recognises(value) and (is_document or not is_whole):
                return format_, is_document
    return None


def _first_values(source: SourceFile, stream: BinaryIO) -> Iterator[tuple[dict[str, Any], bool]]:
    """The objects of the first lines; but the whole document, and that it is one, where the first begins an object."""
    size, begun = 0, False
    for _ in range(_LINES_TRIED):
        line = stream.readline(LONGEST_LINE_BYTES).removeprefix(b"\xef\xbb\xbf")  # which may hold pictures
        value = _parsed(line)
        # Lines inside of a document may be values by themselves, so they are not asked before the document is.
        if value is None and not begun and line.lstrip().startswith(b"{"):
            with closing(source.open()) as again, suppress(ValueError, RecursionError):  # else it is torn
                yield whole_document(again), True
        if isinstance(value, dict):
            yield value, False
        size, begun = size + len(line), begun or bool(line.strip())
        if not line or size > _BYTES_TRIED:
            break


def _parsed(line: bytes) -> object:
    try:
        return parsed(line)
    except (ValueError, RecursionError):
        return None
