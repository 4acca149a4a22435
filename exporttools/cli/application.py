"""What all commands share: the application, its options, the store they read, notes and times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from exporttools import times
from exporttools.cli.terminal import Format
from exporttools.errors import ExportToolsError
from exporttools.text.inert import one_line

if TYPE_CHECKING:
    import datetime as dt

    from exporttools.database.store import ExportBundleStore
    from exporttools.records.export_bundle import ExportBundle

NO, FAILED = 1, 2


class _Commands(TyperGroup):
    """Turns our errors into one line on standard error and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ExportToolsError as error:
            note(f"error: {one_line(error, 2000)}")
            raise typer.Exit(FAILED) from error


app = typer.Typer(
    cls=_Commands,
    name="exporttools",
    no_args_is_help=True,
    rich_markup_mode=None,  # with it, --help takes three times as long
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database", "-d", metavar="URL", help="postgresql://..., sqlite:///file or the path of an SQLite file."
    ),
]
TenantOption = Annotated[
    str | None, typer.Option("--tenant", "-t", metavar="TENANT", help="Read this tenant's rows only.")
]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="How to write the result.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from exporttools.version import __version__

        typer.echo(f"exporttools {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            "-d",
            metavar="URL",
            envvar="EXPORTTOOLS_DATABASE_URL",
            help="postgresql://..., sqlite:///file or the path of an SQLite file. Without: an embedded sample.",
        ),
    ] = None,
    tenant: TenantOption = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """What happened in an AI agent's run, what did it cost, and can you prove it?"""  # noqa: D400
    context.obj = {"database": database, "tenant": tenant}


def note(text: str) -> None:
    """A line for people, on standard error."""
    typer.echo(text, err=True)


def database_url(context: typer.Context, database: str | None) -> str:
    """The database that a command reads: the one named, or else the embedded sample."""
    from exporttools.database.embedded import default_database_url

    return database or context.obj["database"] or default_database_url()[0]


def open_store(context: typer.Context, database: str | None, tenant: str | None) -> ExportBundleStore:
    """The store that a command reads; where no database is named, that is said."""
    from exporttools.database.store import ExportBundleStore

    if not (database or context.obj["database"]):
        note("reading the embedded sample, a made-up fleet; name yours by --database or EXPORTTOOLS_DATABASE_URL")
    return ExportBundleStore(database_url(context, database), tenant_id=tenant or context.obj["tenant"])


def bundle_of(store: ExportBundleStore, identifier: str) -> ExportBundle:
    """The bundle of an incident, or else of a run, of that id; exit code 1 where there is neither."""
    bundle = store.get_export_bundle(identifier) or store.get_export_bundle(run_id=identifier)
    if bundle is None:
        note(f"no incident and no run has the id {one_line(repr(identifier))}")
        raise typer.Exit(NO)
    return bundle


def parse_time(text: str | None) -> dt.datetime | None:
    """A time as typed, where one was."""
    return None if text is None else times.parse_time(text)
