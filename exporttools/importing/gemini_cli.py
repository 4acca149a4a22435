"""Sessions of Gemini CLI, below ``~/.gemini/tmp/<project>/chats``: JSON lines, in older versions one JSON object.

A message is written again when something is added to it, such as the results of its tools, and all messages again when the
history is rewritten. The message's id tells that they are one call. What the user has taken back stays in the lines and was
paid for; the older form forgets it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from exporttools.importing.events import (
    End,
    Event,
    Note,
    Rejected,
    Session,
    Started,
    Step,
    Usage,
    content_hash,
    texts_of,
)
from exporttools.importing.formats import Format
from exporttools.importing.json_records import Records, microseconds, text_of
from exporttools.importing.source_files import SourceFile

NAME = "gemini-cli"
_MADE_UP = "answers that the agent made up itself, without a call"
_WITHOUT_TOKENS = "answers without tokens, cut short: what they used is in no file"
_WITHOUT_STEPS = ("user", "info", "warning")
_KINDS = ("gemini", "error", *_WITHOUT_STEPS)
_STATUSES = {"success": "ok", "error": "error", "cancelled": "error"}
_CANCELLED = "Request cancelled"
_API_ERROR = "[API Error"
# Commands, and what the agent puts into the conversation in the user's name.
_NOT_PROMPTS = ("/", "?", "<session_context>", "<hook_context>", "<state_snapshot>", "<scratchpad>")


def recognises(value: dict[str, Any]) -> bool:
    """Whether an object is a session or its header, a change to it, or a message."""
    if "$set" in value or "$rewindTo" in value or ("sessionId" in value and "projectHash" in value):
        return True
    return value.get("type") in _KINDS and all(name in value for name in ("id", "timestamp", "content"))


def events(records: Records, source: SourceFile) -> Iterator[Event]:
    """What the messages of a file say."""
    return _Reading(records, source).events()


GEMINI_CLI = Format(NAME, "Gemini CLI", recognises, events, elements="messages")


class _Reading:
    """One file. Keeps which messages it has seen, and when the conversation last went on."""

    def __init__(self, records: Records, source: SourceFile) -> None:
        self._records, self._folder = records, source.path.parent
        self._name = text_of(source.path.name.partition(".")[0]) or NAME
        self._sessions: dict[str, Session] = {}
        self._session = Session(self._name, agent_id=NAME)
        self._agent: str | None = None
        self._seen: set[str] = set()
        self._without_tokens: dict[str, tuple[int, bool]] = {}
        self._now_us: int | None = None
        self._before_us: int | None = None

    def events(self) -> Iterator[Event]:
        if self._records.header:
            self._open(self._records.header)
        for record in self._records:
            number, value = record.number, record.value
            changes = value.get("$set")
            if isinstance(changes, dict):
                yield from self._rewritten(number, changes)
            elif "$rewindTo" in value:
                yield Note(number, "rewinds; what they took back was paid for and counts")
            elif "type" not in value and "sessionId" in value:
                self._open(value)
                yield from self._messages(number, value.get("messages"))
            else:
                yield from self._message(number, value, 0)
        for key, (number, made_up) in self._without_tokens.items():
            yield Note(number, _MADE_UP if made_up else _WITHOUT_TOKENS, key=key)
        yield from self._sessions.values()

    def _open(self, header: dict[str, Any]) -> None:
        """Note whose messages follow. A subagent's file lies in a folder that is called like its session."""
        own = text_of(header.get("sessionId")) or self._session.session_id
        session_id, self._agent = own, None
        if header.get("kind") == "subagent":
            folder = text_of(self._folder.name) if self._folder.parent.name == "chats" else None
            session_id, self._agent = (folder, own) if folder else (own, self._name)
        self._session = Session(session_id, agent_id=NAME, is_main=self._agent is None)
        self._session = self._sessions.setdefault(session_id, self._session)
        directories = header.get("directories")
        if (
            self._agent is not None and isinstance(directories, list) and directories
        ):  # a session's are what it has added
            self._session.cwd = text_of(directories[0])
        self._at(header.get("startTime"))

    def _at(self, timestamp: object) -> int | None:
        """Note a time of the session. Returns it, or the last one where there is none."""
        moment_us, session = microseconds(timestamp), self._session
        if moment_us is None:
            return self._now_us
        self._now_us = moment_us
        session.started_us = moment_us if session.started_us is None else min(session.started_us, moment_us)
        session.ended_us = moment_us if session.ended_us is None else max(session.ended_us, moment_us)
        return moment_us

    def _rewritten(self, number: int, changes: dict[str, Any]) -> Iterator[Event]:
        """Changed settings, or the whole history once more. One that was summed up has new messages, which nobody answered."""
        known = len(self._without_tokens)
        yield from self._messages(number, changes.get("messages"))
        if len(self._without_tokens) > known:
            yield Note(number, "histories that were summed up, by a call that is in no file")

    def _messages(self, number: int, messages: object) -> Iterator[Event]:
        for position, message in enumerate(messages if isinstance(messages, list) else ()):
            if isinstance(message, dict):
                yield from self._message(number, message, position)

    def _message(self, number: int, message: dict[str, Any], position: int) -> Iterator[Event]:
        """A message, or a copy of one; copies change nothing in what follows them."""
        kind, id_ = message.get("type"), text_of(message.get("id"))
        if kind not in _KINDS:
            return
        session = self._sessions.setdefault(self._session.session_id, self._session)
        key = f"{NAME}:{session.session_id}:{id_ or f'{number}.{position}'}"
        is_new = key not in self._seen
        if not is_new and kind in _WITHOUT_STEPS:
            return
        self._seen.add(key)
        at_us = self._at(message.get("timestamp"))
        content = message.get("displayContent") or message.get("content")
        texts = texts_of([content] if isinstance(content, dict) else content)
        if kind == "gemini":
            yield from self._answer(number, key, message, texts, at_us, is_new=is_new)
        elif kind == "error" and texts and texts[0].startswith(_API_ERROR):
            yield from self._failure(number, key, texts[0], at_us, is_new=is_new)
        elif kind == "user":
            self._prompt("".join(texts).strip())
            self._before_us = at_us
        elif kind == "info" and texts and texts[0].startswith(_CANCELLED):
            self._ends_with("user_abort")

    def _prompt(self, text: str) -> None:
        """Note the session's goal. The results of tools are messages of the user too, without text."""
        if text and self._agent is None and not text.startswith(_NOT_PROMPTS):
            self._session.goal = self._session.goal or text_of(text)
            self._session.termination_reason = None

    def _ends_with(self, reason: str | None) -> None:
        if self._agent is None:
            self._session.termination_reason = reason

    def _started_us(self, end_us: int, *, is_new: bool) -> int:
        """When a call started: when what it answers was written. A copy stands behind what came later, and cannot tell."""
        return min(self._before_us, end_us) if is_new and self._before_us is not None else end_us

    def _answer(
        self, number: int, key: str, message: dict[str, Any], texts: list[str], end_us: int | None, *, is_new: bool
    ) -> Iterator[Event]:
        """The call that a message answers, and the calls of tools in it."""
        if end_us is None:
            yield Rejected(number, "an answer without a time, before any message with one")
            return
        model, tokens = text_of(message.get("model")), message.get("tokens")
        start_us = self._started_us(end_us, is_new=is_new)
        if is_new:
            self._before_us = end_us
            self._ends_with(None)
        if isinstance(tokens, dict):
            usage = self._usage(tokens)
            self._without_tokens.pop(key, None)
            if tokens.get("total") is not None and self._records.number(tokens, "total") != usage.tokens:
                yield Note(number, "answers whose kinds of tokens, which count, do not add up to their total", key=key)
        else:
            usage = Usage()
            if is_new:
                self._without_tokens[key] = (number, model is None)
        said = [text for text in texts if text.strip()] if is_new else []
        yield Step(
            number, key, self._session.session_id, "llm_call", start_us, end_us,
            name=model, model=model, provider="google", usage=usage,
            content_hash=content_hash("llm_call", model, said) if said else None,
            agent=self._agent, rank=int(self._agent is not None),
        )  # fmt: skip
        calls = message.get("toolCalls")
        for position, call in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(call, dict):
                yield from self._tool(number, key, call, position, end_us)

    def _usage(self, tokens: dict[str, Any]) -> Usage:
        """The tokens of an answer. Its input includes what caches had, and not what tools of the API read; nor its output thoughts."""
        number = self._records.number
        read, thoughts = number(tokens, "cached"), number(tokens, "thoughts")
        input_tokens = number(tokens, "input") + number(tokens, "tool")
        return Usage(
            input_tokens, number(tokens, "output") + thoughts, min(read, input_tokens), reasoning_tokens=thoughts
        )

    def _tool(self, number: int, answer: str, call: dict[str, Any], position: int, start_us: int) -> Iterator[Event]:
        """A call of a tool. It is written down when it is over, with the time of that."""
        id_, name, agent = text_of(call.get("id")), text_of(call.get("name")), text_of(call.get("agentId"))
        key = f"{NAME}:{self._session.session_id}:tool:{id_}" if id_ else f"{answer}:{position}"
        is_new = key not in self._seen
        self._seen.add(key)
        kind = "agent" if agent else "tool_call"
        yield Step(
            number, key, self._session.session_id, kind, start_us,
            name=name, status="unfinished", parent=answer, agent=self._agent, rank=int(self._agent is not None),
            content_hash=content_hash(kind, name, call.get("args")) if is_new else None,
        )  # fmt: skip
        if agent:
            yield Started(key, agent)
        status = _STATUSES.get(text_of(call.get("status")) or "")
        if status is not None:
            end_us = microseconds(call.get("timestamp"))
            if is_new and end_us is not None:
                self._before_us = max(self._before_us or end_us, end_us)
            yield End(number, key, end_us, status, _error_of(call) if status == "error" else None)

    def _failure(self, number: int, key: str, text: str, end_us: int | None, *, is_new: bool) -> Iterator[Event]:
        """A call that the API refused. It has no tokens. Other errors are of the agent's own commands."""
        if end_us is None:
            yield Rejected(number, "an error without a time, before any message with one")
            return
        if is_new:
            self._ends_with("error")
        yield Step(
            number, key, self._session.session_id, "llm_call", self._started_us(end_us, is_new=is_new), end_us,
            provider="google", status="error", error=text_of(text),
            agent=self._agent, rank=int(self._agent is not None),
        )  # fmt: skip


def _error_of(call: dict[str, Any]) -> str | None:
    """What the model was told of a tool that failed, or else what the user was shown."""
    results = call.get("result")
    for part in results if isinstance(results, list) else ():
        response = part.get("functionResponse") if isinstance(part, dict) else None
        told = response.get("response") if isinstance(response, dict) else None
        error = text_of(told.get("error")) if isinstance(told, dict) else None
        if error:
            return error
    return text_of(call.get("resultDisplay"))
