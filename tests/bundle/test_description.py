"""bundle.json: what it says, and that no wrong or malformed statement passes."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import exporttools
from exporttools import verify_bundle
from exporttools.files.digests import combined_digest, table_digest
from tests.bundle.bags import DIGEST, PARTS, a_bundle, edit, found_in, rehash


def test_what_the_description_says(written: Path) -> None:
    bundle = a_bundle()
    description = json.loads((written / "data" / "bundle.json").read_text())
    assert dt.datetime.fromisoformat(description.pop("written_at")).tzinfo is not None
    assert description.pop("tools") == {
        "exporttools": exporttools.__version__, "pyarrow": pa.__version__, "python": ".".join(map(str, sys.version_info[:3])),
    }  # fmt: skip
    digests = [table_digest(name, table.to_arrow()) for name, table in zip(PARTS, bundle.tables.values(), strict=True)]
    assert description == {
        "format": "exporttools-bundle",
        "format_version": 2,
        "tenant_id": "acme", "incident_id": "i1", "run_id": "r1", "trace_id": "t1", "trace_count": 1,
        "missing": [],
        "redacted": [],
        "tables": {
            name: {"file": file, "rows": 3 if name == "trace_steps" else 1, "content_digest": digest}
            for (name, file), digest in zip(PARTS.items(), digests, strict=True)
        },
        "content_digest": combined_digest(digests),
        "totals": {"steps": 3, "errors": 0, "tokens": 303, "cost_cents": 1.5, "duration_ms": 2700.75},
            "rolled_up": {"steps": 0, "ambiguous": 0, "tokens": 0, "cost_cents": 0.0, "duration_ms": 0.0},
        "first_timestamp": "2026-10-05T12:00:00+00:00",
        "last_timestamp": "2026-10-05T12:00:02+00:00",
        "source": {"dialect": "postgresql", "server_version": "18.1", "layout": "native", "snapshot_id": "7:7:",
                   "read_at": "2026-10-05T12:00:00+00:00"},
        "signed_by": [],
    }  # fmt: skip


def _set(*keys: str, to: Any) -> Callable[[dict[str, Any]], object]:
    def change(description: dict[str, Any]) -> None:
        for key in keys[:-1]:
            description = description[key]
        description[keys[-1]] = to

    return change


STATEMENTS: list[tuple[Callable[[dict[str, Any]], object], str, str]] = [
    (_set("totals", "tokens", to=304), "content", "totals: "),
    (_set("totals", "cost_cents", to=1.5000000000000002), "content", "totals: "),
    (_set("totals", to=None), "content", "totals: None"),
    (_set("tables", "trace_steps", "rows", to=2), "content", "tables: "),
    (_set("tables", "runs", "content_digest", to=DIGEST), "content", "tables: "),
    (_set("tables", "runs", "file", to="../run.parquet"), "content", "tables: "),
    (_set("content_digest", to=DIGEST), "content", f"content_digest: {DIGEST}"),
    (_set("tenant_id", to="globex"), "content", "tenant_id: globex"),
    (_set("incident_id", to=None), "content", "incident_id: None"),
    (_set("run_id", to=["r1"]), "content", "run_id: ['r1']"),
    (_set("incident_id", to=7), "content", "incident_id: 7"),
    (_set("trace_id", to=True), "content", "trace_id: True"),
    (_set("missing", to=None), "content", "missing: None"),
    (_set("missing", to=[7]), "content", "missing: [7]"),
    (_set("totals", to=[]), "content", "totals: []"),
    (_set("totals", "tokens", to="303"), "content", "'tokens': '303'"),
    (_set("totals", "tokens", to=None), "content", "'tokens': None"),
    (_set("totals", "cost_cents", to=1), "content", "'cost_cents': 1"),
    (_set("totals", "steps", to=True), "content", "'steps': True"),
    (_set("totals", "more", to=1), "content", "'more': 1"),
    (
        lambda description: description["totals"].update(steps=description["totals"].pop("steps")),
        "content",
        "totals: {'errors': 0",
    ),
    (_set("tools", to={"python": "3"}), "content", "tools: {'python': '3'}"),
    (_set("written_at", to="2026-10-05T12:00:00Z"), "content", "written_at: '2026-10-05T12:00:00Z'"),
    (_set("written_at", to="2026-10-05T14:00:00+02:00"), "content", "written_at: '2026-10-05T14:00:00+02:00'"),
    (_set("written_at", to="20261005T120000+0000"), "content", "written_at: '20261005T120000+0000'"),
    (lambda description: description.pop("signed_by"), "content", "no signed_by"),
    (_set("signed_by", to=None), "content", "signed_by: another value"),
    (_set("signed_by", to=DIGEST), "content", "signed_by: another value"),
    (_set("signed_by", to=["mine"]), "content", "signed_by: another value"),
    (_set("signed_by", to=[DIGEST.replace("0", "A")]), "content", "signed_by: another value"),
    (_set("signed_by", to=[DIGEST, DIGEST]), "content", "signed_by: another value"),
    (_set("signed_by", to=[f"{number:064x}" for number in range(17)]), "content", "signed_by: another value"),
    (_set("trace_id", to="\ud800"), "malformed", "a lone surrogate"),
    (_set("missing", to=["run"]), "content", "missing: ['run']"),
    (_set("first_timestamp", to="2026-10-05T12:00:00Z"), "content", "first_timestamp: 2026-10-05T12:00:00Z"),
    (_set("last_timestamp", to=0), "content", "last_timestamp: 0"),
    (_set("trace_count", to=0), "content", "trace_count is 0; expected at least 1"),
    (_set("trace_count", to="1"), "content", "trace_count: '1'"),
    (_set("trace_count", to=1.5), "content", "trace_count: 1.5"),
    (_set("trace_count", to=True), "content", "trace_count: True"),
    (lambda description: description.pop("trace_count"), "content", "no trace_count"),
    (lambda description: description.pop("source"), "content", "no source"),
    (lambda description: description.pop("redacted"), "content", "no redacted"),
    (_set("redacted", to="runs.goal"), "content", "redacted: 'runs.goal'"),
    (_set("redacted", to=["runs.goal"]), "content", "'runs.goal' is listed as redacted, but 1 of 1 row holds a value"),
    (_set("written_at", to="noon"), "content", "written_at: 'noon'"),
    (_set("tools", to=["python"]), "content", "tools: ['python']"),
    (_set("more", to=1), "content", "more: 1"),
    (_set("totals", "steps", to=3.0), "content", "'steps': 3.0"),
    (_set("format_version", to=True), "format", "exporttools-bundle True"),
    (lambda description: description.pop("totals"), "content", "no totals"),
    (_set("source", to=[]), "content", ""),
    (_set("source", to="sqlite"), "content", ""),
    (_set("source", to={}), "content", "source: {}"),
    (_set("source", "host", to="db.example"), "content", "db.example"),
    (_set("source", "dialect", to={"a": 1}), "content", "{'a': 1}"),
    (_set("source", "snapshot_id", to=7), "content", "'snapshot_id': 7"),
    (_set("source", "read_at", to="2026-10-05T12:00:00"), "content", "'read_at': '2026-10-05T12:00:00'"),
    (_set("source", "read_at", to="yesterday"), "content", "'yesterday'"),
    (_set("source", "read_at", to=7), "content", "'read_at': 7"),
    (_set("format", to="other"), "format", "other 2"),
    (_set("format_version", to=3), "format", "exporttools-bundle 3"),
    (_set("rolled_up", "steps", to=1), "content", "rolled_up: {'steps': 1"),
    (lambda description: description.pop("rolled_up"), "content", "rolled_up: None"),
    (_set("format_version", to=[[]]), "format", "exporttools-bundle [[]]"),
    (lambda description: description.clear(), "format", "None None"),
]


@pytest.mark.parametrize(("change", "code", "fragment"), STATEMENTS)
def test_a_wrong_statement_is_found(
    bag: Path, change: Callable[[dict[str, Any]], object], code: str, fragment: str
) -> None:
    edit(bag / "data/bundle.json", change)
    rehash(bag)
    (finding,) = found_in(bag)
    assert (finding.code, finding.path) == (code, "data/bundle.json")
    assert fragment in finding.found
    json.dumps(verify_bundle(bag).to_dict())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"format": 1, "a": {"b": 1, "b": 2}}', "the key 'b' twice"),
        ('{"a": NaN}', "the number NaN"),
        ('{"a": -Infinity}', "the number -Infinity"),
        ("[1]", "a JSON list"),
        ("7", "a JSON int"),
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("\ufeff{}", "Unexpected UTF-8 BOM"),
        ("[" * 100_000, "levels"),
        ('{"a":' * 100_000, "levels"),
        ('{"a": ' + "9" * 5000 + "}", "Exceeds the limit"),
    ],
)
def test_promise_17_what_is_not_a_description_is_found(bag: Path, text: str, found: str) -> None:
    (bag / "data/bundle.json").write_text(text, encoding="utf-8")
    rehash(bag)
    (finding,) = found_in(bag)
    assert (finding.code, finding.path) == ("malformed", "data/bundle.json")
    assert found in finding.found


def test_a_description_that_is_not_utf8_is_found(bag: Path) -> None:
    (bag / "data/bundle.json").write_bytes(b'{"a": "\xff"}')
    rehash(bag)
    (finding,) = found_in(bag)
    assert "can't decode byte 0xff" in finding.found


@pytest.mark.parametrize("indent", [None, 1, 4])
def test_a_description_in_another_layout_is_found(bag: Path, indent: int | None) -> None:
    """It is compared byte for byte with what was signed, by hand too."""
    path = bag / "data/bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=indent) + "\n")
    rehash(bag)
    assert list(map(str, found_in(bag))) == [
        "malformed: data/bundle.json: expected JSON as exporttools lays it out; found a different layout"
    ]


def test_a_bundle_that_says_it_is_of_another_format_is_found(bag: Path) -> None:
    edit(bag / "data/bundle.json", lambda described: described.update(format_version=1))
    rehash(bag)
    assert [(finding.code, finding.path, finding.expected) for finding in found_in(bag)] == [
        ("content", "data/bundle.json", "no other members"),
        ("content", "data/bundle.json", "no other members"),
    ]
