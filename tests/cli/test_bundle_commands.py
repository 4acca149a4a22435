"""The commands bundle, verify and keygen: standard output, standard error and exit code."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from exporttools import BundleUnreadable, compare_bundles, read_bundle, verify_bundle
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
    trusting = call("verify", "i1.bundle.zip", "--trusted-key", f"{keys}.pub", "--incident", "i1")
    assert (trusting.exit_code, trusting.stderr) == (0, "")
    assert trusting.stdout.splitlines()[0] == 'authentic, signed by signer.pub: "i1.bundle.zip"'
    for line in ("redacted    runs.goal, trace_steps.content_hash", f"key         {key_id} (signer.pub)"):
        assert f"  {line}" in trusting.stdout.splitlines()
    found = json.loads(call("verify", "i1.bundle.zip", "--trusted-key", f"{keys}.pub", "--format", "json").stdout)
    assert [(one["ok"], one["authentic"], one["signed_by"]) for one in found] == [
        (True, True, [{"name": "signer.pub", "key_id": key_id}])
    ]


def test_whom_you_trust_decides(url: str, tmp_path: Path, keys: Path) -> None:
    signed, unsigned = tmp_path / "signed", tmp_path / "unsigned"
    assert call("-d", url, "bundle", "i1", "-o", str(signed), "--sign-key", str(keys)).exit_code == 0
    assert call("-d", url, "bundle", "i1", "-o", str(unsigned)).exit_code == 0
    assert call("keygen", str(tmp_path / "other")).exit_code == 0
    for path, key in ((signed, "other"), (unsigned, "signer")):
        trusting = ("verify", str(path), "--trusted-key", f"{tmp_path / key}.pub")
        result = call(*trusting)
        told = "none by a trusted key" if path == signed else "no signature"
        assert (result.exit_code, result.stderr) == (1, "")
        assert result.stdout == (
            f'failed: "{path}"\n  not-trusted: attestation.dsse.json: expected a signature by {key}.pub; found {told}\n'
        )
        assert call(*trusting, "--allow-untrusted").exit_code == 0
    result = call("verify", str(signed), "--trusted-key", str(keys))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "never share a private key: give its .pub file" in result.stderr


FORGED = "authentic, signed by signer.pub"


@pytest.fixture
def several(url: str, tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The arguments of a command on an authentic bundle, one that is not, a path where there is nothing, and another one."""
    monkeypatch.chdir(tmp_path)
    assert call("-d", url, "bundle", "i1", "-o", "good", "--sign-key", keys).exit_code == 0
    assert call("-d", url, "bundle", "i1", "-o", FORGED).exit_code == 0
    assert call("-d", url, "bundle", "r1", "-o", "also.zip", "--zip", "--sign-key", keys).exit_code == 0
    return ("verify", "good", FORGED, "miss\nauthentic", "also.zip", "--trusted-key", "signer.pub")


MISSING = '"miss\\nauthentic": expected a bundle, which is a directory or a zip file; found nothing'


def test_a_missing_path_does_not_hide_the_verdicts_on_others(several: tuple[str, ...]) -> None:
    result = call(*several)
    verdicts = [line for line in result.stdout.splitlines() if not line.startswith("  ")]
    assert verdicts == [f'{FORGED}: "good"', f'failed: "{FORGED}"', f'{FORGED}: "also.zip"']
    assert (result.exit_code, result.stderr) == (
        2, f"error: {MISSING}\n4 bundles: 2 authentic, 1 failed, 1 could not be read\n",
    )  # fmt: skip
    assert call(*(argument for argument in several if not argument.startswith("miss"))).exit_code == 1


def test_a_missing_path_in_json_and_csv(several: tuple[str, ...]) -> None:
    result = call(*several, "-f", "json")
    found = json.loads(result.stdout)
    assert result.exit_code == 2
    assert [one["path"] for one in found] == list(several[1:5])
    assert [one["verdict"] for one in found] == [FORGED, "failed", "unreadable", FORGED]
    assert [one["authentic"] for one in found] == [True, False, False, True]
    assert found[2] == {
        "path": "miss\nauthentic", "verdict": "unreadable", "ok": False, "authentic": False, "error": MISSING,
    }  # fmt: skip
    result = call(*several, "-f", "csv")
    assert result.exit_code == 2
    assert len(result.stdout.splitlines()) == 5
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(row["verdict"], row["path"]) for row in rows] == [
        (FORGED, "good"), ("failed", FORGED), ("unreadable", '"miss\\nauthentic"'), (FORGED, "also.zip"),
    ]  # fmt: skip
    kept = (
        "ok",
        "authentic",
        "findings",
        "incident_id",
        "run_id",
        "steps",
        "tokens",
        "cost_cents",
        "signed_by",
        "error",
    )
    assert [tuple(row[name] for name in kept) for row in rows] == [
        ("True", "True", "0", "i1", "r1", "3", "303", "1.5", "signer.pub", ""),
        ("False", "False", "1", "", "", "", "", "", "", ""),
        ("False", "False", "", "", "", "", "", "", "", MISSING),
        ("True", "True", "0", "", "r1", "3", "303", "1.5", "signer.pub", ""),
    ]


def test_an_empty_path_is_not_the_working_directory(several: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("good")
    assert call("verify", ".").exit_code == 0
    result = call("verify", "", "-f", "json")
    error = "the path is empty, perhaps from a variable that is not set; expected that of a bundle"
    assert (result.exit_code, result.stderr) == (2, f"error: {error}\n")
    assert [(one["path"], one["verdict"], one["error"]) for one in json.loads(result.stdout)] == [
        ("", "unreadable", error)
    ]
    for read in (verify_bundle, read_bundle, lambda path: compare_bundles(path, ".")):
        with pytest.raises(BundleUnreadable, match="the path is empty"):
            read("")


def test_nothing_but_missing_paths(tmp_path: Path) -> None:
    result = call("verify", tmp_path / "a", tmp_path / "b", "-f", "json")
    assert (result.exit_code, len(json.loads(result.stdout))) == (2, 2)
    assert result.stderr.splitlines()[-1] == "2 bundles: 2 could not be read"


def test_help_says_what_the_exit_codes_mean() -> None:
    told = " ".join(call("verify", "--help").stdout.split())
    assert (
        "Exit codes: 0, every bundle is intact and meets what you asked for; 1, one is not or does not; "
        "2, one cannot be read as a bundle at all, or a key or an option is not valid."
    ) in told
    for option in ("--trusted-key", "--threshold", "--allow-untrusted", "--incident", "--run"):
        assert option in told
    assert "--require-signature" not in told


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
    result = call("keygen", str(tmp_path / "open"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: EXPORTTOOLS_KEY_PASSPHRASE is set but empty; give it the passphrase, or unset it\n"
    assert not (tmp_path / "open").exists()


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
