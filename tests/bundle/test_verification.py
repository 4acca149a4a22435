"""What a verification says, to people and to programs."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import pytest

from exporttools import Finding, Verification, VerificationFailed, read_bundle, verify_bundle
from tests.bundle.bags import FILES, a_bundle
from tests.steps import HOSTILE, Tags


def test_a_failure_pickles_with_its_findings(bag: Path) -> None:
    for name in FILES[1:6]:
        (bag / name).unlink()
    with pytest.raises(VerificationFailed) as caught:
        read_bundle(bag)
    error = caught.value
    assert [finding.path for finding in error.findings if finding.code == "missing"] == FILES[1:6]
    assert str(error).startswith(f"{bag} does not verify: missing: bag-info.txt: expected a file; found nothing; ")
    assert str(error).endswith(f" and {len(error.findings) - 3} more")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.findings) == (VerificationFailed, str(error), error.findings)


def test_a_verification_says_what_it_rests_on(bag: Path) -> None:
    digest = a_bundle().content_digest
    whole = verify_bundle(bag)
    assert bool(whole)
    assert whole.verdict == "intact, unsigned"
    assert str(whole) == (
        f"{bag}: intact, unsigned\n  content digest sha256:{digest} over 1 incident, 1 run, 1 trace, 3 steps"
    )
    rows = {"incidents": 1, "runs": 1, "traces": 1, "trace_steps": 3}
    assert whole.to_dict() == {
        "path": str(bag), "verdict": "intact, unsigned", "ok": True, "authentic": False, "signed_by": [], "trusted": [],
        "signature_checked": False,
        "content_digest": digest, "rows": rows, "redacted": [], "remarks": [], "findings": [],
    }  # fmt: skip
    assert "✔ intact, unsigned" in Tags(whole._repr_html_()).text
    assert digest in whole._repr_html_()
    with pytest.raises(dataclasses.FrozenInstanceError):
        whole.findings = ()  # type: ignore[misc]
    (bag / "data/run.parquet").unlink()
    failed = verify_bundle(bag)
    assert not failed
    assert (failed.verdict, failed.content_digest, failed.rows) == ("failed", None, {})
    finding = {"code": "missing", "path": "data/run.parquet", "expected": "a file", "found": "nothing"}
    assert json.loads(json.dumps(failed.to_dict())) == {
        "path": str(bag), "verdict": "failed", "ok": False, "authentic": False, "signed_by": [], "trusted": [],
        "signature_checked": False,
        "content_digest": None, "rows": {}, "redacted": [], "remarks": [], "findings": [finding],
    }  # fmt: skip
    assert str(failed) == f"{bag}: failed\n  missing: data/run.parquet: expected a file; found nothing"
    seen = Tags(failed._repr_html_())
    assert "✘ failed" in seen.text
    assert "missing: data/run.parquet: expected a file; found nothing" in seen.text
    assert pickle.loads(pickle.dumps(failed)) == failed


def test_promise_18_a_hostile_finding_is_inert() -> None:
    verification = Verification(Path(HOSTILE), (Finding("changed", HOSTILE, HOSTILE * 1000, HOSTILE),), None)
    html = verification._repr_html_()
    assert Tags(html).tags <= {"p", "b", "code", "br", "ul", "li"}
    assert Tags(html).attributes == set()
    for text in (html, str(verification)):
        assert not {"\x1b", "\u202e"} & set(text)
        assert len(text) < 3000
    assert len(str(verification).splitlines()) == 2
