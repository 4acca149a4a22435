"""Where imports go by default: an SQLite file of the user's own. Opens nothing."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def own_database() -> Path:
    """Return the path of the database that imports are loaded into by default; it may not exist yet.

    On Linux ``~/.local/share/exporttools/imported.sqlite``, or below ``XDG_DATA_HOME``; elsewhere where programs keep their
    data.

    Examples
    --------
    >>> own_database().name
    'imported.sqlite'
    """
    return platformdirs.user_data_path("exporttools") / "imported.sqlite"
