"""What a dataset holds, as data: windows, their parts, and the chain of manifests. No Parquet and no database in here.

``_manifest/000007.json`` is the whole truth about a dataset as of its seventh change: a line for each window, with its
rows, digests and the *parts file* that lists the window's Parquet files. Parts files are named by their content and
never change, so that a manifest stays small (a few hundred bytes a window) however many files the windows have.
Manifests are created, never replaced, and each names its parent by number and SHA-256.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import quote

from exporttools.dataset.storage import Storage
from exporttools.errors import DatasetUnreadable
from exporttools.files.digests import combined_digest
from exporttools.records.schema import ARROW_TYPES, RECORD_TYPES, ColumnType
from exporttools.text.inert import one_line
from exporttools.text.strict_json import parse_object
from exporttools.times import parse_utc, utc_text

FORMAT = 1
UNDATED = "__undated__"
"""The day of runs without a start, in paths and manifests."""

MOST_JSON_BYTES = 256 << 20
_MANIFEST = re.compile(r"_manifest/(\d{6,})\.json")
_PARTS = re.compile(r"_manifest/windows/[0-9a-f]{32}\.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class PartFile:
    """One Parquet file: rows of one table, tenant and day, in key order.

    Attributes
    ----------
    table, tenant_id, day : str
        `day` is the UTC day on which the runs started (incidents: were created), or ``__undated__``.
    path : str
        Relative to the dataset, with ``/``.
    rows, bytes : int
    sha256 : str
        Of the file.
    content_digest : str
        Of the rows; see :mod:`exporttools.files.digests`.
    min_time, max_time : str or None
        The least and greatest time of the rows (runs: start; incidents: creation; steps: their own; traces: none).
    """

    table: str
    tenant_id: str
    day: str
    path: str
    rows: int
    bytes: int
    sha256: str
    content_digest: str
    min_time: str | None
    max_time: str | None


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open piece of time whose runs were read in one database snapshot, with all their traces and steps.

    Attributes
    ----------
    since, until : str or None
        [since, until) in ISO 8601, UTC. Both None: the runs without a start.
    read_at : str
        When it was read, by the exporter's clock.
    open_runs : int
        Runs that had not ended then.
    undated_runs : int
        Runs without a start.
    settled : bool
        Whether nothing in it is expected to change: no run was open, and it had been over for long enough. One that is
        not settled is provisional: the next export reads it again.
    rows, bytes : mapping of str to int
        By table.
    content_digests : mapping of str to str
        By table: of the parts' digests, by tenant and day.
    extra_columns : mapping of str to mapping of str to str
        By table: the columns beyond the record's, each with its type.
    parts_path, parts_sha256 : str
        The file that lists its parts.
    """

    since: str | None
    until: str | None
    read_at: str
    open_runs: int
    undated_runs: int
    settled: bool
    rows: Mapping[str, int]
    bytes: Mapping[str, int]
    content_digests: Mapping[str, str]
    extra_columns: Mapping[str, Mapping[str, ColumnType]]
    parts_path: str
    parts_sha256: str

    @property
    def name(self) -> str:
        """How messages call it."""
        return "undated runs" if self.since is None else f"{self.since} to {self.until}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A dataset as of one of its changes.

    Attributes
    ----------
    number : int
        From 1.
    parent_sha256 : str or None
        Of the manifest before.
    created_at : str
    writer : str
        What tells one writer's manifests from another's: random, new for each export.
    change : str
        ``start`` (a writer announces itself, whereby any other can no longer commit), ``window`` or ``compact``.
    tenant_id : str or None
        The one tenant that is exported here; None: all.
    windows : tuple of Window
        By time, the undated last; none overlap.
    """

    number: int
    parent_sha256: str | None
    created_at: str
    writer: str
    change: str
    tenant_id: str | None
    windows: tuple[Window, ...]

    @property
    def path(self) -> str:
        """Where it lies in the dataset."""
        return f"_manifest/{self.number:06d}.json"

    def encoded(self) -> bytes:
        """The file's bytes."""
        return _encoded({"format": FORMAT, **asdict(self)})

    def child(self, change: str, writer: str, windows: Sequence[Window]) -> Manifest:
        """The manifest that follows this one."""
        return Manifest(
            number=self.number + 1,
            parent_sha256=hashlib.sha256(self.encoded()).hexdigest(),
            created_at=utc_text(dt.datetime.now(dt.UTC)),
            writer=writer,
            change=change,
            tenant_id=self.tenant_id,
            windows=tuple(sorted(windows, key=lambda window: (window.since is None, window.since or ""))),
        )

    def with_window(self, writer: str, window: Window) -> Manifest:
        """The manifest that follows when a window is committed, in the place of all that it overlaps."""
        kept = [other for other in self.windows if not _overlap(other, window)]
        return self.child("window", writer, [*kept, window])


