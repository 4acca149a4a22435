"""The option --tenant: given empty, twice, or to a command that has no use for it. It is honoured or refused, never lost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from exporttools.cli import app
from tests.cli.invoking import call
from tests.databases import create_native, incident, one_of_each, run, step, trace

COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
LIMITED = sorted(name for name, command in COMMANDS.items() if any(p.name == "tenant" for p in command.params))
OTHERS = sorted(set(COMMANDS) - set(LIMITED))
EMPTY = (
    "error: {name} is empty, perhaps from a shell variable that is not set; name a tenant, or leave {name} out to read "
    "all tenants\n"
)
ARGUMENTS = {
    "show": ("i1",),
    "bundle": ("i1",),
    "compare": ("r1", "r1"),
    "report": ("i1",),
    "export": ("fleet",),
    "dataset": ("fleet",),
    "sample": ("--into", "sqlite:///s.sqlite"),
    "verify": ("b",),
    "keygen": ("k",),
}


@pytest.fixture
def two_tenants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database in which acme and globex have the same ids; the working directory is empty."""
    rows = one_of_each()
    other = {
        "incidents": [incident(tenant_id="globex", policy_name="canary")],
        "runs": [run(tenant_id="globex", agent_id="canary")],
        "traces": [trace(tenant_id="globex")],
        "trace_steps": [step(0, tenant_id="globex", step_type="canary")],
    }
    url = create_native(
        f"sqlite:///{tmp_path / 'two.sqlite'}", {name: [*of, *other[name]] for name, of in rows.items()}
    )
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return url


def test_which_commands_are_limited_to_a_tenant() -> None:
    assert [
        *("anomalies", "bundle", "compare", "cost", "dataset", "export", "incidents", "lab", "report", "show"),
    ] == LIMITED  # fmt: skip


