"""What killed writers left is removed, and what a living one writes is not."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from exporttools.files import durable
from exporttools.files.durable import new_directory, new_file, scratch_directory
from tests.files.writing import PARTIAL, New, fill, is_whole, partials

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


@pytest.mark.parametrize(
    ("new", "left"), [("new_directory", ["new"]), ("new_file", ["new"]), ("scratch_directory", [])]
)
def test_a_living_writers_partial_stays_and_a_killed_ones_goes(tmp_path: Path, new: str, left: list[str]) -> None:
    with _writing(new, tmp_path / "new") as killed, _writing(new, tmp_path / "new") as living:
        before = partials(tmp_path)
        assert len(before) == 2
        _write(tmp_path / "first")
        assert partials(tmp_path) == before
        killed.kill()
        killed.wait()
        assert partials(tmp_path) == before
        _write(tmp_path / "second")
        [partial] = partials(tmp_path)
        assert partial in before
        living.communicate()
        assert living.returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second", *left}
    assert all(is_whole(tmp_path / name) for name in left)


def test_a_forked_child_keeps_a_dead_writers_partial_only_while_it_lives(tmp_path: Path) -> None:
    child = "if os.fork() == 0: sys.stdin.read(); os._exit(0)"
    with _writing("new_directory", tmp_path / "new", child) as writer:
        before = partials(tmp_path)
        writer.kill()
        writer.wait()
        _write(tmp_path / "first")
        assert partials(tmp_path) == before
        writer.communicate()  # until the child is done, which has the other end of the pipe
        _write(tmp_path / "second")
        assert partials(tmp_path) == []


def test_a_program_that_a_writer_executes_does_not_keep_its_partial(tmp_path: Path) -> None:
    program = "import subprocess; subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'])"
    with _writing("new_file", tmp_path / "new", program) as writer:
        assert len(partials(tmp_path)) == 1
        writer.kill()
        writer.wait()
        _write(tmp_path / "first")
        assert partials(tmp_path) == []
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
    assert is_whole(tmp_path / "new")
    assert (tmp_path / "new").stat().st_nlink == 2
    _write(tmp_path / "next")
    assert {path.name for path in tmp_path.iterdir()} == {"new", "next"}
    assert is_whole(tmp_path / "new")
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
            found.extend(path.name for path in partials(directory))
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
            [partial] = partials(directory)
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
        [partial] = partials(tmp_path)
        fill(made)
    assert len(set(found)) == times
    assert partial.name not in found
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]
    assert is_whole(tmp_path / "new")


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
    assert all(is_whole(path) for path in made)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.EBADF])
def test_without_locks_nothing_is_swept_and_writing_works(
    tmp_path: Path, new: New, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / PARTIAL).mkdir()
    with new(tmp_path / "new") as made, scratch_directory(tmp_path / "new"):
        assert len(partials(tmp_path)) == 3
        fill(made)
    assert {path.name for path in tmp_path.iterdir()} == {"new", PARTIAL}
    assert is_whole(tmp_path / "new")


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
            fill(made)
    assert {path.name for path in tmp_path.iterdir()} == {"new", PARTIAL}
    assert is_whole(tmp_path / "new")


@pytest.mark.parametrize("removed", ["at once", "slowly"])
def test_where_locks_do_not_reach_the_writer_fails_and_nobody_gets_half(
    tmp_path: Path, new: New, monkeypatch: pytest.MonkeyPatch, removed: str
) -> None:
    """As on a network file system whose locks hold on one machine: another machine sweeps a living writer's partial."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with pytest.raises(FileNotFoundError), new(tmp_path / "new") as made:
        fill(made)
        with monkeypatch.context() as patch:
            if removed == "slowly":
                patch.setattr(durable, "_remove", lambda _: None)
            durable._sweep(tmp_path)
    assert not (tmp_path / "new").exists()
    assert len(partials(tmp_path)) == (1 if removed == "slowly" else 0)
    _write(tmp_path / "next")
    assert [path.name for path in tmp_path.iterdir()] == ["next"]
