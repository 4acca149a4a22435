"""Compaction: adjacent windows become one, and damage is never merged."""

from __future__ import annotations

import datetime as dt
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from exporttools import (
    ConfigError,
    DatasetError,
    DatasetUnreadable,
    DestinationConflict,
    ExportBundleStore,
    InconsistentData,
    export_dataset,
    open_dataset,
)
from exporttools.dataset.local_storage import LocalStorage
from tests.databases import NOON, create_native, run, step
from tests.dataset.handmade import (
    HOUR,
    MIDNIGHT,
    HandmadeDataset,
    exported,
)


def test_hours_merged_are_as_a_day_exported(tmp_path: Path) -> None:
    day = exported(tmp_path, tmp_path / "day")
    hours = exported(tmp_path, tmp_path / "hours", window="1h")
    assert len(hours.part_files) > len(day.part_files)
    merged = hours.compact(window="1d")
    assert len(merged.part_files) == len(day.part_files)
    assert merged.content_digest == day.content_digest != hours.content_digest
    assert merged.verify().findings == ()
    assert open_dataset(tmp_path / "hours").manifest == merged.manifest
    assert open_dataset(tmp_path / "hours", as_of=hours.manifest.number).verify().findings == ()
    assert merged.compact() is merged
    assert exported(tmp_path, tmp_path / "hours", window="1h").manifest == merged.manifest  # there is nothing new
    with pytest.raises(DestinationConflict):
        hours.compact()


def test_provisional_windows_are_not_merged(tmp_path: Path) -> None:
    runs = [run(run_id=f"r{i}", started_at=NOON + i * HOUR, completed_at=None) for i in range(3)]
    url = create_native(f"sqlite:///{tmp_path / 'db.sqlite'}", {"runs": runs})
    export_dataset(ExportBundleStore(url), tmp_path / "d", window="1h", progress=False)
    dataset = open_dataset(tmp_path / "d")
    assert dataset.compact() is dataset


def test_merged_files_are_in_the_order_of_keys_and_of_the_columns_of_all(handmade: HandmadeDataset) -> None:
    """Texts by code points, whatever their script; of two tenants, one has no file with the later column."""
    ids = ["\U0001f600", "Z", "a", "é", "a\x00", "\uffee", "aa", ""]
    for hour in range(4):
        rows = [
            step(i, trace_id=key, model="m") for key in sorted(ids[2 * hour : 2 * hour + 2]) for i in range(hour + 1)
        ]
        extra = {"model": "string"} if hour > 1 else {}
        part_files = [handmade.part_file("trace_steps", *rows, **extra)]
        if hour == 0:
            part_files.append(handmade.part_file("trace_steps", step(0, tenant_id="quiet", trace_id="q")))
        dataset = handmade.commit(hour, part_files, **extra)
    before = sorted(
        dataset.to_arrow("trace_steps").to_pylist(), key=lambda r: (r["tenant_id"], r["trace_id"], r["step_index"])
    )
    merged = dataset.compact()
    assert merged.to_arrow("trace_steps").to_pylist() == before
    assert len(merged.files("trace_steps")) == 2
    assert merged.verify().findings == ()


def test_a_gap_between_windows_is_not_covered_by_a_merged_window(tmp_path: Path) -> None:
    """Two exports left an interval between them. In one window with it, no later export would read it."""
    runs = [run(run_id=f"r{h}", started_at=MIDNIGHT + h * HOUR, completed_at=MIDNIGHT + h * HOUR) for h in (1, 7, 11)]
    url = create_native(f"sqlite:///{tmp_path / 'db.sqlite'}", {"runs": runs})

    def export(**options: Any) -> Any:
        export_dataset(ExportBundleStore(url), tmp_path / "d", window="1h", progress=False, **options)
        return open_dataset(tmp_path / "d")

    export(until=MIDNIGHT + 5 * HOUR)
    export(since=MIDNIGHT + 10 * HOUR).compact()
    assert export().to_arrow("runs")["run_id"].to_pylist() == ["r1", "r7", "r11"]


@pytest.mark.parametrize("window", ["2h", "1d"])
def test_windows_are_merged_within_the_length_given(handmade: HandmadeDataset, window: str) -> None:
    for hour in (22, 23, 24, 25, 27):
        day = (MIDNIGHT + hour * HOUR).date().isoformat()
        part_file = handmade.part_file("runs", run(run_id=f"r{hour}", started_at=MIDNIGHT + hour * HOUR), of_day=day)
        dataset = handmade.commit(hour, [part_file])
    hours = [
        tuple((dt.datetime.fromisoformat(end) - MIDNIGHT) // HOUR for end in (merged.since, merged.until))
        for merged in dataset.compact(window=window).manifest.windows
    ]
    assert hours == [(22, 24), (24, 26), (27, 28)]


@pytest.mark.parametrize("damage", ["flipped", "swapped", "gone"])
def test_damage_is_not_merged_into_a_file_that_is_in_order(handmade: HandmadeDataset, damage: str) -> None:
    part_files = [handmade.part_file("runs", run(run_id=f"r{hour}")) for hour in (0, 1)]
    other = handmade.part_file("runs", run(run_id="r9"))
    for hour, part_file in enumerate(part_files):
        dataset = handmade.commit(hour, [part_file])
    path, data = handmade.place / part_files[0].path, (handmade.place / part_files[0].path).read_bytes()
    path.unlink()
    if damage == "flipped":
        path.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
    elif damage == "swapped":
        (handmade.place / other.path).rename(path)
    with pytest.raises(
        DatasetUnreadable,
        match=rf"{part_files[0].path} cannot be merged: expected SHA-256 {part_files[0].sha256}; found .*Nothing was merged; verify\(\) lists everything that is wrong",
    ):
        dataset.compact()
    assert open_dataset(handmade.place).manifest.windows == dataset.manifest.windows


def test_duplicate_rows_are_not_merged(handmade: HandmadeDataset) -> None:
    for hour in (0, 1):
        dataset = handmade.commit(hour, [handmade.part_file("runs", run(goal=str(hour)))])
    with pytest.raises(
        InconsistentData, match="run_id='r1' comes after run_id='r1'; expected strictly ascending keys without"
    ):
        dataset.compact()
    assert open_dataset(handmade.place).manifest.windows == dataset.manifest.windows


@pytest.mark.parametrize("window", ["", "1", "7h", "0d", "1y"])
def test_invalid_lengths(handmade: HandmadeDataset, window: str) -> None:
    with pytest.raises(ConfigError, match="window is"):
        open_dataset(handmade.place).compact(window=window)


def test_a_storage_that_fails_stops_a_compaction_clearly(
    handmade: HandmadeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hour in (0, 1):
        dataset = handmade.commit(hour, [handmade.part_file("runs", run(run_id=f"r{hour}"))])

    def failing(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for method in ("create", "new_part_file"):  # as it announces itself, and as it writes
        with monkeypatch.context() as patch:
            patch.setattr(LocalStorage, method, failing)
            with pytest.raises(
                DatasetError,
                match=r"/d: the compaction stopped: \[Errno 5\] Input/output error\. Nothing was merged, and no row was lost$",
            ):
                dataset.compact()
        dataset = open_dataset(handmade.place)
        assert len(dataset.manifest.windows) == 2
    assert len(dataset.compact().manifest.windows) == 1
