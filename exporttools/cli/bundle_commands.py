"""Commands that save bundles, verify them, and make keys."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exporttools.cli.application import (
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
from exporttools.cli.terminal import Format
from exporttools.errors import ConfigError
from exporttools.text.inert import one_line
from exporttools.text.words import plural

if TYPE_CHECKING:
    from exporttools.bundle import SigningKey

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
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Bundles: directories or zip files.")],
    trusted_key: Annotated[
        list[Path] | None,
        typer.Option(metavar="KEY.pub", help="A public key that you trust; repeatable. No other key is trusted."),
    ] = None,
    require_signature: Annotated[
        bool, typer.Option("--require-signature", help="Fail bundles that none of your trusted keys signed.")
    ] = False,
    output: FormatOption = Format.table,
) -> None:
    """Verify bundles: their files, their rows and their signatures.

    Checks files against their digests, rows against the bundle's description, the signature against your keys.
    Exit codes: 0, verified; 1, not verified; 2, not a bundle or not a key.
    """
    from exporttools.bundle import verify_bundle
    from exporttools.cli.terminal import write_json, write_rows

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
        note(
            f"{others} of {plural(len(verifications), 'bundle')} intact, but not signed by one of your trusted keys; "
            "--require-signature makes that a failure"
        )
    if not all(verifications):
        raise typer.Exit(NO)


@app.command()
def keygen(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Where to write the private key; the public key goes to PATH.pub.")
    ],
    passphrase: Annotated[
        bool,
        typer.Option(
            "--passphrase",
            help=f"Encrypt the private key with a passphrase, read from {PASSPHRASE} (which alone suffices) or asked for.",
        ),
    ] = False,
) -> None:
    """Make an Ed25519 key pair for signing bundles.

    Keep PATH secret; give PATH.pub to whoever verifies.
    """
    from exporttools.bundle import write_key_pair

    from_environment = bool(os.environ.get(PASSPHRASE))
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
    if from_environment := os.environ.get(PASSPHRASE):
        return from_environment
    if not sys.stdin.isatty():
        raise ConfigError(f"the {prompt} is needed; set {PASSPHRASE}, or run in a terminal to be asked for it")
    answer: str = typer.prompt(one_line(prompt), hide_input=True, confirmation_prompt=confirm, err=True)
    return answer
