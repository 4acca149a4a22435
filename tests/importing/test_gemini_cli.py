"""What Gemini CLI's sessions say: small files in its two forms, and real ones with known totals."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporttools.importing.events import End, Event, Note, Rejected, Session, Step, Usage
from exporttools.importing.file_reading import FileRead
from exporttools.importing.gemini_cli import GEMINI_CLI
from exporttools.importing.json_records import Records
from exporttools.importing.resolving import Resolved, resolve
from exporttools.importing.source_files import SourceFile, files_below
from exporttools.times import epoch_us, parse_utc

CHATS = Path("/home/user/.gemini/tmp/demo/chats")
MAIN = CHATS / "session-2026-06-12T08-36-aaaaaaaa.jsonl"
SESSION = "aaaaaaaa-0000-4000-8000-000000000001"
HEADER = {"sessionId": SESSION, "projectHash": "f00d", "startTime": "2026-06-12T08:00:00.000Z", "kind": "main"}


def at(second: float) -> str:
    """A time of the session."""
    return f"2026-06-12T08:00:{second:06.3f}Z"


def us(second: float) -> int:
    """The same in microseconds."""
    return epoch_us(parse_utc(at(second)))


def user(id_: str, second: float, text: object) -> dict[str, Any]:
    """A user's message."""
    return {"id": id_, "timestamp": at(second), "type": "user", "content": [{"text": text}]}


def answer(id_: str, second: float, tokens: object = None, **more: object) -> dict[str, Any]:
    """An answer, by default one of 120 tokens read (100 of them from a cache), and 5 written after 7 of thought."""
    tokens = (
        {"input": 120, "output": 5, "cached": 100, "thoughts": 7, "tool": 0, "total": 132} if tokens is None else tokens
    )
    shared = {"id": id_, "timestamp": at(second), "type": "gemini", "content": "done", "model": "gemini-3.5-flash"}
    return shared | {"tokens": tokens} | more


def tool(id_: str, second: float, status: object = "success", **more: object) -> dict[str, Any]:
    """A call of a tool as it is written when it is over."""
    return {"id": id_, "name": "glob", "args": {"pattern": "*"}, "status": status, "timestamp": at(second)} | more


def read(content: bytes, path: Path = MAIN) -> tuple[list[Event], Records]:
    """The events of a file."""
    records = Records(io.BytesIO(content), None if path.suffix == ".jsonl" else GEMINI_CLI.elements)
    return list(GEMINI_CLI.events(records, SourceFile(path, len(content), 0))), records


def lines(*values: object) -> bytes:
    """JSON lines."""
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def of(events: Sequence[Event], kind: type[Any]) -> list[Any]:
    """The events of a kind."""
    return [event for event in events if isinstance(event, kind)]


def file_read(content: bytes, path: Path = MAIN) -> FileRead:
    """A file as it is resolved with others."""
    events, records = read(content, path)
    found = FileRead(SourceFile(path, len(content), 0), GEMINI_CLI.name)
    for event in events:
        found.add(event)
    found.fate(max(records.last, 1), 0)  # type: ignore[arg-type]
    return found


def test_an_answer_is_a_call_from_the_message_before() -> None:
    events, _ = read(lines(HEADER, user("u1", 1, "Count the files"), answer("g1", 3.5)))
    assert events == [
        Step(
            3, f"gemini-cli:{SESSION}:g1", SESSION, "llm_call", us(1), us(3.5),
            name="gemini-3.5-flash", model="gemini-3.5-flash", provider="google",
            usage=Usage(120, 12, 100, reasoning_tokens=7),
            content_hash=of(events, Step)[0].content_hash,
        ),
        Session(SESSION, us(0), us(3.5), agent_id="gemini-cli", goal="Count the files"),
    ]  # fmt: skip


