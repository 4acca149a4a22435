"""Run every notebook on the embedded sample and keep its outputs: ``make notebooks``."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from exporttools.report.notebook import kernel_config

HERE = Path(__file__).parent


def refresh(path: Path) -> None:
    """Run a notebook in an empty directory, so that its outputs show no path of this machine."""
    notebook = nbformat.read(path, as_version=4)
    # The working directory changes too: the kernel's sockets may be created there.
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        resources = {"metadata": {"path": directory}}
        NotebookClient(notebook, kernel_name="python3", resources=resources, config=kernel_config()).execute()
        here = os.path.realpath(directory)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran, to the microsecond
        for output in cell.get("outputs", []):
            for kind in ("text/plain", "text/html"):
                if kind in output.get("data", {}):
                    output["data"][kind] = output["data"][kind].replace(f"{here}/", "")
    notebook.metadata.pop("language_info", None)  # which Python ran it
    nbformat.write(notebook, path)


if __name__ == "__main__":
    # The warning that the sample is read names a temporary file of the kernel.
    os.environ["PYTHONWARNINGS"] = "ignore:EXPORTTOOLS_DATABASE_URL:UserWarning"
    os.environ.pop("EXPORTTOOLS_DATABASE_URL", None)
    os.environ.pop("EXPORTTOOLS_TENANT_ID", None)
    for notebook_path in sorted(HERE.glob("*.ipynb")):
        refresh(notebook_path)
