"""Signed bundles against whoever changes them; each test is named after the promise that it proves."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporttools import (
    ExportBundle,
    RunSnapshot,
    SigningKey,
    SnapshotTable,
    TraceStepSnapshot,
    TrustedKey,
    Verification,
    VerificationFailed,
    read_bundle,
    verify_bundle,
    write_bundle,
    write_key_pair,
)
from tests.bundle.bags import FILES, PAYLOAD, TAGS, a_bundle, edit, rehash, rehash_tags, unsigned
from tests.bundle.envelopes import envelope_of, laid_out
from tests.steps import Tags, a_step, steps_of

ATTESTATION = "attestation.dsse.json"
KEY_ID = re.compile("[0-9a-f]{64}")
FORMS: dict[str, dict[str, Any]] = {"directory": {}, "archive": {"archive": True}}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return write_key_pair(tmp_path_factory.mktemp("keys") / "signer")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    """Somebody else's key."""
    return write_key_pair(tmp_path_factory.mktemp("keys") / "stranger")


@pytest.fixture(scope="module")
def signed(key: SigningKey, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed bundle that is only to be copied."""
    return write_bundle(a_bundle(), tmp_path_factory.mktemp("signed") / "bundle", signing_key=key)


@pytest.fixture
def bag(signed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed, tmp_path / "bundle"))


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> dict[str, Any]:
    return FORMS[request.param]


def found_in(bag: Path, key: SigningKey) -> list[tuple[str, str]]:
    """Codes and paths of the findings where the key's signature is required; also that reading refuses for them."""
    verification = verify_bundle(bag, trusted_keys=key.trusted_key)
    assert not verification.authentic
    assert verification.verdict == "failed"
    with pytest.raises(VerificationFailed) as caught:
        read_bundle(bag, trusted_keys=key.trusted_key)
    assert caught.value.findings == verification.findings
    return [(finding.code, finding.path) for finding in verification.findings]


# Row 5: what each verdict says


def test_promise_05_the_verdicts(form: dict[str, Any], key: SigningKey, stranger: SigningKey, tmp_path: Path) -> None:
    bundle = a_bundle()
    signed = write_bundle(bundle, tmp_path / "signed.zip", signing_key=key, **form)
    unsigned = write_bundle(bundle, tmp_path / "unsigned.zip", **form)
    alice, other = TrustedKey(key.trusted_key.octets, "Alice"), stranger.trusted_key

    found = verify_bundle(signed, trusted_keys=[other, alice])
    assert (found.verdict, found.ok, found.authentic) == ("authentic, signed by Alice", True, True)
    assert (found.signed_by, found.signed, found.signature_checked) == ((alice,), True, True)
    assert read_bundle(signed, trusted_keys=alice) == bundle

    found = verify_bundle(signed)
    assert (found.verdict, found.ok, found.authentic) == ("intact, signature not checked", True, False)
    assert (found.signed_by, found.signed, found.signature_checked) == ((), True, False)

    found = verify_bundle(signed, trusted_keys=other, require_trusted=False)
    assert (found.verdict, found.ok, found.authentic) == ("intact, not signed by a trusted key", True, False)
    assert (found.signed_by, found.signed, found.signature_checked) == ((), True, True)

    for found in (verify_bundle(unsigned), verify_bundle(unsigned, trusted_keys=alice, require_trusted=False)):
        assert (found.verdict, found.ok, found.authentic) == ("intact, unsigned", True, False)
        assert (found.signed_by, found.signed, found.signature_checked) == ((), False, False)

    for path, told in ((signed, "none by a trusted key"), (unsigned, "no signature")):
        found = verify_bundle(path, trusted_keys=other)
        assert (found.verdict, found.ok, found.authentic) == ("failed", False, False)
        (finding,) = found.findings
        expected = f"expected a signature by {other.label}"
        assert str(finding) == f"not-trusted: {ATTESTATION}: {expected}; found {told}"


def test_promise_05_re_hashing_after_an_edit_does_not_pass(bag: Path, key: SigningKey, tmp_path: Path) -> None:
    forged = write_bundle(a_bundle(run=RunSnapshot("r1", "acme", total_cost_cents=1)), tmp_path / "forged")
    assert verify_bundle(forged).verdict == "intact, unsigned"
    assert found_in(forged, key) == [("not-trusted", ATTESTATION)]
    for name in [*PAYLOAD, "bag-info.txt", "manifest-sha256.txt", "tagmanifest-sha256.txt"]:
        shutil.copy(forged / name, bag / name)  # a whole other bag, under the signature of the first
    assert {path for code, path in found_in(bag, key) if code == "changed"} >= {"data/run.parquet", "data/bundle.json"}
    assert not verify_bundle(bag).ok
    unsigned(bag)  # without it, and without its name in bundle.json, it is whole again, and nobody's
    assert verify_bundle(bag).verdict == "intact, unsigned"
    assert found_in(bag, key) == [("not-trusted", ATTESTATION)]


def test_promise_05_an_edited_description_does_not_pass(bag: Path, key: SigningKey) -> None:
    edit(bag / "data/bundle.json", lambda description: description["source"].update(dialect="oracle"))
    rehash(bag)  # nothing that follows from the rows is wrong, and every manifest is right
    found = found_in(bag, key)
    assert ("changed", "data/bundle.json") in found
    assert ("changed", "manifest-sha256.txt") in found


# Rows 2 and 4: whatever is not as it was written


def _swap(a: Path, b: Path) -> None:
    a_bytes, b_bytes = a.read_bytes(), b.read_bytes()
    a.write_bytes(b_bytes)
    b.write_bytes(a_bytes)


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def _linked(path: Path) -> None:
    outside = path.parents[path.parent.name == "data"].parent / "outside"
    shutil.copy(path, outside)
    path.unlink()
    path.symlink_to(outside)


def _edit_info(bag: Path) -> None:
    info = bag / "bag-info.txt"
    info.write_text(info.read_text().replace("i1", "i2"))


def _envelope(bag: Path, change: Callable[[dict[str, Any]], object]) -> None:
    edit(bag / ATTESTATION, change)


MATRIX: dict[str, tuple[Callable[[Path], object], str]] = {
    "file added": (lambda bag: (bag / "data/more").write_text("x"), "data/more"),
    "file added beside": (lambda bag: (bag / "more.txt").write_text("x"), "more.txt"),
    "file removed": (lambda bag: (bag / "data/trace.parquet").unlink(), "data/trace.parquet"),
    "file renamed": (lambda bag: (bag / "data/trace.parquet").rename(bag / "data/tracf.parquet"), "data/trace.parquet"),
    "empty file": (lambda bag: (bag / "data/empty").touch(), "data/empty"),
    "empty directory": (lambda bag: (bag / "data/empty").mkdir(), "data/empty"),
    "symlink to a file": (lambda bag: _linked(bag / "data/run.parquet"), "data/run.parquet"),
    "symlink to a directory": (lambda bag: (bag / "data/more").symlink_to("/tmp"), "data/more"),
    "pipe": (lambda bag: _replace(bag / "data/run.parquet", os.mkfifo), "data/run.parquet"),
    "hard link": (lambda bag: os.link(bag / "data/run.parquet", bag.parent / "second"), "data/run.parquet"),
    "swapped files": (lambda bag: _swap(bag / "data/run.parquet", bag / "data/trace.parquet"), "data/run.parquet"),
    "tag file edited": (_edit_info, "bag-info.txt"),
    "tag file edited, tag manifest made anew": (lambda bag: (_edit_info(bag), rehash_tags(bag)), "bag-info.txt"),
    "tag file edited, tag manifest removed": (
        lambda bag: (_edit_info(bag), (bag / "tagmanifest-sha256.txt").unlink()), "tagmanifest-sha256.txt",
    ),
    "row edited, bag made anew": (
        lambda bag: (edit(bag / "data/bundle.json", lambda told: told.update(trace_count=2)), rehash(bag)), "data/bundle.json",
    ),
    "signature removed": (lambda bag: (bag / ATTESTATION).unlink(), ATTESTATION),
    "signature emptied": (lambda bag: _replace(bag / ATTESTATION, Path.touch), ATTESTATION),
    "signature a pipe": (lambda bag: _replace(bag / ATTESTATION, os.mkfifo), ATTESTATION),
    "signature a link": (lambda bag: _linked(bag / ATTESTATION), ATTESTATION),
    "signature cut": (lambda bag: os.truncate(bag / ATTESTATION, 900), ATTESTATION),
    "signatures none": (lambda bag: _envelope(bag, lambda envelope: envelope.update(signatures=[])), ATTESTATION),
    "payload type swapped": (lambda bag: _envelope(bag, lambda envelope: envelope.update(payloadType="text/plain")), ATTESTATION),
    "payload of nothing": (lambda bag: _envelope(bag, lambda envelope: envelope.update(payload="e30=")), ATTESTATION),
    "keyid absent": (lambda bag: _envelope(bag, lambda envelope: envelope["signatures"][0].pop("keyid")), ATTESTATION),
    "a member more": (lambda bag: _envelope(bag, lambda envelope: envelope.update(more=1)), ATTESTATION),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MATRIX)
def test_promise_04_a_mutation_is_found_and_named(bag: Path, key: SigningKey, mutation: str) -> None:
    mutate, path = MATRIX[mutation]
    mutate(bag)
    assert path in {found for _, found in found_in(bag, key)}
    assert not verify_bundle(bag).ok  # without a key, too


def _sign_anew(bag: Path, *keys: SigningKey) -> None:
    """Put other signatures of the same statement into the envelope, and make the tag manifest anew."""
    envelope = json.loads((bag / ATTESTATION).read_text())
    payload = base64.b64decode(envelope["payload"])
    (bag / ATTESTATION).write_bytes(laid_out(envelope_of(payload, *keys)))
    rehash_tags(bag)


def test_promise_06_other_signatures_than_those_that_were_made(
    signed: Path, key: SigningKey, stranger: SigningKey, tmp_path: Path
) -> None:
    """Appended, removed, repeated, exchanged, in another order: found without a key, whoever makes the bag anew."""
    twice = write_bundle(a_bundle(), tmp_path / "twice", signing_key=[key, stranger])
    both = [key.public_key, stranger.public_key]
    assert verify_bundle(twice, trusted_keys=both).ok
    for number, (source, keys) in enumerate([
        (signed, (key, stranger)), (signed, (stranger, key)), (signed, (key, key)), (signed, (stranger,)),
        (twice, (key,)), (twice, (stranger,)), (twice, (stranger, key)), (twice, (key, stranger, key)), (twice, (key, key)),
    ]):  # fmt: skip
        bag = Path(shutil.copytree(source, tmp_path / str(number)))
        _sign_anew(bag, *keys)
        for trusted in ({}, {"trusted_keys": both, "require_trusted": False}):
            (finding,) = verify_bundle(bag, **trusted).findings
            assert (finding.code, finding.path) == ("signature", ATTESTATION)
            assert finding.found.startswith(f"{len(keys)} signature")
            assert not KEY_ID.search(str(finding))  # whoever they claim to be by


def test_promise_06_a_removed_signature_is_found_whoever_makes_the_bag_anew(bag: Path, key: SigningKey) -> None:
    (bag / ATTESTATION).unlink()
    rehash_tags(bag)
    findings = {str(finding) for finding in verify_bundle(bag).findings}
    assert f"missing: {ATTESTATION}: expected 1 signature (bundle.json); found nothing" in findings


def test_promise_06_an_envelope_of_the_other_format(bag: Path, tmp_path: Path) -> None:
    golden = Path(__file__).parents[1] / "golden/format-1/signed.bundle"
    of_format_1 = Path(shutil.copytree(golden, tmp_path / "of-format-1"))
    mine, theirs = (bag / ATTESTATION).read_bytes(), (golden / ATTESTATION).read_bytes()
    for path, envelope, members in ((bag, theirs, "keyid, publicKey, sig"), (of_format_1, mine, "keyid, sig")):
        (path / ATTESTATION).write_bytes(envelope)
        if path == bag:
            rehash_tags(bag)
        (finding,) = verify_bundle(path).findings
        assert finding.found == f"a signature with the members {members}"


def test_promise_06_the_envelope_of_another_bundle(bag: Path, key: SigningKey, tmp_path: Path) -> None:
    other = write_bundle(a_bundle(trace_count=2), tmp_path / "other", signing_key=key)
    shutil.copy(other / ATTESTATION, bag / ATTESTATION)
    found = found_in(bag, key)
    assert ("changed", "data/bundle.json") in found
    assert verify_bundle(bag).verdict == "failed"


def test_promise_06_a_wrong_key(bag: Path, stranger: SigningKey) -> None:
    assert found_in(bag, stranger) == [("not-trusted", ATTESTATION)]


# Row 3: any changed byte


@pytest.mark.slow
@pytest.mark.parametrize("checked_with", ["a key", "no key", "no cryptography"])
def test_promise_03_every_byte_of_what_a_signature_is_about(
    tmp_path: Path, key: SigningKey, checked_with: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the attestation too: without a key it is the tag manifest that finds it, since it must list exactly what is there."""
    path = write_bundle(ExportBundle(run=RunSnapshot("r1", "acme")), tmp_path / "tiny", signing_key=key)
    trusted = {"trusted_keys": [key.public_key]} if checked_with == "a key" else {}
    if checked_with == "no cryptography":
        monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    # The others are hashed whole, as test_reader.py shows for every byte.
    for name in (ATTESTATION, "data/bundle.json", *TAGS, "tagmanifest-sha256.txt"):
        good = (path / name).read_bytes()
        for i in range(len(good)):
            (path / name).write_bytes(good[:i] + bytes([good[i] ^ (1 << i % 8)]) + good[i + 1 :])
            assert not verify_bundle(path, **trusted).ok, (name, i)
        (path / name).write_bytes(good)
    assert verify_bundle(path, **trusted).ok
    assert verify_bundle(path, **trusted).authentic == (checked_with == "a key")


@pytest.mark.slow
def test_promise_03_every_byte_of_a_tiny_archive(tmp_path: Path) -> None:
    path = write_bundle(ExportBundle(run=RunSnapshot("r1", "acme")), tmp_path / "tiny.zip", archive=True)
    good = path.read_bytes()
    for i in range(4, len(good)):  # the first four say that it is a zip file at all
        with path.open("r+b") as file:
            file.seek(i)
            file.write(bytes([good[i] ^ (1 << i % 8)]))
        assert not verify_bundle(path).ok, i
        with path.open("r+b") as file:
            file.seek(i)
            file.write(good[i : i + 1])
    assert verify_bundle(path).ok


def _flip(file: Path, at: int, bit: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ bit]))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_promise_03_two_thousand_bits_of_a_large_bundle(tmp_path: Path, key: SigningKey, form: str) -> None:
    steps = steps_of(*(a_step(i, content_hash=hashlib.sha256(bytes([i % 256])).hexdigest()) for i in range(20_000)))
    path = write_bundle(a_bundle(steps=steps), tmp_path / "large.zip", signing_key=key, **FORMS[form])
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
    sizes = [file.stat().st_size for file in files]
    rng = random.Random(7)
    for _ in range(2_000):
        (file,) = rng.choices(files, sizes)
        at, bit = rng.randrange(4 if path.is_file() else 0, file.stat().st_size), 1 << rng.randrange(8)
        _flip(file, at, bit)
        assert not verify_bundle(path).ok, (file, at, bit)
        _flip(file, at, bit)
    assert verify_bundle(path, trusted_keys=key.trusted_key).authentic


# Row 17: hostile statements of a bundle that is otherwise signed and right


HOSTILE_JSON = {
    "a key twice": ('{"a": 1, "a": 2}', "the key 'a' twice"),
    "not a number": ('{"a": NaN}', "the number NaN"),
    "depth": ('{"a": ' + "[" * 5000 + "]" * 5000 + "}", "levels"),
    "cut": ('{"a": ', "Expecting value"),
}


@pytest.mark.parametrize("hostile", HOSTILE_JSON)
@pytest.mark.parametrize("name", ["data/bundle.json", ATTESTATION])
def test_promise_17_hostile_json_is_a_finding(bag: Path, name: str, hostile: str) -> None:
    text, fragment = HOSTILE_JSON[hostile]
    (bag / name).write_text(text)
    rehash(bag)
    findings = [
        finding for finding in verify_bundle(bag).findings if (finding.code, finding.path) == ("malformed", name)
    ]
    assert fragment in findings[0].found


# Row 18


def test_promise_18_text_of_a_bundle_is_inert_in_a_verification() -> None:
    found = Verification(
        Path("b"), content_digest="0" * 64, incident_id="<b>\x1b[31m", redacted=("runs.<script>\x1b[31m",), signed=True,
        signed_by=(TrustedKey(bytes(32), "<i>"),), signature_checked=True,
    )  # fmt: skip
    for text in (str(found), found._repr_html_()):
        assert "\x1b" not in text
    assert not re.search("<script>|<i>|<b>[^✔]", found._repr_html_())


# Redaction


def test_a_redacted_bundle_says_so_and_verifies(form: dict[str, Any], key: SigningKey, tmp_path: Path) -> None:
    secret = "a customer's own words 7Q"
    bundle = a_bundle(run=RunSnapshot("r1", "acme", goal=secret), incident=None)
    path = write_bundle(bundle, tmp_path / "b.zip", signing_key=key, redact=["goal", "model", "content_hash"], **form)
    verification = verify_bundle(path, trusted_keys=key.trusted_key)
    assert verification.authentic
    assert verification.redacted == ("runs.goal", "trace_steps.content_hash", "trace_steps.model")
    for text in (str(verification), Tags(verification._repr_html_()).text):
        assert re.search("redacted *runs.goal, trace_steps.content_hash, trace_steps.model", text)
    found = read_bundle(path)
    assert found.redacted == verification.redacted
    assert found == bundle.redact("goal", "model", "content_hash")
    assert found.run is not None
    assert found.run.goal is None
    assert found.totals == bundle.totals
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    assert not [file for file in files if secret.encode() in file.read_bytes()]
    assert read_bundle(write_bundle(found, tmp_path / "again", redact="goal")).redacted == found.redacted


def test_a_bundle_that_hides_its_redaction_or_invents_one_fails(bag: Path) -> None:
    for redacted in (["runs.goal"], ["trace_steps.model"], ["runs.run_id"], ["nothing"], ["runs.\ud83d\ude00"]):
        edit(bag / "data/bundle.json", lambda told, redacted=redacted: told.update(redacted=redacted))  # type: ignore[misc]
        unsigned(bag)
        (finding,) = verify_bundle(bag).findings
        assert (finding.code, finding.path) == ("content", "data/bundle.json"), redacted


def test_an_attestation_says_what_the_bundle_is_of(bag: Path) -> None:
    statement = json.loads(base64.b64decode(json.loads((bag / ATTESTATION).read_text())["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "urn:exporttools:agent-run-bundle:v2"
    assert statement["predicate"] == json.loads((bag / "data/bundle.json").read_text())
    digests = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    covered = set(FILES) - {"tagmanifest-sha256.txt"}
    assert digests == {name: hashlib.sha256((bag / name).read_bytes()).hexdigest() for name in covered}


def test_steps_that_a_redaction_left_text_in_fail(bag: Path) -> None:
    """What the description calls redacted must be NULL in every row, not just in the first."""
    import pyarrow.parquet as pq

    (bag / ATTESTATION).unlink()
    table = pq.read_table(bag / "data/trace_steps.parquet")
    assert table["content_hash"].null_count == 0
    steps = SnapshotTable(TraceStepSnapshot, table)
    texts = [None, None, "kept"]
    changed = steps.to_arrow().set_column(7, table.schema.field(7), [texts])
    shutil.rmtree(bag)
    write_bundle(a_bundle(steps=SnapshotTable(TraceStepSnapshot, changed)), bag)
    edit(bag / "data/bundle.json", lambda told: told.update(redacted=["trace_steps.content_hash"]))
    rehash(bag)
    (finding,) = verify_bundle(bag).findings
    assert (finding.code, finding.path) == ("content", "data/bundle.json")
    assert finding.expected == "NULL in every row of the redacted trace_steps.content_hash"
    assert finding.found == "text in 1 of 3 rows"