def test_the_older_form_says_the_same() -> None:
    messages = [user("u1", 1, "Count"), answer("g1", 2, toolCalls=[tool("t1", 2.5)]), answer("g2", 4)]
    new, _ = read(lines(HEADER, *messages))
    old, _ = read(orjson.dumps(HEADER | {"messages": messages, "summary": "A count"}), MAIN.with_suffix(".json"))
    assert [event.key for event in of(old, Step)] == [event.key for event in of(new, Step)]
    assert of(old, Session) == of(new, Session)
    assert of(old, Step)[-1].start_us == us(2.5), "the next call starts when the tool is done"


def test_a_header_with_messages_may_be_a_line() -> None:
    events, _ = read(lines(HEADER | {"messages": [user("u1", 1, "Go"), answer("g1", 2)]}, answer("g2", 3)))
    assert [(step.record, step.start_us) for step in of(events, Step)] == [(1, us(1)), (2, us(2))]


def test_messages_written_again_are_copies_whose_tokens_count_once() -> None:
    bare = answer("g1", 2, content="")
    full = bare | {"toolCalls": [tool("t1", 2.5)]}
    content = lines(
        HEADER, user("u1", 1, "Go"), bare, full, {"$set": {"lastUpdated": at(3)}},
        answer("g2", 4), {"$set": {"messages": [user("u1", 1, "Go"), full, answer("g2", 4), 5]}},
    )  # fmt: skip
    once = file_read(content)
    (session,) = resolve([once]).sessions
    assert [(s.step_type, s.usage and s.usage.tokens, s.start_us, s.end_us, s.status) for s in session.steps] == [
        ("llm_call", 132, us(1), us(2), "ok"),
        ("tool_call", None, us(2), us(2.5), "ok"),
        ("llm_call", 132, us(2.5), us(4), "ok"),
    ]
    assert session.parents == [None, 0, None]
    assert list(once.fates) == [0, 0, 2, 2, 0, 2, 1]
    assert once.usages == 5
    (again,) = resolve(
        [file_read(lines(HEADER, user("u1", 1, "Go"), bare | {"toolCalls": [tool("t1", 2.5)]}))]
    ).sessions
    assert again.steps[1].content_hash == session.steps[1].content_hash, "copies do not change the digest"


def test_a_session_moved_to_the_newer_form_counts_once() -> None:
    messages = [user("u1", 1, "Go"), answer("g1", 2)]
    old = file_read(orjson.dumps(HEADER | {"messages": messages}), MAIN.with_suffix(".json"))
    new = file_read(lines(HEADER, *messages, {"$set": {"sessionId": SESSION}}, answer("g2", 9)))
    (session,) = resolve([old, new]).sessions
    assert [step.key[-2:] for step in session.steps] == ["g1", "g2"]


def test_what_was_taken_back_was_paid_for() -> None:
    events, _ = read(lines(HEADER, user("u1", 1, "Go"), answer("g1", 2), {"$rewindTo": "u1"}, answer("g2", 5)))
    assert len(of(events, Step)) == 2
    assert of(events, Note) == [Note(4, "rewinds; what they took back was paid for and counts")]


def test_a_history_that_was_summed_up() -> None:
    def made_up(id_: str) -> dict[str, Any]:
        return {"id": id_, "timestamp": at(5), "type": "gemini", "content": [{"text": "Got it."}]}

    history = {"$set": {"messages": [user("s1", 5, "<state_snapshot>..."), made_up("s2")]}}
    events, _ = read(lines(HEADER, history, history, user("u1", 6, "Go on"), answer("g1", 7)))
    assert of(events, Note) == [
        Note(2, "histories that were summed up, by a call that is in no file"),
        Note(2, "answers that the agent made up itself, without a call", key=f"gemini-cli:{SESSION}:s2"),
    ]
    assert of(events, Step)[0].usage == Usage()
    assert of(events, Session)[0].goal == "Go on"


def test_an_answer_cut_short_is_noted_unless_its_tokens_come_later() -> None:
    short = answer("g1", 2, tokens=0)
    events, _ = read(lines(HEADER, short))
    assert of(events, Note) == [
        Note(2, "answers without tokens, cut short: what they used is in no file", key=f"gemini-cli:{SESSION}:g1")
    ]
    events, _ = read(lines(HEADER, short, answer("g1", 2)))
    assert of(events, Note) == []


