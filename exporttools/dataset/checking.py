"""Whether a dataset is what its manifest says: files against digests, rows against their place. Gathers all findings."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from exporttools.dataset.manifest import (
    MOST_JSON_BYTES,
    UNDATED,
    Manifest,
    PartFile,
    Window,
    manifest_numbers,
    read_part_files,
)
from exporttools.dataset.part_files import KeyOrder
from exporttools.dataset.storage import Storage
from exporttools.errors import DatasetUnreadable, ExportToolsError
from exporttools.files.digests import ContentDigest, combined_digest
from exporttools.files.findings import Finding
from exporttools.records.schema import RECORD_TYPES, Column, arrow_schema
from exporttools.records.validity import Origin, require_valid
from exporttools.text.inert import html_text, one_line
from exporttools.text.strict_json import parse_object

_BATCH_ROWS = 65_536
_READ_BYTES = 1 << 20
_KEYS_MEMORY = "1GB"
"""What DuckDB holds keys in; the rest lies in a temporary directory meanwhile."""


@dataclass(frozen=True, slots=True)
class DatasetVerification:
    """Whether a dataset is what its manifest says it is.

    Attributes
    ----------
    url : str
    manifest : int
        The number of the manifest that it was held against.
    findings : tuple of Finding
        Everything that is wrong; empty: nothing. Codes: ``chain``, ``missing``, ``changed``, ``malformed``, ``schema``,
        ``tenant``, ``day``, ``order``, ``content``, ``rows``, ``duplicate``.
    files, rows : int
        Files and rows that were read.
    unlisted : int
        Files beside them that the manifest does not list: of older manifests, or left by an export that was killed.
    content_digest : str
        Of the rows, as the manifest says.

    Notes
    -----
    It finds damage and mistakes. It does not say who wrote the dataset: whoever can write there can write a manifest too.
    """

    url: str
    manifest: int
    findings: tuple[Finding, ...]
    files: int
    rows: int
    unlisted: int
    content_digest: str

    @property
    def ok(self) -> bool:
        """Whether nothing was found to be wrong."""
        return not self.findings

    def __bool__(self) -> bool:
        return self.ok

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self) | {"ok": self.ok, "findings": [asdict(finding) for finding in self.findings]}

    def _summary(self) -> str:
        verdict = "intact" if self.ok else f"{len(self.findings):,} findings"
        return f"{verdict}: {self.rows:,} rows in {self.files:,} files, {self.unlisted:,} unlisted; manifest {self.manifest}"

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{one_line(self.url)}: {self._summary()}",
                f"  content digest sha256:{self.content_digest}",
                *(f"  {finding}" for finding in self.findings),
            ]
        )

    def _repr_html_(self) -> str:
        mark = "✔" if self.ok else "✘"
        findings = "".join(f"<li>{html_text(finding, 600)}</li>" for finding in self.findings[:100])
        more = f"<li>… {len(self.findings) - 100:,} more</li>" if len(self.findings) > 100 else ""
        return (
            f"<p><b>{mark} {html_text(self._summary())}</b>: <code>{html_text(self.url)}</code>"
            f"<br>content digest sha256:{self.content_digest}</p><ul>{findings}{more}</ul>"
        )


def verify_dataset(storage: Storage, manifest: Manifest) -> DatasetVerification:
    """Hold every file against the manifest, and every row against its place; memory is bounded by batches."""
    findings = list(_chain(storage, manifest))
    parts: list[PartFile] = []
    sound: list[PartFile] = []
    listed: set[str] = set()
    rows = 0
    for window in manifest.windows:
        try:
            found = read_part_files(storage, window)
        except DatasetUnreadable as error:
            findings.append(Finding("malformed", window.parts_path, "the parts of a window", str(error)))
            continue
        findings += _totals(window, found)
        for part in found:
            parts.append(part)
            if part.path in listed:  # readers would give its rows twice
                findings.append(Finding("duplicate", part.path, "a file listed once", f"again in {window.name}"))
                continue
            listed.add(part.path)
            faults = list(_part(storage, part, _columns(window, part.table)))
            findings += faults
            rows += part.rows
            if not faults:
                sound.append(part)
    findings += _duplicates(storage, sound)
    there = [path for table in RECORD_TYPES for path, _ in storage.list(f"{table}/")]
    ordered = sorted(parts, key=lambda part: (part.tenant_id, part.day))
    digests = [
        combined_digest(part.content_digest for part in ordered if part.table == table) for table in RECORD_TYPES
    ]
    return DatasetVerification(
        url=storage.url,
        manifest=manifest.number,
        findings=tuple(findings),
        files=len(listed),
        rows=rows,
        unlisted=len(set(there) - listed),
        content_digest=combined_digest(digests),
    )


def _chain(storage: Storage, manifest: Manifest) -> Iterator[Finding]:
    """Each manifest names the one before by its SHA-256, back to the first."""
    expected: Any = hashlib.sha256(manifest.encoded()).hexdigest()
    numbers = set(manifest_numbers(storage))
    for number in range(manifest.number, 0, -1):
        path = f"_manifest/{number:06d}.json"
        if number not in numbers:
            yield Finding("chain", path, "a manifest", "none")
            return
        data = storage.read(path)
        if (found := hashlib.sha256(data).hexdigest()) != expected:
            yield Finding("chain", path, f"SHA-256 {expected}", found)
            return
        try:
            expected = parse_object(data, max_bytes=MOST_JSON_BYTES, max_tokens=None)["parent_sha256"]
        except (ValueError, KeyError) as error:
            yield Finding("chain", path, "a manifest", one_line(error, 300))
            return
    if expected is not None:
        yield Finding("chain", "_manifest/000001.json", "no parent", f"SHA-256 {one_line(expected, 80)}")


def _totals(window: Window, parts: list[PartFile]) -> Iterator[Finding]:
    for table in RECORD_TYPES:
        of = [part for part in parts if part.table == table]
        said = (window.rows[table], window.bytes[table], window.content_digests[table])
        found = (
            sum(part.rows for part in of),
            sum(part.bytes for part in of),
            combined_digest(part.content_digest for part in of),
        )
        if said != found:
            yield Finding("rows", window.parts_path, f"{table} of {window.name}: {said}", str(found))


def _columns(window: Window, table: str) -> tuple[Column, ...]:
    record_type = RECORD_TYPES[table]
    extra = window.extra_columns.get(table, {})
    return record_type.stored_columns([record_type.extra_column(*item) for item in extra.items()])


def _part(storage: Storage, part: PartFile, columns: tuple[Column, ...]) -> Iterator[Finding]:
    try:
        file = storage.open(part.path)
    except (FileNotFoundError, IsADirectoryError):
        yield Finding("missing", part.path, "a file", "none")
        return
    with file:
        sha256, size = hashlib.sha256(), 0
        while data := file.read(_READ_BYTES):
            sha256.update(data)
            size += len(data)
        if (size, sha256.hexdigest()) != (part.bytes, part.sha256):
            # Not looked into: what pyarrow makes of a damaged footer is anybody's guess.
            yield Finding(
                "changed", part.path, f"{part.bytes} bytes, {part.sha256}", f"{size} bytes, {sha256.hexdigest()}"
            )
            return
        file.seek(0)
        try:
            yield from _rows(file, part, columns)
        except (pa.ArrowException, ExportToolsError, OSError, ValueError) as error:
            code = "order" if "ascending" in str(error) else "malformed"
            yield Finding(code, part.path, "rows as exported", one_line(error, 300))


def _rows(file: io.RawIOBase | Any, part: PartFile, columns: tuple[Column, ...]) -> Iterator[Finding]:
    parquet = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False, buffer_size=256 << 10)
    schema = arrow_schema(columns)
    if not parquet.schema_arrow.equals(schema, check_metadata=False):
        yield Finding("schema", part.path, _shown(schema), _shown(parquet.schema_arrow))
        return
    digest, order = ContentDigest(part.table, schema), KeyOrder(RECORD_TYPES[part.table])
    others = strays = 0
    for found in parquet.iter_batches(_BATCH_ROWS):
        batch = pa.RecordBatch.from_arrays(found.columns, schema=schema)
        batch.validate(full=True)
        require_valid(batch, columns, origin=Origin(part.table), key=RECORD_TYPES[part.table].key)
        order.follow(batch)
        digest.update(batch)
        others += pc.sum(pc.not_equal(batch["tenant_id"], part.tenant_id)).as_py() or 0
        strays += _strays(batch, part)
    if others:
        yield Finding("tenant", part.path, f"rows of {part.tenant_id!r} only", f"{others:,} of others")
    if strays:
        yield Finding("day", part.path, f"rows of {part.day} only", f"{strays:,} of others")
    if (digest.rows, digest.hexdigest()) != (part.rows, part.content_digest):
        yield Finding(
            "content",
            part.path,
            f"{part.rows:,} rows, {part.content_digest}",
            f"{digest.rows:,} rows, {digest.hexdigest()}",
        )


def _strays(batch: pa.RecordBatch, part: PartFile) -> int:
    """Rows that belong to another day; steps and traces have their run's, which is not theirs to tell."""
    if part.table not in ("incidents", "runs"):
        return 0
    times = batch[RECORD_TYPES[part.table].time]
    if part.day == UNDATED:
        return len(times) - int(times.null_count)
    start = dt.datetime.fromisoformat(part.day).replace(tzinfo=dt.UTC)
    day_us = pc.subtract(times.cast(pa.int64()), int(start.timestamp()) * 1_000_000)
    inside = pc.and_(pc.greater_equal(day_us, 0), pc.less(day_us, 86_400_000_000))
    return len(times) - int(pc.sum(pc.fill_null(inside, False)).as_py() or 0)


