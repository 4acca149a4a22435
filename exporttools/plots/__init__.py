"""Snapshots and frames, drawn: the only room that knows matplotlib. No database and no file may come in here.

Every function takes data and an optional ``ax``, returns the Axes, names units, marks the violation, draws text from
the data as harmless text, and says when a limit cut the data.

===================  ==============================================================
``step_data``        a bundle, table or frame -> arrays to draw
``time_axis``        UTC ticks for microseconds as for years; long pauses cut short
``captions``         figures, titles, facts and the violation's mark
``lanes``            :func:`timeline`
``stacks``           :func:`cumulative_cost`
===================  ==============================================================
"""

from __future__ import annotations

from exporttools.plots.lanes import timeline
from exporttools.plots.stacks import cumulative_cost

__all__ = ["cumulative_cost", "timeline"]
