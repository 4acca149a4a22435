"""Plots of snapshots and frames: the only room that knows matplotlib. No database and no file may come in here.

Every function takes data and an optional ``ax``, returns the Axes, names units, marks the violation, draws text from
the data as harmless text, and says if a limit cut the data.

===================  ==============================================================
``step_data``        a bundle, table or frame -> arrays to draw
``time_axis``        UTC ticks from microseconds to years; long pauses shortened
``captions``         figures, titles, facts and the violation's mark
``lanes``            :func:`timeline`
``stacks``           :func:`cumulative_cost`
``measures``         US cents, or tokens if no step has a cost
``results``          data for the analysis; its results -> Arrow
``panels``           several panels in the place of one Axes
``breakdown``        :func:`cost_breakdown`
``periods``          :func:`cost_over_time`
``side_by_side``     :func:`compare_runs`
``unusual``          :func:`anomalies`
``waterfall``        :func:`what_changed`
===================  ==============================================================
"""

from __future__ import annotations

from exporttools.plots.breakdown import cost_breakdown
from exporttools.plots.lanes import timeline
from exporttools.plots.periods import cost_over_time
from exporttools.plots.side_by_side import compare_runs
from exporttools.plots.stacks import cumulative_cost
from exporttools.plots.unusual import anomalies
from exporttools.plots.waterfall import what_changed

__all__ = [
    "anomalies",
    "compare_runs",
    "cost_breakdown",
    "cost_over_time",
    "cumulative_cost",
    "timeline",
    "what_changed",
]
