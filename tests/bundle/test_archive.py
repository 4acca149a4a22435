"""The single-file form: one way to write it, and everything else in a zip file is refused before any member is used."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporttools import BundleUnreadable, ExportBundle, RunSnapshot, read_bundle, verify_bundle, write_bundle
from exporttools.bundle import contents
from exporttools.bundle.archive import write_archive
from exporttools.bundle.contents import open_bag
from exporttools.errors import BundleError
from exporttools.text.inert import shown_name

NAMES = {"bagit.txt": 100, "data/a": 1000, "data/b": 1000}
GOLDEN = Path(__file__).parents[1] / "golden"
CONTENTS = {"bagit.txt": b"declared\n", "data/a": b"first" * 9, "data/b": b""}


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    directory = tmp_path / "bag"
    (directory / "data").mkdir(parents=True)
    for name, content in CONTENTS.items():
        (directory / name).write_bytes(content)
    return directory


def packed(bag: Path, path: Path, base: str = "base") -> Path:
    with path.open("wb") as file:
        write_archive(bag, file, base=base)
    return path


def opened(path: Path) -> tuple[dict[str, bytes], list[str]]:
    """The members' bytes, and the findings."""
    with open_bag(path, required=NAMES, optional={}) as found:
        assert all(finding.path for finding in found.findings)
        return {name: file.read() for name, file in found.files.items()}, [str(finding) for finding in found.findings]


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    """An archive as exporttools writes it but for the paths, which may be any: by another library."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(members):
            _member(name, content=members[name])(archive)
    return path


def test_the_same_bag_gives_the_same_bytes(bag: Path, tmp_path: Path) -> None:
    first = packed(bag, tmp_path / "1.zip").read_bytes()
    os.utime(bag / "data/a", (0, 0))
    (bag / "data/b").chmod(0o600)
    assert packed(bag, tmp_path / "2.zip").read_bytes() == first
    # Written down once, so that no later version writes another: a bundle's archive is a format.
    header = b"PK\x03\x04" + struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 33, 0x0C0CF3D9, 9, 9, 14, 0)
    assert first.startswith(header[:14])
    assert first[26:30] == header[26:30]
    assert first[30:53] == b"base/bagit.txtdeclared\n"
    assert opened(tmp_path / "2.zip") == (CONTENTS, [])


@pytest.mark.parametrize("base", ["base", "größe 中", "x" * 200, "new \U0001fae9"])
def test_strangers_unpack_it(bag: Path, tmp_path: Path, base: str) -> None:
    path = packed(bag, tmp_path / "b.zip", base)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{base}/{name}" for name in sorted(CONTENTS)]
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {(info.compress_type, info.external_attr >> 16) for info in archive.infolist()} == {(0, 0o100644)}
        archive.extractall(tmp_path / "out")
    assert opened(path) == opened(tmp_path / "out" / base) == (CONTENTS, [])
    done = subprocess.run([sys.executable, "-m", "zipfile", "-t", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Done testing\n", "")


# Windows would open a device or drop the end; a shell would take an option, another home, a command.
DEVICE, OTHERWISE = "', which is a device on Windows", "', which a shell or Windows takes for something else"
UNBEARABLE = {
    **dict.fromkeys(["CON", "con", "nul", "PRN.txt", "aux.bundle", "Com1", "LPT9.x.y", "COM\u00b9", "NUL .bundle"], DEVICE),
    **dict.fromkeys(["a.", "a ", " a", "a. ", "-rf", "--help", "~", "~root"], OTHERWISE),
    **{f"a{c}b": repr(f"a{c}b") for c in "<>\"|?*$&;'`!%^="}, "$(id)": "'$(id)'", "CONIN$": "'CONIN$'",
}  # fmt: skip


@pytest.mark.parametrize(
    "base",
    [
        *UNBEARABLE,
        "",
        ".",
        "..",
        "a/b",
        "a\\b",
        "C:",
        "a\x1b",
        "e\u0301",
        "x" * 201,
        "é" * 101,
        "\u202e",
        "a\u2028",
        "\udcff",
        "a\0b",
    ],
)
def test_a_name_that_some_system_refuses_is_not_written(bag: Path, tmp_path: Path, base: str) -> None:
    assert packed(bag, tmp_path / "b.zip", base).read_bytes() == packed(bag, tmp_path / "c.zip", "bundle").read_bytes()


@pytest.mark.parametrize("base", ["base", "größe 中"])
def test_unzip_accepts_it(bag: Path, tmp_path: Path, base: str) -> None:
    if shutil.which("unzip") is None:
        pytest.skip("unzip is not installed")
    done = subprocess.run(
        ["unzip", "-tq", str(packed(bag, tmp_path / "b.zip", base))], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout[:18], done.stderr) == (0, "No errors detected", "")


def test_the_locale_has_no_part_in_it(bag: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from exporttools.bundle.archive import write_archive\n"
        "write_archive(Path(sys.argv[1]), open(sys.argv[2], 'xb'), base='gr\\xf6\\xdfe \\u4e2d')\n"
        "from exporttools.bundle.contents import open_bag\n"
        "names = dict.fromkeys(['bagit.txt', 'data/a', 'data/b'], 100)\n"
        "with open_bag(Path(sys.argv[2]), required=names, optional={}) as found:\n"
        "    print(sys.getfilesystemencoding(), found.findings, len(found.files))\n"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program, bag, tmp_path / "c.zip"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("ascii () 3\n", "")
    assert (tmp_path / "c.zip").read_bytes() == packed(bag, tmp_path / "b.zip", "größe 中").read_bytes()


@pytest.mark.parametrize(("large", "size"), [((4 << 30) - 100, 4_294_967_314), (5 << 30, 5_368_709_238)])
def test_four_gigabytes_are_too_much(tmp_path: Path, large: int, size: int) -> None:
    (tmp_path / "bag").mkdir()
    with (tmp_path / "bag/large").open("wb") as file:
        file.truncate(large)  # sparse
    with (tmp_path / "b.zip").open("wb") as file, pytest.raises(BundleError) as caught:
        write_archive(tmp_path / "bag", file, base="base")
    message = f"the zip file would have {size:,} bytes; expected at most 4,294,967,295. Write a directory instead"
    assert str(caught.value) == message
    assert (tmp_path / "b.zip").stat().st_size == 0


def test_an_archive_whose_offsets_went_round_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "_LARGE_BYTES", 1 << 40)  # its holes are not what is wrong
    half = 5 << 29
    local = struct.Struct("<4s5H3I2H")
    central = b""
    offset = 0
    with (tmp_path / "b.zip").open("wb") as file:
        for name in (b"base/data/a", b"base/data/b"):
            common = (20, 0, 0, 0, 33, 0, half, half, len(name), 0)
            central += (
                struct.pack("<4s6H3I5H2I", b"PK\1\2", 788, *common, 0, 0, 0, 0o100644 << 16, offset % 2**32) + name
            )
            file.write(local.pack(b"PK\3\4", *common) + name)
            file.seek(half, os.SEEK_CUR)  # sparse
            offset = file.tell()
        end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 2, 2, len(central), offset % 2**32, 0)
        file.write(central + end)
        wrong = file.tell()
    with (tmp_path / "b.zip").open("r+b") as file:  # the directory lies where its offset went round to as well
        file.seek(offset % 2**32)
        file.write(central)
    assert offset > 2**32
    assert wrong == offset + len(central) + len(end)
    assert opened(tmp_path / "b.zip") == (
        {}, [f"archive: b.zip: expected at most 4,294,967,295 bytes; found {wrong:,} bytes"],
    )  # fmt: skip


def _rezipped(change: Callable[[zipfile.ZipFile], object], **options: object) -> Callable[[Path], None]:
    """Pack the same members by another zip library, and something more."""

    def mutate(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            members = [(info, archive.read(info)) for info in archive.infolist()]
        with zipfile.ZipFile(path, "w", **options) as archive:  # type: ignore[call-overload]
            for info, content in members:
                plain = zipfile.ZipInfo(info.filename)
                plain.create_system, plain.external_attr = 3, 0o100644 << 16
                plain.compress_type = archive.compression
                archive.writestr(plain, content)
            change(archive)

    return mutate


def _member(name: str, *, mode: int = 0o100644, content: bytes = b"x") -> Callable[[zipfile.ZipFile], object]:
    def add(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 3, mode << 16
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile says that the name is there twice
            archive.writestr(info, content)

    return add


def _with(name: str) -> Callable[[Path], Path]:
    """Pack a member of this name in its place among the bag's own."""
    return lambda path: zipped(path, {f"base/{each}": b"x" for each in (*CONTENTS, name)})


