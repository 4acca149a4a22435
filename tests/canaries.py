"""The rows of two tenants, one of them marked by a canary in every text and number, and how to find it anywhere."""

from __future__ import annotations

import datetime as dt
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.text import Text

from exporttools import ExportBundle, SnapshotTable
from tests.databases import NOON, create_native, incident, run, run_sql, step, trace

OURS, THEIRS = "acme", "CANARY-tenant"
WORD, NUMBER = "CANARY", 918_273_645
RUNS = 8
"""How many runs our tenant has: enough for a baseline."""
STEPS, LONG = 4, 2_050
"""How many steps a run has, and how many the incident's run has: enough to be read in bulk."""
DEAR = 400.0
"""What one step of each run costs: an anomaly."""
KEYS = ("id", "run_id", "trace_id", "source_run_id")
EXTRA = {"name": "string", "model": "string", "error": "string"}


Rows = dict[str, list[dict[str, Any]]]


def our_rows() -> Rows:
    """An incident, and runs with their traces and steps, of our tenant."""
    rows: Rows = {"incidents": [incident()], "runs": [], "traces": [], "trace_steps": []}
    texts = {"name": "search", "model": "small", "error": None, "content_hash": "h1"}
    for i in range(1, RUNS + 1):
        start = NOON + dt.timedelta(hours=i)
        rows["runs"].append(run(run_id=f"r{i}", started_at=start, completed_at=start + dt.timedelta(minutes=3)))
        rows["traces"].append(trace(trace_id=f"t{i}", run_id=f"r{i}", violation_timestamp=start))
        rows["trace_steps"] += [
            step(
                j,
                trace_id=f"t{i}",
                timestamp=start + dt.timedelta(seconds=j),
                cost_cents=DEAR if j == 1 else 0.5,
                **texts,
            )
            for j in range(STEPS)
        ]
    return rows


def their_rows(*, suffix: str = "", tenant_id: str = THEIRS) -> Rows:
    """The canary's rows: ours with its mark, with the same ids or with a suffix to them."""
    return {table: [_marked(row, suffix) | {"tenant_id": tenant_id} for row in of] for table, of in our_rows().items()}


def create(url: str, *rows: Rows) -> None:
    """Create the rows in an empty database; the trace t1 becomes long enough to be read in bulk."""
    together = {table: [row for of in rows for row in of[table]] for table in rows[0]}
    create_native(url, together, extra=EXTRA)
    run_sql(
        url,
        "INSERT INTO trace_steps SELECT s.tenant_id, s.trace_id, n.i, s.timestamp, s.step_type, s.tokens, s.cost_cents, "
        "s.duration_ms, s.status, s.content_hash, s.name, s.model, s.error FROM trace_steps s, (WITH RECURSIVE numbers(i) "
        f"AS (SELECT {STEPS} UNION ALL SELECT i + 1 FROM numbers WHERE i < {LONG}) SELECT i FROM numbers) n "
        f"WHERE s.trace_id = 't1' AND s.step_index = {STEPS - 1}",
    )


def _marked(row: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    changed = dict(row)
    for name, value in row.items():
        if name in KEYS:
            changed[name] = f"{value}{suffix}"
        elif name == "step_index" or isinstance(value, dt.datetime):
            continue
        elif isinstance(value, (int, float)):
            changed[name] = NUMBER * (1000 if value == DEAR else 1) if name != "violation_step_index" else value
        else:
            changed[name] = f"{WORD}-{name}"
    return changed


def tells(text: str) -> bool:
    """Whether a text has the canary's word or number."""
    return WORD in text or str(NUMBER) in text.replace(",", "").replace("_", "")


def marked_files(directory: Path) -> list[Path]:
    """The files below a directory that have the canary in their names or bytes, in a Parquet file's rows or statistics."""
    return [
        path
        for path in sorted(directory.rglob("*"))
        if tells(path.name) or (path.is_file() and any(map(tells, _texts_of(path))))
    ]


def _texts_of(path: Path) -> Iterator[str]:
    yield path.read_bytes().decode("latin-1")
    if path.suffix == ".parquet":
        file = pq.ParquetFile(path)
        yield str(file.read().to_pylist())
        yield str(file.metadata.to_dict())
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                data = archive.read(name)
                yield name
                yield str(pq.read_table(pa.BufferReader(data)).to_pylist() if name.endswith(".parquet") else data)


def shown(value: Any) -> str:
    """All that a user can see of a value: its repr, its HTML, its rows, its texts in a figure, its files."""
    html = getattr(value, "_repr_html_", None)
    texts = [repr(value), str(value), html() if html else ""]
    if isinstance(value, ExportBundle):
        texts += [shown(table) for table in value.tables.values()]
    elif isinstance(value, SnapshotTable):
        texts += [str(value.to_arrow().to_pylist()), str(value.to_arrow().schema.metadata)]
    elif isinstance(value, pa.Table):
        texts.append(str(value.to_pylist()))
    elif isinstance(value, pa.RecordBatchReader):
        with closing(value):
            texts.append(str(value.read_all().to_pylist()))
    elif isinstance(value, duckdb.DuckDBPyRelation):
        texts.append(str(value.fetchall()))
    elif isinstance(value, Axes):
        texts += [text.get_text() for text in value.get_figure(root=True).findobj(Text)]  # type: ignore[union-attr]
    elif isinstance(value, Path):
        texts += [f"{WORD} in {path}" for path in marked_files(value)]
    elif isinstance(value, (list, tuple)):
        texts += [shown(item) for item in value]
    return "\n".join(map(str, texts))
