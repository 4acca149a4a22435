"""BagIt 1.0 (RFC 8493): the tag files of a bag, written and checked. Knows no records."""

from __future__ import annotations

import datetime as dt
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from exporttools.bundle.verification import Finding
from exporttools.hashing import file_sha256

DECLARATION = "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
MANIFEST = "manifest-sha256.txt"
TAG_MANIFEST = "tagmanifest-sha256.txt"
TAG_FILES = ("bagit.txt", "bag-info.txt", MANIFEST)

# RFC 8493 §2.1.3: a checksum, white space, a path. What sha256sum writes is lower-case and has two spaces; so has ours.
# Other forms are refused: nothing holds the tag manifest's own digest, and any changed byte is to be found there too.
_MANIFEST_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")

_MANIFEST_BYTES = 1 << 20  # a bundle has five payload files; its manifests are under a kilobyte
_LABEL_CHARACTERS = 1000  # an id may be a megabyte; it stands whole in bundle.json


def write_tag_files(bag: Path, *, identifier: str, description: str, software: str) -> None:
    """Make a bag of a directory whose ``data/`` is complete."""
    payload = sorted(path for path in (bag / "data").rglob("*") if path.is_file())
    octets = sum(path.stat().st_size for path in payload)
    info = {
        "Bagging-Date": dt.datetime.now(dt.UTC).date().isoformat(),
        "Bag-Software-Agent": software,
        "External-Identifier": identifier,
        "External-Description": description,
        "Payload-Oxum": f"{octets}.{len(payload)}",
    }
    (bag / "bagit.txt").write_text(DECLARATION, encoding="utf-8", newline="\n")
    lines = [f"{label}: {_one_tag_line(value)}\n" for label, value in info.items()]
    (bag / "bag-info.txt").write_text("".join(lines), encoding="utf-8", newline="\n")
    _write_manifest(bag, MANIFEST, payload)
    _write_manifest(bag, TAG_MANIFEST, [bag / name for name in TAG_FILES])


def _one_tag_line(value: str) -> str:
    """An id is any text; a line break in it would start a tag of its own (RFC 8493 §2.2.2)."""
    cut = value if len(value) <= _LABEL_CHARACTERS else value[: _LABEL_CHARACTERS - 1] + "…"
    return "".join(f"%{ord(c):02X}" if ord(c) < 0x20 or c in "\x7f\x85\u2028\u2029" else c for c in cut)


def _write_manifest(bag: Path, name: str, files: Iterable[Path]) -> None:
    lines = [f"{file_sha256(path)}  {path.relative_to(bag).as_posix()}\n" for path in files]
    (bag / name).write_text("".join(lines), encoding="utf-8", newline="\n")


def check_bag(bag: Path, payload: Iterable[str]) -> Iterator[Finding]:
    """Everything that keeps a directory from being a whole bag of exactly the given payload files.

    Parameters
    ----------
    bag : Path
        A directory.
    payload : iterable of str
        The payload files' names below ``data/``.
    """
    expected_payload = {f"data/{name}" for name in payload}
    tree = list(_check_tree(bag, expected_payload | {*TAG_FILES, TAG_MANIFEST}))
    yield from tree
    unusable = {finding.path for finding in tree}
    if "bagit.txt" not in unusable:
        declared = _read_tag_file(bag / "bagit.txt")
        if declared != DECLARATION:
            yield Finding("malformed", "bagit.txt", repr(DECLARATION), repr(declared))
    for manifest, files in ((MANIFEST, expected_payload), (TAG_MANIFEST, set(TAG_FILES))):
        if manifest not in unusable:
            yield from _check_manifest(bag, manifest, files, unusable)
    if "bag-info.txt" not in unusable:
        yield from _check_oxum(bag, expected_payload - unusable, complete=not unusable & expected_payload)


def _check_tree(bag: Path, expected: set[str]) -> Iterator[Finding]:
    """Only the expected files, each a regular one; links and pipes are not followed or opened."""
    found = set()
    pending = [bag]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                relative = Path(entry.path).relative_to(bag).as_posix()
                found.add(relative)
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode) and relative == "data":
                    pending.append(Path(entry.path))
                elif relative not in expected:
                    yield Finding("unexpected", relative, "nothing of that name", _kind(mode))
                elif not stat.S_ISREG(mode):
                    yield Finding("not-a-file", relative, "a regular file", _kind(mode))
    for relative in sorted(expected - found):
        yield Finding("missing", relative, "a file", "nothing")


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISREG, "a file"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISFIFO, "a pipe"),
    )
    return next((name for test, name in kinds if test(mode)), "a special file")


def _read_tag_file(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_MANIFEST_BYTES).decode("utf-8", errors="replace")


def _check_manifest(bag: Path, manifest: str, expected: set[str], unusable: set[str]) -> Iterator[Finding]:
    listed: dict[str, str] = {}
    *lines, rest = _read_tag_file(bag / manifest).split("\n")
    if rest:
        yield Finding("malformed", manifest, "a line break at the end", rest)
    for number, line in enumerate(lines, start=1):
        match = _MANIFEST_LINE.fullmatch(line)
        if match is None:
            yield Finding("malformed", manifest, f"a lower-case SHA-256, two spaces and a path in line {number}", line)
            continue
        digest, path = match.groups()
        if path in listed:
            yield Finding("malformed", manifest, f"{path} once", f"again in line {number}")
        elif path not in expected:
            yield Finding("unexpected", manifest, "only the bundle's own files", path)
        listed[path] = digest
    for path in sorted(expected):
        if path not in listed:
            yield Finding("malformed", manifest, f"a line for {path}", "none")
        elif path not in unusable and (digest := file_sha256(bag / path)) != listed[path]:
            yield Finding("changed", path, f"sha256:{listed[path]} ({manifest})", f"sha256:{digest}")


def _check_oxum(bag: Path, payload: set[str], *, complete: bool) -> Iterator[Finding]:
    stated = re.findall(r"^Payload-Oxum:[ \t]*(.*)$", _read_tag_file(bag / "bag-info.txt"), re.MULTILINE)
    sizes = [(bag / path).stat().st_size for path in payload]
    actual = f"{sum(sizes)}.{len(sizes)}"
    if complete and stated != [actual]:
        yield Finding("malformed", "bag-info.txt", f"Payload-Oxum: {actual}", ", ".join(stated) or "none")