def _duplicates(storage: Storage, parts: Sequence[PartFile]) -> Iterator[Finding]:
    """Keys that stand in several files; within one, the order of its rows tells. DuckDB holds what memory does not."""
    import duckdb

    for table in RECORD_TYPES:
        # A trace lies in one file with all its steps.
        key = "trace_id" if table == "trace_steps" else RECORD_TYPES[table].key[0]
        of = [part for part in parts if part.table == table]
        if len(of) < 2:
            continue
        schema = pa.schema({"tenant": pa.string(), "key": pa.string(), "file": pa.int64()})
        keys = pa.RecordBatchReader.from_batches(schema, _keys(storage, of, key, schema))
        with tempfile.TemporaryDirectory(prefix="exporttools-") as spill:
            settings: dict[str, str | bool | int | float | list[str]] = {
                "memory_limit": _KEYS_MEMORY,
                "temp_directory": spill,
            }
            with duckdb.connect(":memory:", config=settings) as connection:
                connection.register("keys", keys)
                found = connection.execute(
                    "SELECT tenant, key, min(file), max(file) FROM keys "
                    "GROUP BY 1, 2 HAVING min(file) < max(file) ORDER BY 1, 2 LIMIT 100"
                ).fetchall()
        for tenant, value, one, other in found:
            yield Finding(
                "duplicate", of[one].path, f"{key} {value!r} of {tenant!r} in one file", f"also in {of[other].path}"
            )


def _keys(storage: Storage, parts: Sequence[PartFile], key: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The keys of files that were found to be in order, each with its file's number."""
    for number, part in enumerate(parts):
        with storage.open(part.path) as file:
            parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=256 << 10)
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=[key]):
                values = pc.unique(batch[key])
                tenants = pa.repeat(pa.scalar(part.tenant_id, pa.string()), len(values))
                yield pa.RecordBatch.from_arrays([tenants, values, pa.repeat(number, len(values))], schema=schema)


def _shown(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}{'' if field.nullable else ' not null'}" for field in schema)
