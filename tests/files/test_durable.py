"""A directory or a file appears whole or not at all, never in another's place, and what a killed writer left goes."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from exporttools.files import durable
from exporttools.files.durable import new_directory, new_file, scratch_directory

Appear = Callable[[Path], object]
New = Callable[[Path], AbstractContextManager[Path | BinaryIO]]

# What may be at the target: (how it gets there, how it looks afterwards where it was not touched).
OCCUPANTS: dict[str, tuple[Appear, Callable[[Path], object]]] = {
    "file": (lambda path: path.write_text("mine"), lambda path: path.read_text() == "mine"),
    "empty directory": (lambda path: path.mkdir(), lambda path: list(path.iterdir()) == []),
    "full directory": (lambda path: (path / "mine").mkdir(parents=True), lambda path: (path / "mine").is_dir()),
    "dangling symlink": (lambda path: path.symlink_to("nowhere"), lambda path: str(path.readlink()) == "nowhere"),
    "symlink to a directory": (lambda path: path.symlink_to("."), lambda path: str(path.readlink()) == "."),
    "pipe": (os.mkfifo, lambda path: path.is_fifo()),
}

PARTIAL = ".new.0123456789abcdef.exporttools-partial"


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
        _without_exclusive_rename(monkeypatch)
    elif name != "exclusive rename":
        _where_the_file_system_refuses(monkeypatch, getattr(errno, name))
    return str(request.param)


@pytest.fixture(params=[new_directory, new_file])
def new(request: pytest.FixtureRequest) -> New:
    """Each test runs with a directory and with a file."""
    made: New = request.param
    return made


def _fill(made: Path | BinaryIO) -> None:
    if isinstance(made, Path):
        (made / "data").mkdir()
        (made / "data" / "rows").write_text("rows")
        (made / "manifest").write_text("manifest")
    else:
        made.write(b"rows")


def _is_whole(path: Path) -> bool:
    if path.is_dir():
        return (path / "data" / "rows").read_text() == "rows" and (path / "manifest").read_text() == "manifest"
    return path.read_bytes() == b"rows"


def _partials(directory: Path) -> list[Path]:
    return sorted(directory.glob(".*.exporttools-partial"))


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
        _fill(made)
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

    _without_exclusive_rename(monkeypatch)
    monkeypatch.setattr(os, "link", late)
    with pytest.raises(FileExistsError) as caught, new_file(target) as file:
        _fill(file)
    assert str(target) in str(caught.value)
    assert untouched(target)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_it_vanishes_with_the_blocks_error(tmp_path: Path, new: New, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, new(tmp_path / "new") as made:
        _fill(made)
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
        _fill(made)
        [partial] = _partials(tmp_path)
        assert durable._PARTIAL.fullmatch(partial.name)  # a sweep would know it
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_scratch_directory_vanishes_with_the_block(tmp_path: Path) -> None:
    beside = tmp_path / "new.zip"
    beside.write_text("mine")
    with scratch_directory(beside) as scratch:
        assert scratch.parent == tmp_path
        assert durable._PARTIAL.fullmatch(scratch.name)
        _fill(scratch)
    with pytest.raises(KeyboardInterrupt), scratch_directory(beside) as scratch:
        _fill(scratch)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [beside]
    assert beside.read_text() == "mine"


def test_a_file_is_made_from_a_scratch_directory_beside_it(tmp_path: Path) -> None:
    """Neither's sweep takes the other for a dead one's."""
    with scratch_directory(tmp_path / "new") as scratch, new_file(tmp_path / "new") as file:
        with new_directory(tmp_path / "third"):
            pass
        _fill(scratch)
        file.write((scratch / "data" / "rows").read_bytes())
    assert {path.name for path in tmp_path.iterdir()} == {"new", "third"}
    assert _is_whole(tmp_path / "new")


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
def test_a_file_is_synced_before_the_rename_and_its_parent_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[tuple[str, str]] = []
    _record(monkeypatch, log)
    with new_file(tmp_path / "new") as file:
        _fill(file)
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

    _without_exclusive_rename(monkeypatch)
    monkeypatch.setattr(os, "fsync", seen_fsync)
    with new_file(tmp_path / "new") as file:
        partial = Path(file.name)
    assert found == [[partial], [tmp_path / "new"]]


def test_a_link_is_not_followed_to_be_synced(tmp_path: Path) -> None:
    with new_directory(tmp_path / "new") as partial:
        _fill(partial)
        (partial / "loop").symlink_to(".")
    assert (tmp_path / "new" / "loop").is_symlink()
    assert _is_whole(tmp_path / "new")


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
        _fill(made)
    assert len(log) == fail_at + 1
    assert list(tmp_path.iterdir()) == []
    assert tmp_path / "new" not in removed  # where someone who reads it could see half of it


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
@pytest.mark.parametrize("refused", ["directories", "files"])
def test_only_a_directory_may_be_one_that_cannot_be_synced(
    tmp_path: Path, new: New, monkeypatch: pytest.MonkeyPatch, code: int, refused: str
) -> None:
    fsync = os.fsync

    def some_fsync(descriptor: int) -> None:
        if os.path.isdir(f"/dev/fd/{descriptor}") == (refused == "directories"):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", some_fsync)
    if refused == "directories" and code != errno.EIO:
        with new(tmp_path / "new") as made:
            _fill(made)
        assert _is_whole(tmp_path / "new")
        assert len(list(tmp_path.iterdir())) == 1
    else:
        with pytest.raises(OSError) as caught, new(tmp_path / "new") as made:
            _fill(made)
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
        _fill(partial)
    assert list(tmp_path.iterdir()) == []


def test_descriptors_are_closed(tmp_path: Path, new: New) -> None:
    def descriptors() -> list[Any]:
        return sorted(os.listdir("/proc/self/fd")) if sys.platform == "linux" else []

    before = len(descriptors())
    (tmp_path / PARTIAL).mkdir()
    for i in range(3):
        with new(tmp_path / str(i)) as made:
            _fill(made)
        with pytest.raises(ValueError, match="no"), new(tmp_path / "new"):
            raise ValueError("no")
        with scratch_directory(tmp_path / "new"):
            pass
    assert len(descriptors()) == before
    assert len(list(tmp_path.iterdir())) == 3


# What killed processes left

_WRITER = """
import os, signal, sys
from pathlib import Path
from exporttools.files import durable

