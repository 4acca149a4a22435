"""A directory appears whole or not at all, and never in another's place."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporttools import durable
from exporttools.durable import new_directory

Appear = Callable[[Path], object]

# What may be at the target: (how it gets there, how it looks afterwards where it was not touched).
OCCUPANTS: dict[str, tuple[Appear, Callable[[Path], object]]] = {
    "file": (lambda path: path.write_text("mine"), lambda path: path.read_text() == "mine"),
    "empty directory": (lambda path: path.mkdir(), lambda path: list(path.iterdir()) == []),
    "full directory": (lambda path: (path / "mine").mkdir(parents=True), lambda path: (path / "mine").is_dir()),
    "dangling symlink": (lambda path: path.symlink_to("nowhere"), lambda path: str(path.readlink()) == "nowhere"),
    "symlink to a directory": (lambda path: path.symlink_to("."), lambda path: str(path.readlink()) == "."),
    "pipe": (os.mkfifo, lambda path: path.is_fifo()),
}


def _without_exclusive_rename(patch: pytest.MonkeyPatch) -> None:
    """As on a C library that has neither renameat2 nor renamex_np."""
    patch.setattr(ctypes, "CDLL", lambda *_, **__: object())


def _where_the_file_system_refuses(patch: pytest.MonkeyPatch, code: int) -> None:
    class Library:
        def renameat2(self, *_: object) -> int:
            ctypes.set_errno(code)
            return -1

        renamex_np = renameat2

    patch.setattr(ctypes, "CDLL", lambda *_, **__: Library())


@pytest.fixture(params=["exclusive rename", "no such call", "EINVAL", "ENOSYS"])
def renaming(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test runs with the exclusive rename and with each way in which it may be absent."""
    if request.param == "no such call":
        _without_exclusive_rename(monkeypatch)
    elif request.param != "exclusive rename":
        _where_the_file_system_refuses(monkeypatch, getattr(errno, request.param))
    return str(request.param)


def test_what_the_block_made_is_there_and_nothing_else(tmp_path: Path, renaming: str) -> None:
    target = tmp_path / "new"
    with new_directory(target) as partial:
        assert partial.parent == tmp_path
        assert partial.name.startswith(".new.")
        assert str(os.getpid()) in partial.name
        (partial / "a" / "b").mkdir(parents=True)
        (partial / "a" / "b" / "c.txt").write_text("text")
        assert not target.exists()
    assert list(tmp_path.iterdir()) == [target]
    assert (target / "a" / "b" / "c.txt").read_text() == "text"


@pytest.mark.parametrize("occupant", OCCUPANTS)
def test_what_is_there_before_is_not_touched(tmp_path: Path, renaming: str, occupant: str) -> None:
    appear, untouched = OCCUPANTS[occupant]
    target = tmp_path / "new"
    appear(target)
    entered = False
    with pytest.raises(FileExistsError) as caught, new_directory(target):
        entered = True
    assert not entered
    assert (caught.value.errno, caught.value.filename) == (errno.EEXIST, str(target))
    assert untouched(target)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("occupant", OCCUPANTS)
def test_what_appears_during_the_block_is_not_touched(tmp_path: Path, renaming: str, occupant: str) -> None:
    appear, untouched = OCCUPANTS[occupant]
    target = tmp_path / "new"
    with pytest.raises(FileExistsError) as caught, new_directory(target) as partial:
        (partial / "file").write_text("text")
        appear(target)
    assert str(target) in str(caught.value)
    assert untouched(target)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_it_vanishes_with_the_blocks_error(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, new_directory(tmp_path / "new") as partial:
        (partial / "a" / "b").mkdir(parents=True)
        (partial / "a" / "file").write_text("text")
        raise error
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_a_rename_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _where_the_file_system_refuses(monkeypatch, errno.EACCES)
    with (
        pytest.raises(PermissionError, match=r"Permission denied: .*partial' -> .*new'"),
        new_directory(tmp_path / "new"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_parent_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such file or directory"), new_directory(tmp_path / "no" / "new"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "世" * 85, "🙂" * 63])
def test_the_longest_names_that_there_are(tmp_path: Path, name: str) -> None:
    with new_directory(tmp_path / name) as partial:
        (partial / "file").write_text("text")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def _record(patch: pytest.MonkeyPatch, log: list[tuple[str, str]], fail_at: int | None = None) -> None:
    """Log each fsync by the path it was for, and each rename; fail at one of the fsyncs."""
    fsync, rename = os.fsync, durable._rename_to_new

    def logged_fsync(descriptor: int) -> None:
        log.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))
        if fail_at is not None and len(log) > fail_at:
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    def logged_rename(source: Path, target: Path) -> None:
        log.append(("rename", str(source)))
        rename(source, target)

    patch.setattr(os, "fsync", logged_fsync)
    patch.setattr(durable, "_rename_to_new", logged_rename)


def _fill(partial: Path) -> None:
    (partial / "data").mkdir()
    (partial / "data" / "rows").write_text("rows")
    (partial / "manifest").write_text("manifest")


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for a descriptor's path")
def test_everything_is_synced_before_the_rename_and_the_parent_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[tuple[str, str]] = []
    _record(monkeypatch, log)
    with new_directory(tmp_path / "new") as partial:
        _fill(partial)
        assert log == []
    names = [str(partial / name) for name in ("data/rows", "data", "manifest")]
    rename = log.index(("rename", str(partial)))
    assert sorted(log[:rename]) == sorted(("fsync", name) for name in [*names, str(partial)])
    assert log[rename + 1 :] == [("fsync", str(tmp_path))]
    # A directory's entries are on disk after its files, and the whole after its parts.
    synced = [path for _, path in log]
    assert synced.index(names[0]) < synced.index(names[1]) < synced.index(str(partial))
    assert synced.index(names[2]) < synced.index(str(partial))


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for a descriptor's path")
@pytest.mark.parametrize(
    "fail_at", [0, 1, 2, 3, 5]
)  # each fsync; the operation at 4 is the rename, at 5 the parent's fsync
def test_where_a_sync_fails_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int) -> None:
    log: list[tuple[str, str]] = []
    _record(monkeypatch, log, fail_at)
    with pytest.raises(OSError, match="Input/output error"), new_directory(tmp_path / "new") as partial:
        _fill(partial)
    assert len(log) == fail_at + 1
    assert list(tmp_path.iterdir()) == []


def test_descriptors_are_closed(tmp_path: Path) -> None:
    def descriptors() -> list[Any]:
        return sorted(os.listdir("/proc/self/fd")) if sys.platform == "linux" else []

    before = len(descriptors())
    for i in range(3):
        with new_directory(tmp_path / str(i)) as partial:
            _fill(partial)
    assert len(descriptors()) == before
    assert len(list(tmp_path.iterdir())) == 3
