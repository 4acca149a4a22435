"""A made-up fleet of agents with planted incidents: deterministic for a seed, any size in bounded memory.

Rooms: ``fleet`` is the world as data, ``runs`` and ``steps`` draw columns, ``plants`` writes what goes wrong,
``timing`` sets clocks and costs, ``blocks`` makes Arrow tables, ``writing`` hands them on. What the sample holds and
what is planted in it is told in ``data/README.md``.
"""

from __future__ import annotations

from exporttools.sample.output import (
    DEFAULT_RUNS,
    DEFAULT_SEED,
    load_sample,
    sample_block,
    sample_blocks,
    sample_tables,
    write_sample,
)

__all__ = [
    "DEFAULT_RUNS",
    "DEFAULT_SEED",
    "load_sample",
    "sample_block",
    "sample_blocks",
    "sample_tables",
    "write_sample",
]
