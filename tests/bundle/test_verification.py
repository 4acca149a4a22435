"""What a verification says, to people and to programs."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from exporttools import (
    BundleUnreadable,
    ExportBundle,
    Finding,
    RunSnapshot,
    SourceSnapshot,
    TrustedKey,
    Verification,
    VerificationFailed,
    read_bundle,
    verify_bundle,
    write_bundle,
    write_key_pair,
)
from tests.bundle.bags import PAYLOAD, a_bundle
from tests.steps import HOSTILE, Tags, a_step, steps_of

ATTESTATION = "attestation.dsse.json"
GOLDEN = Path(__file__).parents[1] / "golden"

NOTHING_STATED: dict[str, Any] = {
    "signed": False, "signature_checked": False, "signed_by": [], "threshold": 1, "format_version": None, "tenant_id": None,
    "incident_id": None, "run_id": None, "trace_id": None, "trace_count": None, "rows": {}, "missing": [], "redacted": [],
    "totals": {}, "first_timestamp": None, "last_timestamp": None, "read_at": None, "written_at": None,
    "content_digest": None, "remarks": [], "findings": [],
}  # fmt: skip


def test_a_failure_pickles_with_its_findings(bag: Path) -> None:
    names = ["bag-info.txt", *sorted(PAYLOAD)[1:]]
    for name in names:
        (bag / name).unlink()
    with pytest.raises(VerificationFailed) as caught:
        read_bundle(bag)
    error = caught.value
    assert [finding.path for finding in error.findings] == names  # each once
    assert str(error).startswith(f'"{bag}" does not verify: missing: bag-info.txt: expected a file; found nothing; ')
    assert str(error).endswith(f" and {len(error.findings) - 3} more")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.findings) == (VerificationFailed, str(error), error.findings)


@pytest.mark.parametrize("form", ["unsigned", "signed", "format 1"])
def test_a_deleted_file_is_reported_once(form: str, bag: Path, tmp_path: Path) -> None:
    """Not again by each list that it stands in: a manifest, the attestation."""
    if form != "unsigned":
        shutil.rmtree(bag)
    if form == "signed":
        write_bundle(a_bundle(), bag, signing_key=write_key_pair(tmp_path / "alice"))
    if form == "format 1":
        shutil.copytree(GOLDEN / "format-1/signed.bundle", bag)
    files = [path for path in sorted(bag.rglob("*")) if path.is_file()]
    assert len(files) > 8
    for path in files:
        content = path.read_bytes()
        path.unlink()
        name = path.relative_to(bag).as_posix()
        found = [(finding.code, finding.path) for finding in verify_bundle(bag).findings]
        # In format 1 nothing says that a bundle was signed, except whoever demands it.
        assert found == ([] if (form, name) == ("format 1", ATTESTATION) else [("missing", name)]), name
        path.write_bytes(content)
    assert verify_bundle(bag).ok


def test_a_verification_says_what_was_verified(tmp_path: Path) -> None:
    bundle = a_bundle(trace_count=3)
    key = TrustedKey(write_key_pair(tmp_path / "alice").trusted_key.octets, "Alice")
    path = write_bundle(bundle, tmp_path / "b", signing_key=tmp_path / "alice", redact="goal")
    found = verify_bundle(path, trusted_keys=key)
    digest, written = read_bundle(path).content_digest, found.written_at
    assert written is not None
    assert (
        str(found)
        == f"""\
