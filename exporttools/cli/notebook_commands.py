"""The command that opens the notebooks."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from exporttools.cli.application import DatabaseOption, app


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(
    context: typer.Context,
    directory: Annotated[
        Path, typer.Option("--directory", help="Copy the notebooks here; those that exist already are kept.")
    ] = Path("exporttools-notebooks"),
    database: DatabaseOption = None,
) -> None:
    """Open JupyterLab on copies of the notebooks.

    The notebooks read the database given here. Further arguments are passed to JupyterLab.
    """
    from exporttools.report.notebook import copy_notebooks, require_lab

    require_lab("JupyterLab")
    copy_notebooks(directory)
    url = database or context.obj["database"]
    environment = os.environ | ({"EXPORTTOOLS_DATABASE_URL": url} if url else {})
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={directory.absolute()}", *context.args]
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)  # noqa: S606
