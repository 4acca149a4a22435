"""Commands that save bundles, verify them, and make keys."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from exporttools.cli.application import (
    NO,
    DatabaseOption,
    FormatOption,
    TenantOption,
    app,
    bundle_of,
    note,
    open_store,
)
from exporttools.cli.terminal import Format
from exporttools.errors import ConfigError
from exporttools.text.inert import one_line

PASSPHRASE = "EXPORTTOOLS_KEY_PASSPHRASE"  # noqa: S105 - the name of a variable
"""The environment variable that a signing key's passphrase is taken from."""


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
    found = bundle_of(open_store(context, database, tenant), identifier).redact(*(redact or ()))
    target = path or Path(f"{found.file_name}.bundle{'.zip' if archive else ''}")
    written = write_bundle(found, target, signing_key=key, archive=archive)
    note(f"{found.steps.describe()}" + (f"; missing: {', '.join(found.missing)}" if found.missing else ""))
    if found.redacted:
        note(f"redacted: {one_line(', '.join(found.redacted))}")
    note(f"content digest sha256:{found.content_digest}")
    if key:
        note(f"signed by {key.key_id}")
    typer.echo(written)


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
    note(f"key id {key.key_id}")
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
