"""The packaged sample as a database in the user's cache, for whoever has none yet. Draws nothing, reads no records."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import URL

from exporttools.errors import ConfigError, StoreError
from exporttools.hashing import combined_digest, file_sha256
from exporttools.loading import load_tables
from exporttools.resources import resource
from exporttools.schema import RECORDS

URL_VARIABLE = "EXPORTTOOLS_DATABASE_URL"


def default_database_url() -> tuple[str, bool]:
    """The database to read where none is named, and whether that is the embedded sample.

    Returns
    -------
    tuple of (str, bool)
        The environment variable ``EXPORTTOOLS_DATABASE_URL`` and False; where it is unset or empty, the URL of
        :func:`embedded_database` and True.

    Raises
    ------
    ConfigError
        See :func:`embedded_database`.
    """
    named = os.environ.get(URL_VARIABLE)
    if named:
        return named, False
    return URL.create("sqlite", database=str(embedded_database())).render_as_string(), True


def embedded_database() -> Path:
    """The packaged sample as an SQLite file, made in the user's cache directory on first use.

    Returns
    -------
    pathlib.Path
        Its name holds a digest of the sample, so that another version's sample is another file. Two processes that
        make it at once do not disturb each other.

    Raises
    ------
    ConfigError
        The cache directory cannot be written.

    Examples
    --------
    >>> embedded_database().name
    'sample-....sqlite'
    """
    directory = resource("data/sample")
    files = {table: directory / f"{table}.parquet" for table in RECORDS}
    digest = combined_digest(file_sha256(file) for file in files.values())
    cache = platformdirs.user_cache_path("exporttools")
    path = cache / f"sample-{digest[:16]}.sqlite"
    if path.is_file():
        return path
    try:
        cache.mkdir(parents=True, exist_ok=True)
        load_tables(path, _rows(files))
    except (OSError, StoreError, ConfigError) as error:
        if path.is_file():  # another process was faster, with the same rows
            return path
        raise ConfigError(
            f"the embedded sample database cannot be made in {cache}: {error}. Set XDG_CACHE_HOME to a directory that "
            f"can be written, or {URL_VARIABLE} to your own database."
        ) from error
    return path


def _rows(files: dict[str, Path]) -> Iterator[tuple[str, pa.Table]]:
    for table, file in files.items():
        yield table, pq.read_table(file, page_checksum_verification=True)
