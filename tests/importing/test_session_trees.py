"""Trees of sessions of any shape: each token and cent is counted once, each line has one fate, no order changes anything."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from exporttools import read_traces
from exporttools.analysis.prices import PriceList
from exporttools.importing.json_records import microseconds
from exporttools.loading import imported_files
from exporttools.times import from_epoch_us
from tests.databases import stored
from tests.importing.sessions import HAIKU, OPUS, SessionFile, fates_of, text, tool, used

PRICES = PriceList()
TABLES = {"incidents": "id", "runs": "run_id", "traces": "trace_id", "trace_steps": "trace_id, step_index"}


@dataclass
class Tree:
    """Files by their paths below a directory like ``~/.claude``."""

    files: dict[str, bytes] = field(default_factory=dict)

    def write(self, directory: Path) -> list[Path]:
        for name, content in self.files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return [directory / name for name in self.files]


def numbers(top: int = 2_000) -> st.SearchStrategy[int]:
    return st.integers(0, top) | st.just(0)


_USAGES = st.builds(used, numbers(), numbers(), numbers(300_000), numbers(), numbers())


@st.composite
def sessions(draw: st.DrawFn, name: str) -> list[SessionFile]:
    """A session's own file, and those of its subagents that are not gone."""
    main = SessionFile(name, starts=draw(st.integers(0, 100))).prompt("go")
    agents = []
    for i in range(draw(st.integers(1, 4))):
        what = draw(st.sampled_from(["answer", "grows", "tool", "subagent", "made up", "prompt", "api error"]))
        id_ = f"msg_{name}_{i}"
        main.wait(draw(st.integers(0, 5)))
        if what == "prompt":
            main.prompt(draw(st.sampled_from(["more", "[Request interrupted by user]", "<command-name>x"])))
        elif what == "api error":
            main.system("api_error", error={"message": "Overloaded"})
        elif what == "made up":
            main.answer(id_, model="<synthetic>", usage=used(0, 0))
        elif what == "grows":
            for usage in draw(st.lists(_USAGES, min_size=2, max_size=3)):
                main.answer(id_, usage=usage, stop_reason=draw(st.sampled_from([None, "end_turn"])))
        else:
            blocks = [text(), tool(f"toolu_{name}_{i}", "Task" if what == "subagent" else "Bash"), text()]
            main.answer(id_, *blocks[: 1 if what == "answer" else 3], usage=draw(_USAGES))
        if what in ("tool", "subagent"):
            agent_id = f"{name}a{i}"
            if what == "subagent":
                agents += draw(subagents(main, agent_id, f"toolu_{name}_{i}", id_))
            if draw(st.booleans()):
                said = {"agentId": agent_id, "usage": used(5, 5)} if what == "subagent" else {}
                main.result(f"toolu_{name}_{i}", failed=draw(st.booleans()), said=said)
    return [main, *agents]


@st.composite
def subagents(draw: st.DrawFn, main: SessionFile, agent_id: str, of: str, asked: str) -> list[SessionFile]:
    """A subagent's file, copies of its lines in the session's own, or both."""
    agent = SessionFile(main.session_id, agent_id=agent_id, starts=main.seconds).prompt("look")
    for i in range(draw(st.integers(1, 3))):
        id_ = draw(st.sampled_from([f"{agent_id}_{i}", asked]))  # some repeat what the main thread has
        agent.answer(
            id_, text(), tool(f"toolu_{agent_id}_{i}"), usage=draw(_USAGES), model=HAIKU if id_ != asked else OPUS
        )
        agent.result(f"toolu_{agent_id}_{i}")
    where = draw(st.sampled_from(["file", "progress", "both"]))
    if where != "file":
        for line in draw(st.lists(st.sampled_from(agent.lines), min_size=1)):
            main.progress(agent_id, of, line)
    return [agent] if where != "progress" else []


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    files: list[tuple[str, SessionFile]] = []
    for i in range(draw(st.integers(1, 3))):
        main, *agents = draw(sessions(f"s{i}"))
        forks = []
        for j in range(draw(st.integers(0, 2))):
            fork = draw(st.sampled_from([main, *forks])).fork(
                f"{'afz'[j]}{i}", draw(st.none() | st.integers(1, len(main.lines)))
            )
            if draw(st.booleans()):
                fork.wait(draw(st.integers(0, 200))).prompt("on").answer(f"own_{fork.session_id}", usage=draw(_USAGES))
            forks.append(fork)
        projects = st.sampled_from(["here", "there", "elsewhere/deeper"])
        files += [(f"{draw(projects)}/{file.session_id}.jsonl", file) for file in (main, *forks)]
        place = draw(projects)
        files += [(f"{place}/{main.session_id}/subagents/agent-{agent.agent_id}.jsonl", agent) for agent in agents]
        if draw(st.booleans()):
            files.append((f"copies/{main.session_id}.jsonl", main))
    tree = Tree()
    for name, file in files:
        lines = [json.dumps(line).encode() for line in file.lines]
        for at in draw(st.lists(st.integers(0, len(lines)), max_size=2)):
            lines.insert(
                at, draw(st.sampled_from([b"", b"[]", b"{torn", b"\0\0", b"{}", lines[min(at, len(lines) - 1)]]))
            )
        content = b"\n".join(lines) + b"\n"
        tree.files[name] = cut(content, draw(st.sampled_from([0, 0, 0, 1, 30])))
    return tree


def cut(content: bytes, size: int) -> bytes:
    """A file whose end is torn off, but not so much that nothing tells whose it is."""
    torn = content[: len(content) - size]
    return torn if any(isinstance(line, dict) and "sessionId" in line for line in complete_lines(torn)) else content


