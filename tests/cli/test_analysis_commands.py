"""The commands cost, anomalies and compare: standard output, standard error and exit code."""

from __future__ import annotations

import csv
import io
import json

import pytest

from tests.cli.invoking import call
from tests.databases import create_native, one_of_each, run, step, trace


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
    keys = ("--by", "agent_id,step_type", "--every", "1w", "-f", "json")
    assert list(json.loads(call("cost", "-d", sample_url, *keys).stdout)[0])[:3] == [
        "period_start",
        "agent_id",
        "step_type",
    ]


def test_cost_by_a_column_of_runs(sample_url: str) -> None:
    found = json.loads(call("cost", "-d", sample_url, "--by", "termination_reason", "-f", "json").stdout)
    assert [row["termination_reason"] for row in found][:3] == ["completed", "user_abort", "budget_exceeded"]
    total = json.loads(call("cost", "-d", sample_url, "--by", "", "-f", "json").stdout)[0]
    assert sum(row["cost_cents"] for row in found) == pytest.approx(total["cost_cents"])
    assert sum(row["steps"] for row in found) == total["steps"]
    periods = call("cost", "-d", sample_url, "--by", "termination_reason,agent_id", "--every", "1w", "-f", "json")
    assert sum(row["steps"] for row in json.loads(periods.stdout)) == total["steps"]
    assert call("anomalies", "-d", sample_url, "--by", "agent_id,step_type,termination_reason").exit_code == 0


@pytest.fixture
def calls_url(fresh_url: str) -> str:
    """A call of each of two models with tokens by kind, and one with a mere sum."""
    kinds = {"model": "string"} | dict.fromkeys(
        ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"), "int64"
    )
    call = {
        "tokens": 1_100_000,
        "input_tokens": 1_000_000,
        "output_tokens": 100_000,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
    }
    steps = [
        step(0, model="claude-opus-4-6", cost_cents=750.0, **call),
        step(1, model="o3", cost_cents=280.0, **call),
        step(2, model="lark-2", cost_cents=3.0),
    ]
    return create_native(fresh_url, one_of_each(trace_steps=steps), extra=kinds)


def test_cost_on_another_model(calls_url: str) -> None:
    result = call("cost", "-d", calls_url, "--as-model", "claude-haiku-4-5", "--by", "agent_id,model")
    assert [line.split() for line in result.stdout.splitlines() if "─" not in line] == [
        ["agent_id", "model", "calls", "US", "cents", "then", "difference", "not", "priced"],
        ["triage", "claude-opus-4-6", "1", "750.00", "150.00", "-600.00", "0.00"],
        ["triage", "o3", "1", "280.00", "150.00", "-130.00", "0.00"],
        ["triage", "lark-2", "0", "3.00", "3.00"],
    ]
    assert result.stderr == (
        "2 of 3 model calls would have cost 300.00 US cents instead of 1,030.00 US cents (-71%); not priced: 1 with unknown "
        "tokens (3 US cents before)\n"
    )
    assert result.exit_code == 0
    found = json.loads(
        call(
            "cost", "-d", calls_url, "--as-model", "claude-haiku-4-5", "--by", "termination_reason", "-f", "json"
        ).stdout
    )
    assert found == [
        {"termination_reason": "budget_exceeded", "calls": 2, "cost_cents": 1033.0, "repriced_cents": 300.0,
         "difference_cents": -730.0, "unpriced_calls": 1, "unpriced_cents": 3.0}
    ]  # fmt: skip


def test_cost_with_some_models_replaced(calls_url: str) -> None:
    pairs = ("--as-model", "claude-opus-4-6=claude-haiku-4-5", "--as-model", "o3=unheard-of")
    result = call("cost", "-d", calls_url, *pairs, "--by", "model", "-f", "csv")
    assert result.stdout.splitlines() == [
        "model,calls,cost_cents,repriced_cents,difference_cents,unpriced_calls,unpriced_cents",
        "claude-opus-4-6,1,750.0,150.0,-600.0,0,0.0", "o3,0,280.0,0.0,0.0,1,280.0", "lark-2,0,3.0,3.0,0.0,0,0.0",
    ]  # fmt: skip
    assert "1 of unknown model unheard-of (280.00 US cents before); 1 other step keeps its cost" in result.stderr


