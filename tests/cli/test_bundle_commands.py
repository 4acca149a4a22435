"""The commands bundle, verify and keygen: standard output, standard error and exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.invoking import call


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
        assert result.stderr == (
            "1 of 1 bundle intact, but not signed by one of your trusted keys; --require-signature makes that a failure\n"
        )
        required = call(*trusting, "--require-signature")
        assert (required.exit_code, required.stderr) == (1, "")
        assert f"{path}: failed\n" in required.stdout
        assert (
            "  signature: attestation.dsse.json: expected a signature by a trusted key (1 given); found"
            in required.stdout
        )
    assert call("verify", str(signed), "--require-signature").exit_code == 1
    result = call("verify", str(signed), "--trusted-key", str(keys))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "never share a private key: give its .pub file" in result.stderr


def test_a_passphrase_comes_from_the_environment_or_is_asked_for(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "signer"
    result = call("keygen", str(path), "--passphrase")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "error: the passphrase for the new key is needed; set EXPORTTOOLS_KEY_PASSPHRASE, or run in a terminal to be asked for it\n"
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


def test_a_passphrase_in_the_environment_never_makes_an_open_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPORTTOOLS_KEY_PASSPHRASE", "correct horse")
    path = tmp_path / "signer"
    result = call("keygen", str(path))
    assert (result.exit_code, result.stdout) == (0, f"{path}\n{path}.pub\n")
    assert result.stderr.splitlines()[1:] == ["encrypted with the passphrase in EXPORTTOOLS_KEY_PASSPHRASE"]
    assert path.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    monkeypatch.setenv("EXPORTTOOLS_KEY_PASSPHRASE", "")
    assert call("keygen", str(tmp_path / "open")).exit_code == 0
    assert (tmp_path / "open").read_text().startswith("-----BEGIN PRIVATE KEY-----\n")


def test_several_keys_sign(url: str, tmp_path: Path, keys: Path) -> None:
    assert call("keygen", str(tmp_path / "second")).exit_code == 0
    signing = ("-d", url, "bundle", "i1", "-o", str(tmp_path / "b"), "--sign-key", str(keys), "--sign-key")
    result = call(*signing, str(tmp_path / "second"))
    assert result.exit_code == 0
    signed_by = json.loads((tmp_path / "b/data/bundle.json").read_text())["signed_by"]
    assert result.stderr.splitlines()[-2:] == [f"signed by {key_id}" for key_id in signed_by]
    assert len(set(signed_by)) == 2
    again = call(*signing[:5], str(tmp_path / "c"), *signing[6:], str(keys))
    assert (again.exit_code, again.stdout) == (2, "")
    assert again.stderr == f"error: the signing key {signed_by[0]} is given twice; give each key once\n"


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_private_key_that_others_can_read_is_noted(url: str, tmp_path: Path, keys: Path) -> None:
    keys.chmod(0o640)
    result = call("-d", url, "bundle", "i1", "-o", str(tmp_path / "b"), "--sign-key", str(keys))
    assert result.exit_code == 0
    warned = f"{keys}: others than its owner can read this private key; run: chmod 600 {keys}"
    assert result.stderr.splitlines()[0] == warned


def test_what_cannot_be_redacted(url: str, tmp_path: Path) -> None:
    result = call("-d", url, "bundle", "i1", "-o", str(tmp_path / "b"), "--redact", "tenant_id")
    assert (result.exit_code, result.stdout) == (2, "")
    assert (
        "'incidents.tenant_id' cannot be redacted: every row needs a value there. Redactable columns: " in result.stderr
    )
    assert not (tmp_path / "b").exists()


def test_a_bundle_is_verified_without_drivers_or_pandas() -> None:
    out = subprocess.run(
        [sys.executable, "-c", "import exporttools.bundle, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert {"pandas", "matplotlib", "sqlalchemy", "psycopg", "adbc_driver_manager"} & set(out.stdout.split()) == set()
