"""PROMISES row 12 for exports: killed at any moment, run again to the end, it holds what a one-shot export holds."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

from exporttools import ExportBundleStore, export_dataset, open_dataset
from exporttools.dataset.manifest import read_manifest
from exporttools.dataset.storage import open_storage

KILLS = 20

EXPORT = """
import sys
from exporttools import ExportBundleStore, export_dataset
store = ExportBundleStore(sys.argv[1])
print("ready", flush=True)
export_dataset(store, sys.argv[2], window="1d", progress=False)
"""


def test_promise_12_killed_twenty_times_and_run_to_the_end(sample_url: str, tmp_path: Path) -> None:
    export_dataset(ExportBundleStore(sample_url), tmp_path / "whole", window="1d", progress=False)
    whole = open_dataset(tmp_path / "whole").content_digest
    seconds = random.Random(12)
    killed = started_over = 0
    seen = set()
    while killed < KILLS:
        destination = tmp_path / f"d{started_over}"
        process = subprocess.Popen(
            [sys.executable, "-c", EXPORT, sample_url, str(destination)],
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
        if code:
            killed += 1
        found = read_manifest(open_storage(destination)) if destination.exists() else None
        if found is not None:
            seen.add(found.number)
            assert open_dataset(destination).verify().findings == ()
        if not code or (found is not None and len(found.windows) > 10):
            finish(sample_url, destination, whole)
            started_over += 1
    finish(sample_url, tmp_path / f"d{started_over}", whole)
    assert len(seen) > 5  # they were killed at different moments


def finish(url: str, destination: Path, whole: str) -> None:
    export_dataset(ExportBundleStore(url), destination, window="1d", progress=False)
    dataset = open_dataset(destination)
    verification = dataset.verify()
    assert verification.findings == ()
    assert verification.unlisted == 0
    assert dataset.content_digest == whole
    assert not list(destination.rglob("*partial"))