def test_tools_of_the_api_read_tokens_too_and_totals_are_checked() -> None:
    good = {"input": 100, "output": 5, "cached": 0, "thoughts": 0, "tool": 40, "total": 145}
    events, _ = read(lines(HEADER, answer("g1", 1, good), answer("g2", 2, good | {"total": 105})))
    assert [step.usage for step in of(events, Step)] == [Usage(140, 5), Usage(140, 5)]
    assert of(events, Note) == [
        Note(
            3,
            "answers whose kinds of tokens, which count, do not add up to their total",
            key=f"gemini-cli:{SESSION}:g2",
        )
    ]


def test_no_more_is_read_from_caches_than_at_all() -> None:
    events, _ = read(lines(HEADER, answer("g1", 1, {"input": 10, "output": 1, "cached": 30})))
    assert of(events, Step)[0].usage == Usage(10, 1, 10)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("success", "ok"),
        ("error", "error"),
        ("cancelled", "error"),
        ("executing", None),
        (["error"], None),
        (None, None),
    ],
)
def test_how_a_tool_ended(status: object, expected: str | None) -> None:
    result = [{"functionResponse": {"id": "t1", "response": {"error": "no such\0file"}}}]
    events, _ = read(lines(HEADER, answer("g1", 1, toolCalls=[tool("t1", 2, status, result=result)])))
    step = of(events, Step)[1]
    assert (step.status, step.start_us, step.name) == ("unfinished", us(1), "glob")
    error = "no such\N{REPLACEMENT CHARACTER}file" if expected == "error" else None
    assert of(events, End) == ([End(2, step.key, us(2), expected, error)] if expected else [])


def test_a_tool_without_a_result_shows_what_the_user_was_shown() -> None:
    events, _ = read(lines(HEADER, answer("g1", 1, toolCalls=[tool("t1", 2, "error", resultDisplay="denied")])))
    assert of(events, End)[0].error == "denied"


def test_a_refused_call_is_a_failed_step_and_ends_the_session_with_an_error() -> None:
    refused = {"id": "e1", "timestamp": at(4), "type": "error", "content": "[API Error: quota]"}
    own = {"id": "e2", "timestamp": at(5), "type": "error", "content": "Unknown command: /nope"}
    events, _ = read(lines(HEADER, user("u1", 1, "Go"), refused, own))
    (step,) = of(events, Step)
    assert (step.status, step.error, step.usage, step.start_us, step.end_us) == (
        "error", "[API Error: quota]", None, us(1), us(4),
    )  # fmt: skip
    assert of(events, Session)[0].termination_reason == "error"
    events, _ = read(lines(HEADER, user("u1", 1, "Go"), refused, answer("g1", 6)))
    assert of(events, Session)[0].termination_reason is None


def test_a_user_who_breaks_off() -> None:
    cancelled = {"id": "i1", "timestamp": at(2), "type": "info", "content": "Request cancelled."}
    events, _ = read(lines(HEADER, user("u1", 1, "Go"), cancelled))
    assert of(events, Session)[0].termination_reason == "user_abort"
    events, _ = read(lines(HEADER, user("u1", 1, "Go"), cancelled, user("u2", 3, "No, this")))
    assert of(events, Session)[0].termination_reason is None


def test_the_goal_is_the_first_prompt() -> None:
    others = [
        user("u1", 1, "<session_context>\nThis is the Gemini CLI."),
        user("u2", 2, "/stats"),
        {"id": "u3", "timestamp": at(3), "type": "user", "content": [{"functionResponse": {"response": {}}}]},
        {
            "id": "u4",
            "timestamp": at(4),
            "type": "user",
            "content": "Read @a.txt: 5 MB",
            "displayContent": "Read @a.txt",
        },
        user("u5", 5, "And now?"),
    ]
    events, _ = read(lines(HEADER, *others))
    assert of(events, Session)[0].goal == "Read @a.txt"


