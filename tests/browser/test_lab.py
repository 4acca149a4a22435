"""JupyterLab as `exporttools lab` opens it: the notebook runs from top to bottom and shows its pictures."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_START_S, _RUN_MS = 90, 120_000


@pytest.fixture(scope="module")
def lab_url(browser: Browser, tmp_path_factory: pytest.TempPathFactory, sample_urls: dict[str, str]) -> Iterator[str]:
    """The address of a JupyterLab for this module, on loopback, with a token."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home, token = tmp_path_factory.mktemp("lab"), secrets.token_hex(16)
    command = [
        sys.executable, "-m", "exporttools", "lab", "--directory", str(home / "notebooks"), "--database", sample_urls["sqlite"],
        "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
    ]  # fmt: skip
    # All cells are on the page, not only those in sight; and no dialog asks about news.
    for extension, settings in (
        ("notebook-extension/tracker", {"windowingMode": "none"}),
        ("apputils-extension/notification", {"fetchNews": "false"}),
    ):
        file = home / "settings" / "@jupyterlab" / f"{extension}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(settings))
    own = {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings")} | {
        name: str(home / name)
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log, start_new_session=True)
    base = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{base}/api?token={token}", process, home / "log")
        yield f"{base}/lab/tree/investigate_incident.ipynb?token={token}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.2)  # nothing signals when the server listens
    raise AssertionError(f"JupyterLab did not start: {log.read_text()[-3000:]}")


def test_the_investigation_runs_in_jupyterlab(browser: Browser, lab_url: str, shots: Path) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(lab_url)
    notebook = page.locator(".jp-Notebook")
    notebook.wait_for(state="visible", timeout=60_000)
    idle = page.locator('.jp-NotebookPanel [data-status="idle"]').first
    idle.wait_for(timeout=60_000)
    # Clear the committed outputs, so that what is seen was made now.
    page.get_by_role("menuitem", name="Edit", exact=True).click()
    page.get_by_role("menuitem", name="Clear Outputs of All Cells").click()
    assert page.locator(".jp-OutputArea-output").count() == 0
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    verdict = page.get_by_text(re.compile("intact, unsigned")).first
    try:
        verdict.wait_for(state="attached", timeout=_RUN_MS)
    finally:
        page.screenshot(path=shots / "lab-run.png")
    idle.wait_for(timeout=_RUN_MS)
    assert (
        page.locator(
            '[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]'
        ).count()
        == 0
    )
    images = page.locator(".jp-RenderedImage img")
    assert images.count() >= 4
    images.first.scroll_into_view_if_needed()
    images.first.wait_for(state="visible")
    assert images.first.evaluate("image => image.naturalWidth") > 500
    page.screenshot(path=shots / "lab.png")
    page.close()
