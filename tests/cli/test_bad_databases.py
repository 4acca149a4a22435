"""Databases that cannot be read, or not as asked: one line on standard error, exit code 2, for every command that reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.cli.invoking import call
from tests.databases import create_native, one_of_each, run_sql, step

COMMANDS = {
    "incidents": ("incidents",),
    "show": ("show", "i1"),
    "cost": ("cost", "--by", "agent_id,step_type"),
    "anomalies": ("anomalies",),
    "compare": ("compare", "r1", "r1"),
    "bundle": ("bundle", "i1"),
    "export": ("export", "fleet"),
    "report": ("report", "--until", "2020-01-01"),
}
STEP_READERS = sorted(set(COMMANDS) - {"incidents", "report"})
MANY = one_of_each(trace_steps=[step(i) for i in range(6000)])


def require_one_line(url: str, said: str, commands: Iterable[str] = COMMANDS) -> None:
    for command in commands:
        result = call("-d", url, *COMMANDS[command])
        assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1), (
            command,
            result.output,
        )
        assert result.stderr.startswith("error: ")
        assert said in result.stderr, command


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture(params=["missing", "directory", "empty", "noise", "cut", "other"])
def unreadable(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """An SQLite database that is not one, and what the error says."""
    path = tmp_path / "bad.sqlite"
    url = f"sqlite:///{path}"
    if request.param == "missing":
        return url, "no such file"
    if request.param == "directory":
        path.mkdir()
        return url, "it is a directory"
    if request.param == "empty":
        path.write_bytes(b"")
        return url, "Tables found: none"
    if request.param == "noise":
        path.write_bytes(bytes(range(256)) * 40)
        return url, "the file is not an SQLite database"
    if request.param == "cut":
        create_native(url, MANY)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return url, "the file is damaged"
    run_sql(url, "CREATE TABLE events (id TEXT)")
    return url, "Tables found: events"


def test_what_is_no_database(unreadable: tuple[str, str]) -> None:
    require_one_line(*unreadable)


def test_a_server_without_the_database(postgres_server: str) -> None:
    url = make_url(postgres_server).set(database="nowhere").render_as_string(hide_password=False)
    require_one_line(url, 'database "nowhere" does not exist')


def test_a_server_that_is_not_there() -> None:
    url = "postgresql://reader:secret@127.0.0.1:1/x"
    require_one_line(url, "the server cannot be reached")
    assert [name for name, command in COMMANDS.items() if "secret" in call("-d", url, *command).output] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE trace_steps SET cost_cents = NULL", "cost_cents = NULL; expected a float64, never NULL"),
        ("UPDATE trace_steps SET step_type = NULL", "step_type = NULL; expected a string, never NULL"),
        ("UPDATE trace_steps SET cost_cents = 'NaN'", "cost_cents = "),
        ("UPDATE trace_steps SET tokens = -1", "tokens = -1; expected "),
        ("DROP TABLE trace_steps", "'trace_steps'"),
    ],
)
def test_steps_that_are_not_valid(fresh_url: str, change: str, said: str) -> None:
    url = create_native(fresh_url, one_of_each())
    run_sql(url, change)
    require_one_line(url, said, STEP_READERS)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [("cost_cents", "'dear'", "cost_cents"), ("timestamp", "'yesterday'", "timestamp"), ("tokens", "9e30", "tokens")],
)
def test_values_of_another_type(fresh_url: str, column: str, value: str, said: str) -> None:
    url = create_native(fresh_url, one_of_each())
    kinds = ["ALTER TABLE trace_steps ALTER COLUMN {0} TYPE text USING {0}::text"] * ("postgresql" in url)
    run_sql(url, *(kind.format(column) for kind in kinds), f"UPDATE trace_steps SET {column} = {value}")
    require_one_line(url, said, STEP_READERS)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("1 / (5000 - step_index)", "division by zero"),
        ("CASE WHEN step_index = 5000 THEN pg_terminate_backend(pg_backend_pid())::int ELSE 1 END", ""),
    ],
)
def test_a_read_that_is_cut(fresh_postgres_url: str, fault: str, said: str) -> None:
    """The server fails, or ends the connection, after it has sent 5,000 steps."""
    url = create_native(fresh_postgres_url, MANY)
    others = ["tenant_id", "trace_id", "step_index", "timestamp", "step_type", "cost_cents", "duration_ms", "status"]
    run_sql(
        url,
        "ALTER TABLE trace_steps RENAME TO stored_steps",
        f"CREATE VIEW trace_steps AS SELECT {', '.join(others)}, content_hash, tokens * ({fault}) AS tokens "
        "FROM stored_steps",
    )
    require_one_line(url, said, STEP_READERS)


def test_a_bundle_and_a_dataset_that_failed_are_not_there(fresh_url: str) -> None:
    url = create_native(fresh_url, one_of_each())
    run_sql(url, "UPDATE trace_steps SET cost_cents = NULL")
    require_one_line(url, "cost_cents = NULL", ["bundle", "export"])
    assert [path.name for path in Path().iterdir()] == ["fleet"]
    result = call("dataset", "fleet", "-f", "csv")
    assert [line.split(",")[1] for line in result.stdout.splitlines()[1:]] == ["0"] * 4