def test_anomalies_of_runs(sample_url: str) -> None:
    result = call("anomalies", "-d", sample_url)
    assert result.exit_code == 0
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[0].split() == ["run_id", "reason"]
    assert lines[2:5] == [
        "run-0000-269   109,059 ms a step, 152 times the usual 719.6 ms of ops-responder · tool_call",
        "run-0000-269   1,338,344 ms from start to end, 27 times the usual 48,704 ms from start to end of ops-responder",
        "run-0000-065   176,647 ms from start to end, 9 times the usual 19,684 ms from start to end of invoice-clerk",
    ]
    assert "run-0000-040   1,003 US cents, 15 times the usual 66.79 US cents of research-scout" in lines
    assert result.stderr.splitlines() == [
        "totals of runs: judged 297 rows by 5 measures: expect at most 0.3 false alarms",
        "mean steps of runs: judged 611 rows by 4 measures: expect at most 0.61 false alarms; "
        "16 groups not judged: too few rows in the baseline",
    ]
    few = call("anomalies", "-d", sample_url, "--usual-until", "2026-10-12", "-n", "3")
    assert len(few.stdout.splitlines()) == 5
    assert few.stderr.splitlines()[0].startswith("3 of ")
    assert few.stderr.splitlines()[0].endswith(" shown; raise --limit to see more")
    rows = json.loads(call("anomalies", "-d", sample_url, "-f", "json").stdout)
    assert [row["p_value"] for row in rows] == sorted(row["p_value"] for row in rows)
    assert {"run_id", "agent_id", "step_type", "measure", "value", "usual", "times_usual", "reason"} <= rows[0].keys()
    assert {row["step_type"] for row in rows} == {"tool_call", None}


def test_anomalies_of_runs_by_what_only_steps_have(sample_url: str) -> None:
    result = call("anomalies", "-d", sample_url, "--by", "model")
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == ["mean steps of runs"]


def test_anomalies_of_steps(sample_url: str) -> None:
    found = json.loads(call("anomalies", "-d", sample_url, "--each", "step", "-f", "json", "-n", "5").stdout)
    assert [row["step_index"] for row in found[:2]] == [27, 25]
    assert (found[0]["measure"], found[0]["name"]) == ("duration_ms", "fetch_logs")
    by_tool = call("anomalies", "-d", sample_url, "--each", "step", "--by", "name")
    assert by_tool.stdout.splitlines()[0].split() == ["run_id", "step_index", "reason"]
    assert "fetch_logs" in by_tool.stdout
    assert "expect at most 15 false alarms" in by_tool.stderr
    none = call("anomalies", "-d", sample_url, "--each", "step", "--at-least-ms", "1e9", "--at-least-cents", "1e9")
    assert len(none.stdout.splitlines()) == 2


def test_the_trace_of_a_step_is_said_where_its_run_has_several(fresh_url: str) -> None:
    traces = [trace(trace_id=f"t{i}") for i in range(5)]
    steps = [step(i, trace_id=one["trace_id"]) for one in traces for i in range(9)]
    steps[23] |= {"duration_ms": 90_000.0}
    url = create_native(fresh_url, {"incidents": [], "runs": [run()], "traces": traces, "trace_steps": steps})
    result = call("anomalies", "--each", "step", "-d", url)
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["run_id", "trace_id", "step_index", "reason"]
    assert lines[2][:4] == ["r1", "t2", "5", "90,000"]
    assert json.loads(call("anomalies", "--each", "step", "-d", url, "-f", "json").stdout)[0]["trace_id"] == "t2"


