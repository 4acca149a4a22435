"""The code in the docs runs, and its comments are right."""

from __future__ import annotations

import datetime as dt
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from exporttools import (
    BundleError,
    ExportBundle,
    ExportBundleStore,
    load_trusted_key,
    verify_bundle,
    write_bundle,
    write_key_pair,
)
from exporttools.analysis import cost_by
from exporttools.cli import app
from tests.bundle.bags import needs_openssl
from tests.databases import create_native, one_of_each, run_sql, step
from tests.tenants import TABLES, role_on, shared_tables, url_of

ROOT = Path(__file__).parents[1]


def _code(page: str, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def bundle(tmp_path: Path) -> ExportBundle:
    url = create_native(f"sqlite:///{tmp_path / 'd.sqlite'}", one_of_each())
    found = ExportBundleStore(url).get_export_bundle("i1")
    assert found is not None
    return found


def test_the_content_digest_without_exporttools(
    bundle: ExportBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_bundle(bundle, tmp_path / "bag"))
    names: dict[str, Any] = {}
    exec(_code("docs/content-digest.md")[0], names)
    assert names["bundle_digest"] == bundle.content_digest
    assert names["digests"] == list(bundle.table_digests.values())


def test_the_layout_of_ones_own() -> None:
    names: dict[str, Any] = {}
    exec(_code("docs/layouts.md")[0].replace("postgresql://...", "postgresql://h/d"), names)
    assert "layout mine" in repr(names["store"])


def test_the_page_on_statuses(fresh_url: str) -> None:
    steps = [step(i, status=status) for i, status in enumerate(("ok", "kaput", "gave up", "ERROR"))]
    url = create_native(fresh_url, one_of_each(trace_steps=steps))
    names: dict[str, Any] = {}
    for code in _code("docs/layouts.md"):
        exec(code.replace("postgresql://...", "postgresql://h/d"), names)
    for layout, failed, statuses in (
        ("native", 1, ["ok", "kaput", "gave up", "ERROR"]),
        (names["ours"], 3, ["ok", "failed", "failed", "ERROR"]),
    ):
        store = ExportBundleStore(url, layout=layout)
        bundle = store.get_export_bundle("i1")
        assert bundle is not None
        assert bundle.steps.to_arrow()["status"].to_pylist() == statuses
        assert bundle.totals["failed"] == failed
        assert cost_by(store.scan_trace_steps().read_all())["failed"].to_pylist() == [failed]


def test_the_page_on_tenants(fresh_postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    [policies] = _code("docs/tenants.md", "sql")
    shared_tables(fresh_postgres_url)
    run_sql(fresh_postgres_url, *(policies.replace(" runs ", f" {table} ") for table in TABLES))
    with role_on(fresh_postgres_url) as role:
        run_sql(fresh_postgres_url, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        as_admin, *as_role = _code("docs/tenants.md")
        names: dict[str, Any] = {}
        exec(as_admin.replace("postgresql://...", fresh_postgres_url), names)
        assert [len(runs) for runs in names["runs"].values()] == [1, 1]
        assert len(ExportBundleStore(url_of(fresh_postgres_url, role)).list_runs()) == 0
        level = logging.getLogger("exporttools").level
        try:
            for code in as_role:
                exec(code.replace("postgresql://...", url_of(fresh_postgres_url, role)), names)
        finally:
            logging.getLogger("exporttools").setLevel(level)
        assert [found.goal for found in names["secured"].list_runs(tenant_id="globex")] == ["globex"]
        names["secured"]._reader.database.engine.dispose()
    record = re.search(r"^    DEBUG:exporttools:(.*) ms=", (ROOT / "docs/tenants.md").read_text(), re.MULTILINE)
    assert record is not None
    assert [message.partition(" ms=")[0] for message in caplog.messages] == [record[1]]


@pytest.mark.filterwarnings("ignore:EXPORTTOOLS_DATABASE_URL is not set")
def test_the_analysis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for code in _code("docs/analysis.md"):
        exec(code, names)
    plt.close("all")
    said = re.search(r"^# (2 of 300 runs .*)$", "\n".join(_code("docs/analysis.md")), re.MULTILINE)
    assert said is not None
    assert names["reconciliation_verdict"](names["reconciled"]) == said[1]
    assert f"# {names['repricing_verdict'](names['cheaper'])}\n" in "\n".join(_code("docs/analysis.md"))
    reason = names["changes"]["reason"][0].as_py()
    assert f'changes["reason"][0]  # {reason}\n' in "\n".join(_code("docs/analysis.md"))
    for place in (4, -1):
        reason = names["found"]["reason"][place].as_py()
        assert f'found["reason"][{place}]  # {reason}\n' in "\n".join(_code("docs/analysis.md"))
    page = (ROOT / "docs" / "analysis.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    exporttools (.+)$", page, re.MULTILINE)
    assert len(commands) == 7
    for command in commands:
        result = CliRunner().invoke(app, command.split())
        assert (result.exit_code, len(result.stdout) > 100) == (0, True)


@pytest.mark.filterwarnings("ignore:EXPORTTOOLS_DATABASE_URL is not set")
def test_the_analysis_opens_with_questions_and_what_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    opening = (ROOT / "docs" / "analysis.md").read_text(encoding="utf-8").split("\n## ")[0]
    assert len(re.findall(r"^\*\*.+\?\*\*", opening, re.MULTILINE)) == 3
    commands = re.findall(r"^    \$ exporttools (.+)\n((?:    .+\n)+)", opening, re.MULTILINE)
    assert len(commands) == 1
    for command, answer in commands:
        result = CliRunner().invoke(app, command.split())
        lines = [line.rstrip() for line in result.stdout.splitlines()[2:]]
        assert [line.strip() for line in answer.splitlines()] == lines[: len(answer.splitlines())]
    names: dict[str, Any] = {}
    for code in _code("docs/analysis.md")[:2]:
        exec(code, names)
        printed = [f"# {line}" for line in capsys.readouterr().out.splitlines()]
        assert code.splitlines()[-len(printed) :] == printed != []


def test_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample_urls: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    code = _code("README.md")[0].replace("postgresql://reader@db.internal/agents", sample_urls["postgresql"])
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["verify_bundle"](names["path"]).verdict == "intact, unsigned"
    exec(_code("README.md")[1], names)
    found = names["verify_bundle"](names["path"], trusted_keys=["signer.key.pub"])
    assert (found.authentic, found.redacted) == (True, ("runs.goal",))
    assert f"# '{found.verdict}'" in _code("README.md")[1]
    exec(_code("README.md")[2], names)
    assert names["fleet"].rows["runs"] == 300
    shown = capsys.readouterr().out
    assert shown == (
        "the same rows, as far as compared\n  redacted in one of them, not compared: runs.goal\n"
        "  a: intact, signature not checked\n  b: intact, unsigned\n"
    )
    exec(_code("README.md")[3], names)
    plt.close("all")
    assert names["changes"]["cause"][0].as_py() == "repeated calls"


def test_the_pages_on_decisions_are_listed() -> None:
    pages = {page.name for page in (ROOT / "docs" / "decisions").glob("*.md")} - {"README.md"}
    index = (ROOT / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    assert {target for _, target in _links(index)} - {"../../CHANGELOG.md"} == pages


@pytest.mark.parametrize(
    "page", sorted(str(page.relative_to(ROOT)) for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [target for _, target in _links(text) if not (ROOT / page).parent.joinpath(target).exists()] == []


def _links(text: str) -> list[tuple[str, str]]:
    """The words and targets of a page's links to other files of the repository."""
    return [(words, target) for words, target in re.findall(r"\[([^\]]+)\]\(([^)#]+)\)", text) if "://" not in target]


@needs_openssl
def test_the_page_on_signing(bundle: ExportBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    key = write_key_pair("signer.key")
    names: dict[str, Any] = {"bundle": bundle}
    for code in _code("docs/signing.md"):
        exec(code, names)
    assert verify_bundle("inc-1.bundle", trusted_keys="signer.key.pub").authentic
    (text,) = _code("docs/signing.md", "text")
    trusted = load_trusted_key(text.encode())
    assert (trusted.label, trusted.not_before, trusted.not_after) == (
        '"Jane Roe, laptop"',
        dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        dt.datetime(2027, 12, 31, 23, 59, 59, 999_999, dt.UTC),
    )
    write_key_pair("other.key")
    wrong = names["OpensslSigner"]("other.key", "signer.key.pub")
    with pytest.raises(BundleError, match="returned a signature that its public key does not verify"):
        write_bundle(bundle, "b", signing_key=wrong)
    gone = names["OpensslSigner"]("none.key", "signer.key.pub")
    with pytest.raises(BundleError, match=f"the signer with key {key.key_id} failed: CalledProcessError: "):
        write_bundle(bundle, "b", signing_key=gone)
    assert not (tmp_path / "b").exists()


def test_the_rows_without_exporttools(bundle: ExportBundle, tmp_path: Path) -> None:
    path = write_bundle(bundle, tmp_path / "b")
    for code in _code("docs/verify-without-exporttools.md"):
        done = subprocess.run([sys.executable, "-c", code], cwd=path, capture_output=True, text=True, check=True)
        assert "1.5" in done.stdout  # the cents of the three steps


def test_the_page_on_the_format_names_every_finding_and_member(bundle: ExportBundle, tmp_path: Path) -> None:
    import json

    page = (ROOT / "docs/bundle-format.md").read_text(encoding="utf-8")
    source = "".join(path.read_text() for path in (ROOT / "exporttools/bundle").glob("*.py"))
    codes = set(re.findall(r'Finding\(\s*"([a-z-]+)"', source))
    assert len(codes) > 8
    assert [code for code in sorted(codes) if f"`{code}`" not in page] == []
    description = json.loads((write_bundle(bundle, tmp_path / "b") / "data/bundle.json").read_text())
    assert [member for member in description if f"`{member}`" not in page] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Dask and Spark themselves use what pandas and Python deprecate
def test_reading_a_dataset_elsewhere(
    sample_urls: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the snippets of docs/scaling.md on a real Dask cluster and a real local Spark."""
    distributed = pytest.importorskip("distributed")
    pytest.importorskip("dask.dataframe")
    pytest.importorskip("pyspark")
    cluster_code, duckdb_code, dask_code, spark_code = _code("docs/scaling.md")
    monkeypatch.setenv("AGENTS_URL", sample_urls["postgresql"])
    names: dict[str, Any] = {"destination": str(tmp_path / "fleet")}
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1", silence_logs=50
    ) as cluster:
        names["address"] = cluster.scheduler_address
        exec(cluster_code, names)
    assert names["report"].rows["runs"] == 300
    exec(duckdb_code, names)
    exec(dask_code, names)
    total = sum(cents for _, cents in names["cents"])
    assert names["by_tenant"].sum() == pytest.approx(total)
    if shutil.which("java") is None:
        pytest.skip("no Java: the Spark snippet of docs/scaling.md was not run")
    exec(spark_code, names)
    try:
        expected = names["fleet"].sql("select tenant_id, sum(tokens)::bigint from trace_steps group by 1").fetchall()
        assert sorted(map(tuple, names["spark_rows"])) == sorted(expected)
        assert "day" in names["steps"].columns
    finally:
        names["spark"].stop()
