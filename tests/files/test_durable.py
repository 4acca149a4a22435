"""A directory or a file appears whole or not at all, and never in another's place."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exporttools.files import durable
from exporttools.files.durable import new_directory, new_file, scratch_directory
from tests.files.writing import PARTIAL, New, fill, is_whole, partials

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


def without_exclusive_rename(patch: pytest.MonkeyPatch) -> None:
    """As on a C library that has neither renameat2 nor renamex_np."""
    patch.setattr(ctypes, "CDLL", lambda *_, **__: object())


def _where_the_file_system_refuses(patch: pytest.MonkeyPatch, code: int) -> None:
    class Library:
        def renameat2(self, *_: object) -> int:
            ctypes.set_errno(code)
            return -1

        renamex_np = renameat2

    patch.setattr(ctypes, "CDLL", lambda *_, **__: Library())


def _without_links(patch: pytest.MonkeyPatch) -> None:
    def link(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    patch.setattr(os, "link", link)


@pytest.fixture(params=["exclusive rename", "no such call", "EINVAL", "ENOSYS", "EINVAL, and no links"])
def renaming(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test runs with the exclusive rename and with each way in which it may be absent."""
    name, _, links = str(request.param).partition(", ")
    if links:
        _without_links(monkeypatch)
    if name == "no such call":
        without_exclusive_rename(monkeypatch)
    elif name != "exclusive rename":
        _where_the_file_system_refuses(monkeypatch, getattr(errno, name))
    return str(request.param)


def test_what_the_block_made_is_there_and_nothing_else(tmp_path: Path, renaming: str) -> None:
    target = tmp_path / "new"
    with new_directory(target) as partial:
        assert partial.parent == tmp_path
        assert partial.name.startswith(".new.")
        (partial / "a" / "b").mkdir(parents=True)
        (partial / "a" / "b" / "c.txt").write_text("text")
        assert not target.exists()
    assert list(tmp_path.iterdir()) == [target]
    assert (target / "a" / "b" / "c.txt").read_text() == "text"


def test_what_was_written_to_a_file_is_there_and_nothing_else(tmp_path: Path, renaming: str) -> None:
    target = tmp_path / "new"
    with new_file(target) as file:
        file.write(b"text, and more")
        file.seek(6)
        assert file.read() == b"and more"
        file.seek(0)
        file.write(b"T")
        [partial] = tmp_path.iterdir()
        assert partial.name.startswith(".new.")
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == b"Text, and more"
    assert target.stat().st_nlink == 1


def test_a_file_takes_a_zip_and_may_be_closed(tmp_path: Path) -> None:
    with new_file(tmp_path / "new.zip") as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.txt", "text")
        file.close()
    with zipfile.ZipFile(tmp_path / "new.zip") as archive:
        assert archive.read("a.txt") == b"text"
    assert len(list(tmp_path.iterdir())) == 1


def test_permissions_are_those_of_any_new_file(tmp_path: Path, new: New) -> None:
    before = os.umask(0o027)
    try:
        with new(tmp_path / "new"):
            pass
    finally:
        os.umask(before)
    target = tmp_path / "new"
    assert target.stat().st_mode & 0o777 == (0o750 if target.is_dir() else 0o640)


@pytest.mark.parametrize("occupant", OCCUPANTS)
def test_what_is_there_before_is_not_touched(tmp_path: Path, new: New, renaming: str, occupant: str) -> None:
    appear, untouched = OCCUPANTS[occupant]
    target = tmp_path / "new"
    appear(target)
    entered = False
    with pytest.raises(FileExistsError) as caught, new(target):
        entered = True
    assert not entered
    assert (caught.value.errno, caught.value.filename) == (errno.EEXIST, str(target))
    assert untouched(target)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("occupant", OCCUPANTS)
def test_what_appears_during_the_block_is_not_touched(tmp_path: Path, new: New, renaming: str, occupant: str) -> None:
    appear, untouched = OCCUPANTS[occupant]
    target = tmp_path / "new"
    with pytest.raises(FileExistsError) as caught, new(target) as made:
        fill(made)
        appear(target)
    assert str(target) in str(caught.value)
    assert untouched(target)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("occupant", OCCUPANTS)
