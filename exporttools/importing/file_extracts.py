"""What a file says, as bytes, with what ties it to other files: made here, or by a process that does only this.

Such a process has no need of pyarrow, pandas or a database, so nothing that this module imports may need them.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from exporttools.errors import TraceImportError, UnrecognisedTrace
from exporttools.importing.file_reading import FORMATS, FileRead, read_file
from exporttools.importing.kept_files import to_json
from exporttools.importing.source_files import SourceFile
from exporttools.text.inert import one_line

READY = b"ready to read files\n"
"""What a process says first."""


@dataclass(frozen=True, slots=True)
class Extract:
    """What a file says.

    Attributes
    ----------
    content : bytes
        See :func:`exporttools.importing.kept_files.to_json`.
    links : list of str
        Its sessions and steps: files that share one have to be resolved together.
    started, working : list of str
        The subagents that its steps have started, and those that have taken steps in it.
    starts : dict of str to int
        When its sessions started, as far as it says; else 0.
    read : FileRead or None
        The same as `content`, where there is memory enough for both.
    """

    content: bytes
    links: list[str]
    started: list[str]
    working: list[str]
    starts: dict[str, int]
    read: FileRead | None = None

    @classmethod
    def of(cls, read: FileRead, *, with_read: bool = False) -> Extract:
        """The extract of a file that was read, and not resolved yet."""
        working = {step.agent for step in read.steps.values() if step.agent is not None}
        return cls(
            to_json(read),
            list({*read.sessions, *read.steps, *read.ends, *read.started.values()}),
            list(read.started),
            list(working | {agent.partition("/")[0] for agent in working}),
            {session_id: session.started_us or 0 for session_id, session in read.sessions.items()},
            read if with_read else None,
        )


def read_found(file: SourceFile, format_name: str | None, *, named: bool) -> FileRead | None:
    """Read a file; None for one that nobody named and that is not of the format, or cannot be read.

    Raises
    ------
    TraceImportError
        It was named, and it cannot be read, or is not of the format.
    """
    try:
        read = read_file(file, format_name if named else None)
    except OSError as error:
        if named:
            why = error.strerror or error
            raise TraceImportError(f"{one_line(file.path)}: it cannot be read: {one_line(why)}") from error
        return None
    if read is None and named:
        raise UnrecognisedTrace(_unrecognised(file))
    return None if read is None or format_name not in (None, read.format) else read


def titles() -> str:
    """The formats, for people."""
    return ", ".join(format_.title for format_ in FORMATS.values())


def _unrecognised(file: SourceFile) -> str:
    with file.open() as stream:
        head = stream.read(60)
    found = f"{one_line(repr(head)[1:], 80)} at byte 0" if head else "an empty file"
    return f"{one_line(file.path)}: not in a known format; expected a session of {titles()}, found {found}"


def serve(orders: BinaryIO, answers: BinaryIO) -> None:
    """Read the files that lines of `orders` name, and write what they say; until there are no more orders."""
    answers.write(READY)
    answers.flush()
    for line in orders:
        for answer in map(_answer, orjson.loads(line)):
            answers.writelines(answer)
        answers.flush()


def order(files: list[tuple[SourceFile, bool]], format_name: str | None) -> bytes:
    """The line that orders files to be read, each with whether it was named."""
    plain = [[str(file.path), file.size_bytes, file.mtime_ns, format_name, named] for file, named in files]
    return orjson.dumps(plain, option=orjson.OPT_APPEND_NEWLINE)


def _answer(ordered: list[Any]) -> Iterator[bytes]:
    """What is written about a file: a line, and then the content, whose length the line tells."""
    path, size_bytes, mtime_ns, format_name, named = ordered
    error, extract = None, None
    try:
        read = read_found(SourceFile(Path(path), size_bytes, mtime_ns), format_name, named=named)
        extract = None if read is None else Extract.of(read)
    except TraceImportError as raised:
        error = [isinstance(raised, UnrecognisedTrace), str(raised)]
    content = b"" if extract is None else extract.content
    about = None if extract is None else [extract.links, extract.started, extract.working, extract.starts]
    yield orjson.dumps([error, about, len(content)], option=orjson.OPT_APPEND_NEWLINE)
    yield content


def answered(answers: BinaryIO) -> Extract | None:
    """The next answer.

    Raises
    ------
    EOFError
        There is none.
    TraceImportError
        As :func:`read_found`.
    """
    line = answers.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    error, about, length = orjson.loads(line)
    if error is not None:
        raise (UnrecognisedTrace if error[0] else TraceImportError)(error[1])
    content = answers.read(length)
    if len(content) != length:
        raise EOFError
    return None if about is None else Extract(content, *about)


def main() -> None:
    """Serve whoever has started this process, until it has no more orders or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # typed for the one that has started this
    serve(sys.stdin.buffer, sys.stdout.buffer)
