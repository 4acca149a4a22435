"""Keys: those of openssl are ours and ours are openssl's; nothing is overwritten; no message shows a secret."""

from __future__ import annotations

import base64
import copy
import hashlib
import os
import pickle
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from exporttools.bundle.keys import TrustedKey, load_signing_key, load_trusted_key, write_key_pair
from exporttools.errors import ConfigError, ExportToolsError, MissingExtra
from tests.bundle.bags import needs_openssl, shell

PASSPHRASE = "a long secret: Grüße"
PRIVATE = "expected an Ed25519 private key as PEM"
PUBLIC = "expected an Ed25519 public key as PEM or in OpenSSH's format"
MAKE_ONE = "make one with: openssl genpkey -algorithm ed25519 -out bundle.key"


def private_pem(key: Any, passphrase: bytes | None = None, form: str = "PKCS8") -> bytes:
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return bytes(key.private_bytes(serialization.Encoding.PEM, getattr(serialization.PrivateFormat, form), encryption))


def public_pem(key: Any) -> bytes:
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_key().public_bytes(serialization.Encoding.PEM, info))


def openssh(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH))


# ssh-keygen -t ed25519 -N 'a long secret' -C jane@example; TEST ONLY
OPENSSH_ENCRYPTED = b"""-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABAMRR16nM
MA0XsLYu1lnV4BAAAAEAAAAAEAAAAzAAAAC3NzaC1lZDI1NTE5AAAAIKWMliUHdO9PGh4j
8rHWcQDoVAwQ4lLWoZ+43VKpbnXYAAAAkM1b2/6tUitxLf8taAA1Cmb+btql2NLSNc8T09
phj5kEm31oHtzhPzvsnGGm5HlvVQsQk6P6PMyCnayh51MI+mgs/oONrDMn7s0cOxR6oMzm
Q+n0Pt52DsqMuw+1b6X7BCUfAhfXbok/s0qusWc4A4Kq9Yoh4FovJ8b39ZJEdZXpeN0Y89
cYf0XHE549tDz19A==
-----END OPENSSH PRIVATE KEY-----
"""
ED25519 = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
OTHERS = {"RSA": RSA, "EC": EC, "X25519": x25519.X25519PrivateKey.generate(), "Ed448": ed448.Ed448PrivateKey.generate()}


# Signing and checking


def test_rfc_8032_test_2() -> None:
    secret = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    key = load_signing_key(Ed25519PrivateKey.from_private_bytes(secret))
    assert key.trusted_key.octets.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert key.sign(b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert key.trusted_key.verifies(key.sign(b"\x72"), b"\x72")


def test_only_the_signature_of_this_key_over_this_data_verifies() -> None:
    key = load_signing_key(ED25519)
    signature = key.sign(b"data")
    trusted = key.trusted_key
    assert trusted.verifies(signature, b"data")
    assert not trusted.verifies(signature, b"datum")
    assert not load_signing_key(Ed25519PrivateKey.generate()).trusted_key.verifies(signature, b"data")
    for wrong in (b"", signature[:-1], signature + b"\0", signature[:32] + bytes(32), bytes(64)):
        assert not trusted.verifies(wrong, b"data")


def test_a_signature_with_a_larger_scalar_does_not_verify() -> None:
    """RFC 8032 §5.1.7: S and S + L sign the same; only the smaller is one, or a signature could be changed unseen."""
    key = load_signing_key(ED25519)
    signature = key.sign(b"data")
    order = 2**252 + 27742317777372353535851937790883648493
    larger = int.from_bytes(signature[32:], "little") + order
    assert not key.trusted_key.verifies(signature[:32] + larger.to_bytes(32, "little"), b"data")


def test_the_public_half_in_der() -> None:
    trusted = load_signing_key(ED25519).trusted_key
    pem = public_pem(ED25519).decode().splitlines()
    assert trusted.der == base64.b64decode("".join(pem[1:-1]))
    assert TrustedKey.from_der(trusted.der) == trusted
    assert trusted.key_id == hashlib.sha256(trusted.der).hexdigest()


@pytest.mark.parametrize(
    "change", [lambda der: der[:-1], lambda der: der + b"\0", lambda der: b"\x31" + der[1:], lambda der: b""]
)
def test_der_of_anything_else(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ValueError, match="^a public key that is not an Ed25519 SubjectPublicKeyInfo$"):
        TrustedKey.from_der(change(load_signing_key(ED25519).trusted_key.der))


def test_a_key_of_another_length() -> None:
    with pytest.raises(ConfigError) as caught:
        TrustedKey(bytes(31))
    assert str(caught.value) == "an Ed25519 public key has 32 octets; found 31"


def test_a_signing_key_is_never_shown_pickled_or_copied() -> None:
    key = load_signing_key(ED25519)
    assert repr(key) == str(key) == f"SigningKey(key_id='{key.key_id}')"
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="a signing key cannot be pickled or copied; load it where it signs"):
            attempt(key)
    with pytest.raises(AttributeError):
        key._private = Ed25519PrivateKey.generate()  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(key.trusted_key)) == key.trusted_key


