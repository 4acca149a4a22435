"""Files of keys: names and periods in them, directories of them, who can read them, and what a passphrase costs to guess."""

from __future__ import annotations

import base64
import datetime as dt
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exporttools import load_trusted_keys, verify_bundle, write_bundle
from exporttools.bundle.encrypted_keys import PBKDF2_ROUNDS
from exporttools.bundle.keys import TrustedKey, load_signing_key, load_trusted_key, write_key_pair
from exporttools.errors import ConfigError
from tests.bundle.bags import a_bundle, needs_openssl, shell
from tests.bundle.test_keys import ED25519, OPENSSH_ENCRYPTED, openssh, private_pem, public_pem

PEM = public_pem(ED25519)
KEY = load_trusted_key(PEM)
NEW_YEAR = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

# Names and periods


@pytest.mark.parametrize(
    ("lines", "name", "not_before", "not_after"),
    [
        ("", "signer.pub", None, None),
        ("name: Jane Roe, laptop\n", "Jane Roe, laptop", None, None),
        ("Name = Jane\r\nNot-Before: 2026-01-01\r\n", "Jane", NEW_YEAR, None),
        ("# name: Jane\n\n  not after: 2026-01-01T00:00:00Z\n", "Jane", None, NEW_YEAR),
        ("\ufeffname: Jane\n", "Jane", None, None),
        ("\ufeff", "signer.pub", None, None),
        ("not_after: 2025-12-31\n", "signer.pub", None, NEW_YEAR - dt.timedelta(microseconds=1)),
        ("not_before: 2026-01-01T02:00:00+02:00\n", "signer.pub", NEW_YEAR, None),
        ("Key Attributes: <No Attributes>\nfriendlyName: x\nthe name: y\n", "signer.pub", None, None),
    ],
)
def test_what_lines_before_a_key_say(tmp_path: Path, lines: str, name: str, not_before: Any, not_after: Any) -> None:
    (tmp_path / "signer.pub").write_bytes(lines.encode() + PEM)
    key = load_trusted_key(tmp_path / "signer.pub")
    assert (key.name, key.not_before, key.not_after) == (name, not_before, not_after)
    assert key == KEY
    assert hash(key) == hash(KEY)


def test_the_name_of_an_openssh_key_is_its_comment(tmp_path: Path) -> None:
    line = openssh(ED25519)
    for text, name in (
        (line, "id.pub"), (line + b" jane@example\n", "jane@example"), (b"# name: Jane\n" + line + b" jane@example", "Jane"),
        (line + b"  J\xc3\xbcrgen R.  \n", "J\u00fcrgen R."),
    ):  # fmt: skip
        (tmp_path / "id.pub").write_bytes(text)
        assert (load_trusted_key(tmp_path / "id.pub"), load_trusted_key(tmp_path / "id.pub").name) == (KEY, name)
    assert load_trusted_key(line).name is None


