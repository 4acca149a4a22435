"""Reports as readers open them: from a file, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from exporttools.cli import app

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def reports(browser: Browser, tmp_path_factory: pytest.TempPathFactory, sample_urls: dict[str, str]) -> Path:
    """The reports of a day with two incidents, and their index."""
    directory = tmp_path_factory.mktemp("reports")
    asked = [
        "report",
        "--since",
        "2026-10-06",
        "--until",
        "2026-10-07",
        "-o",
        str(directory),
        "-d",
        sample_urls["sqlite"],
    ]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.stderr
    return directory


@pytest.fixture
def page(browser: Browser) -> Page:
    return browser.new_page(viewport={"width": 1280, "height": 900})


def test_a_report_opens_from_a_file_without_a_request_or_an_error(page: Page, reports: Path, shots: Path) -> None:
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((reports / "inc-0000-1.html").as_uri())
    timeline = page.get_by_alt_text("Timeline: each step as a bar")
    timeline.wait_for(state="visible")
    assert timeline.evaluate("image => image.naturalWidth") > 500
    for image in page.locator("img").all():
        assert image.evaluate("image => image.complete && image.naturalWidth > 0")
    page.screenshot(path=shots / "report.png", full_page=True)
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [(reports / "inc-0000-1.html").as_uri()]


def test_it_prints(page: Page, reports: Path, shots: Path) -> None:
    page.goto((reports / "inc-0000-1.html").as_uri())
    printed = page.pdf(path=shots / "report.pdf", prefer_css_page_size=True)
    assert printed.startswith(b"%PDF")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 690, "height": 1000})  # the width of A4 less its margins, at 96 dpi
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


@pytest.mark.parametrize("width", [400, 1280])
def test_it_fits_a_screen(page: Page, reports: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto((reports / "inc-0000-1.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_index_leads_to_the_reports(page: Page, reports: Path, shots: Path) -> None:
    page.goto((reports / "index.html").as_uri())
    page.screenshot(path=shots / "index.png")
    page.get_by_role("link", name="inc-0000-1").click()
    page.wait_for_url("**/inc-0000-1.html")
    assert page.title() == "Incident inc-0000-1"
