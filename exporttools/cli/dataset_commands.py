"""Commands that export the fleet and read an exported dataset."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exporttools.cli.application import (
    FAILED,
    NO,
    DatabaseOption,
    FormatOption,
    ImportedOption,
    TenantOption,
    app,
    note,
    open_store,
    parse_time,
)
from exporttools.cli.terminal import Format
from exporttools.errors import ConfigError, MissingExtra
from exporttools.text.inert import one_line

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from exporttools.dataset import Dataset

DASK_TIMEOUT_S = 10


@app.command()
def export(
    context: typer.Context,
    destination: Annotated[
        str, typer.Argument(metavar="DEST", help="A directory or s3://bucket/prefix; created, or brought up to date.")
    ],
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only runs that started at or after this time.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Only runs that started before this time.")] = None,
    window: Annotated[
        str, typer.Option(metavar="LENGTH", help="How much time to read and commit at once, such as 1h, 1d or 7d.")
    ] = "1d",
    settle: Annotated[
        str, typer.Option(metavar="LENGTH", help="How long a window must be over before later exports skip it.")
    ] = "1h",
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="How many windows to export at a time.")
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(
            "--dask", metavar="ADDRESS", help="Export on the Dask cluster with this scheduler, such as tcp://host:8786."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be exported; write nothing.")] = False,
    database: DatabaseOption = None,
    _imported: ImportedOption = False,
    tenant: TenantOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Export the fleet as a partitioned Parquet dataset.

    Reads and commits one window of time after another. Run it again to resume, or to bring the dataset up to date.
    """
    from contextlib import ExitStack

    from exporttools.cli.terminal import write_json, write_rows
    from exporttools.export import export_dataset, plan_export

    if output is Format.csv and not dry_run:
        note("error: --format csv needs --dry-run; without it, use table or json")
        raise typer.Exit(FAILED)
    store = open_store(context, database, tenant)
    asked: dict[str, Any] = {"since": parse_time(since), "until": parse_time(until), "window": window}
    if dry_run:
        plan = plan_export(store, destination, **asked)
        if output is Format.json:
            write_json(plan.to_dict())
            return
        rows = [
            {**planned, "window": one.name}
            for planned, one in zip(plan.to_dict()["windows"], plan.windows, strict=True)
        ]
        write_rows(rows, ["window", "why", "runs", "open_runs", "incidents"], output)
        note(plan.summary())
        return
    with ExitStack() as stack:
        executor = stack.enter_context(_dask_executor(dask)) if dask else None
        report = export_dataset(
            store, destination, **asked, settle=settle, executor=executor, jobs=jobs, progress=sys.stderr.isatty()
        )
    if output is Format.json:
        write_json(report.to_dict())
    else:
        typer.echo(str(report))


@contextmanager
def _dask_executor(address: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingExtra("dask", "an export on a Dask cluster") from error
    try:
        client = Client(address, timeout=DASK_TIMEOUT_S)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise ConfigError(f"no Dask scheduler answers at {one_line(address, 100)}: {one_line(error)}") from error
    with client:
        yield client.get_executor()  # type: ignore[no-untyped-call]


@app.command()
def dataset(
    destination: Annotated[str, typer.Argument(metavar="DEST", help="The dataset, as given to export.")],
    as_of: Annotated[
        int | None, typer.Option("--as-of", metavar="N", help="Read the dataset as of manifest N. Default: the newest.")
    ] = None,
    verify_rows: Annotated[
        bool, typer.Option("--verify", help="Check all files and rows against the manifest; exit code 1 if any differ.")
    ] = False,
    query: Annotated[
        str | None,
        typer.Option(
            "--sql", metavar="QUERY", help="Query incidents, runs, traces, trace_steps and ledger with DuckDB."
        ),
    ] = None,
    compact: Annotated[
        str | None,
        typer.Option(
            "--compact",
            metavar="LENGTH",
            help="Merge the files of shorter windows into windows of this length, such as 1d.",
        ),
    ] = None,
    tenant: TenantOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Describe an exported dataset; verify, query or compact it."""
    from exporttools.cli.terminal import write_json, write_rows
    from exporttools.dataset import open_dataset

    found = open_dataset(destination, as_of=as_of, tenant_id=tenant)
    if compact is not None:
        found = found.compact(window=compact)
        note(f"manifest {found.manifest.number}: {len(found.part_files):,} files")
    if query is not None:
        rows, columns = _answer(found, query)
        write_rows(rows, columns, output, verbatim=True)
    elif verify_rows:
        verification = found.verify()
        if output is Format.json:
            write_json(verification.to_dict())
        else:
            typer.echo(str(verification))
        if not verification:
            raise typer.Exit(NO)
    else:
        files = {table: len(found.files(table)) for table in found.tables}
        rows = [
            {"table": table, "rows": found.rows[table], "files": files[table], "bytes": found.bytes[table]}
            for table in found.tables
        ]
        write_rows(rows, ["table", "rows", "files", "bytes"], output)
        for name, value in found.facts:
            note(f"{name}: {value}")


def _answer(found: Dataset, query: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Run a query and return its rows and the names of their columns."""
    import duckdb

    try:
        relation = found.sql(query)
        if relation is None:
            raise ConfigError("the query is empty; expected for example --sql 'select count(*) from runs'")
        answer = relation.arrow().read_all()
    except duckdb.Error as error:
        raise ConfigError(f"DuckDB cannot run this query: {one_line(error, 600)}") from error
    names: list[str] = answer.column_names
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"the query has several columns {one_line(repr(twice[0]), 80)}; name them apart with AS")
    try:
        return answer.to_pylist(), names
    except (OverflowError, ValueError) as error:
        raise ConfigError(
            f"the result has a time that cannot be shown ({one_line(error)}); cast it to VARCHAR in the query"
        ) from error
