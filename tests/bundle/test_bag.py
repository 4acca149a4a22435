"""A bundle is a BagIt bag to other tools, and a wrong manifest or tag file is found."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import exporttools
from exporttools import IncidentSnapshot, read_bundle, verify_bundle, write_bundle
from exporttools.bundle.bag import bag_info
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
    assert bag.info["External-Description"] == (
        "An AI agent's incident or run: steps 3, failed 0, tokens 303, US cents 1.5, milliseconds 2700.75"
    )
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

    hostile = "i1\nPayload-Oxum: 1.1\r\nBag-Size: 1\u2028\x85\x0b\x1b[31m\x7f\u202eü\\n"
    bundle = a_bundle(incident=IncidentSnapshot(**incident(id=hostile)))
    path = write_bundle(bundle, tmp_path / "bundle")
    assert read_bundle(path).name == hostile
    lines = (path / "bag-info.txt").read_text(encoding="ascii").splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "Bagging-Date", "Bag-Software-Agent", "External-Identifier", "External-Description", "Payload-Oxum",
    ]  # fmt: skip
    assert (
        lines[2]
        == r"External-Identifier: i1\nPayload-Oxum: 1.1\r\nBag-Size: 1\u2028\u0085\u000b\u001b[31m\u007f\u202e\u00fc\\n"
    )
    assert bagit.Bag(str(path)).validate()


def test_an_id_of_a_megabyte_is_cut(tmp_path: Path) -> None:
    bundle = a_bundle(incident=IncidentSnapshot(**incident(id="i" * 1_000_001)))
    path = write_bundle(bundle, tmp_path / "bundle")
    assert f"\nExternal-Identifier: {'i' * 1000}...\n" in (path / "bag-info.txt").read_text()
    assert read_bundle(path) == bundle


def test_a_bag_of_somebody_else_is_one_finding(tmp_path: Path) -> None:
    import bagit

    (tmp_path / "photos/2026").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "2026/c.jpg"):
        (tmp_path / "photos" / name).write_text(name)
    bagit.make_bag(str(tmp_path / "photos"), {"Contact-Name": "Jane Roe"}).validate()
    (finding,) = found_in(tmp_path / "photos")
    assert str(finding) == (
        "format: .: expected an exporttools bundle, which has data/bundle.json; "
        "found a BagIt bag, but not an exporttools bundle"
    )
    # Nothing more can be said of it, whatever is demanded.
    key = Path(__file__).parents[1] / "golden/TEST-ONLY.key.pub"
    assert verify_bundle(tmp_path / "photos", trusted_keys=key, incident_id="i", run_id="r").findings == (finding,)
    (tmp_path / "empty").mkdir()
    bagit.make_bag(str(tmp_path / "empty"), checksums=["sha256", "sha512"])  # it writes no manifest
    assert found_in(tmp_path / "empty") == [finding]


def test_a_bundle_whose_data_is_gone_is_still_one(tmp_path: Path) -> None:
    path = write_bundle(a_bundle(), tmp_path / "bundle")
    for name in PAYLOAD:
        (path / name).unlink()
    assert [(finding.code, finding.path) for finding in found_in(path)] == [
        ("missing", name) for name in sorted(PAYLOAD)
    ]


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
        ("bag-info.txt", "", "Bagging-Date: "),
        ("HOW-TO-VERIFY.txt", "Trust everybody.\n", "the text that belongs to format 2"),
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
    assert [(finding.code, finding.path) for finding in found_in(bag)] == [
        ("missing", "tagmanifest-sha256.txt"), ("malformed", "bag-info.txt"),
    ]  # fmt: skip


def test_lines_of_a_manifest_in_another_order_are_found(bag: Path) -> None:
    for manifest in ("manifest-sha256.txt", "tagmanifest-sha256.txt"):
        _edit_lines(bag, manifest, lambda lines: lines[::-1])
        if manifest.startswith("manifest"):
            rehash_tags(bag)
    assert list(map(str, found_in(bag))) == [
        f"malformed: {name}: expected its lines in order of the files' names; found another order"
        for name in ("manifest-sha256.txt", "tagmanifest-sha256.txt")
    ]


# bag-info.txt says what follows from the rest, and nothing else

GOLDEN_1 = Path(__file__).parents[1] / "golden/format-1/unsigned.bundle"
INFOS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "invalid UTF-8": (lambda info: info + b"\xff\n", "'utf-8' codec can't decode byte 0xff"),
    "a line without a colon": (lambda info: info + b"free to use\n", "free to use"),
    "another label": (lambda info: info + b"Contact-Name: Jane\n", "Contact-Name: Jane"),
    "a forged id": (lambda info: info.replace(b"Identifier: i1", b"Identifier: i2"), "External-Identifier: i2"),
    "a forged count of rows": (
        lambda info: info.replace(b"steps 3", b"steps 33").replace(b"3 steps", b"33 steps"), "33",
    ),
    "another total": (lambda info: info.replace(b"tokens", b"credits"), "credits"),
    "a continued line": (lambda info: info.replace(b"\nPayload", b"\n  and more\nPayload"), "and more"),
    "the oxum twice": (lambda info: info + info[info.rindex(b"Payload") :], "Payload-Oxum: "),
    "another oxum": (lambda info: info[: info.rindex(b" ")] + b" 1.5\n", "Payload-Oxum: 1.5"),
    "another date": (lambda info: info.replace(b"Date: 20", b"Date: 19"), "Bagging-Date: 19"),
    "another software": (lambda info: info.replace(b"exporttools", b"exporttool"), "Bag-Software-Agent: exporttool "),
    "carriage returns": (lambda info: info.replace(b"\n", b"\r\n"), "Bagging-Date: "),
    "no line break at the end": (lambda info: info[:-1], "lines"),
    "in capitals": (lambda info: info.replace(b"Bagging-Date", b"BAGGING-DATE"), "BAGGING-DATE"),
}  # fmt: skip


@pytest.mark.parametrize("mutation", INFOS)
@pytest.mark.parametrize("version", [1, 2])
def test_promise_17_a_bag_info_that_is_not_as_written_is_found(
    bag: Path, tmp_path: Path, version: int, mutation: str
) -> None:
    change, found = INFOS[mutation]
    if version == 1:
        bag = Path(shutil.copytree(GOLDEN_1, tmp_path / "golden"))
    info = bag / "bag-info.txt"
    before = info.read_bytes()
    info.write_bytes(change(before))
    assert info.read_bytes() != before
    rehash_tags(bag)
    (finding,) = found_in(bag)
    assert (finding.code, finding.path) == ("malformed", "bag-info.txt")
    assert found in finding.found or found in finding.expected


def test_a_wrong_line_of_a_bag_info_is_named(bag: Path) -> None:
    info = bag / "bag-info.txt"
    info.write_text(info.read_text().replace("Identifier: i1", "Identifier: \x1b[31mi2"))
    rehash_tags(bag)
    (finding,) = found_in(bag)
    assert str(finding) == (
        "malformed: bag-info.txt: expected External-Identifier: i1 in line 3; found External-Identifier: i2"
    )


def test_a_bag_of_format_1_may_be_dated_after_midnight_and_no_later(tmp_path: Path) -> None:
    bag = Path(shutil.copytree(GOLDEN_1, tmp_path / "golden"))
    info = (bag / "bag-info.txt").read_text(encoding="utf-8")
    for day, ok in (("25", True), ("26", False), ("23", False), ("24", True)):
        (bag / "bag-info.txt").write_text(info.replace("2026-11-24", f"2026-11-{day}"), encoding="utf-8")
        rehash_tags(bag)
        assert verify_bundle(bag).ok is ok
    assert info.startswith("Bagging-Date: 2026-11-24\n")


def test_what_format_1_said_of_no_step_and_of_one(tmp_path: Path) -> None:
    totals = {"steps": 0, "errors": 0, "tokens": 0, "cost_cents": 0.0, "duration_ms": 0.0}
    stated = json.loads((GOLDEN_1 / "data/bundle.json").read_text())
    for changes, expected in (
        ({}, "0 steps"),
        ({"steps": 1, "tokens": 1234}, "1 step · 1,234 tokens · 0 US cents · 0 ms"),
        ({"steps": 1, "cost_cents": None}, "1 step · 0 tokens · inf US cents · 0 ms"),
        ({"steps": 1000, "cost_cents": 1234567.8}, "1,000 steps · 0 tokens · 1.23457e+06 US cents · 0 ms"),
    ):
        info = bag_info(stated | {"totals": totals | changes}, {"data/a": 7})
        assert info.splitlines()[3:] == [
            f"External-Description: An AI agent's incident or run: {expected}", "Payload-Oxum: 7.1",
        ]  # fmt: skip
