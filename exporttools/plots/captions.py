"""What surrounds the data in all plots: figure, title, facts, the violation. Text from the data is made inert here."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.transforms import ScaledTranslation

from exporttools.text.inert import plot_text
from exporttools.text.words import amount_text, plural
from exporttools.times import DAY_US, duration_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.text import Text

    from exporttools.plots.step_data import StepData

VIOLATION_COLOR = "#C8102E"
_BASIC_LETTERS = 0x250
_GENERIC_FAMILIES = ("serif", "sans-serif", "sans serif", "sans", "cursive", "fantasy", "monospace")


def new_axes(height: float) -> Axes:
    """Make an Axes in a figure of its own, known to pyplot so that a notebook shows it after the cell."""
    import matplotlib.pyplot as plt

    return plt.figure(figsize=(10, height), layout="constrained").add_subplot()


def label_text(text: object, width: int = 40) -> str:
    """Untrusted text as a label: inert, and without letters that the fonts lack (matplotlib warns of each)."""
    shown = plot_text(text, width)
    if all(ord(letter) < _BASIC_LETTERS for letter in shown):
        return shown
    families = mpl.rcParams["font.family"]
    fonts = [get_font(path) for path in _font_paths(tuple(families), tuple(mpl.rcParams["font.sans-serif"]))]
    return "".join(
        letter if ord(letter) < _BASIC_LETTERS or any(font.get_char_index(ord(letter)) for font in fonts) else "�"
        for letter in shown
    )


@cache
def _font_paths(families: tuple[str, ...], sans_serif: tuple[str, ...]) -> tuple[str, ...]:  # noqa: ARG001
    """The files of the fonts that matplotlib uses: the families by name, or else its default."""
    paths = []
    for family in families:
        if family in _GENERIC_FAMILIES:
            paths.append(findfont(FontProperties(family=[family])))
            continue
        try:
            paths.append(findfont(FontProperties(family=[family]), fallback_to_default=False))
        except ValueError:
            continue
    return tuple(map(str, paths)) or (str(findfont(FontProperties())),)


def count_text(count: int, total: int | None) -> str:
    """How many steps are drawn, and of how many if a limit cut them."""
    if total is not None:
        return f"first {count:,} of {total:,} steps"
    return plural(count, "step") if count else "no steps"


def number_text(value: float, _position: int | None = None) -> str:
    """A tick's number, grouped by thousands and as short as possible."""
    return f"{value:,.12g}" if abs(value) < 1e12 else f"{value:.4g}"


def write_heading(ax: Axes, steps: StepData, title: str | None, *, failed: str = "") -> None:
    """Write the title and below it one line of facts, both above `ax`, with room for the violation's label.

    Parameters
    ----------
    failed : str
        How failed steps are drawn.
    """
    measure, amounts = steps.spent
    facts = [count_text(len(steps), steps.total)]
    if len(steps):
        count = int(steps.failed.sum())
        facts += [f"{count:,} failed" + (f" ({failed})" if failed else "")] if count else []
        facts += [
            duration_text((steps.end.max() - steps.start[0]) * DAY_US),
            amount_text(float(amounts.sum()), measure.unit),
        ]
        facts += measure.facts
    shown = title if title is not None else steps.title
    write_lines(ax, facts, shown, cut=steps.total is not None, above=16.0 if steps.violation else 5.0)


def write_lines(
    ax: Axes,
    facts: Sequence[str],
    title: str | None,
    *,
    more: Sequence[str] = (),
    cut: bool,
    above: float = 5.0,
    until: Axes | None = None,
) -> None:
    """Write one line of facts `above` points over `ax`, bold if a limit `cut` the data, the title over it, and under it `more` lines.

    They are cut to the width of `ax`, or may extend over the panels to its right up to `until`.
    """
    weight = "bold" if cut else "normal"
    written: list[Text] = []
    for text in (*reversed(more), " · ".join(facts)):
        lifted = ax.transAxes + ScaledTranslation(0, above / 72, ax.figure.dpi_scale_trans)
        line = ax.text(
            0, 1, "", transform=lifted, va="bottom", fontsize="small", weight=weight, usetex=False, gid="facts"
        )
        _fit(line, text, ax, until)
        written.append(line)
        above += 14
    if title:
        heading = ax.set_title("", loc="left", pad=above, fontsize="medium", weight="bold", usetex=False)
        _fit(heading, title, ax, until)
        written.append(heading)
    if until is not None:  # what extends over panels to the right takes height, but must not push them away
        lifted = ax.transAxes + ScaledTranslation(0, above / 72, ax.figure.dpi_scale_trans)
        ax.text(0, 1, " ", transform=lifted, va="bottom", fontsize="medium", usetex=False)
        for artist in written:
            artist.set_in_layout(False)


def _fit(artist: Text, text: str, ax: Axes, until: Axes | None) -> None:
    """Set an artist's text, cut to the width of its Axes, which may be narrow."""
    room = (until or ax).get_window_extent().x1 - ax.get_window_extent().x0
    letters = 200
    for _ in range(4):
        artist.set_text(label_text(text, letters))
        width = artist.get_window_extent().width
        if width <= room or letters <= 8:
            return
        letters = max(8, int(min(letters, len(text)) * room / width))


def mark_violation(panels: Sequence[Axes], steps: StepData) -> None:
    """Draw a dashed line through all panels at the violation, and its label above the first."""
    violation = steps.violation
    if violation is None:
        return
    top = panels[0]
    lift = ScaledTranslation(0, 3 / 72, top.figure.dpi_scale_trans)
    look: dict[str, Any] = {
        "va": "bottom", "fontsize": "small", "color": VIOLATION_COLOR, "weight": "bold", "usetex": False,
        "gid": "violation",
    }  # fmt: skip
    if violation.time is None:
        top.text(0, 1, label_text(violation.label, 90), transform=top.transAxes + lift, **look)
        return
    for panel in panels:
        panel.axvline(violation.time, color=VIOLATION_COLOR, linestyle="--", linewidth=1.1, zorder=4, gid="violation")
    place = top.transAxes.inverted().transform(top.transData.transform((violation.time, 0)))[0]
    side = "left" if place < 0.5 else "right"
    text = label_text(violation.label, 90)
    top.text(violation.time, 1, text, transform=top.get_xaxis_transform() + lift, ha=side, **look)


def write_nothing_spent(ax: Axes) -> None:
    """Write in an empty panel that there is nothing to add up."""
    ax.text(0.5, 0.5, "no step has a cost or tokens", transform=ax.transAxes, ha="center", va="center", usetex=False)
    ax.set_yticks([])


def write_no_data(ax: Axes, text: str = "no steps") -> None:
    """Write in an empty plot why it is empty."""
    ax.set(xticks=[], yticks=[])
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize="large", usetex=False)


def write_empty(ax: Axes, steps: StepData, title: str | None, ylabel: str) -> Axes:
    """Make it a labelled plot without steps that says so."""
    write_heading(ax, steps, title)
    mark_violation([ax], steps)
    ax.set(xlabel="time (UTC)", ylabel=ylabel)
    write_no_data(ax)
    return ax
