"""Lines of Codex' rollouts, and what a file's events add up to."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from exporttools.importing.codex import CODEX
from exporttools.importing.events import End, Event, Note, Rejected, Repeated, Session, Step, Usage
from exporttools.importing.json_records import Records
from exporttools.importing.source_files import SourceFile

START = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
SECOND = 1_000_000
ME = "01900000-0000-7000-8000-00000000000a"
PARENT = "018f0000-0000-7000-8000-00000000000b"
PARENT_TURN, OWN_TURN = "018f0000-1111-7000-8000-000000000000", "01900000-0001-7000-8000-000000000000"
CALL = {"type": "function_call", "name": "shell", "call_id": "c1", "arguments": '{"cmd": "ls"}'}
FELL = "falls of the running total, after which it counts from zero"
LOST = "calls with the tokens of others in them, whose own count was never written"
UNCOUNTED = "answers whose tokens were not written"


def stamp(seconds: float) -> str:
    return (START + dt.timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def us(seconds: float) -> int:
    return int(START.timestamp() * SECOND + seconds * SECOND)


def line(at: float, kind: str, **payload: Any) -> dict[str, Any]:
    return {"timestamp": stamp(at), "type": kind, "payload": payload}


def meta(at: float = 0, own: str = ME, **more: Any) -> dict[str, Any]:
    return line(at, "session_meta", **{"id": own, "timestamp": stamp(at), "model_provider": "openai"} | more)


def event(at: float, what: str, **more: Any) -> dict[str, Any]:
    return line(at, "event_msg", type=what, **more)


def item(at: float, **more: Any) -> dict[str, Any]:
    return line(at, "response_item", **more)


def said(at: float, role: str, text: str) -> dict[str, Any]:
    return item(at, type="message", role=role, content=[{"type": "text", "text": text}])


def output(at: float, of: str = "c1", text: Any = "done", **more: Any) -> dict[str, Any]:
    return item(at, type="function_call_output", call_id=of, output=text, **more)


def total(at: float, read: Any = 0, cached: Any = 0, out: Any = 0, reasoning: Any = 0, **info: Any) -> dict[str, Any]:
    used = {
        "input_tokens": read,
        "cached_input_tokens": cached,
        "output_tokens": out,
        "reasoning_output_tokens": reasoning,
    }
    return event(at, "token_count", info={"total_token_usage": used | {"total_tokens": 1}} | info, rate_limits=None)


@dataclass
class Found:
    """What a file's events add up to, as the core of the import adds them up: of steps with one key the greatest counts."""

    steps: dict[str, Step] = field(default_factory=dict)
    ends: dict[str, End] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    repeated: list[int] = field(default_factory=list)
    notes: dict[str, set[object]] = field(default_factory=lambda: defaultdict(set))
    rejected: list[Rejected] = field(default_factory=list)
    bad_numbers: int = 0

    def add(self, events: Iterable[Event]) -> Found:
        for event in events:
            if isinstance(event, Step):
                known = self.steps.setdefault(event.key, event)
                if known.usage is not None and event.usage is not None:
                    known.usage = max(known.usage, event.usage, key=lambda usage: usage.tokens)
            elif isinstance(event, End):
                self.ends.setdefault(event.key, event)
            elif isinstance(event, Session):
                self.sessions[event.session_id] = event
            elif isinstance(event, Repeated):
                self.repeated.append(event.record)
            elif isinstance(event, Note):
                self.notes[event.what].add(event.key or event.record)
            elif isinstance(event, Rejected):
                self.rejected.append(event)
        return self

    def of(self, *types: str) -> list[Step]:
        steps = (step for step in self.steps.values() if step.step_type in types)
        return [replace(s, status=self.ends[s.key].status or s.status) if s.key in self.ends else s for s in steps]

    @property
    def calls(self) -> list[Step]:
        return [step for step in self.of("llm_call") if step.usage is not None]

    @property
    def tools(self) -> list[Step]:
        return self.of("tool_call", "agent")

    @property
    def session(self) -> Session:
        (session,) = self.sessions.values()
        return session

    def used(self) -> tuple[int, int, int, int]:
        usages = [step.usage or Usage() for step in self.calls]
        names = ("input_tokens", "cache_read_tokens", "output_tokens", "reasoning_tokens")
        return tuple(sum(getattr(usage, name) for usage in usages) for name in names)


def read_file(path: Path, found: Found | None = None) -> Found:
    """What a file says, added to what others have said."""
    source = SourceFile.at(path)
    with closing(source.open()) as stream:
        return read_stream(stream, source, found)


def read_stream(stream: BinaryIO, source: SourceFile, found: Found | None = None) -> Found:
    """What a stream says that stands for a file."""
    records, found = Records(stream), found or Found()
    found.add(CODEX.events(records, source))
    found.rejected += records.rejected
    found.bad_numbers += records.bad_numbers
    return found
