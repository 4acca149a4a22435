"""HOW-TO-VERIFY.txt, step by step as a stranger runs it: what is right passes, and what is hostile fails at a step."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from exporttools import (
    ExportBundle,
    IncidentSnapshot,
    RunSnapshot,
    SigningKey,
    verify_bundle,
    write_bundle,
    write_key_pair,
)
from exporttools.bundle.attestation import attest
from exporttools.bundle.bag import guide
from tests.bundle.bags import a_bundle, edit, needs_openssl, rehash, rehash_tags, shell, unsigned
from tests.bundle.envelopes import envelope_of, laid_out
from tests.databases import incident

ROOT = Path(__file__).parents[2]
GUIDE = guide().decode("ascii")
ATTESTATION = "attestation.dsse.json"
BLOCKS = [textwrap.dedent(part).strip() for part in GUIDE.split("\n\n") if re.match(r" {4}\S", part)]
SET_UP, *STEPS, READ, ROWS, INSTALL = BLOCKS
BY_HAND = ["1 OK", "2 OK", "3 OK", "4 OK", "5 OK", "6 OK"]

pytestmark = needs_openssl


# The text


def test_the_text_is_what_it_should_be() -> None:
    lines = GUIDE.splitlines()
    assert GUIDE.isascii()
    assert max(map(len, lines)) < 72
    assert [line for line in lines if line != line.rstrip() or "\t" in line] == []
    assert re.findall(r"^(\d)\. ", GUIDE, re.MULTILINE) == list("12345678")
    assert len(STEPS) + 1 == len(BY_HAND)
    for number, step in zip("123456", [SET_UP, *STEPS], strict=True):
        assert f'echo "{number} OK' in step


def test_a_bundle_has_it_and_the_format_names_its_digest(written: Path) -> None:
    assert (written / "HOW-TO-VERIFY.txt").read_bytes() == guide()
    digest = hashlib.sha256(guide()).hexdigest()
    for page in ("docs/bundle-format.md", "docs/verify-without-exporttools.md"):
        assert digest in (ROOT / page).read_text(encoding="utf-8")


def test_git_gives_it_no_other_line_breaks() -> None:
    """On Windows too, where it would otherwise make no bundle verify that was written elsewhere."""
    assert "exporttools/bundle/HOW-TO-VERIFY.txt -text" in (ROOT / ".gitattributes").read_text().splitlines()


def test_the_documentation_has_the_same_commands() -> None:
    page = (ROOT / "docs/verify-without-exporttools.md").read_text(encoding="utf-8")
    assert [block.strip() for block in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)] == BLOCKS


# A stranger


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[SigningKey]:
    directory = tmp_path_factory.mktemp("keys")
    return [write_key_pair(directory / name) for name in ("first", "second", "stranger")]


@pytest.fixture(scope="module")
def files(keys: list[SigningKey], tmp_path_factory: pytest.TempPathFactory) -> dict[SigningKey, Path]:
    """The public key of each, as a PEM file."""
    directory = tmp_path_factory.mktemp("public keys")
    pems = {}
    for number, key in enumerate(keys):
        pem = base64.encodebytes(key.public_key.der).decode()
        pems[key] = directory / f"{number}.pub"
        pems[key].write_text(f"-----BEGIN PUBLIC KEY-----\n{pem}-----END PUBLIC KEY-----\n")
    return pems


@pytest.fixture(scope="module")
def once(keys: list[SigningKey], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(a_bundle(), tmp_path_factory.mktemp("signed") / "once", signing_key=keys[0])


@pytest.fixture(scope="module")
def twice(keys: list[SigningKey], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(a_bundle(), tmp_path_factory.mktemp("signed") / "twice", signing_key=keys[:2])


def by_hand(
    bag: Path, *pems: Path, sh: str = "sh", signed: bool = True, more: str = "", cwd: Path | None = None
) -> list[str]:
    """The steps that are passed before one is not, by what they print; the fourth is run for each key."""
    lines = SET_UP.splitlines()
    assert lines[0].startswith("B=")
    assert lines[1].startswith("K=")
    lines[:2] = [f"B={shlex.quote(str(bag))}", f"K={shlex.quote(str(pems[0]) if pems else 'none')}"]
    if not signed:
        lines[2] = "A="
    script = ["\n".join(lines)]
    for number, step in zip("23456", STEPS, strict=True):
        if number == "4":
            script += [f"K={shlex.quote(str(pem))}\n{step}" for pem in pems] if signed else []
        elif signed or number < "4":
            script.append(step)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sh, "-c", " || exit 1\n".join([*script, more])], capture_output=True, text=True, check=False, timeout=60,
        stdin=subprocess.DEVNULL, cwd=cwd, env={**os.environ, "PATH": path, "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert "\x1b" not in done.stdout + done.stderr
    if more:
        return done.stdout.splitlines()
    said = [line for line in done.stdout.splitlines() if re.match(r"\d OK", line)]
    return [line if line.startswith("4") else line[:4] for line in said]


def passed(*signers: SigningKey) -> list[str]:
    return ["1 OK", "2 OK", "3 OK", *(f"4 OK, signed with {key.key_id}" for key in signers), "5 OK", "6 OK"]


@pytest.mark.parametrize("sh", ["sh", "bash", "dash"])
def test_promise_06_one_key(once: Path, keys: list[SigningKey], files: dict[SigningKey, Path], sh: str) -> None:
    if shutil.which(sh) is None:
        pytest.skip(f"{sh} is not installed")
    assert by_hand(once, files[keys[0]], sh=sh) == passed(keys[0])


def test_a_key_file_with_a_name_and_a_bundle_whose_name_is_an_option(
    once: Path, keys: list[SigningKey], files: dict[SigningKey, Path], tmp_path: Path
) -> None:
    (tmp_path / "named.pub").write_text(f"name: Jane Roe\nnot_after: 2099-01-01\n{files[keys[0]].read_text()}")
    assert by_hand(once, tmp_path / "named.pub") == passed(keys[0])
    shutil.copytree(once, tmp_path / "-P")
    assert by_hand(Path("-P"), files[keys[0]], cwd=tmp_path) == passed(keys[0])


def test_the_steps_are_about_the_directory_that_was_filled_in(
    once: Path, keys: list[SigningKey], files: dict[SigningKey, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From within another bundle, as after verifying that; and where the shell looks for directories elsewhere."""
    assert by_hand(Path("nothing"), files[keys[0]], cwd=once) == []
    (tmp_path / "once").mkdir()
    monkeypatch.setenv("CDPATH", str(once.parent))
    assert by_hand(Path("once"), files[keys[0]], cwd=tmp_path) == ["1 OK"]