def test_what_a_key_is_called() -> None:
    assert KEY.label == f"{KEY.key_id[:16]}\u2026"
    assert TrustedKey(KEY.octets, "Jane\n\x1b[31mRoe").label == r'"Jane\n\u001b[31mRoe"'
    assert TrustedKey(KEY.octets, "Jane, Bob").label == '"Jane, Bob"'
    assert load_trusted_key(KEY) is KEY


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("name: a\nName: b\n", "the key given: expected one name before the key; found two"),
        ("name:\n", "the key given: the line 'name:' before the key has no value"),
        (
            "not_after 2020-01-01\n",
            "the key given: the line 'not_after 2020-01-01' before the key has no colon before its value",
        ),
        (
            "not_after: tomorrow\n",
            "the key given: not_after: 'tomorrow' is not a time; use for example 2026-10-05 or 2026-10-05T14:00:00Z",
        ),
        (
            "name: Jane\nnot_before: 2027-01-01\nnot_after: 2026-01-01\n",
            "the key given: the key Jane is never valid: not_after 2026-01-01 23:59:59.999999+00:00 is before "
            "not_before 2027-01-01 00:00:00+00:00",
        ),
    ],
)
def test_lines_before_a_key_that_are_not_valid(lines: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_trusted_key(lines.encode() + PEM)
    assert str(caught.value) == message


@pytest.mark.parametrize("key", [PEM, PEM.replace(b"\n", b"\r\n"), openssh(ED25519) + b" jane@example\n"])
@pytest.mark.parametrize("line", ["not_after: 2020-01-01", "# Name: Jane"])
def test_a_line_after_a_key_is_not_overlooked(key: bytes, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_trusted_key(key + f"{line}\n".encode())
    assert str(caught.value) == f"the key given: the line '{line}' stands after the key; move it before the key"


def test_a_bundle_that_was_written_outside_of_a_keys_period_is_not_authentic(tmp_path: Path) -> None:
    path = write_bundle(a_bundle(), tmp_path / "b", signing_key=ED25519)
    for lines, authentic in (
        (b"", True), (b"not_before: 2000-01-01\n", True), (b"not_after: 2000-01-01\n", False),
        (b"not_before: 9999-01-01\n", False),
    ):  # fmt: skip
        (tmp_path / "signer.pub").write_bytes(lines + PEM)
        assert verify_bundle(path, trusted_keys=tmp_path / "signer.pub").authentic is authentic


def test_a_period_has_a_time_zone() -> None:
    for name in ("not_before", "not_after"):
        with pytest.raises(ConfigError) as caught:
            TrustedKey(KEY.octets, **{name: dt.datetime(2026, 1, 1)})  # type: ignore[arg-type]
        assert str(caught.value) == f"{name} is 2026-01-01 00:00:00, without a time zone; give one such as datetime.UTC"


# Several keys


def test_keys_of_a_directory_and_others(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    others = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2)]
    for name, pem in (("b.pub", public_pem(others[0])), ("a.pub", PEM), (".hidden", b"not a key"), ("again.pub", PEM)):
        (keys / name).write_bytes(pem)
    (keys / ".git").mkdir()
    (tmp_path / "c.pub").write_bytes(public_pem(others[1]))
    (keys / "c.pub").symlink_to(tmp_path / "c.pub")
    assert [key.name for key in load_trusted_keys(keys)] == ["a.pub", "b.pub", "c.pub"]
    assert [key.name for key in load_trusted_keys([str(tmp_path / "c.pub"), keys])] == ["c.pub", "a.pub", "b.pub"]
    assert load_trusted_keys(PEM) == load_trusted_keys([KEY, KEY, PEM]) == load_trusted_keys(KEY) == [KEY]
    assert load_trusted_keys(ED25519.public_key()) == [KEY]


def test_what_a_directory_of_keys_must_not_have(tmp_path: Path) -> None:
    (tmp_path / ".hidden").write_bytes(PEM)
    with pytest.raises(ConfigError) as caught:
        load_trusted_keys(tmp_path)
    assert str(caught.value) == f"{tmp_path}: expected a directory of public keys; found no key in it"
    (tmp_path / "a.pub").write_bytes(PEM)
    for name, make, message in (
        ("README", lambda path: path.write_text("keys"), "expected an Ed25519 public key as PEM or in OpenSSH's format; found no key in it"),
        ("k", lambda path: path.write_bytes(private_pem(ED25519)),
         "expected an Ed25519 public key as PEM or in OpenSSH's format; found PRIVATE KEY; never share a private key: give its .pub file"),
        ("old", Path.mkdir, "expected a public key; found something that is not a file; move it away"),
        ("pipe", os.mkfifo, "expected a public key; found something that is not a file; move it away"),
        ("gone", lambda path: path.symlink_to("nowhere"), "expected a public key; found something that is not a file; move it away"),
    ):  # fmt: skip
        make(tmp_path / name)
        with pytest.raises(ConfigError) as caught:
            load_trusted_keys([KEY, tmp_path])
        assert str(caught.value) == f"{tmp_path / name}: {message}"
        (tmp_path / name).rmdir() if name == "old" else (tmp_path / name).unlink()


def test_no_key_at_all_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        load_trusted_keys([])
    assert str(caught.value) == "no trusted key was given; give at least one, or leave trusted_keys out to demand none"


def test_a_key_with_two_periods_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"not_after: 2026-01-01\n" + PEM)
    (tmp_path / "b").write_bytes(PEM)
    with pytest.raises(ConfigError) as caught:
        load_trusted_keys(tmp_path)
    assert str(caught.value) == (
        f"the key {KEY.key_id} is given twice, as a and b, with different not_before or not_after; remove one"
    )


