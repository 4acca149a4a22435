"""Writing a bundle: whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

from exporttools.bundle.bag import write_tag_files
from exporttools.bundle.description import NAME, PART_FILES, describe
from exporttools.bundle.parquet import write_part
from exporttools.durable import new_directory
from exporttools.errors import BundleError, BundleExists, ConfigError
from exporttools.inert import one_line
from exporttools.snapshots import ExportBundle
from exporttools.version import __version__


def write_bundle(bundle: ExportBundle, path: str | os.PathLike[str]) -> Path:
    """Save a bundle as a directory that a stranger can verify.

    Parameters
    ----------
    bundle : ExportBundle
    path : str or path
        Must not exist; its parent directory must.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    BundleExists
        Something is at `path`; it was not touched.
    ConfigError
        The parent is no directory, or the bundle holds nothing.
    BundleError
        The file system refused; nothing was left behind.

    Notes
    -----
    The directory appears under its name when it is complete and on disk, never before.

    Examples
    --------
    >>> import tempfile
    >>> from exporttools import ExportBundle, RunSnapshot, read_bundle, write_bundle
    >>> bundle = ExportBundle(run=RunSnapshot(run_id="r1", tenant_id="acme"))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     read_bundle(write_bundle(bundle, f"{directory}/r1")) == bundle
    True
    """
    if not isinstance(bundle, ExportBundle):
        raise ConfigError(f"expected an ExportBundle; found {type(bundle).__name__}")
    if bundle.tenant_id is None:
        raise ConfigError("the bundle holds neither incident, run nor trace; there is nothing to save")
    target = Path(path)
    if "\0" in str(target):
        raise ConfigError(f"the path {one_line(target)} has a NUL character, which no file's name can have")
    if not os.path.isdir(target.parent):  # unlike Path.is_dir, never an error: a name may be too long  # noqa: PTH112
        raise ConfigError(f"{one_line(target.parent)} is no directory; make it first")
    try:
        with new_directory(target) as bag:
            _fill(bag, bundle)
    except FileExistsError as error:
        raise BundleExists(
            f"{one_line(target)} exists; it was not touched. Remove it or choose another name"
        ) from error
    except OSError as error:
        raise BundleError(
            f"{one_line(target)} could not be written: {one_line(error)}. Nothing was left behind"
        ) from error
    return target


def _fill(bag: Path, bundle: ExportBundle) -> None:
    payload = bag / "data"
    payload.mkdir()
    for part, table in bundle.tables.items():
        write_part(table, payload / PART_FILES[part])
    description = json.dumps(describe(bundle), indent=2, ensure_ascii=True, allow_nan=False) + "\n"
    (payload / NAME).write_text(description, encoding="ascii", newline="\n")
    write_tag_files(
        bag,
        identifier=bundle.name,
        description=f"An AI agent's incident or run: {bundle.steps.describe()}",
        software=f"exporttools {__version__}",
    )
