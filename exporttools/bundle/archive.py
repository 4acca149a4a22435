"""Writes and reads a bag as one zip file; equal bags give equal bytes. Knows no records.

The bag is in one top directory (draft-kunze-bagit-14 §4; RFC 8493 leaves serialization out), its files stored, in order of
their names, dated 1980-01-01. There is exactly one way to write such an archive, with headers packed here, so that no
version of a zip library changes it. So a reader needs only the members' names and sizes: the archive that would be written
from them must be, byte for byte, the one at hand. That excludes other methods, flags, dates, modes and comments, members
that overlap, lie about their sizes or hide between others, and anything before, between or after them.

Formats: APPNOTE.TXT 6.3.10 §4.3.7 (local header), §4.3.12 (central directory), §4.3.16 (its end). Without zip64, an archive
can have 4 GiB at most.
"""

from __future__ import annotations

import io
import re
import shutil
import struct
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from exporttools.errors import BundleError
from exporttools.files.findings import Finding
from exporttools.text.inert import one_line

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")

_VERSION = 20  # 2.0: directories
_MADE_BY = 3 << 8 | _VERSION  # Unix
_UTF8 = 1 << 11
_DATE = 1 << 5 | 1  # 1980-01-01, 00:00
_MODE = 0o100644 << 16

_MOST_BYTES = (4 << 30) - 1
_MOST_MEMBERS = 16
_MOST_BASE_BYTES = 200
_MOST_NAME_BYTES = 300
_CHUNK_BYTES = 1 << 20

FIT = "a directory name that every system accepts"