with getattr(durable, sys.argv[1])(Path(sys.argv[2])) as made:
    {before}
    print("ready", flush=True)
    sys.stdin.read()
    if isinstance(made, Path):
        (made / "data").mkdir()
        (made / "data" / "rows").write_text("rows")
        (made / "manifest").write_text("manifest")
    else:
        made.write(b"rows")
"""


@contextmanager
def _writing(new: str, path: Path, before: str = "pass") -> Iterator[subprocess.Popen[str]]:
    """A process that has begun to write, and goes on when its input ends."""
    command = [sys.executable, "-c", _WRITER.format(before=before), new, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def _write(path: Path) -> None:
    with new_file(path) as file:
        file.write(b"rows")


@pytest.mark.parametrize("new", ["new_directory", "new_file", "scratch_directory"])
def test_a_living_writers_partial_stays_and_a_killed_ones_goes(tmp_path: Path, new: str) -> None:
    with _writing(new, tmp_path / "new") as killed, _writing(new, tmp_path / "new") as living:
        before = _partials(tmp_path)
        assert len(before) == 2
        _write(tmp_path / "first")
        assert _partials(tmp_path) == before
        killed.kill()
        killed.wait()
        assert _partials(tmp_path) == before
        _write(tmp_path / "second")
        [partial] = _partials(tmp_path)
        assert partial in before
        living.communicate()
        assert living.returncode == 0
    left = {path.name for path in tmp_path.iterdir()} - {"first", "second"}
    if new == "scratch_directory":
        assert left == set()
    else:
        assert left == {"new"}
        assert _is_whole(tmp_path / "new")


def test_a_forked_child_keeps_a_dead_writers_partial_only_while_it_lives(tmp_path: Path) -> None:
    child = "if os.fork() == 0: sys.stdin.read(); os._exit(0)"
    with _writing("new_directory", tmp_path / "new", child) as writer:
        before = _partials(tmp_path)
        writer.kill()
        writer.wait()
        _write(tmp_path / "first")
        assert _partials(tmp_path) == before
        writer.communicate()  # until the child is done, which has the other end of the pipe
        _write(tmp_path / "second")
        assert _partials(tmp_path) == []


def test_a_program_that_a_writer_executes_does_not_keep_its_partial(tmp_path: Path) -> None:
    program = "import subprocess; subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'])"
    with _writing("new_file", tmp_path / "new", program) as writer:
        assert len(_partials(tmp_path)) == 1
        writer.kill()
        writer.wait()
        _write(tmp_path / "first")
        assert _partials(tmp_path) == []
        writer.communicate()


def test_a_file_killed_between_its_link_and_the_end_is_whole(tmp_path: Path) -> None:
    """Without the exclusive rename a file has both names for a moment."""
    killing = (
        "import ctypes; ctypes.CDLL = lambda *_, **__: None; link = os.link; "
        "os.link = lambda *paths: (link(*paths), os.kill(os.getpid(), signal.SIGKILL))"
    )
    with _writing("new_file", tmp_path / "new", killing) as writer:
        writer.communicate()
        assert writer.returncode == -9
    assert _is_whole(tmp_path / "new")
    assert (tmp_path / "new").stat().st_nlink == 2
    _write(tmp_path / "next")
    assert {path.name for path in tmp_path.iterdir()} == {"new", "next"}
    assert _is_whole(tmp_path / "new")
    assert (tmp_path / "new").stat().st_nlink == 1


@pytest.mark.parametrize(
    "name",
    [
        "new",
        ".new.1234.abcdef01.partial",
        "new.0123456789abcdef.exporttools-partial",
        ".new.0123456789abcde.exporttools-partial",
        ".new.0123456789abcdef0.exporttools-partial",
        ".new.0123456789ABCDEF.exporttools-partial",
        ".new.0123456789abcdeg.exporttools-partial",
        ".new.0123456789abcdef.exporttools-partial.txt",
        ".new.0123456789abcdef.exporttools-partial\n",
        ".new.0123456789abcdef.exporttools_partial",
        ".0123456789abcdef.exporttools-partial",
        f".{'x' * 41}.0123456789abcdef.exporttools-partial",
    ],
)
def test_only_names_of_exactly_our_pattern_are_swept(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "file").write_text("mine")
    _write(tmp_path / "next")
    assert (tmp_path / name / "file").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "name", [PARTIAL, PARTIAL.replace("new", ""), PARTIAL.replace("new", "a\n"), PARTIAL.replace("new", "é" * 40)]
)
@pytest.mark.parametrize("new", [new_directory, new_file, scratch_directory])
def test_no_link_is_followed(tmp_path: Path, new: New, name: str) -> None:
    """Neither one of our name nor one inside of a partial."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    (outside / "kept").mkdir(parents=True)
    (outside / "file").write_text("mine")
    (inside / name / "data").mkdir(parents=True)
    (inside / name / "data" / "file").write_text("a dead writer's")
    (inside / name / "link").symlink_to(outside)
    os.link(outside / "file", inside / name.replace("0", "1"))
    links = {inside / name.replace("0", "2"): outside, inside / name.replace("0", "3"): outside / "file"}
    for link, aim in links.items():
        link.symlink_to(aim)
    with new(inside / "new"):
        assert not (inside / name).exists()
    assert set(inside.iterdir()) - {inside / "new"} == set(links)
    assert (outside / "file").read_text() == "mine"
    assert (outside / "kept").is_dir()


