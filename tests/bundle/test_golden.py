"""PROMISES row 19: bundles of every format that was ever released verify, and say what they said then."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from exporttools import compare_bundles, load_trusted_key, read_bundle, verify_bundle
from exporttools.files.digests import combined_digest, table_digest
from tests.golden.make import golden_bundle, nested_bundle

GOLDEN = Path(__file__).parents[1] / "golden"
KEY = GOLDEN / "TEST-ONLY.key.pub"
AUTHENTIC = "authentic, signed by TEST-ONLY.key.pub"
WHOLE, REDACTED, ALONE = (
    "8114bf821e561e9cd85ada7c8fb9e142b7b1794f53fcaa469acd74a0a5a37143",
    "64abb31b9c1fec72b73ff2fa332af201247a619a698f240e53199dd78bc90af2",
    "ef8073c4e91a48b44e42f9a305e2983a376dca6fd35b22919a9e3c95c9ae1cc2",
)
NESTED = "e0f9c3d46b637cc4ad2778b3c9dafbec14ac4ca3d9092cc6a2ae46257a7ada62"
_BY_NAME = {
    "unsigned.bundle": ("intact, unsigned", WHOLE),
    "signed.bundle": (AUTHENTIC, WHOLE),
    "signed.bundle.zip": (AUTHENTIC, WHOLE),
    "redacted.bundle": (AUTHENTIC, REDACTED),
    "run-alone.bundle.zip": ("intact, unsigned", ALONE),
    "nested.bundle": (AUTHENTIC, NESTED),
}
FORMATS = (1, 2)
BUNDLES = {f"format-{number}/{name}": expected for number in FORMATS for name, expected in _BY_NAME.items()}
BUNDLES["format-2/two-signers.bundle"] = _BY_NAME["signed.bundle"]


def test_every_golden_bundle_is_named_here() -> None:
    found = {path.relative_to(GOLDEN).as_posix() for path in GOLDEN.glob("format-*/*")}
    assert found == set(BUNDLES)


@pytest.mark.parametrize("name", BUNDLES)
def test_promise_19_it_verifies_and_has_the_digest_it_had(name: str) -> None:
    verdict, digest = BUNDLES[name]
    verification = verify_bundle(GOLDEN / name, trusted_keys=KEY, require_trusted=verdict == AUTHENTIC)
    assert (verification.verdict, verification.content_digest) == (verdict, digest)
    assert name.startswith(f"format-{verification.format_version}/")
    told = [remark for remark in verification.remarks if remark.startswith("format")]
    assert [remark[:9] for remark in told] == ["format 1:"] * (verification.format_version == 1)
    assert read_bundle(GOLDEN / name).content_digest == digest


@pytest.mark.parametrize("number", FORMATS)
def test_promise_19_it_reads_as_what_was_written(number: int) -> None:
    bundle, directory = golden_bundle(), GOLDEN / f"format-{number}"
    for name in ("unsigned.bundle", "signed.bundle", "signed.bundle.zip"):
        found = read_bundle(directory / name)
        assert found == bundle
        assert (found.source, found.trace_count) == (bundle.source, bundle.trace_count)
    assert read_bundle(directory / "nested.bundle") == nested_bundle()
    redacted = compare_bundles(directory / "redacted.bundle", bundle)
    assert redacted.same
    assert redacted.redacted == ("runs.goal", "trace_steps.model")


def test_both_keys_of_a_bundle_with_two_signers() -> None:
    path, second = GOLDEN / "format-2/two-signers.bundle", GOLDEN / "TEST-ONLY-2.key.pub"
    stated = json.loads((path / "data/bundle.json").read_text())
    assert stated["signed_by"] == [load_trusted_key(key).key_id for key in (KEY, second)]
    both = verify_bundle(path, trusted_keys=[KEY, second], threshold=2)
    assert both.verdict == "authentic, signed by TEST-ONLY.key.pub, TEST-ONLY-2.key.pub"
    assert verify_bundle(path, trusted_keys=second).authentic


def test_a_format_keeps_its_own_rules_for_totals() -> None:
    """Format 1 adds up rows and knows four words for failed; format 2 counts each cent once."""
    stated = [json.loads((GOLDEN / f"format-{n}/nested.bundle/data/bundle.json").read_text()) for n in FORMATS]
    assert stated[0]["totals"] == {"steps": 4, "errors": 1, "tokens": 1800, "cost_cents": 3.0, "duration_ms": 5000.0}
    assert "rolled_up" not in stated[0]
    assert stated[1]["totals"] == {"steps": 4, "errors": 3, "tokens": 900, "cost_cents": 1.5, "duration_ms": 3500.0}
    assert stated[1]["rolled_up"] == {
        "steps": 1,
        "ambiguous": 0,
        "tokens": 900,
        "cost_cents": 1.5,
        "duration_ms": 1500.0,
    }


def test_usage_that_format_1_counts_twice_is_named() -> None:
    (remark,) = verify_bundle(GOLDEN / "format-1/nested.bundle").remarks
    assert (
        remark
        == "format 1: the totals in data/bundle.json count 1.5 US cents and 900 tokens twice, which steps repeat of their parts"
    )
    assert (
        verify_bundle(GOLDEN / "format-1/unsigned.bundle").remarks[0]
        == "format 1: written by an earlier version of exporttools, and held to the rules of that format"
    )
    assert (
        verify_bundle(GOLDEN / "format-1/nested.bundle").totals
        == verify_bundle(GOLDEN / "format-2/nested.bundle").totals
    )

    found = verify_bundle(GOLDEN / "format-1/nested.bundle")
    assert "\n  format      1\n" in str(found)
    assert remark in str(found)
    assert found.to_dict()["remarks"] == [remark]


@pytest.mark.parametrize("name", [name for name in BUNDLES if not name.endswith(".zip")])
def test_promise_19_duckdb_and_pyarrow_give_the_same_content_digest(name: str) -> None:
    files = json.loads((GOLDEN / name / "data/bundle.json").read_text())["tables"]
    by_pyarrow, by_duckdb = [], []
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for table, stated in files.items():
            path = GOLDEN / name / "data" / stated["file"]
            by_pyarrow.append(table_digest(table, pq.read_table(path)))
            by_duckdb.append(table_digest(table, connection.sql(f"from '{path}'").to_arrow_table()))
    assert by_pyarrow == by_duckdb == [stated["content_digest"] for stated in files.values()]
    assert combined_digest(by_duckdb) == BUNDLES[name][1]


def test_promise_19_a_zip_tool_unpacks_the_same_bag(tmp_path: Path) -> None:
    with zipfile.ZipFile(GOLDEN / "format-1/signed.bundle.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path)
    found = verify_bundle(tmp_path / "signed.bundle", trusted_keys=KEY)
    assert (found.authentic, found.content_digest) == (True, WHOLE)
