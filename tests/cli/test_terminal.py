"""Tables, fields and JSON on standard output."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal

import pytest

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
