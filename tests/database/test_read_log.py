"""What the log says of reads: a name, rows, milliseconds; no value."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

from exporttools import ExportBundleStore, StoreError, export_dataset
from exporttools.database import readers
from exporttools.database import trace_store as trace_store_module
from exporttools.database.read_log import ReadLog
from tests.databases import create_native, one_of_each, run_sql, step
from tests.tenants import role_on, shared_tables, url_of

RECORD = re.compile(r"^([a-z_ ]+): rows=(\d+) ms=\d+\.\d( \(failed\)| \(stopped early\)|)$")


@pytest.fixture(autouse=True)
def _at_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="exporttools")


def reads(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int, str]]:
    """Each read since the last call: its name, rows, and how it ended unless well."""
    found = []
    for record in caplog.records:
        if record.name == "exporttools" and "CREATE INDEX" not in record.getMessage():
            assert record.levelno == logging.DEBUG, record.getMessage()
            match = RECORD.match(record.getMessage())
            assert match is not None, record.getMessage()
            assert isinstance(record.msg, str) and record.args, "formatted only where somebody reads it"
            found.append((match[1], int(match[2]), match[3].strip(" ()")))
    caplog.clear()
    return found


def test_each_read_is_named(store: ExportBundleStore, caplog: pytest.LogCaptureFixture) -> None:
    for read, expected in (
        (lambda: store.get_incident("i1"), [("get incidents by rows", 1, "")]),
        (lambda: store.get_run_by_run_id("nobody"), [("get runs by rows", 0, "")]),
        (lambda: store.list_incidents(), [("prove keys of incidents", 0, ""), ("list incidents by rows", 1, "")]),
        (lambda: store.list_runs(limit=0), [
            ("prove keys of runs", 0, ""), ("list runs by rows", 1, ""), ("count runs", 1, "")]),
        (lambda: store.list_traces(), [("prove keys of traces", 0, ""), ("list traces by rows", 1, "")]),
        (lambda: store.get_trace_summary("r1", "acme"), [("pick traces by rows", 1, "")]),
    ):  # fmt: skip
        read()  # type: ignore[no-untyped-call]
        assert reads(caplog) == expected


def test_steps_say_which_reader_read_them(
    store: ExportBundleStore, backend: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.get_trace_steps("t1", "acme")
    counted = [("count trace_steps", 3, "")] if backend == "postgresql" else []
    assert reads(caplog) == [*counted, ("get trace_steps by rows", 3, "")]
    monkeypatch.setattr(trace_store_module, "BULK_ROWS", 1)
    how = "in bulk" if backend == "postgresql" else "by rows"
    store.get_trace_steps("t1", "acme")
    assert reads(caplog)[-1] == (f"get trace_steps {how}", 3, "")
    store.scan_trace_steps().read_all()
    assert reads(caplog)[-1] == (f"scan trace_steps {how}", 3, "")


def test_an_export_is_logged(store: ExportBundleStore, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    export_dataset(store, tmp_path / "fleet", progress=False)
    found = {name.removesuffix(" in bulk").removesuffix(" by rows"): rows for name, rows, _ in reads(caplog)}
    assert found.items() >= {
        ("export incidents", 1), ("export runs", 1), ("export traces", 1), ("export trace_steps", 3),
    }  # fmt: skip
    assert "count for an export" in found


@pytest.mark.parametrize("bulk", [True, False])
def test_a_stream_is_logged_when_it_ends(
    fresh_url: str, backend: str, bulk: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ExportBundleStore(create_native(fresh_url, one_of_each(trace_steps=[step(i) for i in range(300)])))
    monkeypatch.setattr(readers, "ROWS_PER_FETCH", 100)
    monkeypatch.setattr(readers, "_BULK_BATCH_BYTES", 2_000)
    if not bulk:
        monkeypatch.setattr(readers.BulkReader, "_joined", lambda *_: None)
    store.list_runs()
    with store.scan_trace_steps() as stream:
        caplog.clear()
        first = stream.read_next_batch().num_rows
        assert 0 < first < 300
        assert reads(caplog) == []
    how = "in bulk" if bulk and backend == "postgresql" else "by rows"
    [(name, rows, end)] = reads(caplog)
    assert (name, end) == (f"scan trace_steps {how}", "stopped early")
    assert first <= rows < 300  # a batch or more may be read ahead


def test_a_read_that_fails_is_logged_as_such(store: ExportBundleStore, caplog: pytest.LogCaptureFixture) -> None:
    store.list_runs()
    run_sql(str(store._arguments["database"]), "ALTER TABLE runs RENAME COLUMN goal TO aim")
    caplog.clear()
    with pytest.raises(StoreError):
        store.list_runs()
    assert reads(caplog) == [("list runs by rows", 0, "failed")]


def test_the_time_of_whoever_uses_a_stream_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = iter([1.0, 1.25, 100.0, 100.5])
    monkeypatch.setattr("exporttools.database.read_log.time.perf_counter", lambda: next(now))
    with ReadLog("list runs") as log:
        log.rows = 7
        log.pause()
        log.resume()
    assert caplog.messages == ["list runs: rows=7 ms=750.0"]


def test_no_value_is_logged(
    fresh_postgres_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where a second connection cannot be made the first one's equal either: roles and schemas may be tenants."""
    monkeypatch.setattr(trace_store_module, "BULK_ROWS", 1)
    shared_tables(fresh_postgres_url)
    with role_on(fresh_postgres_url) as role:
        run_sql(fresh_postgres_url, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        url = make_url(url_of(fresh_postgres_url, role)).set(password="hunter2")
        store = ExportBundleStore(url, rls_setting="app.tenant_id", statement_timeout=30).for_tenant("acme")
        store.get_export_bundle("i1")
        run_sql(fresh_postgres_url, f"ALTER ROLE {role} CONNECTION LIMIT 1")
        store._reader.bulk._idle.pop().close()
        store.get_trace_steps("t1")
        store._reader.database.engine.dispose()
        said = "\n".join(r.getMessage() for r in caplog.records if r.name == "exporttools")
    label = store._reader.database.label
    assert f"{label}: reading rows, since ADBC could not join the snapshot: the server has no connections left" in said
    assert [word for word in ("acme", "globex", "i1", "r1", "t1'", "hunter2", role) if word in said] == []


def test_what_makes_two_sessions_differ_is_named_without_its_value(
    fresh_postgres_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlalchemy as sa

    monkeypatch.setattr(trace_store_module, "BULK_ROWS", 1)
    shared_tables(fresh_postgres_url)
    engine = sa.create_engine(url_of(fresh_postgres_url))
    sa.event.listen(
        engine, "connect", lambda driver, _: driver.execute("CREATE TEMP TABLE t (n integer)") and driver.commit()
    )
    assert len(ExportBundleStore(engine).get_trace_steps("t1", "acme")) == 3
    engine.dispose()
    assert (
        "reading rows, since a second connection would not see what the first one sees: the list of schemas differs\n"
    ) in caplog.text


def test_nothing_is_printed_where_nobody_set_logging_up() -> None:
    code = (
        "import logging, exporttools; logger = logging.getLogger('exporttools'); logger.warning('x')\n"
        "print([type(handler).__name__ for handler in logger.handlers])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("['NullHandler']\n", "")