def test_a_subagent_is_part_of_its_session() -> None:
    header = HEADER | {"sessionId": "codebase-1", "kind": "subagent", "directories": ["/home/user/demo"]}
    sub = file_read(lines(header, user("u9", 2.5, "Look"), answer("g9", 3)), CHATS / SESSION / "codebase-1.jsonl")
    call = tool("t1", 4, name="codebase_investigator", agentId="codebase-1")
    main = file_read(lines(HEADER, user("u1", 1, "Go"), answer("g1", 2, toolCalls=[call]), answer("g2", 6)))
    found = resolve([sub, main])
    (session,) = found.sessions
    assert [(s.step_type, s.agent) for s in session.steps] == [
        ("llm_call", None), ("agent", None), ("llm_call", "codebase-1"), ("llm_call", None),
    ]  # fmt: skip
    assert session.parents == [None, 0, 1, None]
    assert (session.session.session_id, session.session.goal, session.session.cwd) == (SESSION, "Go", "/home/user/demo")
    assert resolve([main]).lost_agents == ["codebase-1"]


def test_a_subagent_of_older_versions_lies_beside_its_session() -> None:
    path = CHATS / "session-2026-06-12T08-37-aaaaaaaa.json"
    events, _ = read(orjson.dumps(HEADER | {"kind": "subagent", "messages": [answer("g1", 1)]}), path)
    (step,) = of(events, Step)
    assert (step.session_id, step.agent, step.rank) == (SESSION, path.stem, 1)
    assert not of(events, Session)[0].is_main


def test_a_torn_header_leaves_the_files_name() -> None:
    events, records = read(b'{"sessionId": "aaaa\n' + lines(answer("g1", 1)))
    assert of(events, Session)[0].session_id == MAIN.stem
    assert [rejected.record for rejected in records.rejected] == [1]


def test_what_has_no_time_has_that_of_before_or_is_rejected() -> None:
    untimed = answer("g1", 1) | {"timestamp": "yesterday"}
    events, _ = read(lines(HEADER, untimed))
    assert of(events, Step)[0].end_us == us(0)
    events, _ = read(
        lines({"sessionId": "s", "projectHash": "p"}, untimed, {"type": "error", "content": "[API Error]"})
    )
    assert of(events, Rejected) == [
        Rejected(2, "an answer without a time, before any message with one"),
        Rejected(3, "an error without a time, before any message with one"),
    ]


def test_messages_and_tools_without_ids_are_all_counted() -> None:
    nameless = answer("", 1, toolCalls=[tool("", 2), tool("", 3), "no call"])
    events, _ = read(lines(HEADER, nameless, {"$set": {"messages": [nameless, nameless]}}))
    assert len({step.key for step in of(events, Step)}) == 9


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (HEADER, True),
        ({"$set": {}}, True),
        ({"$rewindTo": "u1"}, True),
        (user("u1", 1, "Go"), True),
        (user("u1", 1, "Go") | {"type": ["user"]}, False),
        ({"type": "user", "message": {}, "sessionId": "s", "uuid": "u"}, False),
        ({"schema_version": "ATIF-v1.7", "session_id": "s", "steps": []}, False),
        ({"timestamp": at(1), "type": "session_meta", "payload": {}}, False),
    ],
)
def test_what_is_recognised(value: dict[str, Any], expected: bool) -> None:
    assert GEMINI_CLI.recognises(value) is expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_foreign_values_anywhere_never_raise_and_can_be_stored(data: st.DataObject) -> None:
    call = tool("t1", 2, "error", result=[{"functionResponse": {"response": {"error": "x"}}}], agentId="a")
    messages = [user("u1", 1, "Go"), answer("g1", 2, toolCalls=[call]), answer("g2", 3)]
    values = [HEADER | {"kind": "subagent", "directories": ["/x"]}, *messages, {"$set": {"messages": messages}}]
    for _ in range(data.draw(st.integers(1, 4))):
        place: Any = data.draw(st.sampled_from(values))
        while True:
            names = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not names:
                break
            name = data.draw(st.sampled_from(names))
            if not isinstance(place[name], (dict, list)) or not place[name] or data.draw(st.booleans()):
                place[name] = data.draw(JSON)
                break
            place = place[name]
    content = b"".join(json.dumps(value).encode() + b"\n" for value in values)
    found = file_read(content)
    orjson.dumps([found.sessions, found.steps, found.ends, found.started, found.rejected, list(found.notes.values())])
    resolve([found])