def first_manifest(tenant_id: str | None) -> Manifest:
    """What the first manifest of a dataset follows: number 0, which is never written."""
    return Manifest(0, None, "", "", "start", tenant_id, ())


def first_child(root: Manifest, writer: str) -> Manifest:
    """The first manifest of a dataset."""
    return replace(root.child("start", writer, ()), parent_sha256=None)


def _overlap(a: Window, b: Window) -> bool:
    if a.since is None or b.since is None or a.until is None or b.until is None:
        return a.since == b.since
    return a.since < b.until and b.since < a.until


def new_window(
    storage: Storage,
    since: dt.datetime | None,
    until: dt.datetime | None,
    parts: Sequence[PartFile],
    *,
    read_at: str,
    open_runs: int,
    undated_runs: int,
    settled: bool,
    extra_columns: Mapping[str, Mapping[str, ColumnType]],
) -> Window:
    """Write a window's parts file; gives the window, to be committed by a manifest."""
    ordered = sorted(
        parts, key=lambda part: (list(RECORD_TYPES).index(part.table), part.tenant_id, part.day, part.path)
    )
    data = _encoded({"format": FORMAT, "parts": [asdict(part) for part in ordered]})
    sha256 = hashlib.sha256(data).hexdigest()
    path = f"_manifest/windows/{sha256[:32]}.json"
    with suppress(FileExistsError):  # named by its content: it is the same
        storage.create(path, data)
    of = {table: [part for part in ordered if part.table == table] for table in RECORD_TYPES}
    return Window(
        since=None if since is None else utc_text(since),
        until=None if until is None else utc_text(until),
        read_at=read_at,
        open_runs=open_runs,
        undated_runs=undated_runs,
        settled=settled,
        rows={table: sum(part.rows for part in found) for table, found in of.items()},
        bytes={table: sum(part.bytes for part in found) for table, found in of.items()},
        content_digests={table: combined_digest(part.content_digest for part in found) for table, found in of.items()},
        extra_columns={table: dict(columns) for table, columns in extra_columns.items() if columns},
        parts_path=path,
        parts_sha256=sha256,
    )


def partition_path(table: str, tenant_id: str, day: str) -> str:
    """Where a table's parts of a tenant and day lie. The tenant is percent-encoded, as Hive and Spark do."""
    return f"{table}/tenant_id={quote(tenant_id, safe='')}/day={day}"


def manifest_numbers(storage: Storage) -> list[int]:
    """The numbers of the manifests that there are, ascending."""
    found = (_MANIFEST.fullmatch(path) for path, _ in storage.list("_manifest/"))
    return sorted(int(match[1]) for match in found if match)


def read_manifest(storage: Storage, number: int | None = None) -> Manifest | None:
    """A manifest, the newest by default; None: there is none yet.

    Raises
    ------
    DatasetUnreadable
        There is none of that number, or it is damaged.
    """
    numbers = manifest_numbers(storage)
    if number is None:
        if not numbers:
            return None
        number = numbers[-1]
    elif number not in numbers:
        held = f"{numbers[0]} to {numbers[-1]}" if numbers else "none"
        raise DatasetUnreadable(f"{storage.url}: no manifest {number}; there are {held}")
    path = f"_manifest/{number:06d}.json"
    with _reading(storage, path):
        value = parse_object(storage.read(path), max_bytes=MOST_JSON_BYTES, max_tokens=None)
        manifest = _manifest_of(value)
        if manifest.number != number or manifest.encoded() != storage.read(path):
            raise ValueError("it is not as this version writes manifests")
    return manifest


def read_part_files(storage: Storage, window: Window) -> list[PartFile]:
    """A window's parts.

    Raises
    ------
    DatasetUnreadable
        The parts file is missing or is not what the manifest says.
    """
    with _reading(storage, window.parts_path):
        data = storage.read(window.parts_path)
        if (found := hashlib.sha256(data).hexdigest()) != window.parts_sha256:
            raise ValueError(f"its SHA-256 is {found}; the manifest says {window.parts_sha256}")
        value = parse_object(data, max_bytes=MOST_JSON_BYTES, max_tokens=None)
        _require_format(value)
        return [_part_of(item) for item in _list(value, "parts")]


