"""A key, an incident or a run that is named is demanded: met, or the bundle fails, wherever it is named."""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporttools import (
    ConfigError,
    ExportBundle,
    Finding,
    IncidentSnapshot,
    MissingExtra,
    RunSnapshot,
    TrustedKey,
    VerificationFailed,
    compare_bundles,
    load_trusted_key,
    read_bundle,
    verify_bundle,
    write_bundle,
    write_key_pair,
)
from tests.bundle.bags import a_bundle
from tests.cli.invoking import call
from tests.databases import incident, run

ATTESTATION = "attestation.dsse.json"
GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = ("alice", "bob", "carol")
CHEAP = a_bundle(run=RunSnapshot(**run(total_cost_cents=1)))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the keys of three people, such as ``alice`` and ``alice.pub``."""
    directory = tmp_path_factory.mktemp("keys")
    for name in NAMES:
        write_key_pair(directory / name)
    return directory


def public(keys: Path, *names: str) -> list[Path]:
    return [keys / f"{name}.pub" for name in names]


def signed(path: Path, keys: Path, *names: str, bundle: ExportBundle | None = None) -> Path:
    return write_bundle(bundle or a_bundle(), path, signing_key=[keys / name for name in names])


# Whatever is not alice's, under the name of a bundle that is


class GullibleKey(TrustedKey):
    """Somebody's public key that takes any signature for theirs."""

    def verifies(self, signature: bytes, data: bytes) -> bool:
        return True


class Zeros:
    """A signer that has only a victim's public key, and so no signature."""

    def __init__(self, victim: Path) -> None:
        self.public_key = GullibleKey(load_trusted_key(victim).octets)
        self.key_id = self.public_key.key_id

    def sign(self, data: bytes) -> bytes:
        return bytes(64)


def _zeros(path: Path, keys: Path) -> Path:
    return write_bundle(CHEAP, path, signing_key=Zeros(keys / "alice.pub"))


def _stripped(path: Path, keys: Path) -> Path:
    (signed(path, keys, "alice") / ATTESTATION).unlink()
    return path


def _envelope_of_another(path: Path, keys: Path) -> Path:
    real = signed(path.with_name("real"), keys, "alice")
    shutil.copy(real / ATTESTATION, signed(path, keys, "bob", bundle=CHEAP))
    return path


def _signature_of_another(path: Path, keys: Path) -> Path:
    """What alice signed elsewhere, beside her key id in an envelope about this bundle."""
    real = signed(path.with_name("real"), keys, "alice")
    taken = json.loads((real / ATTESTATION).read_text())["signatures"]
    envelope = json.loads((_zeros(path, keys) / ATTESTATION).read_text())
    (path / ATTESTATION).write_text(json.dumps({**envelope, "signatures": taken}, indent=2) + "\n")
    return path


FORGERIES: dict[str, Callable[[Path, Path], Path]] = {
    "signed by another key": lambda path, keys: signed(path, keys, "bob", bundle=CHEAP),
    "signed by two other keys": lambda path, keys: signed(path, keys, "bob", "carol", bundle=CHEAP),
    "unsigned": lambda path, keys: write_bundle(CHEAP, path),
    "signature removed": _stripped,
    "envelope of another bundle": _envelope_of_another,
    "signature of another bundle": _signature_of_another,
    "zeros beside her key id": _zeros,
}


def _verified(path: Path, keys: list[Path]) -> tuple[Finding, ...]:
    found = verify_bundle(path, trusted_keys=keys)
    assert not found
    assert (found.verdict, found.authentic, found.signed_by, found.content_digest) == ("failed", False, (), None)
    assert "alice" not in found.verdict
    assert "✔" not in found._repr_html_()
    return found.findings


def _raised(read: Callable[[], object]) -> tuple[Finding, ...]:
    with pytest.raises(VerificationFailed) as caught:
        read()
    findings: tuple[Finding, ...] = caught.value.findings
    return findings