# Loading


def test_every_form_of_a_key_loads(tmp_path: Path) -> None:
    key = load_signing_key(ED25519)
    (tmp_path / "k").touch(0o600)
    (tmp_path / "k").write_bytes(private_pem(ED25519))
    (tmp_path / "k.pub").write_bytes(public_pem(ED25519))
    for source in (
        tmp_path / "k",
        str(tmp_path / "k"),
        private_pem(ED25519),
        private_pem(ED25519, form="OpenSSH"),
        ED25519,
        key,
    ):
        assert load_signing_key(source).key_id == key.key_id
    assert load_signing_key(key) is key
    for public in (
        tmp_path / "k.pub",
        str(tmp_path / "k.pub"),
        public_pem(ED25519),
        openssh(ED25519),
        ED25519.public_key(),
        key.trusted_key,
    ):
        assert load_trusted_key(public) == key.trusted_key


@pytest.mark.parametrize("passphrase", [PASSPHRASE, PASSPHRASE.encode(), "x" * 1023])
def test_an_encrypted_key_loads(passphrase: str | bytes) -> None:
    secret = passphrase.encode() if isinstance(passphrase, str) else passphrase
    key = load_signing_key(private_pem(ED25519, secret), passphrase=passphrase)
    assert key.key_id == load_signing_key(ED25519).key_id


def test_a_passphrase_is_asked_for_only_where_it_is_needed() -> None:
    asked: list[int] = []

    def ask() -> str:
        asked.append(1)
        return PASSPHRASE

    assert load_signing_key(private_pem(ED25519), passphrase=ask).key_id == load_signing_key(ED25519).key_id
    assert asked == []
    encrypted = private_pem(ED25519, PASSPHRASE.encode())
    assert load_signing_key(encrypted, passphrase=ask).key_id == load_signing_key(ED25519).key_id
    assert asked == [1]


def test_a_key_comes_through_a_pipe(tmp_path: Path) -> None:
    """As from a shell's <(...)."""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[private_pem(ED25519)])
    writer.start()
    assert load_signing_key(tmp_path / "pipe").key_id == load_signing_key(ED25519).key_id
    writer.join()


def test_lines_around_the_pem_are_passed_over() -> None:
    for before, after in ((b"Key Attributes\n", b""), (b"", b"\nmore\n"), (b"\r\n", b"\r\n")):
        assert load_signing_key(before + private_pem(ED25519) + after)
        assert load_trusted_key(before + public_pem(ED25519) + after)


def _damaged(pem: bytes) -> bytes:
    """The last line of base64 without its beginning."""
    lines = pem.splitlines(keepends=True)
    return b"".join([*lines[:-2], lines[-2][8:], lines[-1]])


