"""Finds the files that ship with the package, in an installed wheel or in a checkout. Reads nothing."""

from __future__ import annotations

from pathlib import Path

from exporttools.errors import ConfigError

_PACKAGE = Path(__file__).parents[1]


def resource(relative: str) -> Path:
    """Return the path of a file or folder that ships with the package, such as ``notebooks/investigate_incident.ipynb``.

    Raises
    ------
    ConfigError
        It is missing from this installation.
    """
    places = (_PACKAGE / "_resources" / relative, _PACKAGE.parent / relative)
    for place in places:
        if place.exists():
            return place
    raise ConfigError(
        f"{relative} is missing from this installation; looked in {' and '.join(map(str, places))}. Reinstall exporttools."
    )