def _commanded(path: Path, keys: list[Path]) -> tuple[Finding, ...]:
    options = [argument for key in keys for argument in ("--trusted-key", key)]
    for output in ("table", "csv"):
        result = call("verify", path, *options, "-f", output)
        assert result.exit_code == 1
        assert "authentic" not in result.stdout.replace("ok,authentic,findings", "")
    result = call("verify", path, *options, "-f", "json")
    assert result.exit_code == 1
    (found,) = json.loads(result.stdout)
    assert (found["verdict"], found["ok"], found["authentic"], found["signed_by"]) == ("failed", False, False, [])
    return tuple(Finding(**finding) for finding in found["findings"])


ENTRANCES: dict[str, Callable[[Path, list[Path]], tuple[Finding, ...]]] = {
    "verify_bundle": _verified,
    "read_bundle": lambda path, keys: _raised(lambda: read_bundle(path, trusted_keys=keys)),
    "compare_bundles, a": lambda path, keys: _raised(lambda: compare_bundles(path, a_bundle(), trusted_keys=keys)),
    "compare_bundles, b": lambda path, keys: _raised(lambda: compare_bundles(a_bundle(), path, trusted_keys=keys)),
    "exporttools verify": _commanded,
}


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("forgery", FORGERIES)
def test_promise_22_a_key_that_is_named_is_demanded(forgery: str, entrance: str, keys: Path, tmp_path: Path) -> None:
    path = FORGERIES[forgery](tmp_path / "inc-4711.bundle", keys)
    found = ENTRANCES[entrance](path, public(keys, "alice"))
    if forgery == "envelope of another bundle":  # it is hers indeed, but not about these files
        assert ("changed", "data/run.parquet") in {(finding.code, finding.path) for finding in found}
    else:
        assert ("not-trusted", ATTESTATION) in {(finding.code, finding.path) for finding in found}


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_promise_22_what_is_hers_is_authentic_and_of_no_other(entrance: str, keys: Path, tmp_path: Path) -> None:
    path = signed(tmp_path / "b", keys, "alice")
    assert read_bundle(path, trusted_keys=public(keys, "bob", "alice")) == a_bundle()
    assert compare_bundles(path, a_bundle(), trusted_keys=keys / "alice.pub").same
    assert call("verify", path, "--trusted-key", keys / "alice.pub").exit_code == 0
    (found,) = ENTRANCES[entrance](path, public(keys, "bob", "carol"))
    assert str(found) == (
        f"not-trusted: {ATTESTATION}: expected a signature by one of 2 trusted keys (bob.pub, carol.pub); "
        "found none by a trusted key"
    )


def test_opting_out_is_explicit_and_said(keys: Path, tmp_path: Path) -> None:
    demands: dict[str, Any] = {"trusted_keys": public(keys, "alice"), "require_trusted": False}
    path, unsigned = signed(tmp_path / "b", keys, "bob"), write_bundle(a_bundle(), tmp_path / "unsigned")
    found = verify_bundle(path, **demands)
    assert (found.verdict, found.ok, found.authentic) == ("intact, not signed by a trusted key", True, False)
    assert (found.signed, found.signature_checked, found.signed_by) == (True, True, ())
    assert "note        not damaged; but no trusted key that was valid at the time signed it" in str(found)
    assert verify_bundle(unsigned, **demands).verdict == "intact, unsigned"
    assert verify_bundle(signed(tmp_path / "c", keys, "alice"), **demands).verdict == "authentic, signed by alice.pub"
    assert read_bundle(path, **demands) == a_bundle()
    comparison = compare_bundles(path, unsigned, **demands)
    assert comparison.verdicts == ("intact, not signed by a trusted key", "intact, unsigned")
    result = call("verify", path, "--trusted-key", keys / "alice.pub", "--allow-untrusted")
    assert (result.exit_code, result.stdout.partition(":")[0]) == (0, "intact, not signed by a trusted key")


