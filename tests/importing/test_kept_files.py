"""What was read from a file, as bytes: it comes back as it was, and anything else in a database is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporttools import InconsistentData, read_traces
from exporttools.importing import kept_files
from exporttools.importing.file_reading import FileRead, read_file
from exporttools.importing.kept_files import from_bytes, from_database, to_json
from exporttools.importing.source_files import SourceFile
from exporttools.loading import ImportedFile
from tests.importing.sessions import SessionFile, tool, used


def to_bytes(read: FileRead) -> bytes:
    return kept_files.packed(to_json(read))


def packed(content: bytes, size: int | None = None) -> bytes:
    return (len(content) if size is None else size).to_bytes(8, "little") + pa.compress(
        content, codec="zstd", asbytes=True
    )


def unpacked(kept: bytes) -> dict[str, Any]:
    size = int.from_bytes(kept[:8], "little")
    plain: dict[str, Any] = orjson.loads(pa.decompress(kept[8:], size, codec="zstd", asbytes=True))
    return plain


@pytest.fixture
def found(tmp_path: Path) -> FileRead:
    """A file with something of everything."""
    file = (
        SessionFile()
        .prompt("ünï 🦜")
        .answer("m1", tool("t1", "Task"), usage=used(1, 2, 3, 4, 5))
        .result("t1", failed=True)
    )
    file.result("t1", said={"agentId": "a1"}).answer("m2", model="<synthetic>", usage=used(0, "x"))
    path = tmp_path / "s1.jsonl"
    path.write_bytes(file.content + b"\n[7]\n{torn")
    read = read_file(SourceFile.at(path))
    assert read is not None
    return read


def test_what_was_kept_comes_back(found: FileRead) -> None:
    before = copy.deepcopy(found)
    kept = to_bytes(found)
    assert found == before == from_bytes(kept) == from_database(kept)
    assert to_bytes(from_bytes(kept)) == kept
    assert all(
        (
            found.sessions,
            found.steps,
            found.ends,
            found.started,
            found.notes,
            found.rejected,
            found.bad_numbers,
            found.blank,
        )
    )


def test_an_empty_one_comes_back() -> None:
    read = FileRead(SourceFile(Path("/x"), 0, 0), "codex", is_document=True)
    assert from_database(to_bytes(read)) == read


def wrong(kept: bytes) -> str:
    with pytest.raises(InconsistentData) as caught:
        from_database(kept)
    assert (caught.value.table, caught.value.column) == ("import_files", "content")
    assert str(caught.value).endswith(" Delete that table's rows to read all files again")
    return str(caught.value)


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        (b"", ""),
        (b"\0" * 8, ""),
        (b"\xff" * 100, "18,446,744,073,709,551,615 bytes"),
        (packed(b"{}"), "'version'"),
        (packed(b"[]"), "list indices must be integers or slices, not str"),
        (packed(b'{"version":1}'), "version 1"),
        (packed(b'{"version":2}'), "'steps'"),
        (packed(b"["), "unexpected end of data"),
        (packed(b"[" * 5000), "Recursion limit reached|depth limit"),
        (packed(b"{}")[:-3], ""),
        (packed(b"{}" * 1000, 1), ""),
        (packed(b"{}", 1 << 20), ""),
        (packed(b" " * (1 << 20), 1 << 40), "1,099,511,627,776 bytes"),
    ],
    ids=range(13),
)
def test_damaged_bytes_and_bombs(kept: bytes, why: str) -> None:
    import re

    assert re.search(f"^import_files: what was kept of a file cannot be read .*{why}", wrong(kept))


def test_a_byte_that_was_flipped_is_found_or_harmless(found: FileRead) -> None:
    kept = to_bytes(found)
    for i in range(0, len(kept), 7):
        flipped = bytearray(kept)
        flipped[i] ^= 0x55
        try:
            from_database(bytes(flipped))
        except InconsistentData:
            continue


Change = Callable[[dict[str, Any]], None]


def setting(*path: Any, to: Any) -> Change:
    def change(plain: dict[str, Any]) -> None:
        inner: Any = plain
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = to

    return change


COLUMNS = {"record": 0, "session_id": 2, "start_us": 4, "end_us": 5, "usage": 9}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (setting("format", to="nope"), "has format that no file has"),
        (setting("blank", to=-1), "has blank that no file has"),
        (setting("blank", to=99), "has blank that no file has"),
        (setting("fates", to=""), "has records, blank that no file has"),
        (setting("fates", to="09"), "a fate is 9"),
        (setting("sessions", to=[]), "has sessions that no file has"),
        (setting("steps", 0, COLUMNS["record"], to=0), "has records that no file has"),
        (setting("steps", 0, COLUMNS["record"], to=2**61), "has records that no file has"),
        (setting("steps", 0, COLUMNS["record"], to=2**63), "Step.record has a number of more than 62 bits"),
        (setting("steps", 0, COLUMNS["record"], to=True), "Step.record is True"),
        (setting("steps", 0, COLUMNS["record"], to=None), "Step.record is None"),
        (setting("steps", 0, COLUMNS["start_us"], to=2**61), "has times that no file has"),
        (setting("steps", 0, COLUMNS["end_us"], to=-(2**61)), "has times that no file has"),
        (setting("steps", 0, COLUMNS["usage"], 0, to=-1), "has tokens that no file has"),
        (setting("steps", 0, COLUMNS["usage"], 5, to=10**12), "has tokens that no file has"),
        (setting("steps", 0, COLUMNS["usage"], to=[1, 2]), ""),
        (setting("steps", 0, COLUMNS["usage"], to={}), ""),
        (setting("steps", 0, to=[]), ""),
        (setting("steps", 0, to=[None] * 40), ""),
        (setting("steps", to=7), ""),
        (setting("ends", 0, 0, to=-5), "has records that no file has"),
        (setting("ends", 0, 2, to=2**61), "has times that no file has"),
        (setting("rejected", 0, 0, to=10**9), "has records that no file has"),
        (setting("sessions", 0, 1, to=2**61), "has times that no file has"),
        (setting("started", to=[]), ""),
        (setting("notes", to=[[1]]), ""),
        (setting("usages", to="many"), ""),
        (setting("path", to=7), ""),
    ],
    ids=range(28),
)
def test_what_no_file_says_is_refused(found: FileRead, change: Change, why: str) -> None:
    plain = unpacked(to_bytes(found))
    change(plain)
    assert why in wrong(packed(orjson.dumps(plain)))


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_anything_anywhere_is_refused_or_can_be_imported(found: FileRead, tmp_path: Path, data: st.DataObject) -> None:
    plain = unpacked(to_bytes(found))
    inner: Any = plain
    while True:
        names = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        name = data.draw(st.sampled_from(names))
        if not isinstance(inner[name], (dict, list)) or not inner[name] or data.draw(st.booleans()):
            break
        inner = inner[name]
    inner[name] = data.draw(_JSON)
    kept = packed(orjson.dumps(plain))
    (tmp_path / "other").mkdir(exist_ok=True)
    SessionFile("s2").prompt().answer("m2").write(tmp_path / "other")
    try:
        imported = read_traces(tmp_path / "other", known=[ImportedFile("/gone.jsonl", 1, 1, kept)])
    except InconsistentData:
        return
    imported.report.to_dict()
    str(imported.report)
    imported.trace_steps.to_pylist()
