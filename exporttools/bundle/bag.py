"""Writes and checks the tag files of a BagIt 1.0 bag (RFC 8493). Knows no records."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from exporttools.files.digests import file_sha256
from exporttools.files.findings import Finding

DECLARATION = "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
MANIFEST = "manifest-sha256.txt"
TAG_MANIFEST = "tagmanifest-sha256.txt"
TAG_FILES = ("bag-info.txt", "bagit.txt", MANIFEST)
TAG_FILE_BYTES = 64 << 10
"""The most bytes of a tag file. A bundle has five payload files; its manifests are under a kilobyte."""

# RFC 8493 §2.1.3: a checksum, white space, a path. Like sha256sum, we write lower case and two spaces. Other forms are
# refused: nothing holds the tag manifest's own digest, and a changed byte must be found there too.
_MANIFEST_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")

_LABEL_CHARACTERS = 1000  # an id may be a megabyte; bundle.json has it whole


def write_tag_files(bag: Path, *, identifier: str, description: str, software: str) -> dict[str, str]:
    """Turn a directory whose ``data/`` is complete into a bag.

    Returns
    -------
    dict of str to str
        The SHA-256 of every file, by its name in the bag.
    """
    payload = sorted(path for path in (bag / "data").iterdir())
    octets = sum(path.stat().st_size for path in payload)
    info = {
        "Bagging-Date": dt.datetime.now(dt.UTC).date().isoformat(),
        "Bag-Software-Agent": software,
        "External-Identifier": identifier,
        "External-Description": description,
        "Payload-Oxum": f"{octets}.{len(payload)}",
    }
    _write(bag / "bagit.txt", DECLARATION)
    _write(bag / "bag-info.txt", "".join(f"{label}: {_one_tag_line(value)}\n" for label, value in info.items()))
    digests = {f"data/{path.name}": file_sha256(path) for path in payload}
    _write(bag / MANIFEST, _manifest(digests))
    tag_digests = {name: file_sha256(bag / name) for name in TAG_FILES}
    _write(bag / TAG_MANIFEST, _manifest(tag_digests))
    return digests | tag_digests | {TAG_MANIFEST: file_sha256(bag / TAG_MANIFEST)}


def _one_tag_line(value: str) -> str:
    """Escape line breaks: one in an id would start a new tag (RFC 8493 §2.2.2)."""
    cut = value if len(value) <= _LABEL_CHARACTERS else value[: _LABEL_CHARACTERS - 1] + "…"
    return "".join(f"%{ord(c):02X}" if ord(c) < 0x20 or c in "\x7f\x85\u2028\u2029" else c for c in cut)


def _manifest(digests: Mapping[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items())


def _write(path: Path, text: str) -> None:
    with path.open("xb") as file:
        file.write(text.encode("utf-8"))


def check_bag(
    tag_files: Mapping[str, bytes], digests: Mapping[str, str], sizes: Mapping[str, int], payload: Iterable[str]
) -> Iterator[Finding]:
    """Yield everything that keeps files from being a complete bag of exactly the given payload.

    Parameters
    ----------
    tag_files : mapping of str to bytes
        The contents of the usable tag files.
    digests, sizes : mapping of str to str, of str to int
        SHA-256 and size of every usable file, by its name in the bag.
    payload : iterable of str
        The names of the payload files, ``data/`` included.
    """
    payload = sorted(payload)
    declared = tag_files.get("bagit.txt")
    if declared is not None and declared != DECLARATION.encode():
        yield Finding("malformed", "bagit.txt", repr(DECLARATION), repr(declared.decode("utf-8", errors="replace")))
    for manifest, listed in ((MANIFEST, payload), (TAG_MANIFEST, sorted(TAG_FILES))):
        if manifest in tag_files:
            yield from _check_manifest(manifest, tag_files[manifest], listed, digests)
    if "bag-info.txt" in tag_files and sizes.keys() >= set(payload):
        expected = f"{sum(sizes[name] for name in payload)}.{len(payload)}"
        info = tag_files["bag-info.txt"].decode("utf-8", errors="replace")
        stated = re.findall(r"^Payload-Oxum:[ \t]*(.*)$", info, re.MULTILINE)
        if stated != [expected]:
            yield Finding(
                "malformed", "bag-info.txt", f"Payload-Oxum: {expected}", ", ".join(stated) or "no Payload-Oxum"
            )


def _check_manifest(
    manifest: str, content: bytes, expected: list[str], digests: Mapping[str, str]
) -> Iterator[Finding]:
    listed: dict[str, str] = {}
    *lines, rest = content.decode("utf-8", errors="replace").split("\n")
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
            # Any other name: .., an absolute path, another case or Unicode form.
            yield Finding("unexpected", manifest, "only the bundle's own files", path)
        listed[path] = digest
    for path in expected:
        if path not in listed:
            yield Finding("malformed", manifest, f"a line for {path}", "no such line")
        elif path in digests and digests[path] != listed[path]:
            yield Finding("changed", path, f"sha256:{listed[path]} ({manifest})", f"sha256:{digests[path]}")
