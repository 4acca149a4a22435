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
    TenantOption,
    app,
    database_url,
    note,
    open_store,
    parse_time,
)
from exporttools.text.inert import one_line


@app.command()
def report(
    context: typer.Context,
    identifier: Annotated[
        str | None,
        typer.Argument(metavar="INCIDENT", help="An incident's id. Without: all from --since until --until."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The page, default INCIDENT.html; of a period: a directory, default reports."
        ),
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Incidents recorded from this time on.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Incidents recorded before this time.")] = None,
    database: DatabaseOption = None,
    tenant: TenantOption = None,
) -> None:
    """Investigate an incident and write one HTML page, to read, print and send; or one for each of a period, and an index.

    The pages have no script, need no network, and say at their foot how to check them. A page that is there is replaced.
    """
    from exporttools.records.export_bundle import ExportBundle
    from exporttools.report.writing import write_report, write_reports

    period = since is not None or until is not None
    if (identifier is None) != period:
        note("error: give either an incident or a period, by --since or --until")
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
        note(f"{len(failed):,} of {len(outcomes):,} incidents have no report")
        raise typer.Exit(NO)
