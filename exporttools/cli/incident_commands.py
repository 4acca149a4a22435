"""Commands that look at incidents in a database."""

from __future__ import annotations

from typing import Annotated

import typer

from exporttools.cli.application import (
    DatabaseOption,
    FormatOption,
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
        list[str] | None, typer.Option("--severity", "-s", help="Only of this severity; may be repeated.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="From this time on, such as 2026-10-05 or 2026-10-05T14:00Z.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Before this time.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="At most so many, the newest.")] = 50,
    database: DatabaseOption = None,
    tenant: TenantOption = None,
    output: FormatOption = Format.table,
) -> None:
    """List incidents, the newest first."""
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
        note(f"{found.describe()}; --limit shows more")


@app.command()
def show(
    context: typer.Context,
    identifier: Annotated[str, typer.Argument(metavar="ID", help="An incident's id, or a run's.")],
    database: DatabaseOption = None,
    tenant: TenantOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Show an incident: its run, what it cost by step type, and the steps around the violation.

    As JSON: everything with all steps; as CSV: all steps.
    """
    from exporttools.cli.overview import write_overview

    write_overview(bundle_of(open_store(context, database, tenant), identifier), output)