def test_without_the_exclusive_rename_a_file_still_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, occupant: str
) -> None:
    """However late it appears."""
    appear, untouched = OCCUPANTS[occupant]
    target = tmp_path / "new"
    link = os.link

    def late(*paths: Path) -> None:
        appear(target)
        link(*paths)

    without_exclusive_rename(monkeypatch)
    monkeypatch.setattr(os, "link", late)
    with pytest.raises(FileExistsError) as caught, new_file(target) as file:
        fill(file)
    assert str(target) in str(caught.value)
    assert untouched(target)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_it_vanishes_with_the_blocks_error(tmp_path: Path, new: New, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, new(tmp_path / "new") as made:
        fill(made)
        raise error
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_a_rename_that_fails_leaves_nothing(tmp_path: Path, new: New, monkeypatch: pytest.MonkeyPatch) -> None:
    _where_the_file_system_refuses(monkeypatch, errno.EACCES)
    with (
        pytest.raises(PermissionError, match=r"Permission denied: .*partial' -> .*new'"),
        new(tmp_path / "new"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_parent_must_be_there(tmp_path: Path, new: New) -> None:
    with pytest.raises(FileNotFoundError, match="No such file or directory"), new(tmp_path / "no" / "new"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "世" * 85, "🙂" * 63])
def test_the_longest_names_that_there_are(tmp_path: Path, new: New, name: str) -> None:
    with new(tmp_path / name) as made:
        fill(made)
        [partial] = partials(tmp_path)
        assert durable._PARTIAL.fullmatch(partial.name)  # a sweep would know it
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_scratch_directory_vanishes_with_the_block(tmp_path: Path) -> None:
    beside = tmp_path / "new.zip"
    beside.write_text("mine")
    with scratch_directory(beside) as scratch:
        assert scratch.parent == tmp_path
        assert durable._PARTIAL.fullmatch(scratch.name)
        fill(scratch)
    with pytest.raises(KeyboardInterrupt), scratch_directory(beside) as scratch:
        fill(scratch)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [beside]
    assert beside.read_text() == "mine"


def test_a_file_is_made_from_a_scratch_directory_beside_it(tmp_path: Path) -> None:
    """Neither's sweep takes the other for a dead one's."""
    with scratch_directory(tmp_path / "new") as scratch, new_file(tmp_path / "new") as file:
        with new_directory(tmp_path / "third"):
            pass
        fill(scratch)
        file.write((scratch / "data" / "rows").read_bytes())
    assert {path.name for path in tmp_path.iterdir()} == {"new", "third"}
    assert is_whole(tmp_path / "new")


# Durable


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


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for a descriptor's path")
def test_everything_is_synced_before_the_rename_and_the_parent_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[tuple[str, str]] = []
    _record(monkeypatch, log)
    with new_directory(tmp_path / "new") as partial:
        fill(partial)
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
def test_a_file_is_synced_before_the_rename_and_its_parent_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[tuple[str, str]] = []
    _record(monkeypatch, log)
    with new_file(tmp_path / "new") as file:
        fill(file)
        assert log == []
    partial = str(file.name)
    assert log == [("fsync", partial), ("rename", partial), ("fsync", str(tmp_path))]


def test_a_file_has_lost_its_other_name_when_the_parent_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the exclusive rename; after a power failure it would have two."""
    found: list[list[Path]] = []
    fsync = os.fsync

    def seen_fsync(descriptor: int) -> None:
        fsync(descriptor)
        found.append(list(tmp_path.iterdir()))

    without_exclusive_rename(monkeypatch)
    monkeypatch.setattr(os, "fsync", seen_fsync)
    with new_file(tmp_path / "new") as file:
        partial = Path(file.name)
    assert found == [[partial], [tmp_path / "new"]]


def test_a_link_is_not_followed_to_be_synced(tmp_path: Path) -> None:
    with new_directory(tmp_path / "new") as partial:
        fill(partial)
        (partial / "loop").symlink_to(".")
    assert (tmp_path / "new" / "loop").is_symlink()
    assert is_whole(tmp_path / "new")


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for a descriptor's path")
@pytest.mark.parametrize(
    ("new", "fail_at"),
    # Each fsync; the operation between is the rename, the last the parent's fsync.
    [*((new_directory, fail_at) for fail_at in (0, 1, 2, 3, 5)), (new_file, 0), (new_file, 2)],
)
def test_where_a_sync_fails_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: New, fail_at: int
) -> None:
    log: list[tuple[str, str]] = []
    removed: list[Path] = []
    remove = shutil.rmtree

    def logged_remove(path: Path, **options: Any) -> None:
        removed.append(path)
        remove(path, **options)

    _record(monkeypatch, log, fail_at)
    monkeypatch.setattr(shutil, "rmtree", logged_remove)
    with pytest.raises(OSError, match="Input/output error"), new(tmp_path / "new") as made:
        fill(made)
    assert len(log) == fail_at + 1
    assert list(tmp_path.iterdir()) == []
    assert tmp_path / "new" not in removed  # where someone who reads it could see half of it


def _without_syncing(patch: pytest.MonkeyPatch, refused: str, code: int) -> None:
    """A file system that cannot sync directories, or files."""
    fsync = os.fsync

    def some_fsync(descriptor: int) -> None:
        if os.path.isdir(f"/dev/fd/{descriptor}") == (refused == "directories"):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    patch.setattr(os, "fsync", some_fsync)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_directories_is_written_to(
    tmp_path: Path, new: New, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    _without_syncing(monkeypatch, "directories", code)
    with new(tmp_path / "new") as made:
        fill(made)
    assert is_whole(tmp_path / "new")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("refused", "code"),
    [("directories", errno.EIO), ("files", errno.EIO), ("files", errno.EINVAL), ("files", errno.ENOTSUP)],
)
def test_any_other_failure_to_sync_stops_the_write(
    tmp_path: Path, new: New, monkeypatch: pytest.MonkeyPatch, refused: str, code: int
) -> None:
    _without_syncing(monkeypatch, refused, code)
    with pytest.raises(OSError) as caught, new(tmp_path / "new") as made:
        fill(made)
    assert caught.value.errno == code
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_listed_is_not_taken_for_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterdir = Path.iterdir

    def some(self: Path) -> Iterator[Path]:
        if self.name == "data":
            raise OSError(errno.EIO, "Input/output error")
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", some)
    with pytest.raises(OSError, match="Input/output error"), new_directory(tmp_path / "new") as partial:
        fill(partial)
    assert list(tmp_path.iterdir()) == []


def test_descriptors_are_closed(tmp_path: Path, new: New) -> None:
    def descriptors() -> list[Any]:
        return sorted(os.listdir("/proc/self/fd")) if sys.platform == "linux" else []

    before = len(descriptors())
    (tmp_path / PARTIAL).mkdir()
    for i in range(3):
        with new(tmp_path / str(i)) as made:
            fill(made)
        with pytest.raises(ValueError, match="no"), new(tmp_path / "new"):
            raise ValueError("no")
        with scratch_directory(tmp_path / "new"):
            pass
    assert len(descriptors()) == before
    assert len(list(tmp_path.iterdir())) == 3
