"""Plans, reports and the progress bar: what an export says of itself."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exporttools import ExportBundleStore, export_dataset, open_dataset, plan_export
from exporttools.export.export_report import ExportPlan, ExportReport, PlannedWindow
from tests.databases import NOON, create_native
from tests.export.fleets import HOUR, export, two_days


def test_the_plan_counts_and_writes_nothing(sample_url: str, sample: Any, tmp_path: Path) -> None:
    plan = plan_export(ExportBundleStore(sample_url), tmp_path / "d")
    assert plan.runs >= 300
    assert abs(plan.estimated_steps - sample["trace_steps"].num_rows) < sample["trace_steps"].num_rows / 2
    assert list(tmp_path.iterdir()) == []
    assert str(plan).startswith(f"{tmp_path / 'd'}: {len(plan.windows)} windows to read, 0 settled; ")
    export(sample_url, tmp_path / "d")
    again = plan_export(ExportBundleStore(sample_url), tmp_path / "d")
    assert {window.why for window in again.windows} == {"provisional"}


def test_reports_are_inert(fresh_url: str, tmp_path: Path) -> None:
    url = create_native(fresh_url, two_days())
    hostile = tmp_path / "<script>alert(1)<"
    plan = plan_export(ExportBundleStore(url), hostile)
    report = export(url, hostile)
    for shown in (plan, report, open_dataset(hostile), open_dataset(hostile).verify()):
        assert "<script>" not in shown._repr_html_()
        assert "&lt;script&gt;" in shown._repr_html_()


def test_a_bar_says_rows_and_windows_where_somebody_watches(
    fresh_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    import types

    store = ExportBundleStore(create_native(fresh_url, two_days()))
    export_dataset(store, tmp_path / "unseen")  # standard error is no terminal here
    assert capsys.readouterr().err == ""
    shell = types.SimpleNamespace(kernel="a notebook's")
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    export_dataset(store, tmp_path / "seen")
    last = capsys.readouterr().err.splitlines()[-1]
    assert "8.00 rows [" in last
    assert "2/2 windows]" in last


def test_speed_is_that_of_the_clock(fresh_url: str, tmp_path: Path) -> None:
    url = create_native(fresh_url, two_days())
    began = time.monotonic()
    report = export(url, tmp_path)
    assert 0 < report.seconds <= time.monotonic() - began


def test_a_report_counts_one_and_many() -> None:
    counts = {"incidents": 1, "runs": 1, "traces": 1, "trace_steps": 3}
    report = ExportReport(
        destination="d", manifest=2, rows=counts, bytes=counts, windows_committed=1, windows_skipped=0,
        windows_unchanged=0, windows_provisional=1, open_runs=1, undated_runs=1, undated_incidents=0,
        unowned_rows={}, default_tenant=None, retries=(), seconds=2.0,
    )  # fmt: skip
    assert str(report).splitlines() == [
        "d: manifest 2",
        "  1 incidents, 1 runs, 1 traces, 3 trace_steps",
        "  6 bytes in 2.0 s, 3 rows/s",
        "  windows: 1 committed, 0 skipped (settled before), 0 unchanged",
        "  provisional: 1 window with 1 open run, read again by the next export",
        "  undated: 1 run without a start, under day=__undated__",
    ]
    more = {
        "windows_provisional": 2,
        "open_runs": 1_000,
        "undated_runs": 3,
        "undated_incidents": 1,
        "unowned_rows": {"runs": 106, "traces": 1},
        "default_tenant": "the\nhouse",
        "retries": ("a timeout", "a lost connection"),
    }
    assert str(replace(report, rows=dict.fromkeys(counts, 0), **more)).splitlines()[1:] == [
        "  nothing new; checked in 2.0 s",
        "  windows: 1 committed, 0 skipped (settled before), 0 unchanged",
        "  provisional: 2 windows with 1,000 open runs, read again by the next export",
        "  undated: 3 runs without a start, 1 incident without a time of creation, under day=__undated__",
        "  without a tenant: 106 runs, 1 trace, read as tenant 'the\\nhouse'",
        "  retries: 2; the last one because of: a lost connection",
    ]


def test_a_plan_counts_one_and_many() -> None:
    window = PlannedWindow(NOON, NOON + HOUR, "new", 1, 0, 2)
    plan = ExportPlan("d", (window,), 0, 1, 999)
    undated = replace(plan, windows=(window, PlannedWindow(None, None, "provisional", 4, 0, 3)))
    assert str(undated).splitlines()[2:] == ["  undated rows  provisional  4 runs, 3 incidents"]
    assert (plan.undated_incidents, undated.to_dict()["undated_incidents"]) == (0, 3)
    assert str(plan).splitlines() == [
        "d: 1 window to read, 0 settled; 1 run, about 1 step and 999 bytes",
        "  2026-10-05 12:00:00 to 2026-10-05 13:00:00  new  1 run, 2 incidents",
    ]
    many = str(replace(plan, windows=(window,) * 51)).splitlines()
    assert many[0] == "d: 51 windows to read, 0 settled; 51 runs, about 1 step and 999 bytes"
    assert many[51:] == ["  ... 1 more"]
