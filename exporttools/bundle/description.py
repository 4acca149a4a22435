"""Writes, parses and checks bundle.json: what a bundle says of itself. Knows no files."""

from __future__ import annotations

import datetime as dt
import json
import math
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from exporttools.bundle.keys import MOST_SIGNERS
from exporttools.errors import ConfigError
from exporttools.files.digests import combined_digest
from exporttools.files.findings import Finding
from exporttools.records.export_bundle import ExportBundle
from exporttools.records.row_totals import RowTotals
from exporttools.records.snapshots import SourceSnapshot
from exporttools.text.inert import one_line
from exporttools.text.strict_json import parse_object, same
from exporttools.version import __version__

FORMAT = "exporttools-bundle"
FORMAT_VERSION = 2
READ_VERSIONS = (1, FORMAT_VERSION)
"""The versions that are read. In version 1, totals are sums of the rows, and ``errors`` counts four words."""

PATH = "data/bundle.json"
"""Its path in the bag."""

PART_FILES = {
    "incident": "data/incident.parquet",
    "run": "data/run.parquet",
    "trace": "data/trace.parquet",
    "steps": "data/trace_steps.parquet",
}
"""The path in the bag of each part's rows."""

MOST_BYTES = 8 << 20
"""The most bytes of it. An id may be a megabyte; parsing eight takes a few hundred megabytes at worst."""

_KEY_ID = re.compile(r"[0-9a-f]{64}")
_TOTALS = ("steps", "errors", "tokens", "cost_cents", "duration_ms")

# What follows from the rows, unlike the rest: when, from where and by which tools the bundle was made.
_DERIVED = (
    "tenant_id", "incident_id", "run_id", "trace_id", "missing", "tables", "content_digest", "totals", "rolled_up",
    "first_timestamp", "last_timestamp",
)  # fmt: skip


def describe(bundle: ExportBundle, totals: Mapping[str, RowTotals], *, signed_by: Sequence[str] = ()) -> dict[str, Any]:
    """The content of ``bundle.json``.

    Parameters
    ----------
    bundle : ExportBundle
        Its steps are not read; `totals` stand for them.
    totals : mapping of str to RowTotals
        By part.
    signed_by : sequence of str
        Ids of the keys that the bundle will be signed with, in the order of the signatures.

    Returns
    -------
    dict
        Ids (None if no part has one), row counts, totals over the steps (tokens, US cents, milliseconds, each counted
        once; None for a sum beyond the range of a float, which JSON cannot express), what they leave out, the first and
        last step's start, missing parts, the number of the run's traces, redacted columns, content digests, where and
        when it was read, when and by which versions of the tools it was written, and who signs it.
    """
    steps = totals["steps"]
    sums = {"steps": steps.rows, "errors": steps.failed, **steps.own_sums}
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
        "missing": [part for part, of in totals.items() if not of.rows],
        "redacted": list(bundle.redacted),
        "tables": {
            table.record_type.table: {
                "file": PART_FILES[part].removeprefix("data/"),
                "rows": totals[part].rows,
                "content_digest": totals[part].content_digest,
            }
            for part, table in bundle.tables.items()
        },
        "content_digest": combined_digest(of.content_digest for of in totals.values()),
        "totals": finite(sums),
        "rolled_up": finite(steps.rolled_up),
        "first_timestamp": steps.time_range and steps.time_range[0].isoformat(),
        "last_timestamp": steps.time_range and steps.time_range[1].isoformat(),
        "source": bundle.source and _source_to_json(bundle.source),
        "written_at": dt.datetime.now(dt.UTC).isoformat(),
        "tools": {
            "exporttools": __version__,
            "pyarrow": pa.__version__,
            "python": platform.python_version(),
        },
        "signed_by": list(signed_by),
    }


def finite(sums: Mapping[str, int | float]) -> dict[str, int | float | None]:
    """Sums with None for one that a float cannot hold, which JSON cannot express."""
    return {name: None if math.isinf(total) else total for name, total in sums.items()}


def to_bytes(description: dict[str, Any]) -> bytes:
    """Encode a description: as ASCII, so that nothing in it is lost or controls a terminal.

    Raises
    ------
    ConfigError
        It is longer than readers accept.
    """
    content = json.dumps(description, indent=2, ensure_ascii=True, allow_nan=False).encode("ascii") + b"\n"
    if len(content) > MOST_BYTES:
        raise ConfigError(
            f"the bundle's ids are too long: bundle.json would have {len(content):,} bytes; expected at most {MOST_BYTES:,}"
        )
    return content


def _source_to_json(source: SourceSnapshot) -> dict[str, Any]:
    return {
        "dialect": source.dialect,
        "server_version": source.server_version,
        "layout": source.layout,
        "snapshot_id": source.snapshot_id,
        "read_at": source.read_at.isoformat(),
    }


