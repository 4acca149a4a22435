"""Sessions of the Codex CLI: rollouts, JSON lines below ``~/.codex/sessions`` and ``archived_sessions``, a file a session.

Codex writes how many tokens the session has used so far, so that a call's tokens are the difference from the total before.
A fork and a subagent have a file of their own. It may begin with a copy of the parent's lines, with new times, and its
total may go on from the parent's: what the file has used itself begins with its first own turn.
"""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from exporttools.importing.events import (
    End,
    Event,
    Note,
    Rejected,
    Repeated,
    Session,
    Step,
    Usage,
    content_hash,
    texts_of,
)
from exporttools.importing.formats import Format
from exporttools.importing.json_records import Records, microseconds, number_of, text_of
from exporttools.importing.source_files import SourceFile
from exporttools.times import SECOND_US

NAME = "codex"
_ENVELOPES = ("session_meta", "turn_context", "event_msg", "response_item", "compacted", "world_state")
_SUBAGENT_TOOL = "spawn_agent"
_REQUEST = "## My request for Codex:"
_NOT_PROMPTS = ("<", "# AGENTS.md instructions")

_COUNTED = (
    "input_tokens",
    "cached_input_tokens",
    "cache_write_input_tokens",
    "output_tokens",
    "reasoning_output_tokens",
)
"""What a total is made of. The second and third are parts of the first, the last is a part of the one before."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
_UUID_OF_TIME = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_CWD = re.compile(r"<cwd>([^<]+)</cwd>")
_HEADING = re.compile(r"(?:Chunk ID|Exit code|Wall time|Process exited with code)\b")
_EXIT_CODE = re.compile(r"^(?:Process exited with code|Exit code:) (-?[0-9]{1,10})", re.MULTILINE)
_WALL_TIME = re.compile(r"^Wall time:? ([0-9]{1,9}(?:\.[0-9]{1,9})?) seconds", re.MULTILINE)


def recognises(value: dict[str, Any]) -> bool:
    """Whether an object is a line of a rollout, or one of the first lines of those of before there were envelopes."""
    if isinstance(value.get("payload"), dict):
        return value.get("type") in _ENVELOPES and "timestamp" in value
    return value.get("record_type") == "state" or (_is_old_heading(value) and "instructions" in value)


def events(records: Records, source: SourceFile) -> Iterator[Event]:
    """What the lines of a file say."""
    return _Reading(records, source).events()


CODEX = Format(NAME, "Codex", recognises, events)


@dataclass(slots=True)
class _Answer:
    """What the model has answered since tokens were counted last."""

    start_us: int
    end_us: int
    texts: list[str] = field(default_factory=list)
    tools: list[Step] = field(default_factory=list)


@dataclass(slots=True)
class _Outcome:
    """How a tool's call went, as an event or its output says."""

    failed: bool = False
    error: str | None = None
    took_us: int | None = None


