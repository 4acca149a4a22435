"""Random mutations of valid parts, read by us and, where we accept one, by the other readers. A failure names the mutation."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from exporttools.bundle.parts import PartRefused, read_part
from exporttools.errors import ConfigError, InconsistentData
from exporttools.records.schema import TRACE_STEPS, RecordType
from tests.bundle.mutations import KINDS, mutate
from tests.bundle.other_readers import READERS, Filter, disagreements, filters_of
from tests.bundle.parquet_files import Octets
from tests.bundle.part_trees import PartTree, parse

LONGEST_S = 5.0
"""What no small file may take."""


@dataclass(frozen=True, slots=True)
class Original:
    """A valid part: its tree, its rows, the format that it is of, and who can read it before anything is changed."""

    tree: PartTree
    rows: pa.Table
    format_version: int
    record_type: RecordType = TRACE_STEPS
    octets: bytes = b""
    readers: Collection[str] = tuple(READERS)

    @classmethod
    def of(cls, octets: bytes, rows: pa.Table, format_version: int, *, but: Collection[str] = ()) -> Original:
        """`but`: readers that err on it as it is."""
        readers = [name for name in READERS if name not in but]
        return cls(parse(octets), rows, format_version, octets=octets, readers=readers)


@dataclass(slots=True)
class Report:
    """What became of the mutations, by kind.

    Attributes
    ----------
    refused, same, other, failed : Counter
        Mutations that were refused; that read as the original does, or as other rows, for us and all other readers; and
        the rest.
    unchanged : Counter
        What was no mutation: a page was put where it had been.
    reasons : Counter
        What refusals said, without names and numbers.
    failures : list of str
        Accepted files that some reader reads otherwise, crashes, and what took too long.
    """

    refused: Counter[str] = field(default_factory=Counter)
    same: Counter[str] = field(default_factory=Counter)
    other: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    unchanged: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        for each in fields(self):
            if each.name == "failures":
                self.failures += other.failures
            else:
                getattr(self, each.name).update(getattr(other, each.name))

    def to_dict(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Report:
        return cls(**{name: value if name == "failures" else Counter(value) for name, value in found.items()})

    def __str__(self) -> str:
        columns = ("refused", "same", "other", "failed", "unchanged")
        head = f"{'kind':22}" + "".join(f"{column:>10}" for column in columns)
        lines = [f"{kind:22}" + "".join(f"{getattr(self, column)[kind]:10}" for column in columns) for kind in KINDS]
        return "\n".join([head, *lines, f"{len(self.reasons)} reasons; {len(self.failures)} failures"])


def read_or_refuse(octets: bytes, original: Original) -> pa.Table | str:
    """The rows, or why there are none. Any other error than ours is raised."""
    try:
        schema, batches = read_part(original.record_type, Octets(octets), format_version=original.format_version)
        return pa.Table.from_batches(batches, schema)
    except (PartRefused, ConfigError, InconsistentData) as error:
        return str(error)


def reason_of(refusal: str) -> str:
    """A refusal without what differs from file to file."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|b'.*|[0-9][0-9,.]*", "#", refusal)[:100]


def fuzz(originals: Mapping[str, Original], count: int, *, seed: int, directory: Path, first: int = 0) -> Report:
    """Make mutations, each of the next kind, and see what becomes of them."""
    report = Report()
    names, kinds = list(originals), list(KINDS)
    for i in range(first, first + count):
        kind, name = kinds[i % len(kinds)], names[i // len(kinds) % len(names)]
        _one(report, originals[name], f"{seed}/{i}", kind, name, directory)
    return report


def _one(report: Report, original: Original, seed: str, kind: str, name: str, directory: Path) -> None:
    rng = random.Random(seed)
    octets = mutate(rng, original.tree, kind)
    if octets == original.octets:
        report.unchanged[kind] += 1
        return
    where = f"{seed} ({kind} of {name})"
    start = time.perf_counter()
    try:
        found = read_or_refuse(octets, original)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is a failure to be named
        report.failures.append(f"{where}: {type(error).__name__}: {error}")
        report.failed[kind] += 1
        return
    if (seconds := time.perf_counter() - start) > LONGEST_S:
        report.failures.append(f"{where}: {seconds:.1f} s")
    if isinstance(found, str):
        report.refused[kind] += 1
        report.reasons[reason_of(found)] += 1
        return
    path = directory / "mutation.parquet"
    path.write_bytes(octets)
    wrong = list(disagreements(path, found, some_filters(rng, found), readers=original.readers))
    if wrong:
        report.failed[kind] += 1
        report.failures.append(f"{where}: " + "; ".join(": ".join(each) for each in wrong[:3])[:600])
    elif found.equals(original.rows):
        report.same[kind] += 1
    else:
        report.other[kind] += 1


def some_filters(rng: random.Random, rows: pa.Table, count: int = 6) -> Sequence[Filter | None]:
    """The whole, and some filters."""
    filters = filters_of(rows)
    return [None, *rng.sample(filters, min(count, len(filters)))]
