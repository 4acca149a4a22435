"""The embedded sample: an SQLite file that ships with the package, for users without a database. Reads no records."""

from __future__ import annotations

import os
from pathlib import Path

from exporttools.errors import ConfigError
from exporttools.files.resources import resource

URL_VARIABLE = "EXPORTTOOLS_DATABASE_URL"
TENANT_VARIABLE = "EXPORTTOOLS_TENANT_ID"


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
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(embedded_database())).render_as_string(), True


def default_tenant_id() -> str | None:
    """Return the tenant that reads are limited to by default.

    Returns
    -------
    str or None
        The value of the environment variable ``EXPORTTOOLS_TENANT_ID``, or None for all tenants if it is not set.

    Raises
    ------
    ConfigError
        It is empty.

    Examples
    --------
    >>> default_tenant_id() is None
    True
    """
    named = os.environ.get(TENANT_VARIABLE)
    if named is not None and not named.strip():
        raise ConfigError(
            f"{TENANT_VARIABLE} is empty, perhaps from a shell variable that is not set; name a tenant, or leave "
            f"{TENANT_VARIABLE} out to read all tenants"
        )
    return named


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
