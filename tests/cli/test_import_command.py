"""The command import, and --imported of those that read what it has loaded: standard output, standard error, exit codes."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from exporttools.cli import app
from tests.cli.invoking import call
from tests.importing.sessions import SessionFile, lines_of, tool, used

HOSTILE = "\x1b]0;owned\x07\x1b[31mred\x9b2J\u202e"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own directory, with nothing of any agent."""
    directory = tmp_path / "home"
    directory.mkdir()
    monkeypatch.setenv("HOME", str(directory))
    monkeypatch.setenv("XDG_DATA_HOME", str(directory / "data"))
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME"):
        monkeypatch.delenv(name, raising=False)
    return directory


@pytest.fixture
def own(home: Path) -> Path:
    """Where imports go."""
    return home / "data" / "exporttools" / "imported.sqlite"


def session(name: str = "s1", starts: float = 0) -> SessionFile:
    file = (
        SessionFile(name, starts=starts).prompt("fix it").answer(f"{name}-1", tool(f"{name}-t"), usage=used(10**6, 0))
    )
    return file.result(f"{name}-t", "no such file", failed=True)


def refused(result: Result) -> str:
    """The one line that says why not."""
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("error: ").rstrip("\n")


BILL = """  files     1 of Claude Code
  lines     3 = 2 counted + 0 copies + 1 metadata + 0 rejected
  sessions  1, with 0 forks and 0 subagents
  calls     1 usage = 1 call + 0 copies
  tokens    1,000,000 = 1,000,000 in + 0 read from caches + 0 written to caches + 0 out
  cost      500.00 US cents; 1 call priced by list, 0 as the files state
"""


def test_what_the_agents_have_left_is_said_and_loaded_into_ones_own_database(home: Path, own: Path) -> None:
    session().write(home / ".claude")
    result = call("import")
    assert result.exit_code == 0
    assert result.stdout.startswith(BILL)
    rest = [line.split() for line in result.stdout.removeprefix(BILL).splitlines()]
    assert rest == [
        ["by", "day"], ["day", "calls", "tokens", "US", "cents"], rest[2], ["2026-08-01", "1", "1,000,000", "500.00"],
        ["dearest", "sessions"],
        ["run_id", "project", "calls", "tokens", "US", "cents"], rest[6], ["s1", "demo", "1", "1,000,000", "500.00"],
    ]  # fmt: skip
    assert result.stderr.splitlines() == [
        f"Claude Code: 1 file in {home}/.claude/projects",
        f"1 new run, 0 replaced, 0 unchanged in {own}; read them with --imported: exporttools incidents --imported",
    ]
    assert own.parent.stat().st_mode & 0o077 == 0
    again = call("import")
    assert again.stdout == result.stdout
    assert again.stderr.splitlines()[1].startswith("0 new runs, 0 replaced, 1 unchanged in ")
    session().prompt("more").write(home / ".claude")
    assert call("import").stderr.splitlines()[1].startswith("0 new runs, 1 replaced, 0 unchanged in ")


def test_no_agents_at_all(own: Path) -> None:
    assert refused(call("import")).startswith("no agent's sessions were found on this machine: looked for ")
    assert not own.parent.exists()


def test_agents_without_a_session(home: Path, own: Path) -> None:
    (home / ".claude/projects").mkdir(parents=True)
    result = call("import")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        f"Claude Code: 0 files in {home}/.claude/projects",
        "error: no sessions were found: 0 files looked at; expected sessions of Claude Code, Codex, Gemini CLI, ATIF",
    ]
    assert not own.parent.exists()


def test_a_dry_run_writes_nothing(tmp_path: Path, own: Path) -> None:
    path = session().write(tmp_path)
    result = call("import", path, "--dry-run")
    assert (result.exit_code, result.stderr) == (0, "dry run: nothing was written\n")
    assert result.stdout.startswith(BILL)
    call("import", path, "--dry-run", "--into", tmp_path / "a.sqlite")
    assert not own.exists()
    assert not (tmp_path / "a.sqlite").exists()


def test_into_a_database(backend: str, fresh_url: str, tmp_path: Path, own: Path) -> None:
    path = session().write(tmp_path)
    result = call("import", path, "--into", fresh_url)
    assert result.exit_code == 0
    assert result.stderr.endswith("; read them with --database: exporttools incidents --database URL\n")
    assert result.stderr.startswith("1 new run, 0 replaced, 0 unchanged in ")
    found = json.loads(call("incidents", "-d", fresh_url, "-f", "json").stdout)
    assert [row["id"] for row in found] == ["s1:step_error"]
    assert call("import", path, "--into", fresh_url).stderr.startswith("0 new runs, 0 replaced, 1 unchanged")
    assert not own.exists()


