"""PROMISES row 12 for exports: killed at any moment, run again to the end, it holds what a one-shot export holds."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from exporttools import ExportBundleStore, export_dataset, open_dataset
from exporttools.dataset.destinations import open_storage
from exporttools.dataset.manifest_reader import read_manifest

EXPORT = """
import sys
from exporttools import ExportBundleStore, export_dataset
store = ExportBundleStore(sys.argv[1])
print("ready", flush=True)
export_dataset(store, sys.argv[2], window="1d", progress=False)
"""


@pytest.mark.slow
def test_promise_12_killed_twenty_times_and_run_to_the_end(sample_url: str, tmp_path: Path) -> None:
    assert len(kill_and_finish(sample_url, tmp_path, kills=20)) > 5  # they were killed at different moments


def test_promise_12_killed_and_run_to_the_end(sample_url: str, tmp_path: Path) -> None:
    kill_and_finish(sample_url, tmp_path, kills=1)


def kill_and_finish(url: str, directory: Path, kills: int) -> set[int]:
    """Kill exports at random moments, then run them to the end. Returns the manifests at which they were found."""
    export_dataset(ExportBundleStore(url), directory / "whole", window="1d", progress=False)
    whole = open_dataset(directory / "whole").content_digest
    seconds = random.Random(12)
    killed = started_over = 0
    seen = set()
    while killed < kills:
        destination = directory / f"d{started_over}"
        process = subprocess.Popen(
            [sys.executable, "-c", EXPORT, url, str(destination)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        timer = threading.Timer(seconds.uniform(0, 0.8), process.kill)
        timer.start()
        code = process.wait()
        timer.cancel()
        process.stdout.close()
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
        found = read_manifest(open_storage(destination)) if destination.exists() else None
        begun = [] if found is None else [destination]
        assert [fault for place in begun for fault in open_dataset(place).verify().findings] == []
        if found is not None:
            seen.add(found.number)
        if not code or (found is not None and len(found.windows) > 10):
            finish(url, destination, whole)
            started_over += 1
    finish(url, directory / f"d{started_over}", whole)
    return seen


def finish(url: str, destination: Path, whole: str) -> None:
    export_dataset(ExportBundleStore(url), destination, window="1d", progress=False)
    dataset = open_dataset(destination)
    verification = dataset.verify()
    assert verification.findings == ()
    assert verification.unlisted == 0
    assert dataset.content_digest == whole
    assert not list(destination.rglob("*partial"))