# Who can read a private key


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_private_key_that_others_can_read_warns(tmp_path: Path) -> None:
    key = tmp_path / "bundle.key"
    for pem, passphrase in ((private_pem(ED25519), None), (private_pem(ED25519, b"x"), "x")):
        key.write_bytes(pem)
        for mode in (0o644, 0o640, 0o604):
            key.chmod(mode)
            warned = re.escape(f"{key}: others than its owner can read this private key; run: chmod 600 {key}")
            with pytest.warns(UserWarning, match=f"^{warned}$"):
                assert load_signing_key(key, passphrase=passphrase).public_key == KEY
        for mode in (0o600, 0o400):
            key.chmod(mode)
            assert load_signing_key(key, passphrase=passphrase).public_key == KEY
    key.with_suffix(".pub").write_bytes(PEM)
    key.with_suffix(".pub").chmod(0o644)
    assert load_trusted_key(key.with_suffix(".pub")) == KEY


# Passphrases


def test_a_passphrase_is_as_dear_to_guess_as_owasp_advises(tmp_path: Path) -> None:
    assert PBKDF2_ROUNDS >= 600_000
    write_key_pair(tmp_path / "k", passphrase="x" * 20)
    der = base64.b64decode("".join((tmp_path / "k").read_text().splitlines()[1:-1]))
    assert PBKDF2_ROUNDS.to_bytes(3, "big") in der
    assert load_signing_key(tmp_path / "k", passphrase="x" * 20).public_key == load_trusted_key(tmp_path / "k.pub")


@needs_openssl
def test_openssl_says_the_same_of_a_passphrase(tmp_path: Path) -> None:
    write_key_pair(tmp_path / "k", passphrase="x")
    told = shell("openssl asn1parse -in k", tmp_path)
    for expected in ("PBES2", "PBKDF2", "hmacWithSHA256", "aes-256-cbc", f"{PBKDF2_ROUNDS:06X}"):
        assert expected in told


def test_an_openssh_key_under_a_passphrase() -> None:
    pytest.importorskip("bcrypt", reason="OpenSSH's passphrases need bcrypt, which is not installed")
    assert load_signing_key(OPENSSH_ENCRYPTED, passphrase="a long secret").public_key.octets
    with pytest.raises(ConfigError, match="the passphrase is wrong, or the key is damaged"):
        load_signing_key(OPENSSH_ENCRYPTED, passphrase="another")


def test_an_openssh_key_under_a_passphrase_without_bcrypt() -> None:
    code = f"""
import sys
sys.modules["bcrypt"] = None
from exporttools import load_signing_key
try:
    load_signing_key({OPENSSH_ENCRYPTED!r}, passphrase="a long secret")
except Exception as error:
    print(f"{{type(error).__name__}}: {{error}}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "ConfigError: the key given: OpenSSH's passphrases need the package bcrypt, which is not installed: pip install bcrypt\n"
    )


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_keys_of_ssh_keygen_are_read(tmp_path: Path) -> None:
    shell("ssh-keygen -q -t ed25519 -N '' -C 'Jane Roe' -f id_ed25519", tmp_path)
    key = load_signing_key(tmp_path / "id_ed25519")
    assert load_trusted_key(tmp_path / "id_ed25519.pub") == key.public_key
    assert load_trusted_key(tmp_path / "id_ed25519.pub").name == "Jane Roe"
    shell("ssh-keygen -q -t ecdsa -N '' -f id_ecdsa", tmp_path)
    for load, name in ((load_signing_key, "id_ecdsa"), (load_trusted_key, "id_ecdsa.pub")):
        with pytest.raises(ConfigError, match="found one for EC"):
            load(tmp_path / name)  # type: ignore[operator]
