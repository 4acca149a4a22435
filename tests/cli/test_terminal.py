"""Tables, fields and JSON on standard output."""

from __future__ import annotations

import pytest

from exporttools.cli.terminal import Format, write_fields, write_json, write_rows

ROW = {"agent_id": "a", "total_cost_cents": 12, "cost_cents_per_1000_tokens": 0.5}


def test_a_table_says_money_in_us_cents(capsys: pytest.CaptureFixture[str]) -> None:
    write_rows([ROW], list(ROW), Format.table)
    assert capsys.readouterr().out.splitlines()[0].split("   ") == [
        "agent_id", "total US cents", "US cents per 1000 tokens",
    ]  # fmt: skip
    write_fields(ROW)
    assert capsys.readouterr().out.splitlines()[1] == "  total US cents            12"


@pytest.mark.parametrize(
    ("output", "verbatim", "head"),
    [(Format.csv, False, "agent_id,total_cost_cents"), (Format.table, True, "agent_id   total_cost_cents")],
)
def test_programs_and_authors_of_queries_get_the_names_of_columns(
    output: Format, verbatim: bool, head: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows([ROW], ["agent_id", "total_cost_cents"], output, verbatim=verbatim)
    assert capsys.readouterr().out.splitlines()[0] == head


def test_what_json_cannot_say_is_refused() -> None:
    with pytest.raises(TypeError, match="^bytes is not a JSON value$"):
        write_json({"content": b""})