SIGNING_ERRORS: dict[str, tuple[Any, str | bytes | None, str]] = {
    "no PEM": (b"secret", None, f"the key given: {PRIVATE}; found no key in it"),
    "nothing": (b"", None, f"the key given: {PRIVATE}; found no key in it"),
    "no end": (private_pem(ED25519)[:60], None, f"the key given: {PRIVATE}; the key is damaged"),
    "damaged": (_damaged(private_pem(ED25519)), None, f"the key given: {PRIVATE}; the key is damaged"),
    "damaged, encrypted": (
        _damaged(private_pem(ED25519, b"x")), "x",
        f"the key given: {PRIVATE}; the passphrase is wrong, or the key is damaged",
    ),
    "too large": (b"#" * 65_537, None, f"the key given: {PRIVATE}; found more than 65,536 bytes"),
    "public": (
        public_pem(ED25519), None,
        f"the key given: {PRIVATE}; found PUBLIC KEY; give the file of the private key, without .pub",
    ),
    "two keys": (
        private_pem(ED25519) + private_pem(Ed25519PrivateKey.generate()), None,
        f"the key given: {PRIVATE}; found 2 keys; give each its own file",
    ),
    "a private key and its public key": (
        private_pem(ED25519) + public_pem(ED25519), None, f"the key given: {PRIVATE}; found 2 keys; give each its own file",
    ),
    "OpenSSH, another kind": (
        private_pem(RSA, form="OpenSSH"), None, f"the key given: {PRIVATE}; found one for RSA; {MAKE_ONE}",
    ),
    "OpenSSH, damaged": (
        private_pem(ED25519, form="OpenSSH")[:150], None, f"the key given: {PRIVATE}; the key is damaged",
    ),
    "OpenSSH, public": (
        openssh(ED25519), None,
        f"the key given: {PRIVATE}; found OPENSSH PUBLIC KEY; give the file of the private key, without .pub",
    ),
    "OpenSSH, needless passphrase": (
        private_pem(ED25519, form="OpenSSH"), PASSPHRASE,
        "the key given: a passphrase was given for a key that is not encrypted; leave it out",
    ),
    "OpenSSH, no passphrase": (OPENSSH_ENCRYPTED, None, "the key given: the key is encrypted; give its passphrase"),
    "PKCS#1": (
        private_pem(RSA, form="TraditionalOpenSSL"), None, f"the key given: {PRIVATE}; found RSA PRIVATE KEY; {MAKE_ONE}",
    ),
    "SEC 1": (
        private_pem(EC, form="TraditionalOpenSSL"), None, f"the key given: {PRIVATE}; found EC PRIVATE KEY; {MAKE_ONE}",
    ),
    "no passphrase": (private_pem(ED25519, b"x"), None, "the key given: the key is encrypted; give its passphrase"),
    "wrong passphrase": (
        private_pem(ED25519, b"x"), PASSPHRASE,
        f"the key given: {PRIVATE}; the passphrase is wrong, or the key is damaged",
    ),
    "needless passphrase": (
        private_pem(ED25519), PASSPHRASE,
        "the key given: a passphrase was given for a key that is not encrypted; leave it out",
    ),
    "needless passphrase for a key": (
        ED25519, PASSPHRASE, "a passphrase was given for a key that is loaded already; leave it out",
    ),
    "empty passphrase": (private_pem(ED25519), "", "a passphrase has 1 to 1,023 bytes; found 0"),
    "long passphrase": (private_pem(ED25519, b"x"), "ü" * 512, "a passphrase has 1 to 1,023 bytes; found 1,024"),
    "passphrase that is not text": (
        private_pem(ED25519, b"x"), "\udcff", "the passphrase cannot be encoded as UTF-8; give it as bytes",
    ),
    "text": (
        private_pem(ED25519).decode(), None,
        "expected the path of an Ed25519 private key as PEM; found a key's text; give that as bytes",
    ),
    "text without its armour": (
        "\n".join(private_pem(ED25519).decode().split("\n")[1:-2]) + "\n", None,
        "expected the path of an Ed25519 private key as PEM; found a key's text; give that as bytes",
    ),
    "another type": (7, None, f"{PRIVATE}, as a path, bytes or a key; found int"),
    "another key": (RSA, None, f"{PRIVATE}, as a path, bytes or a key; found RSAPrivateKey"),
    "a trusted key": (
        TrustedKey(bytes(32)), None, f"{PRIVATE}, as a path, bytes or a key; found TrustedKey",
    ),
}  # fmt: skip
for _kind, _key in OTHERS.items():
    SIGNING_ERRORS[_kind] = (private_pem(_key), None, f"the key given: {PRIVATE}; found one for {_kind}; {MAKE_ONE}")


