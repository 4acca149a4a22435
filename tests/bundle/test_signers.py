"""Who signs: several keys, and signers of one's own, which may misbehave."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporttools import Signer, verify_bundle, write_bundle
from exporttools.errors import BundleError, ConfigError
from tests.bundle.bags import a_bundle
from tests.bundle.envelopes import KEY, SECOND, STRANGER, a_key


class Misbehaving:
    """A signer that holds KEY and returns whatever it is told to."""

    def __init__(
        self, sign: Callable[[bytes], Any], key_id: Any = KEY.key_id, public_key: Any = KEY.public_key
    ) -> None:
        self.key_id, self.public_key, self._sign = key_id, public_key, sign

    def sign(self, data: bytes) -> Any:
        return self._sign(data)


def _fails(data: bytes) -> bytes:
    raise TimeoutError("the token\x1b[31m did not answer")


WHO = f"the signer with key {KEY.key_id}"
MISBEHAVIOUR: dict[str, tuple[Misbehaving, type[Exception], str]] = {
    "another key id": (
        Misbehaving(KEY.sign, SECOND.key_id), ConfigError,
        f"a signer's key_id is '{SECOND.key_id}'; expected the id of its public key, {KEY.key_id}",
    ),
    "a key id of another type": (
        Misbehaving(KEY.sign, 7), ConfigError, f"a signer's key_id is 7; expected the id of its public key, {KEY.key_id}",
    ),
    "a public key of another type": (
        Misbehaving(KEY.sign, public_key=KEY.public_key.octets), ConfigError,
        "a signer's public_key is a bytes; expected a TrustedKey (load_trusted_key)",
    ),
    "an exception": (
        Misbehaving(_fails), BundleError, f"{WHO} failed: TimeoutError: the token did not answer. Nothing was left behind",
    ),
    "63 bytes": (
        Misbehaving(lambda data: KEY.sign(data)[:-1]), BundleError,
        f"{WHO} returned 63 bytes; expected an Ed25519 signature of 64 bytes. Nothing was left behind",
    ),
    "text": (
        Misbehaving(lambda data: KEY.sign(data).hex()), BundleError,
        f"{WHO} returned str; expected an Ed25519 signature of 64 bytes. Nothing was left behind",
    ),
    "nothing": (
        Misbehaving(lambda data: None), BundleError,
        f"{WHO} returned NoneType; expected an Ed25519 signature of 64 bytes. Nothing was left behind",
    ),
    "a signature over a hash": (
        Misbehaving(lambda data: KEY.sign(hashlib.sha512(data).digest())), BundleError,
        f"{WHO} returned a signature that its public key does not verify; expected Ed25519 over the bytes given, not over a "
        "hash of them. Nothing was left behind",
    ),
    "another's signature": (
        Misbehaving(STRANGER.sign), BundleError,
        f"{WHO} returned a signature that its public key does not verify; expected Ed25519 over the bytes given, not over a "
        "hash of them. Nothing was left behind",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISBEHAVIOUR)
@pytest.mark.parametrize("archive", [False, True])
def test_a_signer_that_misbehaves_leaves_nothing(tmp_path: Path, case: str, archive: bool) -> None:
    signer, error, message = MISBEHAVIOUR[case]
    for signing_key in (signer, [SECOND, signer]):
        with pytest.raises(error) as caught:
            write_bundle(a_bundle(), tmp_path / "b", signing_key=signing_key, archive=archive)
        assert str(caught.value) == message
        assert list(tmp_path.iterdir()) == []


def test_a_signer_that_changes_its_mind_cannot_sign_for_another(tmp_path: Path) -> None:
    """Its id and key are read once."""
    signer = Misbehaving(KEY.sign)

    def sign(data: bytes) -> bytes:
        signer.key_id, signer.public_key = SECOND.key_id, SECOND.public_key
        return KEY.sign(data)

    signer._sign = sign
    path = write_bundle(a_bundle(), tmp_path / "b", signing_key=signer)
    assert json.loads((path / "data/bundle.json").read_text())["signed_by"] == [KEY.key_id]
    assert verify_bundle(path, trusted_keys=KEY.public_key).authentic


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([], "signing_key has 0 keys; expected 1 to 16; for a bundle without a signature, leave signing_key out"),
        ([KEY] * 17, "signing_key has 17 keys; expected 1 to 16"),
        ([KEY, SECOND, KEY], f"the signing key {KEY.key_id} is given twice; give each key once"),
    ],
)
def test_how_many_signers_there_can_be(tmp_path: Path, keys: list[Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        write_bundle(a_bundle(), tmp_path / "b", signing_key=keys)
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


def test_sixteen_keys_sign_in_the_order_given(tmp_path: Path) -> None:
    keys = [a_key(number) for number in range(16, 0, -1)]
    path = write_bundle(a_bundle(), tmp_path / "b", signing_key=iter(keys))
    assert json.loads((path / "data/bundle.json").read_text())["signed_by"] == [key.key_id for key in keys]
    assert verify_bundle(path, trusted_keys=[key.public_key for key in keys]).authentic


def test_an_interrupted_signer_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(data: bytes) -> bytes:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bundle(a_bundle(), tmp_path / "b", signing_key=Misbehaving(interrupted))
    assert list(tmp_path.iterdir()) == []


def test_a_signing_key_is_a_signer() -> None:
    assert isinstance(KEY, Signer)
    assert KEY.public_key == KEY.trusted_key
