"""What the tests of attestations share: keys, a signed envelope, and ways to change it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from exporttools.bundle.attestation import (
    PAYLOAD_TYPE,
    attest,
    check_signature,
    check_signers,
    check_statement,
    pae,
)
from exporttools.bundle.keys import SigningKey, TrustedKey, load_signers, load_signing_key
from exporttools.files.findings import Finding

FILES = {"bagit.txt": b"BagIt-Version: 1.0\n", "data/run.parquet": b"PAR1", "data/bundle.json": b"{}\n"}
DIGESTS = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
DESCRIPTION: dict[str, Any] = {
    "rows": 1,
    "cost_cents": 0.1,
    "none": None,
    "tables": {"runs": [1]},
    "text": 'Grüße\n"x"',
}


def a_key(number: int) -> SigningKey:
    return load_signing_key(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


KEY, SECOND, STRANGER = a_key(1), a_key(2), a_key(3)
TRUSTED = [KEY.trusted_key, SECOND.trusted_key]
SIGNED = attest(DIGESTS, DESCRIPTION, load_signers(KEY))
TWICE = attest(DIGESTS, DESCRIPTION, load_signers([KEY, SECOND]))
LAYOUT = "a DSSE envelope as exporttools lays it out"


def encoded(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def signature_of(payload: bytes, key: SigningKey) -> dict[str, str]:
    return {
        "keyid": key.key_id,
        "sig": encoded(key.sign(pae(PAYLOAD_TYPE, payload))),
    }


def envelope_of(payload: bytes, *keys: SigningKey) -> dict[str, Any]:
    return {
        "payload": encoded(payload),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [signature_of(payload, key) for key in keys],
    }


def laid_out(envelope: dict[str, Any]) -> bytes:
    return (json.dumps(envelope, indent=2) + "\n").encode()


def changed(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> bytes:
    """The signed envelope with a change to it or its signature, in the right layout."""
    envelope = json.loads(SIGNED)
    change(envelope, envelope["signatures"][0])
    return laid_out(envelope)


def findings_of(data: bytes, trusted: list[TrustedKey] = TRUSTED) -> list[Finding]:
    """All that is found to be wrong with an attestation of the bundle that these tests are about."""
    check = check_signature(data, trusted)
    statement = [] if check.payload is None else check_statement(check.payload, DIGESTS, DESCRIPTION)
    return [*check.findings, *statement, *check_signers(check, [KEY.key_id])]


def sslib_key(key: SigningKey, key_id: str | None = None) -> SSlibKey:
    public = Ed25519PublicKey.from_public_bytes(key.trusted_key.octets)
    return SSlibKey.from_crypto(public, keyid=key_id or key.key_id)


def sslib_accepts(data: bytes, *keys: SigningKey, threshold: int = 1) -> bool:
    try:
        accepted = Envelope.from_dict(json.loads(data)).verify([sslib_key(key) for key in keys], threshold)
    except VerificationError:
        return False
    return len(accepted) == threshold


def statement_of(digests: dict[str, str] = DIGESTS, description: dict[str, Any] = DESCRIPTION) -> bytes:
    return base64.b64decode(json.loads(attest(digests, description, load_signers(KEY)))["payload"])
