"""Reports: one HTML page without a script, with a footer that can be checked; and an index of many."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
import sqlalchemy as sa
from nbclient.exceptions import DeadKernelError
from typer.testing import Result

from exporttools import ExportBundleStore, write_bundle
from exporttools.errors import ConfigError, ReportError
from exporttools.report.writing import write_report, write_reports
from tests.cli.invoking import call
from tests.databases import create_native, incident, one_of_each, run, step, trace

HOSTILE = "<script>alert(1)</script></style>'\"&"


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
    assert page.policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    )


def facts(text: str) -> set[tuple[str, str]]:
    """What a report says at its foot."""
    return set(re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', text.partition("<footer>")[2]))


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
    assert "budget_exceeded · critical · tenant acme-retail · recorded 2026-10-06 13:43:02 UTC" in sample_report.text
    assert sample_report.tags.count("img") >= 4


def test_it_shows_what_was_found_and_not_the_code(sample_report: Page) -> None:
    assert "repeated earlier calls of llm_call 190 times" in sample_report.text
    assert "get_export_bundle" not in sample_report.text
    assert "papermill" not in sample_report.text
    assert "<td data-number>982.50" in sample_report.text
    assert sample_report.text.count(" alt=") == sample_report.tags.count("img")
    assert "sqlite://" not in sample_report.text
    assert not re.search(r"/(?:tmp|root|home|work)/", re.sub(r"data:image/png;base64,[^\"']*", "", sample_report.text))


def test_its_foot_can_be_checked(sample_report: Page, sample_urls: dict[str, str]) -> None:
    bundle = ExportBundleStore(sample_urls["sqlite"]).get_export_bundle("inc-0000-1")
    assert bundle is not None
    foot = sample_report.text.partition("<footer>")[2]
    assert facts(sample_report.text) >= {
        ("content digest", f"sha256:{bundle.content_digest}"),
        ("verification", "intact, unsigned"),
        ("rows", "1 in incidents, 1 in runs, 1 in traces, 407 in trace_steps"),
        ("made by", "exporttools 0.1.0"),
    }
    assert re.search(r"<td>20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC</td>", foot)
    assert re.search(r"<td>sqlite [\d.]+, layout native</td>", foot)


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
    assert re.match(
        r"broken: no report: cell \d of the notebook investigate_incident failed: InconsistentData: ", result.stderr
    )
    assert "tokens = -1" in result.stderr
    assert result.stderr.splitlines()[-1] == "no report for 1 of 2 incidents"
    index = Page(directory / "index.html")
    assert len(list(directory.iterdir())) == 2
    links = [link for link in index.links if not link.startswith("#")]
    assert [directory / link for link in links] == [path for path in directory.iterdir() if path.name != "index.html"]
    assert "2 incidents, 1 without a report" in index.text
    assert re.search(r'<tr class="failed">\s*<th scope="row">broken</th>', index.text)
    assert '<td class="verdict">no report: cell' in index.text
    assert '<td class="number">12</td>\n<td class="verdict">intact, unsigned</td>' in index.text
    assert HOSTILE not in index.text
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
    assert ("missing", "run, trace, steps") in facts(path.read_text())


def test_what_is_odd_is_remarked_at_its_foot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporttools.report.writing.run_notebook", _write_a_bundle)
    early = run()["started_at"] - dt.timedelta(minutes=3)
    url = create_native(f"sqlite:///{tmp_path / 'd.sqlite'}", one_of_each(runs=[run(completed_at=early)]))
    page = write_report("i1", tmp_path / "r.html", database_url=url)
    assert ("remark", "the run ends 3 min before it starts") in facts(page.read_text())


def test_no_report_is_half_written(tmp_path: Path, sample_urls: dict[str, str]) -> None:
    old = tmp_path / "report.html"
    old.write_text("an older report")
    with pytest.raises(
        ReportError,
        match=r"^no report: cell \d of the notebook investigate_incident failed: LookupError: no incident 'nobody'",
    ):
        write_report("nobody", old, database_url=sample_urls["sqlite"])
    assert old.read_text() == "an older report"
    assert list(tmp_path.iterdir()) == [old]


def test_an_index_has_names_that_files_can_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample_urls: dict[str, str]
) -> None:
    """Ids that differ, but not as file names, and ids that are longer than a name may be."""
    monkeypatch.setattr("exporttools.report.writing.run_notebook", _write_a_bundle)
    ids = ["a/b", "A:b", "index", "語" * 200, "../../x"]
    rows = {"incidents": [incident(id=name, source_run_id=None) for name in ids]}
    url = create_native(f"sqlite:///{tmp_path / 'ids.sqlite'}", rows)
    monkeypatch.setenv("DATABASE_OF_IDS", url)
    found = ExportBundleStore(url).list_incidents(order="oldest")
    outcomes = write_reports(found, tmp_path / "new" / "reports", database_url="env:DATABASE_OF_IDS")
    assert {outcome.verdict for outcome in outcomes} == {"intact, unsigned"}
    names = {outcome.incident.id: outcome.path and outcome.path.name for outcome in outcomes}
    assert names == {
        "../../x": "_.._x.html", "A:b": "A_b.html", "a/b": "a_b-2.html", "index": "index-2.html", "語" * 200: "語" * 66 + ".html",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "new" / "reports").iterdir()} == {*names.values(), "index.html"}
    index = Page(tmp_path / "new" / "reports" / "index.html")
    assert {unquote(link) for link in index.links} == set(names.values())


def _write_a_bundle(name: str, output: Path, parameters: Mapping[str, str | None], *, progress: bool) -> Path:
    """In the notebook's place: what it leaves behind."""
    store = ExportBundleStore(parameters["database_url"], tenant_id=parameters["tenant_id"])
    bundle = store.get_export_bundle(str(parameters["incident_id"]))
    assert bundle is not None
    write_bundle(bundle, output.parent / str(parameters["bundle_path"]))
    nbformat.write(nbformat.v4.new_notebook(), output)
    return output


