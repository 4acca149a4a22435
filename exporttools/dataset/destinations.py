"""From what a user names, a path or a URL, to the storage of a dataset."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from exporttools.dataset.local_storage import LocalStorage
from exporttools.dataset.object_storage import ObjectStorage
from exporttools.dataset.storage import Storage
from exporttools.errors import ConfigError
from exporttools.text.inert import one_line

OBJECT_SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss")
ACCEPTED = (
    "a directory, file:///directory, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, or an obstore store"
)

Destination = str | os.PathLike[str] | Storage
"""Where a dataset lies: a path, a URL, an obstore store, or a storage."""


def open_storage(destination: Destination, *, create: bool = False) -> Storage:
    """Return the storage of a dataset.

    Parameters
    ----------
    destination : str, path, obstore store or Storage
    create : bool
        Whether to make the directory if it does not exist.

    Raises
    ------
    ConfigError
        Not a supported destination.
    MissingExtra
        An object store's URL, without the extra ``cloud``.
    OSError
        The directory cannot be made.
    """
    if isinstance(destination, (LocalStorage, ObjectStorage)):
        return destination
    if type(destination).__module__.partition(".")[0] == "obstore":
        return ObjectStorage(None, destination)
    if isinstance(destination, str) and "://" in destination:
        scheme = urlsplit(destination).scheme.lower()
        if scheme in OBJECT_SCHEMES:
            return ObjectStorage(destination)
        if scheme != "file":
            raise ConfigError(
                f"a dataset needs a store that can create a file only if it is absent; {one_line(scheme, 20)}:// cannot; "
                f"expected {ACCEPTED}"
            )
        destination = unquote(urlsplit(destination).path)
    if not isinstance(destination, (str, os.PathLike)) or not os.fspath(destination):
        raise ConfigError(f"the destination is {one_line(repr(destination), 80)}; expected {ACCEPTED}")
    root = Path(os.fspath(destination)).absolute()
    if os.path.isfile(root):  # noqa: PTH113 - Path.is_file raises where a parent cannot be searched
        raise ConfigError(f"{root} is a file; expected a directory, or a path that does not exist yet")
    if create:
        root.mkdir(parents=True, exist_ok=True)
    return LocalStorage(root)
