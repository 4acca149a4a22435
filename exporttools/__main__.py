"""``python -m exporttools``."""

from exporttools.cli import main

main()
