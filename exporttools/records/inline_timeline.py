"""A small timeline as SVG, for a bundle's repr, where a whole plot would be too much. No script.

Its size is bounded whatever the number of steps, and it takes its colours from the page, light or dark.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from exporttools.records.statuses import failed_steps
from exporttools.text.inert import html_text
from exporttools.text.words import plural
from exporttools.times import LATEST, epoch_us, from_epoch_us

_LANES = 6
_BINS = 200
_LEFT, _WIDTH, _LANE, _FOOT = 130, 640, 17, 20
_VIOLATION = "#C8102E"


def timeline_svg(steps: pa.Table, violation_step_index: int | None = None) -> str:
    """Draw steps on a time axis: a lane for each of the most common step types, and a tick above the bar where a step failed.

    Parameters
    ----------
    steps : pyarrow.Table
        Valid steps, as in a SnapshotTable.
    violation_step_index : int, optional
        The step to mark.

    Returns
    -------
    str
        An ``svg`` element, or an empty string without steps.

    Examples
    --------
    >>> from exporttools import SnapshotTable, TraceStepSnapshot
    >>> timeline_svg(SnapshotTable.empty(TraceStepSnapshot).to_arrow())
    ''
    """
    if not len(steps):
        return ""
    start_us = steps["timestamp"].cast(pa.int64()).to_numpy()
    begin_us = int(start_us.min())
    # A duration may be any finite number; a time axis cannot be that long.
    end_us = start_us + np.minimum(steps["duration_ms"].to_numpy() * 1000, 1e17)
    span_us = max(float(end_us.max()) - begin_us, 1.0)
    first = np.minimum(((start_us - begin_us) / span_us * _BINS).astype(np.int64), _BINS - 1)
    last = np.clip(np.ceil((end_us - begin_us) / span_us * _BINS).astype(np.int64), first + 1, _BINS)
    failed = failed_steps(steps["status"]).to_numpy()
    lane, names = _lanes(steps["step_type"])
    parts = []
    for number, name in enumerate(names):
        mine = lane == number
        y = number * _LANE
        parts.append(f"<text x='{_LEFT - 6}' y='{y + 12}' text-anchor='end'>{html_text(name, 20)}</text>")
        parts.append(_bars(_stretches(first[mine], last[mine]), y + 5, 9, 0.55))
        if failed[mine].any():
            parts.append(_bars(_stretches(first[mine & failed], first[mine & failed] + 1), y + 1, 3, 1.0))
    height = len(names) * _LANE
    at = (
        -1
        if violation_step_index is None
        else pc.index(steps["step_index"], pa.scalar(violation_step_index, pa.int64())).as_py()
    )
    if at >= 0:
        x = _x((start_us[at] - begin_us) / span_us * _BINS)
        parts.append(
            f"<line x1='{x}' x2='{x}' y1='0' y2='{height}' stroke='{_VIOLATION}' stroke-width='1.5' stroke-dasharray='4 2'>"
            f"<title>violation: step {violation_step_index:,}</title></line>"
        )
    ends = (begin_us, int(min(begin_us + span_us, epoch_us(LATEST))))
    low, high = map(from_epoch_us, ends)
    precision = "milliseconds" if span_us < 10_000_000 else "seconds"
    until = high.isoformat(" ", precision)[:-6]
    until = until[11:] if low.date() == high.date() else until
    said = f"{failed.sum():,} of {plural(len(steps), 'step')} failed{' (ticks)' if failed.any() else ''}"
    parts.append(f"<text x='{_LEFT}' y='{height + 14}'>{low.isoformat(' ', precision)[:-6]} UTC</text>")
    parts.append(f"<text x='{_LEFT + _WIDTH / 2}' y='{height + 14}' text-anchor='middle'>{said}</text>")
    parts.append(f"<text x='{_LEFT + _WIDTH}' y='{height + 14}' text-anchor='end'>{until}</text>")
    return (
        f"<svg role='img' aria-label='timeline' viewBox='0 0 {_LEFT + _WIDTH} {height + _FOOT}' width='100%' "
        f"style='max-width:{_LEFT + _WIDTH}px;display:block' font-size='11' font-family='sans-serif' fill='currentColor'>"
        f"{''.join(parts)}</svg>"
    )


def _lanes(step_types: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    """The lane of each step, and the lanes' names in order of appearance. Rare types share the last lane."""
    encoded = step_types.combine_chunks().dictionary_encode()
    code = encoded.indices.to_numpy().astype(np.int64)
    names = encoded.dictionary.to_pylist()
    if len(names) <= _LANES:
        return code, names
    commonest = np.sort(np.argsort(-np.bincount(code), kind="stable")[: _LANES - 1])
    lane = np.full(len(names), _LANES - 1)
    lane[commonest] = np.arange(len(commonest))
    return lane[code], [*(names[i] for i in commonest), f"other ({len(names) - len(commonest):,})"]


def _stretches(first: NDArray[np.int64], last: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The union of the half-open ranges of bins [first, last): sorted, with touching ranges merged."""
    edges = np.bincount(first, minlength=_BINS + 1) - np.bincount(last, minlength=_BINS + 1)
    covered = np.r_[0, (np.cumsum(edges)[:_BINS] > 0).astype(np.int8), 0]
    change = np.diff(covered)
    return list(zip(np.flatnonzero(change == 1).tolist(), np.flatnonzero(change == -1).tolist(), strict=True))


def _x(place: float) -> str:
    return f"{_LEFT + place / _BINS * _WIDTH:.1f}"


def _bars(stretches: list[tuple[int, int]], y: int, height: int, opacity: float) -> str:
    """All bars of a lane as one path."""
    drawn = "".join(
        f"M{_x(first)} {y}h{max((last - first) / _BINS * _WIDTH, 1.2):.1f}v{height}H{_x(first)}z"
        for first, last in stretches
    )
    return f"<path d='{drawn}' fill-opacity='{opacity}'/>"
