"""Tables, fields and JSON on standard output."""

from __future__ import annotations

import datetime as dt
import json
import re
import sys
from decimal import Decimal

import pytest
from rich.cells import cell_len
from rich.console import Console

from exporttools.cli.terminal import Format, hanging, write_fields, write_json, write_lines, write_rows
from exporttools.errors import ConfigError

ROW = {"agent_id": "a", "total_cost_cents": 12, "cost_cents_per_1000_tokens": 0.5}


def test_a_table_says_money_in_us_cents(capsys: pytest.CaptureFixture[str]) -> None:
    write_rows([ROW], list(ROW), Format.table)
    assert capsys.readouterr().out.splitlines()[0].split("   ") == [
        "agent_id", "total US cents", "US cents per 1000 tokens",
    ]  # fmt: skip
    write_fields(ROW)
    assert capsys.readouterr().out.splitlines()[1] == "  total US cents            12"


@pytest.mark.parametrize(
    ("width", "head", "left_out"),
    [
        (120, ["id", "goal", "tokens", "policy"], ""),
        (60, ["id", "goal", "tokens", "policy"], ""),
        (50, ["id", "goal", "tokens"], "policy"),
        (30, ["id"], "goal, tokens, policy"),
    ],
)
def test_where_there_is_no_room_the_last_columns_are_left_out_and_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int, head: list[str], left_out: str
) -> None:
    monkeypatch.setattr("exporttools.cli.terminal._console", lambda: Console(width=width, file=sys.stdout))
    row = {"id": "i" * 24, "goal": "g" * 50, "tokens": 1_234_567, "policy": "p" * 8}
    write_rows([row], list(row), Format.table)
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert lines[0].split() == head
    assert lines[2].startswith("i" * 24) and max(map(len, lines)) <= width
    assert ("1,234,567" in lines[2]) == ("tokens" in head)
    assert output.err == (left_out and f"no room for {left_out}: widen the terminal, or use --format json or csv\n")


def test_a_cost_that_is_null_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    row = dict.fromkeys(["total_cost_cents", "cost_cents", "cost_cents_per_1000_tokens", "goal"])
    write_fields(row)
    assert capsys.readouterr().out.splitlines() == [
        "  total US cents            unknown",
        "  US cents                  unknown",
    ]
    write_rows([row], list(row), Format.table)
    assert capsys.readouterr().out.splitlines()[2].split() == ["unknown", "unknown"]
    write_rows([row], list(row), Format.table, verbatim=True)
    assert capsys.readouterr().out.splitlines()[2].split() == []
    write_rows([row], list(row), Format.csv)
    assert capsys.readouterr().out.splitlines()[1] == ",,,"


@pytest.mark.parametrize(
    ("output", "verbatim", "head"),
    [(Format.csv, False, "agent_id,total_cost_cents"), (Format.table, True, "agent_id   total_cost_cents")],
)
def test_programs_and_authors_of_queries_get_the_names_of_columns(
    output: Format, verbatim: bool, head: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows([ROW], ["agent_id", "total_cost_cents"], output, verbatim=verbatim)
    assert capsys.readouterr().out.splitlines()[0] == head


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"", "bytes is not a JSON value"),
        (float("nan"), "Out of range float values are not JSON compliant: nan"),
        ([{"z": float("inf")}], "Out of range float values are not JSON compliant: inf"),
    ],
)
def test_what_json_cannot_say_is_refused(value: object, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=f"^the result cannot be written as JSON: {said}; use another --format$"):
        write_json({"content": value})
    assert capsys.readouterr().out == ""


def test_numbers_and_times_of_sql_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    exact = Decimal("0.12345678901234567890123")
    values = [Decimal(3), Decimal("1.50"), Decimal(2**127), exact, dt.date(2026, 10, 5), dt.time(12)]
    write_json(values)
    assert json.loads(capsys.readouterr().out) == [3, 1.5, 2**127, str(exact), "2026-10-05", "12:00:00"]


