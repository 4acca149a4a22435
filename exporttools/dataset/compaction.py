"""Small files into larger ones: neighbouring windows become one, as if exported as one. Knows no database."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import pyarrow as pa

from exporttools.dataset.committing import Committer
from exporttools.dataset.manifest import Manifest, Part, Window, new_window, parse_utc_text, read_parts
from exporttools.dataset.part_files import KEYS, arrow_schema, new_part, own_columns
from exporttools.dataset.storage import Storage
from exporttools.dataset.windows import grid_number, parse_window
from exporttools.schema import RECORDS, Column

_EXTRA = {record.table: {column.name: column for column in record.extra} for record in RECORDS.values()}


def compact(storage: Storage, manifest: Manifest, window: str) -> Manifest:
    """Merge settled windows that lie in one window of the given length.

    Returns
    -------
    Manifest
        The newest; the given one where nothing was to be merged.

    Raises
    ------
    ConfigError
        `window` is no length.
    DestinationConflict
        Another writer came meanwhile.
    """
    groups = list(_groups(manifest.windows, parse_window(window)))
    if all(len(group) == 1 for group in groups):
        return manifest
    committer = Committer(storage, manifest)
    committer.replace([group[0] if len(group) == 1 else _merged(storage, group) for group in groups])
    return committer.manifest


def _groups(windows: Iterable[Window], length_s: int) -> Iterator[list[Window]]:
    group: list[Window] = []
    for window in windows:
        if group and not (_mergeable(group[-1], window, length_s)):
            yield group
            group = []
        group.append(window)
    if group:
        yield group


def _mergeable(a: Window, b: Window, length_s: int) -> bool:
    if a.since is None or b.since is None or b.until is None or not (a.settled and b.settled):
        return False
    # What lies between them had nothing in it when the later one was exported.
    last = parse_utc_text(b.until) - dt.timedelta(microseconds=1)
    return grid_number(parse_utc_text(a.since), length_s) == grid_number(last, length_s)


def _merged(storage: Storage, group: Sequence[Window]) -> Window:
    parts = [part for window in group for part in read_parts(storage, window)]
    extra = {
        table: {name: kind for window in group for name, kind in window.extra_columns.get(table, {}).items()}
        for table in RECORDS
    }
    place = {part: (list(RECORDS).index(part.table), part.tenant_id, part.day) for part in parts}
    merged = []
    for _, found in groupby(sorted(parts, key=place.__getitem__), key=place.__getitem__):
        some = list(found)
        columns = own_columns(
            RECORDS[some[0].table],
            [
                _EXTRA[some[0].table].get(name) or Column(name, kind, True, "")  # type: ignore[arg-type]
                for name, kind in extra[some[0].table].items()
            ],
        )
        merged.append(some[0] if len(some) == 1 else _merge(storage, some, columns))
    first, last = group[0], group[-1]
    assert first.since is not None
    assert last.until is not None
    return new_window(
        storage,
        parse_utc_text(first.since),
        parse_utc_text(last.until),
        merged,
        read_at=min(window.read_at for window in group),
        open_runs=0,
        undated_runs=0,
        settled=True,
        extra_columns=extra,
    )


def _merge(storage: Storage, parts: Sequence[Part], columns: Sequence[Column]) -> Part:
    import duckdb

    first, schema = parts[0], arrow_schema(columns)
    listed = ", ".join("'" + storage.location(part.path).replace("'", "''") + "'" for part in parts)
    names = ", ".join('"' + column.name.replace('"', '""') + '"' for column in columns)
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        storage.register(connection)
        # DuckDB sorts text by its UTF-8 bytes, which is the order of code points.
        batches = connection.sql(
            f"SELECT {names} FROM read_parquet([{listed}], union_by_name = true, hive_partitioning = false) "  # noqa: S608
            f"ORDER BY {', '.join(KEYS[first.table])}"
        ).to_arrow_reader(65_536)
        with new_part(storage, RECORDS[first.table], columns, first.tenant_id, first.day) as writer:
            for batch in batches:
                writer.write(pa.RecordBatch.from_arrays([c.cast(f.type) for c, f in zip(batch.columns, schema, strict=True)], schema=schema))  # fmt: skip
    return writer.part
