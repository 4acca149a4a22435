"""The command line: arguments, results on standard output, exit codes. What it shows is computed elsewhere.

Exit codes: 0, yes; 1, the answer is no (not found, not verified); 2, wrong usage or environment. Progress and notes go
to standard error. Each command imports the heavy rooms that it needs, so that ``--help`` is fast.
"""

from __future__ import annotations

# Importing these registers their commands, in the order in which --help lists them.
from exporttools.cli import (  # noqa: F401
    sample_commands, incident_commands, analysis_commands, bundle_commands, dataset_commands, report_commands,
    notebook_commands,
)  # fmt: skip
from exporttools.cli.application import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line."""
    app()
