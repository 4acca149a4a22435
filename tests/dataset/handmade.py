"""Datasets for tests: exports of a small database, and datasets made by hand, with names and rows that no sample has."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from exporttools import (
    ExportBundleStore,
    export_dataset,
    open_dataset,
)
from exporttools.dataset.committing import Committer
from exporttools.dataset.destinations import open_storage
from exporttools.dataset.manifest import PartFile, first_manifest, new_window
from exporttools.dataset.part_files import new_part_file
from exporttools.records.schema import RECORD_TYPES, arrow_schema
from tests.databases import NOON, create_native, incident, run, step, trace

HOUR = dt.timedelta(hours=1)


MIDNIGHT = dt.datetime(2026, 10, 5, tzinfo=dt.UTC)


DAY = "2026-10-05"


HOSTILE_TENANTS = ("a/b=c%", "123", "' OR 1", "..", 'q"\\', "ünï", "<b>x</b>")


class HandmadeDataset:
    """A dataset made by hand, window by window."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.storage = open_storage(place, create=True)
        self.committer = Committer(self.storage, first_manifest(None))

    def part_file(
        self, table: str, *rows: Mapping[str, Any], of_day: str = DAY, tenant: str | None = None, **extra: Any
    ) -> PartFile:
        """Write a part file; `extra` are the types of extra columns."""
        record_type = RECORD_TYPES[table]
        columns = record_type.stored_columns([record_type.extra_column(*item) for item in extra.items()])
        batch = pa.RecordBatch.from_pylist(
            [{column.name: row.get(column.name) for column in columns} for row in rows], schema=arrow_schema(columns)
        )
        with new_part_file(
            self.storage, RECORD_TYPES[table], columns, tenant or rows[0]["tenant_id"], of_day
        ) as writer:
            writer.write(batch)
        return writer.part_file

    def commit(
        self, hour: int, part_files: Sequence[PartFile], *, hours: int = 1, settled: bool = True, **extra: Any
    ) -> Any:
        """Commit a window and return the dataset; `extra` are the types of the steps' extra columns."""
        window = new_window(
            self.storage, MIDNIGHT + hour * HOUR, MIDNIGHT + (hour + hours) * HOUR, part_files,
            read_at="2026-10-07T00:00:00.000000Z", open_runs=0, undated_runs=0, settled=settled,
            extra_columns={"trace_steps": extra},
        )  # fmt: skip
        self.committer.commit(window)
        return open_dataset(self.place)


def findings_of(dataset: Any) -> list[tuple[str, str]]:
    return [(finding.code, finding.path) for finding in dataset.verify().findings]


def codes(dataset: Any) -> set[str]:
    return {finding.code for finding in dataset.verify().findings}


def hourly(tmp_path: Path) -> str:
    """A database of six runs of two tenants, one each hour."""
    runs = [
        run(run_id=f"r{i}", tenant_id="ab"[i % 2], started_at=NOON + i * HOUR, completed_at=NOON + i * HOUR)
        for i in range(6)
    ]
    return create_native(
        f"sqlite:///{tmp_path / 'db.sqlite'}",
        {
            "incidents": [incident(tenant_id="a")],
            "runs": runs,
            "traces": [trace(trace_id=f"t{9 - i}", run_id=f"r{i}", tenant_id="ab"[i % 2]) for i in range(6)],
            "trace_steps": [
                step(j, trace_id=f"t{9 - i}", tenant_id="ab"[i % 2], status="error" if j else "ok")
                for i in range(6)
                for j in range(3)
            ],
        },
    )


def exported(tmp_path: Path, destination: Any = None, **options: Any) -> Any:
    place = tmp_path / "d" if destination is None else destination
    url = hourly(tmp_path) if not (tmp_path / "db.sqlite").exists() else f"sqlite:///{tmp_path / 'db.sqlite'}"
    export_dataset(ExportBundleStore(url), place, progress=False, **options)
    return open_dataset(place)