def _edit(at: bytes, offset: int, value: bytes) -> Callable[[Path], None]:
    """Write bytes at an offset from the last place where others are."""

    def mutate(path: Path) -> None:
        octets = bytearray(path.read_bytes())
        start = octets.rindex(at) + offset
        octets[start : start + len(value)] = value
        path.write_bytes(octets)

    return mutate


END, CENTRAL, LOCAL = b"PK\x05\x06", b"PK\x01\x02", b"PK\x03\x04"
TAIL = "archive: b.zip: expected a central directory as exporttools writes it; found a different one"
HEADER = "archive: data/b: expected a header as exporttools writes it; found a different one"


def _at_end(found: str) -> list[str]:
    return [f"archive: b.zip: expected the end of a zip file as exporttools writes it; found {found}"]


def _sized(needed: str, found: str) -> list[str]:
    return [f"archive: b.zip: expected {needed} bytes for these files; found {found} bytes"]


def _in_order(found: str) -> list[str]:
    return [
        f"archive: b.zip: expected each name once, in order; found base/bagit.txt, base/data/a, base/data/b, base/{found}"
    ]


def _in_one(found: str) -> list[str]:
    return [f"archive: b.zip: expected files in one directory; found {found}"]


MUTATIONS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "a path that leads out": (_rezipped(_member("base/../../etc/passwd")), _in_order("../../etc/passwd")),
    "an absolute path": (_rezipped(_member("/etc/passwd")), _in_one(", base")),
    "another directory": (_rezipped(_member("other/data/a")), _in_one("base, other")),
    "a file beside the directory": (_rezipped(_member("loose")), _in_one("base, loose")),
    "a backslash": (_rezipped(_member("base\\data\\a")), _in_one("base, base\\data\\a")),
    "a name twice": (_rezipped(_member("base/data/a")), _in_order("data/a")),
    "a name in capitals": (_rezipped(_member("base/data/A")), _in_order("data/A")),
    "a link": (
        _rezipped(_member("base/data/link", mode=0o120777, content=b"/etc/passwd")),
        [TAIL, "unexpected: data/link: expected no file of that name; found a file"],
    ),
    "a member that became a link": (_edit(CENTRAL, 38, struct.pack("<I", 0o120777 << 16)), [TAIL]),
    "a member that became a directory": (_edit(CENTRAL, 38, struct.pack("<I", 0o40755 << 16 | 16)), [TAIL]),
    "another mode": (_edit(CENTRAL, 38, struct.pack("<I", 0o104755 << 16)), [TAIL]),
    "another creator": (_edit(CENTRAL, 5, b"\0"), [TAIL]),
    "a directory": (_rezipped(_member("base/data/", mode=0o40755, content=b"")), _in_order("data/")),
    "the top directory": (
        lambda path: zipped(path, {f"base/{name}": content for name, content in ({"": b""} | CONTENTS).items()}),
        ["archive: b.zip: expected each name once, in order; found base/, base/bagit.txt, base/data/a, base/data/b"],
    ),
    "a file alone": (
        lambda path: zipped(path, {"loose": b"x"}), ["archive: b.zip: expected each name once, in order; found loose"],
    ),
    "a comment": (_rezipped(lambda archive: setattr(archive, "comment", b"hello")), _at_end("something else")),
    "a comment that is an end": (
        lambda path: path.write_bytes(path.read_bytes()[:-2] + b"\x16\0" + path.read_bytes()[-22:]), _sized("376", "398"),
    ),
    "a member's comment": (_edit(CENTRAL, 32, b"\1"), [TAIL]),
    "an extra field": (_edit(CENTRAL, 30, b"\1"), [TAIL]),
    "a local extra field": (_edit(LOCAL, 28, b"\1"), [HEADER]),
    "compressed": (_rezipped(lambda _: None, compression=zipfile.ZIP_DEFLATED), _sized("376", "345")),
    "said to be compressed": (_edit(CENTRAL, 10, b"\x08"), [TAIL]),
    "said to be compressed locally": (_edit(LOCAL, 8, b"\x08"), [HEADER]),
    "a bomb": (
        _rezipped(_member("base/data/c", content=bytes(1 << 20)), compression=zipfile.ZIP_DEFLATED),
        _sized("1,049,050", "1,049,019"),
    ),
    "seventeen members": (
        _rezipped(lambda archive: [_member(f"base/m{i}")(archive) for i in range(14)]), _at_end("17 members in 920 bytes"),
    ),
    "a byte before": (lambda path: path.write_bytes(LOCAL + path.read_bytes()), _at_end("a name that is not UTF-8")),
    "a byte after": (lambda path: path.write_bytes(path.read_bytes() + b"\0"), _at_end("something else")),
    "a byte between": (
        lambda path: path.write_bytes(path.read_bytes().replace(CENTRAL, b"\0" + CENTRAL, 1)),
        _at_end("a name that is not UTF-8"),
    ),
    "an archive after it": (lambda path: path.write_bytes(path.read_bytes() * 2), _sized("376", "752")),
    "no member": (_edit(END, 8, bytes(4)), _at_end("0 members in 174 bytes")),
    "more members than there are": (_edit(END, 8, b"\4\0\4\0"), _at_end("a truncated central directory")),
    "fewer members than there are": (_edit(END, 8, b"\2\0\2\0"), _sized("278", "376")),
    "other members on this disk": (_edit(END, 8, b"\3\0\4\0"), [TAIL]),
    "a directory elsewhere": (_edit(END, 16, b"\0\0\0\0"), _at_end("a truncated central directory")),
    "a directory beyond the end": (_edit(END, 16, b"\xff\xff\xff\xff"), _at_end("a truncated central directory")),
    "a huge directory": (_edit(END, 12, b"\xff\xff\xff\xff"), _at_end("3 members in 4,294,967,295 bytes")),
    "encrypted": (_edit(CENTRAL, 8, b"\1\0"), [TAIL]),
    "encrypted locally": (_edit(LOCAL, 6, b"\1\0"), [HEADER]),
    "a data descriptor": (_edit(LOCAL, 6, b"\x08\0"), [HEADER]),
    "said to be UTF-8": (_edit(LOCAL, 6, b"\0\x08"), [HEADER]),
    "another date": (_edit(LOCAL, 12, b"\x22"), [HEADER]),
    "a lying size": (_edit(CENTRAL, 24, b"\1\0\0\0"), _sized("377", "376")),
    "a lying compressed size": (_edit(CENTRAL, 20, b"\1\0\0\0"), [TAIL]),
    "zip64": (_edit(CENTRAL, 20, b"\xff" * 8), _sized("4,294,967,671", "376")),
    "an overlap": (_edit(CENTRAL, 42, b"\0\0\0\0"), [TAIL]),
    "a name that is not UTF-8": (_edit(CENTRAL, 46, b"\xff"), _at_end("a name that is not UTF-8")),
    "another local name": (_edit(LOCAL, 30, b"B"), [HEADER]),
    "another local size": (_edit(LOCAL, 22, b"\1"), [HEADER]),
    "another local CRC": (_edit(LOCAL, 14, b"\1"), [HEADER]),
    "another CRC": (
        _edit(CENTRAL, 16, b"\1"), [HEADER, "changed: data/b: expected CRC-32 00000001; found 00000000"],
    ),
    "nothing but its start": (lambda path: path.write_bytes(LOCAL), _at_end("something else")),
    "nothing at all": (lambda path: path.write_bytes(b""), _at_end("something else")),
    "something else": (lambda path: path.write_bytes(b"\x7fELF" * 50), _at_end("something else")),
    "without bagit.txt": (
        lambda path: zipped(path, {"base/data/a": b"", "base/data/b": b""}),
        ["missing: bagit.txt: expected a file; found nothing"],
    ),
    **{
        f"a member {name!r}": (
            _with(name),
            [f"unexpected: {shown_name(name)}: expected {said}; found a file"],
        )
        for name, said in {
            "../../etc/passwd": "no file of that name",
            "/etc/passwd": "no file of that name",
            "data/../data/a": "no file of that name",
            "data//a": "no file of that name",
            "data\\a": "no file of that name",
            "data/A": "data/a, spelled exactly like that",
            "DATA/a": "data/a, spelled exactly like that",
            "data/ａ": "data/a, spelled exactly like that",
            "data/c/": "no file of that name",
        }.items()
    },
}  # fmt: skip