def _secrets(source: Any, passphrase: str | bytes | None) -> list[str]:
    """Every eight characters of what must not be shown."""
    text = source.decode("latin-1") if isinstance(source, bytes) else source if isinstance(source, str) else ""
    lines = [line for line in text.split("\n") if "-----" not in line]
    lines += [passphrase.decode() if isinstance(passphrase, bytes) else passphrase or ""]
    return [line[i : i + 8] for line in lines for i in range(len(line) - 7)]


@pytest.mark.parametrize("case", SIGNING_ERRORS)
def test_what_is_not_a_signing_key(case: str) -> None:
    source, passphrase, expected = SIGNING_ERRORS[case]
    with pytest.raises(ConfigError) as caught:
        load_signing_key(source, passphrase=passphrase)
    assert str(caught.value) == expected
    assert not [secret for secret in _secrets(source, passphrase) if secret in str(caught.value)]


TRUSTED_ERRORS: dict[str, tuple[Any, str]] = {
    "no PEM": (b"x", f"the key given: {PUBLIC}; found no key in it"),
    "damaged": (_damaged(public_pem(ED25519)), f"the key given: {PUBLIC}; the key is damaged"),
    "too large": (b"#" * 65_537, f"the key given: {PUBLIC}; found more than 65,536 bytes"),
    "two keys": (
        public_pem(ED25519) + public_pem(ED25519), f"the key given: {PUBLIC}; found 2 keys; give each its own file",
    ),
    "a PEM and an OpenSSH key": (
        openssh(ED25519) + b"\n" + public_pem(ED25519), f"the key given: {PUBLIC}; found 2 keys; give each its own file",
    ),
    "two OpenSSH keys": (
        b"%b a\n%b b\n" % (openssh(ED25519), openssh(ED25519)),
        f"the key given: {PUBLIC}; found 2 keys; give each its own file",
    ),
    "OpenSSH, another kind": (openssh(RSA), f"the key given: {PUBLIC}; found one for RSA"),
    "OpenSSH, damaged": (openssh(ED25519)[:-8], f"the key given: {PUBLIC}; the key is damaged"),
    "certificate": (
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", f"the key given: {PUBLIC}; found CERTIFICATE",
    ),
    "text": (
        public_pem(ED25519).decode(),
        "expected the path of an Ed25519 public key as PEM or in OpenSSH's format; found a key's text; give that as bytes",
    ),
    "another type": (None, f"{PUBLIC}, as a path, bytes or a key; found NoneType"),
    "another key": (RSA.public_key(), f"{PUBLIC}, as a path, bytes or a key; found RSAPublicKey"),
    "a signing key": (load_signing_key(ED25519), f"{PUBLIC}, as a path, bytes or a key; found SigningKey"),
    "a private key": (ED25519, f"{PUBLIC}, as a path, bytes or a key; found Ed25519PrivateKey"),
}  # fmt: skip
for _label, _pem in {
    "PRIVATE KEY": private_pem(ED25519),
    "ENCRYPTED PRIVATE KEY": private_pem(ED25519, b"x"),
    "OPENSSH PRIVATE KEY": private_pem(ED25519, form="OpenSSH"),
}.items():
    TRUSTED_ERRORS[_label] = (
        _pem,
        f"the key given: {PUBLIC}; found {_label}; never share a private key: give its .pub file",
    )
for _kind, _key in OTHERS.items():
    TRUSTED_ERRORS[_kind] = (public_pem(_key), f"the key given: {PUBLIC}; found one for {_kind}")


@pytest.mark.parametrize("case", TRUSTED_ERRORS)
def test_what_is_not_a_trusted_key(case: str) -> None:
    source, expected = TRUSTED_ERRORS[case]
    with pytest.raises(ConfigError) as caught:
        load_trusted_key(source)
    assert str(caught.value) == expected
    assert not [secret for secret in _secrets(source, None) if secret in str(caught.value)]