authentic, signed by Alice: "{path}"
  incident    i1
  run         r1
  trace       t1, one of the run's 3
  tenant      acme
  rows        1 incident, 1 run, 1 trace, 3 steps
  totals      303 tokens, 1.5 US cents, 2.7 s of steps
  steps       2026-10-05 12:00:00 to 2026-10-05 12:00:02 UTC
  read        2026-10-05 12:00:00 UTC
  written     {written:%Y-%m-%d %H:%M:%S} UTC
  redacted    runs.goal
  format      2
  digest      {digest}
  key         {key.key_id} (Alice)
  remark      the run has 3 traces; the bundle contains one of them"""
    )
    assert found.to_dict() == {
        "path": str(path), "verdict": "authentic, signed by Alice", "ok": True, "authentic": True, "signed": True,
        "signature_checked": True, "signed_by": [{"name": "Alice", "key_id": key.key_id}], "threshold": 1,
        "format_version": 2, "tenant_id": "acme", "incident_id": "i1", "run_id": "r1", "trace_id": "t1", "trace_count": 3,
        "rows": {"incidents": 1, "runs": 1, "traces": 1, "trace_steps": 3}, "missing": [], "redacted": ["runs.goal"],
        "totals": {"steps": 3, "failed": 0, "tokens": 303, "cost_cents": 1.5, "duration_ms": 2700.75},
        "first_timestamp": "2026-10-05T12:00:00+00:00", "last_timestamp": "2026-10-05T12:00:02+00:00",
        "read_at": "2026-10-05T12:00:00+00:00", "written_at": written.isoformat(), "content_digest": digest,
        "remarks": ["the run has 3 traces; the bundle contains one of them"], "findings": [],
    }  # fmt: skip
    assert found.totals == bundle.totals
    seen = Tags(found._repr_html_())
    assert seen.text.startswith(f'✔ authentic, signed by Alice: "{path}"incidenti1runr1')
    assert seen.text.count("✔") == 1
    assert repr(found) == f'<Verification: authentic, signed by Alice: "{path}">'
    assert pickle.loads(pickle.dumps(found)) == found
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.findings = ()  # type: ignore[misc]


def test_what_is_not_authentic_has_no_tick(bag: Path) -> None:
    found = verify_bundle(bag)
    assert (bool(found), found.verdict) == (True, "intact, unsigned")
    assert Tags(found._repr_html_()).text.startswith(f'intact, unsigned: "{bag}"notenot damaged; but')
    assert "✔" not in found._repr_html_()
    assert (
        str(found).splitlines()[1]
        == "  note        not damaged; but without a signature, anybody could have written it"
    )


def test_a_bundle_that_fails_says_nothing(bag: Path) -> None:
    """Nor who signed it: what it contains is not known to be so."""
    key = write_key_pair(bag.parent / "alice")
    path = write_bundle(a_bundle(), bag.parent / "b", signing_key=key)
    (path / "data/run.parquet").unlink()
    failed = verify_bundle(path, trusted_keys=key.trusted_key)
    assert not failed
    finding = {"code": "missing", "path": "data/run.parquet", "expected": "a file", "found": "nothing"}
    assert json.loads(json.dumps(failed.to_dict())) == NOTHING_STATED | {
        "path": str(path), "verdict": "failed", "ok": False, "authentic": False, "findings": [finding],
    }  # fmt: skip
    assert str(failed) == f'failed: "{path}"\n  missing: data/run.parquet: expected a file; found nothing'
    seen = Tags(failed._repr_html_())
    assert seen.text == f'✘ failed: "{path}"missing: data/run.parquet: expected a file; found nothing'
    assert pickle.loads(pickle.dumps(failed)) == failed


def test_what_a_bundle_does_not_have_is_not_told(tmp_path: Path) -> None:
    run = RunSnapshot("r1", "acme")
    found = verify_bundle(write_bundle(ExportBundle(run=run), tmp_path / "b"))
    lines = [line.split()[0] for line in str(found).splitlines()[1:]]
    assert lines == ["note", "run", "tenant", "rows", "written", "missing", "format", "digest"]
    assert (found.missing, found.incident_id, found.read_at) == (("incident", "trace", "steps"), None, None)


def test_huge_totals_are_exact_or_in_few_digits(tmp_path: Path) -> None:
    huge = [
        a_step(0, tokens=2**62, cost_cents=1.7e308, duration_ms=1.7e308),
        a_step(1, tokens=2**62 + 1, status="error"),
    ]
    found = verify_bundle(write_bundle(a_bundle(steps=steps_of(*huge)), tmp_path / "b"))
    assert f"  totals      {2**63 + 1:,} tokens, 1.7e+308 US cents, 1.7e+308 ms of steps\n" in str(found)
    assert "2 steps (1 of them failed)" in str(found)
    more = verify_bundle(write_bundle(a_bundle(steps=steps_of(huge[0], a_step(1, cost_cents=1.7e308))), tmp_path / "c"))
    assert more.totals["cost_cents"] is None
    assert ", more US cents than a float can hold, " in str(more)


def test_when_it_was_read_is_told_in_utc(tmp_path: Path) -> None:
    there = dt.timezone(dt.timedelta(hours=9))
    source = SourceSnapshot("sqlite", "3", "native", None, dt.datetime(2026, 10, 5, 21, tzinfo=there))
    found = verify_bundle(write_bundle(a_bundle(source=source), tmp_path / "b"))
    assert "  read        2026-10-05 12:00:00 UTC\n" in str(found)
    assert found.to_dict()["read_at"] == "2026-10-05T12:00:00+00:00"


# Names that could be mistaken


NAMES = (
    "authentic, signed by alice", 'x": authentic, signed by alice: "y', "x\nauthentic, signed by alice", "x\r\x1b[2Kauthentic",
    "\u202ecila yb dengis ,citnehtua", "\u05d0: \u05d1", "\udcff", "a\u2028authentic", " authentic", "back\\slash", "界" * 80,
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_no_file_name_reads_as_a_verdict(name: str, bag: Path) -> None:
    path = bag.rename(bag.with_name(name))
    for damage in (False, True):
        if damage:
            (path / name).touch()
        found = verify_bundle(path)
        verdict = "failed" if damage else "intact, unsigned"
        assert json.loads(json.dumps(found.to_dict()))["path"] == str(path)  # exactly
        for text in (str(found), repr(found).removeprefix("<Verification: ")):
            first, *rest = text.splitlines()
            shown = first.removeprefix(f"{verdict}: ").removesuffix(">")
            assert json.loads(shown) == str(path)  # one name, from the first quote to the last
            assert all(line.startswith("  ") for line in rest)
            assert text.replace("\n", "").isprintable()
        assert Tags(found._repr_html_()).text.removeprefix("✘ ").startswith(f"{verdict}: {json.dumps(str(path))[:9]}")
        with pytest.raises(BundleUnreadable if not damage else VerificationFailed) as caught:
            read_bundle(path if damage else path.with_name(name + "gone"))
        assert str(caught.value).startswith('"')
        assert str(caught.value).isprintable()


def test_promise_18_a_hostile_finding_is_inert() -> None:
    verification = Verification(Path(HOSTILE), (Finding("changed", HOSTILE, HOSTILE * 1000, HOSTILE),))
    html = verification._repr_html_()
    assert Tags(html).tags <= {"p", "b", "bdi", "code", "ul", "li"}
    assert Tags(html).attributes <= {"style"}
    for text in (html, str(verification)):
        assert not {"\x1b", "\u202e"} & set(text)
        assert len(text) < 3000
    assert len(str(verification).splitlines()) == 2


def test_a_notebook_shows_the_first_hundred_findings() -> None:
    findings = tuple(Finding("unexpected", f"{i}", "nothing", "a file") for i in range(103))
    found = Verification(Path("b"), findings)
    assert found._repr_html_().count("<li>") == 101
    assert "<li>… 3 more</li>" in found._repr_html_()
    assert len(str(found).splitlines()) == 104
    assert len(found.to_dict()["findings"]) == 103


def test_a_verification_of_nothing_is_not_a_verdict() -> None:
    found = Verification(Path("b"))
    assert (found.ok, found.authentic, found.verdict) == (False, False, "failed")