def test_the_tenant_of_a_run_is_said_where_several_have_one_of_that_id(fresh_url: str) -> None:
    tenants = ["acme", "zeta"]
    runs = [run(run_id=f"r{i}", tenant_id=tenant) for tenant in tenants for i in range(20)]
    traces = [trace(trace_id="t" + one["run_id"], run_id=one["run_id"], tenant_id=one["tenant_id"]) for one in runs]
    steps = [
        step(0, tenant_id=one["tenant_id"], trace_id=one["trace_id"], duration_ms=1000.0 + i % 7)
        for i, one in enumerate(traces)
    ]
    steps[27] |= {"duration_ms": 90_000.0}
    url = create_native(fresh_url, {"incidents": [], "runs": runs, "traces": traces, "trace_steps": steps})
    for each in ("run", "step"):
        lines = [line.split() for line in call("anomalies", "--each", each, "-d", url).stdout.splitlines()]
        assert lines[0][:2] == ["tenant_id", "run_id"]
        assert lines[2][:2] == ["zeta", "r7"]
    alone = call("anomalies", "-d", url, "--tenant", "zeta", "--usual-until", "2030-01-01").stdout.splitlines()
    assert alone[0].split() == ["run_id", "reason"]


def test_a_database_without_steps_has_nothing_unusual(fresh_url: str) -> None:
    url = create_native(fresh_url, {"incidents": [], "runs": [run()], "traces": [], "trace_steps": []})
    for each in ("run", "step"):
        result = call("anomalies", "--each", each, "-d", url)
        assert result.exit_code == 0
        assert {line.split(": ")[1] for line in result.stderr.splitlines()} == {"there are none"}


def test_compare(sample_url: str) -> None:
    result = call("compare", "-d", sample_url, "inc-0000-4", "run-0000-010")
    assert result.exit_code == 0
    *table, only_a, only_b = result.stdout.splitlines()
    assert only_a == (
        "only in a: fetch_logs (7), describe_service (2), query_metrics (2), runbooks (1), restart_service (1), "
        "llm_call (7 of 12), 1 other"
    )
    assert only_b == (
        "only in b: get_order (2), check_output (1), check_policy (1), help_centre (1), get_customer (1), send_reply (1)"
    )
    lines = [line.split() for line in table]
    assert lines[0][:3] == ["step_type", "steps_a", "steps_b"]
    assert lines[-1] == [
        *("all", "28", "14", "6.79", "0.58", "1,337.92", "12.62", "60,251", "15,542", "0", "-6.22", "-1,325.30", "-44,709"),
    ]  # fmt: skip
    assert result.stderr.splitlines()[0].startswith("a: inc-0000-4, 28 steps")
    assert result.stderr.splitlines()[1].endswith("; missing: incident")
    steps = json.loads(call("compare", "-d", sample_url, "inc-0000-4", "run-0000-010", "-f", "json").stdout)
    assert {step["change"] for step in steps} == {"same", "content", "only in a", "only in b"}
    nothing = call("compare", "-d", sample_url, "inc-0000-8", "inc-0000-8")
    assert nothing.stdout.splitlines()[-1].split()[:3] == ["all", "0", "0"]
    assert call("compare", "-d", sample_url, "inc-0000-4", "nobody").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cost", "--by", "colour"), "error: no column 'colour'; found tenant_id, run_id, trace_id, agent_id, "),
        (("cost", "--by", "agent_id,colour,size"), "error: no column 'colour', 'size'; found tenant_id, run_id, "),
        (("cost", "--as-model", "o3"), "error: steps have no column input_tokens, output_tokens, so that their calls cannot be priced"),
        (("cost", "--as-model", "o3", "--every", "1d"), "error: --as-model does not go with --every; leave one of them out"),
        (("cost", "--as-model", "a", "--as-model", "b"), "error: --as-model is a b; expected one model, or OLD=NEW for each model to replace"),
        (("cost", "--as-model", "=b"), "error: --as-model is =b; expected one model, or OLD=NEW for each model to replace"),
        (("cost", "--every", "daily"), "error: every is 'daily'; expected a length of time such as '30min', '6h', '1d' or '1w'"),
        (("anomalies", "--each", "trace"), "error: --each is 'trace'; expected run or step"),
        (("anomalies", "--false-alarms", "0"), "error: false_alarms is 0.0; expected a number above 0, at most 1"),
        (("anomalies", "--at-least-cents", "-1"), "error: at_least_cents is -1.0; expected a number >= 0"),
        (("anomalies", "--usual-until", "then"), "error: 'then' is not a time"),
    ],
)  # fmt: skip
def test_usage(sample_urls: dict[str, str], arguments: tuple[str, ...], message: str) -> None:
    result = call(*arguments, "-d", sample_urls["sqlite"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(message)