@pytest.mark.parametrize(("load", "kind"), [(load_signing_key, PRIVATE), (load_trusted_key, PUBLIC)])
def test_files_that_hold_no_key(load: Callable[[Any], object], kind: str, tmp_path: Path) -> None:
    (tmp_path / "\x1b[31mred").write_text("no key")
    (tmp_path / "large").write_bytes(b"#" * 65_537)
    for path, expected in {
        tmp_path / "none": f"{kind}, but it cannot be read: [Errno 2] No such file or directory: '{tmp_path}/none'",
        tmp_path: f"{kind}, but it cannot be read: [Errno 21] Is a directory: '{tmp_path}'",
        tmp_path / "\x1b[31mred": f"{tmp_path}/red: {kind}; found no key in it",
        tmp_path / "large": f"{tmp_path}/large: {kind}; found more than 65,536 bytes",
    }.items():
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert str(caught.value) == expected
    with pytest.raises(ConfigError, match=f"{re.escape(kind)}, but it cannot be read: .*embedded null"):
        load("a\0b")


# Making


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE, PASSPHRASE.encode()])
def test_a_pair_is_made(tmp_path: Path, passphrase: str | bytes | None) -> None:
    key = write_key_pair(tmp_path / "bundle.key", passphrase=passphrase)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle.key", "bundle.key.pub"]
    assert load_signing_key(tmp_path / "bundle.key", passphrase=passphrase).key_id == key.key_id
    assert load_trusted_key(tmp_path / "bundle.key.pub") == key.trusted_key
    label = "PRIVATE KEY" if passphrase is None else "ENCRYPTED PRIVATE KEY"
    assert (tmp_path / "bundle.key").read_text().startswith(f"-----BEGIN {label}-----\n")
    assert write_key_pair(tmp_path / "second.key").key_id != key.key_id


def test_the_private_half_is_its_owners_alone_from_its_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    real_fsync = os.fsync

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        modes.append(
            (stat.S_ISDIR(status.st_mode), stat.S_IMODE(status.st_mode) if not stat.S_ISDIR(status.st_mode) else 0)
        )
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "chmod", None)
    monkeypatch.setattr(os, "chmod", None)
    monkeypatch.setattr(os, "fchmod", None)
    before = os.umask(0)
    try:
        write_key_pair(tmp_path / "k")
    finally:
        os.umask(before)
    assert modes == [(False, 0o600), (False, 0o644), (True, 0)]
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("k", "k.pub")] == [0o600, 0o644]


@pytest.mark.parametrize("occupied", ["k", "k.pub"])
@pytest.mark.parametrize(
    ("occupy", "untouched"),
    [
        (lambda path: path.write_text("mine"), lambda path: path.read_text() == "mine"),
        (lambda path: path.symlink_to("nowhere"), lambda path: str(path.readlink()) == "nowhere"),
    ],
    ids=["a file", "a link"],
)
def test_a_key_is_never_overwritten(
    tmp_path: Path, occupied: str, occupy: Callable[[Path], object], untouched: Callable[[Path], bool]
) -> None:
    occupy(tmp_path / occupied)
    with pytest.raises(ConfigError) as caught:
        write_key_pair(tmp_path / "k")
    assert str(caught.value) == f"{tmp_path / occupied} already exists and was left unchanged. Choose another name"
    assert os.listdir(tmp_path) == [occupied]
    assert untouched(tmp_path / occupied)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none/k", "[Errno 2] No such file or directory: "),
        ("a\0b", "embedded null"),
        ("x" * 253, "[Errno 36] File name too long: "),
    ],
)
def test_where_no_key_can_be_written(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        write_key_pair(tmp_path / name)
    assert str(caught.value).startswith("the key could not be written: ")
    assert reason in str(caught.value)
    assert str(caught.value).endswith(". Nothing was left behind")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (
            OSError(28, "No space left on device"),
            ConfigError,
            "the key could not be written: [Errno 28] No space left on device. Nothing was left behind",
        ),
        (KeyboardInterrupt("stopped"), KeyboardInterrupt, "stopped"),
    ],
)
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_failure_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    failure: BaseException,
    error: type[BaseException],
    message: str,
) -> None:
    """At each of the three syncs: of the private half, the public half and the directory."""
    calls = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == step:
            raise failure

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(error) as caught:
        write_key_pair(tmp_path / "k")
    assert str(caught.value) == message
    assert failure in (caught.value, caught.value.__cause__)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("passphrase", ["", b"", "x" * 1024])