@contextmanager
def _reading(storage: Storage, path: str) -> Iterator[None]:
    """Whatever is wrong with a file of the manifest becomes one error that names it."""
    try:
        yield
    except (ValueError, TypeError, KeyError, FileNotFoundError) as error:
        raise DatasetUnreadable(
            f"{storage.url}: {path} cannot be read: {one_line(error, 300)}. "
            "An older state may be: open_dataset(..., as_of=N)"
        ) from error


def _encoded(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def _require_format(value: dict[str, Any]) -> None:
    if value.get("format") != FORMAT:
        raise ValueError(f"format {one_line(value.get('format'), 40)}; this version reads {FORMAT}")


def _list(value: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    items = value[key]
    if not isinstance(items, list) or any(not isinstance(item, dict) for item in items):
        raise TypeError(f"{key} is no list of objects")
    return iter(items)


def _manifest_of(value: dict[str, Any]) -> Manifest:
    _require_format(value)
    fields = {name: value[name] for name in Manifest.__dataclass_fields__ if name != "windows"}
    windows = tuple(Window(**item) for item in _list(value, "windows"))
    _require(
        type(fields["number"]) is int and fields["number"] > 0,
        *(isinstance(fields[name], str) for name in ("created_at", "writer", "change")),
        *(fields[name] is None or isinstance(fields[name], str) for name in ("tenant_id", "parent_sha256")),
        what="its number, times, writer and tenant",
    )
    for window in windows:
        _require_window(window)
    return Manifest(**fields, windows=windows)


def _require(*facts: bool, what: str) -> None:
    if not all(facts):
        raise ValueError(f"{what} are not as this version writes them")


def _require_window(window: Window) -> None:
    """Raise where a window's members are of other types, or are what no export would write."""
    what = f"the members of window {one_line(window.since, 40)}"
    since, until = window.since, window.until
    _require(
        (since is None and until is None) or (_is_time(since) and _is_time(until) and since < until),  # type: ignore[operator]
        _is_time(window.read_at),
        *(type(count) is int and count >= 0 for count in (window.open_runs, window.undated_runs)),
        isinstance(window.settled, bool),
        *(_by_table(counts, lambda count: type(count) is int and count >= 0) for counts in (window.rows, window.bytes)),
        _by_table(window.content_digests, _is_sha256),
        isinstance(window.parts_path, str) and _PARTS.fullmatch(window.parts_path) is not None,
        _is_sha256(window.parts_sha256),
        isinstance(window.extra_columns, dict) and RECORD_TYPES.keys() >= window.extra_columns.keys(),
        what=what,
    )
    for table, columns in window.extra_columns.items():
        known = {column.name for column in RECORD_TYPES[table].stored_columns()}
        _require(
            isinstance(columns, dict) and not known.intersection(columns),
            *(kind in ARROW_TYPES for kind in columns.values()),
            what=what,
        )


def _by_table(value: Any, accepted: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and list(value) == list(RECORD_TYPES) and all(map(accepted, value.values()))


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and utc_text(parse_utc(value)) == value
    except (ValueError, OverflowError):
        return False


def _part_of(item: dict[str, Any]) -> PartFile:
    part = PartFile(**item)
    _require(
        *(isinstance(value, str) for value in (part.table, part.tenant_id, part.day, part.path, part.sha256)),
        *(type(count) is int and count >= 0 for count in (part.rows, part.bytes)),
        _is_sha256(part.content_digest),
        *(value is None or _is_time(value) for value in (part.min_time, part.max_time)),
        what="a part's members",
    )
    if part.table not in RECORD_TYPES:
        raise ValueError(f"a table {one_line(repr(part.table), 60)}")
    expected = f"{partition_path(part.table, part.tenant_id, part.day)}/part-{part.sha256[:32]}.parquet"
    if (
        not _SHA256.fullmatch(part.sha256)
        or part.path != expected
        or not re.fullmatch(rf"\d{{4}}-\d{{2}}-\d{{2}}|{UNDATED}", part.day)
    ):
        raise ValueError(f"a part at {one_line(repr(part.path), 120)}; expected {one_line(repr(expected), 120)}")
    return part
