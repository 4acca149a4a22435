"""Checks a dataset against its manifest: files by their digests, rows by their place. Gathers all findings."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from exporttools.dataset.manifest import UNDATED, Manifest, PartFile, Window
from exporttools.dataset.manifest_reader import MOST_JSON_BYTES, list_paths, manifest_numbers, read_part_files
from exporttools.dataset.part_files import KeyOrder
from exporttools.dataset.spilling import spilling_connection
from exporttools.dataset.storage import Storage
from exporttools.errors import DatasetUnreadable, ExportToolsError
from exporttools.files.digests import ContentDigest, combined_digest
from exporttools.files.findings import Finding
from exporttools.files.parquet import open_parquet
from exporttools.records.schema import RECORD_TYPES, Column, arrow_schema
from exporttools.records.validity import Origin, require_valid
from exporttools.text.inert import html_text, one_line
from exporttools.text.strict_json import parse_object
from exporttools.text.words import plural
from exporttools.times import DAY_US, epoch_us

_BATCH_ROWS = 65_536
_KEYS_MEMORY = "1GB"
"""How much memory DuckDB may use for keys; it spills the rest to a temporary directory."""


@dataclass(frozen=True, slots=True)
class DatasetVerification:
    """Whether a dataset is what its manifest says it is.

    Attributes
    ----------
    url : str
    manifest : int
        The number of the manifest that it was checked against.
    findings : tuple of Finding
        Everything that is wrong. Codes: ``chain``, ``missing``, ``changed``, ``malformed``, ``schema``, ``tenant``,
        ``day``, ``order``, ``content``, ``rows``, ``duplicate``.
    files, rows : int
        Files and rows that were read.
    unlisted : int
        Other files, which the manifest does not list: they belong to older manifests, or to an export that was killed.
    content_digest : str
        The rows' digest according to the manifest.

    Notes
    -----
    This finds damage and mistakes. It does not prove who wrote the dataset: anyone who can write there can write a
    manifest too.
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
        """Whether nothing is wrong."""
        return not self.findings

    def __bool__(self) -> bool:
        return self.ok

    def to_dict(self) -> dict[str, Any]:
        """Return the verification as a dict ready for JSON."""
        return asdict(self) | {"ok": self.ok, "findings": [asdict(finding) for finding in self.findings]}

    def _summary(self) -> str:
        verdict = "intact" if self.ok else plural(len(self.findings), "finding")
        rows, files = plural(self.rows, "row"), plural(self.files, "file")
        return f"{verdict}: {rows} in {files}, {self.unlisted:,} unlisted; manifest {self.manifest}"

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
    """Check every file against the manifest and every row against its place, batch by batch."""
    findings = list(_check_chain(storage, manifest))
    part_files: list[PartFile] = []
    sound: list[PartFile] = []
    listed: set[str] = set()
    rows = 0
    for window in manifest.windows:
        try:
            found = read_part_files(storage, window)
        except DatasetUnreadable as error:
            findings.append(Finding("malformed", window.parts_path, "the part files of a window", str(error)))
            continue
        findings += _check_totals(window, found)
        for part_file in found:
            part_files.append(part_file)
            if part_file.path in listed:  # readers would return its rows twice
                findings.append(Finding("duplicate", part_file.path, "a file listed once", f"again in {window.name}"))
                continue
            listed.add(part_file.path)
            faults = list(_check_part_file(storage, part_file, window.columns(part_file.table)))
            findings += faults
            rows += part_file.rows
            if not faults:
                sound.append(part_file)
    findings += _check_duplicates(storage, sound)
    there = {path for table in RECORD_TYPES for path in list_paths(storage, f"{table}/")}
    ordered = sorted(part_files, key=lambda part_file: (part_file.tenant_id, part_file.day))
    digests = [
        combined_digest(part_file.content_digest for part_file in ordered if part_file.table == table)
        for table in RECORD_TYPES
    ]
    return DatasetVerification(
        url=storage.url,
        manifest=manifest.number,
        findings=tuple(findings),
        files=len(listed),
        rows=rows,
        unlisted=len(there - listed),
        content_digest=combined_digest(digests),
    )


def _check_chain(storage: Storage, manifest: Manifest) -> Iterator[Finding]:
    """Check that each manifest names the previous one by its SHA-256, back to the first."""
    expected: Any = hashlib.sha256(manifest.encoded()).hexdigest()
    numbers = set(manifest_numbers(storage))
    for number in range(manifest.number, 0, -1):
        path = f"_manifest/{number:06d}.json"
        if number not in numbers:
            yield Finding("chain", path, "a manifest", "none")
            return
        try:
            data = storage.read(path)
        except OSError as error:
            yield Finding("chain", path, "a manifest", one_line(error, 300))
            return
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


def _check_totals(window: Window, part_files: list[PartFile]) -> Iterator[Finding]:
    for table in RECORD_TYPES:
        of = [part_file for part_file in part_files if part_file.table == table]
        said = (window.rows[table], window.bytes[table], window.content_digests[table])
        found = (
            sum(part_file.rows for part_file in of),
            sum(part_file.bytes for part_file in of),
            combined_digest(part_file.content_digest for part_file in of),
        )
        if said != found:
            yield Finding("rows", window.parts_path, f"{table} of {window.name}: {said}", str(found))