def test_zipfile_writes_the_same_bytes(bag: Path, tmp_path: Path) -> None:
    path = packed(bag, tmp_path / "b.zip")
    good = path.read_bytes()
    _rezipped(lambda _: None)(path)
    assert path.read_bytes() == good


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_promise_17_another_zip_file_is_refused(bag: Path, tmp_path: Path, mutation: str) -> None:
    path = packed(bag, tmp_path / "b.zip")
    mutate, expected = MUTATIONS[mutation]
    mutate(path)
    assert opened(path) == ({}, expected)


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("..", "'..'"), ("a\\b", r"'a\\b'"), ("a:b", "'a:b'"), ("a\0b", r"'a\x00b'"), ("a\x1bb", r"'a\x1bb'"),
        ("\u202e", r"'\u202e'"), ("e\u0301", "'e\u0301' which is not in Unicode normal form C"),
        ("é" * 101, "a name of 202 bytes"),
    ],
)  # fmt: skip
def test_promise_17_a_directory_that_not_every_system_can_have_is_refused(tmp_path: Path, base: str, said: str) -> None:
    plain = "y" * len(base.encode())  # zipfile changes some of these names
    zipped(tmp_path / "b.zip", {f"{plain}/{name}": content for name, content in CONTENTS.items()})
    octets = (tmp_path / "b.zip").read_bytes()
    (tmp_path / "b.zip").write_bytes(octets.replace(f"{plain}/".encode(), f"{base}/".encode()))
    expected = f"archive: b.zip: expected a directory name that every system accepts; found {said}"
    assert opened(tmp_path / "b.zip") == ({}, [expected])


