"""Trajectories in the Agent Trajectory Interchange Format (ATIF v1.x, RFC 0001 of Harbor): one JSON object a file.

A file's steps are counted, and never its final metrics, which may be those of a whole family of files. A ``session_id`` may
be shared by a trajectory, its subagents and its continuation: it names the run, and no step.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from exporttools.importing.events import (
    Event,
    Note,
    Rejected,
    Repeated,
    Session,
    Started,
    Step,
    Usage,
    content_hash,
    texts_of,
)
from exporttools.importing.formats import Format
from exporttools.importing.json_records import Record, Records, microseconds, number_of, text_of
from exporttools.importing.source_files import SourceFile
from exporttools.text.inert import one_line

NAME = "atif"
# What converted sessions hold in the user's name beside prompts.
_NOT_PROMPTS = (
    "<command-",
    "<local-command-",
    "# AGENTS.md instructions",
    "<environment_context>",
    "<user_instructions>",
)
_FAILED = ("tool_result_is_error", "is_error")
_WRITTEN = ("cache_creation_input_tokens", "cache_write_input_tokens")
_REASONING = ("reasoning_output_tokens", "reasoning_tokens", "thoughts_tokens")


def recognises(value: dict[str, Any]) -> bool:
    """Whether an object is a trajectory in the format's first version."""
    version = value.get("schema_version")
    return isinstance(version, str) and version.startswith("ATIF-v1.")


def events(records: Records, source: SourceFile) -> Iterator[Event]:
    """What the steps of a file say."""
    return _Reading(records, source).events()


ATIF = Format(NAME, "ATIF", recognises, events, elements="steps", is_exchange=True)


