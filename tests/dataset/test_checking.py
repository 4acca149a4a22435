"""Verification: damage, rows out of place, and manifests that lie."""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from exporttools import (
    DatasetUnreadable,
    open_dataset,
)
from exporttools.dataset.destinations import open_storage
from exporttools.dataset.manifest import UNDATED, new_window
from exporttools.records.schema import RECORD_TYPES
from tests.databases import NOON, incident, run, step, trace
from tests.dataset.handmade import (
    DAY,
    HOUR,
    MIDNIGHT,
    HandmadeDataset,
    codes,
    exported,
    findings_of,
)


def test_each_changed_file_is_found(tmp_path: Path) -> None:
    dataset = exported(tmp_path)
    verification = dataset.verify()
    assert verification.ok
    assert str(verification).startswith(f"{tmp_path / 'd'}: intact: 31 rows in 7 files, 0 unlisted; manifest 2\n")
    for path in sorted((tmp_path / "d").glob("*/*/*/*.parquet")):
        good = path.read_bytes()
        for at in (0, len(good) // 2, len(good) - 1):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            findings = dataset.verify().findings
            assert [(f.code, f.path) for f in findings] == [("changed", path.relative_to(tmp_path / "d").as_posix())]
        path.unlink()
        assert codes(dataset) == {"missing"}
        path.write_bytes(good)
    assert dataset.verify().ok


def test_a_broken_chain_is_found(tmp_path: Path) -> None:
    dataset = exported(tmp_path)
    first = tmp_path / "d" / "_manifest" / "000001.json"
    text = first.read_text()
    first.write_text(text.replace('"change": "start"', '"change": "stars"'))
    assert codes(dataset) == {"chain"}
    first.unlink()
    assert codes(dataset) == {"chain"}


def rewritten(dataset: Any, place: Path, table: str, change: Any) -> Any:
    """The dataset with the rows of a table's first part file changed, and all digests made to match."""
    from exporttools.dataset import part_files

    storage = open_storage(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part_files.KeyOrder, "require_next", lambda *_: None)
        listed = list(dataset.part_files)
        at = next(i for i, part_file in enumerate(listed) if part_file.table == table)
        old = listed[at]
        rows = change(dataset.to_arrow(table, filter=pc.field("tenant_id") == old.tenant_id))
        columns = RECORD_TYPES[table].stored_columns()
        with part_files.new_part_file(storage, RECORD_TYPES[table], columns, old.tenant_id, old.day) as writer:
            for batch in rows.to_batches():
                writer.write(batch)
        listed[at] = writer.part_file
    known = dataset.manifest.windows[0]
    window = new_window(
        storage, NOON.replace(hour=0), NOON.replace(hour=0) + 24 * HOUR, listed,
        read_at=known.read_at, open_runs=0, undated_runs=0, settled=True, extra_columns={},
    )  # fmt: skip
    manifest = dataset.manifest.with_window("w", window)
    storage.create(manifest.path, manifest.encoded())
    return open_dataset(place)


@pytest.mark.parametrize(
    ("table", "change", "code"),
    [
        ("runs", lambda t: t.set_column(1, t.schema.field(1), pa.array(["b"] * len(t))), "tenant"),
        (
            "runs",
            lambda t: t.set_column(5, t.schema.field(5), pa.array([NOON - 24 * HOUR] * len(t), t.schema.types[5])),
            "day",
        ),
        ("trace_steps", lambda t: t.take(pa.array([1, 0, *range(2, len(t))])), "order"),
        ("trace_steps", lambda t: t.take(pa.array([0, 0, *range(2, len(t))])), "order"),
    ],
)
def test_rows_out_of_place_are_found_though_all_digests_match(
    tmp_path: Path, table: str, change: Any, code: str
) -> None:
    dataset = rewritten(exported(tmp_path), tmp_path / "d", table, change)
    assert codes(dataset) == {code}


def test_many_findings_are_cut_short_in_notebooks_only(handmade: HandmadeDataset) -> None:
    dataset = handmade.commit(
        0, [handmade.part_file("runs", run(run_id=f"r{i}", tenant_id=f"t{i}")) for i in range(103)]
    )
    shutil.rmtree(handmade.place / "runs")
    verification = dataset.verify()
    assert {finding.code for finding in verification.findings} == {"missing"}
    assert str(verification).count("missing: ") == 103
    assert verification._repr_html_().count("<li>missing: ") == 100
    assert "<li>… 3 more</li>" in verification._repr_html_()
    assert json.loads(json.dumps(verification.to_dict()))["ok"] is False
    assert not verification


def test_all_that_is_wrong_is_found_at_once(handmade: HandmadeDataset) -> None:
    part_files = [handmade.part_file("runs", run(run_id=f"r{i}", tenant_id=f"t{i}")) for i in range(4)]
    dataset = handmade.commit(0, part_files)
    missing, flipped, cut, sound = (handmade.place / part_file.path for part_file in part_files)
    missing.unlink()
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"?")
    cut.write_bytes(cut.read_bytes()[:-9])
    verification = dataset.verify()
    assert [(f.code, f.path) for f in verification.findings] == [
        ("missing", part_files[0].path), ("changed", part_files[1].path), ("changed", part_files[2].path)
    ]  # fmt: skip
    assert sound.exists()
    assert verification.content_digest == dataset.content_digest  # as the manifest says


