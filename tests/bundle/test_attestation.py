"""Attestations: strangers' tools accept ours, every changed byte is found, and only the caller's keys are trusted."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from exporttools.bundle.attestation import (
    FILE_NAME,
    MAX_BYTES,
    PAYLOAD_TYPE,
    SignatureCheck,
    attest,
    check_signature,
    check_statement,
    pae,
)
from exporttools.bundle.keys import TrustedKey
from exporttools.files.findings import Finding
from tests.bundle.bags import needs_openssl, shell
from tests.bundle.envelopes import (
    DESCRIPTION,
    DIGESTS,
    FILES,
    KEY,
    LAYOUT,
    SECOND,
    SIGNED,
    STRANGER,
    TRUSTED,
    changed,
    encoded,
    envelope_of,
    findings_of,
    laid_out,
    signature_of,
    sslib_accepts,
    sslib_key,
)

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
    change, found, trusted, _ = MUTATIONS[mutation]
    data = changed(change)
    check = check_signature(data, TRUSTED)
    assert found in [finding.found for finding in check.findings], check.findings
    assert {(finding.code, finding.path) for finding in check.findings} <= {
        ("malformed", FILE_NAME),
        ("signature", FILE_NAME),
    }
    assert check.trusted == ((KEY.key_id,) if trusted else ())
    unread = ([finding.expected for finding in check.findings], check.named, check.checked) == ([LAYOUT], (), False)
    # An envelope of the right layout is read, whatever its signatures are worth.
    assert unread == (found not in ("one that does not verify", KEY.key_id, SECOND.key_id, "mine", ""))
    assert (check.payload is None) == unread
    assert check_signature(data, []).findings == check.findings


@pytest.mark.parametrize("mutation", [name for name, case in MUTATIONS.items() if isinstance(case[3], bool)])
def test_promise_06_securesystemslib_accepts_a_mutation_or_not(mutation: str) -> None:
    change, _, _, accepted = MUTATIONS[mutation]
    assert sslib_accepts(changed(change), KEY, SECOND) == accepted


@pytest.mark.parametrize("mutation", [name for name, case in MUTATIONS.items() if isinstance(case[3], type)])
def test_promise_06_securesystemslib_fails_on_a_mutation(mutation: str) -> None:
    change, _, _, error = MUTATIONS[mutation]
    assert isinstance(error, type)
    with pytest.raises(error):
        Envelope.from_dict(json.loads(changed(change))).verify([sslib_key(KEY)], 1)


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


def test_promise_06_others_need_the_keyid_and_not_the_key() -> None:
    assert sslib_accepts(changed(lambda _, signature: signature.pop("publicKey")), KEY)
    with pytest.raises(KeyError, match="keyid"):
        sslib_accepts(changed(lambda _, signature: signature.pop("keyid")), KEY)


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
    passed = []
    for i, octet in enumerate(data):
        for bit in range(8):
            check = check_signature(data[:i] + bytes([octet ^ 1 << bit]) + data[i + 1 :], [])
            statement = [] if check.payload is None else check_statement(check.payload, digests, description)
            passed += [] if check.findings or statement else [(i, check.checked)]
    assert passed
    assert {i for i, _ in passed} <= set(unseen)
    assert {checked for _, checked in passed} == {False}
