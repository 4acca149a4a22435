"""A time axis in UTC that reads well from microseconds to years, and shortens long pauses."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.dates import date2num
from matplotlib.ticker import Formatter, Locator

from exporttools.times import DAY_US, SECOND_US, duration_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from exporttools.analysis.groups import Floats

# The distances between ticks and the widths of bins: units in which people count time.
STEPS_US: tuple[int, ...] = (
    *(digit * int(10**power) for power in range(6) for digit in (1, 2, 5)),
    *(n * SECOND_US for n in (1, 2, 5, 10, 15, 30)),
    *(n * 60 * SECOND_US for n in (1, 2, 5, 10, 15, 30)),
    *(n * 3600 * SECOND_US for n in (1, 2, 3, 6, 12)),
    *(n * DAY_US for n in (1, 2, 7, 14, 28, 91, 182)),
    *(n * 365 * DAY_US for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)),
)

_MAX_PAUSES = 4
_SHORTEST_PAUSE_DAYS = 0.5 / 24
_PAUSE_SHARE = 0.07
_TICKS = 8


def dates(times_us: Any) -> Any:
    """Microseconds since 1970, one or an array, as matplotlib dates: days since its epoch, in float64."""
    return date2num(np.asarray(times_us, np.int64).view("datetime64[us]"))  # type: ignore[no-untyped-call]


def nice_step_us(span_days: float, at_most: int) -> int:
    """The least of :data:`STEPS_US` that divides a span into at most so many parts."""
    wanted = span_days * DAY_US / at_most
    return next((step for step in STEPS_US if step >= wanted), STEPS_US[-1])


def find_pauses(start: Floats, end: Floats) -> list[tuple[float, float]]:
    """The few long stretches without any step that would leave no room for the steps, in order of time.

    Parameters
    ----------
    start, end : array of float
        The start and end of each step, ordered by start; matplotlib dates.
    """
    if len(start) < 2:
        return []
    reached = np.maximum.accumulate(end)
    gaps = start[1:] - reached[:-1]
    longest = np.argsort(-gaps, kind="stable")[:_MAX_PAUSES]
    rest = (reached[-1] - start[0]) - np.cumsum(gaps[longest])
    # A pause is shortened if it is at least three times as long as all that remains, and enough steps remain to look at.
    worth = (gaps[longest] >= 3 * rest) & (gaps[longest] >= _SHORTEST_PAUSE_DAYS)
    worth &= len(start) >= 5 * np.arange(2, len(longest) + 2)
    count = int(np.flatnonzero(worth)[-1]) + 1 if worth.any() else 0
    return [(float(reached[i]), float(start[i + 1])) for i in sorted(longest[:count])]


class PausedTime:
    """The piecewise linear map of an axis on which each pause takes a fixed share of the width."""

    def __init__(self, first: float, last: float, pauses: Sequence[tuple[float, float]]) -> None:
        rest = (last - first) - sum(stop - start for start, stop in pauses)
        # If all is at one instant, a second around it. Else at least what a date's float64 can resolve.
        margin = max(0.03 * rest, 10 / DAY_US) if rest else 0.5 / 86_400
        self.pauses = [(start + margin, stop - margin) for start, stop in pauses]
        self.pause_texts = [f"no steps for {duration_text((stop - start) * DAY_US)}" for start, stop in pauses]
        bounds = [first - margin, *(bound for pause in self.pauses for bound in pause), last + margin]
        widths = np.diff(bounds)
        self.shown_days = float(widths[0::2].sum())
        widths[1::2] = _PAUSE_SHARE * self.shown_days
        places = np.concatenate([[0.0], np.cumsum(widths)])
        far = 1e8  # beyond the plot the map is linear, so that it can be panned and zoomed
        # Lines end with the last step, unless that would leave them no length.
        self.line_end = last if last > first else last + margin
        self.limits = (bounds[0], bounds[-1])
        self._bounds = np.array([bounds[0] - far, *bounds, bounds[-1] + far])
        self._places = np.array([-far, *places, places[-1] + far])

    def forward(self, x: Floats) -> Floats:
        """Dates to places on the axis."""
        return np.asarray(np.interp(x, self._bounds, self._places))

    def inverse(self, u: Floats) -> Floats:
        """Places on the axis to dates."""
        return np.asarray(np.interp(u, self._places, self._bounds))


class _TimeLocator(Locator):
    """Ticks at round UTC times; each side of a pause has its own, and the pause none."""

    def __init__(self, time: PausedTime) -> None:
        self._time = time

    def __call__(self) -> Sequence[float]:
        assert self.axis is not None
        low, high = sorted(self.axis.get_view_interval())
        return self.tick_values(low, high)

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        edges = [vmin, *(min(max(bound, vmin), vmax) for pause in self._time.pauses for bound in pause), vmax]
        stretches = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]
        shown = sum(b - a for a, b in stretches)
        step = nice_step_us(shown, _TICKS)
        epoch = float(dates(0))
        ticks: list[Floats] = []
        for low, high in stretches:
            first, last = math.ceil((low - epoch) * DAY_US / step), math.floor((high - epoch) * DAY_US / step)
            ticks.append(np.arange(first, min(last, first + 50) + 1, dtype=np.float64) * (step / DAY_US) + epoch)
        shown_ticks = np.concatenate(ticks) if ticks else np.empty(0)
        return list(map(float, self._apart(shown_ticks, vmin, vmax)))

    def _apart(self, ticks: Floats, vmin: float, vmax: float) -> Floats:
        """The ticks without those too close to the one before, as happens on both sides of a pause."""
        if not self._time.pauses:
            return ticks
        places = self._time.forward(ticks)
        low, high = self._time.forward(np.array([vmin, vmax]))
        kept: list[int] = []
        for i, place in enumerate(places):
            if not kept or place - places[kept[-1]] >= 0.07 * (high - low):
                kept.append(i)
        return ticks[kept]


class _TimeFormatter(Formatter):
    """Times of day, as precise as the distance of the ticks requires; the date under the first tick and where it changes."""

    def __call__(self, x: float, pos: int | None = None) -> str:  # noqa: ARG002
        return str(_as_datetime(x)).replace("T", " ")

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        times = [_as_datetime(value) for value in values]
        distance = min((int((b - a).astype(np.int64)) for a, b in pairwise(times)), default=0)
        if distance >= DAY_US:
            return [str(time.astype("datetime64[D]")) for time in times]
        digits = 0 if distance >= SECOND_US else 6 if distance % 1000 else 3
        labels: list[str] = []
        seen = None
        for time in times:
            date, clock = str(time).split("T")
            clock = clock[:5] if distance >= 60 * SECOND_US else clock[: 8 + digits + bool(digits)]
            labels.append(clock if date == seen else f"{clock}\n{date}")
            seen = date
        return labels


def _as_datetime(x: float) -> np.datetime64:
    epoch = float(dates(0))
    return np.datetime64(round((x - epoch) * DAY_US), "us")


def set_time_axis(panels: Sequence[Axes], start: Floats, end: Floats) -> PausedTime:
    """Give panels that share their x-axis the same time axis, over all steps, labelled below the last panel."""
    first, last = float(start[0]), float(end.max())
    time = PausedTime(first, last, find_pauses(start, end))
    if time.pauses:
        panels[0].set_xscale("function", functions=(time.forward, time.inverse))
    for panel in panels:
        panel.xaxis.set_major_locator(_TimeLocator(time))
        panel.xaxis.set_major_formatter(_TimeFormatter())
        panel.tick_params(axis="x", labelbottom=panel is panels[-1], labelsize="small")
        for pause in time.pauses:
            panel.axvspan(*pause, color="0.5", alpha=0.18, linewidth=0, zorder=0.5)
    panels[0].set_xlim(*time.limits)
    panels[-1].set_xlabel("time (UTC)", fontsize="small")
    for pause, text in zip(time.pauses, time.pause_texts, strict=True):
        middle = float(time.inverse(time.forward(np.array(pause)).mean()))
        panels[0].text(
            middle, 0.5, text, transform=panels[0].get_xaxis_transform(),
            rotation=90, ha="center", va="center", fontsize="small", usetex=False, gid="pause", zorder=6,
            bbox={"facecolor": panels[0].get_facecolor(), "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
        )  # fmt: skip
    return time
