"""The sample as tables, as Parquet files, and in a database. Draws nothing itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from exporttools.errors import ConfigError
from exporttools.files.parquet import parquet_writer
from exporttools.loading import DatabaseName, load_tables
from exporttools.records.schema import RECORD_TYPES
from exporttools.sample.blocks import draw_block, table_schema
from exporttools.sample.runs import FEWEST_RUNS, MOST_RUNS

DEFAULT_RUNS = 300
DEFAULT_SEED = 7
_MOST_SEED = 2**32 - 1
# Block numbers have four digits, so that ids sort like numbers.
_MOST_BLOCKS = 10_000


def sample_block(seed: int, block: int, runs: int = MOST_RUNS) -> dict[str, pa.Table]:
    """Draw one block of the fleet: a pure function of its arguments, with one set of the eight planted incidents.

    Parameters
    ----------
    seed : int
        From 0 to 2**32 - 1.
    block : int
        The block's number, from 0 to 9999, which its ids contain.
    runs : int
        The number of runs, from 50 to 300.

    Returns
    -------
    dict of str to pyarrow.Table
        ``incidents``, ``runs``, ``traces`` and ``trace_steps``, rows in key order, with the columns of
        :data:`exporttools.records.schema.RECORD_TYPES`; steps also have ``tenant_id`` and ``trace_id`` before these and
        ``name``, ``model`` and ``error`` after them.

    Raises
    ------
    ConfigError
        A number is out of range.

    Examples
    --------
    >>> block = sample_block(1, 0, runs=50)
    >>> block["incidents"].num_rows, block["runs"].num_rows
    (8, 50)
    """
    _require(0 <= seed <= _MOST_SEED, "seed", seed, f"an integer from 0 to {_MOST_SEED:,}")
    _require(0 <= block < _MOST_BLOCKS, "block", block, f"an integer from 0 to {_MOST_BLOCKS - 1:,}")
    _require(FEWEST_RUNS <= runs <= MOST_RUNS, "runs", runs, f"an integer from {FEWEST_RUNS} to {MOST_RUNS:,}")
    return draw_block(seed, block, runs)


def sample_blocks(runs: int = DEFAULT_RUNS, *, seed: int = DEFAULT_SEED) -> Iterator[dict[str, pa.Table]]:
    """Draw a fleet block by block: as few blocks as possible, of about the same size."""
    most = _MOST_BLOCKS * MOST_RUNS
    accepted = f"an integer from {FEWEST_RUNS} (to have room for the planted incidents) to {most:,}"
    _require(FEWEST_RUNS <= runs <= most, "runs", runs, accepted)
    blocks = -(-runs // MOST_RUNS)
    for block in range(blocks):
        yield sample_block(seed, block, runs // blocks + (block < runs % blocks))


def sample_tables(runs: int = DEFAULT_RUNS, *, seed: int = DEFAULT_SEED) -> dict[str, pa.Table]:
    """Draw the whole fleet in memory: the four tables, rows in key order. See :func:`sample_block`.

    Examples
    --------
    >>> tables = sample_tables(runs=300)
    >>> tables["runs"].num_rows, tables["incidents"].num_rows
    (300, 8)
    """
    blocks = list(sample_blocks(runs, seed=seed))
    return {table: pa.concat_tables(block[table] for block in blocks) for table in RECORD_TYPES}


def write_sample(directory: Path, *, runs: int = DEFAULT_RUNS, seed: int = DEFAULT_SEED) -> tuple[Path, ...]:
    """Write the fleet as four Parquet files, ``incidents.parquet`` and so on, with one block in memory.

    Returns
    -------
    tuple of pathlib.Path
        The files written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = {table: directory / f"{table}.parquet" for table in RECORD_TYPES}
    writers = {table: _parquet_writer(path, table_schema(table)) for table, path in paths.items()}
    try:
        for block in sample_blocks(runs, seed=seed):
            for table, writer in writers.items():
                writer.write_table(block[table])
    finally:
        for writer in writers.values():
            writer.close()
    return tuple(paths.values())


def load_sample(
    database: DatabaseName, *, runs: int = DEFAULT_RUNS, seed: int = DEFAULT_SEED, progress: bool = True
) -> dict[str, int]:
    """Fill a database's four native tables with the fleet, with one block in memory.

    Parameters
    ----------
    database : str or path
        See :func:`exporttools.loading.load_tables`.
    runs, seed : int
    progress : bool
        Whether to show a progress bar on stderr, if that is a terminal.

    Returns
    -------
    dict of str to int
        How many rows were written to each table.
    """
    shown = progress and sys.stderr.isatty()
    with tqdm(total=runs, unit=" runs", unit_scale=True, disable=not shown, file=sys.stderr) as bar:

        def count(table: str, rows: int) -> None:
            if table == "runs":
                bar.update(rows)

        blocks = sample_blocks(runs, seed=seed)
        return load_tables(database, ((table, block[table]) for block in blocks for table in block), on_rows=count)


def _parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    # A dictionary only makes columns of distinct values larger.
    repeated = [name for name in schema.names if name not in ("content_hash", "timestamp", "duration_ms", "goal")]
    return parquet_writer(path, schema, dictionary=repeated, compression_level=12)


def _require(holds: bool, name: str, found: int, accepted: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {found!r}; expected {accepted}")