def test_a_directory_in_place_of_a_file_is_a_missing_file(handmade: HandmadeDataset) -> None:
    part_file = handmade.part_file("runs", run())
    dataset = handmade.commit(0, [part_file])
    (handmade.place / part_file.path).unlink()
    (handmade.place / part_file.path).mkdir()
    assert findings_of(dataset) == [("missing", part_file.path)]


def test_a_file_of_another_tenant_is_found(handmade: HandmadeDataset) -> None:
    part_file = handmade.part_file("runs", run(tenant_id="rival"), tenant="acme")
    dataset = handmade.commit(0, [part_file])
    assert [str(finding) for finding in dataset.verify().findings] == [
        f"tenant: {part_file.path}: expected rows of 'acme' only; found 1 of others"
    ]


@pytest.mark.parametrize(
    ("table", "row", "day"),
    [
        ("runs", run(started_at=MIDNIGHT - dt.timedelta(microseconds=1)), DAY),
        ("runs", run(started_at=MIDNIGHT + 24 * HOUR), DAY),
        ("runs", run(started_at=None), DAY),
        ("runs", run(started_at=MIDNIGHT), UNDATED),
        ("incidents", incident(created_at=MIDNIGHT + 24 * HOUR), DAY),
    ],
)
def test_a_row_of_another_day_is_found(handmade: HandmadeDataset, table: str, row: Any, day: str) -> None:
    part_file = handmade.part_file(table, row, of_day=day)
    assert findings_of(handmade.commit(0, [part_file])) == [("day", part_file.path)]


def test_a_part_file_listed_twice_is_found(handmade: HandmadeDataset) -> None:
    part_file = handmade.part_file("runs", run())
    handmade.commit(0, [part_file])
    dataset = handmade.commit(1, [part_file])
    assert dataset.to_arrow("runs").num_rows == 2  # which is why it matters
    assert findings_of(dataset) == [("duplicate", part_file.path)]


@pytest.mark.parametrize(
    ("table", "one", "other"),
    [
        ("runs", [run()], [run(goal="again")]),
        ("incidents", [incident()], [incident(severity="low")]),
        ("traces", [trace()], [trace(violation_step_index=None)]),
        ("trace_steps", [step(0), step(1)], [step(2)]),  # a trace lies in one file with all its steps
    ],
)
def test_a_key_in_two_files_is_found_but_not_of_two_tenants(
    handmade: HandmadeDataset, table: str, one: Any, other: Any
) -> None:
    part_files = [handmade.part_file(table, *rows) for rows in (one, other)]
    foreign = handmade.part_file(table, *(row | {"tenant_id": "rival"} for row in one))
    handmade.commit(0, [part_files[0], foreign])
    dataset = handmade.commit(1, part_files[1:])
    (finding,) = dataset.verify().findings
    assert (finding.code, {finding.path, finding.found.removeprefix("also in ")}) == (
        "duplicate",
        {p.path for p in part_files},
    )
    assert dataset.verify().findings == (finding,)


def test_a_file_with_other_columns_than_its_window_says_is_found(handmade: HandmadeDataset) -> None:
    part_file = handmade.part_file("trace_steps", step(0, model="m"), model="string")
    (finding,) = handmade.commit(0, [part_file]).verify().findings
    assert (finding.code, finding.path) == ("schema", part_file.path)
    assert finding.found == finding.expected + ", model: string"


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("rows", 2, "content"),
        ("content_digest", "0" * 64, "content"),
        ("bytes", 1, "changed"),
        ("sha256", "0" * 64, "missing"),
    ],
)
def test_a_part_list_that_lies_is_found(handmade: HandmadeDataset, field: str, value: Any, code: str) -> None:
    part_file = handmade.part_file("runs", run())
    lie = replace(part_file, **{field: value})
    if field == "sha256":
        lie = replace(lie, path=part_file.path.replace(part_file.sha256[:32], "0" * 32))
    assert findings_of(handmade.commit(0, [lie])) == [(code, lie.path)]


