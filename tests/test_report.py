"""Reports: one HTML page without a script, whose foot can be checked; and an index of many."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from exporttools import ExportBundleStore
from exporttools.cli import app
from exporttools.errors import ReportError
from exporttools.report import write_report

from .databases import create_native, incident, run, step, trace

HOSTILE = "<script>alert(1)</script></style>'\"&"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


class Page(HTMLParser):
    """What a page refers to, and which elements it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.policy = ""
        self.text = path.read_text()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = {name: value or "" for name, value in attributes}
        self.links += [values[name] for name in ("src", "href", "data", "action", "xlink:href") if name in values]
        self.handlers += [name for name in values if name.startswith("on")]
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]


def assert_self_contained(page: Page) -> None:
    assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & set(page.tags)
    assert page.handlers == []
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert not re.search(r"@import|url\(", page.text)
    assert page.policy.startswith("default-src 'none'; img-src data:")


@pytest.fixture(scope="module")
def sample_report(tmp_path_factory: pytest.TempPathFactory, sample_urls: dict[str, str]) -> Page:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text("an older report")
    result = call("report", "inc-0000-1", "-o", path, "-d", sample_urls["sqlite"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{path}\n", "")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return Page(path)


def test_a_report_is_one_page_that_needs_nothing_else(sample_report: Page) -> None:
    assert_self_contained(sample_report)
    assert "<title>Incident inc-0000-1</title>" in sample_report.text
    assert sample_report.tags.count("img") >= 4


def test_it_shows_what_was_found_and_not_the_code(sample_report: Page) -> None:
    assert "repeats earlier calls 190 times" in sample_report.text
    assert "get_export_bundle" not in sample_report.text
    assert "sqlite://" not in sample_report.text
    assert not re.search(r"/(?:tmp|root|home|work)/", re.sub(r"data:image/png;base64,[^\"']*", "", sample_report.text))


def test_its_foot_can_be_checked(sample_report: Page, sample_urls: dict[str, str]) -> None:
    bundle = ExportBundleStore(sample_urls["sqlite"]).get_export_bundle("inc-0000-1")
    assert bundle is not None
    foot = sample_report.text.partition("<footer>")[2]
    assert f"<td>sha256:{bundle.content_digest}</td>" in foot
    assert "<th>verification</th><td>intact, unsigned</td>" in foot
    assert "UTC from sqlite" in foot


@pytest.fixture(scope="module")
def period(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """Reports of a hostile incident and of one whose steps cannot be read."""
    directory = tmp_path_factory.mktemp("reports")
    texts = {"severity": HOSTILE, "violation_type": HOSTILE, "policy_name": HOSTILE}
    rows = {
        "incidents": [incident(id=HOSTILE, **texts), incident(id="broken", source_run_id="r2", severity=None)],
        "runs": [run(goal=HOSTILE, agent_id=HOSTILE), run(run_id="r2")],
        "traces": [trace(), trace(trace_id="t2", run_id="r2")],
        "trace_steps": [
            *(step(index, step_type=HOSTILE, status=HOSTILE, content_hash=HOSTILE) for index in range(4)),
            step(0, trace_id="t2", tokens=-1),
        ],
    }
    url = create_native(f"sqlite:///{directory / 'hostile.sqlite'}", rows)
    return call("report", "--since", "2026-10-01", "-o", directory / "reports", "-d", url), directory / "reports"


def test_one_that_fails_does_not_keep_the_others_from_being_made(period: tuple[Result, Path]) -> None:
    result, directory = period
    assert (result.exit_code, result.stdout) == (1, f"{directory / 'index.html'}\n")
    assert result.stderr.splitlines()[0].startswith(
        "broken: no report of 'broken': cell 3 of the notebook investigate_incident failed"
    )
    assert "tokens = -1" in result.stderr
    assert result.stderr.splitlines()[-1] == "1 of 2 incidents have no report"
    index = Page(directory / "index.html")
    assert len(list(directory.iterdir())) == 2
    links = [link for link in index.links if not link.startswith("#")]
    assert [directory / link for link in links] == [path for path in directory.iterdir() if path.name != "index.html"]
    assert "2 incidents, 1 without a report" in index.text
    assert "no report: no report of &#x27;broken&#x27;" in index.text
    assert not {"script", "iframe", "form"} & set(index.tags)


def test_hostile_text_is_inert(period: tuple[Result, Path]) -> None:
    _, directory = period
    (path,) = [path for path in directory.iterdir() if path.name != "index.html"]
    page = Page(path)
    assert_self_contained(page)
    assert page.text.count("</style>") == page.tags.count("style")
    assert "&lt;script&gt;alert(1)" in page.text


def test_an_incident_without_a_run_has_a_report(tmp_path: Path, sample_urls: dict[str, str]) -> None:
    path = write_report("inc-0000-7", tmp_path / "r.html", database_url=sample_urls["postgresql"])
    assert "<th>missing</th><td>run, trace, steps</td>" in path.read_text()


def test_no_report_is_half_written(tmp_path: Path, sample_urls: dict[str, str]) -> None:
    old = tmp_path / "report.html"
    old.write_text("an older report")
    with pytest.raises(
        ReportError, match=r"no report of 'nobody': cell 3 of .* failed: LookupError: no incident 'nobody'"
    ):
        write_report("nobody", old, database_url=sample_urls["sqlite"])
    assert old.read_text() == "an older report"
    assert list(tmp_path.iterdir()) == [old]


def test_usage(tmp_path: Path, sample_urls: dict[str, str]) -> None:
    url = sample_urls["sqlite"]
    for arguments in ((), ("inc-0000-1", "--since", "2026-10-01")):
        result = call("report", "-d", url, *arguments)
        assert (result.exit_code, result.stderr) == (
            2,
            "error: give either an incident or a period, by --since or --until\n",
        )
    result = call("report", "nobody", "-d", url)
    assert (result.exit_code, result.stderr) == (1, "no incident has the id 'nobody'\n")
    nothing = call("report", "--until", "2020-01-01", "-d", url, "-o", tmp_path / "none")
    assert (nothing.exit_code, nothing.stdout) == (0, f"{tmp_path / 'none' / 'index.html'}\n")
    assert "0 incidents;" in (tmp_path / "none" / "index.html").read_text()