@dataclass(slots=True)
class _Sums:
    """What the steps of trajectories have used and cost."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0

    def add(self, other: _Sums) -> None:
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cost_usd += other.cost_usd


@dataclass(slots=True)
class _Trajectory:
    """A trajectory: the file's own, or a subagent's inside of it.

    Attributes
    ----------
    header : dict
        The object without its steps.
    records : list of Record
        Its steps.
    key : str
        What the keys of its steps begin with.
    agent : str or None
        The subagent whose it is.
    parent : str or None
        The key of the step that started it.
    since_us : int
        When it started, if its own steps do not say.
    sums : _Sums
    started : dict of str to (str, int)
        The step that refers to a subagent inside of it, and when that step started, by the subagent's ``trajectory_id``.
    """

    header: dict[str, Any]
    records: list[Record]
    key: str
    agent: str | None
    parent: str | None
    since_us: int
    sums: _Sums = field(default_factory=_Sums)
    started: dict[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def embedded(self) -> list[dict[str, Any]]:
        """The trajectories inside of it."""
        return _dicts(self.header.get("subagent_trajectories"))


class _Reading:
    """One file."""

    def __init__(self, records: Records, source: SourceFile) -> None:
        self._records, self._file_us = records, source.mtime_ns // 1000
        header, steps = records.header, list(records)
        own, id_ = text_of(header.get("session_id")), text_of(header.get("trajectory_id"))
        # A subagent that summed up a conversation has a file of its own, which names the session that it worked for.
        worked_for = text_of(_dict(_dict(header.get("agent")).get("extra")).get("parent_session_id"))
        self._session_id = worked_for or own or id_ or _digest(header, steps)
        self._keys: set[str] = set()
        self._moments_us: list[int] = []
        self._root = self._trajectory(header, steps, own or id_ if worked_for else None, None, self._file_us)

    def events(self) -> Iterator[Event]:
        if not self._records.header:
            for record in self._root.records:
                yield Rejected(record.number, "expected a trajectory with a list of steps; found none")
            return
        root, family = self._root, _Sums()
        waiting = deque([root])
        while waiting:
            trajectory = waiting.popleft()
            yield from self._of(trajectory)
            waiting.extend(self._embedded(header, trajectory) for header in trajectory.embedded)
            family.add(trajectory.sums)
            if trajectory is not root:
                yield from _beside_final(trajectory, trajectory.sums)
        yield from _beside_final(root, root.sums, family)
        yield self._session()

    def _trajectory(
        self, header: dict[str, Any], records: list[Record], agent: str | None, parent: str | None, since_us: int
    ) -> _Trajectory:
        """A trajectory with a key that no other has: its id, or the digest of its content, so that a copied file is a copy."""
        session_id = text_of(header.get("session_id")) or self._session_id
        key = f"{NAME}:{session_id}:{text_of(header.get('trajectory_id')) or _digest(header, records)}"
        while key in self._keys:
            key += "+"
        self._keys.add(key)
        return _Trajectory(header, records, key, agent, parent, since_us)

    def _embedded(self, header: dict[str, Any], within: _Trajectory) -> _Trajectory:
        """A subagent's trajectory inside of another one, part of the step that refers to it."""
        id_, steps = text_of(header.get("trajectory_id")), header.get("steps")
        records = list(self._records.more(steps if isinstance(steps, list) else []))
        parent, since_us = within.started.get(id_ or "", (within.parent, within.since_us))
        agent = id_ or text_of(_dict(header.get("agent")).get("name")) or "subagent"
        return self._trajectory(header, records, agent, parent, since_us)

    def _session(self) -> Session:
        header, is_main = self._root.header, self._root.agent is None
        agent = _dict(header.get("agent"))
        extra = _dict(agent.get("extra"))
        moments_us = self._moments_us or [self._file_us]
        return Session(
            self._session_id, min(moments_us), max(moments_us),
            agent_id=text_of(agent.get("name")) or NAME,
            goal=_goal(self._root.records) if is_main else None,
            is_main=is_main,
            cwd=text_of(extra.get("cwd")) or _first_text(extra.get("cwds")),
            git_branch=text_of(_dict(extra.get("git")).get("branch")) or _first_text(extra.get("git_branches")),
            agent_version=text_of(agent.get("version")),
        )  # fmt: skip

    def _of(self, trajectory: _Trajectory) -> Iterator[Event]:
        """The steps of a trajectory."""
        records = trajectory.records
        moments_us = [None if _is_copied(r.value) else microseconds(r.value.get("timestamp")) for r in records]
        known_us = [moment_us for moment_us in moments_us if moment_us is not None]
        self._moments_us += known_us
        now_us = trajectory.since_us = known_us[0] if known_us else trajectory.since_us
        ends_us = _ends_us(records, moments_us)
        for i, (record, moment_us, end_us) in enumerate(zip(records, moments_us, ends_us, strict=True), 1):
            if _is_copied(record.value):  # what it used is in the trajectory that it was copied from
                yield Repeated(record.number)
                continue
            if moment_us is not None:
                now_us = moment_us
            elif not known_us:
                now_us += 1  # a microsecond apart, so that they keep their order
            yield from self._step(trajectory, record, f"{trajectory.key}:{i}", now_us, end_us)
        if records and not self._moments_us:
            yield Note(records[-1].number, "trajectories without any time, whose steps have their file's")

    def _step(
        self,
        trajectory: _Trajectory,
        record: Record,
        key: str,
        start_us: int,
        end_us: int | None,
    ) -> Iterator[Event]:
        """A step: the call of a model if it states what that used, and the calls of tools in it."""
        number, step = record.number, record.value
        metrics, results = step.get("metrics"), _dicts(_dict(step.get("observation")).get("results"))
        calls, agent = _dicts(step.get("tool_calls")), _sidechain(step) or trajectory.agent
        rank, parent, loose = int(agent is not None), trajectory.parent, [r for r in results if not _call_id(r)]
        if isinstance(metrics, dict) or (step.get("source") == "agent" and step.get("llm_call_count") != 0):
            yield self._call(trajectory, record, key, start_us, end_us, agent)
            yield from _doubts(number, key, step)
            parent = key
        elif any(_references(result) for result in loose):  # the program itself has started subagents
            name = one_line(" ".join(texts_of(step.get("message"))), 60) or None
            yield Step(
                number,
                key,
                self._session_id,
                "agent",
                start_us,
                end_us,
                name=name,
                parent=parent,
                agent=agent,
                rank=rank,
            )
            parent = key
        for result in loose:
            yield from self._starts(number, trajectory, result, parent, start_us)
        for position, call in enumerate(calls):
            id_, name = text_of(call.get("tool_call_id")), text_of(call.get("function_name"))
            own = [result for result in results if id_ and _call_id(result) == id_]
            kind = "agent" if any(_references(result) or _claude_agent(result) for result in own) else "tool_call"
            failed = [result for result in own if _has_failed(result)]
            tool_key = f"{key}:{position}"
            yield Step(
                number, tool_key, self._session_id, kind, start_us, end_us,
                name=name, parent=parent, agent=agent, rank=rank,
                status="error" if failed else "ok" if own or loose else "unfinished",
                error=text_of(" ".join(text for result in failed for text in texts_of(result.get("content")))) or None,
                content_hash=content_hash(kind, name, call.get("arguments")),
            )  # fmt: skip
            for result in own:
                yield from self._starts(number, trajectory, result, tool_key, start_us)

    def _call(
        self,
        trajectory: _Trajectory,
        record: Record,
        key: str,
        start_us: int,
        end_us: int | None,
        agent: str | None,
    ) -> Step:
        """The call, or the calls, of a model that a step stands for."""
        step = record.value
        model = text_of(step.get("model_name")) or text_of(_dict(trajectory.header.get("agent")).get("model_name"))
        metrics, texts = step.get("metrics"), [text for text in texts_of(step.get("message")) if text.strip()]
        usage, cost_usd, extra = None, None, _dict(_dict(metrics).get("extra"))
        if isinstance(metrics, dict):
            usage, cost_usd, sums = self._usage(metrics, extra), self._cost(metrics), trajectory.sums
            sums.input_tokens += usage.input_tokens
            sums.output_tokens += usage.output_tokens
            sums.cost_usd += cost_usd or 0.0
        tiers = (text_of(extra.get(name)) for name in ("speed", "service_tier"))
        return Step(
            record.number, key, self._session_id, "llm_call", start_us, end_us,
            name=model, model=model, provider=model.partition("/")[0] if model and "/" in model else None,
            usage=usage, cost_usd=cost_usd, cost_basis=text_of(extra.get("cost_source")),
            tier=next((tier for tier in tiers if tier and tier != "standard"), None),
            content_hash=content_hash("llm_call", model, texts) if texts else None,
            parent=trajectory.parent, agent=agent, rank=int(agent is not None),
        )  # fmt: skip

    def _usage(self, metrics: dict[str, Any], extra: dict[str, Any]) -> Usage:
        """The tokens of a step. What was read from caches and written to them is part of the prompt."""
        number = self._records.number
        prompt, output = number(metrics, "prompt_tokens"), number(metrics, "completion_tokens")
        read = min(number(metrics, "cached_tokens"), prompt)
        written = min(max(number(extra, name) for name in _WRITTEN), prompt - read)
        written_1h = min(number(_dict(extra.get("cache_creation")), "ephemeral_1h_input_tokens"), written)
        reasoning = min(max(number(extra, name) for name in _REASONING), output)
        return Usage(prompt, output, read, written, written_1h, reasoning)

    def _cost(self, metrics: dict[str, Any]) -> float | None:
        """The cost that a step states."""
        stated = metrics.get("cost_usd")
        cost_usd = number_of(stated)
        if cost_usd is not None and cost_usd >= 0:
            return cost_usd
        self._records.bad_numbers += stated is not None
        return None

    def _starts(
        self, number: int, trajectory: _Trajectory, result: dict[str, Any], key: str | None, start_us: int
    ) -> Iterator[Event]:
        """The subagents that a result refers to: inside of the file by their trajectory's id, in other files by their session's."""
        if key is None:
            return
        for reference in _references(result):
            id_, session_id = text_of(reference.get("trajectory_id")), text_of(reference.get("session_id"))
            if any(header.get("trajectory_id") == id_ for header in trajectory.embedded if id_):
                trajectory.started.setdefault(id_ or "", (key, start_us))
            elif session_id:
                yield Started(key, session_id)
            elif reference.get("trajectory_path") is None:
                yield Note(number, "subagents whose trajectories are missing: what they used is not known")
        agent = _claude_agent(result)
        if agent:
            yield Started(key, agent)


