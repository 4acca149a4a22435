"""A bundle is a BagIt bag to other tools, and a wrong manifest or tag file is found."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import exporttools
from exporttools import IncidentSnapshot, read_bundle, verify_bundle, write_bundle
from tests.bundle.bags import DIGEST, PAYLOAD, TAGS, a_bundle, found_in, rehash_tags
from tests.databases import incident

# Other tools


def test_promise_01_bagit_accepts_it(written: Path, caplog: pytest.LogCaptureFixture) -> None:
    import bagit

    with caplog.at_level(logging.WARNING):
        bag = bagit.Bag(str(written))
        assert bag.validate()
    assert caplog.records == []
    assert bag.version_info == (1, 0)
    assert set(bag.entries) == {*PAYLOAD, *TAGS}
    assert bag.info["External-Identifier"] == "i1"
    assert bag.info["Bag-Software-Agent"] == f"exporttools {exporttools.__version__}"


@pytest.mark.parametrize("manifest", ["manifest-sha256.txt", "tagmanifest-sha256.txt"])
def test_promise_01_sha256sum_accepts_it(written: Path, manifest: str) -> None:
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", manifest], cwd=written, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    expected = sorted(PAYLOAD if manifest.startswith("manifest") else TAGS)
    assert sorted(done.stdout.splitlines()) == [f"{name}: OK" for name in expected]


def test_promise_18_a_hostile_id_stays_in_its_line(tmp_path: Path) -> None:
    import bagit

    hostile = "i1\nPayload-Oxum: 1.1\r\nBag-Size: 1\u2028\x85\x0b\x1b[31m"
    bundle = a_bundle(incident=IncidentSnapshot(**incident(id=hostile)))
    path = write_bundle(bundle, tmp_path / "bundle")
    assert read_bundle(path).name == hostile
    lines = (path / "bag-info.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "Bagging-Date", "Bag-Software-Agent", "External-Identifier", "External-Description", "Payload-Oxum",
    ]  # fmt: skip
    assert lines[2] == "External-Identifier: i1%0APayload-Oxum: 1.1%0D%0ABag-Size: 1%2028%85%0B%1B[31m"
    assert bagit.Bag(str(path)).validate()


# Manifests and tag files


def _edit_lines(bag: Path, name: str, change: Callable[[list[str]], list[str]]) -> None:
    lines = (bag / name).read_text().splitlines(keepends=True)
    (bag / name).write_text("".join(change(lines)))


MANIFESTS: dict[str, tuple[Callable[[list[str]], list[str]], str, str]] = {
    "a line twice": (lambda lines: [*lines, lines[0]], "malformed", "again in line"),
    "a line gone": (lambda lines: lines[1:], "malformed", "no such line"),
    "garbage": (lambda lines: [*lines, "\x1b[31mno manifest line\n"], "malformed", "\x1b[31mno manifest line"),
    "an empty line": (lambda lines: [*lines, "\n"], "malformed", ""),
    "no line break at the end": (lambda lines: [*lines[:-1], lines[-1][:-1]], "malformed", ""),
    "capitals": (lambda lines: [lines[0][:64].upper() + lines[0][64:], *lines[1:]], "malformed", ""),
    "another space": (lambda lines: [lines[0].replace("  ", " \t"), *lines[1:]], "malformed", ""),
    "binary mode": (lambda lines: [lines[0].replace("  ", " *"), *lines[1:]], "malformed", ""),
    "carriage returns": (lambda lines: [line.replace("\n", "\r\n") for line in lines], "unexpected", "\r"),
    "another file": (lambda lines: [*lines, f"{DIGEST}  data/../../etc/passwd\n"], "unexpected", "data/../../etc/passwd"),
    "an absolute path": (lambda lines: [*lines, f"{DIGEST}  /etc/passwd\n"], "unexpected", "/etc/passwd"),
    "itself": (lambda lines: [*lines, f"{DIGEST}  tagmanifest-sha256.txt\n"], "unexpected", "tagmanifest-sha256.txt"),
    "nothing": (lambda lines: [], "malformed", "no such line"),
    "a megabyte more": (lambda lines: [*lines, *lines * 8000], "too-large", ","),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MANIFESTS)
@pytest.mark.parametrize("manifest", ["manifest-sha256.txt", "tagmanifest-sha256.txt"])
def test_promise_17_a_manifest_that_is_not_as_written_is_found(bag: Path, manifest: str, mutation: str) -> None:
    change, code, fragment = MANIFESTS[mutation]
    _edit_lines(bag, manifest, change)
    if manifest.startswith("manifest"):
        rehash_tags(bag)
    verification = verify_bundle(bag)
    hits = [finding for finding in verification.findings if (finding.code, finding.path) == (code, manifest)]
    assert any(fragment in finding.found for finding in hits)
    assert "\x1b" not in str(verification) + verification._repr_html_()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("bagit.txt", "BagIt-Version: 0.97\nTag-File-Character-Encoding: UTF-8\n",
         r"'BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n'"),
        ("bagit.txt", "\ufeffBagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n",
         r"'BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n'"),
        ("bag-info.txt", "Payload-Oxum: 1.5\n", "Payload-Oxum: "),
        ("bag-info.txt", "", "Payload-Oxum: "),
    ],
)  # fmt: skip
def test_a_tag_file_of_another_bag_is_found(bag: Path, name: str, text: str, expected: str) -> None:
    (bag / name).write_text(text)
    rehash_tags(bag)
    (finding,) = found_in(bag)
    assert (finding.code, finding.path) == ("malformed", name)
    assert finding.expected.startswith(expected)


def test_promise_02_an_edit_with_the_tag_manifest_removed_is_found(bag: Path) -> None:
    (bag / "bag-info.txt").write_text((bag / "bag-info.txt").read_text().replace("i1", "i2"))
    (bag / "tagmanifest-sha256.txt").unlink()
    assert [(finding.code, finding.path) for finding in found_in(bag)] == [("missing", "tagmanifest-sha256.txt")]
