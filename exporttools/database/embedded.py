"""The embedded sample: an SQLite file that ships with the package, for users without a database. Reads no records."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import URL

from exporttools.files.resources import resource

URL_VARIABLE = "EXPORTTOOLS_DATABASE_URL"


def default_database_url() -> tuple[str, bool]:
    """Return the database to read by default, and whether that is the embedded sample.

    Returns
    -------
    tuple of (str, bool)
        The value of the environment variable ``EXPORTTOOLS_DATABASE_URL`` and False; if it is unset or empty, the URL of
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
    """Return the path of the sample's SQLite file. It is opened read-only and in place; its directory may be read-only.

    Raises
    ------
    ConfigError
        The file is missing from this installation.

    Examples
    --------
    >>> embedded_database().name
    'sample.sqlite'
    """
    return resource("data/sample.sqlite")