# How many of the keys


def test_promise_22_two_of_three(keys: Path, tmp_path: Path) -> None:
    both, one = signed(tmp_path / "both", keys, "carol", "alice"), signed(tmp_path / "one", keys, "carol")
    trusted = public(keys, *NAMES)
    found = verify_bundle(both, trusted_keys=trusted, threshold=2)
    assert (found.verdict, found.authentic) == ("authentic, signed by carol.pub, alice.pub", True)
    assert verify_bundle(one, trusted_keys=trusted).verdict == "authentic, signed by carol.pub"
    (finding,) = verify_bundle(one, trusted_keys=trusted, threshold=2).findings
    assert str(finding) == (
        f"not-trusted: {ATTESTATION}: expected signatures by 2 of 3 trusted keys (alice.pub, bob.pub, carol.pub); "
        "found only 1, by carol.pub"
    )
    with pytest.raises(VerificationFailed, match="found only 1, by carol.pub"):
        read_bundle(one, trusted_keys=trusted, threshold=2)
    with pytest.raises(VerificationFailed, match="found only 2, by carol.pub, alice.pub"):
        compare_bundles(both, one, trusted_keys=trusted, threshold=3)
    options = [argument for key in trusted for argument in ("--trusted-key", key)]
    assert [call("verify", path, *options, "--threshold", "2").exit_code for path in (both, one)] == [0, 1]
    told = verify_bundle(one, trusted_keys=trusted, threshold=2, require_trusted=False)
    assert (told.verdict, told.authentic) == ("intact, not signed by enough trusted keys", False)
    assert "1 of the 2 trusted keys asked for signed it" in str(told)
    assert [verify_bundle(path, trusted_keys=trusted, threshold=2).threshold for path in (both, one)] == [2, 2]


def test_two_keys_of_one_name_are_told_apart(keys: Path, tmp_path: Path) -> None:
    pair = [TrustedKey(load_trusted_key(keys / f"{name}.pub").octets, "Jane") for name in ("alice", "bob")]
    path = signed(tmp_path / "b", keys, "alice", "bob")
    names = ", ".join(f"Jane ({key.key_id[:16]}\u2026)" for key in pair)
    assert verify_bundle(path, trusted_keys=pair, threshold=2).verdict == f"authentic, signed by {names}"
    (finding,) = verify_bundle(signed(tmp_path / "c", keys, "carol"), trusted_keys=pair).findings
    assert finding.expected == f"a signature by one of 2 trusted keys ({names})"


def test_the_same_key_twice_counts_once(keys: Path, tmp_path: Path) -> None:
    path, again = signed(tmp_path / "b", keys, "alice"), shutil.copy(keys / "alice.pub", tmp_path / "again.pub")
    found = verify_bundle(path, trusted_keys=[keys / "alice.pub", again, keys / "bob.pub"])
    assert [key.name for key in found.signed_by] == ["alice.pub"]
    with pytest.raises(ConfigError) as caught:
        verify_bundle(path, trusted_keys=[keys / "alice.pub", again], threshold=2)
    assert str(caught.value) == (
        "threshold is 2; expected at most 1, the number of different trusted keys; name more keys, or lower the threshold"
    )


def test_a_directory_of_keys(keys: Path, tmp_path: Path) -> None:
    path, trusted = signed(tmp_path / "b", keys, "alice"), tmp_path / "trusted"
    trusted.mkdir()
    for entrance in (verify_bundle, read_bundle, lambda path, **demands: compare_bundles(path, path, **demands)):
        with pytest.raises(ConfigError, match="expected a directory of public keys; found no key in it"):
            entrance(path, trusted_keys=trusted)
    result = call("verify", path, "--trusted-key", trusted)
    assert (result.exit_code, result.stdout) == (2, "")
    shutil.copy(keys / "bob.pub", trusted)
    assert call("verify", path, "--trusted-key", trusted).exit_code == 1
    shutil.copy(keys / "alice.pub", trusted)
    assert verify_bundle(path, trusted_keys=trusted, threshold=1).verdict == "authentic, signed by alice.pub"
    assert call("verify", path, "--trusted-key", trusted).exit_code == 0


