"""A made-up fleet of agents with planted incidents: deterministic for a seed, any size in bounded memory.

``fleet`` is the world as data, ``runs`` and ``steps`` draw columns, ``plants`` writes what goes wrong, ``timing`` sets
clocks and costs, ``blocks`` builds Arrow tables, and ``output`` writes them to files or a database. ``data/README.md``
describes the sample and its incidents.
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
