"""What was read from a file, as bytes to keep: so that it is not read again, and still known when the file is gone.

Agents delete their sessions. A fork that is imported later must still find what it has copied, or that would count twice.
What comes back is checked like anything that comes from a database. It lies in columns: smaller, and faster to check.
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from pathlib import Path
from typing import Any

import orjson

from exporttools.errors import InconsistentData
from exporttools.importing.events import End, Fate, Rejected, Session, Step, Usage
from exporttools.importing.file_reading import FORMATS, FileRead
from exporttools.importing.source_files import SourceFile
from exporttools.text.inert import one_line
from exporttools.times import EARLIEST, LATEST, epoch_us

_VERSION = 2
_LARGEST_BYTES = 1 << 30
_LARGEST_BITS = 62
_MOST_TOKENS = 10**12
_EARLIEST_US, _LATEST_US = epoch_us(EARLIEST), epoch_us(LATEST)


def to_json(read: FileRead) -> bytes:
    """Write down what was read from a file. Call it before copies are resolved, which changes the steps."""
    plain = {
        "version": _VERSION,
        "path": str(read.source.path),
        "size_bytes": read.source.size_bytes,
        "mtime_ns": read.source.mtime_ns,
        "format": read.format,
        "is_document": read.is_document,
        "fates": read.fates.hex(),
        "blank": read.blank,
        "sessions": list(read.sessions.values()),
        "steps": list(read.steps.values()),
        "ends": list(read.ends.values()),
        "started": read.started,
        "usages": read.usages,
        "notes": [[what, about, count] for (what, about), count in read.notes.items()],
        "bad_numbers": read.bad_numbers,
        "rejected": read.rejected,
    }
    return orjson.dumps(plain, default=_row, option=orjson.OPT_PASSTHROUGH_DATACLASS)


def packed(content: bytes) -> bytes:
    """Compress what was written down."""
    import pyarrow as pa  # not needed by a process that only reads files

    compressed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return len(content).to_bytes(8, "little") + compressed


def from_bytes(kept: bytes) -> FileRead:
    """Read back what was written down.

    Raises
    ------
    InconsistentData
        It is damaged, or of another version.
    """
    try:
        plain = _unpacked(kept)
        for name, kind in _LISTED.items():
            _require_fields(kind, plain[name])
        _require_fields(Usage, [step[_USAGE] for step in plain["steps"] if step[_USAGE] is not None])
        return _file_read(plain)
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise InconsistentData(
            f"import_files: what was kept of a file cannot be read ({one_line(error, 100)}); expected what this version of "
            "exporttools writes. Delete that table's rows to read all files again",
            table="import_files", column="content",
        ) from error  # fmt: skip


def from_database(kept: bytes) -> FileRead:
    """Read back what a database has kept: whoever may write it may have written anything.

    Raises
    ------
    InconsistentData
        As :func:`from_bytes`, and where no file can say that.
    """
    read = from_bytes(kept)
    steps, ends, sessions = read.steps.values(), read.ends.values(), read.sessions.values()
    records = [x.record for x in steps] + [x.record for x in ends] + [x.record for x in read.rejected]
    usages = [step.usage for step in steps if step.usage is not None]
    moments = [us for step in steps for us in (step.start_us, step.end_us)] + [end.end_us for end in ends]
    moments += [us for session in sessions for us in (session.started_us, session.ended_us)]
    counts = [read.source.size_bytes, abs(read.source.mtime_ns), read.usages, read.bad_numbers, *read.notes.values()]
    sound = {
        "counts": all(0 <= count < 1 << _LARGEST_BITS for count in counts),
        "format": read.format in FORMATS,
        "records": all(0 < record <= len(read.fates) for record in records),
        "blank": 0 <= read.blank <= read.fates.count(Fate.METADATA),
        "sessions": all(step.session_id in read.sessions for step in steps),
        "times": all(us is None or _EARLIEST_US <= us <= _LATEST_US for us in moments),
        "tokens": all(0 <= count < _MOST_TOKENS for usage in usages for count in dataclasses.astuple(usage)),
    }
    if wrong := [name for name, is_sound in sound.items() if not is_sound]:
        raise InconsistentData(
            f"import_files: what was kept of a file has {', '.join(wrong)} that no file has. Delete that table's rows to read "
            "all files again", table="import_files", column="content",
        )  # fmt: skip
    return read


def from_own_bytes(kept: bytes) -> FileRead:
    """Read back what this very import has written down, or has read back before."""
    return _file_read(_unpacked(kept))


def _file_read(plain: dict[str, Any]) -> FileRead:
    for step in plain["steps"]:
        if step[_USAGE] is not None:
            step[_USAGE] = Usage(*step[_USAGE])
    fates = bytearray.fromhex(plain["fates"])
    if fates and max(fates) > max(Fate):
        raise ValueError(f"a fate is {max(fates)}")
    return FileRead(
        SourceFile(Path(plain["path"]), int(plain["size_bytes"]), int(plain["mtime_ns"])),
        str(plain["format"]),
        bool(plain["is_document"]),
        fates,
        int(plain["blank"]),
        {session[0]: Session(*session) for session in plain["sessions"]},
        {step.key: step for step in [Step(*step) for step in plain["steps"]]},
        {end.key: end for end in [End(*end) for end in plain["ends"]]},
        {str(agent): str(key) for agent, key in plain["started"].items()},
        int(plain["usages"]),
        {(str(what), str(about)): int(count) for what, about, count in plain["notes"]},
        int(plain["bad_numbers"]),
        [Rejected(*rejected) for rejected in plain["rejected"]],
    )


def _unpacked(kept: bytes) -> dict[str, Any]:
    import pyarrow as pa

    size = int.from_bytes(kept[:8], "little")
    if size > _LARGEST_BYTES:
        raise ValueError(f"{size:,} bytes")
    plain: dict[str, Any] = orjson.loads(pa.decompress(kept[8:], decompressed_size=size, codec="zstd", asbytes=True))
    if plain["version"] != _VERSION:
        raise ValueError(f"version {plain['version']}")
    return plain


_ACCEPTED: dict[str, frozenset[type]] = {
    "int": frozenset({int}),
    "str": frozenset({str}),
    "bool": frozenset({bool}),
    "float": frozenset({float, int}),
    "Usage": frozenset({list}),
    "None": frozenset({type(None)}),
}
"""What the events' fields are written as, by their types' names."""

_FIELDS: dict[type, dict[str, frozenset[type]]] = {
    kind: {
        field.name: frozenset().union(*(_ACCEPTED[named] for named in str(field.type).split(" | ")))
        for field in dataclasses.fields(kind)
    }
    for kind in (Session, Step, End, Usage, Rejected)
}


_ROWS = {kind: attrgetter(*fields) for kind, fields in _FIELDS.items()}
_USAGE = list(_FIELDS[Step]).index("usage")
_LISTED = {"steps": Step, "sessions": Session, "ends": End, "rejected": Rejected}


def _row(made: object) -> object:
    return _ROWS[type(made)](made)


def _require_fields(kind: type, rows: list[list[Any]]) -> None:
    """Check rows column by column, which is much faster than one by one."""
    for (name, accepted), values in zip(_FIELDS[kind].items(), zip(*rows, strict=True), strict=bool(rows)):
        if not accepted.issuperset(map(type, values)):
            wrong = next(value for value in values if type(value) not in accepted)
            raise ValueError(f"{kind.__name__}.{name} is {one_line(repr(wrong), 60)}")
        if int in accepted and max(map(abs, filter(None, values)), default=0) >= 1 << _LARGEST_BITS:
            raise ValueError(f"{kind.__name__}.{name} has a number of more than {_LARGEST_BITS} bits")
