"""What all files say, as small as it can be kept, until the files that belong together are resolved.

The steps of a gigabyte of sessions would fill a quarter of one as objects; as bytes they are a few megabytes, and only a
family of files has to be unpacked at once: those that share a session, a step or a subagent, as a session's forks do.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from exporttools.importing.events import Fate
from exporttools.importing.file_extracts import Extract
from exporttools.importing.file_reading import FileRead
from exporttools.importing.import_report import RejectedRecord
from exporttools.importing.kept_files import from_own_bytes, packed
from exporttools.importing.resolving import Resolved, SessionSteps, resolve
from exporttools.importing.source_files import SourceFile
from exporttools.loading.imported_file import ImportedFile


@dataclass(slots=True)
class FileTally:
    """What became of the records of all files, as far as they are resolved.

    Attributes
    ----------
    formats : Counter of str
        Files by the name of their format.
    fates : Counter of int
        Records, those that are blank among the metadata.
    blank, usages, bad_numbers : int
        See :class:`exporttools.importing.file_reading.FileRead`.
    sessions, calls : int
        Sessions, and steps that say what they have used.
    rejections : list of RejectedRecord
    notes : Counter of str
    lost_agents : set of str
    """

    formats: Counter[str] = field(default_factory=Counter)
    fates: Counter[int] = field(default_factory=Counter)
    blank: int = 0
    usages: int = 0
    bad_numbers: int = 0
    sessions: int = 0
    calls: int = 0
    rejections: list[RejectedRecord] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    lost_agents: set[str] = field(default_factory=set)

    def add(self, resolved: Resolved) -> None:
        """Add the files of a family."""
        noted: dict[tuple[str, str], int] = {}
        for read in resolved.files:
            self.formats[read.format] += 1
            for fate in Fate:
                self.fates[fate] += read.fates.count(fate)
            self.blank += read.blank
            self.usages += read.usages
            self.bad_numbers += read.bad_numbers
            for rejected in read.rejected:
                self.rejections.append(RejectedRecord(str(read.source.path), rejected.record, rejected.reason))
            noted |= read.notes
        for (what, _), count in noted.items():
            self.notes[what] += count
        self.sessions += len(resolved.sessions)
        self.calls += resolved.calls
        self.lost_agents.update(resolved.lost_agents)


class FileArchive:
    """Files that were read.

    Attributes
    ----------
    kept : list of ImportedFile
    """

    def __init__(self) -> None:
        self.kept: list[ImportedFile] = []
        self._sessions: dict[str, tuple[int, int]] = {}
        self._reads: dict[int, FileRead] = {}
        self._links: list[npt.NDArray[np.int64]] = []
        self._started: dict[str, list[int]] = defaultdict(list)
        self._working: dict[str, list[int]] = defaultdict(list)

    def add(self, source: SourceFile, extract: Extract, content: bytes | None = None) -> None:
        """Add a file, with its `content` as it was kept before, if it was."""
        number = len(self.kept)
        for session_id, start_us in extract.starts.items():
            known_us, _ = self._sessions.get(session_id, (0, 0))
            self._sessions[session_id] = min(filter(None, (known_us, start_us)), default=0), number
        for agent in extract.started:
            self._started[agent].append(number)
        for agent in extract.working:
            self._working[agent].append(number)
        self._links.append(np.fromiter(map(hash, extract.links), np.int64, len(extract.links)))
        if extract.read is not None:
            self._reads[number] = extract.read
        content = packed(extract.content) if content is None else content
        self.kept.append(ImportedFile(str(source.path), source.size_bytes, source.mtime_ns, content))

    def sessions(self, tally: FileTally) -> Iterator[SessionSteps]:
        """All sessions by their start, then by id. Families are resolved on the way, and what became of their files is added."""
        families = self._families()
        files: dict[int, list[int]] = defaultdict(list)
        for file in range(len(self.kept)):
            files[families.of(file)].append(file)
        waiting: dict[str, SessionSteps] = {}
        for session_id, (_, file) in sorted(self._sessions.items(), key=lambda item: (item[1][0], item[0])):
            if session_id not in waiting:
                waiting |= self._resolved(files.pop(families.of(file)), tally)
            yield waiting.pop(session_id)
        for without_session in files.values():
            self._resolved(without_session, tally)

    def _families(self) -> _Families:
        families = _Families(len(self.kept))
        for one, other in _pairs(self._links):
            families.unite(one, other)
        # A subagent that works in another session than the step that has started it. Most work in the same.
        for agent, starting in self._started.items():
            started, at_work = set(map(families.of, starting)), set(map(families.of, self._working.get(agent, ())))
            for one in started - at_work:
                for other in at_work - started:
                    families.unite(one, other)
        return families

    def _read(self, file: int) -> FileRead:
        return self._reads.pop(file) if file in self._reads else from_own_bytes(self.kept[file].content)

    def _resolved(self, files: Iterable[int], tally: FileTally) -> dict[str, SessionSteps]:
        resolved = resolve(self._read(file) for file in files)
        tally.add(resolved)
        ended_us = max((session.session.ended_us or 0 for session in resolved.sessions), default=0)
        for session in resolved.sessions:
            session.family_ended_us = ended_us
        return {session.session.session_id: session for session in resolved.sessions}


class _Families:
    """Files by number, of which some belong together."""

    def __init__(self, files: int) -> None:
        self._above = list(range(files))

    def of(self, file: int) -> int:
        """The family of a file: the number of one of its files."""
        above = self._above
        while above[file] != file:
            above[file] = file = above[above[file]]
        return file

    def unite(self, one: int, other: int) -> None:
        """Put two files, and whatever belongs to either, into one family."""
        self._above[self.of(other)] = self.of(one)


def _pairs(links: Sequence[npt.NDArray[np.int64]]) -> set[tuple[int, int]]:
    """Pairs of files that share a link: enough of them to know all that belong together."""
    files = np.repeat(np.arange(len(links)), [len(of_file) for of_file in links])
    named = np.concatenate([*links, np.empty(0, np.int64)])
    order = np.argsort(named, kind="stable")
    named, files = named[order], files[order]
    shared = named[1:] == named[:-1]
    return set(zip(files[:-1][shared].tolist(), files[1:][shared].tolist(), strict=True))
