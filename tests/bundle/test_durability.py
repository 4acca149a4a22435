"""A bundle is there whole and durable or not at all, whatever kills its writer and whenever the disk is full.

Each test bears the number of its promise: 12 (killed at any moment), 13 (a full disk), 14 (durable). Run as a module,
this is the process that is killed, limited or given a small disk.
"""

from __future__ import annotations

import builtins
import ctypes
import errno
import io
import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporttools import (
    BundleError,
    ExportBundle,
    IncidentSnapshot,
    RunSnapshot,
    SnapshotTable,
    TraceStepSnapshot,
    TraceSummarySnapshot,
    read_bundle,
    verify_bundle,
    write_bundle,
)
from exporttools.records.schema import TRACE_STEPS
from tests.databases import incident, run, step, trace

FORMS: dict[str, dict[str, Any]] = {"directory": {}, "archive": {"archive": True}}

RENAMES = {"renameat2", "renamex_np", "rename", "link"}
REMOVALS = {"unlink", "rmdir"}

# What is called with the name and the first argument of an operation before it is done.
Seen = Callable[[str, Any], None]


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    """Each test runs with each form that a bundle can be written in."""
    return str(request.param)


def _without_waiting_for_the_disk(patch: pytest.MonkeyPatch) -> None:
    """Only a power failure could tell; some tests write hundreds of bundles."""
    patch.setattr(os, "fsync", lambda _: None)


def a_bundle(steps: int = 3) -> ExportBundle:
    # Hashes that no compression makes small.
    rows = (step(i, content_hash=f"{(i + 1) * 0x9E3779B97F4A7C15 % 2**64:016x}") for i in range(steps))
    return ExportBundle(
        incident=IncidentSnapshot(**incident()),
        run=RunSnapshot(**run()),
        trace=TraceSummarySnapshot(**trace()),
        steps=SnapshotTable.from_records(
            TraceStepSnapshot, [TraceStepSnapshot(**{name: row[name] for name in TRACE_STEPS.names}) for row in rows]
        ),
    )


# Every operation by which a bundle gets to disk