# When a key counts


def a_key(keys: Path, name: str, **period: dt.datetime) -> TrustedKey:
    return TrustedKey(load_trusted_key(keys / f"{name}.pub").octets, name=name, **period)


def test_a_key_counts_in_its_own_time(keys: Path, tmp_path: Path) -> None:
    path = signed(tmp_path / "b", keys, "alice", "bob")
    written = verify_bundle(path).written_at
    assert written is not None
    moment = dt.timedelta(microseconds=1)
    for period in ({"not_before": written}, {"not_after": written}, {"not_before": written, "not_after": written}):
        assert verify_bundle(path, trusted_keys=[a_key(keys, "alice", **period)]).authentic
    early, late = a_key(keys, "alice", not_after=written - moment), a_key(keys, "bob", not_before=written + moment)
    second = f"{written:%Y-%m-%d %H:%M:%S}"
    (finding,) = verify_bundle(path, trusted_keys=[early]).findings
    assert (finding.code, finding.expected) == ("not-trusted", "a signature by alice")
    until = f"{written - moment:%Y-%m-%d %H:%M:%S}"
    assert finding.found == f"one by alice, whose key is valid until {until}; the bundle was written {second} (UTC)"
    with pytest.raises(VerificationFailed, match="one by bob, whose key is valid from .*; the bundle was written"):
        read_bundle(path, trusted_keys=late)
    (finding,) = verify_bundle(path, trusted_keys=[early, late]).findings
    assert ", and 1 more such; the bundle was written" in finding.found
    found = verify_bundle(path, trusted_keys=[early, a_key(keys, "bob")])
    assert found.verdict == "authentic, signed by bob"
    (finding,) = verify_bundle(path, trusted_keys=[early, a_key(keys, "bob")], threshold=2).findings
    assert finding.found.startswith("only 1, by bob; one by alice, whose key is valid until ")
    assert (
        verify_bundle(path, trusted_keys=early, require_trusted=False).verdict == "intact, not signed by a trusted key"
    )


# Of which incident


OTHER = a_bundle(
    incident=IncidentSnapshot(**incident(id="i2", source_run_id="r2")),
    run=RunSnapshot(**run(run_id="r2")), trace=None, steps=None,
)  # fmt: skip


def test_promise_22_another_incident_under_a_familiar_name(keys: Path, tmp_path: Path) -> None:
    """It is authentic indeed, and says what it is about; whoever names the incident or the run is not fooled."""
    path, trusted = signed(tmp_path / "i1.bundle", keys, "alice", bundle=OTHER), public(keys, "alice")
    found = verify_bundle(path, trusted_keys=trusted)
    assert (found.authentic, found.incident_id, found.run_id) == (True, "i2", "r2")
    assert "  incident    i2\n  run         r2\n" in str(found)
    assert "<th style='text-align:left;vertical-align:top'>incident</th>" in found._repr_html_()
    (finding,) = verify_bundle(path, trusted_keys=trusted, incident_id="i1").findings
    assert str(finding) == "not-expected: data/bundle.json: expected incident_id i1; found incident_id i2"
    assert [finding.expected for finding in verify_bundle(path, incident_id="i1", run_id="r1").findings] == [
        "incident_id i1", "run_id r1",
    ]  # fmt: skip
    with pytest.raises(VerificationFailed, match="not-expected: data/bundle.json: expected run_id r1; found run_id r2"):
        read_bundle(path, trusted_keys=trusted, run_id="r1")
    for options, code in (
        (("--incident", "i2", "--run", "r2"), 0), (("--incident", "i1"), 1), (("--run", "r1"), 1),
    ):  # fmt: skip
        result = call("verify", path, "--trusted-key", trusted[0], *options)
        assert (result.exit_code, "not-expected: " in result.stdout) == (code, code == 1)
    assert read_bundle(path, incident_id="i2", run_id="r2", trusted_keys=trusted) == OTHER