def test_promise_06_two_keys(twice: Path, keys: list[SigningKey], files: dict[SigningKey, Path]) -> None:
    first, second, _ = keys
    assert by_hand(twice, files[first], files[second]) == passed(first, second)
    assert by_hand(twice, files[second]) == passed(second)


def test_promise_06_redacted_of_a_hostile_id_and_of_nothing_but_a_run(
    keys: list[SigningKey], files: dict[SigningKey, Path], tmp_path: Path
) -> None:
    hostile = a_bundle(
        incident=IncidentSnapshot(**incident(id='i1"\n  "signed_by": [\n    "x"\n  ]\x1b[31m' + "%s\\" * 9))
    )
    for number, (bundle, redact) in enumerate([
        (a_bundle(), ["goal", "model"]), (hostile, []), (ExportBundle(run=RunSnapshot("r1", "acme")), []),
        (a_bundle(incident=IncidentSnapshot(**incident(id="i" * 1_000_000))), []),
    ]):  # fmt: skip
        path = write_bundle(bundle, tmp_path / str(number), signing_key=keys[0], redact=redact)
        assert by_hand(path, files[keys[0]]) == passed(keys[0])


def test_promise_06_a_zip_file_after_unpacking(
    keys: list[SigningKey], files: dict[SigningKey, Path], tmp_path: Path
) -> None:
    if shutil.which("unzip") is None:
        pytest.skip("unzip is not installed")
    write_bundle(a_bundle(), tmp_path / "inc 1.zip", signing_key=keys[0], archive=True)
    shell("mkdir out && cd out && unzip -q '../inc 1.zip'", tmp_path)
    assert by_hand(tmp_path / "out/inc 1", files[keys[0]]) == passed(keys[0])


