"""Commands that save bundles, verify them, and make keys."""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
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
    bundle_of,
    bundle_summary,
    note,
    open_store,
)
from exporttools.cli.terminal import Format, write_lines
from exporttools.errors import BundleError, ConfigError
from exporttools.text.inert import one_line, quoted, shown_name
from exporttools.text.words import plural

if TYPE_CHECKING:
    from exporttools.bundle import SigningKey, Verification

PASSPHRASE = "EXPORTTOOLS_KEY_PASSPHRASE"  # noqa: S105 - the name of a variable
"""The environment variable that holds a signing key's passphrase."""


@app.command()
def bundle(
    context: typer.Context,
    identifier: Annotated[str, typer.Argument(metavar="ID", help="The id of an incident or a run.")],
    path: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Where to write; must not exist yet. Default: ID.bundle, or ID.bundle.zip with --zip.",
        ),
    ] = None,
    sign_key: Annotated[
        list[Path] | None,
        typer.Option(
            "--sign-key",
            metavar="KEY",
            help=f"Sign with this Ed25519 private key; repeatable. Its passphrase is read from {PASSPHRASE}, or asked for.",
        ),
    ] = None,
    archive: Annotated[bool, typer.Option("--zip", help="Write a single zip file instead of a directory.")] = False,
    redact: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Replace the text in this column, such as goal, by NULL; repeatable."),
    ] = None,
    database: DatabaseOption = None,
    _imported: ImportedOption = False,
    tenant: TenantOption = None,
) -> None:
    """Save an incident as files that anyone can verify.

    Writes the incident with its run, trace and steps. Given a run's id, the run without an incident.
    """
    from exporttools.bundle import write_bundle

    keys = [_signing_key(path) for path in sign_key or ()]
    found = bundle_of(open_store(context, database, tenant), identifier).redact(*(redact or ()))
    target = path or Path(f"{found.file_name}.bundle{'.zip' if archive else ''}")
    written = write_bundle(found, target, signing_key=keys or None, archive=archive)
    note(bundle_summary(found))
    if found.redacted:
        note(f"redacted: {one_line(', '.join(found.redacted))}")
    note(f"content digest sha256:{found.content_digest}")
    for key in keys:
        note(f"signed by {key.key_id}")
    typer.echo(written)


@app.command()
def verify(
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="Bundles: directories or zip files.")],
    trusted_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY.pub",
            help="A public key that you trust, or a directory of them; repeatable. A bundle that none of them signed fails.",
        ),
    ] = None,
    threshold: Annotated[
        int | None, typer.Option(metavar="N", help="How many of the trusted keys must have signed. Default: 1.")
    ] = None,
    allow_untrusted: Annotated[
        bool,
        typer.Option("--allow-untrusted", help="Do not fail a bundle that the trusted keys have not signed; say so."),
    ] = False,
    incident: Annotated[
        str | None, typer.Option(metavar="ID", help="Fail a bundle that is not about this incident, whatever its name.")
    ] = None,
    run: Annotated[str | None, typer.Option(metavar="ID", help="Fail a bundle that is not about this run.")] = None,
    output: FormatOption = Format.table,
) -> None:
    """Verify bundles: their files, their rows and their signatures.

    Checks files against their digests, rows against the bundle's description, the signature against your keys. Without
    --trusted-key, nobody's signature is checked: "intact" says that nothing was damaged, not who wrote it.

    Exit codes: 0, every bundle is intact and meets what you asked for; 1, one is not or does not; 2, one cannot be read as a
    bundle at all, or a key or an option is not valid.
    """
    from exporttools.bundle.demands import Demands
    from exporttools.bundle.reader import verify_demanded
    from exporttools.cli.terminal import write_json, write_rows

    if trusted_key and not all(trusted_key):
        raise ConfigError(
            "--trusted-key is empty, perhaps from a shell variable that is not set; name a key, or leave --trusted-key out"
        )
    if not trusted_key and (allow_untrusted or threshold is not None):
        option = "--allow-untrusted" if allow_untrusted else "--threshold"
        raise ConfigError(f"{option} is given without a key; name the keys that you trust with --trusted-key")
    demands = Demands.of(
        trusted_key,
        require_trusted=not allow_untrusted,
        threshold=1 if threshold is None else threshold,
        incident_id=incident,
        run_id=run,
    )
    results: list[Verification | Unread] = []
    for path in paths:  # not Path, which takes nothing for the working directory
        try:
            verification = verify_demanded(path, demands)
        except BundleError as error:
            results.append(Unread(path, str(error)))
            note(f"error: {one_line(error, 2000)}")
            continue
        results.append(verification)
        if output is Format.table:
            write_lines(str(verification))
    if output is Format.json:
        write_json([result.to_dict() for result in results])
    elif output is Format.csv:
        write_rows([_csv_row(result.to_dict()) for result in results], _CSV_COLUMNS, output)
    unread = sum(isinstance(result, Unread) for result in results)
    failed = sum(not result for result in results) - unread
    if len(results) > 1:
        authentic = sum(result.authentic for result in results)
        intact = len(results) - authentic - failed - unread
        counts = {"authentic": authentic, "intact": intact, "failed": failed, "could not be read": unread}
        told = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        note(f"{plural(len(results), 'bundle')}: {told}")
    if unread or failed:
        raise typer.Exit(FAILED if unread else NO)


