"""The commands cost, anomalies and compare: standard output, standard error and exit code."""

from __future__ import annotations

import csv
import io
import json

import pytest

from tests.cli.invoking import call


def test_cost_by_agent(sample_url: str) -> None:
    result = call("cost", "-d", sample_url)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == [
        *("agent_id", "US", "cents", "share", "tokens", "steps", "duration_ms"),
        *("US", "cents", "per", "1000", "tokens", "runs", "US", "cents", "per", "run"),
    ]  # fmt: skip
    assert lines[2] == [
        "code-assistant",
        "9,185.31",
        "58.8%",
        "30,414,060",
        "4,046",
        "11,229,452.64",
        "0.30",
        "35",
        "262.44",
    ]
    assert len(lines) == 8


def test_cost_as_json_and_csv_of_a_tenant_and_a_time(sample_url: str) -> None:
    asked = (
        "--tenant",
        "cobalt-health",
        "--since",
        "2026-10-12",
        "--until",
        "2026-10-17T00:00Z",
        "--by",
        "agent_id, step_type",
    )
    found = json.loads(call("cost", "-d", sample_url, *asked, "-f", "json").stdout)
    rows = list(csv.DictReader(io.StringIO(call("cost", "-d", sample_url, *asked, "-f", "csv").stdout)))
    assert [row["agent_id"] for row in rows] == [row["agent_id"] for row in found]
    assert sum(row["share"] for row in found) == pytest.approx(1)
    assert found[0]["cost_cents"] > found[1]["cost_cents"] > 0


def test_cost_over_time(sample_url: str) -> None:
    found = json.loads(call("cost", "-d", sample_url, "--by", "tenant_id", "--every", "1d", "-f", "json").stdout)
    assert len(found) == 3 * 14
    assert (found[0]["period_start"], found[0]["tenant_id"]) == ("2026-10-05T00:00:00+00:00", "acme-retail")
    assert len(json.loads(call("cost", "-d", sample_url, "--by", "", "--every", "1w", "-f", "json").stdout)) == 2


def test_anomalies_of_runs_and_of_steps(sample_url: str) -> None:
    result = call("anomalies", "-d", sample_url, "--usual-until", "2026-10-12", "-n", "3")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[2].split() == [
        "run-0000-269", "18.96", "109,059", "ms,", "186", "times", "the", "usual", "586.1", "ms", "of", "ops-responder", "·", "tool_call",
    ]  # fmt: skip
    assert result.stderr.splitlines()[0].startswith("3 of ")
    assert result.stderr.splitlines()[0].endswith(" shown; raise --limit to see more")
    assert result.stderr.splitlines()[1] == "16 groups of steps not judged: too few rows in the baseline"
    found = json.loads(call("anomalies", "-d", sample_url, "--each", "step", "-f", "json", "-n", "5").stdout)
    assert [row["step_index"] for row in found[:4]] == [27, 25, 23, 21]
    assert found[0]["measure"] == "duration_ms"
    by_tool = call("anomalies", "-d", sample_url, "--each", "step", "--by", "name", "--threshold", "9")
    assert "fetch_logs" in by_tool.stdout


def test_compare(sample_url: str) -> None:
    result = call("compare", "-d", sample_url, "inc-0000-4", "run-0000-010")
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0][:4] == ["step_type", "steps_a", "steps_b", "other_status"]
    assert lines[-1] == [
        "all",
        "28",
        "14",
        "0",
        "6.79",
        "0.58",
        "-6.22",
        "60,251",
        "15,542",
        "-44,709",
        "1,337.92",
        "12.62",
        "-1,325.30",
    ]
    assert result.stderr.splitlines()[0].startswith("a: inc-0000-4, 28 steps")
    assert result.stderr.splitlines()[1].endswith("; missing: incident")
    steps = json.loads(call("compare", "-d", sample_url, "inc-0000-4", "run-0000-010", "-f", "json").stdout)
    assert {step["change"] for step in steps} <= {"same", "status", "only in a", "only in b"}
    nothing = call("compare", "-d", sample_url, "inc-0000-8", "inc-0000-8")
    assert nothing.stdout.splitlines()[-1].split()[:3] == ["all", "0", "0"]
    assert call("compare", "-d", sample_url, "inc-0000-4", "nobody").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cost", "--by", "colour"), "error: no column 'colour'; found tenant_id, run_id, trace_id, agent_id, "),
        (("cost", "--by", "agent_id,name", "--every", "1d"), "error: --every takes at most one --by column; found --by agent_id,name"),
        (("cost", "--every", "daily"), "error: every is 'daily'; expected a length of time such as '30min', '6h', '1d' or '1w'"),
        (("anomalies", "--each", "trace"), "error: --each is 'trace'; expected run or step"),
        (("anomalies", "--threshold", "0"), "error: threshold is 0.0; expected a number above 0"),
        (("anomalies", "--usual-until", "then"), "error: 'then' is not a time"),
    ],
)  # fmt: skip
def test_usage(sample_urls: dict[str, str], arguments: tuple[str, ...], message: str) -> None:
    result = call(*arguments, "-d", sample_urls["sqlite"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(message)
