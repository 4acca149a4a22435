"""How tests run commands."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from exporttools.cli import app


def call(*arguments: object) -> Result:
    """Run a command with these arguments, each as its text."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