def test_an_unsigned_bundle_is_shown_to_be_whole(written: Path) -> None:
    assert by_hand(written, signed=False) == ["1 OK", "2 OK", "3 OK"]
    assert by_hand(written, Path("none")) == ["1 OK"]


def test_what_it_says_and_its_rows(once: Path, files: dict[SigningKey, Path], keys: list[SigningKey]) -> None:
    said = by_hand(once, files[keys[0]], more=READ)
    assert '  "incident_id": "i1",' in said
    rows = "\n".join(by_hand(once, files[keys[0]], more=ROWS))
    assert "\u2502 step_index \u2502" in rows  # DuckDB's table
    assert "step_index: int64 not null" in rows
    told = by_hand(once, files[keys[0]], more=INSTALL.splitlines()[1])
    assert 'authentic, signed by 0.pub: "."' in told
    assert INSTALL == "pip install 'exporttools[sign]'\nexporttools verify --trusted-key \"$K\" ."


# Hostile bundles: the step at which each fails, and what exporttools says of it


def anew(bag: Path) -> None:
    rehash_tags(bag)


def _signatures(bag: Path, *signers: SigningKey) -> None:
    payload = base64.b64decode(json.loads((bag / ATTESTATION).read_text())["payload"])
    (bag / ATTESTATION).write_bytes(laid_out(envelope_of(payload, *signers)))
    anew(bag)


def _raw(bag: Path, change: Callable[[bytes], bytes]) -> None:
    (bag / ATTESTATION).write_bytes(change((bag / ATTESTATION).read_bytes()))
    anew(bag)


def _resign(bag: Path, change: Callable[[bytes], bytes], *signers: SigningKey) -> None:
    """Another statement, truly signed: a signer whose own tools are hostile."""
    payload = base64.b64decode(json.loads((bag / ATTESTATION).read_text())["payload"])
    assert change(payload) != payload
    (bag / ATTESTATION).write_bytes(laid_out(envelope_of(change(payload), *signers)))
    anew(bag)


def _forge(bag: Path, signer: SigningKey, signed_by: str | None = None) -> None:
    """Other rows or words, made anew, and signed by a stranger."""
    edit(bag / "data/bundle.json", lambda told: told.update(trace_count=2, signed_by=[signed_by or signer.key_id]))
    rehash(bag)
    names = sorted(
        path for path in bag.rglob("*") if path.is_file() and path.name not in (ATTESTATION, "tagmanifest-sha256.txt")
    )
    digests = {path.relative_to(bag).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in names}
    described = json.loads((bag / "data/bundle.json").read_text())
    (bag / ATTESTATION).write_bytes(attest(digests, described, {signer.public_key: signer}))
    anew(bag)


def _other(bag: Path, signer: SigningKey) -> None:
    other = write_bundle(a_bundle(trace_count=2), bag.parent / "other", signing_key=signer)
    shutil.copy(other / ATTESTATION, bag)
    anew(bag)


def _linked(path: Path) -> None:
    outside = path.parents[path.parent.name == "data"].parent / "outside"
    shutil.move(path, outside)
    path.symlink_to(outside)


