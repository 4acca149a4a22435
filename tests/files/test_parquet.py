"""The one set of Parquet options: what is written, what is checked, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from exporttools.files.parquet import open_parquet, parquet_writer, repeating_columns, scan_options

ROWS = pa.table({"status": ["ok", "error"] * 500, "n": range(1000)})


def written(**options: Any) -> io.BytesIO:
    file = io.BytesIO()
    with parquet_writer(file, ROWS.schema, dictionary=["status"], **options) as writer:
        writer.write_table(ROWS)
    return file


def flipped() -> bytes:
    """A file with one bit changed in the last page of its numbers."""
    content = bytearray(written().getvalue())
    chunk = pq.read_metadata(io.BytesIO(content)).row_group(0).column(1)
    content[chunk.data_page_offset + chunk.total_compressed_size - 1] ^= 1
    return bytes(content)


def test_what_is_written_is_zstd_with_dictionaries_where_asked_for() -> None:
    group = pq.read_metadata(written()).row_group(0)
    assert [group.column(i).compression for i in range(2)] == ["ZSTD", "ZSTD"]
    assert [group.column(i).has_dictionary_page for i in range(2)] == [True, False]


def test_the_bytes_are_those_of_pyarrows_own_zstd_level() -> None:
    file = io.BytesIO()
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": ["status"], "write_page_checksum": True}
    with pq.ParquetWriter(file, ROWS.schema, **options) as writer:
        writer.write_table(ROWS)
    assert written().getvalue() == file.getvalue()
    assert written(compression_level=12).getvalue() != file.getvalue()


@pytest.mark.parametrize("store_schema", [True, False])
def test_the_arrow_schema_is_in_the_footer_or_not(store_schema: bool) -> None:
    metadata = pq.read_metadata(written(store_schema=store_schema)).metadata or {}
    assert (b"ARROW:schema" in metadata) == store_schema


def test_rows_come_back_in_batches() -> None:
    batches = list(open_parquet(written()).iter_batches(batch_size=300))
    assert [batch.num_rows for batch in batches] == [300, 300, 300, 100]
    assert pa.Table.from_batches(batches) == ROWS


def test_a_flipped_bit_is_found_by_its_pages_checksum() -> None:
    with pytest.raises(OSError, match="CRC checksum verification failed"):
        open_parquet(io.BytesIO(flipped())).read()


def test_a_flipped_bit_is_found_by_a_scan(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(flipped())
    format_ = ds.ParquetFileFormat(default_fragment_scan_options=scan_options())
    with pytest.raises(OSError, match="CRC checksum verification failed"):
        ds.dataset(tmp_path, format=format_).to_table()


def test_page_checksums_can_be_left_out_where_the_file_was_hashed() -> None:
    with pytest.raises(OSError, match="ZSTD decompression failed"):  # not the checksum: zstd itself
        open_parquet(io.BytesIO(flipped()), page_checksums=False).read()


def test_a_footer_above_the_limit_is_refused() -> None:
    with pytest.raises(OSError, match="Couldn't deserialize thrift"):
        open_parquet(written(), max_footer_bytes=3)


def test_columns_of_few_short_texts_repeat() -> None:
    rows = pa.table(
        {
            "few": ["ok", None] * 50,
            "many": [str(i) for i in range(100)],
            "long": ["x" * 129] * 100,
            "numbers": [1] * 100,
            "nothing": pa.nulls(100, pa.string()),
        }
    )
    assert repeating_columns(rows) == ["few", "nothing"]
    assert repeating_columns(rows.slice(0, 0)) == ["few", "many", "long", "nothing"]
