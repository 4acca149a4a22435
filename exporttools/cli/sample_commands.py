"""Commands that show what exporttools does, on made-up data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from exporttools.cli.application import (
    FAILED,
    app,
    note,
)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to put the results; a new directory.")] = Path(
        "demo-output"
    ),
) -> None:
    """Show what exporttools does, on the embedded sample: takes the worst incident from database to proof."""
    from exporttools.cli.demo import run_demo

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
        note("error: give either --into URL or --output DIRECTORY")
        raise typer.Exit(FAILED)
    if into is not None:
        counts = load_sample(into, runs=runs, seed=seed, progress=sys.stderr.isatty())
        typer.echo(", ".join(f"{count:,} {table}" for table, count in counts.items()))
    elif output is not None:
        for path in write_sample(output, runs=runs, seed=seed):
            typer.echo(path)
