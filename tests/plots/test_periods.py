"""Costs in each period."""

from __future__ import annotations

from exporttools import ExportBundleStore, plots
from tests.plots.fleets import said


def test_periods_add_up(store: ExportBundleStore) -> None:
    steps = store.scan_trace_steps().read_all()
    ax = plots.cost_over_time(steps, "1d", "agent_id", limit=3)
    text = said(ax)
    assert "total 15,630.89 US cents" in text
    assert "14 periods of 1 d" in text
    assert "other (4" in text
    assert "US cents per 1 d" in ax.get_ylabel()
    assert "UTC" in ax.get_xlabel()
