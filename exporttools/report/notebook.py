"""Run the notebooks that ship with the package. The only module that knows papermill."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from exporttools.connections.urls import parse_url, resolved
from exporttools.errors import ConfigError, MissingExtra, ReportError
from exporttools.files.resources import resource
from exporttools.text.inert import one_line

if TYPE_CHECKING:
    from traitlets.config import Config


def run_notebook(name: str, output: Path, parameters: Mapping[str, str | None], *, progress: bool = False) -> Path:
    """Execute a notebook from top to bottom with parameters and save it with its outputs.

    Parameters
    ----------
    name : str
        The notebook's name without ``.ipynb``.
    output : Path
        Where to save it; the notebook runs in that directory.
    parameters : mapping
        Values for the cell tagged ``parameters``.
    progress : bool
        Whether to draw a progress bar on standard error.

    Returns
    -------
    Path
        `output`.

    Raises
    ------
    MissingExtra
        The ``lab`` extra is not installed.
    ReportError
        A cell failed, and the notebook is saved up to there; or there is no kernel, or it died.
    """
    require_lab("running a notebook")
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    try:
        papermill.execute_notebook(
            str(resource(f"notebooks/{name}.ipynb")),
            str(output),
            parameters=dict(parameters),
            kernel_name="python3",
            cwd=str(output.parent),
            progress_bar=progress,
            config=kernel_config(),
        )
    except papermill.PapermillExecutionError as error:
        raise ReportError(
            f"cell {error.cell_index} of the notebook {name} failed: "
            f"{one_line(error.ename, 60)}: {one_line(error.evalue, 600)}"
        ) from error
    except (CellTimeoutError, DeadKernelError, NoSuchKernel) as error:
        raise ReportError(
            f"the notebook {name} could not be run: {type(error).__name__}: {one_line(error, 600)}"
        ) from error
    return output


def absolute_url(database: str | os.PathLike[str]) -> str:
    """Return the database's URL for a notebook, which runs in another directory. It may hold a password.

    Raises
    ------
    ConfigError
        `database` does not name one by a URL, a path or a variable.
    """
    named = resolved(database)
    if not isinstance(named, (str, os.PathLike)):
        raise ConfigError(f"a report needs the URL of a database; found {type(named).__name__}")
    url = parse_url(named)
    if url.get_backend_name() == "sqlite":
        url = url.set(database=str(Path(url.database or "").absolute()))
    return url.render_as_string(hide_password=False)


def kernel_config() -> Config:
    """Return a config that reaches kernels over sockets private to this user. Windows has no such sockets."""
    from traitlets.config import Config

    return Config(KernelManager={} if os.name == "nt" else {"transport": "ipc"})


def copy_notebooks(directory: Path) -> list[Path]:
    """Copy the notebooks that ship with the package into a directory. Files that exist there are left as they are.

    Returns
    -------
    list of Path
        The notebooks in the directory, copied now or there before.
    """
    directory.mkdir(parents=True, exist_ok=True)
    copies = []
    for notebook in sorted(resource("notebooks").glob("*.ipynb")):
        copy = directory / notebook.name
        if not copy.exists():
            shutil.copyfile(notebook, copy)
        copies.append(copy)
    return copies


def require_lab(purpose: str) -> None:
    """Raise if the ``lab`` extra is not installed.

    Raises
    ------
    MissingExtra
    """
    if not all(importlib.util.find_spec(module) for module in ("papermill", "ipykernel", "jupyterlab")):
        raise MissingExtra("lab", purpose)