@pytest.mark.parametrize("empty", ["", "  "])
@pytest.mark.parametrize("command", LIMITED)
def test_an_empty_tenant_is_an_error(two_tenants: str, tmp_path: Path, command: str, empty: str) -> None:
    arguments = (command, *ARGUMENTS.get(command, ()))
    for given in (("-t", empty, *arguments), (*arguments, "--tenant", empty)):
        result = call("-d", two_tenants, *given)
        assert (result.exit_code, result.stdout, result.stderr) == (2, "", EMPTY.format(name="--tenant"))
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("command", LIMITED)
def test_an_empty_variable_is_an_error(two_tenants: str, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("EXPORTTOOLS_TENANT_ID", "")
    result = call("-d", two_tenants, command, *ARGUMENTS.get(command, ()))
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", EMPTY.format(name="EXPORTTOOLS_TENANT_ID"))


@pytest.mark.parametrize("command", LIMITED)
def test_two_tenants_are_an_error(two_tenants: str, command: str) -> None:
    result = call("-d", two_tenants, "-t", "acme", command, *ARGUMENTS.get(command, ()), "-t", "globex")
    assert (result.exit_code, result.stdout, result.stderr) == (
        2,
        "",
        "error: --tenant is 'acme' before the command and 'globex' after it; give one of them\n",
    )


@pytest.mark.parametrize("command", OTHERS)
def test_a_command_that_reads_no_tenant_refuses_one(two_tenants: str, tmp_path: Path, command: str) -> None:
    result = call("-t", "acme", command, *ARGUMENTS.get(command, ()))
    assert (result.exit_code, result.stdout, result.stderr) == (
        2,
        "",
        f"error: {command} does not read the rows of a tenant; leave --tenant out\n",
    )
    assert list((tmp_path / "work").iterdir()) == []


def test_before_after_and_by_variable_are_the_same(two_tenants: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = ("-d", two_tenants, "incidents", "-f", "json")
    named = call(*read, "-t", "acme").stdout
    assert [row["tenant_id"] for row in json.loads(named)] == ["acme"]
    assert call("-t", "acme", *read).stdout == named
    assert call("-t", "acme", *read, "-t", "acme").stdout == named
    monkeypatch.setenv("EXPORTTOOLS_TENANT_ID", "acme")
    assert call(*read).stdout == named
    assert json.loads(call(*read, "-t", "globex").stdout)[0]["policy_name"] == "canary"  # an option wins, as for -d


def test_the_demo_does_not_run_within_a_tenant(two_tenants: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPORTTOOLS_TENANT_ID", "acme")
    result = call("demo")
    assert (result.exit_code, result.stdout, result.stderr) == (
        2,
        "",
        "error: the demo reads all tenants of the embedded sample; unset EXPORTTOOLS_TENANT_ID to run it\n",
    )


@pytest.fixture
def fleet(two_tenants: str) -> str:
    """A dataset of both tenants."""
    assert call("export", "fleet", "-d", two_tenants).exit_code == 0
    return "fleet"


@pytest.mark.parametrize("before", [True, False])
def test_a_dataset_is_limited_to_the_tenant(fleet: str, before: bool) -> None:
    def asked(*arguments: str) -> Any:
        first, last = (("-t", "acme"), ()) if before else ((), ("-t", "acme"))
        return call(*first, "dataset", fleet, *last, *arguments)

    rows = asked(
        "--sql", "select tenant_id, run_id, step_type, count(*) as steps from ledger group by all", "-f", "json"
    )
    assert json.loads(rows.stdout) == [{"tenant_id": "acme", "run_id": "r1", "step_type": "llm_call", "steps": 3}]
    for view in ("incidents", "runs", "traces", "trace_steps"):
        found = asked("--sql", f"select distinct tenant_id from {view}", "-f", "csv")
        assert found.stdout == "tenant_id\nacme\n"
    described = asked("-f", "csv")
    assert [line.split(",")[:3] for line in described.stdout.splitlines()[1:]] == [
        ["incidents", "1", "1"], ["runs", "1", "1"], ["traces", "1", "1"], ["trace_steps", "3", "1"],
    ]  # fmt: skip
    assert described.stderr.splitlines() == ["time: 2026-10-05 12:00:00 to 2026-10-05 12:00:02 UTC", "tenants: 1: acme"]


def test_a_query_within_a_tenant_opens_no_other_file(fleet: str) -> None:
    theirs = next(path for path in Path(fleet).glob("runs/tenant_id=globex/*/*.parquet"))
    for query in (
        f"select * from read_parquet('{theirs}')",
        f"select * from '{theirs}'",
        f"from read_parquet('{fleet}/runs/*/*/*.parquet')",
        f"from read_text('{next(Path(fleet).glob('_manifest/*.json'))}')",
        "set enable_external_access = true",
        "select * from self",
    ):
        result = call("-t", "acme", "dataset", fleet, "--sql", query)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("error: DuckDB cannot run this query: ")
        assert "canary" not in result.stderr


@pytest.mark.parametrize(("option", "verb"), [(("--verify",), "verified"), (("--compact", "1d"), "compacted")])
def test_a_dataset_is_verified_and_compacted_whole(fleet: str, option: tuple[str, ...], verb: str) -> None:
    result = call("-t", "acme", "dataset", fleet, *option)
    assert (result.exit_code, result.stdout, result.stderr) == (
        2,
        "",
        f"error: a dataset is {verb} as a whole, with the files of all tenants; open it without a tenant\n",
    )


def test_lab_hands_the_tenant_and_the_database_to_the_notebooks(
    two_tenants: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execve", lambda program, command, environment: started.append(environment))
    for arguments in (("-t", "acme", "lab"), ("lab", "-t", "acme"), ("-t", "acme", "lab", "-t", "acme")):
        result = call("-d", two_tenants, *arguments)
        assert (result.exit_code, result.output) == (0, "")
    assert [(e["EXPORTTOOLS_TENANT_ID"], e["EXPORTTOOLS_DATABASE_URL"]) for e in started] == [
        ("acme", two_tenants.replace("sqlite://", "sqlite+pysqlite://"))
    ] * 3
