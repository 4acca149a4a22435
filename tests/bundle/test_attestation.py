"""Attestations: strangers' tools accept ours, every changed byte is found, and only the caller's keys are trusted."""

from __future__ import annotations

import base64
import datetime as dt
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.dsse import Envelope

from exporttools.bundle.attestation import (
    FILE_NAME,
    MAX_BYTES,
    PAYLOAD_TYPE,
    SignatureCheck,
    attest,
    check_signature,
    check_signers,
    check_statement,
    pae,
)
from exporttools.bundle.keys import TrustedKey, load_signers, load_trusted_key
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
    TWICE,
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
    signature = json.loads(SIGNED)["signatures"][0]["sig"]
    payload = json.loads(SIGNED)["payload"]
    assert (
        SIGNED.decode()
        == f"""{{
  "payload": "{payload}",
  "payloadType": "application/vnd.in-toto+json",
  "signatures": [
    {{
      "keyid": "{KEY.key_id}",
      "sig": "{signature}"
    }}
  ]
}}
"""
    )
    assert attest(dict(reversed(DIGESTS.items())), DESCRIPTION, load_signers(KEY)) == SIGNED


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
"predicateType": "urn:exporttools:agent-run-bundle:v2",
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
    payload, key = base64.b64decode(json.loads(SIGNED)["payload"]), KEY.public_key
    assert check_signature(SIGNED, TRUSTED) == SignatureCheck(payload, (KEY.key_id,), (key,))
    for keys in ([], [STRANGER.public_key]):
        assert check_signature(SIGNED, keys) == SignatureCheck(payload, (KEY.key_id,))
    assert check_statement(payload, DIGESTS, DESCRIPTION) == []
    assert check_statement(payload, DIGESTS, None) == []
    assert list(check_signers(check_signature(SIGNED, []), [KEY.key_id])) == []


def test_a_number_that_json_does_not_know_is_not_signed() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        attest(DIGESTS, {"cost_cents": float("nan")}, load_signers(KEY))


# Without us


