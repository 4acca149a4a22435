"""Verifiers of others accept what we write, as it is: each runs its own code on bundles signed by one key and by two."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from exporttools import SigningKey, write_bundle
from tests.bundle.bags import FILES, a_bundle
from tests.bundle.envelopes import KEY, SECOND, STRANGER, sslib_accepts, sslib_key

ATTESTATION = "attestation.dsse.json"
PREDICATE_TYPE = "urn:exporttools:agent-run-bundle:v2"
COVERED = sorted({*FILES} - {"tagmanifest-sha256.txt"})
FORMAT_1 = Path(__file__).parents[1] / "golden/format-1/signed.bundle"


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(a_bundle(), tmp_path_factory.mktemp("signed") / "once", signing_key=KEY)


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(a_bundle(), tmp_path_factory.mktemp("signed") / "twice", signing_key=[KEY, SECOND])


def needed(module: str, package: str) -> Any:
    return pytest.importorskip(module, reason=f"{package} is not installed")


# securesystemslib: DSSE with keys of one's own and a threshold


def test_promise_06_securesystemslib(once: Path, twice: Path) -> None:
    one, two = (path / ATTESTATION for path in (once, twice))
    assert sslib_accepts(one.read_bytes(), KEY)
    assert sslib_accepts(two.read_bytes(), KEY, SECOND, threshold=2)
    assert sslib_accepts(two.read_bytes(), SECOND, STRANGER)
    assert not sslib_accepts(two.read_bytes(), KEY, STRANGER, threshold=2)
    assert not sslib_accepts(one.read_bytes(), STRANGER)


# in-toto: its envelope, and its Statement


def _in_toto_key(key: SigningKey) -> dict[str, Any]:
    return {"keyid": key.key_id, **sslib_key(key).to_dict()}


def test_promise_06_in_toto_loads_and_verifies_the_envelope(once: Path, twice: Path) -> None:
    metadata = needed("in_toto.models.metadata", "in-toto")
    exceptions = needed("in_toto.exceptions", "in-toto")
    for path, keys in ((once, [KEY]), (twice, [KEY, SECOND])):
        envelope = metadata.Metadata.load(str(path / ATTESTATION))
        assert type(envelope) is metadata.Envelope
        for key in keys:
            envelope.verify_signature(_in_toto_key(key))
        with pytest.raises(exceptions.SignatureVerificationError):
            envelope.verify_signature(_in_toto_key(STRANGER))
        # Its own payloads are links and layouts; for a Statement there is in-toto-attestation.
        with pytest.raises(exceptions.InvalidMetadata):
            envelope.get_payload()


def test_promise_06_in_toto_attestation_accepts_the_statement(twice: Path) -> None:
    statements = needed("in_toto_attestation.v1.statement", "in-toto-attestation")
    messages = needed("in_toto_attestation.v1.statement_pb2", "in-toto-attestation")
    json_format = needed("google.protobuf.json_format", "protobuf")
    metadata = needed("in_toto.models.metadata", "in-toto")
    payload = metadata.Metadata.load(str(twice / ATTESTATION)).payload
    statement = statements.Statement.copy_from_pb(json_format.Parse(payload, messages.Statement()))
    statement.validate()
    assert statement.pb.predicate_type == PREDICATE_TYPE
    assert [subject.name for subject in statement.pb.subject] == COVERED
    assert json_format.MessageToDict(statement.pb.predicate)["signed_by"] == [KEY.key_id, SECOND.key_id]


# sigstore: its verifier takes certificates, and ECDSA alone, from its public API. So this runs what it does with an envelope
# once it has a key: parse it, verify it, parse the statement, look for an artifact. The key is ours, behind ECDSA's interface.


class Behind:
    """An Ed25519 key where sigstore calls one for ECDSA."""

    def __init__(self, key: SigningKey) -> None:
        self._key = Ed25519PublicKey.from_public_bytes(key.public_key.octets)

    def verify(self, signature: bytes, data: bytes, algorithm: object) -> None:
        self._key.verify(signature, data)


@pytest.fixture
def dsse() -> ModuleType:
    module: ModuleType = needed("sigstore.dsse", "sigstore")
    return module


def test_promise_06_sigstores_verifier_accepts_a_bundle_signed_by_one_key(once: Path, dsse: ModuleType) -> None:
    from sigstore.hashes import Hashed
    from sigstore_models.common.v1 import HashAlgorithm

    envelope = dsse.Envelope._from_json((once / ATTESTATION).read_bytes())
    payload = dsse._verify(Behind(KEY), envelope)
    statement = dsse.Statement(payload)
    assert statement._inner.predicate_type == PREDICATE_TYPE
    assert statement._inner.predicate == json.loads((once / "data/bundle.json").read_text())
    assert [subject.name for subject in statement._inner.subjects] == COVERED
    for name in COVERED:
        digest = hashlib.sha256((once / name).read_bytes()).digest()
        assert statement._matches_digest(Hashed(algorithm=HashAlgorithm.SHA2_256, digest=digest))
    assert dsse.Envelope._from_json(envelope.to_json()) == envelope
    with pytest.raises(InvalidSignature):
        Behind(STRANGER).verify(envelope.signature, envelope.pae(), None)
    with pytest.raises(dsse.VerificationError):
        dsse._verify(Behind(STRANGER), envelope)


def test_sigstore_takes_one_signature_and_no_key_in_an_envelope(twice: Path, dsse: ModuleType) -> None:
    """Its own limits: two signatures are too many for it, and so was the publicKey of format 1."""
    with pytest.raises(dsse.InvalidEnvelope, match="envelope must contain exactly one signature"):
        dsse.Envelope._from_json((twice / ATTESTATION).read_bytes())
    with pytest.raises(ValueError, match=r"publicKey\n  Extra inputs are not permitted"):
        dsse.Envelope._from_json((FORMAT_1 / ATTESTATION).read_bytes())


# bagit


@pytest.mark.parametrize("number", [0, 1, 2])
def test_promise_01_bagit_accepts_a_signed_bag(once: Path, twice: Path, tmp_path: Path, number: int) -> None:
    bagit = needed("bagit", "bagit")
    path = (write_bundle(a_bundle(), tmp_path / "unsigned"), once, twice)[number]
    bag = bagit.Bag(str(path))
    assert bag.validate()
    assert set(bag.entries) == {*COVERED, *([ATTESTATION] if number else [])}
