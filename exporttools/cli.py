"""The command line: arguments in, results on standard output, exit codes. What it shows is made elsewhere.

Exit codes: 0 it is so; 1 the answer is no (not found, not verified); 2 usage or environment. Progress and notes go to
standard error. Heavy rooms are imported by the commands that need them, so that ``--help`` comes at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from exporttools.errors import ConfigError, ExportToolsError, MissingExtra
from exporttools.inert import one_line
from exporttools.terminal import Format

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from exporttools.export_bundle import ExportBundle
    from exporttools.store import ExportBundleStore

NO, FAILED = 1, 2

DASK_TIMEOUT_S = 10

PASSPHRASE = "EXPORTTOOLS_KEY_PASSPHRASE"  # noqa: S105 - the name of a variable
"""The environment variable that a signing key's passphrase is taken from."""


class _Commands(TyperGroup):
    """Turns our errors into one line on standard error and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ExportToolsError as error:
            _note(f"error: {one_line(error, 2000)}")
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


def _note(text: str) -> None:
    """A line for people, on standard error."""
    typer.echo(text, err=True)


def _store(context: typer.Context, database: str | None, tenant: str | None) -> ExportBundleStore:
    from exporttools.embedded import default_database_url
    from exporttools.store import ExportBundleStore

    url = database or context.obj["database"]
    if not url:
        url, embedded = default_database_url()
        if embedded:
            _note("reading the embedded sample, a made-up fleet; name yours by --database or EXPORTTOOLS_DATABASE_URL")
    return ExportBundleStore(url, tenant_id=tenant or context.obj["tenant"])


def _bundle_of(store: ExportBundleStore, identifier: str) -> ExportBundle:
    """The bundle of an incident, or else of a run, of that id; exit code 1 where there is neither."""
    bundle = store.get_export_bundle(identifier) or store.get_export_bundle(run_id=identifier)
    if bundle is None:
        _note(f"no incident and no run has the id {one_line(repr(identifier))}")
        raise typer.Exit(NO)
    return bundle


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to put the results; a new directory.")] = Path(
        "demo-output"
    ),
) -> None:
    """Show what exporttools does, on the embedded sample: takes the worst incident from database to proof."""
    from exporttools.demo import run_demo

    run_demo(output)


@app.command()
def sample(
    runs: Annotated[
        int, typer.Option("--runs", min=1, help="How many runs to make up; each has about 50 steps.")
    ] = 300,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, another fleet.")] = 7,
    into: Annotated[
        str | None, typer.Option("--into", metavar="URL", help="Fill this SQLite or PostgreSQL database.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write Parquet files into this directory.")
    ] = None,
) -> None:
    """Make up a fleet of agents with eight planted incidents for every 300 runs, the same for the same seed."""
    from exporttools.sample import load_sample, write_sample

    if (into is None) == (output is None):
        _note("error: give either --into URL or --output DIRECTORY")
        raise typer.Exit(FAILED)
    if into is not None:
        counts = load_sample(into, runs=runs, seed=seed, progress=sys.stderr.isatty())
        typer.echo(", ".join(f"{count:,} {table}" for table, count in counts.items()))
    elif output is not None:
        for path in write_sample(output, runs=runs, seed=seed):
            typer.echo(path)


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
    from exporttools.terminal import write_rows

    store = _store(context, database, tenant)
    found = store.list_incidents(severity=severity or None, since=_time(since), until=_time(until), limit=limit)
    columns = list(found.schema.names)
    if output is Format.table:
        columns = ["id", "created_at", "severity", "violation_type", "tenant_id", "source_run_id", "policy_name"]
    write_rows([incident.to_dict() for incident in found], columns, output)
    if found.truncated:
        _note(f"{found.describe()}; --limit shows more")


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
    from exporttools.overview import write_overview

    write_overview(_bundle_of(_store(context, database, tenant), identifier), output)


@app.command()
def bundle(
    context: typer.Context,
    identifier: Annotated[str, typer.Argument(metavar="ID", help="An incident's id, or a run's.")],
    path: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Where to write; must not exist. Default: ID.bundle here, or ID.bundle.zip."
        ),
    ] = None,
    sign_key: Annotated[
        Path | None,
        typer.Option(
            "--sign-key",
            metavar="PEM",
            help=f"Sign with this Ed25519 private key. Its passphrase is asked for, or taken from {PASSPHRASE}.",
        ),
    ] = None,
    archive: Annotated[bool, typer.Option("--zip", help="Write one zip file instead of a directory.")] = False,
    redact: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Replace this text column by NULL, such as goal; may be repeated."),
    ] = None,
    database: DatabaseOption = None,
    tenant: TenantOption = None,
) -> None:
    """Save an incident with its run, trace and steps as files that a stranger can verify."""
    from exporttools.bundle import load_signing_key, write_bundle

    key = load_signing_key(sign_key, passphrase=lambda: _passphrase(f"passphrase of {sign_key}")) if sign_key else None
    found = _bundle_of(_store(context, database, tenant), identifier).redact(*(redact or ()))
    target = path or Path(f"{found.file_name}.bundle{'.zip' if archive else ''}")
    written = write_bundle(found, target, signing_key=key, archive=archive)
    _note(f"{found.steps.describe()}" + (f"; missing: {', '.join(found.missing)}" if found.missing else ""))
    if found.redacted:
        _note(f"redacted: {one_line(', '.join(found.redacted))}")
    _note(f"content digest sha256:{found.content_digest}")
    if key:
        _note(f"signed by {key.key_id}")
    typer.echo(written)


@app.command()
def export(
    context: typer.Context,
    destination: Annotated[
        str, typer.Argument(metavar="DEST", help="A directory, or s3://bucket/prefix; made, or brought up to date.")
    ],
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Runs that started from this time on.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Runs that started before this time.")] = None,
    window: Annotated[
        str, typer.Option(metavar="LENGTH", help="How much to read and commit at once, such as 1d, 7d, 1h.")
    ] = "1d",
    settle: Annotated[
        str, typer.Option(metavar="LENGTH", help="How long after its end a window is still read again.")
    ] = "1h",
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="How many windows at once.")] = None,
    dask: Annotated[
        str | None,
        typer.Option("--dask", metavar="ADDRESS", help="Export on this Dask cluster, such as tcp://host:8786."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be exported; write nothing.")] = False,
    database: DatabaseOption = None,
    tenant: TenantOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Export the fleet as a partitioned Parquet dataset, window by window; run it again to resume or bring up to date."""
    from contextlib import ExitStack

    from exporttools.export import export_dataset, plan_export
    from exporttools.terminal import write_json, write_rows

    if output is Format.csv and not dry_run:
        _note("error: --format csv is for --dry-run; accepted here are table and json")
        raise typer.Exit(FAILED)
    store = _store(context, database, tenant)
    asked = {"since": _time(since), "until": _time(until), "window": window}
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
        _note(plan.summary())
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
    destination: Annotated[str, typer.Argument(metavar="DEST", help="As it was given to export.")],
    as_of: Annotated[
        int | None, typer.Option("--as-of", metavar="N", help="As of manifest N; without: the newest.")
    ] = None,
    verify_rows: Annotated[
        bool, typer.Option("--verify", help="Hold every file and row against the manifest; exit code 1 if any differs.")
    ] = False,
    query: Annotated[
        str | None, typer.Option("--sql", metavar="QUERY", help="Over incidents, runs, traces, trace_steps and ledger.")
    ] = None,
    compact: Annotated[
        str | None, typer.Option("--compact", metavar="LENGTH", help="Merge the files of windows within this length.")
    ] = None,
    output: FormatOption = Format.table,
) -> None:
    """Say what an exported dataset holds; verify it, ask it in SQL, or merge its small files."""
    from exporttools.dataset import open_dataset
    from exporttools.terminal import write_json, write_rows

    found = open_dataset(destination, as_of=as_of)
    if compact:
        found = found.compact(window=compact)
        _note(f"manifest {found.manifest.number}: {len(found.parts):,} files")
    if query:
        import duckdb

        try:
            answer = found.sql(query).arrow().read_all()
        except duckdb.Error as error:
            raise ConfigError(f"the query is none: {one_line(error, 600)}") from error
        write_rows(answer.to_pylist(), answer.column_names, output)
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
            _note(f"{name}: {value}")


