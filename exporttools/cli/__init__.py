"""The command line: arguments in, results on standard output, exit codes. What it shows is made elsewhere.

Exit codes: 0 it is so; 1 the answer is no (not found, not verified); 2 usage or environment. Progress and notes go to
standard error. Heavy rooms are imported by the commands that need them, so that ``--help`` comes at once.
"""

from __future__ import annotations

# Each registers its commands, in the order in which --help lists them.
from exporttools.cli import (  # noqa: F401
    sample_commands, incident_commands, analysis_commands, bundle_commands, dataset_commands, report_commands,
    notebook_commands,
)  # fmt: skip
from exporttools.cli.application import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line."""
    app()
