"""Attestations: strangers' tools accept ours, every changed byte is found, and only the caller's keys are trusted."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from exporttools.bundle.attestation import (
    FILE_NAME,
    MAX_BYTES,
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    SignatureCheck,
    attest,
    check_signature,
    check_statement,
    pae,
)
from exporttools.bundle.keys import SigningKey, TrustedKey, load_signing_key
from exporttools.bundle.verification import Finding
from tests.bundle.test_keys import needs_openssl, shell

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
SIGNED = attest(DIGESTS, DESCRIPTION, KEY)
LAYOUT = "a DSSE envelope as exporttools lays it out"


def encoded(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def signature_of(payload: bytes, key: SigningKey) -> dict[str, str]:
    return {
        "keyid": key.key_id,
        "publicKey": encoded(key.trusted_key.der),
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
    return [*check.findings, *statement]


def sslib_key(key: SigningKey, key_id: str | None = None) -> SSlibKey:
    public = Ed25519PublicKey.from_public_bytes(key.trusted_key.octets)
    return SSlibKey.from_crypto(public, keyid=key_id or key.key_id)


def sslib_accepts(data: bytes, *keys: SigningKey, threshold: int = 1) -> bool:
    try:
        accepted = Envelope.from_dict(json.loads(data)).verify([sslib_key(key) for key in keys], threshold)
    except VerificationError:
        return False
    return len(accepted) == threshold


# What is written


@pytest.mark.parametrize(
    ("payload_type", "payload", "expected"),
    [
        ("http://example.com/HelloWorld", b"hello world", b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"),
        ("", b"", b"DSSEv1 0  0 "),
        ("ü", b"\0 1 ", b"DSSEv1 2 \xc3\xbc 4 \0 1 "),
    ],
)
def test_promise_06_pae_known_answers(payload_type: str, payload: bytes, expected: bytes) -> None:
    assert pae(payload_type, payload) == expected
    assert Envelope(payload, payload_type, {}).pae() == expected


def test_the_envelopes_layout() -> None:
    der, signature = encoded(KEY.trusted_key.der), json.loads(SIGNED)["signatures"][0]["sig"]
    payload = json.loads(SIGNED)["payload"]
    assert (
        SIGNED.decode()
        == f"""{{
  "payload": "{payload}",
  "payloadType": "application/vnd.in-toto+json",
  "signatures": [
    {{
      "keyid": "{KEY.key_id}",
      "publicKey": "{der}",
      "sig": "{signature}"
    }}
  ]
}}
"""
    )
    assert attest(dict(reversed(DIGESTS.items())), DESCRIPTION, KEY) == SIGNED


def test_the_statements_layout() -> None:
    statement = base64.b64decode(json.loads(SIGNED)["payload"])
    assert (
        statement.decode()
        == f"""{{
"_type": "https://in-toto.io/Statement/v1",
"subject": [
{{"name": "bagit.txt", "digest": {{"sha256": "{DIGESTS["bagit.txt"]}"}}}},
{{"name": "data/bundle.json", "digest": {{"sha256": "{DIGESTS["data/bundle.json"]}"}}}},
{{"name": "data/run.parquet", "digest": {{"sha256": "{DIGESTS["data/run.parquet"]}"}}}}
],
"predicateType": "urn:exporttools:agent-run-bundle:v1",
"predicate": {{
  "rows": 1,
  "cost_cents": 0.1,
  "none": null,
  "tables": {{
    "runs": [
      1
    ]
  }},
  "text": "Gr\\u00fc\\u00dfe\\n\\"x\\""
}}
}}
"""
    )
    assert json.loads(statement)["predicate"] == DESCRIPTION


def test_what_is_written_verifies() -> None:
    payload = base64.b64decode(json.loads(SIGNED)["payload"])
    trusted = check_signature(SIGNED, TRUSTED)
    assert trusted == SignatureCheck(payload, (KEY.key_id,), (KEY.key_id,), checked=True, findings=())
    for keys in ([], [STRANGER.trusted_key]):
        assert check_signature(SIGNED, keys) == SignatureCheck(payload, (), (KEY.key_id,), checked=True, findings=())
    assert check_statement(payload, DIGESTS, DESCRIPTION) == []
    assert check_statement(payload, DIGESTS, None) == []


def test_a_number_that_json_does_not_know_is_not_signed() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        attest(DIGESTS, {"cost_cents": float("nan")}, KEY)


# Without us


def test_promise_06_securesystemslib_accepts_what_is_written() -> None:
    assert sslib_accepts(SIGNED, KEY)
    assert sslib_accepts(SIGNED, STRANGER, KEY)
    assert not sslib_accepts(SIGNED, STRANGER)
    envelope = Envelope.from_dict(json.loads(SIGNED))
    assert (envelope.payload_type, envelope.payload) == (PAYLOAD_TYPE, check_signature(SIGNED, []).payload)


def test_promise_06_a_second_signature_by_securesystemslib_is_accepted() -> None:
    private = Ed25519PrivateKey.from_private_bytes(bytes([2]) * 32)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    second = CryptoSigner(serialization.load_pem_private_key(pem, None))
    envelope = Envelope.from_dict(json.loads(SIGNED))
    envelope.sign(second)
    sig = envelope.to_dict()["signatures"][1]["sig"]
    added = {"keyid": SECOND.key_id, "publicKey": encoded(SECOND.trusted_key.der), "sig": sig}
    data = changed(lambda envelope, _: envelope["signatures"].append(added))
    found = check_signature(data, TRUSTED)
    assert found.trusted == found.named == (KEY.key_id, SECOND.key_id)
    assert (found.checked, findings_of(data)) == (True, [])


@needs_openssl
def test_promise_06_openssl_sed_and_sha256sum_accept_what_is_written(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(SIGNED)
    pem = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    public = Ed25519PublicKey.from_public_bytes(KEY.trusted_key.octets).public_bytes(*pem)
    (tmp_path / "signer.pub").write_bytes(public)
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    verify = r"""
        member() { sed -n "s/^ *\"$1\": \"\([^\"]*\)\",\{0,1\}\$/\1/p" attestation.dsse.json; }
        member payload | openssl base64 -d -A > statement.json
        member sig | openssl base64 -d -A > signature
        member publicKey | openssl base64 -d -A > named.der
        { printf 'DSSEv1 28 application/vnd.in-toto+json %d ' "$(wc -c < statement.json)"; cat statement.json; } > signed
        openssl pkeyutl -verify -pubin -inkey signer.pub -rawin -in signed -sigfile signature
        openssl pkeyutl -verify -pubin -keyform DER -inkey named.der -rawin -in signed -sigfile signature
        sha256sum < named.der
        sed -n 's/^{"name": "\(.*\)", "digest": {"sha256": "\([0-9a-f]*\)"}},\{0,1\}$/\2  \1/p' statement.json > files
        sha256sum --strict --check files
    """
    assert shell(verify, tmp_path).splitlines() == [
        "Signature Verified Successfully", "Signature Verified Successfully", f"{KEY.key_id}  -",
        "bagit.txt: OK", "data/bundle.json: OK", "data/run.parquet: OK",
    ]  # fmt: skip
    (tmp_path / FILE_NAME).write_bytes(changed(lambda _, signature: signature.update(sig=encoded(bytes(64)))))
    with pytest.raises(AssertionError):
        shell(verify, tmp_path)


# Mutations: (change, what is found with trusted keys, whether the trusted signature still verifies, what securesystemslib does)

NOT_BASE64 = "is not standard base64"
MUTATIONS: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], object], str, bool, bool | type[Exception]]] = {
    "payload type swapped": (
        lambda envelope, _: envelope.update(payloadType="text/plain"), "the payloadType text/plain", False, False,
    ),
    "payload type in capitals": (
        lambda envelope, _: envelope.update(payloadType=PAYLOAD_TYPE.upper()), f"the payloadType {PAYLOAD_TYPE.upper()}",
        False, False,
    ),
    "payload type of another kind": (
        lambda envelope, _: envelope.update(payloadType=None), "the payloadType None", False, AttributeError,
    ),
    "payload of another kind": (
        lambda envelope, _: envelope.update(payload=["e30="]), f"a payload that {NOT_BASE64}", False, AttributeError,
    ),
    "payload of nothing": (
        lambda envelope, _: envelope.update(payload=""), "one that does not verify", False, False,
    ),
    "payload in URL-safe base64": (
        lambda envelope, _: envelope.update(payload=base64.urlsafe_b64encode(b"\xff\xff").decode()),
        f"a payload that {NOT_BASE64}", False, False,
    ),
    "payload with a line break": (
        lambda envelope, _: envelope.update(payload=envelope["payload"][:76] + "\n" + envelope["payload"][76:]),
        f"a payload that {NOT_BASE64}", False, ValueError,
    ),
    "payload that is not ASCII": (
        lambda envelope, _: envelope.update(payload="é"), f"a payload that {NOT_BASE64}", False, ValueError,
    ),
    "no signature": (
        lambda envelope, _: envelope.update(signatures=[]), "0 signatures instead of 1 to 16", False, False,
    ),
    "17 signatures": (
        lambda envelope, signature: envelope.update(signatures=[signature] * 17), "17 signatures instead of 1 to 16",
        False, ValueError,
    ),
    "signatures that are no list": (
        lambda envelope, signature: envelope.update(signatures=signature),
        "signatures that are not a list instead of 1 to 16", False, TypeError,
    ),
    "a signature that is no object": (
        lambda envelope, signature: envelope.update(signatures=[signature["sig"]]), "a signature that is not an object", False,
        TypeError,
    ),
    "signature of another payload": (
        lambda _, signature: signature.update(signature_of(b"{}", KEY)), "one that does not verify", False, False,
    ),
    "signature over the bare payload": (
        lambda envelope, signature: signature.update(sig=encoded(KEY.sign(base64.b64decode(envelope["payload"])))),
        "one that does not verify", False, False,
    ),
    "signature by another key in this one's name": (
        lambda envelope, signature: signature.update(
            sig=signature_of(base64.b64decode(envelope["payload"]), STRANGER)["sig"]
        ),
        "one that does not verify", False, False,
    ),
    "63 octets": (
        lambda _, signature: signature.update(sig=encoded(base64.b64decode(signature["sig"])[:-1])),
        "one that does not verify", False, False,
    ),
    "65 octets": (
        lambda _, signature: signature.update(sig=encoded(base64.b64decode(signature["sig"]) + b"\0")),
        "one that does not verify", False, False,
    ),
    "no octet": (lambda _, signature: signature.update(sig=""), "one that does not verify", False, False),
    "loose bits": (
        lambda _, signature: signature.update(sig=signature["sig"][:-3] + chr(ord(signature["sig"][-3]) + 1) + "=="),
        f"a sig that {NOT_BASE64}", False, True,
    ),
    "no padding": (
        lambda _, signature: signature.update(sig=signature["sig"].rstrip("=")), f"a sig that {NOT_BASE64}", False, ValueError,
    ),
    "a tail": (
        lambda _, signature: signature.update(sig=signature["sig"] + "AAAA"), f"a sig that {NOT_BASE64}", False, ValueError,
    ),
    "URL-safe base64": (
        lambda _, signature: signature.update(sig=signature["sig"].replace("+", "-").replace("/", "_")),
        f"a sig that {NOT_BASE64}", False, True,
    ),
    "no sig": (lambda _, signature: signature.pop("sig"), "a signature with the members keyid, publicKey", False, KeyError),
    "keyid of another trusted key": (
        lambda _, signature: signature.update(keyid=SECOND.key_id), SECOND.key_id, True, False,
    ),
    "keyid of no key": (lambda _, signature: signature.update(keyid="mine"), "mine", True, False),
    "keyid that hides": (lambda _, signature: signature.update(keyid="\x1b[8m"), "", True, False),
    "keyid of another type": (
        lambda _, signature: signature.update(keyid=1), "a keyid that is not a string", False, False,
    ),
    "publicKey of another key": (
        lambda _, signature: signature.update(publicKey=encoded(SECOND.trusted_key.der)), KEY.key_id, False, True,
    ),
    "publicKey of another kind": (
        lambda _, signature: signature.update(publicKey=encoded(KEY.trusted_key.octets)),
        "a public key that is not an Ed25519 SubjectPublicKeyInfo", False, True,
    ),
    "a member more": (
        lambda envelope, _: envelope.update(more=1), "an envelope with the members payload, payloadType, signatures, more",
        False, True,
    ),
    "a member of a signature more": (
        lambda _, signature: signature.update(cert="x"), "a signature with the members keyid, publicKey, sig, cert", False, True,
    ),
    "members in another order": (
        lambda _, signature: signature.update(keyid=signature.pop("keyid")),
        "a signature with the members publicKey, sig, keyid", False, True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_promise_06_a_mutation_is_found(mutation: str) -> None:
    change, found, trusted, sslib = MUTATIONS[mutation]
    data = changed(change)
    check = check_signature(data, TRUSTED)
    assert found in [finding.found for finding in check.findings], check.findings
    assert {(finding.code, finding.path) for finding in check.findings} <= {
        ("malformed", FILE_NAME),
        ("signature", FILE_NAME),
    }
    assert check.trusted == ((KEY.key_id,) if trusted else ())
    if check.payload is None:
        assert ([finding.expected for finding in check.findings], check.named, check.checked) == ([LAYOUT], (), False)
    assert check_signature(data, []).findings == check.findings
    if isinstance(sslib, bool):
        assert sslib_accepts(data, KEY, SECOND) == sslib
    else:
        with pytest.raises(sslib):
            Envelope.from_dict(json.loads(data)).verify([sslib_key(KEY)], 1)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b"[]", "a JSON list"),
        (b"{}", "an envelope with no members"),
        (SIGNED + b"\n", "a different layout"),
        (SIGNED[:-1], "a different layout"),
        (SIGNED.replace(b"\n", b"\r\n"), "a different layout"),
        (SIGNED.replace(b"  ", b"\t"), "a different layout"),
        (json.dumps(json.loads(SIGNED)).encode(), "a different layout"),
        (SIGNED.replace(b'"keyid"', b'"key\\u0069d"'), "a different layout"),
        (SIGNED.replace(b"in-toto+json", b"in-toto\\u002bjson"), "a different layout"),
        (
            SIGNED.replace(b"  ]\n", b'  ],\n  "payloadType": "application/vnd.in-toto+json"\n'),
            "the key 'payloadType' twice",
        ),
        (SIGNED.replace(b'"keyid"', b'"sig": "",\n      "keyid"'), "the key 'sig' twice"),
        (b"\xef\xbb\xbf" + SIGNED, "Unexpected UTF-8 BOM (decode using utf-8-sig): line 1 column 1 (char 0)"),
        (SIGNED + b" " * MAX_BYTES, f"{len(SIGNED) + MAX_BYTES:,} bytes of JSON; at most 16,777,216 are read"),
        (b"[" * 100_000, "JSON of more than 16 levels"),
    ],
)
def test_promise_06_what_is_no_envelope_is_found(data: bytes, found: str) -> None:
    finding = Finding("malformed", FILE_NAME, LAYOUT, found)
    assert check_signature(data, TRUSTED) == SignatureCheck(None, (), (), checked=False, findings=(finding,))


@pytest.mark.parametrize("member", ["keyid", "publicKey"])
def test_promise_06_an_absent_keyid_or_key_is_found(member: str) -> None:
    data = changed(lambda _, signature: signature.pop(member))
    others = ", ".join(name for name in ("keyid", "publicKey", "sig") if name != member)
    finding = Finding("malformed", FILE_NAME, LAYOUT, f"a signature with the members {others}")
    assert check_signature(data, TRUSTED) == SignatureCheck(None, (), (), checked=False, findings=(finding,))
    if member == "publicKey":
        assert sslib_accepts(data, KEY)
    else:  # so it is with others
        with pytest.raises(KeyError, match="keyid"):
            sslib_accepts(data, KEY)


def test_promise_06_a_wrong_key_is_not_trusted() -> None:
    forged = attest(DIGESTS, DESCRIPTION, STRANGER)
    found = check_signature(forged, TRUSTED)
    assert (found.trusted, found.named, found.checked, found.findings) == ((), (STRANGER.key_id,), True, ())
    # Nor in another's name, whatever key is beside it.
    for key in (KEY, STRANGER):
        envelope = json.loads(forged)
        envelope["signatures"][0] |= {"keyid": KEY.key_id, "publicKey": encoded(key.trusted_key.der)}
        found = check_signature(laid_out(envelope), TRUSTED)
        assert (found.trusted, found.named) == ((), (key.key_id,))
        assert [finding.code for finding in found.findings] == ["signature"]


def test_promise_06_two_signatures() -> None:
    payload = base64.b64decode(json.loads(SIGNED)["payload"])
    both = laid_out(envelope_of(payload, KEY, SECOND))
    ids = (KEY.key_id, SECOND.key_id)
    for trusted, accepted in (
        (TRUSTED, ids), (TRUSTED[::-1], ids), (TRUSTED[:1], ids[:1]), (TRUSTED[1:], ids[1:]), ([], ()),
        (TRUSTED * 2, ids),
    ):  # fmt: skip
        check = check_signature(both, trusted)
        assert check == SignatureCheck(payload, accepted, ids, checked=True, findings=())
    assert sslib_accepts(both, KEY, SECOND, threshold=2)
    # One that does not verify is found although the other does.
    envelope = json.loads(both)
    envelope["signatures"][1]["sig"] = envelope["signatures"][0]["sig"]
    found = check_signature(laid_out(envelope), TRUSTED[:1])
    expected = Finding("signature", FILE_NAME, f"a signature by the key {SECOND.key_id}", "one that does not verify")
    assert (found.trusted, found.findings) == ((KEY.key_id,), (expected,))
    # A key that signed twice is one key.
    twice = check_signature(laid_out(envelope_of(payload, KEY, KEY)), TRUSTED)
    assert (twice.trusted, twice.named) == ((KEY.key_id,), (KEY.key_id,))
    assert check_signature(laid_out(envelope_of(payload, *[KEY] * 16)), TRUSTED).findings == ()


# Every byte


def test_promise_06_truncated_at_every_length() -> None:
    for length in range(len(SIGNED)):
        assert findings_of(SIGNED[:length]), length


@pytest.mark.parametrize("trusted", [TRUSTED, []], ids=["trusted", "no key"])
def test_promise_03_every_changed_byte_is_found(trusted: list[TrustedKey]) -> None:
    data = attest({"data/a": DIGESTS["bagit.txt"]}, {"n": 1.5}, KEY)
    for i, octet in enumerate(data):
        others = {octet ^ 1 << bit for bit in range(8)} | set(b'\n "') - {octet}
        for other in others:
            mutated = data[:i] + bytes([other]) + data[i + 1 :]
            check = check_signature(mutated, trusted)
            assert check.findings, (i, bytes([octet]), bytes([other]))


def test_promise_03_without_cryptography_all_but_the_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value of sig alone can change unseen, and the result says that it was not looked at."""
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    digests, description = {"data/a": DIGESTS["bagit.txt"]}, {"n": 1.5, "a": [True]}
    data = attest(digests, description, KEY)
    assert check_signature(data, []).checked is False
    assert (check_signature(data, []).named, check_signature(data, []).findings) == ((KEY.key_id,), ())
    start = data.index(b'"sig": "') + len(b'"sig": "')
    unseen = range(start, data.index(b'"', start))
    seen = set()
    for i, octet in enumerate(data):
        for bit in range(8):
            check = check_signature(data[:i] + bytes([octet ^ 1 << bit]) + data[i + 1 :], [])
            statement = [] if check.payload is None else check_statement(check.payload, digests, description)
            if check.findings or statement:
                seen.add(i)
            else:
                assert i in unseen
                assert check.checked is False
    assert set(range(len(data))) - set(unseen) <= seen


