"""JSON from strangers, read strictly: what two readers could take for two things is refused. Knows no bundle.

RFC 8259 leaves open what a key given twice means (§4), how large a number may be (§6), how deep a text may nest (§9)
and what a lone surrogate is (§8.2). Here each of them is an error, always a ValueError that says so in a few words.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from exporttools.text.inert import one_line

# A string, as a whole and even where it never ends (possessive: no text makes this look at a character twice), or a
# character between strings that gives the text its structure.
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{},]', re.DOTALL)

# Each `[],` is three bytes of text and over sixty of memory: 16 MiB of it would take 450 MB.
MAX_TOKENS = 200_000


def parse_object(
    data: bytes, *, max_bytes: int, max_depth: int = 16, max_tokens: int | None = MAX_TOKENS
) -> dict[str, Any]:
    r"""The JSON object that a file holds.

    Parameters
    ----------
    data : bytes
        UTF-8 without a byte order mark.
    max_bytes : int
        How long `data` may be.
    max_depth : int
        How many objects and arrays may lie in each other, the outermost included.
    max_tokens : int, optional
        How many strings, brackets and commas there may be; None: as many as fit.

    Returns
    -------
    dict
        Its text can be encoded as UTF-8, its floats are finite, its integers have as many digits as Python converts
        (``sys.get_int_max_str_digits``).

    Raises
    ------
    ValueError
        Anything else.

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
    _check_structure(text, max_depth, max_tokens)
    value = json.loads(
        text, object_pairs_hook=_without_duplicates, parse_float=_finite, parse_constant=_refuse_constant
    )
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__}")  # noqa: TRY004
    _check_surrogates(value)
    return value


def same(a: Any, b: Any) -> bool:
    """Whether two JSON values are the same; 1, 1.0 and true are three different ones.

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


def _check_structure(text: str, max_depth: int, max_tokens: int | None) -> None:
    """Before anything is built: a deep value would exhaust the stack of whoever walks it, a wide one the memory."""
    depth = 0
    for count, token in enumerate(_STRUCTURE.finditer(text), start=1):
        depth += (token[0] in "[{") - (token[0] in "]}")
        if depth > max_depth:
            raise ValueError(f"JSON of more than {max_depth} levels")
        if max_tokens is not None and count > max_tokens:
            raise ValueError(f"JSON of more than {max_tokens:,} texts, brackets and commas")


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


def _check_surrogates(value: dict[str, Any]) -> None:
    r"""An escape (``\ud800``) can stand for half a character, which can be neither hashed nor printed."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"half a character, \\u{ord(error.object[error.start]):04x}, in a text") from None