def test_as_json_and_csv(tmp_path: Path) -> None:
    path = session().write(tmp_path)
    report = json.loads(call("import", path, "--dry-run", "-f", "json").stdout)
    assert (report["calls"], report["tokens"]["input_tokens"], report["cost_cents"]) == (1, 10**6, 500)
    assert report["by_session"][0]["run_id"] == "s1"
    rows = list(csv.DictReader(io.StringIO(call("import", path, "--dry-run", "-f", "csv").stdout)))
    assert [(row["run_id"], row["calls"], row["cost_cents"]) for row in rows] == [("s1", "1", "500.0")]


def test_of_many_days_and_sessions_some_are_shown(tmp_path: Path) -> None:
    for i in range(20):
        session(f"s{i:02}", starts=86_400 * i).write(tmp_path)
    lines = call("import", tmp_path, "--dry-run").stdout.splitlines()
    assert "by day (14 of 20)" in lines
    assert "dearest sessions (10 of 20)" in lines
    assert [line.split()[0] for line in lines[lines.index("dearest sessions (10 of 20)") + 3 :]] == [
        f"s{i:02}" for i in range(10)
    ]
    assert lines[lines.index("by day (14 of 20)") + 3].startswith("2026-08-20")


def run_piped(content: bytes, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["import", *arguments], input=content)


def test_standard_input(tmp_path: Path) -> None:
    result = run_piped(session().content, "-", "--dry-run")
    assert result.stdout.startswith(BILL)
    path = session("s2").write(tmp_path)
    both = run_piped(session().content, "-", str(path), "--dry-run", "-f", "json")
    assert json.loads(both.stdout)["calls"] == 2
    nothing = run_piped(b"", "-", "--dry-run")
    assert refused(nothing).endswith(
        "not in a known format; expected a session of Claude Code, Codex, Gemini CLI, ATIF, found an empty file"
    )


def test_standard_input_twice_is_one_run(own: Path) -> None:
    assert run_piped(session().content, "-").stderr.startswith("1 new run")
    assert run_piped(session().content, "-").stderr.startswith("0 new runs, 0 replaced, 1 unchanged")
    with closing(sqlite3.connect(own)) as connection:
        assert connection.execute("SELECT sum(tokens) FROM trace_steps").fetchone() == (10**6,)


def test_since(tmp_path: Path) -> None:
    session("old").write(tmp_path)
    recent = SessionFile(
        "new", starts=(dt.datetime.now(dt.UTC) - dt.datetime(2026, 8, 1, 12, tzinfo=dt.UTC)).total_seconds() - 3600
    )
    recent.prompt().answer("new-1").write(tmp_path)

    def found(since: str) -> list[str]:
        result = call("import", tmp_path, "--dry-run", "--since", since, "-f", "json")
        assert result.exit_code == 0, result.stderr
        return sorted(row["run_id"] for row in json.loads(result.stdout)["by_session"])

    assert found("1d") == found("90min") == ["new"]
    assert found("999999w") == found("2026-08-01") == ["new", "old"]
    assert found("2026-08-01T12:00:02Z") == ["new", "old"]
    assert found("2026-08-01T12:00:03Z") == found("2026-08-02T00:00:00+02:00") == ["new"]
    told = call("import", tmp_path, "--dry-run", "--since", "1d").stdout
    assert "  sessions  1, with 0 forks and 0 subagents; 1 ended earlier and are left out\n" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: no such file or directory"),
        (["--since", "soon"], "'soon' is not a time; use for example 2026-10-05 or 2026-10-05T14:00:00Z"),
        (["--since", "7 d"], "--since is '7 d'; expected a length of time such as '30min', '6h', '1d' or '1w'"),
        (["--since", ""], "'' is not a time; use for example 2026-10-05 or 2026-10-05T14:00:00Z"),
        (
            ["--incident-rules", "loop, nope"],
            "there is no incident rule 'nope'; expected step_error, loop, budget_exceeded",
        ),
        (["--explain", "nobody"], "no file has a session 'nobody'; 1 session found"),
        (["--into", "mysql://x/y"], "mysql"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path: Path, own: Path, arguments: list[str], said: str) -> None:
    path = session().write(tmp_path)
    message = refused(call("import", *([path] if arguments[0].startswith("-") else []), *arguments))
    assert said in message
    assert not own.exists()


