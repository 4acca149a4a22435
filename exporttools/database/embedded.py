"""The sample that ships with the package as an SQLite file, for whoever has no database yet. Reads no records."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import URL

from exporttools.files.resources import resource

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
    """The SQLite file of the sample. It is opened where it lies, read-only, so that its directory may be read-only too.

    Raises
    ------
    ConfigError
        The installation lacks it.

    Examples
    --------
    >>> embedded_database().name
    'sample.sqlite'
    """
    return resource("data/sample.sqlite")
