"""The attestation: a signed in-toto Statement v1 about a bundle's files, in a DSSE v1 envelope. Opens no file.

Only the caller's keys decide whose signature counts, never the envelope: a key id in it is a claim. Nothing of the
statement is parsed before its signatures were checked.

The envelope and the statement have exactly one layout. Other members, another order or spacing, URL-safe base64 (which
DSSE allows verifiers to accept) and base64 with loose bits at its end are refused: what is ignored could be changed unseen.

**Format 2** has nothing in the envelope that DSSE does not name, so that other verifiers take it as it is. Who signed is
inside what is signed: the key ids must be exactly the description's ``signed_by``, in that order, so nobody can append, drop,
repeat or exchange a signature. The statement covers every file but the tag manifest, which in turn lists the
attestation: that is how a changed byte of it is found without any key.

**Format 1** has one signature, with its public key beside its ``keyid``. So the ``keyid`` (the key's SHA-256) is checked
against the ``publicKey``, and ``sig`` against that key and the payload, and a changed byte is found even if nobody trusts the
key. If cryptography is not installed, nobody can tell whether ``sig`` is intact, and it counts for nothing.

The statement's subjects stand one to a line, so that ``sed`` can turn them into input for ``sha256sum -c``. No other line
begins with ``{"name"``: in the indented predicate an object's opening brace ends its line.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exporttools.bundle.keys import MOST_SIGNERS, SIGNATURE_BYTES, Signer, TrustedKey
from exporttools.errors import BundleError, MissingExtra
from exporttools.files.findings import Finding
from exporttools.text.inert import one_line
from exporttools.text.strict_json import parse_object, same
from exporttools.text.words import plural

FILE_NAME = "attestation.dsse.json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPES = {1: "urn:exporttools:agent-run-bundle:v1", 2: "urn:exporttools:agent-run-bundle:v2"}
"""By the bundle's format."""

MAX_BYTES = 16 << 20  # a statement has some kilobytes, but an id in it may have a megabyte

