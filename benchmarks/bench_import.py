"""Importing 10 MB, 100 MB and 1 GB of sessions, beside a plain ``json.loads`` loop and ccusage in one run: ``make bench``.

The sessions are made here, in the shapes that Claude Code writes: prompts, answers whose lines repeat their usage, calls of
tools and their results, live output, settings, subagents with files of their own, forks. Each candidate runs in a process
of its own; its memory is that of all its processes together, 50 times a second (on Linux). Python's imports are not
counted; ccusage is a program, and its start is. Rounds are interleaved, and the best time of each candidate counts.

    python benchmarks/bench_import.py [--sizes 10,100,1000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CCUSAGE = Path(sys.prefix) / "ccusage" / "node_modules" / ".bin" / "ccusage"
"""Where `make bench` installs it."""

CANDIDATES = {
    "json.loads of each line": """
import json
start()
for path in sorted(Path(directory).rglob("*.jsonl")):
    with open(path, "rb") as lines:
        for line in lines:
            if line.strip():
                json.loads(line)
tokens = None
""",
    "exporttools": """
from exporttools import read_traces
read_traces(warm, progress=False)
start()
report = read_traces(directory, progress=False).report
tokens = report.tokens["input_tokens"] + report.tokens["output_tokens"]
""",
    "ccusage": """
import json, os, subprocess
start()
done = subprocess.run([ccusage, "daily", "--json", "--offline"], env=os.environ | {"CLAUDE_CONFIG_DIR": directory}, capture_output=True, check=True)
totals = json.loads(done.stdout)["totals"]
tokens = sum(totals[name] for name in ("inputTokens", "cacheReadTokens", "cacheCreationTokens", "outputTokens"))
""",
}

TIMED = """
import json, sys, time, resource
from pathlib import Path
globals().update(json.loads(sys.argv[2]))
began = []
def cpu():
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
def start():
    began.extend([time.perf_counter(), cpu()])
exec(sys.argv[1])
print(json.dumps([time.perf_counter() - began[0], cpu() - began[1], tokens]))
"""

WORDS = (
    "The export fails for runs whose last step has no end. Let me look at how steps are read, and which of the tests cover it. "
    'def read(path: str) -> list[str]:\n    with open(path, encoding="utf-8") as file:\n        return file.read().splitlines()\n'
)


def text(length: int, seed: int) -> str:
    """Some words, differing by the seed."""
    return f"{seed:x} " + (WORDS * (length // len(WORDS) + 1))[seed % 40 :][:length] + " ünï"


class Chain:
    """The lines of a file, each of which names the one before."""

    def __init__(self, session: int, started: dt.datetime, agent: str | None = None) -> None:
        self.lines: list[dict[str, Any]] = []
        self._session, self._agent, self._now, self._last = session, agent, started, None

    def add(self, type_: str, **fields: Any) -> None:
        self._now += dt.timedelta(milliseconds=1737)
        uuid = f"{self._session:08x}-{len(self.lines):04x}-4000-8000-{hash(self._agent or 0) & 0xFFFFFFFFFFFF:012x}"
        line = {
            "parentUuid": self._last, "isSidechain": self._agent is not None, "userType": "external", "cwd": "/home/user/demo",
            "sessionId": session_id(self._session), "version": "2.1.200", "gitBranch": "main", "type": type_, "uuid": uuid,
            "timestamp": self._now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }  # fmt: skip
        self.lines.append(line | ({} if self._agent is None else {"agentId": self._agent}) | fields)
        self._last = uuid

    def turn(self, key: str, number: int, *, agent: str | None = None) -> None:
        """An answer of three lines, which calls a tool; its result, and what is written around them."""
        usage = {
            "input_tokens": 4, "cache_creation_input_tokens": 900 + number, "cache_read_input_tokens": 20_000 + 900 * number,
            "cache_creation": {"ephemeral_5m_input_tokens": 900 + number, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 150 + number, "service_tier": "standard", "inference_geo": "not_available",
            "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
        }  # fmt: skip
        tool = f"toolu_{key}"
        called = {
            "name": "Bash",
            "input": {"command": f"grep -rn step_{number} src | head", "description": text(40, number)},
        }
        if agent is not None:
            called = {"name": "Task", "input": {"prompt": text(400, number), "subagent_type": "Explore"}}
        for block in (
            {"type": "thinking", "thinking": text(250, number), "signature": "c2ln" * 80},
            {"type": "text", "text": text(220, number)},
            {"type": "tool_use", "id": tool, **called},
        ):
            message = {"model": "claude-opus-4-6", "id": f"msg_{key}", "type": "message", "role": "assistant"}
            message |= {"content": [block], "stop_reason": "tool_use", "stop_sequence": None, "usage": usage}
            self.add("assistant", message=message, requestId=f"req_{key}")
        self.add("progress", data={"type": "hook_progress", "hookEvent": "PostToolUse", "command": text(100, number)})
        output = text(450, number)
        result = {"type": "tool_result", "tool_use_id": tool, "content": output, "is_error": number % 37 == 5}
        told = {"stdout": output, "stderr": "", "interrupted": False} if agent is None else {"agentId": agent}
        self.add("user", message={"role": "user", "content": [result]}, toolUseResult=told)
        if number % 3 == 0:
            self.add("attachment", attachment={"type": "hook_success", "content": text(600, number)})
            self.lines.append(
                {"type": "last-prompt", "lastPrompt": text(60, number), "sessionId": self.lines[-1]["sessionId"]}
            )

    def __bytes__(self) -> bytes:
        return b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in self.lines)


def session_id(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000"


def sessions() -> Iterator[tuple[str, bytes]]:
    """Files without end, as they lie below ``~/.claude``."""
    for number in itertools.count(1):
        started = dt.datetime(2026, 3, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=11 * number)
        folder = f"projects/-home-user-demo{number % 20}"
        main = Chain(number, started)
        agent = f"a{number:016x}" if number % 3 == 0 else None
        turns = 20 + number * 7 % 80
        for turn in range(turns):
            if turn % 8 == 0:
                main.add("user", message={"role": "user", "content": text(300, turn)})
            main.turn(f"{number:010x}{turn:014x}", turn, agent=agent if turn == 9 else None)
        yield f"{folder}/{session_id(number)}.jsonl", bytes(main)
        if agent is not None:
            helper = Chain(number, started + dt.timedelta(minutes=1), agent)
            helper.add("user", message={"role": "user", "content": text(400, number)})
            for turn in range(turns // 4):
                helper.turn(f"{number:010x}a{turn:013x}", turn)
            yield f"{folder}/{session_id(number)}/subagents/agent-{agent}.jsonl", bytes(helper)
        if number % 10 == 0:  # a fork: the same lines under a new id, and more
            fork = session_id(number | 1 << 31)
            main.add("user", message={"role": "user", "content": text(300, number)})
            main.turn(f"{number:010x}f{turns:013x}", turns)
            yield f"{folder}/{fork}.jsonl", bytes(main).replace(session_id(number).encode(), fork.encode())


def write_sessions(directory: Path, size_bytes: int) -> int:
    """Write sessions of that size; returns their true size."""
    written = 0
    for name, content in sessions():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        written += len(content)
        if written >= size_bytes:
            return written
    raise AssertionError


@dataclass(frozen=True, order=True)
class Measured:
    """What a candidate took."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    tokens: int | None


