"""The cost so far."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.dates import date2num

from exporttools.plots import cumulative_cost, timeline
from tests.plots.drawings import (
    FIVE,
    Plot,
    both,
    bundle,
    collections,
    draw,
    face_colors,
    facts,
    figure,
    lanes,
    many,
    step,
    table,
    texts,
)


def test_tokens_are_drawn_where_no_step_has_a_cost_and_the_plot_says_so() -> None:
    free = table(step(0, 0, cost_cents=0.0, tokens=700), step(1, 3, cost_cents=0.0, tokens=1300))
    ax = timeline(free)
    _, below, so_far = figure(ax).axes
    assert below.get_ylabel().startswith("tokens\nper ")
    assert so_far.get_ylabel() == "tokens\nso far (line)"
    assert "2,000 tokens · no step has a cost, so tokens are shown" in facts(ax)
    total = cumulative_cost(free)
    assert total.get_ylabel() == "tokens so far"
    assert "total 2,000 tokens" in texts(total)
    assert "no step has a cost, so tokens are shown" in facts(total)


@both
def test_neither_cost_nor_tokens(plot: Plot) -> None:
    ax = plot(table(step(0, 0, cost_cents=0.0, tokens=0)))
    assert "no step has a cost or tokens" in texts(*figure(ax).axes)
    draw(ax)


def test_cumulative_cost_is_a_step_line_over_bands_by_type() -> None:
    ax = cumulative_cost(FIVE)
    (line,) = [x for x in ax.lines if x.get_gid() == "total"]
    assert line.get_drawstyle() == "steps-post"
    starts = [date2num(s.timestamp) for s in FIVE]
    assert np.asarray(line.get_xdata()).tolist() == pytest.approx([starts[0], *starts, starts[-1] + 0.5 / 86_400])
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx([0.0, 0.5, 0.5, 1.75, 1.75, 2.0, 2.0])
    bands = [c for c in ax.collections if c.get_gid() == "band"]
    tops = [max(np.asarray(p.vertices)[:, 1].max() for p in band.get_paths()) for band in bands]
    assert tops == pytest.approx([1.75, 2.0])
    legend = ax.get_legend()
    assert legend is not None
    assert legend.get_title().get_text() == "total 2 US cents"
    named = [t.get_text() for t in legend.get_texts()]
    assert named == ["tool_call\n0.25 US cents · 12%", "llm_call\n1.75 US cents · 88%"]
    assert ax.get_ylabel() == "US cents so far"
    assert ax.get_xlabel() == "time (UTC)"


def test_cumulative_cost_folds_all_but_the_dearest_types() -> None:
    ax = cumulative_cost(table(*(step(i, i, step_type=f"type {i}", cost_cents=float(i + 1)) for i in range(17))))
    legend = ax.get_legend()
    assert legend is not None
    names = [t.get_text().split("\n")[0] for t in legend.get_texts()]
    assert names == ["other (11 types)", *(f"type {i}" for i in range(11, 17))]
    amounts = [float(t.get_text().split("\n")[1].split()[0]) for t in legend.get_texts()]
    assert sum(amounts) == pytest.approx(153.0)
    assert legend.get_title().get_text() == "total 153.00 US cents"


def test_the_same_type_has_the_same_colour_in_both_plots() -> None:
    ax, total = timeline(bundle(FIVE, 3)), cumulative_cost(FIVE)
    lane = lanes(ax).index("llm_call")
    (bars,) = collections(ax, "steps")
    in_lane = {c for p, c in zip(bars.get_paths(), face_colors(bars), strict=True)
               if round(float(np.asarray(p.vertices)[:, 1].mean())) == lane}  # fmt: skip
    bands = [c for c in total.collections if c.get_gid() == "band"]
    assert in_lane == set(face_colors(bands[0]))


def test_the_line_of_many_steps_is_thinned_and_keeps_its_total() -> None:
    steps = many(20_000)
    (line,) = [x for x in cumulative_cost(steps).lines if x.get_gid() == "total"]
    values = np.asarray(line.get_ydata())
    assert len(values) <= 2_100
    assert values[-1] == pytest.approx(steps.sums["cost_cents"])
    assert (np.diff(values) >= 0).all()
