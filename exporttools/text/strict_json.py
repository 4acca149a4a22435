"""Untrusted JSON, parsed strictly: what two readers could read in two ways is refused. Knows no bundle.

RFC 8259 leaves open what a duplicate key means (§4), how large a number may be (§6), how deeply values may nest (§9)
and what a lone surrogate is (§8.2). Here each of them is a ValueError with a short message.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from exporttools.text.inert import one_line

# A whole string, terminated or not (possessive: no character is ever looked at twice), or a structural character
# between strings.
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{},]', re.DOTALL)

# `[],` is three bytes of text and over sixty in memory: 16 MiB of it would take 450 MB.
MAX_TOKENS = 200_000


def parse_object(
    data: bytes, *, max_bytes: int, max_depth: int = 16, max_tokens: int | None = MAX_TOKENS
) -> dict[str, Any]:
    r"""Parse the one JSON object in a file.

    Parameters
    ----------
    data : bytes
        UTF-8 without a byte order mark.
    max_bytes : int
        The maximum length of `data`.
    max_depth : int
        The maximum nesting depth of objects and arrays, the outermost included.
    max_tokens : int, optional
        The maximum number of strings, brackets and commas, or None for no limit.

    Returns
    -------
    dict
        Its text can be encoded as UTF-8, its floats are finite, and its integers have no more digits than Python
        converts (``sys.get_int_max_str_digits``).

    Raises
    ------
    ValueError
        `data` is not such an object.

    Examples
    --------
    >>> parse_object(b'{"rows": 1}', max_bytes=1000)
    {'rows': 1}
    >>> parse_object(b'{"rows": 1, "rows": 2}', max_bytes=1000)
    Traceback (most recent call last):
    ValueError: the key 'rows' twice
    """
    if len(data) > max_bytes:
        raise ValueError(f"{len(data):,} bytes of JSON; at most {max_bytes:,} are read")
    text = data.decode("utf-8")
    _require_bounded(text, max_depth, max_tokens)
    value = json.loads(
        text, object_pairs_hook=_without_duplicates, parse_float=_finite, parse_constant=_refuse_constant
    )
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__}")  # noqa: TRY004
    _require_encodable(value)
    return value


def same(a: Any, b: Any) -> bool:
    """Return whether two JSON values are the same. 1, 1.0 and true are three different values.

    Examples
    --------
    >>> same({"rows": [1, None]}, {"rows": [1, None]})
    True
    >>> same(1, 1.0), same(1, True), 1 == 1.0 == True
    (False, False, True)
    """
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def _require_bounded(text: str, max_depth: int, max_tokens: int | None) -> None:
    """Called before parsing: a deep value would exhaust the stack of whoever walks it, a wide one the memory."""
    depth = 0
    for count, token in enumerate(_STRUCTURE.finditer(text), start=1):
        depth += (token[0] in "[{") - (token[0] in "]}")
        if depth > max_depth:
            raise ValueError(f"JSON of more than {max_depth} levels")
        if max_tokens is not None and count > max_tokens:
            raise ValueError(f"JSON of more than {max_tokens:,} strings, brackets and commas")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {one_line(repr(key), 80)} twice")
        found[key] = value
    return found


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse_constant(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"the number {one_line(name, 40)}")


def _require_encodable(value: dict[str, Any]) -> None:
    r"""An escape such as ``\ud800`` can be a lone surrogate, which can be neither hashed nor printed."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"a lone surrogate, \\u{ord(error.object[error.start]):04x}, in a string") from None