def _ends_us(records: Sequence[Record], moments_us: Sequence[int | None]) -> list[int | None]:
    """When steps had ended at the latest: at the next step of the same agent.

    Not known before a user's message: until that the user was thinking.
    """
    following: dict[str | None, int | None] = {}
    ends_us: list[int | None] = []
    for record, moment_us in zip(reversed(records), reversed(moments_us), strict=True):
        step = record.value
        thread = _sidechain(step)
        ends_us.append(following.get(thread))
        following[thread] = None if step.get("source") == "user" else moment_us
    return ends_us[::-1]


def _doubts(number: int, key: str, step: dict[str, Any]) -> Iterator[Note]:
    """What one should know of a step's call."""
    metrics, count = step.get("metrics"), step.get("llm_call_count")
    if not isinstance(metrics, dict):
        yield Note(number, "answers without metrics: what they used is not known", key=key)
    elif metrics.get("cost_usd") is not None and text_of(_dict(metrics.get("extra")).get("cost_source")):
        yield Note(number, "costs that the file's writer estimated from tokens, and nobody was billed", key=key)
    if isinstance(count, int) and count > 1:
        yield Note(number, "steps that stand for several calls at once", key=key)


def _beside_final(trajectory: _Trajectory, *accepted: _Sums) -> Iterator[Note]:
    """What the final metrics state beyond the steps, or short of them. They may be meant with subagents or without."""
    final, number = (
        _dict(trajectory.header.get("final_metrics")),
        max((r.number for r in trajectory.records), default=1),
    )
    for name, what, sums in (
        ("total_prompt_tokens", "input tokens", [sums.input_tokens for sums in accepted]),
        ("total_completion_tokens", "output tokens", [sums.output_tokens for sums in accepted]),
    ):
        stated = final.get(name)
        if type(stated) is int and 0 <= stated < 2**53 and stated not in sums:
            more = stated - sums[-1]
            beyond = "in final_metrics and in no step of the file, which do not count: of other files, or of calls without a step"
            yield Note(
                number,
                f"{what} {beyond}" if more > 0 else f"{what} of steps, which count, and not in final_metrics",
                abs(more),
            )
    cost_usd = number_of(final.get("total_cost_usd"))
    if cost_usd is not None and not any(
        math.isclose(cost_usd, sums.cost_usd, rel_tol=1e-9, abs_tol=1e-12) for sums in accepted
    ):
        yield Note(number, "trajectories whose final_metrics state another cost than their steps, which count")


