"""Run the notebooks that ship with the package. The only module that knows papermill."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from exporttools.errors import MissingExtra
from exporttools.files.resources import resource

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
    papermill.PapermillExecutionError
        A cell failed; the notebook is saved up to there.
    """
    require_lab("running a notebook")
    import papermill

    papermill.execute_notebook(
        str(resource(f"notebooks/{name}.ipynb")),
        str(output),
        parameters=dict(parameters),
        kernel_name="python3",
        cwd=str(output.parent),
        progress_bar=progress,
        config=kernel_config(),
    )
    return output


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