@app.command()
def verify(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Bundles: directories or zip files.")],
    trusted_key: Annotated[
        list[Path] | None,
        typer.Option(metavar="PEM", help="A public key that you trust; may be repeated. Nothing else is trusted."),
    ] = None,
    require_signature: Annotated[
        bool, typer.Option("--require-signature", help="Fail what none of the trusted keys signed.")
    ] = False,
    output: FormatOption = Format.table,
) -> None:
    """Verify bundles: files against digests, rows against what the bundle says, the signature against your keys.

    Exit code 0: as it says; 1: not; 2: no bundle, or no key.
    """
    from exporttools.bundle import verify_bundle
    from exporttools.terminal import write_json, write_rows

    trusted = trusted_key or []
    verifications = [verify_bundle(path, trusted_keys=trusted, require_signature=require_signature) for path in paths]
    if output is Format.json:
        write_json([verification.to_dict() for verification in verifications])
    elif output is Format.csv:
        rows = [{"path": str(v.path), "verdict": v.verdict, "findings": len(v.findings)} for v in verifications]
        write_rows(rows, ["path", "verdict", "findings"], output)
    else:
        for verification in verifications:
            typer.echo(verification)
    others = sum(v.ok and not v.authentic for v in verifications)
    if trusted and others:
        _note(
            f"{others} of {len(verifications)} intact, but signed by none of your keys; --require-signature fails such"
        )
    if not all(verifications):
        raise typer.Exit(NO)


