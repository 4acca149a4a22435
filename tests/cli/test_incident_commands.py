"""The commands incidents and show: standard output, standard error and exit code."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from tests.cli.invoking import call
from tests.databases import create_native, incident, one_of_each, run, step


def test_incidents_in_every_format(url: str) -> None:
    for arguments in (("--database", url, "incidents"), ("incidents", "--database", url)):
        result = call(*arguments)
        assert result.exit_code == 0
        assert result.stderr == ""
        assert [line.split() for line in result.stdout.splitlines()][2] == [
            "i1", "2026-10-05", "12:00:00", "high", "budget_exceeded", "acme", "r1", "Budget",
        ]  # fmt: skip
    found = json.loads(call("incidents", "-d", url, "--format", "json").stdout)
    assert found[0]["created_at"] == "2026-10-05T12:00:00+00:00"
    rows = list(csv.DictReader(io.StringIO(call("incidents", "-d", url, "--format", "csv").stdout)))
    assert [row["id"] for row in rows] == ["i1"]
    assert json.loads(call("incidents", "-d", url, "-f", "json", "--tenant", "nobody").stdout) == []


def test_a_cut_is_said(tmp_path: Path) -> None:
    url = create_native(f"sqlite:///{tmp_path / 'x.sqlite'}", {"incidents": [incident(id=f"i{i}") for i in range(3)]})
    result = call("incidents", "-d", url, "--limit", "2", "--since", "2026-10-05", "--until", "2026-10-06T00:00Z")
    assert result.stderr == "2 of 3 incidents (cut by a limit); raise --limit to see more\n"


def test_show(url: str) -> None:
    text = call("-d", url, "show", "i1").stdout
    for part in (
        "incident i1",
        "run r1",
        "trace t1",
        "where the money and the time went",
        "around the violation at step 1",
    ):
        assert part in text
    everything = json.loads(call("-d", url, "show", "i1", "-f", "json").stdout)
    assert everything["totals"]["tokens"] == 303
    assert len(everything["steps"]) == 3
    assert len(call("-d", url, "show", "r1", "-f", "csv").stdout.splitlines()) == 4


def test_text_from_a_database_is_inert(tmp_path: Path) -> None:
    hostile = "\x1b]0;owned\x07\x1b[31m=cmd()\n" + "x" * 1_000_000
    rows = one_of_each(
        incidents=[incident(policy_name=hostile)],
        runs=[run(goal=hostile)],
        trace_steps=[step(0), step(1, step_type=hostile)],
    )
    url = create_native(f"sqlite:///{tmp_path / 'h.sqlite'}", rows)
    for arguments in (("incidents",), ("show", "i1"), ("show", "i1", "-f", "json")):
        out = call("-d", url, *arguments).stdout
        assert "=cmd()" in out
        assert "\x1b" not in out
        assert "\x07" not in out
    assert ",'=cmd()" in call("-d", create_native(f"sqlite:///{tmp_path / 'c.sqlite'}", {"incidents": [incident(policy_name="=cmd()")]}),
                             "incidents", "-f", "csv").stdout  # fmt: skip


def test_a_run_without_a_recorded_cost(tmp_path: Path) -> None:
    url = create_native(f"sqlite:///{tmp_path / 'n.sqlite'}", one_of_each(runs=[run(total_cost_cents=None)]))
    assert "  total US cents      unknown" in call("-d", url, "show", "i1").stdout.splitlines()
    assert json.loads(call("-d", url, "show", "i1", "-f", "json").stdout)["run"]["total_cost_cents"] is None