def test_a_bundle_of_a_run_alone_is_about_no_incident(tmp_path: Path) -> None:
    path = write_bundle(ExportBundle(run=RunSnapshot("r1", "acme")), tmp_path / "b")
    assert verify_bundle(path, run_id="r1").ok
    (finding,) = verify_bundle(path, incident_id="i1").findings
    assert (finding.expected, finding.found) == ("incident_id i1", "no incident_id")


# A signature that was not checked names nobody


@pytest.fixture
def without_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*sys.modules, "cryptography"]:
        if name.partition(".")[0] == "cryptography":
            monkeypatch.setitem(sys.modules, name, None)


def shown(path: Path) -> list[str]:
    """All that is said about a bundle, in every form."""
    found = verify_bundle(path)
    assert (found.verdict, found.signature_checked, found.signed_by) == ("intact, signature not checked", False, ())
    texts = [str(found), repr(found), found._repr_html_(), json.dumps(found.to_dict())]
    for output in ("table", "json", "csv"):
        result = call("verify", path, "-f", output)
        assert result.exit_code == 0
        texts += [result.stdout, result.stderr]
    comparison = compare_bundles(path, path)
    return [*texts, str(comparison), repr(comparison), comparison._repr_html_(), json.dumps(comparison.to_dict())]


def test_a_signature_that_nobody_checked_names_nobody(keys: Path, tmp_path: Path) -> None:
    victim = load_trusted_key(keys / "alice.pub")
    for path in (_zeros(tmp_path / "zeros", keys), signed(tmp_path / "real", keys, "alice")):
        for text in shown(path):
            assert not re.search(rf"alice|✔|{victim.key_id[:16]}|signed by (?!a trusted key)", text)
        assert "name the keys that you trust" in str(verify_bundle(path))
        assert "pip install" not in str(verify_bundle(path))


@pytest.mark.usefixtures("without_cryptography")
def test_without_cryptography_a_signature_names_nobody(tmp_path: Path) -> None:
    """Also in format 1, where a bundle has the public key of whoever it says has signed it."""
    path = shutil.copytree(GOLDEN / "format-1/signed.bundle", tmp_path / "b")
    envelope = json.loads((path / ATTESTATION).read_text())
    envelope["signatures"][0]["sig"] = base64.b64encode(bytes(64)).decode()
    (path / ATTESTATION).write_text(json.dumps(envelope, indent=2) + "\n")
    for text in shown(path):
        assert not re.search(rf"✔|{envelope['signatures'][0]['keyid'][:16]}|signed by", text)
    assert "name the keys that you trust (which needs pip install 'exporttools[sign]')" in str(verify_bundle(path))
    message = "checking a signature needs packages that are not installed: pip install 'exporttools[sign]'"
    key = TrustedKey(bytes(32))
    for trusted in (key, [key], GOLDEN / "TEST-ONLY.key.pub"):
        for require in (True, False):
            for check in (verify_bundle, read_bundle):
                with pytest.raises(MissingExtra) as caught:
                    check(path, trusted_keys=trusted, require_trusted=require)
                assert str(caught.value) == message
    result = call("verify", path, "--trusted-key", GOLDEN / "TEST-ONLY.key.pub")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"error: {message}\n")


def test_signers_are_told_apart_by_their_key_ids_and_cannot_forge_one(keys: Path, tmp_path: Path) -> None:
    path = signed(tmp_path / "b", keys, "alice", "bob")
    names = ["bob, alice: trusted", "\u202eecila\n"]
    trusted = [TrustedKey(load_trusted_key(key).octets, name) for key, name in zip(public(keys, "alice", "bob"), names, strict=True)]  # fmt: skip
    found = verify_bundle(path, trusted_keys=trusted)
    assert found.verdict == 'authentic, signed by "bob, alice: trusted", "\\u202eecila\\n"'
    assert all(f"  key         {key.key_id} (" in str(found) for key in trusted)
    assert found.to_dict()["signed_by"] == [{"name": key.name, "key_id": key.key_id} for key in trusted]