@app.command()
def keygen(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Where to write; the public key goes to PATH.pub.")],
    passphrase: Annotated[
        bool,
        typer.Option("--passphrase", help=f"Protect the private key by a passphrase, asked for or from {PASSPHRASE}."),
    ] = False,
) -> None:
    """Make an Ed25519 key pair to sign bundles with. Keep PATH secret; hand PATH.pub to whoever verifies."""
    from exporttools.bundle import write_key_pair

    secret = _passphrase("passphrase for the new key", confirm=True) if passphrase else None
    key = write_key_pair(path, passphrase=secret)
    _note(f"key id {key.key_id}")
    typer.echo(path)
    typer.echo(f"{path}.pub")


def _passphrase(prompt: str, *, confirm: bool = False) -> str:
    """From the environment, or else from the person at the terminal; never echoed."""
    if from_environment := os.environ.get(PASSPHRASE):
        return from_environment
    if not sys.stdin.isatty():
        raise ConfigError(f"the {prompt} is needed; set {PASSPHRASE}, or run on a terminal to be asked")
    answer: str = typer.prompt(one_line(prompt), hide_input=True, confirmation_prompt=confirm, err=True)
    return answer


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(
    context: typer.Context,
    directory: Annotated[
        Path, typer.Option("--directory", help="Where to work; the notebooks are copied there, existing ones kept.")
    ] = Path("exporttools-notebooks"),
    database: DatabaseOption = None,
) -> None:
    """Open JupyterLab on the notebooks, with the database set. Further arguments go to JupyterLab."""
    from exporttools.notebook import copy_notebooks, require_lab

    require_lab("JupyterLab")
    copy_notebooks(directory)
    url = database or context.obj["database"]
    environment = os.environ | ({"EXPORTTOOLS_DATABASE_URL": url} if url else {})
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={directory.absolute()}", *context.args]
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)  # noqa: S606


def _time(text: str | None) -> Any:
    """A time as typed; without an offset it is UTC, as everything shown is."""
    import datetime as dt

    if text is None:
        return None
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"{one_line(repr(text), 60)} is no time; accepted are such as 2026-10-05 and 2026-10-05T14:00:00Z"
        ) from error
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment


def main() -> None:
    """Run the command line."""
    app()
