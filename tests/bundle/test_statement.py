"""An attestation's statement: that of another bundle, or in another layout, is found."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from exporttools.bundle.attestation import FILE_NAME, PREDICATE_TYPES, attest, check_signature, check_statement
from exporttools.bundle.keys import load_signers
from exporttools.files.findings import Finding
from tests.bundle.envelopes import DESCRIPTION, DIGESTS, KEY, TRUSTED, findings_of, statement_of


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
        [("format", FILE_NAME, f"predicateType {PREDICATE_TYPES[2]}", "predicateType " + "x" * 185 + "…")],
    ),
    "a file that is not named": (
        lambda told: told["subject"].pop(0), [("malformed", FILE_NAME, "a subject for bagit.txt", "no such subject")],
    ),
    "a name that is not a file": (
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
    "a subject that is not an object": (
        lambda told: told["subject"].append([1]), [("malformed", FILE_NAME, "a name and a SHA-256 as subject 4", "[1]")],
    ),
    "no subjects": (
        lambda told: told.pop("subject"),
        [("malformed", FILE_NAME, f"a subject for {name}", "no such subject") for name in sorted(DIGESTS)],
    ),
    "subjects that are not a list": (
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
    assert check_statement(payload, DIGESTS, None)


@pytest.mark.parametrize("case", [case for case, (_, expected) in STATEMENTS.items() if expected[0][0] != "content"])
def test_promise_06_without_a_description_all_but_its_content_is_checked(case: str) -> None:
    change, expected = STATEMENTS[case]
    assert check_statement(changed_statement(change), DIGESTS, None) == [Finding(*finding) for finding in expected]


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b"[]", "a JSON list"),
        (b'{"_type": 1, "_type": 2}', "the key '_type' twice"),
        (b"{" * 20, "JSON of more than 16 levels"),
    ],
)
def test_a_payload_that_is_not_a_statement_is_found(payload: bytes, found: str) -> None:
    for description in (DESCRIPTION, None):
        findings = check_statement(payload, DIGESTS, description)
        assert findings == [Finding("malformed", FILE_NAME, "an in-toto Statement", found)]


def test_promise_06_the_envelope_of_another_bundle() -> None:
    other = copy.deepcopy(DESCRIPTION) | {"rows": 2}
    data = attest(DIGESTS | {"data/bundle.json": A}, other, load_signers(KEY))
    assert check_signature(data, TRUSTED).trusted == (KEY.public_key,)
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
