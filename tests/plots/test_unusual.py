"""Anomalies, drawn."""

from __future__ import annotations

import pytest

from exporttools import ExportBundleStore, analysis, plots
from exporttools.errors import ConfigError
from tests.plots.fleets import said


def test_anomalies_are_marked_and_the_worst_named(store: ExportBundleStore) -> None:
    steps = store.scan_trace_steps().read_all()
    ax = plots.anomalies(steps, analysis.baseline(steps), limit=4)
    found = analysis.anomalies(steps, analysis.baseline(steps, measures=["duration_ms"]))
    assert ax.get_yticklabels()[0].get_text() == "ops-responder · tool_call"
    marked = sum(len(points.get_offsets()) for points in ax.collections if points.get_gid() == "unusual")
    assert marked == sum(z is not None for z in found["z"].to_pylist())
    assert next(text.get_text() for text in ax.texts if text.get_gid() == "run") == "run-0000-269"
    assert ax.get_xscale() == "log"
    assert "4 unusual (marked): at least 5 robust standard deviations above the median" in said(ax)
    assert "32 of 36 groups not shown" in said(ax)
    with pytest.raises(ConfigError, match="measure is 'weight'; the baseline has cost_cents, tokens, duration_ms"):
        plots.anomalies(steps, analysis.baseline(steps), measure="weight")