@pytest.mark.parametrize("base", UNBEARABLE)
def test_a_directory_that_windows_or_a_shell_cannot_bear_is_refused(tmp_path: Path, base: str) -> None:
    plain = ("" if base.isascii() else "é").ljust(len(base), "y")
    for number in (1, 2):
        bag, path = GOLDEN / f"format-{number}/signed.bundle", tmp_path / f"{number}.zip"
        files = {file.relative_to(bag).as_posix(): file.read_bytes() for file in bag.rglob("*") if file.is_file()}
        octets = zipped(path, {f"{plain}/{name}": content for name, content in files.items()}).read_bytes()
        for name in files:  # not the directory's name alone, which may be in the bytes of a file
            octets = octets.replace(f"{plain}/{name}".encode(), f"{base}/{name}".encode())
        path.write_bytes(octets)
    # The writer of format 1 gave a directory such a name, and what was released verifies for ever.
    assert verify_bundle(tmp_path / "1.zip").verdict == "intact, signature not checked"
    (finding,) = verify_bundle(tmp_path / "2.zip", trusted_keys=GOLDEN / "TEST-ONLY.key.pub").findings
    assert str(finding).startswith("archive: 2.zip: expected a directory name that every system accepts; found ")
    assert str(finding).endswith(UNBEARABLE[base])


