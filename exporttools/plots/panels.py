"""Several panels in the place of one Axes, which becomes the first of them. Nothing is drawn here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.gridspec import GridSpec, GridSpecFromSubplotSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.gridspec import GridSpecBase


def split(ax: Axes, heights: Sequence[float], columns: Sequence[int], *, wspace: float = 0.03) -> list[Axes]:
    """Divide the place of `ax` into rows, and each row into columns of equal width.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Becomes the first panel of the first row. The rest of its figure is not touched.
    heights : sequence of float
        The relative heights of the rows.
    columns : sequence of int
        The number of panels in each row.

    Returns
    -------
    list of matplotlib.axes.Axes
        Row by row, from left to right.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> panels = split(ax, [2.0, 1.0], [2, 1])
    >>> len(panels), panels[0] is ax
    (3, True)
    """
    figure = ax.get_figure()
    assert figure is not None
    current = figure.gca()
    place = ax.get_subplotspec()
    rows: GridSpecBase
    if place is not None:
        rows = GridSpecFromSubplotSpec(len(heights), 1, place, height_ratios=heights, hspace=0.12)
    else:  # an Axes placed by hand, which no layout engine may move
        box = ax.get_position()
        rows = GridSpec(
            len(heights), 1, height_ratios=heights, hspace=0.5, left=box.x0, right=box.x1, bottom=box.y0, top=box.y1
        )
    panels: list[Axes] = []
    for row, count in enumerate(columns):
        for cell in GridSpecFromSubplotSpec(1, count, rows[row], wspace=wspace):  # type: ignore[attr-defined]
            if place is not None and not panels:
                ax.set_subplotspec(cell)
            elif not panels:
                ax.set_position(cell.get_position(figure))
            elif place is not None:
                panels.append(figure.add_subplot(cell))
                continue
            else:
                panels.append(figure.add_axes(cell.get_position(figure)))
                continue
            panels.append(ax)
    # New panels became the current Axes, where the user's next pyplot call would draw.
    figure.sca(current)
    return panels
