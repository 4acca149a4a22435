"""Datasets: incidents, runs, traces and steps of a fleet as partitioned Parquet files. Knows no database.

::

    DEST/incidents|runs|traces|trace_steps/tenant_id=T/day=YYYY-MM-DD/part-*.parquet
    DEST/_manifest/000007.json              the dataset as of its seventh change; readers use the newest
    DEST/_manifest/windows/*.json           part lists: the part files of one window each

The day is the UTC day on which the run started (or the incident was created), or ``__undated__``.
"""

from exporttools.dataset.checking import DatasetVerification
from exporttools.dataset.manifest import Manifest, PartFile, Window
from exporttools.dataset.reading import Dataset, open_dataset

__all__ = ["Dataset", "DatasetVerification", "Manifest", "PartFile", "Window", "open_dataset"]