# The statement


def statement_of(digests: dict[str, str] = DIGESTS, description: dict[str, Any] = DESCRIPTION) -> bytes:
    return base64.b64decode(json.loads(attest(digests, description, KEY))["payload"])


def changed_statement(change: Callable[[dict[str, Any]], object]) -> bytes:
    statement = json.loads(statement_of())
    change(statement)
    return json.dumps(statement).encode()


A, B = DIGESTS["bagit.txt"], DIGESTS["data/bundle.json"]
STATEMENTS: dict[str, tuple[Callable[[dict[str, Any]], object], list[tuple[str, str, str, str]]]] = {
    "another type": (
        lambda told: told.update(_type="https://in-toto.io/Statement/v0.1"),
        [("format", FILE_NAME, "_type https://in-toto.io/Statement/v1", "_type https://in-toto.io/Statement/v0.1")],
    ),
    "no type": (
        lambda told: told.pop("_type"), [("format", FILE_NAME, "_type https://in-toto.io/Statement/v1", "_type None")],
    ),
    "another predicate type": (
        lambda told: told.update(predicateType="x" * 1000),
        [("format", FILE_NAME, f"predicateType {PREDICATE_TYPE}", "predicateType " + "x" * 185 + "…")],
    ),
    "a file that is not named": (
        lambda told: told["subject"].pop(0), [("malformed", FILE_NAME, "a subject for bagit.txt", "no such subject")],
    ),
    "a name that is no file": (
        lambda told: told["subject"].append({"name": "data/\x1b[31mmore", "digest": {"sha256": A}}),
        [("unexpected", FILE_NAME, "only the bundle's own files", "data/more")],
    ),
    "another digest": (
        lambda told: told["subject"][0]["digest"].update(sha256=B),
        [("changed", "bagit.txt", f"sha256:{B} ({FILE_NAME})", f"sha256:{A}")],
    ),
    "a name twice": (
        lambda told: told["subject"].append(told["subject"][0]),
        [("malformed", FILE_NAME, "bagit.txt once", "again as subject 4")],
    ),
    "a second digest beside": (
        lambda told: told["subject"][0]["digest"].update(sha1="0"),
        [
            ("malformed", FILE_NAME, "a name and a SHA-256 as subject 1",
             json.dumps({"name": "bagit.txt", "digest": {"sha256": A, "sha1": "0"}})),
            ("malformed", FILE_NAME, "a subject for bagit.txt", "no such subject"),
        ],
    ),
    "another member beside": (
        lambda told: told["subject"].append({"name": "bagit.txt", "digest": {"sha256": A}, "uri": "x"}),
        [("malformed", FILE_NAME, "a name and a SHA-256 as subject 4",
          json.dumps({"name": "bagit.txt", "digest": {"sha256": A}, "uri": "x"}))],
    ),
    "a digest in capitals": (
        lambda told: told["subject"].append({"name": "bagit.txt", "digest": {"sha256": "A" * 64}}),
        [("malformed", FILE_NAME, "a name and a SHA-256 as subject 4",
          json.dumps({"name": "bagit.txt", "digest": {"sha256": "A" * 64}}))],
    ),
    "a subject that is no object": (
        lambda told: told["subject"].append([1]), [("malformed", FILE_NAME, "a name and a SHA-256 as subject 4", "[1]")],
    ),
    "no subjects": (
        lambda told: told.pop("subject"),
        [("malformed", FILE_NAME, f"a subject for {name}", "no such subject") for name in sorted(DIGESTS)],
    ),
    "subjects that are no list": (
        lambda told: told.update(subject={"name": "bagit.txt"}),
        [("malformed", FILE_NAME, f"a subject for {name}", "no such subject") for name in sorted(DIGESTS)],
    ),
    "another predicate": (
        lambda told: told["predicate"].update(rows=2),
        [("content", FILE_NAME, "a predicate equal to bundle.json", "a different one")],
    ),
    "a predicate with another kind of number": (
        lambda told: told["predicate"].update(rows=1.0),
        [("content", FILE_NAME, "a predicate equal to bundle.json", "a different one")],
    ),
    "a predicate with true for 1": (
        lambda told: told["predicate"]["tables"].update(runs=[True]),
        [("content", FILE_NAME, "a predicate equal to bundle.json", "a different one")],
    ),
    "no predicate": (
        lambda told: told.pop("predicate"), [("content", FILE_NAME, "a predicate equal to bundle.json", "a different one")],
    ),
    "another member": (
        lambda told: told.update(more=1),
        [("malformed", FILE_NAME, "a Statement as exporttools lays it out", "a different layout")],
    ),
    "another layout": (
        lambda told: None, [("malformed", FILE_NAME, "a Statement as exporttools lays it out", "a different layout")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STATEMENTS)
def test_promise_06_a_statement_of_something_else_is_found(case: str) -> None:
    change, expected = STATEMENTS[case]
    payload = changed_statement(change)
    assert check_statement(payload, DIGESTS, DESCRIPTION) == [Finding(*finding) for finding in expected]
    # Where the description cannot be read, only what it says is not known; some finding there is of anything but ours.
    if expected[0][0] != "content":
        assert check_statement(payload, DIGESTS, None) == [Finding(*finding) for finding in expected]
    assert check_statement(payload, DIGESTS, None)


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b"[]", "a JSON list"),
        (b'{"_type": 1, "_type": 2}', "the key '_type' twice"),
        (b"{" * 20, "JSON of more than 16 levels"),
    ],
)
def test_a_payload_that_is_no_statement_is_found(payload: bytes, found: str) -> None:
    for description in (DESCRIPTION, None):
        findings = check_statement(payload, DIGESTS, description)
        assert findings == [Finding("malformed", FILE_NAME, "an in-toto Statement", found)]


