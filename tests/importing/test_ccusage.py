"""Another counter's opinion: ccusage, offline, on the same directories, to the token; and where it differs, why."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from exporttools import ImportedTraces, read_traces

INSTALLED = Path(sys.prefix) / "ccusage" / "node_modules" / ".bin" / "ccusage"
"""Where `make test-all` installs it."""

pytestmark = [pytest.mark.real, pytest.mark.slow]


def ccusage(*arguments: str, **environment: Path) -> dict[str, Any]:
    command = str(INSTALLED) if INSTALLED.exists() else shutil.which("ccusage")
    if command is None:
        pytest.skip("there is no ccusage; `make test-all` installs it where there is npm")
    done = subprocess.run(
        [command, *arguments, "daily", "--json", "--offline"],
        env=os.environ | {name: str(path) for name, path in environment.items()},
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    totals: dict[str, Any] = json.loads(done.stdout)["totals"]
    return totals


def by_kind(imported: ImportedTraces) -> tuple[int, int, int, int]:
    """Input without caches, read from caches, written to them, output."""
    tokens = imported.report.tokens
    read, written = tokens["cache_read_tokens"], tokens["cache_write_tokens"]
    return tokens["input_tokens"] - read - written, read, written, tokens["output_tokens"]


def theirs(totals: dict[str, Any]) -> tuple[int, int, int, int]:
    return totals["inputTokens"], totals["cacheReadTokens"], totals["cacheCreationTokens"], totals["outputTokens"]


def test_claude_code_agrees_to_the_token_and_to_the_cent(real: Path) -> None:
    directory = real / "sessions" / "claude_code"
    totals, ours = ccusage(CLAUDE_CONFIG_DIR=directory), read_traces(directory, progress=False)
    assert theirs(totals) == by_kind(ours) == (24_994, 24_672_491, 1_548_788, 120_446)
    assert totals["totalCost"] * 100 == pytest.approx(ours.report.cost_cents, abs=0.01)


def test_codex_agrees_to_the_token(real: Path) -> None:
    directory = real / "sessions" / "codex"
    totals, ours = ccusage("codex", CODEX_HOME=directory), read_traces(directory, progress=False)
    assert totals["totalTokens"] == sum(by_kind(ours)) == 1_235_318


def test_gemini_cli_agrees_to_the_token(real: Path) -> None:
    directory = real / "sessions" / "gemini"
    totals, ours = ccusage("gemini", GEMINI_DATA_DIR=directory), read_traces(directory, progress=False)
    assert totals["totalTokens"] == sum(by_kind(ours)) == 273_107


def test_where_it_differs(real: Path) -> None:
    """It counts copies without request ids again, loses lines to foreign numbers, and of writes without a full split the rest."""
    directory = real / "sessions" / "claude_code_made"
    totals, ours = ccusage(CLAUDE_CONFIG_DIR=directory), by_kind(read_traces(directory, progress=False))
    without_request_id, foreign_numbers, rest_of_a_split = (200, 100, 0, 8), (-5, 0, 0, -27), (0, 0, -250, 0)
    more = zip(without_request_id, foreign_numbers, rest_of_a_split, strict=True)
    assert theirs(totals) == tuple(own + sum(each) for own, each in zip(ours, more, strict=True))
