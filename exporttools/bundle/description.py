"""bundle.json: what a bundle says of itself. Strict in what it reads."""

from __future__ import annotations

import datetime as dt
import json
import math
import platform
from typing import Any, NoReturn

import pyarrow as pa

from exporttools.snapshots import ExportBundle, SourceSnapshot
from exporttools.version import __version__

FORMAT = "exporttools-bundle"
FORMAT_VERSION = 1

NAME = "bundle.json"
PART_FILES = {
    "incident": "incident.parquet",
    "run": "run.parquet",
    "trace": "trace.parquet",
    "steps": "trace_steps.parquet",
}
"""The payload file of each part of a bundle."""


def describe(bundle: ExportBundle) -> dict[str, Any]:
    """The content of ``bundle.json``.

    Returns
    -------
    dict
        Ids (None where no part names one), row counts, totals (tokens, US cents, milliseconds over the steps; None
        where a sum is more than a float can hold, for which JSON has no number), first
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
    totals = {name: None if math.isinf(total) else total for name, total in bundle.totals.items()}
    run_ids = (
        bundle.run and bundle.run.run_id,
        bundle.trace and bundle.trace.run_id,
        bundle.incident and bundle.incident.source_run_id,
    )
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "tenant_id": bundle.tenant_id,
        "incident_id": bundle.incident and bundle.incident.id,
        "run_id": next((run_id for run_id in run_ids if run_id is not None), None),
        "trace_id": bundle.trace and bundle.trace.trace_id,
        "trace_count": bundle.trace_count,
        "missing": list(bundle.missing),
        "tables": files,
        "content_digest": bundle.content_digest,
        "totals": totals,
        "first_timestamp": time_range and time_range[0].isoformat(),
        "last_timestamp": time_range and time_range[1].isoformat(),
        "source": bundle.source and _source_to_json(bundle.source),
        "written_at": dt.datetime.now(dt.UTC).isoformat(),
        "tools": {
            "exporttools": __version__,
            "pyarrow": pa.__version__,
            "python": platform.python_version(),
        },
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
    """The source that a description names.

    Raises
    ------
    KeyError, TypeError, ValueError
        It names none.
    """
    if value is None:
        return None
    source = SourceSnapshot(**{**value, "read_at": dt.datetime.fromisoformat(value["read_at"])})
    texts = (source.dialect, source.server_version, source.layout, source.snapshot_id or "")
    if not all(isinstance(text, str) for text in texts) or source.read_at.tzinfo is None:
        raise ValueError("a source that is not made of text and a time with its zone")
    return source


def parse(text: str) -> dict[str, Any]:
    """A description, read strictly: no key twice, no NaN or infinity.

    Raises
    ------
    ValueError
        Not such a JSON object.
    """
    value = json.loads(
        text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant, parse_float=_finite
    )
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__}")  # noqa: TRY004
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated:
        raise ValueError(f"the key {repeated[0]!r} twice")
    return dict(pairs)


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse_constant(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"the number {name}")
