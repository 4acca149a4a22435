"""The attestation: a signed in-toto Statement v1 about every other file, in a DSSE v1 envelope. Opens no file.

Only the caller's keys decide whose signature counts, never the envelope: a key that names itself proves nothing about who
signed. Nothing of the statement is parsed before its signatures were checked.

**Any changed byte of the file is found**, even without a key, which goes beyond DSSE:

- The envelope and the statement have exactly one layout. Other members, another order or spacing, URL-safe base64 (which
  DSSE allows verifiers to accept) and base64 with loose bits at its end are refused: what is ignored could be changed
  unseen.
- A signature has its public key beside its ``keyid``, as a member of the kind that DSSE tells others to ignore. So the
  ``keyid`` (the key's SHA-256) is checked against the ``publicKey``, and ``sig`` against that key and the payload: a
  signature is known to be intact even if nobody trusts its key. The key is not a part of what is signed, or a second
  signer could not add a signature. Both members are required, although DSSE makes ``keyid`` optional.

If cryptography is not installed, nobody can tell whether ``sig`` is intact, and the result says so.

The statement's subjects stand one to a line, so that ``sed`` can turn them into input for ``sha256sum -c``. No other line
begins with ``{"name"``: in the indented predicate an object's opening brace ends its line.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exporttools.bundle.keys import SigningKey, TrustedKey
from exporttools.errors import MissingExtra
from exporttools.files.findings import Finding
from exporttools.text.inert import one_line
from exporttools.text.strict_json import parse_object, same

FILE_NAME = "attestation.dsse.json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:exporttools:agent-run-bundle:v1"

MAX_BYTES = 16 << 20  # a statement has some kilobytes, but an id in it may have a megabyte
_MAX_SIGNATURES = 16

_ENVELOPE_MEMBERS = ["payload", "payloadType", "signatures"]
_SIGNATURE_MEMBERS = ["keyid", "publicKey", "sig"]
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class SignatureCheck:
    """The result of checking an envelope's signatures.

    Attributes
    ----------
    payload : bytes or None
        The statement; None if the envelope cannot be read.
    trusted : tuple of str
        Ids of the caller's keys that signed it. Only these say who did.
    named : tuple of str
        Ids of the keys that the envelope claims to be signed by.
    checked : bool
        Whether the signatures were checked with their keys. False if cryptography is not installed.
    findings : tuple of Finding
        What is wrong with the envelope. A signature by a key that is not trusted is not wrong.
    """

    payload: bytes | None
    trusted: tuple[str, ...]
    named: tuple[str, ...]
    checked: bool
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class _Signature:
    octets: bytes
    key_id: str
    key: TrustedKey


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return what is signed: DSSE v1's pre-authentication encoding.

    Examples
    --------
    >>> pae("http://example.com/HelloWorld", b"hello world")
    b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'
    """
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def attest(digests: Mapping[str, str], predicate: Mapping[str, Any], key: SigningKey) -> bytes:
    """Return the content of ``attestation.dsse.json``.

    Parameters
    ----------
    digests : mapping of str to str
        The SHA-256, in lower-case hexadecimal, of every other file of the bundle, by its path in it.
    predicate : mapping
        The content of ``bundle.json``.
    key : SigningKey

    Returns
    -------
    bytes
        ASCII; equal arguments give equal bytes.
    """
    payload = _lay_out_statement(digests, predicate)
    signature = {
        "keyid": key.key_id,
        "publicKey": _base64(key.trusted_key.der),
        "sig": _base64(key.sign(pae(PAYLOAD_TYPE, payload))),
    }
    return _lay_out({"payload": _base64(payload), "payloadType": PAYLOAD_TYPE, "signatures": [signature]})


def check_signature(data: bytes, trusted: Sequence[TrustedKey]) -> SignatureCheck:
    """Read an envelope and check its signatures.

    Parameters
    ----------
    data : bytes
        The content of ``attestation.dsse.json``.
    trusted : sequence of TrustedKey
        The keys that count.

    Returns
    -------
    SignatureCheck
    """
    try:
        payload, signatures = _read_envelope(data)
    except ValueError as error:
        finding = Finding("malformed", FILE_NAME, "a DSSE envelope as exporttools lays it out", one_line(error))
        return SignatureCheck(None, (), (), checked=False, findings=(finding,))
    message = pae(PAYLOAD_TYPE, payload)
    verified: list[str] = []
    findings: list[Finding] = []
    checked = True
    for signature in signatures:
        key = signature.key
        if signature.key_id != key.key_id:
            expected = f"the keyid of the publicKey beside it, {key.key_id}"
            findings.append(Finding("signature", FILE_NAME, expected, one_line(signature.key_id)))
        try:
            intact = key.verifies(signature.octets, message)
        except MissingExtra:
            checked = False
            continue
        if not intact:
            expected = f"a signature by the key {key.key_id}"
            findings.append(Finding("signature", FILE_NAME, expected, "one that does not verify"))
        elif key in trusted:
            verified.append(key.key_id)
    named = tuple(dict.fromkeys(signature.key.key_id for signature in signatures))
    return SignatureCheck(payload, tuple(dict.fromkeys(verified)), named, checked, tuple(findings))