def parse(content: bytes) -> tuple[dict[str, Any] | None, list[Finding]]:
    """Return a description in a format that this version knows, or None; and what is wrong with it."""
    try:
        description = parse_object(content, max_bytes=MOST_BYTES)
    except ValueError as error:
        return None, [Finding("malformed", PATH, "a JSON object without duplicate keys", one_line(error))]
    version = (description.get("format"), description.get("format_version"))
    if not any(same(list(version), [FORMAT, known]) for known in READ_VERSIONS):
        found = f"{one_line(version[0])} {one_line(version[1])}"
        return None, [Finding("format", PATH, f"{FORMAT} {' or '.join(map(str, READ_VERSIONS))}", found)]
    findings = list(_check_members(description))
    if not findings and content != to_bytes(description):
        findings.append(Finding("malformed", PATH, "JSON as exporttools lays it out", "a different layout"))
    return (None if findings else description), findings


def _check_members(description: dict[str, Any]) -> Iterator[Finding]:
    """Members that are unknown to this format, missing, or of the wrong type."""
    types: dict[str, tuple[str, Any]] = {
        **dict.fromkeys(("incident_id", "run_id", "trace_id"), ("null or a text", _is_text_or_null)),
        "missing": ("a list of parts", _is_list_of_text),
        "totals": ("a number or null for each sum", _is_totals),
        "trace_count": ("an integer", lambda value: type(value) is int),
        "redacted": ("a list of column names", _is_list_of_text),
        "source": ("null, or a source's texts and time", lambda value: value is None or _is_source(value)),
        "written_at": ("a time in UTC, as exporttools writes it", lambda value: _is_moment(value, dt.UTC)),
        "tools": ("versions by name, that of exporttools among them", _is_tools),
    }
    derived = set(_DERIVED)
    if description["format_version"] == 1:
        derived.remove("rolled_up")
    else:
        types["signed_by"] = ("a list of key ids, each once", _is_signed_by)
    for key in sorted(description.keys() - {"format", "format_version", *derived, *types}):
        yield Finding("content", PATH, "no other members", f"{one_line(key)}: {_told(description, key)}")
    for key, (expected, holds) in types.items():
        if key not in description:
            yield Finding("content", PATH, f"{key}: {expected}", f"no {key}")
        elif not holds(description[key]):
            yield Finding("content", PATH, f"{key}: {expected}", f"{key}: {_told(description, key)}")


def _told(description: dict[str, Any], member: str) -> str:
    """A member's value, for a finding; but no key ids, which are only claimed."""
    return "another value" if member == "signed_by" else one_line(repr(description[member]))


def _is_text_or_null(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_totals(value: object) -> bool:
    return (
        isinstance(value, dict)
        and tuple(value) == _TOTALS
        and all(type(value[name]) is int for name in ("steps", "errors", "tokens"))
        and all(value[name] is None or type(value[name]) is float for name in ("cost_cents", "duration_ms"))
    )


def _is_tools(value: object) -> bool:
    return isinstance(value, dict) and "exporttools" in value and _is_list_of_text(list(value.values()))


def _is_signed_by(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MOST_SIGNERS
        and all(isinstance(key_id, str) and _KEY_ID.fullmatch(key_id) for key_id in value)
        and len(set(value)) == len(value)
    )


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_moment(value: object, zone: dt.tzinfo | None = None) -> bool:
    """Whether a value is a time with a time zone; with `zone`, in that one and spelled as we do."""
    try:
        moment = dt.datetime.fromisoformat(value) if isinstance(value, str) else None
        if moment is not None and moment.tzinfo is not None:
            moment.astimezone(dt.UTC)  # in UTC it is a time too
    except (ValueError, OverflowError):
        return False
    if moment is None or moment.tzinfo is None:
        return False
    return zone is None or (moment.tzinfo is zone and moment.isoformat() == value)


def _is_source(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == set(SourceSnapshot.__slots__)
        and all(isinstance(value[name], str) for name in ("dialect", "server_version", "layout"))
        and (value["snapshot_id"] is None or isinstance(value["snapshot_id"], str))
        and _is_moment(value["read_at"])
    )


def source_from_json(value: dict[str, Any] | None) -> SourceSnapshot | None:
    """Return the source that a parsed description names, or None."""
    if value is None:
        return None
    return SourceSnapshot(**{**value, "read_at": dt.datetime.fromisoformat(value["read_at"])})


def check_statements(
    stated: dict[str, Any], bundle: ExportBundle, totals: Mapping[str, RowTotals]
) -> Iterator[Finding]:
    """Yield every statement of a description that the rows contradict."""
    for part, table in bundle.tables.items():
        table_name, of = table.record_type.table, totals[part]
        for column in of.nulls:
            if f"{table_name}.{column}" in bundle.redacted and of.nulls[column] < of.rows:
                found = f"text in {of.rows - of.nulls[column]:,} of {of.rows:,} rows"
                yield Finding(
                    "content", PATH, f"NULL in every row of the redacted {table_name}.{one_line(column)}", found
                )
    actual = describe(bundle, totals)
    if stated["format_version"] == 1:
        steps = totals["steps"]
        actual["totals"] = finite({"steps": steps.rows, "errors": steps.failed_in_format_1, **steps.sums})
        del actual["rolled_up"]
    for key in _DERIVED:
        if key not in actual:
            continue
        if not same(stated.get(key), actual[key]):
            yield Finding("content", PATH, f"{key}: {actual[key]}", f"{key}: {stated.get(key)}")
