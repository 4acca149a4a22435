"""The command line as a process: closed pipes, full disks, Ctrl-C, narrow encodings, errors that nobody foresaw."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.databases import create_native, one_of_each, run, step

PYTHON = (sys.executable, "-m", "exporttools")


@pytest.fixture
def long_url(tmp_path: Path) -> str:
    """A database whose run has more steps than a pipe holds."""
    return create_native(
        f"sqlite:///{tmp_path / 'long.sqlite'}", one_of_each(trace_steps=[step(i) for i in range(3000)])
    )


def shell(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script of bash, in which "$@" is the command line with these arguments."""
    return subprocess.run(
        ["bash", "-c", script, "bash", *PYTHON, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


@pytest.mark.parametrize("output", ["table", "json", "csv"])
def test_a_pipe_that_nobody_reads(long_url: str, output: str) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*PYTHON, "show", "i1", "-d", long_url, "-f", output], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_pipe_is_closed_between_parts_of_a_long_output(long_url: str) -> None:
    done = shell('"$@" | head -n 1; echo "${PIPESTATUS[0]}"', "show", "i1", "-d", long_url, "-f", "csv")
    assert done.stdout.splitlines()[0].startswith("step_index,timestamp,step_type")
    assert (done.stdout.splitlines()[1:], done.stderr) == (["141"], "")


@pytest.mark.parametrize(("command", "output"), [("incidents", "table"), ("incidents", "json"), ("show", "csv")])
def test_a_full_disk(long_url: str, command: str, output: str) -> None:
    identifier = ("i1",) if command == "show" else ()
    done = shell('"$@" >/dev/full', command, *identifier, "-d", long_url, "-f", output)
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")


def test_a_closed_output(long_url: str) -> None:
    done = shell('"$@" >&-', "incidents", "-d", long_url)
    assert (done.returncode, done.stderr) == (2, "error: standard output is closed\n")


@pytest.mark.parametrize("output", ["table", "json", "csv"])
def test_an_encoding_without_the_character(tmp_path: Path, output: str) -> None:
    url = create_native(f"sqlite:///{tmp_path / 'e.sqlite'}", one_of_each(runs=[run(agent_id="naïve 🦀")]))
    done = shell('"$@"', "cost", "-d", url, "-f", output, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert ("na\\u00efve" if output == "json" else "na\\xefve \\U0001f980") in done.stdout


def test_ctrl_c_while_a_server_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/x"
        process = subprocess.Popen(
            [*PYTHON, "incidents", "-d", url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")


def unforeseen(**environment: str) -> subprocess.CompletedProcess[str]:
    code = "import exporttools.cli as cli\ndef app(): raise KeyError('secret')\ncli.app = app\ncli.main()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment)


def test_an_error_that_nobody_foresaw() -> None:
    done = unforeseen()
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        "error: KeyError, which exporttools did not foresee; set EXPORTTOOLS_TRACEBACK=1 to see where, and please report it\n",
    )
    asked = unforeseen(EXPORTTOOLS_TRACEBACK="1")
    assert asked.returncode == 1
    assert asked.stderr.endswith("KeyError: 'secret'\n")
