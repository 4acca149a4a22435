"""Commands that make up data and show what exporttools does with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from exporttools.cli.application import FAILED, app, note


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A new directory for the results; if it exists, a number is added.")
    ] = Path("demo-output"),
) -> None:
    """Take an incident of the embedded sample from database to proof."""
    from exporttools.cli.demo import run_demo

    run_demo(output)


@app.command()
def sample(
    runs: Annotated[int, typer.Option("--runs", min=1, help="How many runs to make up, of about 50 steps each.")] = 300,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="The random seed; the same seed makes the same fleet.")
    ] = 7,
    into: Annotated[
        str | None,
        typer.Option("--into", metavar="URL", help="Load the fleet into this SQLite or PostgreSQL database."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the fleet as Parquet files into this directory.")
    ] = None,
) -> None:
    """Make up a fleet of agents with planted incidents.

    Eight incidents are planted in every 300 runs.
    """
    from exporttools.sample import load_sample, write_sample

    if (into is None) == (output is None):
        note("error: give either --into URL or --output DIRECTORY")
        raise typer.Exit(FAILED)
    if into is not None:
        counts = load_sample(into, runs=runs, seed=seed, progress=sys.stderr.isatty())
        typer.echo(", ".join(f"{count:,} {table}" for table, count in counts.items()))
    elif output is not None:
        for path in write_sample(output, runs=runs, seed=seed):
            typer.echo(path)
