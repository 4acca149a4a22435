"""The command line: standard output, standard error and exit code of every command."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from exporttools.cli import app
from tests.databases import create_native, incident, one_of_each, run, step


@pytest.fixture
def url(tmp_path: Path) -> str:
    return create_native(f"sqlite:///{tmp_path / 'cli.sqlite'}", one_of_each())


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


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
    assert result.stderr == "2 of 3 incidents (cut by a limit); --limit shows more\n"


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


def test_bundle_and_verify(url: str, tmp_path: Path) -> None:
    path = tmp_path / "b"
    result = call("-d", url, "bundle", "i1", "-o", str(path))
    assert (result.exit_code, result.stdout.strip()) == (0, str(path))
    assert "content digest sha256:" in result.stderr
    assert call("-d", url, "bundle", "i1", "-o", str(path)).exit_code == 2
    assert "intact, unsigned" in call("verify", str(path)).stdout
    assert json.loads(call("verify", str(path), "-f", "json").stdout)[0]["ok"] is True
    (path / "data" / "run.parquet").write_bytes(b"")
    broken = call("verify", str(path))
    assert broken.exit_code == 1
    assert "changed: data/run.parquet" in broken.stdout
    nothing = call("verify", str(tmp_path / "nothing"))
    assert nothing.exit_code == 2
    assert nothing.stderr.endswith("expected a bundle, which is a directory or a zip file; found nothing\n")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Where a key pair lies, made by the command."""
    path = tmp_path / "signer"
    result = call("keygen", str(path))
    assert (result.exit_code, result.stdout) == (0, f"{path}\n{path}.pub\n")
    assert result.stderr.startswith("key id ")
    return path