# Demands that nothing could meet, or that say nothing


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no key": ({"trusted_keys": []}, "no trusted key was given; give at least one, or leave trusted_keys out to demand none"),
    "no key in a tuple": ({"trusted_keys": ()}, "no trusted key was given; "),
    "untrusted are allowed, but nobody is trusted": (
        {"require_trusted": False}, "require_trusted=False is given without keys; name the keys that you trust, or leave it out",
    ),
    "a threshold without keys": (
        {"threshold": 2}, "threshold=2 is given without keys; name the keys that you trust, or leave it out",
    ),
    "a threshold that is too high": (
        {"trusted_keys": [TrustedKey(bytes(32)), TrustedKey(b"1" * 32)], "threshold": 3},
        "threshold is 3; expected at most 2, the number of different trusted keys; name more keys, or lower the threshold",
    ),
    "a threshold of none": ({"threshold": 0}, "threshold is 0; expected a number of keys, at least 1"),
    "a threshold below none": ({"threshold": -1}, "threshold is -1; expected a number of keys, at least 1"),
    "a threshold that is not a number": ({"threshold": "2"}, "threshold is '2'; expected a number of keys, at least 1"),
    "a threshold that is true": ({"threshold": True}, "threshold is True; expected a number of keys, at least 1"),
    "require_trusted that is not a bool": ({"require_trusted": None}, "require_trusted is None; expected True or False"),
    "no incident": (
        {"incident_id": " "},
        "incident_id is empty, perhaps from a variable that is not set; name the one that you expect, or leave it out",
    ),
    "no run": ({"run_id": ""}, "run_id is empty, perhaps from a variable that is not set; "),
    "an incident that is not text": ({"incident_id": 4711}, "incident_id is of type int; expected an id as text, or None"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_demand_that_nothing_could_meet_is_refused_before_a_bundle_is_read(case: str, tmp_path: Path) -> None:
    demands, message = REFUSED[case]
    entrances: list[Callable[..., object]] = [verify_bundle, read_bundle]
    if not {"incident_id", "run_id"} & demands.keys():
        entrances.append(lambda path, **given: compare_bundles(path, path, **given))
    for entrance in entrances:
        with pytest.raises(ConfigError) as caught:
            entrance(tmp_path / "nothing", **demands)
        assert str(caught.value).startswith(message)


def test_keys_for_two_bundles_in_memory_are_refused(keys: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        compare_bundles(a_bundle(), a_bundle(), trusted_keys=keys / "alice.pub")
    assert str(caught.value) == (
        "trusted_keys are given, but both bundles are in memory, without signatures; give a path, or no keys"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--allow-untrusted",), "--allow-untrusted is given without a key; name the keys that you trust with --trusted-key"),
        (("--threshold", "1"), "--threshold is given without a key; name the keys that you trust with --trusted-key"),
        (("--threshold", "0", "--trusted-key", "{alice}"), "threshold is 0; expected a number of keys, at least 1"),
        (("--trusted-key", ""), "--trusted-key is empty, perhaps from a shell variable that is not set; name a key, or leave --trusted-key out"),
        (("--incident", ""), "incident_id is empty, perhaps from a variable that is not set; name the one that you expect, or leave it out"),
    ],
)  # fmt: skip
def test_the_command_refuses_them_too(options: tuple[str, ...], message: str, keys: Path, tmp_path: Path) -> None:
    path = write_bundle(a_bundle(), tmp_path / "b")
    result = call("verify", path, *(option.format(alice=keys / "alice.pub") for option in options))
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"error: {message}\n")
