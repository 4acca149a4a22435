"""Records out of JSON lines and JSON documents, whatever a crash, an editor or another program has left in them.

Every line is accounted for: it is a record, blank, or rejected with a reason. What a record means is for the formats to say.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson

from exporttools.importing.events import Rejected
from exporttools.text.inert import one_line
from exporttools.times import epoch_us, parse_utc

LONGEST_LINE_BYTES = 256 << 20
"""The longest line, and the largest document, that is read: a whole record is in memory at once."""

MOST_USELESS = 10_000_000
"""How many lines may be blank or rejected: a small packed file can hold billions, which no agent has written."""

_MOST_TOKENS = 10**11
"""What no session has used. Sums of more would not fit where they are added up."""

_REASONS_KEPT = 1_000
"""Of how many records that cannot be read it is kept why: a file may hold millions of them."""

_NAMED = {list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false", type(None): "null"}


@dataclass(slots=True)
class Record:
    """One record of a file.

    Attributes
    ----------
    number : int
        From 1: the line's number, or the element's in a document.
    value : dict
        The JSON object.
    """

    number: int
    value: dict[str, Any]


class Records:
    """The records of a file, one after another.

    Parameters
    ----------
    stream : binary file
    elements : str or None
        For a document: the member that holds its records. None for JSON lines.

    Attributes
    ----------
    header : dict
        The document without its records; empty for JSON lines.
    last : int
        The number of the last record that was read so far, blank lines included.
    bad_numbers : int
        How many values of :meth:`number` were not numbers of tokens.
    rejected : list of Rejected
        The first of those that cannot be read.
    rejected_besides : array of int
        The numbers of the others.
    blank : int
        How many lines are blank.

    Raises
    ------
    OSError
        While they are read: they cannot be, or almost nothing in the file is a record.
    """

    def __init__(self, stream: BinaryIO, elements: str | None = None) -> None:
        self._stream, self._elements = stream, elements
        self.header: dict[str, Any] = {}
        self.last = self.bad_numbers = self.blank = 0
        self.rejected: list[Rejected] = []
        self.rejected_besides = array("Q")
        if elements is not None:
            document = whole_document(stream)
            listed = document.pop(elements, None)
            self.header, self._listed = document, listed if isinstance(listed, list) else []

    def __iter__(self) -> Iterator[Record]:
        return self.more(self._listed) if self._elements is not None else self._lines()

    def more(self, elements: Sequence[Any]) -> Iterator[Record]:
        """Further elements of a document, numbered on from those before."""
        for element in elements:
            self.last += 1
            if isinstance(element, dict):
                yield Record(self.last, element)
            else:
                self.reject(self.last, f"expected an object; found {_NAMED[type(element)]}")

    def _lines(self) -> Iterator[Record]:
        number, readline, loads = 0, self._stream.readline, orjson.loads
        while line := readline(LONGEST_LINE_BYTES):
            self.last = number = number + 1
            if line == b"\n":  # a file may hold millions of them, and an exception for each would take minutes
                self._pass_over()
                continue
            if len(line) == LONGEST_LINE_BYTES:
                while line and not line.endswith(b"\n"):
                    line = readline(LONGEST_LINE_BYTES)
                self.reject(number, f"longer than {LONGEST_LINE_BYTES >> 20} MiB")
                continue
            try:
                value = loads(line)
            except orjson.JSONDecodeError:
                line = _without_leftovers(line, first=number == 1)
                if not line:
                    self._pass_over()
                    continue
                try:
                    value = _lenient(line)
                except (ValueError, RecursionError) as error:
                    why = _why(error) if line.endswith(b"\n") else "the file ends in the middle of it"
                    self.reject(number, f"not valid JSON: {why}")
                    continue
            if isinstance(value, dict):
                yield Record(number, value)
            else:
                self.reject(number, f"expected an object; found {_NAMED[type(value)]}")

    def reject(self, number: int, reason: str) -> None:
        """Note that a record cannot be read."""
        if len(self.rejected) < _REASONS_KEPT:
            self.rejected.append(Rejected(number, reason))
        else:
            self.rejected_besides.append(number)
            self._require_use()

    def _pass_over(self) -> None:
        self.blank += 1
        self._require_use()

    def _require_use(self) -> None:
        if self.blank + len(self.rejected_besides) > MOST_USELESS:
            raise OSError(f"more than {MOST_USELESS:,} of its lines are blank or not JSON objects")

    def number(self, values: dict[str, Any], name: str) -> int:
        """The number of tokens of that name; 0 where it is missing, null, or not a number of tokens, which is counted.

        Examples
        --------
        >>> import io
        >>> records = Records(io.BytesIO())
        >>> records.number({"input_tokens": 12}, "input_tokens"), records.number({"input_tokens": "12"}, "input_tokens")
        (12, 0)
        >>> records.bad_numbers
        1
        """
        value = values.get(name)
        if type(value) is int and 0 <= value < _MOST_TOKENS:
            return value
        if value is not None:
            self.bad_numbers += 1
        return 0


def whole_document(stream: BinaryIO) -> dict[str, Any]:
    """Read a file that is one JSON object.

    Raises
    ------
    ValueError
        It is not; says where and why.
    """
    content = stream.read(LONGEST_LINE_BYTES + 1)
    if len(content) > LONGEST_LINE_BYTES:
        raise ValueError(f"the document is larger than {LONGEST_LINE_BYTES >> 20} MiB")
    document = parsed(_without_leftovers(content, first=True))
    if not isinstance(document, dict):
        raise ValueError(f"expected an object; found {_NAMED[type(document)]}")  # noqa: TRY004
    return document


def parsed(content: bytes) -> Any:
    """Parse JSON, strict or as JavaScript writes it.

    Raises
    ------
    ValueError, RecursionError
        It is not JSON, or nested too deeply.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return _lenient(content)


