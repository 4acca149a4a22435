"""The bars of a cost breakdown."""

from __future__ import annotations

from exporttools import plots
from tests.plots.fleets import bars, frame, said


def test_a_breakdown_is_sorted_with_shares_and_the_rest_folded() -> None:
    steps = frame(*({"agent_id": f"agent {i}", "cost_cents": float(100 - i)} for i in range(20)))
    ax = plots.cost_breakdown(steps, by="agent_id", limit=5)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names[:4] == ["agent 0", "agent 1", "agent 2", "agent 3"]
    assert names[4].startswith("other (16")
    assert bars(ax)[:4] == [100.0, 99.0, 98.0, 97.0]
    assert ax.get_xlabel() == "US cents"
    assert "total 1,810.00 US cents" in said(ax)
    assert "100.00 US cents · 6%" in said(ax)
