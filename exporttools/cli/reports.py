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
from exporttools.inert import one_line


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
    from exporttools.report import write_report, write_reports

    period = since is not None or until is not None
    if (identifier is None) != period:
        note("error: give either an incident or a period, by --since or --until")
        raise typer.Exit(FAILED)
    store = open_store(context, database, tenant)
    url = database_url(context, database)
    if identifier is not None:
        bundle = store.get_export_bundle(identifier)
        if bundle is None:
            note(f"no incident has the id {one_line(repr(identifier))}")
            raise typer.Exit(NO)
        path = output or Path(f"{bundle.file_name}.html")
        typer.echo(write_report(identifier, path, database_url=url, tenant_id=bundle.tenant_id))
        return
    from tqdm import tqdm

    found = store.list_incidents(since=parse_time(since), until=parse_time(until))
    directory = output or Path("reports")
    failed = 0
    made = write_reports(found, directory, database_url=url)
    for outcome in tqdm(made, total=len(found), unit="report", disable=not sys.stderr.isatty()):
        if outcome.path is None:
            failed += 1
            note(f"{one_line(outcome.incident.id, 80)}: {outcome.verdict}")
    typer.echo(directory / "index.html")
    if failed:
        note(f"{failed:,} of {len(found):,} incidents have no report")
        raise typer.Exit(NO)
