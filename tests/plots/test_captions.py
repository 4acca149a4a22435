"""What surrounds the data: titles, facts, the violation's mark, hostile text."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.dates import date2num

from exporttools.plots.captions import VIOLATION_COLOR
from exporttools.records.export_bundle import ExportBundle
from exporttools.records.snapshot_table import SnapshotTable
from exporttools.records.snapshots import IncidentSnapshot, RunSnapshot, TraceStepSnapshot, TraceSummarySnapshot
from tests.plots.drawings import (
    FIVE,
    HOSTILE,
    NOON,
    Plot,
    both,
    bundle,
    draw,
    facts,
    figure,
    lanes,
    step,
    table,
    texts,
)


@both
@pytest.mark.parametrize("index", [0, 2, 4])
def test_the_violation_is_marked_at_its_step_and_named(plot: Plot, index: int) -> None:
    ax = plot(bundle(FIVE, index))
    when = date2num(FIVE[index].timestamp)
    for panel in (a for a in figure(ax).axes if a.get_ylabel() == "" or "so far (line)" not in a.get_ylabel()):
        (line,) = [x for x in panel.lines if x.get_gid() == "violation"]
        assert np.asarray(line.get_xdata()).tolist() == pytest.approx([when, when])
        assert to_hex(line.get_color()).upper() == VIOLATION_COLOR
    (label,) = [t for t in ax.texts if t.get_gid() == "violation"]
    assert label.get_text() == f"violation: step {index} · {FIVE[index].step_type} · {FIVE[index].status}"
    assert label.get_position()[0] == pytest.approx(when)
    # The label turns away from the nearer edge, so it stays in the picture.
    assert label.get_horizontalalignment() == ("left" if index < 2 else "right")


@both
def test_a_cut_is_said_in_bold(plot: Plot) -> None:
    cut = SnapshotTable(TraceStepSnapshot, FIVE.to_arrow(), total=32_843)
    for data in (cut, cut.to_pandas()):
        ax = plot(data)
        assert facts(ax).startswith("first 5 of 32,843 steps · ")
        assert next(t for t in ax.texts if t.get_gid() == "facts").get_fontweight() == "bold"
    whole = plot(FIVE)
    assert facts(whole).startswith("5 steps · ")
    assert next(t for t in whole.texts if t.get_gid() == "facts").get_fontweight() == "normal"


@both
def test_no_steps_is_a_labelled_plot(plot: Plot) -> None:
    for data in (SnapshotTable.empty(TraceStepSnapshot), FIVE.to_pandas().iloc[:0], ExportBundle()):
        ax = plot(data)
        assert "no steps" in [t.get_text() for t in ax.texts if t.get_gid() != "facts"]
        assert ax.get_xlabel() == "time (UTC)"
        assert ax.get_ylabel() in ("step type", "US cents so far")
        draw(ax)


@both
def test_titles(plot: Plot) -> None:
    assert plot(bundle(FIVE)).get_title(loc="left") == "Incident inc-1: budget_exceeded, high severity"
    assert plot(bundle(FIVE), title="Mine").get_title(loc="left") == "Mine"
    assert plot(ExportBundle(run=RunSnapshot("r1", "acme"))).get_title(loc="left") == "Run r1"
    trace = TraceSummarySnapshot("t1", "r1", "acme")
    assert plot(ExportBundle(trace=trace)).get_title(loc="left") == "Trace t1"
    assert plot(FIVE).get_title(loc="left") == ""


@both
def test_given_an_axes_both_panels_take_its_place(plot: Plot) -> None:
    fig, (left, right) = plt.subplots(1, 2, figsize=(14, 5))
    right.plot([1, 2], [3, 4])
    place, other = left.get_position(), right.get_position().bounds
    current, open_figures = plt.gca(), plt.get_fignums()
    assert plot(FIVE, ax=left) is left
    assert plt.gca() is current
    assert plt.get_fignums() == open_figures
    assert right.get_position().bounds == other
    assert len(right.lines) == 1
    for panel in (panel for panel in fig.axes if panel is not right):
        box = panel.get_position()
        assert place.x0 - 1e-9 <= box.x0 <= box.x1 <= place.x1 + 1e-9
        assert place.y0 - 1e-9 <= box.y0 <= box.y1 <= place.y1 + 1e-9
    fig.canvas.draw()


@both
def test_a_new_figure_is_pyplots_so_that_notebooks_show_it(plot: Plot) -> None:
    ax = plot(FIVE)
    assert figure(ax) is plt.gcf()
    width, height = figure(ax).get_size_inches()
    assert width == 10
    assert 3.5 <= height <= 6


@both
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_drawn_inert(plot: Plot, text: str) -> None:
    steps = table(step(0, 0, step_type=text, status=text), step(1, 2, step_type="llm_call"))
    whole = ExportBundle(
        IncidentSnapshot(text or "x", "acme", "r", text, None, None, text, NOON),
        None, TraceSummarySnapshot("t", "r", "acme", 0), steps,
    )  # fmt: skip
    for ax in (plot(whole), plot(steps, title=text)):
        draw(ax)  # a formula that does not parse raises here, a letter that no font has warns
        for written in texts(*figure(ax).axes).replace(r"\$", "").split("\n"):
            assert "$" not in written
            assert written.isprintable()


@both
def test_long_text_is_cut_to_the_room_there_is(plot: Plot) -> None:
    _, axes = plt.subplots(1, 3, figsize=(12, 5))
    ax = plot(table(step(0, 0, step_type="w" * 300)), title="W" * 300, ax=axes[0])
    title = ax.get_title(loc="left")
    assert title.endswith("…")
    room = ax.get_window_extent().width
    drawn = next(t for t in (ax._left_title, ax.title) if t.get_text())  # type: ignore[attr-defined]
    assert drawn.get_window_extent().width <= room * 1.05
    assert all(len(name) <= 28 for name in lanes(ax))