@dataclass(frozen=True, slots=True)
class Unread:
    """A path that could not be read as a bundle, in place of its verification. False."""

    path: str
    error: str
    authentic: bool = False

    def __bool__(self) -> bool:
        return False

    def to_dict(self) -> dict[str, Any]:
        """What a program that reads verdicts needs to know."""
        return {"path": self.path, "verdict": "unreadable", "ok": False, "authentic": False, "error": self.error}


_CSV_COLUMNS = (
    "verdict", "path", "ok", "authentic", "findings", "remarks", "incident_id", "run_id", "tenant_id", "steps", "failed",
    "tokens", "cost_cents", "duration_ms", "written_at", "content_digest", "signed_by", "error",
)  # fmt: skip


def _csv_row(found: dict[str, Any]) -> dict[str, Any]:
    """One line of CSV: a name that could pass for another line or cell is quoted as in the table; JSON has it exactly."""
    counts = {name: len(found[name]) if name in found else None for name in ("findings", "remarks")}
    signers = [shown_name(key["name"] or key["key_id"]) for key in found.get("signed_by", ())]
    row = {**found, **found.get("totals", {}), **counts, "signed_by": ", ".join(signers)}
    values = {name: row.get(name) for name in _CSV_COLUMNS}
    return {
        name: quoted(value) if isinstance(value, str) and not value.isprintable() else value
        for name, value in values.items()
    }


@app.command()
def keygen(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Where to write the private key; the public key goes to PATH.pub.")
    ],
    passphrase: Annotated[
        bool,
        typer.Option(
            "--passphrase",
            help=f"Encrypt the private key with a passphrase, which is asked for, or read from {PASSPHRASE}. If that is set, the "
            "key is always encrypted.",
        ),
    ] = False,
) -> None:
    """Make an Ed25519 key pair for signing bundles.

    Keep PATH secret; give PATH.pub to whoever verifies.
    """
    from exporttools.bundle import write_key_pair

    from_environment = PASSPHRASE in os.environ
    secret = _passphrase("passphrase for the new key", confirm=True) if passphrase or from_environment else None
    key = write_key_pair(path, passphrase=secret)
    note(f"key id {key.key_id}")
    if from_environment:
        note(f"encrypted with the passphrase in {PASSPHRASE}")
    typer.echo(path)
    typer.echo(f"{path}.pub")


def _signing_key(path: Path) -> SigningKey:
    from exporttools.bundle import load_signing_key

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        key = load_signing_key(path, passphrase=lambda: _passphrase(f"passphrase of {path}"))
    for warning in warned:
        note(str(warning.message))
    return key


def _passphrase(prompt: str, *, confirm: bool = False) -> str:
    """Read a passphrase from the environment, or else ask for it at the terminal without echo."""
    if (from_environment := os.environ.get(PASSPHRASE)) is not None:
        if not from_environment:
            raise ConfigError(f"{PASSPHRASE} is set but empty; give it the passphrase, or unset it")
        return from_environment
    if not sys.stdin.isatty():
        raise ConfigError(f"the {prompt} is needed; set {PASSPHRASE}, or run in a terminal to be asked for it")
    answer: str = typer.prompt(one_line(prompt), hide_input=True, confirmation_prompt=confirm, err=True)
    return answer
