"""Several exporters of one destination: one wins, and nothing is lost."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from exporttools import DestinationConflict, open_dataset
from exporttools.export import task as task_module
from tests.databases import create_native
from tests.export.fleets import export, two_days


def test_of_two_exporters_one_wins_and_nothing_is_lost(
    fresh_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = create_native(fresh_url, two_days())
    overtaken: list[Any] = []
    original = task_module._attempt

    def attempt(task: Any) -> Any:
        if not overtaken:
            overtaken.append(None)  # the other exports everything while the first is at its first window
            overtaken.append(export(url, tmp_path))
        return original(task)

    monkeypatch.setattr(task_module, "_attempt", attempt)
    with pytest.raises(
        DestinationConflict,
        match=re.escape(
            f"{tmp_path}: another export began here, with a manifest after 1; this one stops. "
            "Its commits stay; the other export writes the rest"
        ),
    ):
        export(url, tmp_path, jobs=1)
    dataset = open_dataset(tmp_path)
    assert dict(dataset.rows) == {"incidents": 2, "runs": 2, "traces": 2, "trace_steps": 2}
    assert dataset.manifest.number == overtaken[1].manifest
    assert dataset.verify().ok
    assert export(url, tmp_path).windows_skipped == 2


def test_many_exporters_at_once(sample_url: str, tmp_path: Path) -> None:
    def attempt(_: int) -> str:
        try:
            export(sample_url, tmp_path, window="7d", jobs=1)
        except DestinationConflict:
            return "conflict"
        return "done"

    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(attempt, range(4)))
    assert set(ends) <= {"done", "conflict"}
    assert "done" in ends
    export(sample_url, tmp_path, window="7d")
    dataset = open_dataset(tmp_path)
    assert dataset.verify().findings == ()
    assert dataset.rows["runs"] == 300