# No name on Windows has one of the first; a shell gives the next a meaning, quoted in some way or not; of what is before and
# after =, readers of Parquet make a column and its value in every row.
_UNSAFE = frozenset('/\\:<>"|?*' + "$&;'`!%^" + "=")
# Windows opens a device under such a name, whatever its case and extension (Naming Files, Paths, and Namespaces).
_RESERVED = re.compile(r"(?i:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9\u00b9\u00b2\u00b3])")


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive: its name in the bag, and where its bytes are."""

    name: str
    size: int
    crc: int
    start: int


def write_archive(bag: Path, file: BinaryIO, *, base: str) -> None:
    """Write a bag's files into an empty file.

    Parameters
    ----------
    bag : Path
        A directory of regular files.
    file : binary file
        Open for writing.
    base : str
        The name of the top directory; replaced by ``bundle`` if some system could not have such a directory.

    Raises
    ------
    BundleError
        The bag has 4 GiB or more.
    """
    base = "bundle" if unfit(base) else base
    paths = {path.relative_to(bag).as_posix(): path for path in bag.rglob("*") if path.is_file()}
    sizes = {name: paths[name].stat().st_size for name in sorted(paths)}
    size = _archive_bytes((f"{base}/{name}", size) for name, size in sizes.items())
    if size > _MOST_BYTES:
        raise BundleError(
            f"the zip file would have {size:,} bytes; expected at most {_MOST_BYTES:,}. Write a directory instead"
        )
    members = []
    for name, size in sizes.items():
        with paths[name].open("rb") as source:
            members.append(Member(name, size, _crc(source, size), 0))
    headers, tail = _headers(members, base)
    for member, header in zip(members, headers, strict=True):
        file.write(header)
        with paths[member.name].open("rb") as source:
            shutil.copyfileobj(source, file, _CHUNK_BYTES)
    file.write(tail)


def read_archive(archive: Any, name: str) -> tuple[str | None, list[Member], list[Finding]]:
    """Return an archive's top directory and members, and how it differs from what :func:`write_archive` would write.

    Every name is accepted that one of our formats could have; :func:`unfit` says what a later one refuses.

    Parameters
    ----------
    archive : FileSlice
        The whole file.
    name : str
        What findings call it.
    """

    def refused(expected: str, found: str) -> tuple[None, list[Member], list[Finding]]:
        return None, [], [Finding("archive", name, expected, found)]

    entries = _central_directory(archive)
    if isinstance(entries, str):
        return refused("the end of a zip file as exporttools writes it", entries)
    base, *others = sorted({path.partition("/")[0] for path, _, _ in entries})
    if others:
        return refused("files in one directory", ", ".join(map(one_line, [base, *others])))
    if problem := unfit(base, format_version=1):
        return refused(FIT, problem)
    size = _archive_bytes((path, size) for path, size, _ in entries)
    if archive.size != size:
        return refused(f"{size:,} bytes for these files", f"{archive.size:,} bytes")
    if size > _MOST_BYTES:  # its offsets would not fit
        return refused(f"at most {_MOST_BYTES:,} bytes", f"{size:,} bytes")
    members, start = [], 0
    for path, size, crc in entries:
        start += _LOCAL.size + len(path.encode())
        members.append(Member(path.partition("/")[2], size, crc, start))
        start += size
    names = [member.name for member in members]
    if names != sorted({*names} - {""}):  # an empty name is a directory, or a file beside it
        return refused("each name once, in order", ", ".join(one_line(path) for path, _, _ in entries))
    headers, tail = _headers(members, base)
    findings = []
    for member, header in zip(members, headers, strict=True):
        if _bytes_at(archive, member.start - len(header), len(header)) != header:
            findings.append(Finding("archive", member.name, "a header as exporttools writes it", "a different one"))
        archive.seek(member.start)
        if (crc := _crc(archive, member.size)) != member.crc:
            findings.append(Finding("changed", member.name, f"CRC-32 {member.crc:08x}", f"{crc:08x}"))
    if _bytes_at(archive, start, len(tail)) != tail:
        findings.append(Finding("archive", name, "a central directory as exporttools writes it", "a different one"))
    return base, members, findings


def _archive_bytes(entries: Iterable[tuple[str, int]]) -> int:
    """The size of the archive that holds files of these paths and sizes."""
    headers = _LOCAL.size + _CENTRAL.size
    return sum(headers + 2 * len(path.encode()) + size for path, size in entries) + _END.size


def _headers(members: Sequence[Member], base: str) -> tuple[list[bytes], bytes]:
    """The header before each member, and what follows the last one."""
    headers, central, offset = [], [], 0
    for member in members:
        name = f"{base}/{member.name}".encode()
        flags = 0 if name.isascii() else _UTF8
        common = (_VERSION, flags, 0, 0, _DATE, member.crc, member.size, member.size, len(name), 0)
        header = _LOCAL.pack(b"PK\x03\x04", *common) + name
        central.append(_CENTRAL.pack(b"PK\x01\x02", _MADE_BY, *common, 0, 0, 0, _MODE, offset) + name)
        headers.append(header)
        offset += len(header) + member.size
    directory = b"".join(central)
    count = len(members)
    end = _END.pack(b"PK\x05\x06", 0, 0, count, count, len(directory), offset, 0)
    return headers, directory + end


def _central_directory(archive: Any) -> list[tuple[str, int, int]] | str:
    """The path, size and CRC of each member as the central directory states them, or what is wrong with it."""
    end = _bytes_at(archive, archive.size - _END.size, _END.size)
    if len(end) < _END.size or not end.startswith(b"PK\x05\x06"):
        return "something else"
    _, _, _, count, _, size, start, _ = _END.unpack(end)
    if not 1 <= count <= _MOST_MEMBERS or size > _MOST_MEMBERS * (_CENTRAL.size + _MOST_NAME_BYTES):
        return f"{count:,} members in {size:,} bytes"
    directory = io.BytesIO(_bytes_at(archive, start, size))
    entries = []
    for _ in range(count):
        fields = directory.read(_CENTRAL.size)
        if len(fields) < _CENTRAL.size:
            return "a truncated central directory"
        crc, _, length, name_length = _CENTRAL.unpack(fields)[7:11]
        try:
            path = directory.read(name_length).decode()
        except UnicodeDecodeError:
            return "a name that is not UTF-8"
        entries.append((path, length, crc))
    return entries


def _bytes_at(archive: Any, position: int, count: int) -> bytes:
    if position < 0 or position + count > archive.size:
        return b""
    archive.seek(position)
    found: bytes = archive.read(count)
    return found


def _crc(source: Any, size: int) -> int:
    crc = 0
    while size > 0:
        piece = source.read(min(size, _CHUNK_BYTES))
        if not piece:
            break
        crc = zlib.crc32(piece, crc)
        size -= len(piece)
    return crc


def unfit(base: str, *, format_version: int = 2) -> str | None:
    """Why a text cannot name the directory in an archive of a bundle of this format, or None.

    Examples
    --------
    >>> print(unfit("a;b", format_version=1), unfit("a;b"))
    None 'a;b'
    """
    # Not all of category C: a character of a later Unicode version is Cn to an older Python, which must read it too.
    unseen = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
    unsafe = "/\\:" if format_version == 1 else _UNSAFE
    if base in ("", ".", "..") or any(c in unsafe or unicodedata.category(c) in unseen for c in base):
        return one_line(repr(base))
    if format_version > 1:
        if base.startswith(("-", "~")) or base != base.strip() or base.endswith("."):
            return f"{one_line(repr(base))}, which a shell or Windows takes for something else"
        if _RESERVED.fullmatch(base.partition(".")[0].rstrip()):
            return f"{one_line(repr(base))}, which is a device on Windows"
    if base != unicodedata.normalize("NFC", base):
        return f"{one_line(repr(base))} which is not in Unicode normal form C"
    if len(base.encode()) > _MOST_BASE_BYTES:
        return f"a name of {len(base.encode()):,} bytes"
    return None
