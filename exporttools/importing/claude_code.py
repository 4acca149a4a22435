"""Sessions of Claude Code: JSON lines below ``~/.claude/projects``, a file a session and a file a subagent.

Every content block of an answer is a line of its own, and each of them repeats the answer's usage; so do the copies that
forks, resumed sessions and lines of progress hold. The answer's ``message.id`` tells that they are one call.
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

NAME = "claude-code"
_AGENT_TOOLS = ("Task", "Agent")
_INTERRUPTED = "[Request interrupted by user"
_NOT_PROMPTS = ("<command-", "<local-command-", "<task-notification>", "<system-reminder>", "<bash-", _INTERRUPTED)
_MAIN, _SIDECHAIN, _PROGRESS = 0, 1, 2

_Bill = tuple[Usage, str | None, list[tuple[str, int]]]
"""What an answer has used, in which tier, and what to note of it."""


def recognises(value: dict[str, Any]) -> bool:
    """Whether an object is a line of a session: a message, an event or a setting, with its session or its place in the chain."""
    if value.get("type") in ("summary", "file-history-snapshot"):
        return "leafUuid" in value or "messageId" in value
    return (
        isinstance(value.get("type"), str)
        and ("sessionId" in value or "parentUuid" in value)
        and "payload" not in value
    )


def events(records: Records, source: SourceFile) -> Iterator[Event]:
    """What the lines of a file say."""
    return _Reading(records, source).events()


CLAUDE_CODE = Format(NAME, "Claude Code", recognises, events)


class _Reading:
    """One file. Keeps what later lines refer to: when each line's prompt was given, and what was said of the session."""

    def __init__(self, records: Records, source: SourceFile) -> None:
        self._records = records
        name = source.path.name.partition(".")[0]
        self._is_main = not name.startswith("agent-")
        folder = source.path.parent.name
        self._workflow = f"{folder}/" if folder.startswith("wf_") else ""
        self._agent_of_file = None if self._is_main else name.removeprefix("agent-")
        self._sessions: dict[str, Session] = {}
        self._session_id = source.path.parent.parent.name if folder == "subagents" else name
        self._session: Session | None = None
        self._prompted_us: dict[str, int] = {}
        self._now_us: int | None = None
        self._started: set[str] = set()
        self._billed: tuple[str, dict[str, Any], _Bill] | None = None
        self._said: list[Event] = []

    def events(self) -> Iterator[Event]:
        said, prompted_us = self._said, self._prompted_us
        for record in self._records:
            number, line = record.number, record.value
            value = line.get
            kind, parent, uuid, before_us = value("type"), value("parentUuid"), value("uuid"), self._now_us
            moment_us = microseconds(value("timestamp"))
            session = self._place(line, moment_us)
            # When the prompt above the line in the chain was given, if that is known.
            prompt_us = prompted_us.get(parent) if isinstance(parent, str) else None
            above_us = moment_us if kind == "user" else prompt_us
            if above_us is not None and isinstance(uuid, str):
                prompted_us[uuid] = above_us
            if kind == "assistant":
                self._answer(number, line, session, moment_us, prompt_us or before_us)
            elif kind == "user":
                if self._results(number, line, moment_us):
                    self._prompt(line, session)
            elif kind == "progress":
                self._progress(number, line, moment_us)
            elif kind == "system":
                self._system(number, line, before_us)
            if said:
                yield from said
                said.clear()
        yield from self._sessions.values()

    def _place(self, line: dict[str, Any], moment_us: int | None) -> Session:
        """The session that a line is of, which goes on until then."""
        session_id, session = line.get("sessionId"), self._session
        if session is None or (session_id != self._session_id and isinstance(session_id, str) and session_id):
            session = self._enter(session_id)
        if moment_us is not None:
            self._now_us = moment_us
            if session.started_us is None or session.ended_us is None:
                session.started_us = session.ended_us = moment_us
            elif moment_us > session.ended_us:
                session.ended_us = moment_us
            elif moment_us < session.started_us:
                session.started_us = moment_us
        if session.cwd is None and "cwd" in line:
            session.cwd, session.git_branch = text_of(line["cwd"]), text_of(line.get("gitBranch")) or None
            session.agent_version = text_of(line.get("version"))
        return session

    def _enter(self, session_id: object) -> Session:
        self._session_id = text_of(session_id) or self._session_id
        known = self._sessions.get(self._session_id)
        if known is None:
            known = self._sessions[self._session_id] = Session(self._session_id, agent_id=NAME, is_main=self._is_main)
        self._session = known
        return known

    def _answer(
        self, number: int, line: dict[str, Any], session: Session, moment_us: int | None, prompt_us: int | None
    ) -> None:
        """A line of an answer in the thread that the file is of."""
        sidechain = not self._is_main or line.get("isSidechain") is True
        message = line.get("message")
        if self._now_us is None:
            self._said.append(Rejected(number, "an answer without a time, before any line with one"))
        elif isinstance(message, dict):
            agent = text_of(line.get("agentId")) or self._agent_of_file if sidechain else None
            end_us, rank = self._now_us if moment_us is None else moment_us, _SIDECHAIN if sidechain else _MAIN
            self._message(number, line, message, end_us, prompt_us, agent and self._workflow + agent, rank)
            if not sidechain:
                session.termination_reason = "error" if line.get("isApiErrorMessage") is True else None

    def _message(
        self,
        number: int,
        line: dict[str, Any],
        message: dict[str, Any],
        end_us: int,
        prompt_us: int | None,
        agent: str | None,
        rank: int,
    ) -> None:
        """The call that a message answers, and the calls of tools in it."""
        said, key = self._said, self._message_key(number, line, message)
        content = message.get("content")
        texts = texts_of(content)
        failed = line.get("isApiErrorMessage") is True
        model = text_of(message.get("model"))
        called = model if model != "<synthetic>" else None
        usage, tier, notes = self._bill(key, message.get("usage"))
        said.append(Step(
            number, key, self._session_id, "llm_call",
            end_us if prompt_us is None or prompt_us > end_us else prompt_us, end_us,
            model, called, "anthropic", usage,
            "error" if failed else "ok", text_of(" ".join(texts)) if failed else None,
            content_hash("llm_call", model, texts) if texts else None,
            None, agent, rank, message.get("stop_reason") is None, tier=tier,
        ))  # fmt: skip
        if model == "<synthetic>":
            said.append(Note(number, "answers that the agent made up itself, without a call", key=key))
        said.extend(Note(number, what, count, key) for what, count in notes)
        for block in content if isinstance(content, list) else ():
            if isinstance(block, dict) and block.get("type") == "tool_use" and isinstance(block.get("id"), str):
                name = text_of(block.get("name"))
                kind = "agent" if name in _AGENT_TOOLS else "tool_call"
                said.append(Step(
                    number, _tool_key(block["id"]), self._session_id, kind, end_us, None,
                    name, None, None, None, "unfinished", None,
                    content_hash(kind, name, block.get("input")), key, agent, rank,
                ))  # fmt: skip

    def _message_key(self, number: int, line: dict[str, Any], message: dict[str, Any]) -> str:
        """The message's id, which no two answers share; else the line's own, which forks keep; else the line."""
        own = message.get("id") or line.get("uuid")
        return f"{NAME}:{own}" if isinstance(own, str) else f"{NAME}:{self._session_id}:{self._agent_of_file}:{number}"

    def _bill(self, key: str, usage: object) -> _Bill:
        """What an answer is billed by. Its further lines mostly repeat the first one's usage, which is read once then."""
        if not isinstance(usage, dict):
            usage = {}
        if self._billed is not None and self._billed[0] == key and self._billed[1] == usage:
            return self._billed[2]
        bad_numbers = self._records.bad_numbers
        bill = self._usage(usage), _tier(usage), self._notes(usage)
        if self._records.bad_numbers == bad_numbers:  # else they are to be counted again
            self._billed = key, usage, bill
        return bill

    def _usage(self, usage: dict[str, Any]) -> Usage:
        """The tokens of a message. Its input does not include what was read from caches or written to them; ours does."""
        number = self._records.number
        read, written = number(usage, "cache_read_input_tokens"), number(usage, "cache_creation_input_tokens")
        split = usage.get("cache_creation")
        written_1h = 0
        if isinstance(split, dict):
            written_1h = number(split, "ephemeral_1h_input_tokens")
            # The split may say less than the total (the rest was kept for five minutes) or, without a total, all of it.
            written = max(written, written_1h + number(split, "ephemeral_5m_input_tokens"))
        details = usage.get("output_tokens_details")
        reasoning = number(details, "thinking_tokens") if isinstance(details, dict) else 0
        output = number(usage, "output_tokens")
        return Usage(
            number(usage, "input_tokens") + read + written, output, read, written, written_1h, min(reasoning, output)
        )

    def _notes(self, usage: dict[str, Any]) -> list[tuple[str, int]]:
        """What else should be known of a bill, and how often."""
        notes = []
        attempts = usage.get("iterations")
        if isinstance(attempts, list) and len(attempts) > 1:
            notes.append(("answers after a refused attempt, whose tokens the agent adds to no total", 1))
        tools = usage.get("server_tool_use")
        searches = self._records.number(tools, "web_search_requests") if isinstance(tools, dict) else 0
        if searches:
            notes.append(("web searches, which cost extra and are not in the cost", searches))
        return notes

    def _results(self, number: int, line: dict[str, Any], end_us: int | None) -> bool:
        """The results of tools in a user's message. Returns whether it may hold more than those."""
        message = line.get("message")
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, list):
            return True
        results = 0
        for block in content:
            if (
                isinstance(block, dict)
                and block.get("type") == "tool_result"
                and isinstance(block.get("tool_use_id"), str)
            ):
                key, failed = _tool_key(block["tool_use_id"]), block.get("is_error") is True
                error = text_of(" ".join(texts_of(block.get("content")))) if failed else None
                self._said.append(End(number, key, end_us, "error" if failed else "ok", error))
                self._subagent(key, line.get("toolUseResult"))
                results += 1
        return results < len(content)

    def _subagent(self, key: str, result: object) -> None:
        """The subagent, or the workflow of subagents, that a tool has started. Its own usage counts, not what the tool says."""
        if not isinstance(result, dict):
            return
        for name in ("agentId", "runId"):
            agent = text_of(result.get(name))
            if agent and agent not in self._started:
                self._started.add(agent)
                self._said.append(Started(key, agent))

    def _prompt(self, line: dict[str, Any], session: Session) -> None:
        """Note the session's goal, and whether its user has broken it off."""
        message = line.get("message")
        if (
            not self._is_main
            or line.get("isMeta")
            or line.get("isCompactSummary")
            or line.get("isSidechain")
            or not isinstance(message, dict)
        ):
            return
        text = text_of("\n".join(texts_of(message.get("content"))).strip())
        if not text:
            return
        if text.startswith(_INTERRUPTED):
            session.termination_reason = "user_abort"
        elif not text.startswith(_NOT_PROMPTS):
            session.termination_reason = None
            session.goal = session.goal or text

    def _progress(self, number: int, line: dict[str, Any], moment_us: int | None) -> None:
        """A copy of a subagent's message, which may be all that is left of it."""
        data = line.get("data")
        inner = data.get("message") if isinstance(data, dict) and data.get("type") == "agent_progress" else None
        if not isinstance(data, dict) or not isinstance(inner, dict):
            return
        agent, tool = text_of(data.get("agentId")), line.get("parentToolUseID")
        if agent and isinstance(tool, str):
            self._subagent(_tool_key(tool), {"agentId": agent})
        message, own_us = inner.get("message"), microseconds(inner.get("timestamp"))
        if inner.get("type") == "user":
            self._results(number, inner, own_us if "timestamp" in inner else moment_us)
        elif inner.get("type") == "assistant" and isinstance(message, dict) and self._now_us is not None:
            self._message(number, inner, message, own_us or self._now_us, None, agent, _PROGRESS)

    def _system(self, number: int, line: dict[str, Any], before_us: int | None) -> None:
        """A call that failed and was tried again, or a conversation that was summed up to make room."""
        end_us = self._now_us
        if end_us is None:
            return
        key = f"{NAME}:{line.get('uuid') or (self._session_id, number)}"
        agent = self._agent_of_file and self._workflow + self._agent_of_file
        if line.get("subtype") == "api_error":
            self._said.append(Step(
                number, key, self._session_id, "llm_call", min(before_us or end_us, end_us), end_us,
                provider="anthropic", usage=Usage(), status="error", error=_error_text(line.get("error")), agent=agent,
            ))  # fmt: skip
        elif line.get("subtype") == "compact_boundary":
            details = line.get("compactMetadata")
            took_ms = self._records.number(details, "durationMs") if isinstance(details, dict) else 0
            start_us = max(end_us - took_ms * 1000, self._sessions[self._session_id].started_us or 0)
            self._said.append(
                Step(number, key, self._session_id, "memory", start_us, end_us, "compaction", agent=agent)
            )


def _tool_key(tool_use_id: str) -> str:
    return f"{NAME}:{tool_use_id}"


def _tier(usage: dict[str, Any]) -> str | None:
    """What the call's price depends on beside its tokens; None for the standard."""
    for name in ("speed", "service_tier"):
        tier = usage.get(name)
        if tier != "standard" and tier and isinstance(tier, str):
            return text_of(tier)
    return None


def _error_text(error: object) -> str | None:
    """The innermost message of an API's error."""
    text = None
    while isinstance(error, dict):
        text = text_of(error.get("message")) or text
        error = error.get("error")
    return text
