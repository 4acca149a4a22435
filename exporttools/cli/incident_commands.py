"""Commands that list and show incidents."""

from __future__ import annotations

from typing import Annotated

import typer

from exporttools.cli.application import (
    DatabaseOption,
    FormatOption,
    ImportedOption,
    TenantOption,
    app,
    bundle_of,
    note,
    open_store,
    parse_time,
)
from exporttools.cli.terminal import Format


@app.command()
def incidents(
    context: typer.Context,
    severity: Annotated[
        list[str] | None, typer.Option("--severity", "-s", help="Only incidents of this severity; repeatable.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only incidents created at or after this time, such as 2026-10-05 or 2026-10-05T14:00Z.",
        ),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Only incidents created before this time.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Show at most this many, newest first.")] = 50,
    database: DatabaseOption = None,
    _imported: ImportedOption = False,
    tenant: TenantOption = None,
    output: FormatOption = Format.table,
) -> None:
    """List incidents, newest first."""
    from exporttools.cli.terminal import write_rows

    store = open_store(context, database, tenant)
    found = store.list_incidents(
        severity=severity or None, since=parse_time(since), until=parse_time(until), limit=limit
    )
    columns = list(found.schema.names)
    if output is Format.table:
        columns = ["id", "created_at", "severity", "violation_type", "tenant_id", "source_run_id", "policy_name"]
    write_rows([incident.to_dict() for incident in found], columns, output)
    if found.truncated:
        note(f"{found.describe()}; raise --limit to see more")


@app.command()
def show(
    context: typer.Context,
    identifier: Annotated[str, typer.Argument(metavar="ID", help="The id of an incident or a run.")],
    database: DatabaseOption = None,
    _imported: ImportedOption = False,
    tenant: TenantOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Show an incident: its run, its cost, and where it went wrong.

    With --format json: everything, with all steps. With --format csv: all steps.
    """
    from exporttools.cli.overview import write_overview

    write_overview(bundle_of(open_store(context, database, tenant), identifier), output)
