"""How a bag's files are opened: only its own, only regular ones, each once, and whoever swaps one is found out."""

from __future__ import annotations

import array
import contextlib
import hashlib
import io
import os
import resource
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exporttools import BundleUnreadable
from exporttools.bundle import contents
from exporttools.bundle.contents import MOST_ENTRIES, FileSlice, open_bag

NAMES = {"bagit.txt": 100, "data/a": 1000, "data/b": 1000}
MAY = {"signature": 10}
CONTENTS = {"bagit.txt": b"declared\n", "data/a": b"first" * 9, "data/b": b""}


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    directory = tmp_path / "bag"
    (directory / "data").mkdir(parents=True)
    for name, content in CONTENTS.items():
        (directory / name).write_bytes(content)
    return directory


@pytest.fixture
def hundred(tmp_path: Path) -> Iterator[int]:
    """A descriptor of a file of the bytes 0 to 99."""
    (tmp_path / "hundred").write_bytes(bytes(range(100)))
    descriptor = os.open(tmp_path / "hundred", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def opened(path: Path) -> tuple[dict[str, bytes], list[str]]:
    """The bytes of the files that can be used, and the findings."""
    with open_bag(path, required=NAMES, optional=MAY) as found:
        return {name: file.read() for name, file in found.files.items()}, [str(finding) for finding in found.findings]


def descriptors() -> list[str]:
    return sorted(os.listdir("/dev/fd"))


# Slices of a file


def test_slices_of_one_file_have_their_own_positions(hundred: int) -> None:
    one, other = FileSlice(hundred, 10, 20), FileSlice(hundred, 50, 5)
    assert one.read(3) + other.read(2) + one.read(1) == bytes([10, 11, 12, 50, 51, 13])
    assert (one.tell(), one.seek(-2, os.SEEK_END), one.read(), one.read(1)) == (4, 18, bytes([28, 29]), b"")
    assert (one.seek(5), one.seek(1, os.SEEK_CUR), one.read(1)) == (5, 6, bytes([16]))
    assert (one.seek(1000), one.read(1), one.read(), one.tell()) == (1000, b"", b"", 1000)
    assert (one.readable(), one.seekable(), one.writable(), one.size) == (True, True, False, 20)
    with pytest.raises(OSError, match="Invalid argument"):
        one.seek(-1)


def test_a_slice_fills_any_buffer(hundred: int) -> None:
    numbers = array.array("H", bytes(8))
    assert FileSlice(hundred, 10, 20).readinto(numbers) == 8
    assert numbers.tobytes() == bytes(range(10, 18))
    assert FileSlice(hundred, 90, 10).read() == bytes(range(90, 100))
    assert io.BufferedReader(FileSlice(hundred, 0, 100), 7).read(30) == bytes(range(30))


def test_a_slice_takes_no_more_memory_than_it_has_bytes(hundred: int) -> None:
    file_slice = FileSlice(hundred, 10, 20)
    assert file_slice.read(1 << 60) == bytes(range(10, 30))


def test_a_closed_slice_does_not_read_what_has_its_number_now(bag: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret" * 9)
    with open_bag(bag, required=NAMES, optional={}) as found:
        file_slice = found.files["data/a"]
    others = [os.open(tmp_path / "secret", os.O_RDONLY) for _ in range(8)]
    try:
        for read in (file_slice.read, lambda: file_slice.readinto(bytearray(4))):
            with pytest.raises(ValueError, match="I/O operation on closed file"):
                read()
    finally:
        for descriptor in others:
            os.close(descriptor)


@pytest.mark.parametrize("size", [0, 1, 7, 20, 99])
def test_a_slice_takes_its_end_from_memory_once_it_is_held(hundred: int, tmp_path: Path, size: int) -> None:
    file_slice = FileSlice(hundred, 10, 20)
    file_slice.hold_end(size)
    (tmp_path / "hundred").write_bytes(bytes(100))
    held = min(size, 20)
    expected = bytes(20 - held) + bytes(range(30 - held, 30))
    assert file_slice.read() == expected
    for start in range(20):
        file_slice.seek(start)
        assert file_slice.read(4) == expected[start : start + 4]


@pytest.mark.parametrize("left", [0, 15, 29])
def test_a_file_that_shrinks_is_an_error_and_no_endless_loop(hundred: int, tmp_path: Path, left: int) -> None:
    file_slice = FileSlice(hundred, 10, 20)
    os.truncate(tmp_path / "hundred", left)
    for read in (file_slice.read, lambda: hashlib.file_digest(file_slice, "sha256")):
        file_slice.seek(0)
        with pytest.raises(OSError, match="the file was truncated while being read"):
            read()


def test_hashlib_and_pyarrow_read_a_slice(tmp_path: Path) -> None:
    table = pa.table({"n": list(range(50_000)), "text": [f"row {i}" for i in range(50_000)]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=7_000)
    content = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "inside").write_bytes(b"before" + content + b"after")
    with (tmp_path / "inside").open("rb") as file:
        file_slice = FileSlice(file.fileno(), 6, len(content))
        assert hashlib.file_digest(file_slice, "sha256").digest() == hashlib.sha256(content).digest()
        with pq.ParquetFile(file_slice) as parquet:
            assert parquet.read().equals(table)
            assert [len(batch) for batch in parquet.iter_batches(20_000)] == [20_000, 20_000, 10_000]
        assert not file_slice.closed
        assert (file_slice.seek(0), file_slice.read(4)) == (0, b"PAR1")


# A directory


def test_the_files_of_a_bag(bag: Path, tmp_path: Path) -> None:
    assert opened(bag) == (CONTENTS, [])
    (bag / "signature").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to(bag)
    assert opened(tmp_path / "link") == (CONTENTS | {"signature": b"0123456789"}, [])


def _instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    def mutate(bag: Path) -> None:
        (bag / name).unlink()
        make(bag / name)

    return mutate


def _move_data(to: str, link: bool = False) -> Callable[[Path], object]:
    def mutate(bag: Path) -> None:
        (bag / "data").rename(bag / to)
        if link:
            (bag / "data").symlink_to(to)

    return mutate


def _empty(bag: Path) -> None:
    shutil.rmtree(bag)
    bag.mkdir()


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(path.parent):  # the path of a socket is short
        listening.bind(path.name)


A, B = "data/a", "data/b"
MISSING = [f"missing: {name}: expected a file; found nothing" for name in (A, B)]
LINKED = "linked: data/a: expected a file with one name; found a file with 2 hard links"
TREES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "gone": (lambda bag: (bag / A).unlink(), MISSING[:1]),
    "added": (lambda bag: (bag / "data/c").touch(), ["unexpected: data/c: expected no file of that name; found a file"]),
    "a socket added": (
        lambda bag: _socket(bag / "s"), ["unexpected: s: expected no file of that name; found a special file"],
    ),
    "a directory added": (
        lambda bag: (bag / "data/d").mkdir(), ["unexpected: data/d: expected no file of that name; found a directory"],
    ),
    "a pipe": (_instead(A, os.mkfifo), ["not-a-file: data/a: expected a regular file; found a pipe"]),
    "a socket": (_instead(A, _socket), ["not-a-file: data/a: expected a regular file; found a special file"]),
    "a link": (
        _instead(A, lambda path: path.symlink_to("b")),
        ["not-a-file: data/a: expected a regular file; found a symbolic link"],
    ),
    "a directory": (_instead(A, Path.mkdir), ["not-a-file: data/a: expected a regular file; found a directory"]),
    "a second name outside": (lambda bag: os.link(bag / A, bag.parent / "second"), [LINKED]),
    "a byte too many": (
        lambda bag: (bag / A).write_bytes(bytes(1001)), ["too-large: data/a: expected at most 1,000 bytes; found 1,001 bytes"],
    ),
    "an optional one too large": (
        lambda bag: (bag / "signature").write_bytes(bytes(11)), ["too-large: signature: expected at most 10 bytes; found 11 bytes"],
    ),
    "data a link": (
        _move_data("../kept", link=True),
        ["unexpected: data: expected data, spelled exactly like that; found a symbolic link", *MISSING],
    ),
    "another case": (
        lambda bag: (bag / A).rename(bag / "data/A"),
        ["unexpected: data/A: expected data/a, spelled exactly like that; found a file", MISSING[0]],
    ),
    "another form": (
        lambda bag: (bag / "data/ａ").touch(),
        ["unexpected: data/ａ: expected data/a, spelled exactly like that; found a file"],
    ),
    "another case of the directory": (
        _move_data("Data"),
        ["unexpected: Data: expected data, spelled exactly like that; found a directory", *MISSING],
    ),
    "empty": (
        _empty,
        ["missing: bagit.txt: expected a file; found nothing", *MISSING],
    ),
}  # fmt: skip


@pytest.mark.parametrize("mutation", TREES)
def test_promise_04_what_is_not_the_bags_own_is_found(bag: Path, mutation: str) -> None:
    mutate, expected = TREES[mutation]
    mutate(bag)
    found, findings = opened(bag)
    assert findings == expected
    assert not found.keys() & {finding.split(": ")[1] for finding in findings}
    assert {name: CONTENTS[name] for name in found} == found


def test_where_directories_cannot_be_held_open_the_same_is_found(bag: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "_HOLDS_DIRECTORIES", False)
    monkeypatch.delattr(os, "preadv")
    assert opened(bag) == (CONTENTS, [])
    (bag / "data/A").touch()
    assert opened(bag)[1] == ["unexpected: data/A: expected data/a, spelled exactly like that; found a file"]
    os.truncate(bag / "data/a", 0)
    os.link(bag / "data/a", bag.parent / "second")
    assert opened(bag)[1][1:] == [LINKED]


@pytest.mark.parametrize(("place", "said"), [("", "."), ("data/", "data/")])
@pytest.mark.parametrize("more", [0, 1, 200])
def test_too_many_names_are_said(bag: Path, place: str, said: str, more: int) -> None:
    for i in range(MOST_ENTRIES - 2 + more):
        (bag / place / f"n{i}").touch()
    with open_bag(bag, required=NAMES, optional={}) as found:
        codes = [finding.code for finding in found.findings]
        texts = [str(finding) for finding in found.findings if finding.code == "too-many"]
    assert texts == ([f"too-many: {said}: expected at most 1,000 entries; found more"] if more else [])
    assert MOST_ENTRIES - 2 <= codes.count("unexpected") <= MOST_ENTRIES


@pytest.mark.skipif(not hasattr(os, "SEEK_HOLE"), reason="this system does not tell where holes are")
@pytest.mark.parametrize("form", ["a directory", "an archive"])
def test_promise_16_a_large_file_with_a_hole_is_refused_before_it_is_read(bag: Path, form: str) -> None:
    """It takes nothing to send and nothing on a disk, and minutes to hash."""
    path = bag / "data/b" if form == "a directory" else bag.with_name("bag.zip")
    with path.open("wb") as file:
        file.write(b"PK\3\4")
        file.seek(3 << 30, os.SEEK_CUR)
        file.write(b"end")
    with path.open("rb") as file:
        if os.lseek(file.fileno(), 0, os.SEEK_HOLE) == path.stat().st_size:
            pytest.skip("this file system does not tell where holes are")
    with open_bag(bag if form == "a directory" else path, required=NAMES | {"data/b": 4 << 30}, optional={}) as found:
        (finding,) = found.findings
        assert "data/b" not in found.files
    name = "data/b" if form == "a directory" else "bag.zip"
    expected = "expected a file whose bytes are all on the disk; found 3,221,225,479 bytes with holes"
    assert str(finding) == f"too-large: {name}: {expected}"


def test_a_large_file_with_a_hole_that_is_not_a_zip_file_is_another_file(tmp_path: Path) -> None:
    with (tmp_path / "disk").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(BundleUnreadable, match="found another file"):
        opened(tmp_path / "disk")


def test_a_large_file_without_holes_and_a_small_one_with_holes_are_opened(
    bag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (bag / "data/b").open("wb") as file:
        file.truncate(1 << 20)
    with open_bag(bag, required=NAMES | {"data/b": 1 << 20}, optional={}) as found:
        assert found.findings == ()
    monkeypatch.setattr(contents, "_LARGE_BYTES", 10)
    (bag / "data/b").write_bytes(b"all of it")
    assert opened(bag)[1] == []


def test_a_device_is_not_opened(bag: Path, tmp_path: Path) -> None:
    (bag / "data/a").unlink()
    try:
        os.mknod(bag / "data/a", 0o020644, os.makedev(1, 5))  # /dev/zero: has no end
    except PermissionError:
        pytest.skip("only root makes device nodes")
    assert opened(bag)[1] == ["not-a-file: data/a: expected a regular file; found a special file"]


# What is swapped in between


@pytest.fixture
def when_opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], object]], list[str]]:
    """Do something once, right before a name is opened: after it was looked at. Gives the names it was done for."""

    def arrange(name: str, act: Callable[[], object]) -> list[str]:
        really = os.open
        done: list[str] = []

        def opening(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if os.path.basename(path) == name and not done:
                done.append(name)
                act()
            return really(path, flags, mode, dir_fd=dir_fd)

        monkeypatch.setattr(os, "open", opening)
        return done

    return arrange


SWAPPED = "not-a-file: data/a: expected the file that was there a moment ago; found a different file"
FILE_SWAPS: dict[str, Callable[[Path], object]] = {
    "a link": lambda path: path.symlink_to("../../outside"),
    "another file": lambda path: path.write_bytes(b"other"),
    "a pipe": os.mkfifo,
    "a socket": _socket,
    "a directory": Path.mkdir,
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("swap", FILE_SWAPS)
def test_a_file_swapped_before_it_is_opened_is_found(
    bag: Path, swap: str, when_opened: Callable[[str, Callable[[], object]], list[str]]
) -> None:
    (bag.parent / "outside").write_bytes(CONTENTS[A])

    def act() -> None:
        (bag / A).rename(bag.parent / "kept")  # kept: a new file would get the number of one that is gone
        FILE_SWAPS[swap](bag / A)

    done = when_opened("a", act)
    found, findings = opened(bag)
    assert (done, findings) == (["a"], [SWAPPED])
    assert A not in found


@pytest.mark.parametrize(
    ("act", "finding"),
    [
        (
            lambda path: path.write_bytes(bytes(1001)),
            "too-large: data/a: expected at most 1,000 bytes; found 1,001 bytes",
        ),
        (lambda path: os.link(path, path.parents[2] / "second"), LINKED),
    ],
)
def test_what_counts_is_the_file_that_was_opened(
    bag: Path,
    act: Callable[[Path], object],
    finding: str,
    when_opened: Callable[[str, Callable[[], object]], list[str]],
) -> None:
    assert when_opened("a", lambda: act(bag / A)) == []
    assert opened(bag)[1] == [finding]


@pytest.mark.parametrize("swap", ["a link", "a file", "nothing"])
def test_a_directory_swapped_before_it_is_opened_is_found(
    bag: Path, swap: str, when_opened: Callable[[str, Callable[[], object]], list[str]]
) -> None:
    shutil.copytree(bag, bag.parent / "outside")

    def act() -> None:
        (bag / "data").rename(bag.parent / "kept")
        if swap == "a link":
            (bag / "data").symlink_to("../outside/data")
        elif swap == "a file":
            (bag / "data").touch()

    done = when_opened("data", act)
    found, findings = opened(bag)
    expected = "not-a-file: data: expected the directory that was there a moment ago; found a different one"
    assert (done, found, findings) == (["data"], {"bagit.txt": CONTENTS["bagit.txt"]}, [expected, *MISSING])


def test_a_directory_swapped_after_it_was_opened_changes_nothing(
    bag: Path, when_opened: Callable[[str, Callable[[], object]], list[str]]
) -> None:
    (bag.parent / "outside").mkdir()
    (bag.parent / "outside/a").write_bytes(b"another's")

    def act() -> None:
        (bag / "data").rename(bag.parent / "kept")
        (bag / "data").symlink_to("../outside")

    done = when_opened("a", act)
    assert opened(bag) == (CONTENTS, [])
    assert done == ["a"]


def test_a_bag_replaced_while_it_is_open_is_still_the_one_that_was_opened(bag: Path) -> None:
    with open_bag(bag, required=NAMES, optional={}) as found:
        for name in NAMES:
            (bag / name).rename(bag.parent / "moved")
            (bag / name).write_bytes(b"other")
        assert {name: file.read() for name, file in found.files.items()} == CONTENTS


# What is not a bag


def test_what_is_not_a_bag(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "empty").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.zip")
    cases = {
        "no": "nothing", "file": "another file", "empty": "another file", "dangling": "something else",
        "pipe": "something else", "pipe.zip": "something else", "x" * 300: "nothing", "a\0b": "nothing",
    }  # fmt: skip
    for name, found in {**cases, "/dev/zero": "something else"}.items():
        with pytest.raises(BundleUnreadable) as caught, open_bag(tmp_path / name, required=NAMES, optional={}):
            pass
        assert str(caught.value).endswith(f": expected a bundle, which is a directory or a zip file; found {found}")
    with pytest.raises(BundleUnreadable) as caught:
        opened(tmp_path / "\x1b[31mred")
    assert str(caught.value).startswith(f'"{tmp_path}/\\u001b[31mred": ')


def test_no_descriptor_is_left_open(bag: Path, tmp_path: Path) -> None:
    before = descriptors()
    with open_bag(bag, required=NAMES, optional={}) as found:
        assert len(found.files) == 3
        assert len(descriptors()) > len(before)
    with pytest.raises(KeyError), open_bag(bag, required=NAMES, optional={}):
        raise KeyError
    (tmp_path / "file").touch()
    with pytest.raises(BundleUnreadable):
        opened(tmp_path / "file")
    (bag / A).write_bytes(bytes(1001))
    assert len(opened(bag)[1]) == 1
    assert descriptors() == before


def test_what_the_system_refuses_is_an_os_error_and_leaves_nothing_open(bag: Path) -> None:
    before = descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare: list[int] = []
    failed = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, max(map(int, before)) + 16), hard))
        with contextlib.suppress(OSError):
            while True:
                spare.append(os.open(os.devnull, os.O_RDONLY))
        for room in range(1, 9):  # descriptors that are left for the bag
            os.close(spare.pop())
            try:
                opened(bag)
            except OSError as error:
                failed.append((room, error.strerror))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in spare:
            os.close(descriptor)
    assert failed
    assert {text for _, text in failed} == {"Too many open files"}
    assert failed[-1][0] < 8
    assert descriptors() == before
