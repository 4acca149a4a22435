"""The command that imports the sessions of coding agents."""

from __future__ import annotations

import datetime as dt
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exporttools.cli.application import FormatOption, app, note, parse_time
from exporttools.cli.terminal import Format
from exporttools.errors import ConfigError
from exporttools.text.inert import one_line
from exporttools.text.words import plural

if TYPE_CHECKING:
    import pyarrow as pa

    from exporttools.importing import ImportedTraces

_SESSIONS_SHOWN, _DAYS_SHOWN = 10, 14
_OF_A_SESSION = ["run_id", "project", "calls", "tokens", "cost_cents"]
"""What fits on a line of a terminal; other formats have all columns."""


@app.command("import")
def import_(
    context: typer.Context,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH|DIR|-]...",
            help="Files or directories to read, or - for standard input. Default: every agent found.",
        ),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The database to load into. Default: your own, which --imported reads."),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only sessions that ended since then: 7d, 12h or a time.")
    ] = None,
    incident_rules: Annotated[
        str | None,
        typer.Option(metavar="RULES", help="Which of step_error,loop,budget_exceeded to apply. Default: all."),
    ] = None,
    budget_cents: Annotated[
        float | None, typer.Option(min=0, metavar="N", help="What a session may cost, in US cents.")
    ] = None,
    price: Annotated[bool, typer.Option("--price/--no-price", help="Price calls by list (extra prices).")] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Load nothing if a line cannot be read.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the bill; write nothing.")] = False,
    explain: Annotated[
        str | None,
        typer.Option(
            "--explain", metavar="SESSION", help="Show what became of every line of a session; write nothing."
        ),
    ] = None,
    output: FormatOption = Format.table,
) -> None:
    """Import the sessions of Claude Code, Codex, Gemini CLI and ATIF files: their steps, their cost, what went wrong.

    Without a path, whatever agent has left its sessions on this machine. Nothing leaves the machine.
    """
    from exporttools.importing import read_traces
    from exporttools.importing.own_database import own_database
    from exporttools.loading import imported_files

    if context.obj["database"] and context.obj["database_given"]:
        raise ConfigError("import reads files; name the database to load into with --into")
    with ExitStack() as stack:
        named = _named(paths, stack)
        if explain is not None:
            _write_explanation(explain, named, output)
            return
        target = into or own_database()
        known = [] if dry_run else imported_files(target)
        imported = read_traces(
            named,
            since=_since(since),
            price=price,
            incident_rules=None if incident_rules is None else [rule.strip() for rule in incident_rules.split(",")],
            budget_cents=budget_cents,
            strict=strict,
            known=known,
        )
    if not dry_run:
        if into is None:
            own_database().parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # prompts are private
        loaded = imported.load_into(target)
    _write_bill(imported, output)
    if dry_run:
        note("dry run: nothing was written")
        return
    counts = f"{plural(loaded.new, 'new run')}, {loaded.replaced:,} replaced, {loaded.unchanged:,} unchanged"
    read_it = "--imported" if into is None else "--database"
    note(
        f"{counts} in {one_line(_shown(target))}; read them with {read_it}: exporttools incidents {read_it}"
        + ("" if into is None else " URL")
    )


def _named(paths: list[Path] | None, stack: ExitStack) -> list[Path] | None:
    """The paths to read; what standard input holds is put into a file. Without any, the agents found are said."""
    from exporttools.importing.source_files import agents_here

    if not paths:
        for place in agents_here():
            note(f"{place.agent}: {plural(sum(1 for _ in place.files()), 'file')} in {one_line(place.directory)}")
        return None
    if Path("-") not in paths:
        return paths
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="exporttools-")))
    piped = folder / "standard-input.jsonl"
    with piped.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return [piped if path == Path("-") else path for path in paths]


def _since(text: str | None) -> dt.datetime | None:
    """A time, or a length of time back from now."""
    from exporttools.times import EARLIEST, parse_length

    if text is None:
        return None
    if text[-1:] in "dhwn" and text[:1].isdigit() and "-" not in text:
        now = dt.datetime.now(dt.UTC)
        return now - min(parse_length("--since", text), now - EARLIEST)
    return parse_time(text)


def _shown(target: str | Path) -> str:
    from exporttools.connections.urls import parse_url, safe_label

    return str(target) if isinstance(target, Path) else safe_label(parse_url(target))


def _write_bill(imported: ImportedTraces, output: Format) -> None:
    from exporttools.cli.terminal import write_fields, write_json, write_rows

    report = imported.report
    if output is Format.json:
        write_json(report.to_dict())
    elif output is Format.csv:
        write_rows(report.by_session.to_pylist(), report.by_session.column_names, output)
    else:
        write_fields(report.lines())
        _write_some(report.by_day, "by day", [("day", "descending")], _DAYS_SHOWN)
        _write_some(
            report.by_session.select(_OF_A_SESSION),
            "dearest sessions",
            [("cost_cents", "descending"), ("run_id", "ascending")],
            _SESSIONS_SHOWN,
        )


def _write_some(table: pa.Table, heading: str, order: list[tuple[str, str]], most: int) -> None:
    from exporttools.cli.terminal import write_heading, write_table

    if table.num_rows:
        more = f" ({most} of {table.num_rows:,})" if table.num_rows > most else ""
        write_heading(heading + more)
        write_table(table.sort_by(order).slice(0, most).to_pylist(), table.column_names)


def _write_explanation(session_id: str, paths: list[Path] | None, output: Format) -> None:
    from itertools import groupby

    from exporttools.cli.terminal import write_heading, write_rows, write_table
    from exporttools.importing.explaining import explain_session

    rows = [
        {"path": line.path, "line": line.record, "fate": line.fate, "says": line.says}
        for line in explain_session(session_id, paths)
    ]
    if output is not Format.table:
        write_rows(rows, ["path", "line", "fate", "says"], output)
        return
    for path, of_file in groupby(rows, lambda row: str(row["path"])):
        write_heading(path)
        write_table(list(of_file), ["line", "fate", "says"])