def test_a_passphrase_of_another_length_makes_no_key(tmp_path: Path, passphrase: str | bytes) -> None:
    with pytest.raises(ConfigError, match="a passphrase has 1 to 1,023 bytes; found"):
        write_key_pair(tmp_path / "k", passphrase=passphrase)
    assert os.listdir(tmp_path) == []


# openssl


@needs_openssl
@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_openssl_reads_our_keys(tmp_path: Path, passphrase: str | None) -> None:
    key = write_key_pair(tmp_path / "k", passphrase=passphrase)
    passin = "" if passphrase is None else f"-passin 'pass:{passphrase}'"
    assert shell(f"openssl pkey -in k {passin} -pubout", tmp_path) == (tmp_path / "k.pub").read_text()
    digest, _ = shell("openssl pkey -pubin -in k.pub -outform DER | sha256sum", tmp_path).split()
    assert digest == key.key_id


@needs_openssl
@pytest.mark.parametrize("cipher", ["", "-aes-256-cbc", "-aes-128-cbc"])
def test_openssls_keys_are_read(tmp_path: Path, cipher: str) -> None:
    passphrase = PASSPHRASE if cipher else None
    out = f"{cipher} -pass 'pass:{passphrase}'" if passphrase else ""
    shell(f"openssl genpkey -algorithm ed25519 {out} -out k", tmp_path)
    passin = f"-passin 'pass:{passphrase}'" if passphrase else ""
    shell(f"openssl pkey -in k {passin} -pubout -out k.pub", tmp_path)
    key = load_signing_key(tmp_path / "k", passphrase=passphrase)
    assert load_trusted_key(tmp_path / "k.pub") == key.trusted_key
    digest, _ = shell("openssl pkey -pubin -in k.pub -outform DER | sha256sum", tmp_path).split()
    assert digest == key.key_id


@needs_openssl
def test_openssls_scrypt_is_read(tmp_path: Path) -> None:
    """A passphrase that is dear to guess: openssl can make one of a key of ours."""
    key = write_key_pair(tmp_path / "k")
    shell("openssl pkcs8 -topk8 -scrypt -in k -passout pass:x -out k.scrypt", tmp_path)
    assert load_signing_key(tmp_path / "k.scrypt", passphrase="x").key_id == key.key_id


# Without cryptography


BLOCKED = """
import sys
sys.modules["cryptography"] = None
from exporttools.bundle.keys import TrustedKey, load_signing_key, load_trusted_key, write_key_pair
calls = (
    lambda: load_signing_key("k"), lambda: load_trusted_key("k"), lambda: write_key_pair("k"),
    lambda: TrustedKey(bytes(32)).verifies(b"", b""),
)
for call in calls:
    try:
        call()
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
print(TrustedKey(bytes(32)).key_id)
"""


def run_python(code: str, directory: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=directory, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_without_cryptography_the_extra_is_named(tmp_path: Path) -> None:
    install = "needs packages that are not installed: pip install 'exporttools[sign]'"
    key_id = hashlib.sha256(bytes.fromhex("302a300506032b6570032100") + bytes(32)).hexdigest()
    assert run_python(BLOCKED, tmp_path).splitlines() == [
        f"MissingExtra: signing a bundle {install}",
        f"MissingExtra: checking a signature {install}",
        f"MissingExtra: making a key {install}",
        f"MissingExtra: checking a signature {install}",
        key_id,
    ]
    assert os.listdir(tmp_path) == []
    assert issubclass(MissingExtra, ExportToolsError)


def test_importing_bundles_loads_no_cryptography(tmp_path: Path) -> None:
    code = """
import sys
import exporttools.bundle, exporttools.bundle.attestation, exporttools.bundle.keys
print([name for name in sys.modules if name.split(".")[0] in ("cryptography", "securesystemslib")])
"""
    assert run_python(code, tmp_path) == "[]\n"
