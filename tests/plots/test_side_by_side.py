"""Two runs side by side."""

from __future__ import annotations

from exporttools import ExportBundleStore, plots
from tests.plots.fleets import said


def test_two_runs_are_told_apart_and_differ_by_what_is_said(store: ExportBundleStore) -> None:
    a, b = (store.get_export_bundle(f"inc-0000-{number}") for number in (4, 6))
    ax = plots.compare_runs(a, b)
    text = said(ax)
    assert "a: 28 steps, 6.794 US cents" in text
    assert "b: 53 steps, 68.71 US cents" in text
    assert "7 steps with a different status" in text
    assert (
        "only in a: fetch_logs (7), describe_service (2), query_metrics (2), runbooks (1), restart_service (1)" in text
    )
    assert "+0.00004" in text
    assert "e-0" not in text
    assert "−21 min 44 s" in text
    hatches = {bar.get_gid(): bar.get_hatch() for bar in ax.patches}
    assert hatches == {"run a": None, "run b": "////"}