def _check_part_file(storage: Storage, part_file: PartFile, columns: tuple[Column, ...]) -> Iterator[Finding]:
    try:
        with storage.open(part_file.path) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            if (size, sha256) != (part_file.bytes, part_file.sha256):
                # Not parsed: what pyarrow makes of a damaged footer is anybody's guess.
                yield Finding(
                    "changed", part_file.path, f"{part_file.bytes} bytes, {part_file.sha256}", f"{size} bytes, {sha256}"
                )
                return
            file.seek(0)
            yield from _check_rows(file, part_file, columns)
    except (FileNotFoundError, IsADirectoryError):
        yield Finding("missing", part_file.path, "a file", "none")
    except (pa.ArrowException, ExportToolsError, OSError, ValueError) as error:
        code = "order" if "ascending" in str(error) else "malformed"
        yield Finding(code, part_file.path, "rows as exported", one_line(error, 300))


def _check_rows(file: io.RawIOBase | Any, part_file: PartFile, columns: tuple[Column, ...]) -> Iterator[Finding]:
    parquet = open_parquet(file)
    schema = arrow_schema(columns)
    if not parquet.schema_arrow.equals(schema, check_metadata=False):
        yield Finding("schema", part_file.path, _shown(schema), _shown(parquet.schema_arrow))
        return
    digest, order = ContentDigest(part_file.table, schema), KeyOrder(RECORD_TYPES[part_file.table])
    others = strays = 0
    for found in parquet.iter_batches(_BATCH_ROWS):
        batch = pa.RecordBatch.from_arrays(found.columns, schema=schema)
        batch.validate(full=True)
        require_valid(batch, columns, origin=Origin(part_file.table), key=RECORD_TYPES[part_file.table].key)
        order.require_next(batch)
        digest.update(batch)
        others += pc.sum(pc.not_equal(batch["tenant_id"], part_file.tenant_id)).as_py() or 0
        strays += _strays(batch, part_file)
    if others:
        yield Finding("tenant", part_file.path, f"rows of {part_file.tenant_id!r} only", f"{others:,} of others")
    if strays:
        yield Finding("day", part_file.path, f"rows of {part_file.day} only", f"{strays:,} of others")
    if (digest.rows, digest.hexdigest()) != (part_file.rows, part_file.content_digest):
        yield Finding(
            "content",
            part_file.path,
            f"{part_file.rows:,} rows, {part_file.content_digest}",
            f"{digest.rows:,} rows, {digest.hexdigest()}",
        )


def _strays(batch: pa.RecordBatch, part_file: PartFile) -> int:
    """Count rows that belong to another day; steps and traces have their run's day, which their rows do not hold."""
    if part_file.table not in ("incidents", "runs"):
        return 0
    times = batch[RECORD_TYPES[part_file.table].time]
    if part_file.day == UNDATED:
        return len(times) - int(times.null_count)
    start = dt.datetime.fromisoformat(part_file.day).replace(tzinfo=dt.UTC)
    day_us = pc.subtract(times.cast(pa.int64()), epoch_us(start))
    inside = pc.and_(pc.greater_equal(day_us, 0), pc.less(day_us, DAY_US))
    return len(times) - int(pc.sum(pc.fill_null(inside, False)).as_py() or 0)


def _check_duplicates(storage: Storage, part_files: Sequence[PartFile]) -> Iterator[Finding]:
    """Find keys that occur in several files; within a file, the order of its rows shows them."""
    for table in RECORD_TYPES:
        # A trace has all its steps in one file.
        key = "trace_id" if table == "trace_steps" else RECORD_TYPES[table].key[0]
        of = [part_file for part_file in part_files if part_file.table == table]
        if len(of) < 2:
            continue
        schema = pa.schema({"tenant": pa.string(), "key": pa.string(), "file": pa.int64()})
        keys = pa.RecordBatchReader.from_batches(schema, _keys(storage, of, key, schema))
        with spilling_connection(_KEYS_MEMORY) as connection:
            connection.register("keys", keys)
            found = connection.execute(
                "SELECT tenant, key, min(file), max(file) FROM keys "
                "GROUP BY 1, 2 HAVING min(file) < max(file) ORDER BY 1, 2 LIMIT 100"
            ).fetchall()
        for tenant, value, one, other in found:
            yield Finding(
                "duplicate", of[one].path, f"{key} {value!r} of {tenant!r} in one file", f"also in {of[other].path}"
            )


def _keys(storage: Storage, part_files: Sequence[PartFile], key: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the keys of files without findings, each with its file's number."""
    for number, part_file in enumerate(part_files):
        with storage.open(part_file.path) as file:
            parquet = open_parquet(file, page_checksums=False)
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=[key]):
                values = pc.unique(batch[key])
                tenants = pa.repeat(pa.scalar(part_file.tenant_id, pa.string()), len(values))
                yield pa.RecordBatch.from_arrays([tenants, values, pa.repeat(number, len(values))], schema=schema)


def _shown(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}{'' if field.nullable else ' not null'}" for field in schema)
