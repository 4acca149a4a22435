"""What a format says about a file: sessions, and steps as they begin, are repeated and end. The same for every format.

A format's module reads records and yields these events. What they add up to (which copy counts, order, parents, prices,
hashes, incidents) is decided once for all formats, elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import orjson


class Fate(IntEnum):
    """What became of a record. Where several things are said in one record, the greatest of their fates is the record's."""

    METADATA = 0
    """It holds no usage and no call: a prompt, a setting, a title, a line of progress."""
    COPY = 1
    """All that it holds is counted in another record."""
    COUNTED = 2
    """It begins, ends or pays for a step."""
    REJECTED = 3
    """It cannot be read."""


@dataclass(slots=True)
class Usage:
    """The tokens of one call.

    Attributes
    ----------
    input_tokens, output_tokens : int
        All that was read, from caches and into caches included; all that was written, reasoning included.
    cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, reasoning_tokens : int
        Parts of these: read from a cache; written to caches of any age; of that, to those that are kept for an hour; and
        the part of the output that was reasoning.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Tokens in and out."""
        return self.input_tokens + self.output_tokens


@dataclass(slots=True)
class Session:
    """What a file says about a session, which becomes a run with one trace. Several files may each say something.

    Attributes
    ----------
    session_id : str
        The run's id, the same in all files of the session.
    started_us, ended_us : int or None
        The first and the last time in the file, in microseconds since 1970.
    agent_id, goal, termination_reason : str or None
        As in :class:`exporttools.RunSnapshot`.
    is_main : bool
        Whether the file is the session's own, and not one of its subagents': what it says goes first.
    parent_session_id : str or None
        The session that this one was forked or started from.
    cwd, git_branch, agent_version : str or None
    """

    session_id: str
    started_us: int | None = None
    ended_us: int | None = None
    agent_id: str | None = None
    goal: str | None = None
    termination_reason: str | None = None
    is_main: bool = True
    parent_session_id: str | None = None
    cwd: str | None = None
    git_branch: str | None = None
    agent_version: str | None = None


@dataclass(slots=True)
class Step:
    """A step, or a copy of one: steps with one key are one step, in whichever files they stand.

    Attributes
    ----------
    record : int
        The record's number in its file, from 1: the line, or the element of a document.
    key : str
        What identifies the step in all files that are read together.
    session_id : str
    step_type : str
        ``llm_call``, ``tool_call``, ``agent``, ``memory``.
    start_us : int
        When it started, in microseconds since 1970.
    end_us : int or None
        When it ended; None if that is not known (yet): see :class:`End`.
    name, model, provider : str or None
    usage : Usage or None
        Of copies, the greatest counts.
    status : str
        ``ok``, ``error`` or ``unfinished``.
    error : str or None
    content_hash : str or None
        See :func:`content_hash`.
    parent : str or None
        The key of the step that this one is part of.
    agent : str or None
        The subagent that took it; None for the session's own.
    rank : int
        Which of several copies is the step's own, least first: 0 in the main thread, 1 in a subagent's, 2 and more for
        copies that are known to be copies.
    is_lower_bound : bool
        Whether the usage was written before the call had ended.
    cost_usd : float or None
        The cost that the file itself states.
    cost_basis : str or None
        What that cost rests on, where it is an estimate and no bill.
    tier : str or None
        The service tier, where it is not the standard one.
    """

    record: int
    key: str
    session_id: str
    step_type: str
    start_us: int
    end_us: int | None = None
    name: str | None = None
    model: str | None = None
    provider: str | None = None
    usage: Usage | None = None
    status: str = "ok"
    error: str | None = None
    content_hash: str | None = None
    parent: str | None = None
    agent: str | None = None
    rank: int = 0
    is_lower_bound: bool = False
    cost_usd: float | None = None
    cost_basis: str | None = None
    tier: str | None = None


@dataclass(slots=True)
class End:
    """The end of a step, which may have begun in an earlier record. An end without a step is metadata.

    Attributes
    ----------
    record : int
    key : str
    end_us : int or None
    status : str or None
        The step's status from now on; None to leave it.
    error : str or None
    """

    record: int
    key: str
    end_us: int | None = None
    status: str | None = None
    error: str | None = None


@dataclass(slots=True)
class Started:
    """A step has started a subagent, whose steps without a parent of their own are part of it.

    Attributes
    ----------
    key : str
        The step's.
    agent : str
        As in :attr:`Step.agent`, or what stands there before a slash.
    """

    key: str
    agent: str


@dataclass(slots=True)
class Repeated:
    """A record that repeats what another file, or an earlier record, has said: a parent's history, a total once more."""

    record: int


@dataclass(slots=True)
class Note:
    """Something that a person who checks the bill should know of, counted by its words.

    Attributes
    ----------
    record : int
    what : str
        A phrase that reads well after a number: ``answers after refused attempts``.
    count : int
    key : str or None
        The step that it is about: copies of it are counted once.
    """

    record: int
    what: str
    count: int = 1
    key: str | None = None


@dataclass(slots=True)
class Rejected:
    """A record that cannot be read.

    Attributes
    ----------
    record : int
    reason : str
        What was expected and found, in words.
    """

    record: int
    reason: str


Event = Session | Step | End | Started | Repeated | Note | Rejected


def content_hash(*asked: object) -> str | None:
    """Return the digest of what was asked: equal digests are repeated calls. Pass no ids and no times.

    Parameters
    ----------
    *asked
        For a tool its type, name and input; for a call its type, model and messages.

    Returns
    -------
    str or None
        SHA-256 in hexadecimal, over JSON with sorted keys. None if what was asked is nested too deeply to be written.

    Examples
    --------
    >>> content_hash("tool_call", "Bash", {"a": 1, "b": 2}) == content_hash("tool_call", "Bash", {"b": 2, "a": 1})
    True
    """
    try:
        canonical = orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        if "Recursion" in str(error):  # its own limit: Python's depends on who asks
            return None
        # Lone surrogates and integers of more than 64 bits, which are legal in these files.
        try:
            canonical = json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()
        except RecursionError:
            return None
    return hashlib.sha256(canonical).hexdigest()


def texts_of(content: str | Sequence[Any] | None) -> list[str]:
    """The texts of a message, which is a text or a list of blocks.

    Examples
    --------
    >>> texts_of([{"type": "text", "text": "hello"}, {"type": "image"}])
    ['hello']
    """
    if isinstance(content, str):
        return [content]
    texts: list[str] = []
    for block in content if isinstance(content, list) else ():
        text = block.get("text") if isinstance(block, dict) else block
        if isinstance(text, str):
            texts.append(text)
    return texts
