"""What an import says of itself: sentences that add up, on a terminal, in a notebook and as JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from exporttools import ImportReport
from exporttools.importing.import_report import RejectedRecord
from tests.importing.sessions import SessionFile, read, text, tool, used

HOSTILE = "\x1b]0;title\x07\x1b[31m<script>alert(1)</script>\n\u202ered\x9b2J"


def report(**changes: Any) -> ImportReport:
    kinds = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens", "reasoning_tokens")  # fmt: skip
    empty: dict[str, Any] = dict.fromkeys((field.name for field in dataclasses.fields(ImportReport)), 0)
    empty |= {"files": {}, "skipped": (), "rejections": (), "tokens": dict.fromkeys(kinds, 0), "cost_cents": 0.0,
              "unpriced": {}, "unknown_tiers": {}, "lost_subagents": (), "notes": {}, "by_session": pa.table({}),
              "by_day": pa.table({})}  # fmt: skip
    return ImportReport(**empty | changes)


def test_the_bill_of_a_session(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer("m1", text(), tool("t1"), usage=used(1000, 200, 30_000, 4000, 500))
    file.result("t1").answer("m2", stop_reason=None)
    path = file.write(tmp_path)
    path.write_bytes(path.read_bytes() + b"{torn")
    (tmp_path / "package.json").write_bytes(b"{}")
    found = read(tmp_path).report
    assert (
        str(found)
        == f"""files     1 of Claude Code; 1 skipped: {tmp_path}/package.json
lines     6 = 4 counted + 0 copies + 1 metadata + 1 rejected
rejected  {path}:6: not valid JSON: the file ends in the middle of it
sessions  1, with 0 forks and 0 subagents
calls     3 usages = 2 calls + 1 copy
tokens    35,715 = 1,010 in + 30,000 read from caches + 4,500 written to caches + 205 out
cost      5.518 US cents; 2 calls priced by list, 0 as the files state
at least  1 call whose output was counted before it had ended"""
    )


def test_nothing_at_all() -> None:
    assert str(report()).splitlines() == [
        "files     none",
        "lines     0 = 0 counted + 0 copies + 0 metadata + 0 rejected",
        "sessions  0, with 0 forks and 0 subagents",
        "calls     0 usages = 0 calls + 0 copies",
        "tokens    0 = 0 in + 0 read from caches + 0 written to caches + 0 out",
        "cost      0 US cents; 0 calls priced by list, 0 as the files state",
    ]


def test_every_doubt_is_said_and_lists_are_short() -> None:
    many = {f"model-{i}": 9 - i for i in range(8)}
    found = report(
        files={"Claude Code": 2, "Codex": 1}, skipped=tuple(f"/x/{i}" for i in range(8)), records=9, rejected=9,
        rejections=tuple(RejectedRecord("/a.jsonl", i, "bad") for i in range(1, 10)), bad_numbers=3, sessions=2, forks=1,
        sessions_left_out=4, subagents=1, usages=30, calls=10, calls_left_out=5, unpriced=many,
        unknown_tiers={"gpt, turbo": 2}, lower_bounds=2, lost_subagents=("a1",), notes={"odd things": 1000, "even ones": 2},
    ).lines()  # fmt: skip
    assert found["files"] == "2 of Claude Code, 1 of Codex; 8 skipped: /x/0; /x/1; /x/2; /x/3; /x/4; and 3 more"
    assert found["rejected"].startswith("/a.jsonl:1: bad; /a.jsonl:2: bad; ")
    assert found["rejected"].endswith("; and 4 more")
    assert found["bad numbers"] == "3, which count as 0"
    assert found["sessions"] == "2, with 1 fork and 1 subagent; 4 ended earlier and are left out"
    assert found["calls"] == "30 usages = 10 calls + 15 copies + 5 of sessions left out"
    assert found["unpriced"] == (
        "44 calls without a known price cost 0 here: model-0 (9), model-1 (8), model-2 (7), model-3 (6), model-4 (5), and 3 more"
    )
    assert found["unknown tiers"] == "gpt, turbo (2)"
    assert found["at least"] == "2 calls whose output was counted before it had ended"
    assert found["not known"] == "what 1 subagent cost, whose files are missing: a1"
    assert (found["note 1"], found["note 2"]) == ("odd things (1,000)", "even ones (2)")


def test_texts_of_files_are_inert_everywhere() -> None:
    found = report(
        skipped=(HOSTILE,), rejections=(RejectedRecord(HOSTILE, 1, HOSTILE),), unpriced={HOSTILE: 1},
        unknown_tiers={HOSTILE: 1}, lost_subagents=(HOSTILE,),
    )  # fmt: skip
    told = str(found)
    assert not set(told) & {"\x1b", "\x07", "\x9b", "\u202e"}
    assert len(told.splitlines()) == len(found.lines())
    html = found._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "\x1b" not in html


def test_a_long_list_in_a_notebook_is_cut() -> None:
    html = report(unpriced={"m" * 1000 + str(i): 1 for i in range(100)})._repr_html_()
    assert len(html) < 5000
    assert html.startswith("<table><tbody><tr><th style='text-align:left'>files</th>")


def test_as_json_nothing_is_left_out(tmp_path: Path) -> None:
    path = SessionFile().prompt().answer().write(tmp_path)
    path.write_bytes(path.read_bytes() + b"1\n" * 40)
    found = read(tmp_path).report
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain.keys() == {field.name for field in dataclasses.fields(ImportReport)}
    assert len(plain["rejections"]) == 40
    assert plain["rejections"][0] == {"path": str(path), "record": 3, "reason": "expected an object; found a number"}
    assert plain["by_day"] == [{"day": "2026-08-01", "calls": 1, "tokens": 15, "cost_cents": 0.0175}]
    assert plain["by_session"][0]["started_at"] == "2026-08-01T12:00:00+00:00"
    assert (plain["files"], plain["records"]) == ({"Claude Code": 1}, 42)


def test_a_report_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        report().calls = 7  # type: ignore[misc]
