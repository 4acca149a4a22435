"""The code in the docs runs and is right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from exporttools import ExportBundleStore, write_bundle

from .databases import create_native, one_of_each

ROOT = Path(__file__).parents[1]


def _code(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def test_the_content_digest_without_exporttools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = ExportBundleStore(create_native(f"sqlite:///{tmp_path / 'd.sqlite'}", one_of_each())).get_export_bundle(
        "i1"
    )
    assert bundle is not None
    monkeypatch.chdir(write_bundle(bundle, tmp_path / "bag"))
    names: dict[str, Any] = {}
    exec(_code("docs/content-digest.md")[0], names)
    assert names["bundle_digest"] == bundle.content_digest
    assert names["digests"] == list(bundle.table_digests.values())


def test_the_layout_of_ones_own() -> None:
    names: dict[str, Any] = {}
    exec(_code("docs/layouts.md")[0].replace("postgresql://...", "postgresql://h/d"), names)
    assert "layout mine" in repr(names["store"])


def test_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample_urls: dict[str, str]) -> None:
    monkeypatch.chdir(tmp_path)
    code = _code("README.md")[0].replace("postgresql://reader@db.internal/agents", sample_urls["postgresql"])
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["verify_bundle"](names["path"]).verdict == "intact, unsigned"
