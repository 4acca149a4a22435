"""Reading traces: files in, resolved against each other and against what was kept of earlier ones; tables and a report out."""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from exporttools.analysis.prices import PriceList
from exporttools.errors import ConfigError, TraceImportError
from exporttools.importing.events import Fate
from exporttools.importing.file_archive import FileArchive, FileTally
from exporttools.importing.file_extracts import Extract, read_found, titles
from exporttools.importing.file_reading import FORMATS, FileRead
from exporttools.importing.import_report import ImportReport, RejectedRecord
from exporttools.importing.imported import ImportedTraces
from exporttools.importing.incident_rules import require_rules
from exporttools.importing.json_records import text_of
from exporttools.importing.kept_files import from_database
from exporttools.importing.reading_processes import read_files
from exporttools.importing.resolving import SessionSteps
from exporttools.importing.source_files import SourceFile, agents_here, files_at
from exporttools.importing.tables import TableWriter
from exporttools.loading.imported_file import ImportedFile
from exporttools.text.inert import one_line
from exporttools.text.words import plural
from exporttools.times import epoch_us

PathLike = str | os.PathLike[str]

_SHOWN = 3


def read_traces(
    paths: PathLike | Sequence[PathLike] | None = None,
    *,
    format: str = "auto",  # noqa: A002  # as users of pandas and pyarrow call it
    since: dt.datetime | None = None,
    price: bool = True,
    incident_rules: Collection[str] | None = None,
    budget_cents: float | None = None,
    strict: bool = False,
    progress: bool = True,
    known: Iterable[ImportedFile] = (),
) -> ImportedTraces:
    """Read the sessions of coding agents from their files. Nothing is written, and nothing leaves the machine.

    Parameters
    ----------
    paths : str, path or sequence of them, optional
        Files, or directories to search. By default where the agents on this machine keep their sessions.
    format : {"auto", "claude-code", "codex", "gemini-cli", "atif"}
        Read only files of this format; one that is named and in another format is an error.
    since : datetime.datetime, optional
        Leave out sessions that ended before it. All files are read nevertheless: they may hold what others have copied;
        and where a session left out shares steps with another one, :meth:`ImportedTraces.load_into` loads both.
    price : bool
        Whether to price calls whose cost the files do not state, with ``genai-prices`` (extra ``prices``).
    incident_rules : collection of str, optional
        Which of ``step_error``, ``loop`` and ``budget_exceeded`` to apply; by default all.
    budget_cents : float, optional
        What a run may cost, for ``budget_exceeded``.
    strict : bool
        Whether a line that cannot be read is an error.
    progress : bool
        Whether to show a progress bar on stderr, if that is a terminal.
    known : iterable of ImportedFile
        What an earlier import has kept: :func:`exporttools.loading.imported_files`. Those that have not changed are not read again; those that are gone
        still tell what others have copied.

    Returns
    -------
    ImportedTraces

    Raises
    ------
    ConfigError
        There is no such path, format or rule, or `since` is naive.
    TraceImportError
        There are no sessions, or `strict` and a line cannot be read.
    UnrecognisedTrace
        A file that was named is in no known format.
    MissingExtra
        `price`, and the extra ``prices`` is not installed.

    Examples
    --------
    >>> import tempfile
    >>> answer = {"id": "msg_1", "model": "claude-opus-4-6", "usage": {"input_tokens": 900, "output_tokens": 100}}
    >>> line = {"type": "assistant", "sessionId": "s1", "timestamp": "2026-10-05T12:00:00Z", "message": answer}
    >>> import json
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "s1.jsonl").write_text(json.dumps(line))
    ...     imported = read_traces(folder)
    >>> imported.report.tokens["output_tokens"], round(imported.report.cost_cents, 3)
    (100, 0.7)
    """
    if format != "auto" and format not in FORMATS:
        raise ConfigError(
            f"there is no format {one_line(repr(format), 60)}; expected 'auto', {', '.join(map(repr, FORMATS))}"
        )
    if since is not None and since.utcoffset() is None:
        raise ConfigError(f"since is {since!r}, a naive datetime; give it a time zone, such as tzinfo=datetime.UTC")
    rules = require_rules(incident_rules)
    since_us = None if since is None else epoch_us(since)
    prices = PriceList() if price else None
    writer = TableWriter(prices, rules, budget_cents)
    archive, skipped, read = FileArchive(), list[str](), set[Path]()
    found = _found(paths, skipped)
    earlier = {Path(file.path): file for file in known}
    changed = [(file, named) for path, (file, named) in found.items() if not _is_known(file, earlier.get(path))]
    with _bar(changed, shown=progress) as bar:
        for source, extract in read_files(changed, None if format == "auto" else format):
            if extract is None:
                skipped.append(str(source.path))
            else:
                archive.add(source, extract)
                read.add(source.path)
            bar.update(source.size_bytes)
    if not read and not earlier:
        raise TraceImportError(
            f"no sessions were found: {plural(len(found), 'file')} looked at; expected sessions of {titles()}"
        )
    for path, file in earlier.items():
        if path not in read:  # as it was, or gone, or not readable any more
            source = SourceFile(path, file.size_bytes, file.mtime_ns)
            archive.add(source, Extract.of(from_database(file.content)), file.content)
    here = {str(path) for path in found}
    found.clear()  # a family of files needs the memory now
    tally = FileTally()
    left_out: list[SessionSteps] = []
    tables = writer.tables(_recent(archive.sessions(tally), since_us, left_out))
    kin = TableWriter(prices, rules, budget_cents)
    also_loaded = kin.tables(left_out) if left_out else {}
    if strict:
        _require_no_rejections([r for r in tally.rejections if r.path in here])
    own = [file for file in archive.kept if file.path in here]
    digests = writer.digests + kin.digests
    return ImportedTraces(tables, writer.step_counts, _report(tally, writer, skipped), own, digests, also_loaded)