def _in_a_directory(bag: Path) -> None:
    (bag / "data/inner").mkdir()
    shutil.copy(bag / ATTESTATION, bag / "data/inner")
    (bag / ATTESTATION).unlink()


def _edited(bag: Path, name: str) -> None:
    content = (bag / name).read_bytes()
    (bag / name).write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])


HOSTILE: dict[str, tuple[int, Callable[[Path, list[SigningKey]], object]]] = {
    "a file more": (2, lambda bag, keys: (bag / "data/more.parquet").write_text("x")),
    "a hidden file more": (2, lambda bag, keys: (bag / ".more").write_text("x")),
    "a name with a line break": (2, lambda bag, keys: (bag / "data/x\nrun.parquet").write_text("x")),
    "a name that is an option": (2, lambda bag, keys: (bag / "-exec").write_text("x")),
    "a name that hides": (2, lambda bag, keys: (bag / "\x1b[8m").write_text("x")),
    "an empty directory": (2, lambda bag, keys: (bag / "empty").mkdir()),
    "an attestation elsewhere": (2, lambda bag, keys: _in_a_directory(bag)),
    "a second attestation elsewhere": (2, lambda bag, keys: shutil.copy(bag / ATTESTATION, bag / "data")),
    "a file less": (2, lambda bag, keys: (bag / "data/run.parquet").unlink()),
    "a link": (2, lambda bag, keys: _linked(bag / "data/run.parquet")),
    "a hard link": (2, lambda bag, keys: os.link(bag / "data/run.parquet", bag.parent / "second")),
    "a pipe": (2, lambda bag, keys: ((bag / "bagit.txt").unlink(), os.mkfifo(bag / "bagit.txt"))),
    "a directory for a file": (3, lambda bag, keys: ((bag / "bagit.txt").unlink(), (bag / "bagit.txt").mkdir())),
    "an edited file": (3, lambda bag, keys: _edited(bag, "data/run.parquet")),
    "an edited text": (3, lambda bag, keys: _edited(bag, "HOW-TO-VERIFY.txt")),
    "an edited attestation": (3, lambda bag, keys: _edited(bag, ATTESTATION)),
    "a manifest with fewer lines": (
        3, lambda bag, keys: (bag / "manifest-sha256.txt").write_text("".join((bag / "manifest-sha256.txt").read_text().splitlines(True)[1:])),
    ),
    "an edited file, made anew": (
        5, lambda bag, keys: (_edited(bag, "bag-info.txt"), anew(bag)),
    ),
    "an edited row, made anew": (5, lambda bag, keys: (_edited(bag, "data/run.parquet"), rehash(bag))),
    "an edited description, made anew": (
        5, lambda bag, keys: (edit(bag / "data/bundle.json", lambda told: told.update(trace_count=2)), rehash(bag)),
    ),
    "a description in another layout, made anew": (
        5, lambda bag, keys: ((bag / "data/bundle.json").write_text(json.dumps(json.loads((bag / "data/bundle.json").read_text()))), rehash(bag)),
    ),
    "signed by a stranger": (4, lambda bag, keys: _forge(bag, keys[2])),
    "signed by a stranger in the name of the key": (4, lambda bag, keys: _forge(bag, keys[2], keys[0].key_id)),
    "signatures exchanged": (4, lambda bag, keys: _signatures(bag, keys[2])),
    "a signature appended": (6, lambda bag, keys: _signatures(bag, keys[0], keys[2])),
    "a signature put before": (6, lambda bag, keys: _signatures(bag, keys[2], keys[0])),
    "a signature twice": (4, lambda bag, keys: _signatures(bag, keys[0], keys[0])),
    "the envelope of another bundle": (5, lambda bag, keys: _other(bag, keys[0])),
    "the payload of another bundle": (
        4, lambda bag, keys: _raw(bag, lambda envelope: re.sub(rb'payload": "[^"]*', b'payload": "e30=', envelope)),
    ),
    "a second payload": (
        6, lambda bag, keys: _raw(bag, lambda envelope: envelope.replace(b'  "signatures"', b'  "payload": "e30=",\n  "signatures"')),
    ),
    "a payload before the payload": (
        4, lambda bag, keys: _raw(bag, lambda envelope: envelope.replace(b"{\n", b'{\n  "payload": "e30=",\n', 1)),
    ),
    "an envelope in one line": (
        4, lambda bag, keys: _raw(bag, lambda envelope: json.dumps(json.loads(envelope)).encode()),
    ),
    "an envelope with a member more": (
        6, lambda bag, keys: _raw(bag, lambda envelope: envelope.replace(b"  ]\n}", b'  ],\n  "more": "\x1b[31m"\n}')),
    ),
    "a payload in URL-safe base64": (
        4, lambda bag, keys: _raw(bag, lambda envelope: re.sub(rb'payload": "....', b'payload": "_-_-', envelope)),
    ),
    "a signature of nothing": (
        4, lambda bag, keys: _raw(bag, lambda envelope: re.sub(rb'"sig": "[^"]*', b'"sig": "', envelope)),
    ),
    "a statement with a file more": (
        5, lambda bag, keys: _resign(bag, lambda told: told.replace(
            b'\n],\n"predicateType"', b',\n{"name": "../more", "digest": {"sha256": "' + b"0" * 64 + b'"}}\n],\n"predicateType"'), keys[0]),
    ),
    "a statement with another predicate": (
        5, lambda bag, keys: _resign(bag, lambda told: told.replace(b'"trace_count": 1', b'"trace_count": 2'), keys[0]),
    ),
    "a statement with two predicates": (
        5, lambda bag, keys: _resign(bag, lambda told: told.replace(b'"predicate": {', b'"predicate": {},\n"predicate": {'), keys[0]),
    ),
    "a statement of another type": (
        5, lambda bag, keys: _resign(bag, lambda told: told.replace(b"agent-run-bundle:v2", b"agent-run-bundle:v1"), keys[0]),
    ),
    "a statement and more": (5, lambda bag, keys: _resign(bag, lambda told: told + b"\x1b[31mmore\n", keys[0])),
    "the signature taken off": (2, lambda bag, keys: unsigned(bag)),
}  # fmt: skip