def number_of(value: object) -> float | None:
    """A number of JSON as a float, or None for anything else, and for one beyond 2**53, which nobody means."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not -(2**53) <= value <= 2**53:
        return None
    return float(value)


def text_of(value: object) -> str | None:
    """A text of JSON that a database can store: halves of surrogate pairs and NULs are replaced. None for anything else."""
    if not isinstance(value, str):
        return None
    if "\0" in value:
        value = value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return _paired(value)


def microseconds(value: object) -> int | None:
    """A time of JSON, ISO 8601 in a text, in microseconds since 1970; None for anything else.

    Examples
    --------
    >>> microseconds("1970-01-01T00:00:01.500Z")
    1500000
    """
    if not isinstance(value, str):
        return None
    try:
        return epoch_us(parse_utc(value))
    except (ValueError, OverflowError):
        return None


def _without_leftovers(content: bytes, *, first: bool) -> bytes:
    """Without the byte order mark of an editor, and the NULs that a crash leaves at either end."""
    if first:
        content = content.removeprefix(b"\xef\xbb\xbf")
    torn = not content.endswith(b"\n")
    content = content.strip(b"\0 \t\r\n")
    return content if torn or not content else content + b"\n"


def _lenient(content: bytes) -> Any:
    """JSON as Python reads it: NaN and large integers are allowed, and halves of surrogate pairs, which are replaced."""
    return _whole(json.loads(content.decode("utf-8-sig", "surrogatepass")))


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return _paired(value)
    if isinstance(value, list):
        return [_whole(element) for element in value]
    if isinstance(value, dict):
        return {_whole(name): _whole(element) for name, element in value.items()}
    return value


def _paired(text: str) -> str:
    """A text without halves of surrogate pairs, which no file and no database takes."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        byte = len(error.doc[: error.pos].encode("utf-8", "surrogatepass")) + 1  # the position counts characters
        return f"{error.msg.removesuffix(' at')} at byte {byte}"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start + 1}"
    return one_line(error, 100) or "nested too deeply"