def test_a_path_is_found_from_where_the_notebook_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample_urls: dict[str, str]
) -> None:
    monkeypatch.setattr("exporttools.report.writing.run_notebook", _write_a_bundle_elsewhere)
    monkeypatch.chdir(tmp_path)
    create_native("sqlite:///here.sqlite", {"incidents": [incident(source_run_id=None)]})
    for database in ("here.sqlite", "sqlite:///here.sqlite", Path("here.sqlite")):
        assert write_report("i1", "r.html", database_url=database).is_file()
    assert "EXPORTTOOLS_REPORT_DATABASE" not in os.environ


def _write_a_bundle_elsewhere(name: str, output: Path, parameters: Mapping[str, str | None], *, progress: bool) -> Path:
    with contextlib.chdir(output.parent):
        return _write_a_bundle(name, output, parameters, progress=progress)


def test_a_kernel_that_dies_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*arguments: object, **options: object) -> None:
        raise DeadKernelError("Kernel died")

    monkeypatch.setattr("papermill.execute_notebook", die)
    url = create_native(f"sqlite:///{tmp_path / 'd.sqlite'}", {"incidents": [incident(source_run_id=None)]})
    message = "no report: the notebook investigate_incident could not be run: DeadKernelError: Kernel died"
    with pytest.raises(ReportError, match=f"^{message}$"):
        write_report("i1", tmp_path / "r.html", database_url=url)
    outcomes = write_reports(ExportBundleStore(url).list_incidents(), tmp_path / "all", database_url=url)
    assert [(outcome.path, outcome.verdict) for outcome in outcomes] == [(None, message)]


def test_places_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporttools.report.writing.run_notebook", _write_a_bundle)
    url = create_native(f"sqlite:///{tmp_path / 'd.sqlite'}", {"incidents": [incident(source_run_id=None)]})
    with pytest.raises(ConfigError, match="none is not a directory; create it first$"):
        write_report("i1", tmp_path / "none" / "r.html", database_url=url)
    with pytest.raises(ConfigError, match="is a directory; the report of one incident is a file$"):
        write_report("i1", tmp_path, database_url=url)
    with pytest.raises(ConfigError, match=r"d\.sqlite cannot be created as a directory: .*File exists"):
        write_reports([], tmp_path / "d.sqlite", database_url=url)
    with pytest.raises(ReportError, match="could not be written: .*File name too long"):
        write_report("i1", tmp_path / f"{'r' * 260}.html", database_url=url)
    with pytest.raises(ConfigError, match="database is neither a URL nor the path of a file"):
        write_report("i1", tmp_path / "r.html", database_url="nothing")
    with pytest.raises(ConfigError, match="^a report needs the URL of a database; found Engine$"):
        write_report("i1", tmp_path / "r.html", database_url=sa.create_engine(url))  # type: ignore[arg-type]


def test_a_cost_that_is_null_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporttools.report.writing.run_notebook", _write_a_bundle)
    url = create_native(f"sqlite:///{tmp_path / 'd.sqlite'}", one_of_each(runs=[run(total_cost_cents=None)]))
    (outcome,) = write_reports(ExportBundleStore(url).list_incidents(), tmp_path / "all", database_url=url)
    assert outcome.cost_cents is None
    assert " · the run&#39;s cost is unknown</p>" in (tmp_path / "all" / "i1.html").read_text()
    assert '<td class="number">unknown</td>' in (tmp_path / "all" / "index.html").read_text()
