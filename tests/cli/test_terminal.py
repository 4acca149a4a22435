"""Tables, fields and JSON on standard output."""

from __future__ import annotations

import datetime as dt
import json
import sys
from decimal import Decimal

import pytest
from rich.console import Console

from exporttools.cli.terminal import Format, write_fields, write_json, write_rows
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