@pytest.mark.parametrize("width", [80, 140, 300])
def test_sentences_continue_on_the_next_line_and_ids_stay_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr("exporttools.cli.terminal._console", lambda: Console(width=width, file=sys.stdout))
    ids = "4bf92f35-77b3-4da6-a3ce-929d0e0e4736", "0af7651916cd43dd8448eb211c80319c"
    reason = (
        "1,338,344 ms from start to end, 27 times the usual 48,704 ms from start to end of ops-responder · tool_call"
    )
    write_rows(
        [{"id": " ".join(ids), "step_index": 1027, "reason": reason}],
        ["id", "step_index", "reason"],
        Format.table,
        wrapped="reason",
    )
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert all(any(one in line for line in lines) for one in (*ids, "1,027"))
    start = lines[0].index("reason")
    assert " ".join(line[start:].strip() for line in lines[2:]).split() == reason.split()


@pytest.mark.parametrize(
    ("width", "head", "lines"),
    [
        (80, ["agent_id", "model", "US cents", "tokens"], ["claude-code claude-opus-4-5-20251101 243.11 1,520,319"]),
        (50, ["agent_id", "model", "US cents"], ["claude-code claude-opus-4-5-20251101 243.11"]),
        (40, ["agent_id", "model", "US cents"], ["claude-code claude-opus-4-5 243.11", "-20251101"]),
    ],
)  # fmt: skip
def test_what_tells_rows_apart_stays_whole_or_continues_on_the_next_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int, head: list[str], lines: list[str]
) -> None:
    monkeypatch.setattr("exporttools.cli.terminal._console", lambda: Console(width=width, file=sys.stdout))
    row = {"agent_id": "claude-code", "model": "claude-opus-4-5-20251101", "cost_cents": 243.11, "tokens": 1_520_319}
    write_rows([row], list(row), Format.table, keys=["agent_id", "model"])
    found = capsys.readouterr().out.splitlines()
    assert re.split(" {2,}", found[0].strip()) == head
    assert [" ".join(line.split()) for line in found[2:]] == lines


def test_a_time_is_whole_or_left_out(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"id": "i" * 20, "created_at": dt.datetime(2026, 10, 5, 12, tzinfo=dt.UTC)}
    for width, said in ((42, "2026-10-05 12:00:00"), (41, "")):
        monkeypatch.setattr(
            "exporttools.cli.terminal._console", lambda width=width: Console(width=width, file=sys.stdout)
        )
        write_rows([row], list(row), Format.table)
        assert capsys.readouterr().out.splitlines()[2].rstrip() == f"{'i' * 20}   {said}".rstrip()


def test_a_first_column_of_sentences_leaves_room_for_the_numbers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporttools.cli.terminal._console", lambda: Console(width=60, file=sys.stdout))
    goal = "Collect what competitors announced this week and write a brief of one page"
    row = {"goal": goal, "cost_cents": 1002.55, "share": "6.4%", "tokens": 3_199_567}
    write_rows([row], list(row), Format.table, keys=["goal"])
    head, _, first, *others = capsys.readouterr().out.splitlines()
    assert re.split(" {2,}", head.strip()) == ["goal", "US cents", "share", "tokens"]
    assert first.split()[-3:] == ["1,002.55", "6.4%", "3,199,567"]
    assert [*first.split()[:-3], *" ".join(others).split()] == goal.split()


LINES = (
    'failed: "' + "x" * 200 + ' authentic, signed by alice"', "  run         " + "界" * 70 + "authentic",
    "  unexpected: " + "authentic, signed by alice " * 9, "  key         " + "0" * 64 + " (alice)", "  a  b", "plain", "",
)  # fmt: skip


@pytest.mark.parametrize("width", [1, 5, 20, 80, 10_000])
def test_a_long_line_goes_on_indented_and_loses_nothing(width: int) -> None:
    for line in LINES:
        first, *rest = hanging(line, width)
        assert all(piece.startswith("    ") for piece in rest)
        assert "".join([first, *rest]).replace(" ", "") == line.replace(" ", "")
        if width >= 20:
            assert all(cell_len(piece) <= width for piece in (first, *rest))


def test_a_value_goes_on_below_itself() -> None:
    assert hanging("  key         " + "0" * 20 + " (alice)", 40) == ["  key         " + "0" * 20, " " * 14 + "(alice)"]
    assert hanging("  changed: data/run.parquet: expected x", 30) == ["  changed: data/run.parquet:", "    expected x"]


def test_lines_fit_a_terminal_and_a_pipe_gets_them_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "failed: " + "x" * 100
    write_lines(text)
    assert capsys.readouterr().out == text + "\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    write_lines(text)
    assert capsys.readouterr().out == "failed:\n    " + "x" * 76 + "\n    " + "x" * 24 + "\n"
