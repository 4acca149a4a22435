"""The command that opens the notebooks."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from exporttools.cli.application import DatabaseOption, ImportedOption, TenantOption, app, database_url


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(
    context: typer.Context,
    directory: Annotated[
        Path, typer.Option("--directory", help="Copy the notebooks here; those that exist already are kept.")
    ] = Path("exporttools-notebooks"),
    database: DatabaseOption = None,
    _imported: ImportedOption = False,
    tenant: TenantOption = None,
) -> None:
    """Open JupyterLab on copies of the notebooks.

    The notebooks read the database given here, and only the rows of the tenant given here. Further arguments are passed
    to JupyterLab.
    """
    from exporttools.database.embedded import TENANT_VARIABLE, URL_VARIABLE
    from exporttools.report.notebook import absolute_url, copy_notebooks, require_lab

    require_lab("JupyterLab")
    named = database_url(context, database) if context.obj["imported"] else database or context.obj["database"]
    # The notebooks run in another directory.
    given = {URL_VARIABLE: absolute_url(named) if named else None, TENANT_VARIABLE: tenant}
    copy_notebooks(directory)
    environment = os.environ | {name: value for name, value in given.items() if value}
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={directory.absolute()}", *context.args]
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)  # noqa: S606
