"""bundle.json: what a bundle says of itself. Strict in what it reads."""

from __future__ import annotations

import datetime as dt
import json
import platform
from typing import Any

import pyarrow as pa

import exporttools
from exporttools.snapshots import ExportBundle, SourceSnapshot

FORMAT = "exporttools-bundle"
FORMAT_VERSION = 1

NAME = "bundle.json"
PART_FILES = {"incident": "incident.parquet", "run": "run.parquet", "trace": "trace.parquet", "steps": "trace_steps.parquet"}
"""The payload file of each part of a bundle."""


def describe(bundle: ExportBundle) -> dict[str, Any]:
    """The content of ``bundle.json``.

    Returns
    -------
    dict
        Ids (None where a part is missing), row counts, totals (tokens, US cents, milliseconds over the steps), first
        and last step's start, missing parts, how many traces the run has, content digests, where and as of when it
        was read, and the versions of the tools that wrote it.
    """
    digests = bundle.table_digests
    files = {
        table.snapshot_type.RECORD.table: {
            "file": PART_FILES[part],
            "rows": len(table),
            "content_digest": digests[table.snapshot_type.RECORD.table],
        }
        for part, table in bundle.tables.items()
    }
    time_range = bundle.time_range
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "tenant_id": bundle.tenant_id,
        "incident_id": bundle.incident and bundle.incident.id,
        "run_id": (bundle.run and bundle.run.run_id) or (bundle.incident and bundle.incident.source_run_id),
        "trace_id": bundle.trace and bundle.trace.trace_id,
        "trace_count": bundle.trace_count,
        "missing": list(bundle.missing),
        "tables": files,
        "content_digest": bundle.content_digest,
        "totals": dict(bundle.totals),
        "first_timestamp": time_range and time_range[0].isoformat(),
        "last_timestamp": time_range and time_range[1].isoformat(),
        "source": bundle.source and _source_to_json(bundle.source),
        "written_at": dt.datetime.now(dt.UTC).isoformat(),
        "tools": {"exporttools": exporttools.__version__, "pyarrow": pa.__version__, "python": platform.python_version()},
    }


def _source_to_json(source: SourceSnapshot) -> dict[str, Any]:
    return {
        "dialect": source.dialect,
        "server_version": source.server_version,
        "layout": source.layout,
        "snapshot_id": source.snapshot_id,
        "read_at": source.read_at.isoformat(),
    }


def source_from_json(value: dict[str, Any] | None) -> SourceSnapshot | None:
    """The source that a description names."""
    return None if value is None else SourceSnapshot(**{**value, "read_at": dt.datetime.fromisoformat(value["read_at"])})


def parse(text: str) -> dict[str, Any]:
    """A description, read strictly: no key twice, no NaN or infinity.

    Raises
    ------
    ValueError
        Not such a JSON object.
    """
    value = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__}")  # noqa: TRY004
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated:
        raise ValueError(f"the key {repeated[0]!r} twice")
    return dict(pairs)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"the number {name}")
