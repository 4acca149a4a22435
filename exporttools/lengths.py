"""Lengths of time as users write them."""

from __future__ import annotations

import datetime as dt
import re

from exporttools.errors import ConfigError
from exporttools.inert import one_line

_UNITS_S = {"min": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse_length(name: str, text: str) -> dt.timedelta:
    """A length of time as users write it: ``30min``, ``6h``, ``1d``, ``1w``.

    Raises
    ------
    ConfigError
        Anything else.

    Examples
    --------
    >>> parse_length("window", "6h")
    datetime.timedelta(seconds=21600)
    """
    match = re.fullmatch(r"([0-9]{1,6})(min|h|d|w)", text) if isinstance(text, str) else None
    if match is None:
        raise ConfigError(f"{name} is {one_line(repr(text), 60)}; accepted are such as '30min', '6h', '1d' and '1w'")
    return dt.timedelta(seconds=int(match[1]) * _UNITS_S[match[2]])