def test_usage(tmp_path: Path) -> None:
    path = session().write(tmp_path)
    for arguments, said in (
        (["--budget-cents", "-1"], "Invalid value for '--budget-cents'"), (["--format", "xml"], "Invalid value for '--format'"),
    ):  # fmt: skip
        result = call("import", path, *arguments)
        assert result.exit_code == 2
        assert said in result.stderr
    assert (
        refused(call("-d", "x.sqlite", "import", path))
        == "import reads files; name the database to load into with --into"
    )
    assert (
        refused(call("-t", "acme", "import", path)) == "import does not read the rows of a tenant; leave --tenant out"
    )


def test_a_database_of_the_environment_is_not_the_target(
    tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPORTTOOLS_DATABASE_URL", f"sqlite:///{tmp_path}/other.sqlite")
    assert call("import", session().write(tmp_path)).exit_code == 0
    assert own.exists()
    assert not (tmp_path / "other.sqlite").exists()
    assert [row["id"] for row in json.loads(call("incidents", "--imported", "-f", "json").stdout)] == ["s1:step_error"]


def test_strict_loads_nothing(tmp_path: Path, own: Path) -> None:
    path = session().write(tmp_path)
    path.write_bytes(path.read_bytes() + b"{torn")
    said = refused(call("import", path, "--strict"))
    assert said == (
        f"strict: 1 record cannot be read, and nothing was imported: {path}:4: not valid JSON: the file ends in the middle of it"
    )
    assert not own.exists()
    assert "  rejected  " in call("import", path).stdout


def test_rules_and_prices(tmp_path: Path) -> None:
    path = session().write(tmp_path)
    call("import", path, "--incident-rules", "budget_exceeded", "--budget-cents", "499.5")
    found = json.loads(call("incidents", "--imported", "-f", "json").stdout)
    assert [(row["violation_type"], row["severity"]) for row in found] == [("budget_exceeded", "high")]
    result = call("import", path, "--no-price", "--incident-rules", "loop")
    assert "  unpriced  1 call without a known price cost 0 here: claude-opus-4-6 (1)\n" in result.stdout
    assert json.loads(call("incidents", "--imported", "-f", "json").stdout) == []


def test_a_damaged_database_of_imports_is_said(tmp_path: Path, own: Path) -> None:
    path = session().write(tmp_path)
    call("import", path)
    with closing(sqlite3.connect(own)) as connection:
        connection.execute("UPDATE import_files SET content = CAST('nonsense' AS BLOB)")
        connection.commit()
    assert "import_files: what was kept of a file cannot be read" in refused(call("import", path))
    own.write_bytes(b"not a database " * 100)
    assert "the file is not an SQLite database" in refused(call("import", path))
    assert own.read_bytes() == b"not a database " * 100


# Explaining


def test_explain(tmp_path: Path, own: Path) -> None:
    path = session().write(tmp_path)
    result = call("import", tmp_path, "--explain", "s1")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[:2] == [[str(path)], ["line", "fate", "says"]]
    assert lines[3:] == [
        ["1", "metadata"],
        ["2", "counted", "llm_call", "claude-opus-4-6,", "1,000,000", "tokens;", "tool_call", "Bash"],
        ["3", "counted", "a", "call", "failed:", "no", "such", "file"],
    ]
    found = json.loads(call("import", tmp_path, "--explain", "s1", "-f", "json").stdout)
    assert found[0] == {"path": str(path), "line": 1, "fate": "metadata", "says": ""}
    assert len(list(csv.reader(io.StringIO(call("import", path, "--explain", "s1", "-f", "csv").stdout)))) == 4
    assert not own.exists()


# What was imported


@pytest.fixture
def imported(tmp_path: Path) -> str:
    """The id of an imported session."""
    assert call("import", session().write(tmp_path)).exit_code == 0
    return "s1"


def test_commands_read_what_was_imported(imported: str, own: Path, tmp_path: Path) -> None:
    result = call("incidents", "--imported")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "s1:step_error" in result.stdout
    shown = call("show", imported, "--imported")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert "fix it" in shown.stdout
    assert "no such file" in shown.stdout
    costs = json.loads(call("cost", "--imported", "--by", "project,model", "-f", "json").stdout)
    assert [(row["project"], row["model"], row["cost_cents"]) for row in costs] == [
        ("demo", "claude-opus-4-6", 500.0), ("demo", None, 0.0),
    ]  # fmt: skip
    assert call("bundle", imported, "--imported", "-o", tmp_path / "b").exit_code == 0
    assert call("verify", tmp_path / "b").exit_code == 0
    assert call("anomalies", "--imported").exit_code in (0, 1)


@pytest.mark.slow
def test_a_report_of_what_was_imported(imported: str, tmp_path: Path) -> None:
    result = call("report", "s1:step_error", "--imported", "-o", tmp_path / "r.html")
    assert result.exit_code == 0, result.stderr
    assert "no such file" in (tmp_path / "r.html").read_text()


def test_a_lab_of_what_was_imported(imported: str, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environments: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execve", lambda program, command, environment: environments.append(environment))
    assert call("lab", "--imported", "--directory", tmp_path / "notebooks").exit_code == 0
    assert environments[0]["EXPORTTOOLS_DATABASE_URL"].endswith(str(own))


@pytest.mark.parametrize(
    "command",
    [
        ("incidents",),
        ("show", "s1"),
        ("cost",),
        ("anomalies",),
        ("report", "s1"),
        ("bundle", "s1"),
        ("lab",),
        ("compare", "a", "b"),
    ],
    ids=" ".join,
)
def test_what_was_not_imported_yet_cannot_be_read(command: tuple[str, ...], own: Path, tmp_path: Path) -> None:
    assert refused(call(*command, "--imported")) == f"nothing was imported yet into {own}; run exporttools import"
    call("import", session().write(tmp_path))
    assert (
        refused(call("-d", "x.sqlite", *command, "--imported"))
        == "--imported and --database name two databases; give one of them"
    )


# Texts of files on a terminal


def test_no_text_of_a_file_reaches_the_terminal_as_it_is(tmp_path: Path, own: Path) -> None:
    file = SessionFile(f"s{HOSTILE}").prompt(HOSTILE, cwd=f"/x/{HOSTILE}", gitBranch=HOSTILE)
    file.answer("m1", tool("t1", HOSTILE, command=HOSTILE), model=HOSTILE).result("t1", HOSTILE, failed=True)
    file.answer("m2", tool("t2", "Task"), usage=used(1, 1, service_tier=HOSTILE)).result(
        "t2", said={"agentId": HOSTILE}
    )
    path = tmp_path / f"{HOSTILE}.jsonl"
    path.write_bytes(file.content + lines_of([HOSTILE]))
    told = []
    for arguments in (
        ["import", path], ["import", path, "-f", "json"], ["import", path, "--explain", f"s{HOSTILE}"],
        ["import", path, "--explain", f"s{HOSTILE}", "-f", "json"], ["import", path, "--explain", HOSTILE],
        ["import", path, "--strict"], ["import", f"{path}x"], ["import", path, "--since", HOSTILE], ["import", path, "--incident-rules", HOSTILE],
        ["import", path, "--into", tmp_path / f"{HOSTILE}.sqlite"],
        ["incidents", "--imported"], ["show", f"s{HOSTILE}", "--imported"], ["cost", "--imported", "--by", "project,model,name,subagent"],
    ):  # fmt: skip
        result = call(*arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), (arguments, result.exception)
        told += [result.stdout, result.stderr]
    assert "red" in "".join(told)
    assert not set("".join(told)) & {"\x1b", "\x07", "\x9b", "\u202e"}


def test_at_eighty_columns(tmp_path: Path, home: Path) -> None:
    """On a terminal, cells are shortened to its width; the bill's sentences are lines of their own."""
    import pty

    session("0198aaaa-1111-7222-8333-bbbbccccdddd").write(home / ".claude")
    main, terminal = pty.openpty()
    environment = os.environ | {"COLUMNS": "80", "TERM": "dumb"}
    done: Any = subprocess.run(
        [sys.executable, "-m", "exporttools", "import", "--dry-run"], stdout=terminal, stderr=subprocess.PIPE, env=environment, check=True,
    )  # fmt: skip
    os.close(terminal)
    told = b""
    while len(chunk := _read(main)) > 0:
        told += chunk
    os.close(main)
    lines = told.decode().replace("\r\n", "\n").splitlines()
    assert done.stderr.decode().splitlines()[-1] == "dry run: nothing was written"
    assert BILL.splitlines() == lines[:6]
    assert max(map(len, lines[6:])) <= 80
    assert lines[-1].split() == ["0198aaaa-1111-7222-8333-bbbbccccdddd", "demo", "1", "1,000,000", "500.00"]


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # the other end is closed
        return b""