def test_promise_06_the_envelope_of_another_bundle() -> None:
    other = copy.deepcopy(DESCRIPTION) | {"rows": 2}
    data = attest(DIGESTS | {"data/bundle.json": A}, other, KEY)
    assert check_signature(data, TRUSTED).trusted == (KEY.key_id,)
    assert findings_of(data) == [
        Finding("changed", "data/bundle.json", f"sha256:{A} ({FILE_NAME})", f"sha256:{B}"),
        Finding("content", FILE_NAME, "a predicate equal to bundle.json", "a different one"),
    ]


def test_promise_03_every_changed_byte_of_the_statement_is_found() -> None:
    """Without any signature."""
    digests, description = {"data/a": A}, {"n": 1.5, "a": [True], "text": "x", "none": None}
    payload = statement_of(digests, description)
    for i, octet in enumerate(payload):
        for other in {octet ^ 1 << bit for bit in range(8)} | set(b"\n \t") - {octet}:
            mutated = payload[:i] + bytes([other]) + payload[i + 1 :]
            assert check_statement(mutated, digests, description), (i, octet, other)


def test_a_predicate_cannot_pass_for_a_subject() -> None:
    """Whoever lists the files with sed sees those that are subjects, whatever a description holds."""
    subject = '{"name": "data/more", "digest": {"sha256": "' + "0" * 64 + '"}}'
    nested = {"name": "data/more", "digest": {"sha256": "0" * 64}}
    payload = statement_of(DIGESTS, {"text": f"\n{subject}\n", subject: [nested, [nested]], "nested": nested})
    lines = [line for line in payload.decode().split("\n") if line.startswith('{"name"')]
    assert [json.loads(line.rstrip(","))["name"] for line in lines] == sorted(DIGESTS)
