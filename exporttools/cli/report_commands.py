"""The command that writes reports."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from exporttools.cli.application import (
    FAILED,
    NO,
    DatabaseOption,
    ImportedOption,
    TenantOption,
    app,
    database_url,
    note,
    open_store,
    parse_time,
)
from exporttools.text.inert import one_line
from exporttools.text.words import plural


@app.command()
def report(
    context: typer.Context,
    identifier: Annotated[
        str | None,
        typer.Argument(
            metavar="INCIDENT", help="The id of an incident. Omit it to report on a period: --since, --until."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The page to write, default INCIDENT.html; for a period, the directory, default reports.",
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only incidents created at or after this time.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Only incidents created before this time.")] = None,
    database: DatabaseOption = None,
    _imported: ImportedOption = False,
    tenant: TenantOption = None,
) -> None:
    """Write the investigation of an incident as one HTML page.

    For a period: one page per incident, and an index. Pages have no script and need no network; their footer says
    how to check them. Existing pages are replaced.
    """
    from exporttools.records.export_bundle import ExportBundle
    from exporttools.report.writing import write_report, write_reports

    period = since is not None or until is not None
    if (identifier is None) != period:
        note("error: give either an INCIDENT or a period (--since, --until)")
        raise typer.Exit(FAILED)
    store = open_store(context, database, tenant)
    url = database_url(context, database)
    progress = sys.stderr.isatty()
    if identifier is not None:
        incident = store.get_incident(identifier)
        if incident is None:
            note(f"no incident has the id {one_line(repr(identifier))}")
            raise typer.Exit(NO)
        path = output or Path(f"{ExportBundle(incident).file_name}.html")
        write_report(identifier, path, database_url=url, tenant_id=incident.tenant_id, progress=progress)
        typer.echo(path)
        return
    found = store.list_incidents(since=parse_time(since), until=parse_time(until))
    directory = output or Path("reports")
    outcomes = write_reports(found, directory, database_url=url, progress=progress)
    failed = [outcome for outcome in outcomes if outcome.path is None]
    for outcome in failed:
        note(f"{one_line(outcome.incident.id, 80)}: {outcome.verdict}")
    typer.echo(directory / "index.html")
    if failed:
        note(f"no report for {len(failed):,} of {plural(len(outcomes), 'incident')}")
        raise typer.Exit(NO)
