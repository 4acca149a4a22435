"""What holds for every command: help, the database it reads, errors on one line, exit codes."""

from __future__ import annotations

import pytest

from tests.cli.invoking import call


def test_help_names_every_command() -> None:
    result = call("--help")
    assert result.exit_code == 0
    for command in (
        *("demo", "sample", "incidents", "show", "cost", "anomalies", "compare", "bundle", "verify", "keygen"),
        *("export", "dataset", "report", "lab"),
    ):
        assert f"  {command} " in result.stdout
        assert call(command, "--help").exit_code == 0
    assert call("--version").stdout == "exporttools 0.1.0\n"


def test_the_embedded_sample_is_said() -> None:
    result = call("incidents")
    assert result.stderr == (
        "reading the embedded sample, a made-up fleet; give --database or set EXPORTTOOLS_DATABASE_URL to read yours\n"
    )
    assert len(result.stdout.splitlines()) == 10


@pytest.mark.parametrize("command", ["show", "bundle"])
def test_a_missing_id_is_one_line_and_exit_code_1(url: str, command: str) -> None:
    result = call("-d", url, command, "nope\x1b[31m")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "no incident or run has the id 'nope\\x1b[31m'\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-d", "mysql://root:secret@h/d", "incidents"), "error: the dialect 'mysql' is not supported"),
        (("-d", "/no/such.sqlite", "incidents"), "error: sqlite:////no/such.sqlite: no such file"),
        (("incidents", "--since", "yesterday"), "error: 'yesterday' is not a time"),
        (("incidents", "--since", "2026-10-06", "--until", "2026-10-05"), "error: since is 2026-10-06"),
        (("sample",), "error: give either --into URL or --output DIRECTORY"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(arguments: tuple[str, ...], message: str) -> None:
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr.splitlines()[-1]
    assert "secret" not in result.stderr