@pytest.mark.parametrize("attack", HOSTILE)
def test_promise_06_a_hostile_bundle_fails_at_a_step(
    once: Path, keys: list[SigningKey], files: dict[SigningKey, Path], tmp_path: Path, attack: str
) -> None:
    step, change = HOSTILE[attack]
    bag = Path(shutil.copytree(once, tmp_path / "bag"))
    change(bag, keys)
    said = by_hand(bag, files[keys[0]])
    before = [line for line in passed(keys[0]) if int(line[0]) < step]
    assert said == before
    assert not verify_bundle(bag, trusted_keys=keys[0].public_key).authentic


def test_promise_06_a_hostile_bundle_of_two_signers_fails_at_a_step(
    twice: Path, keys: list[SigningKey], files: dict[SigningKey, Path], tmp_path: Path
) -> None:
    first, second, stranger = keys
    for number, (signers, trusted, step) in enumerate([
        ([first], first, "6"), ([second, first], first, "6"), ([first, second, stranger], second, "6"),
        ([first, stranger], second, "4"), ([first, stranger], first, "6"),
    ]):  # fmt: skip
        bag = Path(shutil.copytree(twice, tmp_path / str(number)))
        _signatures(bag, *signers)
        said = by_hand(bag, files[trusted])
        assert said == [line for line in passed(trusted) if line[0] < step]
        assert not verify_bundle(bag, trusted_keys=trusted.public_key).ok


def test_a_key_that_is_not_one_does_not_pass(once: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for key in (tmp_path / "empty", tmp_path / "none"):
        assert by_hand(once, key) == ["1 OK", "2 OK", "3 OK"]