@pytest.mark.parametrize("base", ["console", "nullify", "COM", "com10", "a-b~c", "a.b", "inc (1)", "a#1 [x]{y}+,@"])
def test_a_name_that_only_looks_so_is_written(bag: Path, tmp_path: Path, base: str) -> None:
    path = packed(bag, tmp_path / "b.zip", base)
    with zipfile.ZipFile(path) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {base}
    assert opened(path) == (CONTENTS, [])


def test_promise_03_every_changed_byte_and_every_length_is_found(bag: Path, tmp_path: Path) -> None:
    good = packed(bag, tmp_path / "b.zip").read_bytes()
    path = tmp_path / "c.zip"
    inside = {}
    for name, content in CONTENTS.items():
        start = good.index(f"base/{name}".encode()) + len(f"base/{name}")
        inside |= dict.fromkeys(range(start, start + len(content)), name)
    assert len(inside) == sum(map(len, CONTENTS.values()))
    for i in range(len(good)):
        path.write_bytes(good[:i] + bytes([good[i] ^ 1 << i % 8]) + good[i + 1 :])
        files, findings = opened(path)
        # A change in a file's content is found once, as that; one elsewhere is found, as whatever it breaks.
        starts = [f"changed: {inside[i]}: expected CRC-32 "] if i in inside else [""] * len(findings)
        assert [finding[: len(start)] for start, finding in zip(starts, findings, strict=True)] == starts, i
        assert (files, bool(findings)) == ({}, True), i
        path.write_bytes(good[:i])
        files, findings = opened(path)
        assert (files, bool(findings)) == ({}, True), i