def test_a_signed_bundle_in_one_file(url: str, tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(
        "-d", url, "bundle", "i1", "--sign-key", str(keys), "--zip", "--redact", "goal", "--redact", "content_hash"
    )
    assert (result.exit_code, result.stdout) == (0, "i1.bundle.zip\n")
    assert "redacted: runs.goal, trace_steps.content_hash\n" in result.stderr
    key_id = result.stderr.splitlines()[-1].removeprefix("signed by ")
    trusting = call("verify", "i1.bundle.zip", "--trusted-key", f"{keys}.pub", "--require-signature")
    assert (trusting.exit_code, trusting.stderr) == (0, "")
    assert trusting.stdout.splitlines()[0] == f"i1.bundle.zip: authentic (signed by {key_id}, trusted)"
    assert "  redacted: runs.goal, trace_steps.content_hash" in trusting.stdout.splitlines()
    found = json.loads(call("verify", "i1.bundle.zip", "--trusted-key", f"{keys}.pub", "--format", "json").stdout)
    assert [(one["ok"], one["authentic"], one["trusted"]) for one in found] == [(True, True, [key_id])]
    assert call("verify", "i1.bundle.zip", "-f", "csv").stdout == (
        'path,verdict,findings\ni1.bundle.zip,"intact, signed by an untrusted key",0\n'
    )


def test_whom_you_trust_decides(url: str, tmp_path: Path, keys: Path) -> None:
    signed, unsigned = tmp_path / "signed", tmp_path / "unsigned"
    assert call("-d", url, "bundle", "i1", "-o", str(signed), "--sign-key", str(keys)).exit_code == 0
    assert call("-d", url, "bundle", "i1", "-o", str(unsigned)).exit_code == 0
    assert call("keygen", str(tmp_path / "other")).exit_code == 0
    for path, key in ((signed, "other"), (unsigned, "signer")):
        trusting = ("verify", str(path), "--trusted-key", f"{tmp_path / key}.pub")
        result = call(*trusting)
        assert result.exit_code == 0
        assert result.stderr == "1 of 1 intact, but signed by none of your keys; --require-signature fails such\n"
        required = call(*trusting, "--require-signature")
        assert (required.exit_code, required.stderr) == (1, "")
        assert f"{path}: failed\n" in required.stdout
        assert (
            "  signature: attestation.dsse.json: expected a signature by one of 1 trusted keys; found"
            in required.stdout
        )
    assert call("verify", str(signed), "--require-signature").exit_code == 1
    result = call("verify", str(signed), "--trusted-key", str(keys))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "a private key is shown to nobody: give its .pub file" in result.stderr


def test_a_passphrase_comes_from_the_environment_or_is_asked_for(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "signer"
    result = call("keygen", str(path), "--passphrase")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "error: the passphrase for the new key is needed; set EXPORTTOOLS_KEY_PASSPHRASE, or run on a terminal to be asked\n"
    )
    monkeypatch.setenv("EXPORTTOOLS_KEY_PASSPHRASE", "correct horse")
    assert call("keygen", str(path), "--passphrase").exit_code == 0
    assert b"ENCRYPTED" in path.read_bytes()
    result = call("-d", url, "bundle", "i1", "-o", str(tmp_path / "b"), "--sign-key", str(path))
    assert result.exit_code == 0
    monkeypatch.setenv("EXPORTTOOLS_KEY_PASSPHRASE", "wrong")
    result = call("-d", url, "bundle", "i1", "-o", str(tmp_path / "c"), "--sign-key", str(path))
    assert result.exit_code == 2
    assert "the passphrase is wrong, or the key is damaged" in result.stderr
    assert "wrong" not in result.stderr.replace("the passphrase is wrong", "")
    monkeypatch.delenv("EXPORTTOOLS_KEY_PASSPHRASE")
    result = call("-d", url, "bundle", "i1", "-o", str(tmp_path / "c"), "--sign-key", str(path))
    assert result.exit_code == 2
    assert f"the passphrase of {path} is needed" in result.stderr
    assert not (tmp_path / "c").exists()


def test_what_cannot_be_redacted(url: str, tmp_path: Path) -> None:
    result = call("-d", url, "bundle", "i1", "-o", str(tmp_path / "b"), "--redact", "tenant_id")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "'incidents.tenant_id' cannot be redacted: every row needs a value there. Redactable columns: " in result.stderr
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("command", ["show", "bundle"])
def test_a_missing_id_is_one_line_and_exit_code_1(url: str, command: str) -> None:
    result = call("-d", url, command, "nope\x1b[31m")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "no incident and no run has the id 'nope\\x1b[31m'\n"


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


def test_the_embedded_sample_is_said() -> None:
    result = call("incidents")
    assert "reading the embedded sample" in result.stderr
    assert len(result.stdout.splitlines()) == 10


def test_sample(tmp_path: Path) -> None:
    result = call("sample", "--runs", "60", "--into", f"sqlite:///{tmp_path / 's.sqlite'}")
    assert result.exit_code == 0
    assert "60 runs" in result.stdout
    assert len(call("sample", "--runs", "60", "-o", str(tmp_path / "out")).stdout.splitlines()) == 4


def test_demo_takes_an_incident_from_database_to_proof(tmp_path: Path) -> None:
    for name in ("demo", "demo-2"):
        result = call("demo", "-o", str(tmp_path / "demo"))
        assert result.exit_code == 0, result.stderr
        assert "inc-0000-1.bundle: authentic (signed by " in result.stdout
        (command,) = [line.split()[1:] for line in result.stdout.splitlines() if "--require-signature" in line]
        assert call(*command).exit_code == 0
        assert (tmp_path / name / "timeline.png").stat().st_size > 10_000
        notebook = json.loads((tmp_path / name / "investigate_incident.ipynb").read_text())
        assert (
            sum("image/png" in output.get("data", {}) for c in notebook["cells"] for output in c.get("outputs", []))
            == 4
        )


def test_a_bundle_is_verified_without_drivers_or_pandas() -> None:
    out = subprocess.run(
        [sys.executable, "-c", "import exporttools.bundle, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert {"pandas", "matplotlib", "sqlalchemy", "psycopg", "adbc_driver_manager"} & set(out.stdout.split()) == set()