def test_what_a_link_of_our_name_leads_to_is_not_even_locked(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / PARTIAL).symlink_to(outside)
    locked: list[int] = []
    flock = fcntl.flock

    def seen_flock(descriptor: int, operation: int) -> None:
        locked.append(os.fstat(descriptor).st_ino)
        flock(descriptor, operation)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", seen_flock)
        _write(tmp_path / "next")
    assert locked == [(tmp_path / "next").stat().st_ino]


def test_a_pipe_of_our_name_holds_nothing_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / PARTIAL)
    _write(tmp_path / "next")
    assert [path.name for path in tmp_path.iterdir()] == ["next"]


def _sweeping_at(patch: pytest.MonkeyPatch, moment: str, directory: Path, times: int) -> list[str]:
    """Let another writer's sweep come between the making of a partial and its lock; gives what it found."""
    found: list[str] = []
    left = list(range(times))
    opened, flock = os.open, fcntl.flock

    def sweep() -> None:
        if left:
            left.pop()
            found.extend(path.name for path in _partials(directory))
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(os, "open", opened)
                inner.setattr(fcntl, "flock", flock)
                durable._sweep(directory)

    def late_open(path: Any, *arguments: Any, **options: Any) -> int:
        partial = durable._PARTIAL.fullmatch(os.path.basename(path))
        if moment == "before it is opened" and partial and not arguments[0] & os.O_CREAT:
            sweep()
        return opened(path, *arguments, **options)

    def late_flock(descriptor: int, operation: int) -> None:
        if moment == "before it is locked":
            sweep()
        if moment == "while it is locked" and left:
            left.pop()
            [partial] = _partials(directory)
            found.append(partial.name)
            other = opened(partial, os.O_RDONLY)
            try:  # a sweep that has the lock, and has not yet removed anything
                flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                flock(descriptor, operation)
            finally:
                os.close(other)
        flock(descriptor, operation)

    patch.setattr(os, "open", late_open)
    patch.setattr(fcntl, "flock", late_flock)
    return found