class _Written:
    """A file whose every write goes to the disk at once, and is seen when half of it is there."""

    seen: Seen

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        buffered: Any = super()
        buffered.write(view[: len(view) // 2])
        buffered.flush()
        self.seen("write", self)
        buffered.write(view[len(view) // 2 :])
        buffered.flush()
        return len(view)


class _Writer(_Written, io.BufferedWriter):
    pass


class _ReaderAndWriter(_Written, io.BufferedRandom):
    pass


def see_operations(patch: pytest.MonkeyPatch, seen: Seen) -> None:
    def watched(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def watching(*arguments: Any, **options: Any) -> Any:
            seen(name, arguments[0])
            return operation(*arguments, **options)

        return watching

    for name in ("fsync", "mkdir", "rename", "replace", "link", "unlink", "rmdir"):
        patch.setattr(os, name, watched(name, getattr(os, name)))

    library = ctypes.CDLL

    class Library:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._library = library(*arguments, **options)

        def __getattr__(self, name: str) -> Any:
            return watched(name, getattr(self._library, name))

    patch.setattr(ctypes, "CDLL", Library)

    opened, os_opened = io.open, os.open

    def os_open(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & os.O_CREAT:
            seen("create", path)
        return os_opened(path, flags, *arguments, **options)

    def open_file(file: Any, mode: str = "r", buffering: int = -1, *text: Any, **options: Any) -> Any:
        if not set(mode) & set("wxa+"):
            return opened(file, mode, buffering, *text, **options)
        if "r" not in mode:
            seen("create", file)
        raw: Any = io.FileIO(file, mode.replace("b", "").replace("t", ""))
        written = _ReaderAndWriter(raw) if "+" in mode else _Writer(raw)
        written.seen = seen
        return written if "b" in mode else io.TextIOWrapper(written, *text, **options)

    patch.setattr(os, "open", os_open)
    patch.setattr(io, "open", open_file)
    patch.setattr(builtins, "open", open_file)


def operations_of(write: Callable[[], object]) -> list[str]:
    """The names of the operations, in order."""
    names: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        see_operations(patch, lambda name, _: names.append(name))
        write()
    # Four Parquet files of several writes each, the description, the tag files: the tests are about all of them.
    assert len(names) > 40
    assert names.count("write") > 15
    assert names.count("create") >= 9
    assert names.count("mkdir") >= 2
    assert "fsync" in names
    assert RENAMES & set(names)
    return names


def at(index: int, happens: Callable[[], object]) -> Seen:
    count = itertools.count()

    def seen(_: str, __: Any) -> None:
        if next(count) == index:
            happens()

    return seen


# Other processes

_ONE_THREAD = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow's allocator
}


def _process(action: str, form: str, directory: Path, *arguments: object, prefix: tuple[str, ...] = ()) -> list[Any]:
    """Run one of the actions below in a process of its own; gives what it printed."""
    command = [*prefix, sys.executable, "-m", "tests.bundle.test_durability", action, form, str(directory)]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **_ONE_THREAD},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def _say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _in_a_child(work: Callable[[], object]) -> int:
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - what it is, its parent's caller reads
        traceback.print_exc()
    finally:
        os._exit(code)


def _kill_at_each_operation(form: str, directory: Path) -> None:
    bundle = a_bundle()
    write_bundle(bundle, directory / "first", **FORMS[form])  # imports what is imported late
    threads = os.listdir("/proc/self/task") if sys.platform == "linux" else ["main"]
    assert len(threads) == 1  # else a fork may find a lock held

    for index in itertools.count():
        path = directory / str(index) / "bundle"
        path.parent.mkdir()

        def write(path: Path = path, index: int = index) -> None:
            _without_waiting_for_the_disk(patch := pytest.MonkeyPatch())
            see_operations(patch, at(index, lambda: os.kill(os.getpid(), signal.SIGKILL)))
            write_bundle(bundle, path, **FORMS[form])

        status = _in_a_child(write)
        if not status:
            _say(index)
            return
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL


def _limit_the_size_of_files(form: str, directory: Path, *limits: str) -> None:
    bundle = a_bundle(20_000)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for limit in map(int, limits):

        def write(limit: int = limit) -> None:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            try:
                write_bundle(bundle, directory / str(limit) / "bundle", **FORMS[form])
            except BundleError as error:
                _say(str(error))  # into a pipe, which has no limit
            else:
                _say(None)

        assert _in_a_child(write) == 0


_DISK_PAGES = 256


def _fill_a_small_disk(form: str, disk: Path) -> None:
    older = write_bundle(a_bundle(), disk / "older", **FORMS[form])
    before = _content(older)
    ballast = disk / "ballast"
    message: str | None
    for pages in range(_DISK_PAGES // 2):
        ballast.write_bytes(b"")
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize
        ballast.write_bytes(b"\0" * (free - pages * resource.getpagesize()))
        left = os.statvfs(disk).f_bavail
        try:
            write_bundle(a_bundle(), disk / "bundle", **FORMS[form])
            message = None
        except BundleError as error:
            message = str(error)
        _say({
            "message": message,
            "names": sorted(path.name for path in disk.iterdir()),
            "freed": os.statvfs(disk).f_bavail == left,
            "older": _content(older) == before and verify_bundle(older).ok,
            "verified": message is None and verify_bundle(disk / "bundle").ok,
        })  # fmt: skip
        if message is None:
            return


def _content(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


# The promises


def _no_space(path: Path) -> str:
    """What is said, as a pattern: some operations name their files."""
    error = re.escape(f"{path} could not be written: [Errno {errno.ENOSPC}] No space left on device")
    return rf"{error}(: .*)?\. Nothing was left behind"


@pytest.mark.slow
def test_promise_12_killed_at_any_moment_leaves_nothing_or_a_verified_bundle(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_waiting_for_the_disk(monkeypatch)
    bundle = a_bundle()
    names = operations_of(lambda: write_bundle(bundle, tmp_path / "counted", **FORMS[form]))
    (tmp_path / "killed").mkdir()
    assert _process("kill", form, tmp_path / "killed") == [len(names)]
    there, partials = [], 0
    for index, name in enumerate(names):
        directory = tmp_path / "killed" / str(index)
        path, beside = directory / "bundle", directory / "next"
        left = set(directory.iterdir())
        there.append(path in left)
        partials += len(left - {path})
        assert len(left - {path}) <= 2, name  # a directory for what is worked on, and what is made of it
        assert all(re.fullmatch(r"\.bundle\.[0-9a-f]{16}\.exporttools-partial", found.name) for found in left - {path})
        assert [verify_bundle(whole).findings for whole in left & {path}] in ([], [()])
        again = write_bundle(bundle, beside if path in left else path, **FORMS[form])
        assert set(directory.iterdir()) == {path, again}
        assert read_bundle(path) == bundle
    assert set(there) == {False, True}
    assert there == sorted(there)  # once there, it stays
    assert partials > 40


def test_promise_13_a_disk_full_at_any_operation_is_told_and_leaves_nothing(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_waiting_for_the_disk(monkeypatch)
    bundle = a_bundle()
    names = operations_of(lambda: write_bundle(bundle, tmp_path / "counted", **FORMS[form]))
    older = write_bundle(a_bundle(4), tmp_path / "older", **FORMS[form])
    before = _content(older)

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    told: list[tuple[Path, str]] = []
    whole: list[tuple[Path, str]] = []
    for index, name in enumerate(names):
        directory = tmp_path / str(index)
        directory.mkdir()
        (shutil.copyfile if older.is_file() else shutil.copytree)(older, directory / "older")
        path = directory / "bundle"
        with pytest.MonkeyPatch.context() as patch:
            see_operations(patch, at(index, full))
            try:
                write_bundle(bundle, path, **FORMS[form])
            except BundleError as error:
                told.append((path, str(error)))
            else:
                whole.append((path, name))
    for path, name in whole:  # the working files could not be removed: the bundle is there, and the next write sweeps
        assert name in REMOVALS
        assert verify_bundle(path).ok
        write_bundle(bundle, path.with_name("next"), **FORMS[form])
        assert {found.name for found in path.parent.iterdir()} == {"older", "bundle", "next"}
        assert _content(path.with_name("older")) == before
    for path, message in told:
        assert re.fullmatch(_no_space(path), message)
        assert [found.name for found in path.parent.iterdir()] == ["older"]
        assert _content(path.with_name("older")) == before
    assert len(told) == len(names) - sum(name in REMOVALS for name in names)
    assert verify_bundle(older).ok


def test_promise_13_a_file_that_may_not_grow_is_told_and_leaves_nothing(tmp_path: Path, form: str) -> None:
    clean = write_bundle(a_bundle(20_000), tmp_path / "clean", **FORMS[form])
    older = write_bundle(a_bundle(), tmp_path / "older", **FORMS[form])
    largest = max(map(len, _content(clean).values()))
    assert largest > 200_000  # more than any buffer takes
    *small, enough = 0, 1, 1000, 100_000, largest // 2, largest - 100, 2 * largest
    for limit in (*small, enough):
        (tmp_path / str(limit)).mkdir()
        (shutil.copyfile if older.is_file() else shutil.copytree)(older, tmp_path / str(limit) / "older")
    messages = _process("limit", form, tmp_path, *small, enough)
    assert messages == [
        f"{tmp_path}/{limit}/bundle could not be written: [Errno {errno.EFBIG}] File too large. Nothing was left behind"
        for limit in small
    ] + [None]
    for limit in (*small, enough):
        names = {"older"} if limit in small else {"older", "bundle"}
        assert {path.name for path in (tmp_path / str(limit)).iterdir()} == names
        assert _content(tmp_path / str(limit) / "older") == _content(older)
    assert verify_bundle(older).ok
    assert read_bundle(tmp_path / str(enough) / "bundle") == a_bundle(20_000)


def test_promise_13_a_small_disk_with_ever_more_room(tmp_path: Path, form: str) -> None:
    script = f'mount -t tmpfs -o size={_DISK_PAGES * resource.getpagesize()} none "$0" && exec "$@"'
    own_mounts = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(tmp_path))
    if shutil.which("unshare") is None or subprocess.run([*own_mounts, "true"], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    *full, last = _process("fill", form, tmp_path, prefix=own_mounts)
    assert len(full) >= 5
    for said in full:
        assert re.fullmatch(_no_space(tmp_path / "bundle"), said.pop("message"))
        assert said == {"names": ["ballast", "older"], "freed": True, "older": True, "verified": False}
    names = ["ballast", "bundle", "older"]
    assert last == {"message": None, "names": names, "freed": False, "older": True, "verified": True}


def test_promise_14_all_is_synced_before_the_rename_and_the_parent_after(tmp_path: Path, form: str) -> None:
    events: list[tuple[str, Any, Any]] = []

    def seen(name: str, argument: Any) -> None:
        if name == "fsync":
            status = os.fstat(argument)
            events.append((name, (status.st_dev, status.st_ino), (status.st_size, status.st_mtime_ns)))
        elif name in RENAMES:
            events.append((name, None, None))

    with pytest.MonkeyPatch.context() as patch:
        see_operations(patch, seen)
        bundle = write_bundle(a_bundle(), tmp_path / "bundle", **FORMS[form])
    [rename] = [i for i, (name, _, _) in enumerate(events) if name != "fsync"]
    synced = {inode: state for _, inode, state in events[:rename]}
    paths = [bundle, *bundle.rglob("*")]
    assert len(paths) == (1 if bundle.is_file() else 12)
    for path in paths:
        status = path.stat()
        # As it was when it was synced, too: nothing was written after.
        assert synced[status.st_dev, status.st_ino] == (status.st_size, status.st_mtime_ns), path
    parent = tmp_path.stat()
    assert (parent.st_dev, parent.st_ino) in {inode for _, inode, _ in events[rename + 1 :]}


if __name__ == "__main__":
    _ACTIONS = {"kill": _kill_at_each_operation, "limit": _limit_the_size_of_files, "fill": _fill_a_small_disk}
    _ACTIONS[sys.argv[1]](sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])
