"""The commands export and dataset: standard output, standard error and exit code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cli.invoking import call
from tests.databases import create_native, one_of_each


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = call(*arguments)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def url(fresh_url: str) -> str:
    return create_native(fresh_url, one_of_each())


def test_export_says_what_it_did(url: str, tmp_path: Path) -> None:
    code, out, err = invoke("export", tmp_path / "d", "-d", url)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{tmp_path / 'd'}: manifest 2"
    assert lines[1] == "  1 incidents, 1 runs, 1 traces, 3 trace_steps"
    assert lines[3] == "  windows: 1 committed, 0 skipped (settled before), 0 unchanged"
    code, out, err = invoke("export", tmp_path / "d", "-d", url, "--format", "json")
    assert json.loads(out) | {"seconds": 0} == {
        "destination": str(tmp_path / "d"), "manifest": 2, "rows": dict.fromkeys(("incidents", "runs", "traces", "trace_steps"), 0),
        "bytes": dict.fromkeys(("incidents", "runs", "traces", "trace_steps"), 0), "windows_committed": 0, "windows_skipped": 1,
        "windows_unchanged": 0, "windows_provisional": 0, "open_runs": 0, "undated_runs": 0, "undated_incidents": 0,
        "unowned_rows": {}, "default_tenant": None, "retries": [], "seconds": 0,
    }  # fmt: skip


def test_dry_run_writes_nothing(url: str, tmp_path: Path) -> None:
    code, out, err = invoke("export", tmp_path / "d", "-d", url, "--dry-run", "--format", "csv")
    assert (code, out) == (0, "window,why,runs,open_runs,incidents\n2026-10-05 to 2026-10-06,new,1,0,1\n")
    assert err == f"{tmp_path / 'd'}: 1 window to read, 0 settled; 1 run, about 3 steps and 135 bytes\n"
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--window", "5h"], "error: window is '5h'; expected whole days, or a length that divides a day"),
        (["--since", "then"], "error: 'then' is not a time"),
        (["--format", "csv"], "error: --format csv needs --dry-run; without it, use table or json\n"),
        (["--dask", "tcp://127.0.0.1:1"], "error: no Dask scheduler answers at tcp://127.0.0.1:1"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_usage(url: str, tmp_path: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from exporttools.cli import dataset_commands

    monkeypatch.setattr(dataset_commands, "DASK_TIMEOUT_S", 1)
    code, out, err = invoke("export", tmp_path / "d", "-d", url, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(message)


def test_dask_that_is_not_installed(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    code, out, err = invoke("export", tmp_path / "d", "-d", url, "--dask", "tcp://127.0.0.1:1")
    assert (code, out) == (2, "")
    assert err == (
        "error: an export on a Dask cluster needs packages that are not installed: pip install 'exporttools[dask]'\n"
    )


def test_dataset_answers(url: str, tmp_path: Path) -> None:
    invoke("export", tmp_path / "d", "-d", url)
    code, out, err = invoke("dataset", tmp_path / "d", "--format", "csv")
    assert code == 0
    assert [line.split(",")[:3] for line in out.splitlines()[1:]] == [
        ["incidents", "1", "1"], ["runs", "1", "1"], ["traces", "1", "1"], ["trace_steps", "3", "1"],
    ]  # fmt: skip
    assert "tenants: 1: acme\n" in err
    code, out, _ = invoke(
        "dataset", tmp_path / "d", "--sql", "select sum(tokens)::bigint as tokens from ledger", "-f", "json"
    )
    assert (code, json.loads(out)) == (0, [{"tokens": 303}])
    code, out, err = invoke("dataset", tmp_path / "d", "--sql", "selec")
    assert (code, out) == (2, "")
    assert err.startswith("error: DuckDB cannot run this query: Parser Error: ")
    code, out, _ = invoke("dataset", tmp_path / "d", "--verify")
    assert code == 0
    assert out.startswith(f"{tmp_path / 'd'}: intact: 6 rows in 4 files, 0 unlisted; manifest 2\n")
    next((tmp_path / "d").glob("runs/*/*/*")).unlink()
    code, out, _ = invoke("dataset", tmp_path / "d", "--verify", "--format", "json")
    assert (code, [finding["code"] for finding in json.loads(out)["findings"]]) == (1, ["missing"])
    assert invoke("dataset", tmp_path)[0] == 2


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "the query is empty; expected for example --sql 'select count(*) from runs'"),
        (" ; ", "the query is empty; expected for example --sql 'select count(*) from runs'"),
        ("select 1 as a, 2 as a", "the query has several columns 'a'; name them apart with AS"),
        (
            "select 'infinity'::timestamp as t",
            "the result has a time that cannot be shown (date value out of range); cast it to VARCHAR in the query",
        ),
    ],
)
def test_queries_without_an_answer(tmp_path: Path, query: str, message: str) -> None:
    url = create_native(f"sqlite:///{tmp_path / 'd.sqlite'}", one_of_each())
    invoke("export", tmp_path / "d", "-d", url)
    assert invoke("dataset", tmp_path / "d", "--sql", query) == (2, "", f"error: {message}\n")


def test_an_empty_length_is_not_ignored(tmp_path: Path) -> None:
    url = create_native(f"sqlite:///{tmp_path / 'd.sqlite'}", one_of_each())
    invoke("export", tmp_path / "d", "-d", url)
    code, out, err = invoke("dataset", tmp_path / "d", "--compact", "")
    assert (code, out) == (2, "")
    assert err.startswith("error: window is ''; expected a length of time")
