"""PROMISES row 19: bundles of every format that was ever released verify, and say what they said then."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from exporttools import compare_bundles, read_bundle, verify_bundle
from exporttools.files.digests import combined_digest, table_digest
from tests.golden.make import golden_bundle

GOLDEN = Path(__file__).parents[1] / "golden"
KEY = GOLDEN / "TEST-ONLY.key.pub"
KEY_ID = "ddcb32d1760d62096804a23693542266dcfe07b3b79b9a2ccff49313aab63866"
WHOLE, REDACTED, ALONE = (
    "8114bf821e561e9cd85ada7c8fb9e142b7b1794f53fcaa469acd74a0a5a37143",
    "64abb31b9c1fec72b73ff2fa332af201247a619a698f240e53199dd78bc90af2",
    "ef8073c4e91a48b44e42f9a305e2983a376dca6fd35b22919a9e3c95c9ae1cc2",
)
BUNDLES = {
    "format-1/unsigned.bundle": ("intact, unsigned", WHOLE),
    "format-1/signed.bundle": (f"authentic (signed by {KEY_ID}, trusted)", WHOLE),
    "format-1/signed.bundle.zip": (f"authentic (signed by {KEY_ID}, trusted)", WHOLE),
    "format-1/redacted.bundle": (f"authentic (signed by {KEY_ID}, trusted)", REDACTED),
    "format-1/run-alone.bundle.zip": ("intact, unsigned", ALONE),
}


def test_every_golden_bundle_is_named_here() -> None:
    found = {path.relative_to(GOLDEN).as_posix() for path in GOLDEN.glob("format-*/*")}
    assert found == set(BUNDLES)


@pytest.mark.parametrize("name", BUNDLES)
def test_promise_19_it_verifies_and_has_the_digest_it_had(name: str) -> None:
    verdict, digest = BUNDLES[name]
    verification = verify_bundle(GOLDEN / name, trusted_keys=KEY, require_signature=verdict.startswith("authentic"))
    assert (verification.verdict, verification.content_digest) == (verdict, digest)
    assert read_bundle(GOLDEN / name).content_digest == digest


def test_promise_19_it_reads_as_what_was_written() -> None:
    bundle = golden_bundle()
    for name in ("unsigned.bundle", "signed.bundle", "signed.bundle.zip"):
        found = read_bundle(GOLDEN / "format-1" / name)
        assert found == bundle
        assert (found.source, found.trace_count) == (bundle.source, bundle.trace_count)
    redacted = compare_bundles(GOLDEN / "format-1/redacted.bundle", bundle)
    assert redacted.same
    assert redacted.redacted == ("runs.goal", "trace_steps.model")


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
