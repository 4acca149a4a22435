"""Sessions of Claude Code as it writes them: a file's lines with their chain and their clock, and files where they belong."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

from exporttools import ImportedTraces, read_traces

NOON = dt.datetime(2026, 8, 1, 12, tzinfo=dt.UTC)
OPUS, HAIKU = "claude-opus-4-6", "claude-haiku-4-5-20251001"
Line = dict[str, Any]


def at(seconds: float) -> str:
    """A time that many seconds after noon, as the files have it."""
    return (NOON + dt.timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def when(seconds: float) -> dt.datetime:
    """The same as the tables have it."""
    return NOON + dt.timedelta(seconds=seconds)


def used(fresh: int = 10, out: int = 5, read: int = 0, write_5m: int = 0, write_1h: int = 0, **more: Any) -> Line:
    """An answer's usage; `fresh` is what was neither read from a cache nor written to one."""
    return {
        "input_tokens": fresh,
        "cache_creation_input_tokens": write_5m + write_1h,
        "cache_read_input_tokens": read,
        "cache_creation": {"ephemeral_5m_input_tokens": write_5m, "ephemeral_1h_input_tokens": write_1h},
        "output_tokens": out,
        "service_tier": "standard",
    } | more


def text(words: str = "done") -> Line:
    return {"type": "text", "text": words}


def tool(id_: str, name: str = "Bash", **given: Any) -> Line:
    return {"type": "tool_use", "id": id_, "name": name, "input": given or {"command": "ls"}}


def lines_of(*values: object) -> bytes:
    """JSON lines."""
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


class SessionFile:
    """One file, written line by line; a second passes between two lines.

    Parameters
    ----------
    session_id : str
    agent_id : str, optional
        For a subagent's file: the subagent.
    starts : float
        Seconds after noon.
    """

    def __init__(self, session_id: str = "s1", *, agent_id: str | None = None, starts: float = 0) -> None:
        self.session_id, self.agent_id, self.seconds = session_id, agent_id, starts
        self.lines: list[Line] = []
        self._last: str | None = None

    def add(self, type_: str, **fields: Any) -> Line:
        """Write a line of the chain."""
        own = f"{self.session_id}-{self.agent_id or 'main'}-{len(self.lines)}"
        line = {
            "parentUuid": self._last, "isSidechain": self.agent_id is not None, "userType": "external",
            "cwd": "/home/user/demo", "sessionId": self.session_id, "version": "2.1.200", "gitBranch": "main",
            "type": type_, "uuid": own, "timestamp": at(self.seconds),
        }  # fmt: skip
        line |= ({} if self.agent_id is None else {"agentId": self.agent_id}) | fields
        self.lines.append(line)
        self._last = line["uuid"]
        self.seconds += 1
        return line

    def prompt(self, content: object = "do it", **fields: Any) -> SessionFile:
        self.add("user", message={"role": "user", "content": content}, **fields)
        return self

    def answer(
        self, id_: str | None = "msg_1", *blocks: Line, usage: object = None, model: object = OPUS, **fields: Any
    ) -> SessionFile:
        """An answer, a line for each block, each of which repeats its usage."""
        stop = fields.pop("stop_reason", "tool_use" if any(b.get("type") == "tool_use" for b in blocks) else "end_turn")
        for block in blocks or (text(),):
            message: Line = {"model": model, "id": id_, "type": "message", "role": "assistant", "content": [block]}
            message |= {"stop_reason": stop, "stop_sequence": None, "usage": used() if usage is None else usage}
            if id_ is None:
                del message["id"]
            self.add("assistant", message=message, requestId="req_1", **fields)
        return self

    def result(self, of: str, content: object = "fine", *, failed: bool = False, said: object = None) -> SessionFile:
        """The result of a tool; `said` is what the tool says of itself beside it."""
        block = {"type": "tool_result", "tool_use_id": of, "content": content} | ({"is_error": True} if failed else {})
        self.add("user", message={"role": "user", "content": [block]}, toolUseResult={} if said is None else said)
        return self

    def progress(self, agent_id: str, of: str, line: Line) -> SessionFile:
        """A copy of a subagent's line."""
        inner = {"type": line["type"], "timestamp": line["timestamp"], "uuid": line["uuid"], "message": line["message"]}
        data = {"type": "agent_progress", "agentId": agent_id, "prompt": "look", "message": inner}
        self.add("progress", data=data, toolUseID=f"agent_{line['uuid']}", parentToolUseID=of)
        return self

    def system(self, subtype: str, **fields: Any) -> SessionFile:
        self.add("system", subtype=subtype, **fields)
        return self

    def wait(self, seconds: float) -> SessionFile:
        self.seconds += seconds
        return self

    def fork(self, session_id: str, upto: int | None = None) -> SessionFile:
        """A copy of the file so far, which goes on under an id of its own."""
        copy = SessionFile(session_id, starts=self.seconds)
        copy.lines = [line | {"sessionId": session_id} for line in self.lines[:upto]]
        copy._last = copy.lines[-1]["uuid"] if copy.lines else None
        return copy

    @property
    def content(self) -> bytes:
        return lines_of(*self.lines)

    def write(self, directory: Path, project: str = "-home-user-demo") -> Path:
        """Write the file where it belongs below a directory like ``~/.claude``."""
        folder = directory / "projects" / project
        path = folder / f"{self.session_id}.jsonl"
        if self.agent_id is not None:
            path = folder / self.session_id / "subagents" / f"agent-{self.agent_id}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.content)
        return path


def read(directory: Path, *files: SessionFile, **options: Any) -> ImportedTraces:
    """Write files below a directory and read it."""
    for file in files:
        file.write(directory)
    return read_traces(directory, **options)


def steps_of(imported: ImportedTraces, run_id: str | None = None) -> list[Line]:
    """The steps of all runs, or of one."""
    steps: list[Line] = imported.trace_steps.to_pylist()
    return [step for step in steps if run_id in (None, step["run_id"])]


def one(imported: ImportedTraces, **having: Any) -> dict[str, Any]:
    """The one step with these values."""
    found = [step for step in steps_of(imported) if all(step[name] == value for name, value in having.items())]
    assert len(found) == 1, found
    return found[0]


def tokens_by_run(imported: ImportedTraces) -> dict[str, int]:
    """What each run has used."""
    sums = {run.run_id: 0 for run in imported.runs}
    for step in steps_of(imported):
        sums[step["run_id"]] += step["tokens"]
    return sums


def fates_of(imported: ImportedTraces) -> tuple[int, int, int, int]:
    """How many records are counted, copies, metadata and rejected; they must be all that were read."""
    report = imported.report
    assert report.records == report.counted + report.copies + report.metadata + report.rejected
    return report.counted, report.copies, report.metadata, report.rejected


def with_subagent(result: object = "found") -> tuple[SessionFile, SessionFile]:
    """A session whose tool has started a subagent, and the subagent's file."""
    main = SessionFile().prompt().answer("msg_1", tool("task", "Task", prompt="look"), usage=used(10, 5))
    agent = SessionFile(agent_id="a1", starts=main.seconds).prompt("look")
    agent.answer("msg_a", tool("t1"), model=HAIKU, usage=used(100, 50)).result("t1")
    said = {"agentId": "a1", "totalTokens": 150, "usage": used(100, 50)}
    return main.wait(10).result("task", result, said=said), agent