def check_statement(payload: bytes, digests: Mapping[str, str], description: dict[str, Any] | None) -> list[Finding]:
    """Check a statement against the bundle that it came with.

    Parameters
    ----------
    payload : bytes
        The payload of an envelope whose signatures were checked.
    digests : mapping of str to str
        The SHA-256 of every other file, as found, by its path in the bundle.
    description : dict or None
        The content of ``bundle.json``; None if it cannot be read.

    Returns
    -------
    list of Finding
        Empty only if `payload` is, byte for byte, what :func:`attest` makes for the bundle.
    """
    if description is not None and payload == _lay_out_statement(digests, description):
        return []
    try:
        statement = parse_object(payload, max_bytes=MAX_BYTES)
    except ValueError as error:
        return [Finding("malformed", FILE_NAME, "an in-toto Statement", one_line(error))]
    findings = [
        Finding("format", FILE_NAME, f"{member} {expected}", one_line(f"{member} {statement.get(member)}"))
        for member, expected in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE))
        if statement.get(member) != expected
    ]
    findings += _check_subjects(statement.get("subject"), digests)
    predicate = statement.get("predicate")
    if description is None:
        description = predicate if isinstance(predicate, dict) else {}
    if not same(predicate, description):
        findings.append(Finding("content", FILE_NAME, "a predicate equal to bundle.json", "a different one"))
    if not findings and payload != _lay_out_statement(digests, description):
        findings.append(Finding("malformed", FILE_NAME, "a Statement as exporttools lays it out", "a different layout"))
    return findings


def _check_subjects(subjects: Any, digests: Mapping[str, str]) -> Iterator[Finding]:
    stated: dict[str, str] = {}
    for number, subject in enumerate(subjects if isinstance(subjects, list) else [], start=1):
        match subject:
            case {"name": str(name), "digest": {"sha256": str(digest), **other_digests}, **others} if (
                _SHA256.fullmatch(digest) and not other_digests and not others
            ):
                pass
            case _:
                expected = f"a name and a SHA-256 as subject {number}"
                yield Finding("malformed", FILE_NAME, expected, one_line(json.dumps(subject)))
                continue
        if name in stated:
            yield Finding("malformed", FILE_NAME, f"{one_line(name)} once", f"again as subject {number}")
        elif name not in digests:
            yield Finding("unexpected", FILE_NAME, "only the bundle's own files", one_line(name))
        elif digest != digests[name]:
            yield Finding("changed", name, f"sha256:{digest} ({FILE_NAME})", f"sha256:{digests[name]}")
        stated[name] = digest
    for name in sorted(digests.keys() - stated):
        yield Finding("malformed", FILE_NAME, f"a subject for {name}", "no such subject")


def _read_envelope(data: bytes) -> tuple[bytes, list[_Signature]]:
    envelope = parse_object(data, max_bytes=MAX_BYTES)
    _require_members(envelope, _ENVELOPE_MEMBERS, "an envelope")
    payload = _octets(envelope, "payload")
    if envelope["payloadType"] != PAYLOAD_TYPE:
        raise ValueError(f"the payloadType {envelope['payloadType']}")
    entries = envelope["signatures"]
    if not isinstance(entries, list) or not 1 <= len(entries) <= _MAX_SIGNATURES:
        found = f"{len(entries)} signatures" if isinstance(entries, list) else "signatures that are not a list"
        raise ValueError(f"{found} instead of 1 to {_MAX_SIGNATURES}")
    signatures = [_read_signature(entry) for entry in entries]
    if data != _lay_out(envelope):
        raise ValueError("a different layout")
    return payload, signatures


def _read_signature(entry: Any) -> _Signature:
    if not isinstance(entry, dict):
        raise ValueError("a signature that is not an object")  # noqa: TRY004
    _require_members(entry, _SIGNATURE_MEMBERS, "a signature")
    if not isinstance(entry["keyid"], str):
        raise ValueError("a keyid that is not a string")  # noqa: TRY004
    return _Signature(_octets(entry, "sig"), entry["keyid"], TrustedKey.from_der(_octets(entry, "publicKey")))


def _require_members(found: dict[str, Any], expected: list[str], where: str) -> None:
    if list(found) != expected:
        members = f"the members {', '.join(found)}" if found else "no members"
        raise ValueError(f"{where} with {members}")


def _octets(found: dict[str, Any], member: str) -> bytes:
    try:
        octets = base64.b64decode(found[member])
    except (TypeError, ValueError):
        octets = b""
    if _base64(octets) != found[member]:  # the decoder ignores foreign characters and loose bits
        raise ValueError(f"a {member} that is not standard base64")
    return octets


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def _lay_out(envelope: dict[str, Any]) -> bytes:
    return (json.dumps(envelope, indent=2) + "\n").encode("ascii")


def _lay_out_statement(digests: Mapping[str, str], predicate: Mapping[str, Any]) -> bytes:
    subjects = ",\n".join(json.dumps({"name": name, "digest": {"sha256": digests[name]}}) for name in sorted(digests))
    lines = (
        "{",
        f'"_type": {json.dumps(STATEMENT_TYPE)},',
        f'"subject": [\n{subjects}\n],',
        f'"predicateType": {json.dumps(PREDICATE_TYPE)},',
        f'"predicate": {json.dumps(predicate, indent=2, allow_nan=False)}',
        "}\n",
    )
    return "\n".join(lines).encode("ascii")