@given(st.data())
def test_lines_torn_repeated_and_cut_off_count_each_call_once(data: st.DataObject) -> None:
    messages = [user(f"u{i}", i, "Go") if i % 2 else answer(f"g{i}", i) for i in range(1, 9)]
    repeated = [message for message in messages for _ in range(data.draw(st.integers(1, 3)))]
    repeated.insert(data.draw(st.integers(0, len(repeated))), {"$set": {"messages": messages}})
    content = lines(HEADER, *repeated)
    cut = data.draw(st.integers(0, 30))
    found = resolve([file_read(content[: len(content) - cut]), file_read(content, CHATS / "copy.jsonl")])
    (session,) = found.sessions
    assert sum(step.usage.tokens for step in session.steps if step.usage) == 4 * 132


def resolved(real: Path, *paths: str) -> Resolved:
    """Real files, by themselves."""
    sources = [
        source
        for path in paths
        for source in (
            files_below(real / "sessions" / path)
            if (real / "sessions" / path).is_dir()
            else [SourceFile.at(real / "sessions" / path)]
        )
    ]
    return resolve([file_read(source.path.read_bytes(), source.path) for source in sources])


def totals(found: Resolved) -> dict[str, Any]:
    """What the expected totals of a file or of several say."""
    steps = [step for session in found.sessions for step in session.steps]
    calls = [(step, step.usage) for step in steps if step.usage is not None]
    models: dict[str, dict[str, int]] = {}
    for step, usage in calls:
        model = models.setdefault(
            str(step.model), dict.fromkeys(("messages", "input", "cache_read", "output", "thoughts"), 0)
        )
        model["messages"] += 1
        for name, tokens in tokens_of(usage).items():
            model[name] += tokens
    return {
        "sessions": len(found.sessions),
        "messages": len(calls),
        "duplicates_dropped": sum(read.usages for read in found.files) - len(calls),
        "messages_without_tokens": sum(usage.tokens == 0 for _, usage in calls),
        "error_lines": sum(step.step_type == "llm_call" and step.status == "error" for step in steps),
        "tokens": {name: sum(model[name] for model in models.values()) for name in tokens_of(Usage())},
        "tokens_total": sum(usage.tokens for _, usage in calls),
        "models": models,
        "tool_calls": sum(step.step_type == "tool_call" for step in steps),
        "tool_errors": sum(step.step_type == "tool_call" and step.status == "error" for step in steps),
        "subagents": len({step.agent for step in steps if step.agent is not None}),
    }


def tokens_of(usage: Usage) -> dict[str, int]:
    """Tokens by the names of the expected totals, whose input is without what caches had."""
    return {
        "input": usage.input_tokens - usage.cache_read_tokens,
        "cache_read": usage.cache_read_tokens,
        "output": usage.output_tokens,
        "thoughts": usage.reasoning_tokens,
    }


@pytest.mark.real
def test_real_sessions_have_the_known_totals(real: Path) -> None:
    if not (real / "sessions" / "expected.json").is_file():
        pytest.skip(f"no real sessions at {real / 'sessions'}")
    expected = orjson.loads((real / "sessions" / "expected.json").read_bytes())
    wanted = {
        path: of
        for path, of in (expected["files"] | expected["groups"] | expected["directories"]).items()
        if path.startswith("gemini")
    }
    assert len(wanted) >= 10
    for path, known in wanted.items():
        ours = totals(resolved(real, path))
        assert ours == {name: known[name] for name in ours}, path
