"""The frame that comes out has the type of the frame that went in, to a type checker too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mypy import api

ROOT = Path(__file__).parents[2]
REVEALED = Path(__file__).with_name("revealed.py")


@pytest.mark.slow
def test_types_are_revealed_as_the_comments_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MYPYPATH", str(ROOT))
    out, err, _ = api.run(["--no-error-summary", str(REVEALED)])
    assert err == ""
    revealed = dict(re.findall(r':(\d+): note: Revealed type is "(.+)"', out))
    errors = dict.fromkeys(re.findall(r":(\d+): error: No overload variant of ", out), "error")
    assert len(errors) == out.count(": error: ")
    lines = enumerate(REVEALED.read_text(encoding="utf-8").splitlines(), start=1)
    expected = {str(number): line.split("  # ")[1] for number, line in lines if "  # " in line}
    assert len(expected) == 22
    # pyarrow has no types yet, so that a pyarrow.Table is Any.
    assert revealed | errors == expected