def forge(handmade: HandmadeDataset, **changes: Any) -> Any:
    """The next manifest, whose window does not match its part list."""
    window = replace(handmade.committer.manifest.windows[0], **changes)
    manifest = handmade.committer.manifest.child("window", "w", [window])
    handmade.storage.create(manifest.path, manifest.encoded())
    return open_dataset(handmade.place)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rows", {"incidents": 0, "runs": 2, "traces": 0, "trace_steps": 0}),
        ("bytes", {"incidents": 0, "runs": 2, "traces": 0, "trace_steps": 0}),
    ],
)
def test_a_window_that_is_not_the_sum_of_its_part_files_is_found(
    handmade: HandmadeDataset, field: str, value: Any
) -> None:
    handmade.commit(0, [handmade.part_file("runs", run())])
    dataset = forge(handmade, **{field: value})
    assert findings_of(dataset) == [("rows", dataset.manifest.windows[0].parts_path)]


def test_a_window_without_its_part_list_is_found_beside_other_faults(handmade: HandmadeDataset) -> None:
    part_files = [handmade.part_file("runs", run(run_id=f"r{i}")) for i in (0, 1)]
    for hour, part_file in enumerate(part_files):
        dataset = handmade.commit(hour, [part_file])
    gone = handmade.place / dataset.manifest.windows[0].parts_path
    gone.write_bytes(gone.read_bytes() + b" ")
    (handmade.place / part_files[1].path).unlink()
    assert findings_of(dataset) == [
        ("malformed", dataset.manifest.windows[0].parts_path),
        ("missing", part_files[1].path),
    ]
    with pytest.raises(DatasetUnreadable, match=r"its SHA-256 is [0-9a-f]{64}; the manifest says"):
        open_dataset(handmade.place).files("runs")


@pytest.mark.parametrize(
    "data", [b"[]", b"{}", b"", b"\xff", b"[" * 100_000, b'{"parent_sha256": 7}', b'{"parent_sha256": "x"}']
)
def test_a_file_in_the_chain_that_is_not_a_manifest_is_found(handmade: HandmadeDataset, data: bytes) -> None:
    """Its SHA-256 matches the one in the next manifest."""
    manifest = replace(
        handmade.committer.manifest.child("start", "w", ()), parent_sha256=hashlib.sha256(data).hexdigest()
    )
    (handmade.place / "_manifest" / "000001.json").write_bytes(data)
    handmade.storage.create(manifest.path, manifest.encoded())
    (finding,) = open_dataset(handmade.place).verify().findings
    assert (finding.code, finding.path) == ("chain", "_manifest/000001.json")


def test_a_part_file_that_cannot_be_read_is_a_finding_beside_others(handmade: HandmadeDataset) -> None:
    part_files = [handmade.part_file("runs", run(run_id=f"r{i}", tenant_id=f"t{i}")) for i in range(2)]
    dataset = handmade.commit(0, part_files)
    looping, missing = (handmade.place / part_file.path for part_file in part_files)
    looping.unlink()
    looping.symlink_to(looping)
    missing.unlink()
    unreadable, _ = findings = dataset.verify().findings
    assert [finding.code for finding in findings] == ["malformed", "missing"]
    assert str(unreadable).startswith(
        f"malformed: {part_files[0].path}: expected rows as exported; found [Errno {errno.ELOOP}] "
    )


def test_a_manifest_in_the_chain_that_cannot_be_read_is_a_finding(handmade: HandmadeDataset) -> None:
    dataset = handmade.commit(0, [handmade.part_file("runs", run())])
    first = handmade.place / "_manifest" / "000001.json"
    first.unlink()
    first.symlink_to(first)
    (finding,) = dataset.verify().findings
    assert str(finding).startswith(f"chain: _manifest/000001.json: expected a manifest; found [Errno {errno.ELOOP}] ")


def test_a_table_that_cannot_be_listed_stops_verification(handmade: HandmadeDataset) -> None:
    dataset = handmade.commit(0, [handmade.part_file("runs", run())])
    (handmade.place / "traces").write_text("")
    with pytest.raises(DatasetUnreadable, match=r"/d: traces/ cannot be listed: \[Errno 20\] Not a directory"):
        dataset.verify()
