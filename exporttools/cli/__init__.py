"""The command line: arguments, results on standard output, exit codes. What it shows is computed elsewhere.

Exit codes: 0, yes; 1, the answer is no (not found, not verified); 2, wrong usage or environment; 130, interrupted by
Ctrl-C; 141, the reader of a pipe stopped reading. An error is one line on standard error, where progress and notes go too;
with EXPORTTOOLS_TRACEBACK set, one that nobody foresaw is shown with its traceback. Each command imports the heavy rooms
that it needs, so that ``--help`` is fast.
"""

from __future__ import annotations

import io
import os
import sys

# Importing these registers their commands, in the order in which --help lists them.
from exporttools.cli import (  # noqa: F401
    sample_commands, import_commands, incident_commands, analysis_commands, bundle_commands, dataset_commands,
    report_commands, notebook_commands,
)  # fmt: skip
from exporttools.cli.application import FAILED, app, note

__all__ = ["app", "main"]


TRACEBACK = "EXPORTTOOLS_TRACEBACK"
"""The environment variable that asks for the traceback of an error that nobody foresaw."""


def main() -> None:
    """Run the command line."""
    if sys.stdout is None:
        note("error: standard output is closed")
        sys.exit(FAILED)
    # Of a text that the terminal's encoding does not have, the escape is shown, rather than nothing.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        # Not its text: that of a driver may hold rows or a password.
        kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
        note(f"error: {kind}, which exporttools did not foresee; set {TRACEBACK}=1 to see where, and please report it")
        sys.exit(FAILED)
