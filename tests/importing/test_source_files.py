"""The files that an import reads: where agents keep them, what a directory has, packed files and bombs."""

from __future__ import annotations

import gzip
import os
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from exporttools import ConfigError
from exporttools.importing import source_files
from exporttools.importing.source_files import SUFFIXES, SourceFile, agents_here, files_at, files_below

LINES = b'{"a": 1}\n' * 5000


def zstd(content: bytes) -> bytes:
    packed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return packed


def content_of(path: Path) -> bytes:
    with closing(SourceFile.at(path).open()) as stream:
        return stream.read()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES), ("a.jsonl.gz", gzip.compress(LINES)), ("a.jsonl.zst", zstd(LINES)),
        ("a.json.gz", gzip.compress(LINES[:9]) + gzip.compress(LINES[9:])), ("b.jsonl.zst", zstd(LINES[:9]) + zstd(LINES[9:])),
    ],
    ids=["plain", "gzip", "zstd", "gzip twice", "zstd twice"],
)  # fmt: skip
def test_a_file_is_read_unpacked(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert content_of(tmp_path / name) == LINES
    with closing(SourceFile.at(tmp_path / name).open()) as stream:
        assert stream.readline() == b'{"a": 1}\n'
        assert stream.readline(4) == b'{"a"'


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.jsonl.gz", gzip.compress(LINES)[:60], "Compressed file ended before the end-of-stream marker was reached"),
        ("a.jsonl.gz", gzip.compress(LINES)[:20] + b"\xff" * 40, "Error -3 while decompressing data"),
        ("a.jsonl.gz", b"not packed", r"Not a gzipped file \(b'no'\)"),
        ("a.jsonl.zst", zstd(LINES)[:20], "Truncated compressed stream"),
        ("a.jsonl.zst", b"not packed", "ZSTD decompress failed"),
    ],
    ids=["torn gzip", "damaged gzip", "no gzip", "torn zstd", "no zstd"],
)
def test_a_damaged_file_is_an_error_of_reading(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OSError, match=why):
        content_of(tmp_path / name)


@pytest.mark.parametrize(("name", "pack"), [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstd)])
def test_a_bomb_is_an_error_of_reading(
    tmp_path: Path, name: str, pack: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_files, "_UNPACKED_BYTES", 1 << 20)
    (tmp_path / name).write_bytes(pack(b"\n" * (1 << 24)))  # type: ignore[operator]
    with (
        closing(SourceFile.at(tmp_path / name).open()) as stream,
        pytest.raises(OSError, match="it unpacks to more than "),
    ):
        while stream.readline(1 << 16):
            pass
    (tmp_path / name).write_bytes(pack(LINES))  # type: ignore[operator]
    assert content_of(tmp_path / name) == LINES


def test_a_directory_s_files_are_those_called_like_sessions_in_order(tmp_path: Path) -> None:
    names = ["b/z.jsonl", "b/a.json", "a.jsonl.zst", "c.jsonl.gz", "c.json.gz", "b/.hidden.jsonl"]
    others = ["notes.md", "b/a.jsonl.bak", "jsonl", "x.json.zst"]
    for name in (*names, *others):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    found = [str(file.path.relative_to(tmp_path)) for file in files_below(tmp_path)]
    assert sorted(found) == sorted(names)
    assert found == [str(file.path.relative_to(tmp_path)) for file in files_at(tmp_path)]
    assert all(name.endswith(SUFFIXES) for name in found)


def test_links_and_what_is_no_file(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "a.jsonl").write_bytes(b"{}")
    (real / "loop").symlink_to(real)
    (real / "b.jsonl").symlink_to(real / "a.jsonl")
    (real / "gone.jsonl").symlink_to(real / "nothing")
    (real / "zero.jsonl").symlink_to("/dev/zero")
    (real / "folder.jsonl").mkdir()
    os.mkfifo(real / "pipe.jsonl")
    assert {file.path.resolve() for file in files_below(real)} == {real / "a.jsonl"}
    assert files_below(tmp_path / "nowhere") is not None
    assert list(files_below(tmp_path / "nowhere")) == []


def test_a_named_file_has_any_name(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"abc")
    (file,) = files_at(path)
    assert (file.path, file.size_bytes, file.mtime_ns) == (path, 3, path.stat().st_mtime_ns)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "nowhere: no such file or directory"),
        ("a\x1b[31m\nb", "a b: no such file or directory"),
        ("x\0y", "x�y: no such file or directory"),
        ("n" * 300, "File name too long"),
        ("file/below", "below: no such file or directory"),
    ],
)
def test_a_path_that_leads_nowhere(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError) as caught:
        files_at(tmp_path / name)
    assert str(caught.value).endswith(said)


def test_a_pipe_is_named_by_a_hyphen(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="pipe: not a file or a directory; to read a pipe, name it -$"):
        files_at(tmp_path / "pipe")


def test_where_agents_keep_their_sessions(tmp_path: Path) -> None:
    places = [
        ".claude/projects",
        ".config/claude/projects",
        ".codex/sessions",
        ".codex/archived_sessions",
        ".gemini/tmp",
    ]
    assert agents_here({}, tmp_path) == []
    for place in places:
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / ".codex/sessions/a.jsonl").write_bytes(b"{}")
    found = agents_here({}, tmp_path)
    assert [str(place.directory.relative_to(tmp_path)) for place in found] == places
    assert [place.agent for place in found] == ["Claude Code", "Claude Code", "Codex", "Codex", "Gemini CLI"]
    assert [len(list(place.files())) for place in found] == [0, 0, 1, 0, 0]


def test_the_environment_goes_before_the_home_directory(tmp_path: Path) -> None:
    for place in ("one/projects", "two/projects", "codex/sessions", "home/.claude/projects", "home/.codex/sessions"):
        (tmp_path / place).mkdir(parents=True)
    environment = {
        "CLAUDE_CONFIG_DIR": f"{tmp_path}/one, {tmp_path}/two,,{tmp_path}/three",
        "CODEX_HOME": f"{tmp_path}/codex",
    }
    found = [str(place.directory.relative_to(tmp_path)) for place in agents_here(environment, tmp_path / "home")]
    assert found == ["one/projects", "two/projects", "codex/sessions"]
    empty = {"CLAUDE_CONFIG_DIR": "", "CODEX_HOME": ""}
    found = [str(place.directory.relative_to(tmp_path)) for place in agents_here(empty, tmp_path / "home")]
    assert found == ["home/.claude/projects", "home/.codex/sessions"]