def test_promise_06_securesystemslib_accepts_what_is_written() -> None:
    assert sslib_accepts(SIGNED, KEY)
    assert sslib_accepts(SIGNED, STRANGER, KEY)
    assert not sslib_accepts(SIGNED, STRANGER)
    envelope = Envelope.from_dict(json.loads(SIGNED))
    assert (envelope.payload_type, envelope.payload) == (PAYLOAD_TYPE, check_signature(SIGNED, []).payload)


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
        { printf 'DSSEv1 28 application/vnd.in-toto+json %d ' "$(wc -c < statement.json)"; cat statement.json; } > signed
        openssl pkeyutl -verify -pubin -inkey signer.pub -rawin -in signed -sigfile signature
        sed -n 's/^{"name": "\(.*\)", "digest": {"sha256": "\([0-9a-f]*\)"}},\{0,1\}$/\2  \1/p' statement.json > files
        sha256sum --strict --check files
    """
    assert shell(verify, tmp_path).splitlines() == [
        "Signature Verified Successfully", "bagit.txt: OK", "data/bundle.json: OK", "data/run.parquet: OK",
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
    "signatures that are not a list": (
        lambda envelope, signature: envelope.update(signatures=signature),
        "signatures that are not a list instead of 1 to 16", False, TypeError,
    ),
    "a signature that is not an object": (
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
    "no sig": (lambda _, signature: signature.pop("sig"), "a signature with the members keyid", False, KeyError),
    "keyid of another trusted key": (
        lambda _, signature: signature.update(keyid=SECOND.key_id), "one that does not verify", False, False,
    ),
    "keyid of no key": (lambda _, signature: signature.update(keyid="mine"), "1 signature; number 1 names another key", False, False),
    "keyid that hides": (lambda _, signature: signature.update(keyid="\x1b[8m"), "1 signature; number 1 names another key", False, False),
    "keyid of another type": (
        lambda _, signature: signature.update(keyid=1), "a keyid that is not a string", False, False,
    ),
    "a key beside it, as in format 1": (
        lambda envelope, signature: envelope.update(
            signatures=[{"keyid": KEY.key_id, "publicKey": encoded(KEY.public_key.der), "sig": signature["sig"]}]
        ),
        "a signature with the members keyid, publicKey, sig", False, True,
    ),
    "a signature appended": (
        lambda envelope, signature: envelope["signatures"].append(
            signature_of(base64.b64decode(envelope["payload"]), STRANGER)
        ),
        "2 signatures", True, True,
    ),
    "a signature twice": (
        lambda envelope, signature: envelope["signatures"].append(signature), "2 signatures",
        True, ValueError,
    ),
    "an empty signature appended": (
        lambda envelope, signature: envelope["signatures"].append({"keyid": "", "sig": ""}), "2 signatures",
        True, True,
    ),
    "another's signature": (
        lambda envelope, signature: signature.update(signature_of(base64.b64decode(envelope["payload"]), STRANGER)),
        "1 signature; number 1 names another key", False, False,
    ),
    "a member more": (
        lambda envelope, _: envelope.update(more=1), "an envelope with the members payload, payloadType, signatures, more",
        False, True,
    ),
    "a member of a signature more": (
        lambda _, signature: signature.update(cert="x"), "a signature with the members keyid, sig, cert", False, True,
    ),
    "members in another order": (
        lambda _, signature: signature.update(keyid=signature.pop("keyid")),
        "a signature with the members sig, keyid", False, True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_promise_06_a_mutation_is_found(mutation: str) -> None:
    change, found, trusted, _ = MUTATIONS[mutation]
    data = changed(change)
    check = check_signature(data, TRUSTED)
    findings = [*check.findings, *check_signers(check, [KEY.key_id])]
    assert found in [finding.found for finding in findings], findings
    assert {(finding.code, finding.path) for finding in findings} <= {
        ("malformed", FILE_NAME),
        ("signature", FILE_NAME),
    }
    assert check.trusted == ((KEY.public_key,) if trusted else ())
    if check.payload is None:  # nothing of it was used
        assert check == SignatureCheck(None, findings=check.findings)
        assert [finding.expected for finding in findings] == [LAYOUT]


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
def test_promise_06_what_is_not_an_envelope_is_found(data: bytes, found: str) -> None:
    finding = Finding("malformed", FILE_NAME, LAYOUT, found)
    assert check_signature(data, TRUSTED) == SignatureCheck(None, findings=(finding,))


@pytest.mark.parametrize("member", ["keyid", "sig"])
def test_promise_06_an_absent_member_is_found(member: str) -> None:
    data = changed(lambda _, signature: signature.pop(member))
    others = ", ".join(name for name in ("keyid", "sig") if name != member)
    finding = Finding("malformed", FILE_NAME, LAYOUT, f"a signature with the members {others}")
    assert check_signature(data, TRUSTED) == SignatureCheck(None, findings=(finding,))


def test_promise_06_a_wrong_key_is_not_trusted() -> None:
    forged = attest(DIGESTS, DESCRIPTION, load_signers(STRANGER))
    found = check_signature(forged, TRUSTED)
    assert (found.trusted, found.key_ids, found.findings) == ((), (STRANGER.key_id,), ())
    # Nor in another's name.
    envelope = json.loads(forged)
    envelope["signatures"][0]["keyid"] = KEY.key_id
    found = check_signature(laid_out(envelope), TRUSTED)
    assert (found.trusted, found.key_ids) == ((), (KEY.key_id,))
    expected = Finding("signature", FILE_NAME, f"a signature by {KEY.public_key.label}", "one that does not verify")
    assert found.findings == (expected,)


def test_promise_06_two_signatures() -> None:
    payload = base64.b64decode(json.loads(TWICE)["payload"])
    ids, keys = (KEY.key_id, SECOND.key_id), (KEY.public_key, SECOND.public_key)
    for trusted, accepted in (
        (TRUSTED, keys), (TRUSTED[::-1], keys), (TRUSTED[:1], keys[:1]), (TRUSTED[1:], keys[1:]), ([], ()),
        (TRUSTED * 2, keys),
    ):  # fmt: skip
        check = check_signature(TWICE, trusted)
        assert check == SignatureCheck(payload, ids, accepted)
    assert sslib_accepts(TWICE, KEY, SECOND, threshold=2)
    # One that does not verify is found although the other does.
    envelope = json.loads(TWICE)
    envelope["signatures"][1]["sig"] = envelope["signatures"][0]["sig"]
    found = check_signature(laid_out(envelope), TRUSTED)
    expected = Finding("signature", FILE_NAME, f"a signature by {SECOND.public_key.label}", "one that does not verify")
    assert (found.trusted, found.findings) == ((KEY.public_key,), (expected,))
    # A key that signed twice is one key.
    twice = check_signature(laid_out(envelope_of(payload, KEY, KEY)), TRUSTED)
    assert (twice.trusted, twice.key_ids) == ((KEY.public_key,), (KEY.key_id, KEY.key_id))


@pytest.mark.parametrize(
    ("change", "expected", "found"),
    [
        (lambda ids: ids[::-1], "2 signatures", "2 signatures; number 1 names another key"),
        (lambda ids: [ids[0], "0" * 64], "2 signatures", "2 signatures; number 2 names another key"),
        (lambda ids: ids[:1], "1 signature", "2 signatures"),
        (lambda ids: ids[1:], "1 signature", "2 signatures"),
        (lambda ids: [*ids, "0" * 64], "3 signatures", "2 signatures"),
    ],
)
def test_promise_06_other_signers_than_the_description_names(
    change: Callable[[list[str]], list[str]], expected: str, found: str
) -> None:
    check = check_signature(TWICE, TRUSTED)
    signed_by = change([KEY.key_id, SECOND.key_id])
    (finding,) = check_signers(check, signed_by)
    assert finding == Finding(
        "signature",
        FILE_NAME,
        f"{expected}, by the keys in signed_by (bundle.json), in that order",
        found,
    )


def test_promise_06_an_attestation_that_should_not_be_there_or_should() -> None:
    assert list(check_signers(None, [])) == []
    (finding,) = check_signers(None, [KEY.key_id])
    assert str(finding) == f"missing: {FILE_NAME}: expected 1 signature (bundle.json); found nothing"
    (finding,) = check_signers(check_signature(SIGNED, []), [])
    assert (
        str(finding) == f"unexpected: {FILE_NAME}: expected no attestation: bundle.json names no signer; found a file"
    )


def test_a_key_does_not_count_outside_of_its_period() -> None:
    noon = dt.datetime(2026, 10, 5, 12, tzinfo=dt.UTC)
    for before, after, counts in (
        (None, None, True), (noon, None, True), (None, noon, True), (noon, noon, True),
        (noon + dt.timedelta(microseconds=1), None, False), (None, noon - dt.timedelta(microseconds=1), False),
    ):  # fmt: skip
        key = TrustedKey(KEY.public_key.octets, "Jane", before, after)
        check = check_signature(SIGNED, [key], written_at=noon)
        assert (check.trusted, check.lapsed, check.findings) == (((key,), (), ()) if counts else ((), (key,), ()))


# Every byte


def test_promise_06_truncated_at_every_length() -> None:
    for length in range(len(SIGNED)):
        assert findings_of(SIGNED[:length]), length


def test_promise_03_every_changed_byte_is_found_by_a_trusted_key() -> None:
    """Without one, the tag manifest finds it: test_promises.py."""
    described = {"n": 1.5, "signed_by": [KEY.key_id]}
    data = attest({"data/a": DIGESTS["bagit.txt"]}, described, load_signers(KEY))
    for i, octet in enumerate(data):
        others = {octet ^ 1 << bit for bit in range(8)} | set(b'\n "') - {octet}
        for other in others:
            check = check_signature(data[:i] + bytes([other]) + data[i + 1 :], TRUSTED)
            assert [*check.findings, *check_signers(check, [KEY.key_id])], (i, bytes([octet]), bytes([other]))


# Format 1


FORMAT_1 = (Path(__file__).parents[1] / "golden/format-1/signed.bundle/attestation.dsse.json").read_bytes()
GOLDEN_KEY = load_trusted_key(Path(__file__).parents[1] / "golden/TEST-ONLY.key.pub")


def changed_1(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> bytes:
    envelope = json.loads(FORMAT_1)
    change(envelope, envelope["signatures"][0])
    return laid_out(envelope)


def test_promise_19_format_1_names_its_key_and_is_checked_with_it() -> None:
    payload = base64.b64decode(json.loads(FORMAT_1)["payload"])
    for trusted in ((GOLDEN_KEY,), ()):
        expected = SignatureCheck(payload, (GOLDEN_KEY.key_id,), trusted)
        assert check_signature(FORMAT_1, trusted, format_version=1) == expected


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda _, signature: signature.update(publicKey=encoded(SECOND.public_key.der)), "another keyid"),
        (lambda _, signature: signature.update(keyid=SECOND.key_id), "another keyid"),
        (lambda _, signature: signature.update(publicKey=encoded(bytes(44))), "a public key that is not an Ed25519 SubjectPublicKeyInfo"),
        (lambda _, signature: signature.update(sig=encoded(bytes(64))), "one that does not verify"),
        (lambda envelope, signature: envelope["signatures"].append(signature), "2 signatures instead of 1"),
        (lambda _, signature: signature.pop("publicKey"), "a signature with the members keyid, sig"),
    ],
)  # fmt: skip
def test_promise_06_another_envelope_of_format_1_is_found(change: Callable[..., object], found: str) -> None:
    for trusted in ([GOLDEN_KEY], []):
        check = check_signature(changed_1(change), trusted, format_version=1)
        assert found in [finding.found for finding in check.findings]
        told = [finding.expected for finding in check.findings if finding.code == "signature"]
        named = ["a signature by the publicKey beside it", "the keyid that belongs to the publicKey beside it"]
        assert {*told} <= {
            *named,
            *(f"a signature by {key.label}" for key in trusted),
        }  # no key id that is only claimed


def test_promise_06_an_envelope_of_the_other_format() -> None:
    for data, version, found in ((SIGNED, 1, "keyid, sig"), (FORMAT_1, 2, "keyid, publicKey, sig")):
        finding = Finding("malformed", FILE_NAME, LAYOUT, f"a signature with the members {found}")
        assert check_signature(data, TRUSTED, format_version=version).findings == (finding,)
    payload = base64.b64decode(json.loads(SIGNED)["payload"])
    (finding,) = check_statement(payload, DIGESTS, DESCRIPTION, format_version=1)
    assert str(finding) == (
        f"format: {FILE_NAME}: expected predicateType urn:exporttools:agent-run-bundle:v1; "
        "found predicateType urn:exporttools:agent-run-bundle:v2"
    )


def test_promise_03_every_changed_byte_of_format_1_is_found_without_a_trusted_key() -> None:
    for i, octet in enumerate(FORMAT_1):
        mutated = FORMAT_1[:i] + bytes([octet ^ 1 << i % 8]) + FORMAT_1[i + 1 :]
        assert check_signature(mutated, [], format_version=1).findings, i


def test_promise_03_without_cryptography_a_signature_of_format_1_names_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The value of sig alone can change unseen, but it counts for nothing."""
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    data = changed_1(lambda _, signature: signature.update(sig=encoded(bytes(64))))
    check = check_signature(data, [], format_version=1)
    assert (check.findings, check.trusted, check.lapsed) == ((), (), ())