def _digest(header: dict[str, Any], records: list[Record]) -> str:
    """What tells a trajectory without an id from all others."""
    said = [[record.value.get(name) for name in ("timestamp", "message", "tool_calls")] for record in records]
    return (content_hash(header.get("agent"), header.get("final_metrics"), said) or "nested too deeply")[:32]


def _goal(records: list[Record]) -> str | None:
    """The first message of the user's own."""
    for record in records:
        step = record.value
        text = text_of("\n".join(texts_of(step.get("message"))).strip())
        is_prompt = step.get("source") == "user" and not _is_copied(step) and not _sidechain(step)
        if is_prompt and text and not text.startswith(_NOT_PROMPTS):
            return text
    return None


def _is_copied(step: dict[str, Any]) -> bool:
    return step.get("is_copied_context") is True


def _sidechain(step: dict[str, Any]) -> str | None:
    """The subagent whose step it is, in trajectories converted from Claude Code, which have all agents in one list."""
    extra = _dict(step.get("extra"))
    return text_of(extra.get("agent_id")) or "sidechain" if extra.get("is_sidechain") is True else None


def _claude_agent(result: dict[str, Any]) -> str | None:
    """The subagent that a tool of Claude Code has started, in trajectories converted from there."""
    metadata = _dict(_dict(result.get("extra")).get("tool_result_metadata"))
    return text_of(_dict(metadata.get("tool_use_result")).get("agentId"))


def _has_failed(result: dict[str, Any]) -> bool:
    extra = _dict(result.get("extra"))
    return any(extra.get(name) is True for name in _FAILED)


def _references(result: dict[str, Any]) -> list[dict[str, Any]]:
    return _dicts(result.get("subagent_trajectory_ref"))


def _call_id(result: dict[str, Any]) -> str | None:
    return text_of(result.get("source_call_id")) or None


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _first_text(value: object) -> str | None:
    return text_of(value[0]) if isinstance(value, list) and value else None