def test_a_file_that_is_neither_named_nor_begins_like_a_zip_file(bag: Path, tmp_path: Path) -> None:
    good = packed(bag, tmp_path / "b.bundle").read_bytes()
    assert opened(tmp_path / "b.bundle") == (CONTENTS, [])
    for start in (b"", good[:3], b"QK" + good[2:]):
        (tmp_path / "c.bundle").write_bytes(start)
        with pytest.raises(BundleUnreadable) as caught:
            opened(tmp_path / "c.bundle")
        expected = "expected a bundle, which is a directory or a zip file; found another file"
        assert str(caught.value) == f'"{tmp_path / "c.bundle"}": {expected}'


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bag = tmp_path_factory.mktemp("bag")
    (bag / "bagit.txt").write_bytes(b"x")
    return packed(bag, bag.with_suffix(".zip"))


@settings(max_examples=1000, deadline=None)
@given(st.data())
def test_no_bytes_make_it_crash(tiny: Path, data: st.DataObject) -> None:
    good = tiny.read_bytes()
    octets = bytearray(good)
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(octets)))
        piece = data.draw(st.binary(max_size=6) | st.sampled_from([END, CENTRAL, LOCAL, b"\xff\xff\xff\xff"]))
        octets[at : at + data.draw(st.integers(0, 6))] = piece
    path = tiny.with_name("mutated.zip")
    path.write_bytes(octets)
    with open_bag(path, required={"bagit.txt": 10}, optional={}) as found:
        assert bool(found.findings) == (octets != good)
        assert all(finding.path for finding in found.findings)


def test_a_member_over_its_limit_is_not_opened(bag: Path, tmp_path: Path) -> None:
    (bag / "data/a").write_bytes(bytes(1001))
    assert opened(packed(bag, tmp_path / "b.zip")) == (
        {}, ["too-large: data/a: expected at most 1,000 bytes; found 1,001 bytes"],
    )  # fmt: skip


def test_a_bundle_in_one_file_reads_as_the_directory_does(tmp_path: Path) -> None:
    bundle = ExportBundle(run=RunSnapshot("r1", "acme", goal="sort the mail"))
    path = write_bundle(bundle, tmp_path / "r1.zip", archive=True)
    (tmp_path / "link.zip").symlink_to(path)
    for name in ("r1.zip", "link.zip"):
        assert read_bundle(tmp_path / name) == bundle
        assert verify_bundle(tmp_path / name).ok
    assert sorted(found.name for found in tmp_path.iterdir()) == ["link.zip", "r1.zip"]
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path)
    assert verify_bundle(tmp_path / "r1").content_digest == bundle.content_digest


def test_no_descriptor_is_left_open(bag: Path, tmp_path: Path) -> None:
    before = os.listdir("/dev/fd")
    path = packed(bag, tmp_path / "b.zip")
    with open_bag(path, required=NAMES, optional={}) as found:
        assert len(found.files) == 3
        one = found.files["data/a"]
    with pytest.raises(ValueError, match="I/O operation on closed file"):
        one.read()
    with pytest.raises(KeyError), open_bag(path, required=NAMES, optional={}):
        raise KeyError
    path.write_bytes(path.read_bytes()[:-1])
    assert opened(path)[1] == _at_end("something else")
    assert os.listdir("/dev/fd") == before
