"""Writes and checks the tag files of a BagIt 1.0 bag (RFC 8493). Knows no records.

Every tag file is exactly what follows from the payload, so there is nothing in it that could be changed unseen. In format 2,
the tag manifest also lists the attestation, and so holds what a signature does not.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from exporttools.files.digests import file_sha256
from exporttools.files.findings import Finding
from exporttools.text.inert import one_line
from exporttools.text.words import plural

DECLARATION = "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
INFO = "bag-info.txt"
GUIDE = "HOW-TO-VERIFY.txt"
"""How to verify a bundle by hand; its text is a part of format 2."""

MANIFEST = "manifest-sha256.txt"
TAG_MANIFEST = "tagmanifest-sha256.txt"
TAG_FILES = {1: (INFO, "bagit.txt", MANIFEST), 2: (GUIDE, INFO, "bagit.txt", MANIFEST)}
"""What the tag manifest lists, by format; in format 2 also the attestation of a signed bundle."""

TAG_FILE_BYTES = 64 << 10
"""The most bytes of a tag file. A bundle has five payload files; its manifests are under a kilobyte."""

# RFC 8493 §2.1.3: a checksum, white space, a path. Like sha256sum, we write lower case and two spaces. Other forms are
# refused: nothing holds the tag manifest's own digest, and a changed byte must be found there too.
_MANIFEST_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")

_LABEL_CHARACTERS = 1000  # an id may be a megabyte; bundle.json has it whole


@cache
def guide() -> bytes:
    """The content of ``HOW-TO-VERIFY.txt``."""
    return Path(__file__).with_name(GUIDE).read_bytes()


def write_tag_files(bag: Path, description: Mapping[str, Any]) -> dict[str, str]:
    """Turn a directory whose ``data/`` is complete into a bag of format 2, but for its tag manifest.

    Parameters
    ----------
    bag : Path
    description : mapping
        The content of ``bundle.json``.

    Returns
    -------
    dict of str to str
        The SHA-256 of every file, by its name in the bag.
    """
    payload = sorted(path for path in (bag / "data").iterdir())
    _write(bag / "bagit.txt", DECLARATION.encode("ascii"))
    sizes = {f"data/{path.name}": path.stat().st_size for path in payload}
    _write(bag / INFO, bag_info(description, sizes).encode("ascii"))
    _write(bag / GUIDE, guide())
    digests = {f"data/{path.name}": file_sha256(path) for path in payload}
    _write(bag / MANIFEST, _manifest(digests))
    return digests | {name: file_sha256(bag / name) for name in TAG_FILES[2]}


def write_tag_manifest(bag: Path) -> None:
    """Write the last file of a bag, which lists all others outside of ``data/``."""
    names = sorted(path.name for path in bag.iterdir() if path.is_file())
    _write(bag / TAG_MANIFEST, _manifest({name: file_sha256(bag / name) for name in names}))


def bag_info(description: Mapping[str, Any], sizes: Mapping[str, int], *, bagged_on: dt.date | None = None) -> str:
    """Return what ``bag-info.txt`` says: it follows from ``bundle.json`` and the payload's sizes.

    Parameters
    ----------
    description : mapping
        The content of ``bundle.json``, of either format.
    sizes : mapping of str to int
        Of the payload files, in bytes.
    bagged_on : date, optional
        By default the day on which the bundle was written. The writer of format 1 looked at the clock once more.
    """
    software = f"exporttools {description['tools']['exporttools']}"
    identifier = _identifier(description)
    of_format_1 = description["format_version"] == 1
    info = {
        "Bagging-Date": bagged_on.isoformat() if bagged_on else description["written_at"][:10],
        "Bag-Software-Agent": _without_breaks(software) if of_format_1 else _ascii(software),
        "External-Identifier": _without_breaks(identifier) if of_format_1 else _ascii(identifier),
        "External-Description": "An AI agent's incident or run: "
        + (_totals_of_format_1 if of_format_1 else _totals)(description["totals"]),
        "Payload-Oxum": f"{sum(sizes.values())}.{len(sizes)}",
    }
    return "".join(f"{label}: {value}\n" for label, value in info.items())


def _totals(totals: Mapping[str, float | None]) -> str:
    names = {
        "steps": "steps", "errors": "failed", "tokens": "tokens", "cost_cents": "US cents", "duration_ms": "milliseconds",
    }  # fmt: skip
    return ", ".join(f"{words} {json.dumps(totals[name])}" for name, words in names.items())


def _totals_of_format_1(totals: Mapping[str, Any]) -> str:
    words = [plural(totals["steps"], "step")]
    if totals["steps"]:
        words.append(f"{totals['tokens']:,} tokens")
        for name, unit in (("cost_cents", "US cents"), ("duration_ms", "ms")):
            value = totals[name]
            words.append(f"{math.inf if value is None else value:,.6g} {unit}")
    return " · ".join(words)


def _identifier(description: Mapping[str, Any]) -> str:
    run_id = None if "run" in description["missing"] else description["run_id"]
    return next(
        (name for name in (description["incident_id"], run_id, description["trace_id"]) if name), "empty bundle"
    )


def _ascii(value: str) -> str:
    """Escape a text as in bundle.json: a line break in an id would start a new tag (RFC 8493 §2.2.2)."""
    cut = value if len(value) <= _LABEL_CHARACTERS else f"{value[:_LABEL_CHARACTERS]}..."
    return json.dumps(cut)[1:-1].replace("\x7f", "\\u007f")


def _without_breaks(value: str) -> str:
    """Escape line breaks as the writer of format 1 did."""
    cut = value if len(value) <= _LABEL_CHARACTERS else value[: _LABEL_CHARACTERS - 1] + "…"
    return "".join(f"%{ord(c):02X}" if ord(c) < 0x20 or c in "\x7f\x85\u2028\u2029" else c for c in cut)


def _manifest(digests: Mapping[str, str]) -> bytes:
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode("ascii")


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)


def is_foreign(names: Collection[str], manifest: bytes, payload: Collection[str]) -> bool:
    """Whether a bag is somebody else's: it has none of our payload, and its manifest does not say that it should.

    Parameters
    ----------
    names : collection of str
        Of everything in it.
    manifest : bytes
        The content of ``manifest-sha256.txt``, if there is one.
    payload : collection of str
        The names of our payload files.
    """
    return "bagit.txt" in names and not any(name in names or name.encode() in manifest for name in payload)


def check_bag(
    tag_files: Mapping[str, bytes],
    digests: Mapping[str, str],
    sizes: Mapping[str, int],
    *,
    payload: Iterable[str],
    tags: Collection[str],
    description: Mapping[str, Any] | None,
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
    tags : collection of str
        The names of all other files but the tag manifest.
    description : mapping or None
        The content of ``bundle.json``; None if it is not valid.
    """
    payload = sorted(payload)
    declared = tag_files.get("bagit.txt")
    if declared is not None and declared != DECLARATION.encode():
        yield Finding("malformed", "bagit.txt", repr(DECLARATION), repr(declared.decode("utf-8", errors="replace")))
    if tag_files.get(GUIDE, guide()) != guide():
        yield Finding("malformed", GUIDE, "the text that belongs to format 2", "another text")
    damaged = False
    for manifest, listed in ((MANIFEST, payload), (TAG_MANIFEST, sorted(tags))):
        for finding in _check_manifest(manifest, tag_files[manifest], listed, digests) if manifest in tag_files else ():
            damaged |= finding.path in payload
            yield finding
    # Nothing follows from files that are not as they were: they are blamed, and not what was said of them.
    if INFO in tag_files and description is not None and not damaged and sizes.keys() >= set(payload):
        yield from _check_info(tag_files[INFO], description, {name: sizes[name] for name in payload})


def _check_info(content: bytes, description: Mapping[str, Any], sizes: Mapping[str, int]) -> Iterator[Finding]:
    day = dt.date.fromisoformat(description["written_at"][:10])
    expected = [bag_info(description, sizes)]
    if description["format_version"] == 1 and day < dt.date.max:  # it may have been midnight in between
        expected.append(bag_info(description, sizes, bagged_on=day + dt.timedelta(days=1)))
    if content in [text.encode("utf-8") for text in expected]:
        return
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        yield Finding("malformed", INFO, "UTF-8", one_line(error))
        return
    for number, (line, right) in enumerate(zip(lines, expected[0].split("\n"), strict=False), start=1):
        if line != right and not (number == 1 and line in [text.split("\n")[0] for text in expected]):
            yield Finding(
                "malformed", INFO, f"{one_line(right, 300)} in line {number}", one_line(line, 300) or "nothing"
            )
            return
    yield Finding("malformed", INFO, f"{len(expected[0].splitlines())} lines", f"{len(lines):,}")


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
    if listed.keys() == set(expected) and list(listed) != expected:
        yield Finding("malformed", manifest, "its lines in order of the files' names", "another order")
