"""What the tests of durable writing share: something to write, and how it looks when it is whole."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

New = Callable[[Path], AbstractContextManager[Path | BinaryIO]]
PARTIAL = ".new.0123456789abcdef.exporttools-partial"


def fill(made: Path | BinaryIO) -> None:
    if isinstance(made, Path):
        (made / "data").mkdir()
        (made / "data" / "rows").write_text("rows")
        (made / "manifest").write_text("manifest")
    else:
        made.write(b"rows")


def is_whole(path: Path) -> bool:
    if path.is_dir():
        return (path / "data" / "rows").read_text() == "rows" and (path / "manifest").read_text() == "manifest"
    return path.read_bytes() == b"rows"


def partials(directory: Path) -> list[Path]:
    return sorted(directory.glob(".*.exporttools-partial"))