MOMENTS = ["before it is opened", "before it is locked", "while it is locked"]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("times", [1, 2, 9])
def test_a_sweep_between_the_making_and_the_lock_is_survived(
    tmp_path: Path, new: New, monkeypatch: pytest.MonkeyPatch, moment: str, times: int
) -> None:
    found = _sweeping_at(monkeypatch, moment, tmp_path, times)
    with new(tmp_path / "new") as made:
        [partial] = _partials(tmp_path)
        _fill(made)
    assert len(set(found)) == times
    assert partial.name not in found
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]
    assert _is_whole(tmp_path / "new")


@pytest.mark.parametrize("moment", MOMENTS)
def test_sweeps_that_never_end_are_told(tmp_path: Path, new: New, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    found = _sweeping_at(monkeypatch, moment, tmp_path, 10)
    with pytest.raises(BlockingIOError) as caught, new(tmp_path / "new"):
        pass
    assert str(caught.value) == (
        f"[Errno {errno.EAGAIN}] other processes swept each of 10 new partials: '{tmp_path / 'new'}'"
    )
    assert len(set(found)) == 10
    assert list(tmp_path.iterdir()) == []


def test_many_writers_sweep_beside_each_other(tmp_path: Path) -> None:
    """Real processes: each write sweeps, and no living writer's partial may go."""
    script = """
import sys
from pathlib import Path
from exporttools.files.durable import new_directory, new_file, scratch_directory

parent, name = Path(sys.argv[1]), sys.argv[2]
sys.stdin.read()
for i in range(60):
    with new_directory(parent / f"{name}-{i}-directory") as partial:
        (partial / "data").mkdir()
        (partial / "data" / "rows").write_text("rows")
        (partial / "manifest").write_text("manifest")
    with scratch_directory(parent / name) as scratch, new_file(parent / f"{name}-{i}-file") as file:
        (scratch / "rows").write_text("rows")
        file.write((scratch / "rows").read_bytes())
    # What a killed writer leaves, for all to quarrel about.
    left = parent / f"left-{name}"
    (left / "data").mkdir(parents=True)
    left.rename(parent / f".{name}.{i:016x}.exporttools-partial")
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(i)], stdin=subprocess.PIPE) for i in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()  # all begin
    assert [process.wait() for process in processes] == [0] * 4
    durable._sweep(tmp_path)
    made = list(tmp_path.iterdir())
    assert {path.name for path in made} == {
        f"{i}-{j}-{kind}" for i in range(4) for j in range(60) for kind in ("directory", "file")
    }
    assert all(_is_whole(path) for path in made)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.EBADF])
def test_without_locks_nothing_is_swept_and_writing_works(
    tmp_path: Path, new: New, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / PARTIAL).mkdir()
    with new(tmp_path / "new") as made, scratch_directory(tmp_path / "new"):
        assert len(_partials(tmp_path)) == 3
        _fill(made)
    assert {path.name for path in tmp_path.iterdir()} == {"new", PARTIAL}
    assert _is_whole(tmp_path / "new")


@pytest.mark.parametrize("hindered", ["iterdir", "rename"])
def test_a_sweep_that_is_hindered_hinders_no_writing(
    tmp_path: Path, new: New, monkeypatch: pytest.MonkeyPatch, hindered: str
) -> None:
    """In another's directory, or with another's partial."""
    real = getattr(Path, hindered)

    def denied(self: Path, *arguments: Path) -> Any:
        if self in (tmp_path, tmp_path / PARTIAL):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(self, *arguments)

    (tmp_path / PARTIAL).mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Path, hindered, denied)
        with new(tmp_path / "new") as made:
            _fill(made)
    assert {path.name for path in tmp_path.iterdir()} == {"new", PARTIAL}
    assert _is_whole(tmp_path / "new")


@pytest.mark.parametrize("removed", ["at once", "slowly"])
def test_where_locks_do_not_reach_the_writer_fails_and_nobody_gets_half(
    tmp_path: Path, new: New, monkeypatch: pytest.MonkeyPatch, removed: str
) -> None:
    """As on a network file system whose locks hold on one machine: another machine sweeps a living writer's partial."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with pytest.raises(FileNotFoundError), new(tmp_path / "new") as made:
        _fill(made)
        with monkeypatch.context() as patch:
            if removed == "slowly":
                patch.setattr(durable, "_remove", lambda _: None)
            durable._sweep(tmp_path)
    assert not (tmp_path / "new").exists()
    assert len(_partials(tmp_path)) == (1 if removed == "slowly" else 0)
    _write(tmp_path / "next")
    assert [path.name for path in tmp_path.iterdir()] == ["next"]
