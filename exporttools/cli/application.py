"""What all commands share: the application, common options, the store they read, notes and times."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperGroup

from exporttools import times
from exporttools.cli.terminal import Format
from exporttools.errors import ConfigError, ExportToolsError
from exporttools.text.inert import one_line

if TYPE_CHECKING:
    import datetime as dt

    from exporttools.database.store import ExportBundleStore
    from exporttools.records.export_bundle import ExportBundle

NO, FAILED, CLOSED_PIPE = 1, 2, 141
"""Exit codes: the answer is no; wrong usage or environment; the reader of a pipe was content with less."""


class _Commands(TyperGroup):
    """Turn errors into one line on standard error and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()  # at exit it would be too late to say that the disk is full
        except ExportToolsError as error:
            note(f"error: {one_line(error, 2000)}")
            raise typer.Exit(FAILED) from error
        except BrokenPipeError as error:
            _discard_output()
            raise typer.Exit(CLOSED_PIPE) from error
        except OSError as error:
            _discard_output()
            place = "" if error.filename is None else f"{one_line(error.filename)}: "
            note(f"error: {place}{one_line(error.strerror or error)}")
            raise typer.Exit(FAILED) from error


def _discard_output() -> None:
    """Let what is still buffered go nowhere: a second failure, at exit, would be a traceback."""
    with suppress(OSError):  # standard output is not a file, as in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(
    cls=_Commands,
    name="exporttools",
    no_args_is_help=True,
    rich_markup_mode=None,  # with it, --help takes three times as long
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DATABASE_HELP = "The database: postgresql://..., sqlite:///file, or the path of an SQLite file."

DatabaseOption = Annotated[
    str | None,
    typer.Option("--database", "-d", metavar="URL", help=DATABASE_HELP),
]


def _tenant_to_read(context: typer.Context, given: str | None) -> str | None:
    """Return the tenant given after the command, or before it, or by the environment; None for all tenants."""
    from exporttools.database.embedded import default_tenant_id

    after, before = _named(given), context.obj["tenant"]
    if after and before and after != before:
        raise ConfigError(
            f"--tenant is {one_line(before, 60)!r} before the command and {one_line(after, 60)!r} after it; give one of them"
        )
    return after or before or default_tenant_id()


def _named(tenant: str | None) -> str | None:
    if tenant is not None and not tenant.strip():
        raise ConfigError(
            "--tenant is empty, perhaps from a shell variable that is not set; name a tenant, or leave --tenant out to "
            "read all tenants"
        )
    return tenant


_TENANT_HELP = "Read only this tenant's rows. Default: EXPORTTOOLS_TENANT_ID, or else all tenants."

TenantOption = Annotated[
    str | None, typer.Option("--tenant", "-t", metavar="TENANT", help=_TENANT_HELP, callback=_tenant_to_read)
]
"""A command that has it gets the tenant to read, wherever it was given; one that does not have it refuses a tenant."""


def _read_imported(context: typer.Context, given: bool) -> bool:
    context.obj["imported"] = given
    return given


ImportedOption = Annotated[
    bool,
    typer.Option(
        "--imported", help="Read what `exporttools import` has loaded on this machine.", callback=_read_imported
    ),
]
"""A command that has it reads the user's own database of imports when asked to."""
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="Output format.")]


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
            help=f"{DATABASE_HELP} Default: the embedded sample.",
        ),
    ] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", metavar="TENANT", help=_TENANT_HELP)] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What happened in an AI agent's run, what did it cost, and can you prove it?"""  # noqa: D400
    source = context.get_parameter_source("database")
    given = source is not None and source.name == "COMMANDLINE"
    context.obj = {"database": database, "database_given": given, "tenant": _named(tenant), "imported": False}
    command = str(context.invoked_subcommand)
    options = cast("TyperGroup", context.command).commands[command].params
    if tenant and not any(option.name == "tenant" for option in options):
        raise ConfigError(f"{command} does not read the rows of a tenant; leave --tenant out")


def note(text: str) -> None:
    """Write a line for people to standard error."""
    typer.echo(text, err=True)


def database_url(context: typer.Context, database: str | None) -> str:
    """Return the URL of the database to read: the one given, or that of the user's imports, or else the embedded sample.

    Raises
    ------
    ConfigError
        Both a database and the imports are asked for, or nothing was imported yet.
    """
    from exporttools.database.embedded import default_database_url

    if not context.obj["imported"]:
        return database or context.obj["database"] or default_database_url()[0]
    from exporttools.importing.own_database import own_database

    if database or context.obj["database_given"]:
        raise ConfigError("--imported and --database name two databases; give one of them")
    if not own_database().exists():
        raise ConfigError(f"nothing was imported yet into {one_line(own_database())}; run exporttools import")
    return str(own_database())


def open_store(context: typer.Context, database: str | None, tenant: str | None) -> ExportBundleStore:
    """Open the store that a command reads. Without a database it is the embedded sample, and a note says so."""
    from exporttools.database.store import ExportBundleStore

    if not (database or context.obj["database"] or context.obj["imported"]):
        note(
            "reading the embedded sample, a made-up fleet; give --database or set EXPORTTOOLS_DATABASE_URL to read yours"
        )
    return ExportBundleStore(database_url(context, database), tenant_id=tenant)


def bundle_of(store: ExportBundleStore, identifier: str) -> ExportBundle:
    """Return the bundle of the incident, or else the run, with this id. Exit with code 1 if there is neither."""
    bundle = store.get_export_bundle(identifier) or store.get_export_bundle(run_id=identifier)
    if bundle is None:
        note(f"no incident or run has the id {one_line(repr(identifier))}")
        raise typer.Exit(NO)
    return bundle


def bundle_summary(bundle: ExportBundle) -> str:
    """Describe a bundle in one line: its steps, their totals, and any missing parts."""
    return bundle.steps.describe() + (f"; missing: {', '.join(bundle.missing)}" if bundle.missing else "")


def parse_time(text: str | None) -> dt.datetime | None:
    """Parse an option's time, or return None if the option was not given."""
    return None if text is None else times.parse_time(text)
