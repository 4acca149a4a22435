"""Reads manifests and part lists, which anyone may have written: a file that this version would not write is refused."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from exporttools.dataset.manifest import FORMAT, UNDATED, Manifest, PartFile, Window, partition_path
from exporttools.dataset.storage import Storage
from exporttools.errors import DatasetUnreadable
from exporttools.records.schema import ARROW_TYPES, RECORD_TYPES
from exporttools.text.inert import one_line
from exporttools.text.strict_json import parse_object
from exporttools.times import parse_utc, utc_text

MOST_JSON_BYTES = 256 << 20
_MANIFEST = re.compile(r"_manifest/(\d{6,})\.json")
_PART_LIST = re.compile(r"_manifest/windows/[0-9a-f]{32}\.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def manifest_numbers(storage: Storage) -> list[int]:
    """Return the numbers of the manifests, ascending.

    Raises
    ------
    DatasetUnreadable
        The storage cannot list them.
    """
    return sorted(int(match[1]) for path in list_paths(storage, "_manifest/") if (match := _MANIFEST.fullmatch(path)))


def list_paths(storage: Storage, prefix: str) -> list[str]:
    """Return the paths of the files below a prefix.

    Raises
    ------
    DatasetUnreadable
        The storage cannot list them.
    """
    try:
        return [path for path, _ in storage.list(prefix)]
    except OSError as error:
        raise DatasetUnreadable(f"{storage.url}: {prefix} cannot be listed: {one_line(error, 300)}") from error


def read_manifest(storage: Storage, number: int | None = None) -> Manifest | None:
    """Return the manifest of this number, by default the newest, or None if there are no manifests yet.

    Raises
    ------
    DatasetUnreadable
        There is no manifest of this number, or it cannot be read.
    """
    numbers = manifest_numbers(storage)
    if number is None:
        if not numbers:
            return None
        number = numbers[-1]
    elif number not in numbers:
        held = f"the manifests are {numbers[0]} to {numbers[-1]}" if numbers else "there are no manifests"
        raise DatasetUnreadable(f"{storage.url}: there is no manifest {number}; {held}")
    path = f"_manifest/{number:06d}.json"
    with _reading(storage, path):
        value = parse_object(storage.read(path), max_bytes=MOST_JSON_BYTES, max_tokens=None)
        manifest = _manifest_of(value)
        if manifest.number != number or manifest.encoded() != storage.read(path):
            raise ValueError("its bytes are not those that this version writes")
    return manifest


def read_part_files(storage: Storage, window: Window) -> list[PartFile]:
    """Return a window's part files, as its part list names them.

    Raises
    ------
    DatasetUnreadable
        The part list cannot be read, or its SHA-256 is not the one in the manifest.
    """
    with _reading(storage, window.parts_path):
        data = storage.read(window.parts_path)
        if (found := hashlib.sha256(data).hexdigest()) != window.parts_sha256:
            raise ValueError(f"its SHA-256 is {found}; the manifest says {window.parts_sha256}")
        value = parse_object(data, max_bytes=MOST_JSON_BYTES, max_tokens=None)
        _require_format(value)
        return [_part_file_of(item) for item in _list(value, "parts")]


@contextmanager
def _reading(storage: Storage, path: str) -> Iterator[None]:
    """Turn any fault of a file below ``_manifest`` into one error that names the file."""
    try:
        yield
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise DatasetUnreadable(
            f"{storage.url}: {path} cannot be read: {one_line(error, 300)}. "
            "An older manifest may be readable: open_dataset(..., as_of=N)"
        ) from error


def _require_format(value: dict[str, Any]) -> None:
    if value.get("format") != FORMAT:
        raise ValueError(f"its format is {one_line(value.get('format'), 40)}; this version reads format {FORMAT}")


def _list(value: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    items = value[key]
    if not isinstance(items, list) or any(not isinstance(item, dict) for item in items):
        raise TypeError(f"{key} is not a list of objects")
    return iter(items)


def _manifest_of(value: dict[str, Any]) -> Manifest:
    _require_format(value)
    fields = {name: value[name] for name in Manifest.__dataclass_fields__ if name != "windows"}
    windows = tuple(Window(**item) for item in _list(value, "windows"))
    _require(
        type(fields["number"]) is int and fields["number"] > 0,
        *(isinstance(fields[name], str) for name in ("created_at", "writer", "change")),
        *(fields[name] is None or isinstance(fields[name], str) for name in ("tenant_id", "parent_sha256")),
        what="its number, time, writer and tenant",
    )
    for window in windows:
        _require_window(window)
    return Manifest(**fields, windows=windows)


def _require(*facts: bool, what: str) -> None:
    if not all(facts):
        raise ValueError(f"{what} are not what this version writes")


def _require_window(window: Window) -> None:
    """Raise if a window's members have other types, or values that no export writes."""
    what = f"the members of window {one_line(window.since, 40)}"
    since, until = window.since, window.until
    _require(
        (since is None and until is None) or (_is_time(since) and _is_time(until) and since < until),  # type: ignore[operator]
        _is_time(window.read_at),
        *(type(count) is int and count >= 0 for count in (window.open_runs, window.undated_runs)),
        isinstance(window.settled, bool),
        *(_by_table(counts, lambda count: type(count) is int and count >= 0) for counts in (window.rows, window.bytes)),
        _by_table(window.content_digests, _is_sha256),
        isinstance(window.parts_path, str) and _PART_LIST.fullmatch(window.parts_path) is not None,
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


def _part_file_of(item: dict[str, Any]) -> PartFile:
    file = PartFile(**item)
    _require(
        *(isinstance(value, str) for value in (file.table, file.tenant_id, file.day, file.path, file.sha256)),
        *(type(count) is int and count >= 0 for count in (file.rows, file.bytes)),
        _is_sha256(file.content_digest),
        *(value is None or _is_time(value) for value in (file.min_time, file.max_time)),
        what="the members of a part file",
    )
    if file.table not in RECORD_TYPES:
        raise ValueError(f"there is no table {one_line(repr(file.table), 60)}")
    expected = f"{partition_path(file.table, file.tenant_id, file.day)}/part-{file.sha256[:32]}.parquet"
    if (
        not _SHA256.fullmatch(file.sha256)
        or file.path != expected
        or not re.fullmatch(rf"\d{{4}}-\d{{2}}-\d{{2}}|{UNDATED}", file.day)
    ):
        raise ValueError(
            f"it has a part file at {one_line(repr(file.path), 120)}; expected {one_line(repr(expected), 120)}"
        )
    return file