def complete_lines(content: bytes) -> Iterator[Any]:
    for line in content.split(b"\n"):
        try:
            yield json.loads(line)
        except ValueError:
            continue


def answers(tree: Tree) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Each copy of each answer, with its message and its line's time; knows nothing of whose it is."""
    for content in tree.files.values():
        for line in complete_lines(content):
            if isinstance(line, dict) and line.get("type") == "progress":
                line = line["data"]["message"]
            if isinstance(line, dict) and line.get("type") == "assistant":
                yield line["message"]["id"], line["message"], line["timestamp"]


def tokens_of(usage: dict[str, Any]) -> int:
    return sum(
        usage[n] for n in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
    )


def bill(tree: Tree) -> tuple[int, int, int, float]:
    """Copies, calls, tokens and US cents: of each message the first copy that says most."""
    greatest: dict[str, tuple[int, dict[str, Any], str]] = {}
    copies = 0
    for id_, message, moment in answers(tree):
        copies += 1
        known = greatest.get(id_)
        if known is None or tokens_of(message["usage"]) > known[0]:
            greatest[id_] = tokens_of(message["usage"]), message, moment
    cents = []
    for tokens, message, moment in greatest.values():
        usage, written = message["usage"], message["usage"]["cache_creation"]
        read, into = usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
        price = PRICES.price(
            message["model"], from_epoch_us(microseconds(moment) or 0), provider="anthropic",
            input_tokens=usage["input_tokens"] + read + into, output_tokens=usage["output_tokens"], cache_read_tokens=read,
            cache_write_tokens=into, cache_write_1h_tokens=written["ephemeral_1h_input_tokens"],
        ) if tokens else None  # fmt: skip
        cents.append(0 if price is None else price.cost_cents)
    errors = {line["uuid"] for content in tree.files.values() for line in complete_lines(content)
              if isinstance(line, dict) and line.get("subtype") == "api_error"}  # fmt: skip
    copies += sum(isinstance(line, dict) and line.get("subtype") == "api_error"
                  for content in tree.files.values() for line in complete_lines(content))  # fmt: skip
    return copies, len(greatest) + len(errors), sum(tokens for tokens, *_ in greatest.values()), math.fsum(cents)


@settings(max_examples=80, deadline=None)
@given(trees(), st.randoms(use_true_random=False))
def test_each_token_and_cent_is_counted_once_and_each_line_has_a_fate(tree: Tree, random: Any) -> None:
    with tempfile.TemporaryDirectory() as directory:
        paths: list[Path] = tree.write(Path(directory))
        imported = read_traces(directory)
        random.shuffle(paths)
        in_any_order = read_traces(paths)
    report = imported.report
    copies, calls, tokens, cents = bill(tree)
    assert (report.usages, report.calls) == (copies, calls)
    assert report.tokens["input_tokens"] + report.tokens["output_tokens"] == tokens
    assert math.isclose(report.cost_cents, cents, rel_tol=1e-9, abs_tol=1e-12)
    assert sum(imported.trace_steps["tokens"].to_pylist()) == tokens
    assert math.isclose(math.fsum(imported.trace_steps["cost_cents"].to_pylist()), cents, rel_tol=1e-9, abs_tol=1e-12)
    blank = (b"", b"\0\0")
    assert report.records == sum(line not in blank for content in tree.files.values() for line in content.split(b"\n"))
    fates_of(imported)
    assert in_any_order._digests == imported._digests
    assert in_any_order.trace_steps.equals(imported.trace_steps)
    assert str(in_any_order.report) == str(report)
    for run in imported.runs:
        check_run([step for step in imported.trace_steps.to_pylist() if step["run_id"] == run.run_id])


def check_run(steps: Sequence[dict[str, Any]]) -> None:
    assert [step["step_index"] for step in steps] == list(range(len(steps)))
    for step in steps:
        parent = step["parent_step_index"]
        assert parent is None or parent < step["step_index"]
        if step["tokens"]:
            assert step["step_type"] == "llm_call"
            assert step["tokens"] == step["input_tokens"] + step["output_tokens"]
            assert step["cost_source"] == "priced"


@settings(max_examples=40, deadline=None)
@given(trees(), st.data())
def test_imports_step_by_step_end_where_one_import_would(tree: Tree, data: st.DataObject) -> None:
    """Files that come later, grow, and are deleted: the database holds what one import of all would have found."""
    with tempfile.TemporaryDirectory() as folder:
        directory, url = Path(folder, "in"), f"sqlite:///{folder}/a.sqlite"
        for _ in range(data.draw(st.integers(0, 2))):
            first = Tree({
                name: cut(content, data.draw(st.integers(0, len(content))))
                for name, content in tree.files.items() if data.draw(st.booleans())
            })  # fmt: skip
            if first.files:
                first.write(directory)
                read_traces(directory, known=imported_files(url)).load_into(url)
        tree.write(directory)
        read_traces(directory, known=imported_files(url)).load_into(url)
        for name in tree.files:
            if data.draw(st.booleans()):
                (directory / name).unlink()
        (directory / "left.json").write_bytes(b"{}")
        imported = read_traces(directory, known=imported_files(url))
        assert imported.load_into(url).new == imported.load_into(url).replaced == 0
        tree.write(Path(folder, "again"))
        read_traces(Path(folder, "again")).load_into(f"sqlite:///{folder}/b.sqlite")
        for table, order in TABLES.items():
            assert stored(url, table, order) == stored(f"sqlite:///{folder}/b.sqlite", table, order)