class _Reading:
    """One file. Keeps the total so far, the answer that is not counted yet, and the calls of tools without an output."""

    def __init__(self, records: Records, source: SourceFile) -> None:
        self._records = records
        name = text_of(source.path.name.partition(".")[0]) or NAME
        uuid = _UUID.search(name)
        self._session = Session(uuid[0] if uuid else name, agent_id=NAME)
        self._created_us: int | None = None
        self._has_heading = self._has_begun = self._is_copied = self._has_envelopes = False
        self._line_us: int | None = None
        self._now_us: int | None = None
        self._asked_us: int | None = None
        self._model: str | None = None
        self._provider: str | None = None
        self._total = [0] * len(_COUNTED)
        self._epoch = 0
        self._answer: _Answer | None = None
        self._open: dict[str | None, tuple[str, int]] = {}
        self._outcomes: dict[str | None, _Outcome] = {}
        self._calls: Counter[str] = Counter()

    def events(self) -> Iterator[Event]:
        number = 0
        for record in self._records:
            number = record.number
            kind, payload = self._unwrapped(record.value)
            self._tell_time(record.value, kind, payload)
            if self._is_copied and not self._is_own_turn(kind, payload):
                yield Repeated(number)
                self._inherit(kind, payload)
            else:
                self._is_copied = False
                self._live()
                yield from self._said(number, kind, payload)
        yield from self._let_go(number)
        if number:
            yield self._session

    # A line, its time, and whether it is a copy

    def _unwrapped(self, line: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """A line's kind and what it says. Lines of before there were envelopes are items, below a heading."""
        payload = line.get("payload")
        kind = line.get("type")
        if isinstance(payload, dict) and isinstance(kind, str):
            self._has_envelopes = True
            return kind, payload
        if _is_old_heading(line):
            return "session_meta", line
        return ("response_item", line) if "payload" not in line else ("", {})

    def _tell_time(self, line: dict[str, Any], kind: str, payload: dict[str, Any]) -> None:
        self._line_us = microseconds(line.get("timestamp"))
        if self._line_us is None and kind == "session_meta":
            self._line_us = microseconds(payload.get("timestamp"))
        if self._line_us is not None:
            self._now_us = self._line_us

    def _live(self) -> None:
        """Note that the session was at work at the line's time. Copied lines have times, but not of work of its own."""
        session, now_us = self._session, self._line_us
        if now_us is None:
            return
        if session.started_us is None or now_us < session.started_us:
            session.started_us = now_us
        if session.ended_us is None or now_us > session.ended_us:
            session.ended_us = now_us

    def _is_own_turn(self, kind: str, payload: dict[str, Any]) -> bool:
        """Whether a line begins a turn that is not a copy.

        Copied lines have the time of the copying, however long that took, so their own times tell nothing. But a turn's id
        says when it began, as the session's says when that was made; where ids do not, the turn's start in seconds does.
        """
        if kind != "turn_context" and not (kind == "event_msg" and payload.get("type") == "task_started"):
            return False
        turn_ms, session_ms = _made_ms(payload.get("turn_id")), _made_ms(self._session.session_id)
        if turn_ms is not None and session_ms is not None:
            return turn_ms >= session_ms
        started_s = number_of(payload.get("started_at"))
        if started_s is None or self._created_us is None:
            return False
        return started_s >= self._created_us // SECOND_US  # the turn's start is in whole seconds

    def _inherit(self, kind: str, payload: dict[str, Any]) -> None:
        """Take over from a copied line what the fork goes on from: the model and the total."""
        if kind == "turn_context":
            self._model = text_of(payload.get("model")) or self._model
        elif kind == "event_msg" and payload.get("type") == "token_count":
            told = _inside(payload, "info", "total_token_usage")
            if isinstance(told, dict):
                self._total = self._total_as(told)

    # What the session has said itself

    def _said(self, number: int, kind: str, payload: dict[str, Any]) -> Iterator[Event]:
        if kind == "session_meta":
            return self._heading(number, payload)
        self._has_begun = True
        what = payload.get("type")
        if kind == "turn_context":
            self._model = text_of(payload.get("model")) or self._model
        elif kind == "compacted":
            return self._compacted(number)
        elif kind == "event_msg" and isinstance(what, str):
            return self._happened(number, what, payload)
        elif kind == "response_item" and isinstance(what, str):
            return self._item(number, what, payload)
        return iter(())

    def _heading(self, number: int, meta: dict[str, Any]) -> Iterator[Event]:
        """The session's heading. The first in a file is its own; a parent's below it says that the history is copied."""
        session, id_ = self._session, text_of(meta.get("id"))
        if self._has_begun:  # keys have been made: the file was torn, or the session goes on
            return
        if self._has_heading:
            if id_ and id_ != session.session_id:
                session.parent_session_id = session.parent_session_id or id_
                self._is_copied = True
                yield Repeated(number)
            return
        self._has_heading = True
        session.session_id = id_ or session.session_id
        spawn = _inside(meta, "source", "subagent", "thread_spawn")
        spawned_by = text_of(_inside(spawn, "parent_thread_id"))
        forked_from = text_of(meta.get("forked_from_id"))
        session.parent_session_id = spawned_by or forked_from or text_of(meta.get("parent_thread_id")) or None
        self._is_copied = bool(forked_from) or isinstance(spawn, dict)
        self._created_us = microseconds(meta.get("timestamp")) or self._now_us
        self._provider = text_of(meta.get("model_provider"))
        session.cwd, session.agent_version = text_of(meta.get("cwd")), text_of(meta.get("cli_version"))
        session.git_branch = text_of(_inside(meta, "git", "branch"))

    def _happened(self, number: int, what: str, payload: dict[str, Any]) -> Iterator[Event]:
        if what == "token_count":
            yield from self._counted(number, payload)
        elif what == "task_started":
            yield from self._let_go(number)
            self._asked_us = self._now_us
            self._session.termination_reason = None
        elif what == "turn_aborted":
            if payload.get("reason") == "interrupted":
                self._session.termination_reason = "user_abort"
        elif what == "error":
            yield from self._failed(number, payload)
        elif what == "user_message":
            self._asked(payload.get("message"), is_prompt=True)
        elif what == "item_completed":
            if _inside(payload, "item", "type") == "UserMessage":
                self._asked(_inside(payload, "item", "content"), is_prompt=True)
        elif what.endswith("_end") and (call_id := text_of(payload.get("call_id"))) in self._open:
            self._outcomes[call_id] = _outcome_of_event(payload)

    def _item(self, number: int, what: str, item: dict[str, Any]) -> Iterator[Event]:
        """A line of the conversation. All items called calls are tools' calls, of kinds that are yet to come too."""
        if what == "message" and item.get("role") == "user":
            self._asked(item.get("content"), is_prompt=False)
        elif what == "reasoning" or (what == "message" and item.get("role") == "assistant"):
            answer = self._answering()
            if answer is not None and what == "message":
                answer.texts += texts_of(item.get("content"))
        elif what.endswith("_call"):
            yield from self._called(number, what.removesuffix("_call"), item)
        elif what.endswith("_output"):
            yield from self._returned(number, item)

    def _asked(self, content: object, *, is_prompt: bool) -> None:
        """A message of the user, or a text that Codex itself has put among them, which is told by how it begins."""
        self._asked_us = self._now_us
        session = self._session
        if session.cwd is None or session.goal is None:
            text = text_of(_raw_text(content)) or ""
            if session.cwd is None and (cwd := _CWD.search(text)):
                session.cwd = cwd[1]
            if session.goal is None and (is_prompt or not text.startswith(_NOT_PROMPTS)):
                session.goal = (text.partition(_REQUEST)[2] or text).strip() or None

    # Calls of the model

    def _answering(self) -> _Answer | None:
        """The answer that a line at this time is part of; None before any time is known."""
        now_us = self._now_us
        if now_us is None:
            return None
        if self._answer is None:
            asked_us = now_us if self._asked_us is None else min(self._asked_us, now_us)
            self._answer = _Answer(asked_us, now_us)
        self._answer.end_us = max(self._answer.end_us, now_us)
        return self._answer

    def _counted(self, number: int, payload: dict[str, Any]) -> Iterator[Event]:
        """A total. What it has grown by is a call; a total that has not grown is written again, with other news."""
        told = _inside(payload, "info", "total_token_usage")
        if not isinstance(told, dict):
            return
        total, before = self._total_as(told), self._total
        if total == before:
            yield Repeated(number)
            return
        # A total falls where its counter was set to zero: by another process, or because the context window was full.
        fell = any(map(operator.lt, total, before))
        used = total if fell else list(map(operator.sub, total, before))
        if any(used) and self._now_us is None:  # it stays uncounted, and the next total has it too
            yield Rejected(number, "a count of tokens without a time, before any line with one")
            return
        self._total, self._epoch = total, self._epoch + fell
        # In a copy of the session, such as an archived one, the same calls lead to the same totals.
        key = self._key(self._epoch, "/".join(map(str, total)))
        if fell:
            yield Note(number, "falls of the running total, after which it counts from zero", key=key)
        if any(used):
            yield from self._call(number, key, used)
            last = _inside(payload, "info", "last_token_usage")
            if isinstance(last, dict) and _exceeds(used, last):
                yield Note(
                    number, "calls with the tokens of others in them, whose own count was never written", key=key
                )

    def _total_as(self, told: dict[str, Any]) -> list[int]:
        """A total as told. What is missing or not a number has not moved, as far as is known: the next total makes up for it."""
        total = []
        for name, before in zip(_COUNTED, self._total, strict=True):
            value, stated = self._records.number(told, name), told.get(name)
            total.append(value if value or (type(stated) is int and stated == 0) else before)
        return total

    def _call(self, number: int, key: str, used: list[int]) -> Iterator[Event]:
        """The call that has used these tokens, and the tools that its answer has called.

        The count is written after the tools have ended; the call itself was over when its last line was written.
        """
        answer, self._answer = self._answer or self._answering(), None
        assert answer is not None
        self._asked_us = max(self._asked_us or answer.end_us, answer.end_us)
        input_tokens, read, written, output, reasoning = used
        read = min(read, input_tokens)
        usage = Usage(
            input_tokens,
            output,
            cache_read_tokens=read,
            cache_write_tokens=min(written, input_tokens - read),
            reasoning_tokens=min(reasoning, output),
        )
        yield Step(
            number, key, self._session.session_id, "llm_call", answer.start_us, answer.end_us,
            name=self._model, model=self._model, provider=self._provider, usage=usage,
            content_hash=content_hash("llm_call", self._model, answer.texts) if answer.texts else None,
        )  # fmt: skip
        for tool in answer.tools:
            tool.parent = key
            yield tool

    def _let_go(self, number: int) -> Iterator[Event]:
        """Give up waiting for the count of an answer: its turn is over, or the file."""
        answer, self._answer = self._answer, None
        if answer is not None:
            yield from answer.tools
            if self._has_envelopes:
                yield Note(number, "answers whose tokens were not written", key=self._key("uncounted", number))
            else:
                yield Note(number, "sessions of an old version, which wrote no tokens", key=self._key())

    def _failed(self, number: int, payload: dict[str, Any]) -> Iterator[Event]:
        """A call that came to nothing. Whatever it has used is in no count of its own."""
        now_us = self._now_us
        if now_us is None:
            yield Rejected(number, "an error without a time, before any line with one")
            return
        self._session.termination_reason = "error"
        start_us = now_us if self._asked_us is None else min(self._asked_us, now_us)
        yield Step(
            number, self._key("error", number), self._session.session_id, "llm_call", start_us, now_us,
            name=self._model, model=self._model, provider=self._provider,
            status="error", error=text_of(payload.get("message")),
        )  # fmt: skip
        self._asked_us = now_us

    def _compacted(self, number: int) -> Iterator[Event]:
        """The conversation was summed up to make room."""
        if self._now_us is None:
            yield Rejected(number, "a compaction without a time, before any line with one")
            return
        key = self._key("compaction", number)
        yield Step(
            number, key, self._session.session_id, "memory", self._now_us, self._now_us, name="compaction"
        )  # fmt: skip
        yield Note(number, "compactions, whose own tokens may be in no count", key=key)

    # Calls of tools

    def _called(self, number: int, kind: str, item: dict[str, Any]) -> Iterator[Event]:
        """A call of a tool, which waits for the count of the answer that it is part of."""
        call_id = text_of(item.get("call_id")) or None
        if call_id in self._open:
            yield Repeated(number)
            return
        answer, now_us = self._answering(), self._now_us
        if answer is None or now_us is None:
            yield Rejected(number, "a tool's call without a time, before any line with one")
            return
        own = call_id or text_of(item.get("id")) or str(number)
        self._calls[own] += 1
        # Some models number the calls of each answer from the same number on.
        key = self._key("tool", own, *([self._calls[own]] if self._calls[own] > 1 else []))
        name = "".join(text_of(item.get(part)) or "" for part in ("namespace", "name")) or text_of(kind)
        step_type = "agent" if item.get("name") == _SUBAGENT_TOOL else "tool_call"
        step = Step(
            number, key, self._session.session_id, step_type, now_us,
            name=name, status="unfinished", content_hash=content_hash(step_type, name, _asked_of(item)),
        )  # fmt: skip
        if call_id is not None:
            self._open[call_id] = key, now_us
        else:  # a tool at the model's side: the line is written when it has ended
            step.end_us, step.status = now_us, "error" if item.get("status") in ("failed", "incomplete") else "ok"
        answer.tools.append(step)
        if kind == "web_search":
            yield Note(number, "web searches, which cost extra and are not in the cost", key=key)

    def _returned(self, number: int, item: dict[str, Any]) -> Iterator[Event]:
        """A tool's output. The model is asked again with it."""
        self._asked_us = self._now_us
        call_id = text_of(item.get("call_id"))
        if call_id not in self._open:
            return
        key, start_us = self._open.pop(call_id)
        said, told = self._outcomes.pop(call_id, _Outcome()), _outcome_of_output(item)
        took_us = told.took_us if said.took_us is None else said.took_us
        end_us = start_us + took_us if self._line_us is None and took_us is not None else self._line_us
        failed = told.failed or said.failed
        yield End(number, key, end_us, "error" if failed else "ok", told.error or said.error)

    def _key(self, *parts: object) -> str:
        return ":".join(map(str, (NAME, self._session.session_id, *parts)))


def _is_old_heading(line: dict[str, Any]) -> bool:
    return "type" not in line and "payload" not in line and isinstance(line.get("id"), str) and "timestamp" in line


def _inside(value: object, *names: str) -> object:
    """What stands in an object under these names, one inside the other; None if there is nothing."""
    for name in names:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _made_ms(id_: object) -> int | None:
    """When a UUID of version 7 was made, in milliseconds since 1970 (RFC 9562 §5.7); None for any other id."""
    match = _UUID_OF_TIME.fullmatch(id_) if isinstance(id_, str) else None
    return None if match is None else int(match[1] + match[2], 16)


def _exceeds(used: list[int], last: dict[str, Any]) -> bool:
    """Whether more was used than by the last call alone."""
    return any(type(last.get(name)) is int and last[name] < now for name, now in zip(_COUNTED, used, strict=True))


def _asked_of(item: dict[str, Any]) -> object:
    """What a tool was asked: arguments are JSON in a text, which may be written in several ways."""
    asked = next((item[name] for name in ("arguments", "input", "action") if name in item), None)
    return _parsed(asked) if isinstance(asked, str) and "arguments" in item else asked


def _outcome_of_event(payload: dict[str, Any]) -> _Outcome:
    """How a call went by the event at its end: a command's exit code, a patch's success, or a result that is an error."""
    result = payload.get("result")
    refused = _inside(result, "Err")
    failed = (
        bool(number_of(payload.get("exit_code")))
        or payload.get("success") is False
        or refused is not None
        or any(_inside(result, "Ok", name) is True for name in ("is_error", "isError"))
    )
    error = (text_of(refused) or text_of(payload.get("stderr")) or None) if failed else None
    seconds, nanos = (number_of(_inside(payload, "duration", name)) for name in ("secs", "nanos"))
    return _Outcome(failed, error, _length_us(seconds, nanos))


def _outcome_of_output(item: dict[str, Any]) -> _Outcome:
    """How a call went by its output: by lines above the output proper, or by metadata beside it.

    Only these are looked at: a command may well print an exit code that is not its own.
    """
    output = item.get("output")
    success = _inside(output, "success") if isinstance(output, dict) else item.get("success")
    if isinstance(output, dict):
        text, metadata = _raw_text(output.get("content", output.get("output"))), output.get("metadata")
    else:
        text, metadata = _raw_text(output), None
    if text.startswith("{") and '"metadata"' in text:
        stated = _parsed(text)
        metadata, printed = _inside(stated, "metadata"), _inside(stated, "output")
        text = printed if isinstance(printed, str) else text
    exit_code, seconds = (number_of(_inside(metadata, name)) for name in ("exit_code", "duration_seconds"))
    if _HEADING.match(text):
        heading, _, printed_text = text.partition("\nOutput:")
        code, wall = _EXIT_CODE.search(heading), _WALL_TIME.search(heading)
        if code:
            exit_code, text = float(code[1]), printed_text
        seconds = float(wall[1]) if wall else seconds
    failed = success is False or bool(exit_code)
    error = None
    if failed:
        error = (
            text_of(": ".join(filter(None, [f"exit code {exit_code:.0f}" if exit_code else "", text.strip()]))) or None
        )
    return _Outcome(failed, error, _length_us(seconds))


def _raw_text(content: object) -> str:
    return "\n".join(texts_of(content)) if isinstance(content, (str, list)) else ""


def _parsed(text: str) -> object:
    """The JSON in a text; the text itself if it is not JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _length_us(seconds: float | None, nanoseconds: float | None = None) -> int | None:
    """A length of time in microseconds; None for one that is less than nothing or longer than a year."""
    if seconds is None or not 0 <= seconds < 366 * 86_400:
        return None
    part_us = round(nanoseconds / 1000) if nanoseconds is not None and 0 <= nanoseconds < 1e9 else 0
    return round(seconds * SECOND_US) + part_us
