"""Which steps of a frame failed, as an expression that every kind of frame evaluates itself. The rule is that of the records."""

from __future__ import annotations

from typing import Any

import narwhals as nw

from exporttools.analysis.frames import Frame
from exporttools.records.statuses import BLANKS, FAILED_STATUSES, JOINTS, STATUS_PREFIX, failed_words


def failed(frame: Frame, status: str = "status") -> Any:
    """The Narwhals expression for whether each step failed, by a column of text; NULL where that is NULL.

    It says the same as :func:`exporttools.records.statuses.failed_steps` says of Arrow arrays, and computes nothing of a lazy frame.

    Examples
    --------
    >>> import polars as pl
    >>> from exporttools.analysis.frames import read
    >>> steps = read(pl.LazyFrame({"status": ["ok", " Error", "STATUS_CODE_ERROR"]}), {})
    >>> steps.data.select(failed(steps)).collect()["status"].to_list()
    [False, True, True]
    """
    value = nw.col(status).cast(nw.String)
    if isinstance(frame.data, nw.DataFrame):  # far cheaper than to rewrite every value: there are few different ones
        words = failed_words(frame.data.select(value)[status].unique().to_arrow())
        return value.is_in(words or sorted(FAILED_STATUSES))  # pyarrow takes no list without a type
    word = value.str.strip_chars(BLANKS).str.to_lowercase()
    for joint in JOINTS:
        word = word.str.replace_all(joint, "_", literal=True)
    # A list twice as long, and no regular expression, which engines understand in their own ways.
    return word.is_in([prefix + word for prefix in ("", STATUS_PREFIX) for word in sorted(FAILED_STATUSES)])