def _recent(
    sessions: Iterable[SessionSteps], since_us: int | None, left_out: list[SessionSteps]
) -> Iterator[SessionSteps]:
    """The sessions that did not end before a time. Of the others, those that may share steps with one are put aside.

    They are loaded all the same: where a shared step belongs may have changed since they were loaded before.
    """
    for session in sessions:
        if since_us is None or (session.session.ended_us or 0) >= since_us:
            yield session
        elif session.family_ended_us >= since_us:
            left_out.append(session)


def _is_known(file: SourceFile, earlier: ImportedFile | None) -> bool:
    """Whether a file is as it was."""
    return earlier is not None and (earlier.size_bytes, earlier.mtime_ns) == (file.size_bytes, file.mtime_ns)


def read_sources(paths: PathLike | Sequence[PathLike] | None = None, *, progress: bool = True) -> list[FileRead]:
    """Read files as :func:`read_traces` does, without deciding what counts."""
    found = _found(paths, []).values()
    with _bar(found, shown=progress) as bar:
        reads = []
        for file, named in found:
            reads.append(read_found(file, None, named=named))
            bar.update(file.size_bytes)
    return [read for read in reads if read is not None]


def _found(paths: PathLike | Sequence[PathLike] | None, skipped: list[str]) -> dict[Path, tuple[SourceFile, bool]]:
    """The files to read by their paths, each with whether it was named. Those that cannot be are `skipped`."""
    found: dict[Path, tuple[SourceFile, bool]] = {}
    for file, named in _listed(paths):
        if text_of(str(file.path)) == str(file.path):
            found[file.path] = file, named or (file.path in found and found[file.path][1])
        elif named:  # no database takes it
            raise TraceImportError(f"{one_line(file.path)}: it cannot be read: its name is not UTF-8; rename it")
        else:
            skipped.append(str(text_of(str(file.path))))
    return found


def _listed(paths: PathLike | Sequence[PathLike] | None) -> Iterator[tuple[SourceFile, bool]]:
    if paths is None:
        places = agents_here()
        if not places:
            raise TraceImportError(
                "no agent's sessions were found on this machine: looked for Claude Code, Codex and Gemini CLI below the home "
                "directory, CLAUDE_CONFIG_DIR and CODEX_HOME. Name a file or a directory to read"
            )
        for place in places:
            yield from ((file, False) for file in place.files())
        return
    for given in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        path = Path(os.path.expanduser(given))  # noqa: PTH111  # Path.expanduser fails for users that there are not
        files = files_at(path)
        named = not path.is_dir()
        yield from ((file, named) for file in files)


def _require_no_rejections(rejections: Sequence[RejectedRecord]) -> None:
    if rejections:
        shown = "; ".join(map(str, rejections[:_SHOWN])) + ("; ..." if len(rejections) > _SHOWN else "")
        raise TraceImportError(
            f"strict: {plural(len(rejections), 'record')} cannot be read, and nothing was imported: {shown}"
        )


def _bar(files: Iterable[tuple[SourceFile, bool]], *, shown: bool) -> tqdm[NoReturn]:
    total_bytes = sum(file.size_bytes for file, _ in files)
    return tqdm(
        total=total_bytes, unit="B", unit_scale=True, disable=not (shown and sys.stderr.isatty()), file=sys.stderr
    )


def _report(tally: FileTally, writer: TableWriter, skipped: Sequence[str]) -> ImportReport:
    billing, titles = writer.billing, {FORMATS[name].title: count for name, count in tally.formats.items()}
    return ImportReport(
        files=dict(sorted(titles.items(), key=lambda item: (-item[1], item[0]))),
        skipped=tuple(sorted(skipped)),
        records=tally.fates.total() - tally.blank,
        counted=tally.fates[Fate.COUNTED],
        copies=tally.fates[Fate.COPY],
        metadata=tally.fates[Fate.METADATA] - tally.blank,
        rejected=tally.fates[Fate.REJECTED],
        rejections=tuple(sorted(tally.rejections, key=lambda rejected: (rejected.path, rejected.record))),
        bad_numbers=tally.bad_numbers,
        sessions=len(writer.step_counts),
        sessions_left_out=tally.sessions - len(writer.step_counts),
        forks=writer.forks,
        subagents=writer.subagents,
        usages=tally.usages,
        calls=writer.calls,
        calls_left_out=tally.calls - writer.calls,
        tokens=writer.tokens,
        cost_cents=writer.cost_cents,
        priced=billing.priced,
        reported=billing.reported,
        unpriced=dict(billing.unpriced.most_common()),
        unknown_tiers=dict(billing.unknown_tiers.most_common()),
        lower_bounds=billing.lower_bounds,
        lost_subagents=tuple(sorted(tally.lost_agents)),
        notes=dict(sorted(tally.notes.items())),
        by_session=writer.by_session(),
        by_day=writer.by_day(),
    )
