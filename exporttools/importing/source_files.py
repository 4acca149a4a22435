"""The files that an import reads: where agents keep them, how they are opened, and what a person calls them."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from exporttools.errors import ConfigError
from exporttools.text.inert import one_line

SUFFIXES = (".jsonl", ".jsonl.zst", ".jsonl.gz", ".json", ".json.gz")
"""What files of sessions are called."""

_UNPACKED_BYTES, _UNPACKED_TIMES = 256 << 20, 250
"""What a packed file may unpack to: so many bytes, or so many times its size."""

_BUFFER_BYTES = 1 << 16
"""More would cost more than it saves: most sessions are small, and a buffer is cleared by the system before it is used."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to import.

    Attributes
    ----------
    path : pathlib.Path
    size_bytes, mtime_ns : int
        As found; together with the path they tell whether it has changed.
    """

    path: Path
    size_bytes: int
    mtime_ns: int

    @classmethod
    def at(cls, path: Path) -> SourceFile:
        """The file at a path.

        Raises
        ------
        OSError
            There is none.
        """
        found = path.stat()
        return cls(path, found.st_size, found.st_mtime_ns)

    def open(self) -> BinaryIO:
        """Open it, unpacked, to be read from its beginning."""
        if self.path.suffix == ".zst":
            import pyarrow as pa  # as much as the rest of a process that reads files

            unpacked = _Unpacked(pa.input_stream(str(self.path), compression="zstd"), self.size_bytes)
        elif self.path.suffix == ".gz":
            unpacked = _Unpacked(gzip.GzipFile(self.path, "rb"), self.size_bytes)
        else:
            return self.path.open("rb", buffering=_BUFFER_BYTES)
        return cast("BinaryIO", io.BufferedReader(unpacked, _BUFFER_BYTES))

    def rewound(self, stream: BinaryIO) -> BinaryIO:
        """What was opened, at its beginning: itself, or opened again where it cannot go back."""
        if not stream.seekable():
            return self.open()
        stream.seek(0)
        return stream


class _Unpacked(io.RawIOBase):
    """What a packed file holds. A damaged one, and one that unpacks to far more than sessions do, ends in an OSError."""

    def __init__(self, stream: Any, packed_bytes: int) -> None:
        self._stream = stream
        self._most = self._left = max(_UNPACKED_BYTES, _UNPACKED_TIMES * packed_bytes)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            count = int(self._stream.readinto(buffer))
        except (EOFError, zlib.error) as error:
            raise OSError(str(error)) from error
        self._left -= count
        if self._left < 0:
            raise OSError(f"it unpacks to more than {self._most >> 20:,} MiB; unpack it yourself if it is meant")
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


@dataclass(frozen=True, slots=True)
class AgentFiles:
    """Where an agent keeps its sessions on this machine.

    Attributes
    ----------
    agent : str
        Its name for people.
    directory : pathlib.Path
        What is read below it.
    """

    agent: str
    directory: Path

    def files(self) -> Iterator[SourceFile]:
        """The files of sessions below the directory, by path."""
        return files_below(self.directory)


def agents_here(environment: Mapping[str, str] | None = None, home: Path | None = None) -> list[AgentFiles]:
    """Find the agents whose sessions are on this machine. Opens no file.

    Parameters
    ----------
    environment : mapping, optional
        By default that of the process: ``CLAUDE_CONFIG_DIR`` (one directory, or several with commas), ``CODEX_HOME``.
    home : path, optional
        By default the user's home directory.
    """
    environment, home = os.environ if environment is None else environment, home or Path.home()
    claude = [Path(name.strip()) for name in environment.get("CLAUDE_CONFIG_DIR", "").split(",") if name.strip()]
    codex = Path(environment.get("CODEX_HOME") or home / ".codex")
    places = [
        *(
            AgentFiles("Claude Code", place / "projects")
            for place in claude or (home / ".claude", home / ".config/claude")
        ),
        *(AgentFiles("Codex", codex / folder) for folder in ("sessions", "archived_sessions")),
        AgentFiles("Gemini CLI", home / ".gemini" / "tmp"),
    ]
    return [place for place in places if place.directory.is_dir()]


def files_at(path: Path) -> list[SourceFile]:
    """The files that a user's path names: itself, or those below a directory.

    Raises
    ------
    ConfigError
        There is nothing at the path, or it is neither a file nor a directory.
    """
    try:
        if path.is_dir():
            return list(files_below(path))
        if not path.exists():
            raise ConfigError(f"{one_line(path)}: no such file or directory")
        if not path.is_file():
            raise ConfigError(f"{one_line(path)}: not a file or a directory; to read a pipe, name it -")
        return [SourceFile.at(path.resolve())]
    except OSError as error:
        raise ConfigError(f"{one_line(path)}: {one_line(error.strerror or error)}") from error


def files_below(directory: Path) -> Iterator[SourceFile]:
    """The files below a directory that are called like files of sessions, in order, each by its own path.

    Links to directories are not followed; what cannot be opened is passed over.
    """
    folders = [str(directory.resolve())]
    while folders:
        try:
            with os.scandir(folders.pop()) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError:
            continue
        folders += [entry.path for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]
        for entry in entries:
            if entry.name.endswith(SUFFIXES) and entry.is_file():
                path, about = Path(entry.path), entry.stat()
                yield SourceFile(path.resolve() if entry.is_symlink() else path, about.st_size, about.st_mtime_ns)