def measured(code: str, setup: dict[str, str]) -> Measured:
    process = subprocess.Popen(
        [sys.executable, "-c", TIMED, code, json.dumps(setup)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    peak = [0]

    def watch() -> None:
        while process.poll() is None:
            peak[0] = max(peak[0], resident_bytes(process.pid))
            time.sleep(0.02)

    watching = threading.Thread(target=watch)
    watching.start()
    output, errors = process.communicate()
    watching.join()
    if process.returncode:
        raise RuntimeError(errors.strip().splitlines()[-1])
    wall, used, tokens = json.loads(output)
    return Measured(wall, used, peak[0], tokens)


def resident_bytes(pid: int) -> int:
    """The memory of a process and of all that it has started; 0 where there is no /proc."""
    try:
        own = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        children = [
            child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
        ]
    except (OSError, IndexError):
        return 0
    return own + sum(resident_bytes(int(child)) for child in children)


def bench(directory: Path, size_mb: int, rounds: int, ccusage: str | None) -> None:
    made, warm = directory / f"sessions{size_mb}", directory / "warm"
    size_bytes = write_sessions(made, size_mb * 10**6)
    setup = {"directory": str(made), "warm": str(warm), "ccusage": ccusage or ""}
    best: dict[str, Measured] = {}
    for _ in range(rounds):
        for name, code in CANDIDATES.items():
            if name != "ccusage" or ccusage is not None:
                found = measured(code, setup)
                best[name] = min(best.get(name, found), found)
    shutil.rmtree(made)
    loop, ours = best["json.loads of each line"], best["exporttools"]
    print(f"\n{f'{size_bytes / 1e6:,.0f} MB':<26} {'wall s':>7} {'CPU s':>7} {'MB/s':>6} {'peak MB':>8} {'tokens':>16}")
    for name, found in best.items():
        speed, tokens = size_bytes / 1e6 / found.wall_s, "" if found.tokens is None else f"{found.tokens:,}"
        print(
            f"{name:<26} {found.wall_s:>7.2f} {found.cpu_s:>7.2f} {speed:>6.0f} {found.peak_bytes / 1e6:>8.0f} {tokens:>16}"
        )
    print(f"exporttools / json.loads   {ours.wall_s / loop.wall_s:>6.2f}×  at most 1.3")
    if "ccusage" in best:
        theirs = best["ccusage"]
        print(f"exporttools / ccusage      {ours.wall_s / theirs.wall_s:>6.2f}×")
        if theirs.tokens != ours.tokens:
            print("exporttools and ccusage do not agree on the tokens")
    print(f"exporttools, peak memory   {ours.peak_bytes / 1e6:>6.0f} MB  at most 300", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="10,100,1000", help="in MB")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    ccusage = str(CCUSAGE) if CCUSAGE.exists() else shutil.which("ccusage")
    if ccusage is None:
        print("SKIPPED: ccusage, which is not installed; `npm install --global ccusage@20.0.24` would do")
    with tempfile.TemporaryDirectory(prefix="et-bench-", ignore_cleanup_errors=True) as directory:
        write_sessions(Path(directory, "warm"), 1)
        for size_mb in [int(size) for size in arguments.sizes.split(",")]:
            bench(Path(directory), size_mb, arguments.rounds, ccusage)


if __name__ == "__main__":
    main()
