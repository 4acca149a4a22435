"""Random mutations of parts: each is refused, or all readers see the rows that we see. PROMISES row 21."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from exporttools import VerificationFailed, read_bundle, verify_bundle, write_bundle
from exporttools.bundle.archive import write_archive
from tests.bundle.bags import a_bundle
from tests.bundle.fuzzing import Original, Report, fuzz, read_or_refuse
from tests.bundle.mutations import KINDS, mutate
from tests.bundle.originals import KEY, ORIGINALS, STEPS
from tests.bundle.parquet_files import hashes, many_steps, written
from tests.bundle.part_trees import parse
from tests.bundle.resigning import resigned

PLACES = [
    "Thrift", "shortest form", "footer: schema", "footer: created_by", "footer: column_orders", "key_value_metadata", "page header:",
    "meta_data.", "bytes before the footer", "not one zstd frame", "CRC checksum", "runs of", "indices of", "levels of",
    "codec can't decode", "a dictionary of", "the same text twice", "rows; expected", "values; expected", "truncated", "both ends",
]  # fmt: skip
"""What refusals say in the places that a mutation is to reach, the pages' own bytes among them."""


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_tree_is_the_file_that_it_was_parsed_from(name: str) -> None:
    original = ORIGINALS[name]
    assert original.tree.encode() == original.octets
    assert original.tree.copy().encode() == original.octets
    octets = written(many_steps(200_000, content_hash=hashes(200_000)))
    assert parse(octets).encode() == octets


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutation_is_the_same_each_time_and_changes_no_original(kind: str) -> None:
    for name, original in ORIGINALS.items():
        one, other = (mutate(random.Random(f"{kind}/{name}"), original.tree, kind) for _ in range(2))
        assert one == other
        assert original.tree.encode() == original.octets


def check_variety(report: Report) -> None:
    """The mutations got everywhere: none of the kinds is refused, or accepted, at the first byte."""
    print(report)  # noqa: T201  # shown if it fails, or with -s
    assert report.failures == []
    for kind in KINDS:
        assert report.refused[kind], kind
    said = "\n".join(report.reasons)
    assert [place for place in PLACES if place not in said] == []
    accepted = report.same + report.other
    assert accepted["zstd frames"]  # frames that are not compressed
    assert accepted["levels and indices"]  # other runs of the same values
    assert report.other["page content"]  # other values
    assert report.other["dictionary"]  # other texts


def test_promise_21_a_mutation_is_refused_or_read_alike(tmp_path: Path) -> None:
    report = fuzz(ORIGINALS, 40 * len(KINDS), seed=21, directory=tmp_path)
    assert report.failures == []
    assert min(report.refused[kind] for kind in KINDS) > 10
    assert len(report.reasons) > 150


_CHILD = """
import json, sys
from pathlib import Path
from tests.bundle.fuzzing import fuzz
from tests.bundle.originals import ORIGINALS
report = fuzz(ORIGINALS, int(sys.argv[2]), first=int(sys.argv[1]), seed=22, directory=Path(sys.argv[3]))
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(json.dumps([report.to_dict(), int(peak) // 1024]))
"""
COUNT, CHILDREN = 20_000, 4


@pytest.mark.slow
def test_promise_21_20_000_mutations_are_refused_or_read_alike(tmp_path: Path) -> None:
    """In processes of their own: what ended one would be a failure that says where."""
    whole = Report()
    for number in range(CHILDREN):
        first, count = COUNT // CHILDREN * number, COUNT // CHILDREN
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, str(first), str(count), str(tmp_path)],
            cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, f"mutations {first} to {first + count}: {done.stderr[-2000:]}"
        report, peak_mib = json.loads(done.stdout.splitlines()[-1])
        whole.add(Report.from_dict(report))
        assert peak_mib < 1024
    check_variety(whole)


@pytest.mark.parametrize("kind", KINDS)
def test_promise_21_a_mutation_in_a_bundle_signed_again(kind: str, tmp_path: Path) -> None:
    """Verified and read, as a directory and in a zip file, it gets the same answer as the part alone."""
    bag = write_bundle(a_bundle(steps=STEPS), tmp_path / "bundle", signing_key=KEY)
    part = (bag / "data/trace_steps.parquet").read_bytes()
    original = Original.of(part, STEPS.to_arrow(), 2)
    for number in range(5):
        octets = mutate(random.Random(f"{kind}/{number}"), original.tree, kind)
        found = read_or_refuse(octets, original)
        verification = verify_bundle(resigned(bag, octets, KEY), trusted_keys=KEY.public_key())
        zipped = tmp_path / f"{number}.bundle.zip"
        with zipped.open("w+b") as file:
            write_archive(bag, file, base=f"{number}.bundle")
        assert verify_bundle(zipped, trusted_keys=KEY.public_key()).findings == verification.findings
        same = not isinstance(found, str) and found.equals(original.rows)
        assert verification.ok == same, (number, found)
        if same:
            assert read_bundle(bag, trusted_keys=KEY.public_key()).steps.to_arrow().equals(original.rows)
        else:
            with pytest.raises(VerificationFailed) as caught:
                read_bundle(bag, trusted_keys=KEY.public_key())
            assert caught.value.findings == verification.findings
            assert {finding.code for finding in verification.findings} <= {"schema", "content"}
