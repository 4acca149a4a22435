"""The command report: standard output, standard error and exit code. What it writes: tests/report."""

from __future__ import annotations

from pathlib import Path

from tests.cli.invoking import call


def test_usage(tmp_path: Path, sample_urls: dict[str, str]) -> None:
    url = sample_urls["sqlite"]
    for arguments in ((), ("inc-0000-1", "--since", "2026-10-01")):
        result = call("report", "-d", url, *arguments)
        assert (result.exit_code, result.stderr) == (
            2,
            "error: give either an INCIDENT or a period (--since, --until)\n",
        )
    result = call("report", "nobody", "-d", url)
    assert (result.exit_code, result.stderr) == (1, "no incident has the id 'nobody'\n")
    nothing = call("report", "--until", "2020-01-01", "-d", url, "-o", tmp_path / "none")
    assert (nothing.exit_code, nothing.stdout) == (0, f"{tmp_path / 'none' / 'index.html'}\n")
    assert "<p>0 incidents · made 20" in (tmp_path / "none" / "index.html").read_text()