_ENVELOPE_MEMBERS = ["payload", "payloadType", "signatures"]
_SIGNATURE_MEMBERS = {1: ["keyid", "publicKey", "sig"], 2: ["keyid", "sig"]}
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class SignatureCheck:
    """The result of checking an envelope's signatures.

    Attributes
    ----------
    payload : bytes or None
        The statement; None if the envelope cannot be read.
    key_ids : tuple of str
        Ids of the keys that the envelope claims to be signed by, one for each signature. A claim: never show them as signers.
    trusted : tuple of TrustedKey
        The caller's keys whose signature verified, each once. Only these say who signed.
    lapsed : tuple of TrustedKey
        The caller's keys whose signature verified, but which were not valid when the bundle was written. They do not count.
    findings : tuple of Finding
        What is wrong with the envelope. A signature by a key that is not trusted is not wrong.
    """

    payload: bytes | None
    key_ids: tuple[str, ...] = ()
    trusted: tuple[TrustedKey, ...] = ()
    lapsed: tuple[TrustedKey, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class _Signature:
    octets: bytes
    key_id: str
    named_key: TrustedKey | None  # only in format 1


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return what is signed: DSSE v1's pre-authentication encoding.

    Examples
    --------
    >>> pae("http://example.com/HelloWorld", b"hello world")
    b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'
    """
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def attest(digests: Mapping[str, str], predicate: Mapping[str, Any], signers: Mapping[TrustedKey, Signer]) -> bytes:
    """Return the content of ``attestation.dsse.json`` in format 2. Each signature is verified before it is used.

    Parameters
    ----------
    digests : mapping of str to str
        The SHA-256, in lower-case hexadecimal, of every other file but the tag manifest, by its path in the bundle.
    predicate : mapping
        The content of ``bundle.json``.
    signers : mapping of TrustedKey to Signer
        By public key, in the order of the description's ``signed_by``.

    Returns
    -------
    bytes
        ASCII; equal arguments give equal bytes.

    Raises
    ------
    BundleError
        A signer failed, or returned something that is not a signature by its key.
    MissingExtra
        cryptography is not installed.
    """
    payload = _lay_out_statement(digests, predicate, 2)
    signatures = [
        {"keyid": key.key_id, "sig": _base64(_sign(key, signer, pae(PAYLOAD_TYPE, payload)))}
        for key, signer in signers.items()
    ]
    return _lay_out({"payload": _base64(payload), "payloadType": PAYLOAD_TYPE, "signatures": signatures})


def _sign(key: TrustedKey, signer: Signer, data: bytes) -> bytes:
    who = f"the signer with key {key.key_id}"
    try:
        signature = signer.sign(data)
    except Exception as error:  # whatever a token or a network raises
        raise BundleError(
            f"{who} failed: {one_line(f'{type(error).__name__}: {error}')}. Nothing was left behind"
        ) from error
    if not isinstance(signature, bytes) or len(signature) != SIGNATURE_BYTES:
        found = f"{len(signature):,} bytes" if isinstance(signature, bytes) else type(signature).__name__
        raise BundleError(
            f"{who} returned {found}; expected an Ed25519 signature of {SIGNATURE_BYTES} bytes. Nothing was left behind"
        )
    if not key.verifies(signature, data):
        raise BundleError(
            f"{who} returned a signature that its public key does not verify; expected Ed25519 over the bytes given, not "
            "over a hash of them. Nothing was left behind"
        )
    return signature


def check_signature(
    data: bytes, trusted: Sequence[TrustedKey], *, format_version: int = 2, written_at: dt.datetime | None = None
) -> SignatureCheck:
    """Read an envelope and check its signatures.

    Parameters
    ----------
    data : bytes
        The content of ``attestation.dsse.json``.
    trusted : sequence of TrustedKey
        The keys that count.
    format_version : int
        The bundle's format.
    written_at : datetime, optional
        When the bundle says it was written: a key does not count outside of its own period.

    Returns
    -------
    SignatureCheck
    """
    try:
        payload, signatures = _read_envelope(data, format_version)
    except ValueError as error:
        finding = Finding("malformed", FILE_NAME, "a DSSE envelope as exporttools lays it out", one_line(error))
        return SignatureCheck(None, findings=(finding,))
    message = pae(PAYLOAD_TYPE, payload)
    keys = {key.key_id: key for key in trusted}
    verified: list[TrustedKey] = []
    findings: list[Finding] = []
    for signature in signatures:
        named, key = signature.named_key, keys.get(signature.key_id)
        if named is not None:
            if signature.key_id != named.key_id:
                expected = "the keyid that belongs to the publicKey beside it"
                findings.append(Finding("signature", FILE_NAME, expected, "another keyid"))
            key = keys.get(named.key_id, named)
        if key is None:
            continue
        try:
            intact = key.verifies(signature.octets, message)
        except MissingExtra:
            continue
        if not intact:
            # Of keys, only the caller's own are named.
            expected = f"a signature by {key.label if key.key_id in keys else 'the publicKey beside it'}"
            findings.append(Finding("signature", FILE_NAME, expected, "one that does not verify"))
        elif key.key_id in keys and key not in verified:
            verified.append(key)
    lapsed = tuple(key for key in verified if written_at is not None and not key.valid_at(written_at))
    return SignatureCheck(
        payload,
        tuple(signature.key_id for signature in signatures),
        tuple(key for key in verified if key not in lapsed),
        lapsed,
        tuple(findings),
    )


def check_signers(check: SignatureCheck | None, signed_by: Sequence[str]) -> Iterator[Finding]:
    """Yield how the signatures differ from those that a description of format 2 names.

    Parameters
    ----------
    check : SignatureCheck or None
        None if the bundle has no attestation.
    signed_by : sequence of str
        The description's ``signed_by``.
    """
    if check is None:
        if signed_by:
            yield Finding("missing", FILE_NAME, f"{plural(len(signed_by), 'signature')} (bundle.json)", "nothing")
    elif not signed_by:
        yield Finding("unexpected", FILE_NAME, "no attestation: bundle.json names no signer", "a file")
    elif check.payload is not None and check.key_ids != tuple(signed_by):
        expected = f"{plural(len(signed_by), 'signature')}, by the keys in signed_by (bundle.json), in that order"
        found = plural(len(check.key_ids), "signature")
        if len(check.key_ids) == len(signed_by):
            places = [
                i for i, ids in enumerate(zip(check.key_ids, signed_by, strict=True), start=1) if ids[0] != ids[1]
            ]
            found += f"; number {places[0]} names another key"
        yield Finding("signature", FILE_NAME, expected, found)


def check_statement(
    payload: bytes,
    digests: Mapping[str, str],
    description: dict[str, Any] | None,
    *,
    format_version: int = 2,
    names: Collection[str] | None = None,
) -> list[Finding]:
    """Check a statement against the bundle that it came with.

    Parameters
    ----------
    payload : bytes
        The payload of an envelope whose signatures were checked.
    digests : mapping of str to str
        The SHA-256 of every file that a statement covers, as found, by its path in the bundle.
    description : dict or None
        The content of ``bundle.json``; None if it cannot be read.
    format_version : int
        The bundle's format.
    names : collection of str, optional
        All files that a statement covers, also those that are missing, which is not reported again. By default those in
        `digests`.

    Returns
    -------
    list of Finding
        Empty only if `payload` is, byte for byte, what :func:`attest` makes for the bundle.
    """
    names = digests.keys() if names is None else names
    if description is not None and payload == _lay_out_statement(digests, description, format_version):
        return []
    try:
        statement = parse_object(payload, max_bytes=MAX_BYTES)
    except ValueError as error:
        return [Finding("malformed", FILE_NAME, "an in-toto Statement", one_line(error))]
    findings = [
        Finding("format", FILE_NAME, f"{member} {expected}", one_line(f"{member} {statement.get(member)}"))
        for member, expected in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPES[format_version]))
        if statement.get(member) != expected
    ]
    findings += _check_subjects(statement.get("subject"), digests, names)
    predicate = statement.get("predicate")
    if description is None:
        description = predicate if isinstance(predicate, dict) else {}
    if not same(predicate, description):
        findings.append(Finding("content", FILE_NAME, "a predicate equal to bundle.json", "a different one"))
    complete = digests.keys() == set(names)
    if complete and not findings and payload != _lay_out_statement(digests, description, format_version):
        findings.append(Finding("malformed", FILE_NAME, "a Statement as exporttools lays it out", "a different layout"))
    return findings


def _check_subjects(subjects: Any, digests: Mapping[str, str], names: Collection[str]) -> Iterator[Finding]:
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
        elif name not in names:
            yield Finding("unexpected", FILE_NAME, "only the bundle's own files", one_line(name))
        elif name in digests and digest != digests[name]:
            yield Finding("changed", name, f"sha256:{digest} ({FILE_NAME})", f"sha256:{digests[name]}")
        stated[name] = digest
    for name in sorted(set(names) - stated.keys()):
        yield Finding("malformed", FILE_NAME, f"a subject for {name}", "no such subject")


def _read_envelope(data: bytes, format_version: int) -> tuple[bytes, list[_Signature]]:
    envelope = parse_object(data, max_bytes=MAX_BYTES)
    _require_members(envelope, _ENVELOPE_MEMBERS, "an envelope")
    payload = _octets(envelope, "payload")
    if envelope["payloadType"] != PAYLOAD_TYPE:
        raise ValueError(f"the payloadType {envelope['payloadType']}")
    entries = envelope["signatures"]
    most = 1 if format_version == 1 else MOST_SIGNERS
    if not isinstance(entries, list) or not 1 <= len(entries) <= most:
        found = f"{len(entries)} signatures" if isinstance(entries, list) else "signatures that are not a list"
        raise ValueError(f"{found} instead of {'1' if most == 1 else f'1 to {most}'}")
    signatures = [_read_signature(entry, format_version) for entry in entries]
    if data != _lay_out(envelope):
        raise ValueError("a different layout")
    return payload, signatures


def _read_signature(entry: Any, format_version: int) -> _Signature:
    if not isinstance(entry, dict):
        raise ValueError("a signature that is not an object")  # noqa: TRY004
    _require_members(entry, _SIGNATURE_MEMBERS[format_version], "a signature")
    if not isinstance(entry["keyid"], str):
        raise ValueError("a keyid that is not a string")  # noqa: TRY004
    named = TrustedKey.from_der(_octets(entry, "publicKey")) if format_version == 1 else None
    return _Signature(_octets(entry, "sig"), entry["keyid"], named)


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


def _lay_out_statement(digests: Mapping[str, str], predicate: Mapping[str, Any], format_version: int) -> bytes:
    subjects = ",\n".join(json.dumps({"name": name, "digest": {"sha256": digests[name]}}) for name in sorted(digests))
    lines = (
        "{",
        f'"_type": {json.dumps(STATEMENT_TYPE)},',
        f'"subject": [\n{subjects}\n],',
        f'"predicateType": {json.dumps(PREDICATE_TYPES[format_version])},',
        f'"predicate": {json.dumps(predicate, indent=2, allow_nan=False)}',
        "}\n",
    )
    return "\n".join(lines).encode("ascii")
