"""Fleets to export, exports, and ways to interrupt them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from exporttools import ExportBundleStore, export_dataset
from exporttools.dataset.local_storage import LocalStorage
from tests.databases import NOON, incident, run, step, trace

HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
TABLES = ("incidents", "runs", "traces", "trace_steps")


def export(url: str, destination: Path, **options: Any) -> Any:
    return export_dataset(ExportBundleStore(url), destination, progress=False, **options)


def files_of(destination: Path) -> set[str]:
    return {p.relative_to(destination).as_posix() for p in destination.rglob("*") if p.is_file()}


def two_days() -> dict[str, list[dict[str, Any]]]:
    """Two runs on two days, each with an incident, a trace and a step."""
    return {
        "incidents": [incident(id=f"i{i}", source_run_id=f"r{i}", created_at=NOON + i * DAY) for i in (0, 1)],
        "runs": [run(run_id=f"r{i}", started_at=NOON + i * DAY, completed_at=NOON + i * DAY + HOUR) for i in (0, 1)],
        "traces": [trace(trace_id=f"t{i}", run_id=f"r{i}") for i in (0, 1)],
        "trace_steps": [step(0, trace_id=f"t{i}", timestamp=NOON + i * DAY) for i in (0, 1)],
    }


class Stopped(Exception):
    """An interruption by something other than the storage."""


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException) -> list[str]:
    """Make the destination's change number `at`, counted from 0, fail. Returns the changes before it."""
    changes: list[str] = []

    def failing(name: str) -> Any:
        original = getattr(LocalStorage, name)

        def call(self: LocalStorage, *arguments: Any) -> Any:
            if len(changes) == at:
                raise error
            changes.append(name)
            return original(self, *arguments)

        return call

    for name in ("create", "new_part_file", "delete"):
        monkeypatch.setattr(LocalStorage, name, failing(name))
    return changes
