"""Run the command line as ``python -m exporttools``."""

from exporttools.cli import main

main()
