"""Times that SQLite stores: what is not a time is named by every read by time, and what sorts as text is read by its index."""

from __future__ import annotations

import datetime as dt
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from exporttools import ExportBundleStore, InconsistentData, plan_export
from exporttools.database.opening import _stored_us
from exporttools.database.stored_times import StoredTime, TimeForm
from exporttools.times import LATEST, epoch_us
from tests.databases import NOON, create_native, incident, one_of_each, run, run_sql, step, trace

DAY = dt.timedelta(days=1)
PERIOD: dict[str, Any] = {"since": NOON - DAY, "until": NOON + DAY}
UNREADABLE = (1759658400, 1759658400.5, "", "yesterday", "2026-02-30 12:00:00.000000", "2026-10-05 24:00:00.000000",
              "0000-10-05 12:00:00.000000", "2026-10-05 12:00:00.00000x", "2026-10-05 12:00:00 ", b"2026-10-05 12:00:00.000000",
              "2026-13-05 12:00:00.000000", "2026-10-05 12:00:00.000000+99:00", "0001-01-01 00:00:00+02:00")  # fmt: skip
FORMS = [
    TimeForm(separator, digits, zone) for separator in " T" for digits in (0, 3, 6) for zone in ("", "Z", "+00:00")
]

Read = Callable[[ExportBundleStore], Any]
READS: list[tuple[str, str, Read]] = [
    ("incidents", "created_at", lambda store: store.list_incidents(**PERIOD)),
    ("incidents", "created_at", lambda store: store.list_incidents(limit=1)),
    ("incidents", "created_at", lambda store: store.list_incidents(severity="high", **PERIOD)),
    ("runs", "started_at", lambda store: store.list_runs(until=NOON)),
    ("runs", "started_at", lambda store: store.list_runs(limit=1)),
    ("runs", "started_at", lambda store: store.list_runs(agent_id="triage", **PERIOD)),
    ("runs", "started_at", lambda store: store.list_traces(since=NOON)),
    ("runs", "started_at", lambda store: store.list_traces(run_id="r2", **PERIOD)),
    ("trace_steps", "timestamp", lambda store: store.scan_trace_steps(**PERIOD)),
    ("trace_steps", "timestamp", lambda store: store.scan_trace_steps(run_id="r1", **PERIOD)),
    ("trace_steps", "timestamp", lambda store: store.load_trace_steps(agent_id=["triage"], since=NOON)),
]  # fmt: skip


@pytest.fixture
def url(tmp_path: Path) -> str:
    """One of each in SQLite, and a run with a trace whose times tests change."""
    rows = one_of_each(runs=[run(), run(run_id="r2")], traces=[trace(), trace(trace_id="t2", run_id="r2")],
                       incidents=[incident(), incident(id="i2")])  # fmt: skip
    return create_native(f"sqlite:///{tmp_path / 'd.sqlite'}", rows)


def spoil(url: str, table: str, column: str, value: object, *, where: str = "") -> None:
    """Store a value in the table's last row, or where a condition holds."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        last = where or f"rowid = (SELECT max(rowid) FROM {table})"
        connection.execute(sa.text(f'UPDATE {table} SET "{column}" = :value WHERE {last}'), {"value": value})
    engine.dispose()


@pytest.mark.parametrize(("table", "column", "read"), READS)
def test_every_read_by_time_names_what_is_not_a_time(url: str, table: str, column: str, read: Read) -> None:
    store = ExportBundleStore(url)
    read(store)
    spoil(url, table, column, "next week")  # a store that has looked already looks again
    with pytest.raises(InconsistentData) as caught:
        read(store)
    key = {"incidents": "id='i2'", "runs": "run_id='r2'", "trace_steps": "trace_id='t1', step_index=2"}[table]
    assert str(caught.value) == (
        f"{table}: 1 row has a {column} that is not a time, such as 'next week' in row {key}; expected a time such as "
        "'2026-10-05 12:00:00.000000'. What is not a time can be neither compared nor sorted: fix it at its source, or "
        f"convert the column in a layout of your own: Field({column!r}, convert=...)"
    )
    assert (caught.value.table, caught.value.key, caught.value.column) == (table, key, column)
    spoil(url, table, column, "2026-10-05T14:00:00+02:00")
    read(store)


@pytest.mark.parametrize("value", UNREADABLE, ids=repr)
@pytest.mark.parametrize("others", ["2026-10-05 12:00:00.000000", "2026-10-05T12:00:00Z"])
def test_whatever_is_not_a_time(url: str, value: object, others: str) -> None:
    run_sql(url, "ALTER TABLE runs RENAME COLUMN started_at TO typed", "ALTER TABLE runs ADD COLUMN started_at")
    spoil(url, "runs", "started_at", others, where="run_id = 'r1'")
    spoil(url, "runs", "started_at", value)
    with pytest.raises(
        InconsistentData, match=r"^runs: 1 row has a started_at that is not a time, such as .* in row run_id='r2'"
    ):
        ExportBundleStore(url).list_runs(since=NOON)


def test_an_example_is_safe_to_print_and_is_ones_own(url: str) -> None:
    spoil(url, "runs", "started_at", "\x1b[31m" + "x" * 500)
    with pytest.raises(InconsistentData) as caught:
        ExportBundleStore(url).list_runs(since=NOON)
    assert "\x1b" not in str(caught.value)
    assert "x" * 200 not in str(caught.value)
    run_sql(url, "UPDATE runs SET tenant_id = 'globex' WHERE run_id = 'r2'")
    assert len(ExportBundleStore(url, tenant_id="acme").list_runs(**PERIOD)) == 1
    assert len(ExportBundleStore(url).list_runs(tenant_id="acme", **PERIOD)) == 1
    assert len(ExportBundleStore(url).list_runs(agent_id="nobody", **PERIOD)) == 0
    with pytest.raises(InconsistentData):
        ExportBundleStore(url).list_runs(tenant_id="globex", **PERIOD)


@pytest.mark.parametrize(("table", "column"), [("runs", "started_at"), ("incidents", "created_at")])
def test_an_export_refuses_what_is_not_a_time(url: str, tmp_path: Path, table: str, column: str) -> None:
    store = ExportBundleStore(url)
    with store.window_snapshot() as snapshot:
        (day,) = snapshot.tenant_days(None, NOON, NOON + DAY)
    spoil(url, table, column, 7)
    message = f"^{table}: 1 row has a {column} that is not a time, such as 7 in row"
    with pytest.raises(InconsistentData, match=message):
        plan_export(store, tmp_path / "d")
    with store.window_snapshot() as snapshot:
        for read in (
            lambda: snapshot.grid_counts(86_400, None, NOON, None),
            lambda: snapshot.undated(None),
            lambda: snapshot.tenant_days(None, None, None),
            lambda: snapshot.tenant_days(None, NOON, NOON + DAY),
            lambda: getattr(snapshot, table)(day),
        ):
            with pytest.raises(InconsistentData, match=message):
                read()


def test_changes_by_the_engines_own_connection_are_noticed() -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE runs (run_id TEXT, tenant_id TEXT, started_at TEXT)")
        connection.exec_driver_sql("CREATE TABLE incidents (id TEXT, tenant_id TEXT, created_at TEXT)")
        connection.exec_driver_sql("CREATE TABLE traces (trace_id TEXT, tenant_id TEXT, run_id TEXT)")
        connection.exec_driver_sql(
            "CREATE TABLE trace_steps (tenant_id TEXT, trace_id TEXT, step_index INT, timestamp TEXT, step_type TEXT, tokens INT,"
            " cost_cents FLOAT, duration_ms FLOAT, status TEXT)"
        )
        connection.exec_driver_sql("INSERT INTO runs VALUES ('r1', 'acme', '2026-10-05 12:00:00')")
    store = ExportBundleStore(engine)
    assert len(store.list_runs(since=NOON)) == 1
    for change in (
        "INSERT INTO runs VALUES ('r2', 'acme', 'soon')",
        "CREATE TABLE others AS SELECT run_id, tenant_id, 'then' AS started_at FROM runs; DROP TABLE runs;"
        "ALTER TABLE others RENAME TO runs",
    ):
        with engine.begin() as connection:
            for statement in change.split(";"):
                connection.exec_driver_sql(statement)
        with pytest.raises(InconsistentData, match=r"^runs: [12] rows? ha"):
            store.list_runs(since=NOON)
        with engine.begin() as connection:
            connection.exec_driver_sql("UPDATE runs SET started_at = '2026-10-05 12:00:00'")
        assert len(store.list_runs(since=NOON)) == 2
    engine.dispose()


def in_form(form: TimeForm, moment: dt.datetime) -> str:
    plain = moment.replace(tzinfo=None).isoformat(
        form.separator, {0: "seconds", 3: "milliseconds", 6: "microseconds"}[form.digits]
    )
    return plain + form.zone


@given(st.sampled_from(FORMS), st.lists(st.datetimes(timezones=st.just(dt.UTC)), min_size=2, max_size=2))
def test_texts_of_one_form_compare_as_times_do(form: TimeForm, moments: list[dt.datetime]) -> None:
    text, (stored, bound) = in_form(form, moments[0]), moments
    assert TimeForm.of(text) == form
    stored = dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)
    assert (text >= form.text(bound)) == (stored >= bound)
    assert (text < form.text(bound)) == (stored < bound)
    assert in_form(form, LATEST) < form.text(LATEST) or form.digits == 6


@pytest.mark.parametrize("stored", [None, 7, "2026-10-05", "2026-10-05 12:00", "2026-10-05 12:00:00.12", "2026-10-05 12:00:00+02:00",
                                    "2026-10-05 12:00:00.123456789", "٢026-10-05 12:00:00"])  # fmt: skip
def test_other_forms_do_not_sort_as_text(stored: object) -> None:
    assert TimeForm.of(stored) is None


def test_the_checks_in_c_agree_with_the_parser(tmp_path: Path) -> None:
    """Whatever SQLite takes for a time of a form is one for Python, and the other way round."""
    chance = random.Random(7)
    texts = [in_form(form, NOON + DAY * day + dt.timedelta(microseconds=chance.randrange(86_400_000_000)))
             for form in FORMS for day in range(-40, 400, 9)]  # fmt: skip
    edges = ["2026-10-05 23:59:59.999", "0001-01-01 00:00:00.000", "9999-12-31 23:59:59.999", "2024-02-29 00:00:00.000"]
    texts += edges + [text.replace(old, new, 1) for text in [*texts, *edges] for old, new in (
        ("-", "-9"), ("0", "٢"), (":", "."), ("2", " "), ("1", "Z"), ("-0", "-3"), ("-1", "-0"), ("+00", "+99"), ("Z", "z"), (" ", "  "),
        (".", "."), (".", ","), ("-1", "-1 "), ("T", "t"), ("00", "24"), ("00", "-0"))]  # fmt: skip
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'd.sqlite'}")
    time = StoredTime(sa.column("x", sa.DateTime()), "sqlite")
    with engine.begin() as connection:
        connection.connection.driver_connection.create_function("exporttools_utc_us", 1, _stored_us)  # type: ignore[union-attr]
        connection.exec_driver_sql("CREATE TABLE t (x DATETIME)")
        connection.exec_driver_sql("INSERT INTO t VALUES (?)", [(text,) for text in dict.fromkeys(texts)])
        table = sa.table("t", sa.column("x"))
        unreadable = set(
            connection.execute(sa.select(time.stored).select_from(table).where(time.is_unreadable(FORMS))).scalars()
        )
        assert unreadable == {text for text in texts if _stored_us(text) is None}
        for form in FORMS:
            of_form = (
                connection.execute(sa.select(time.stored).select_from(table).where(time.is_of([form]))).scalars().all()
            )
            assert [text for text in of_form if TimeForm.of(text) != form or text in unreadable] == []
            assert sorted(of_form) == sorted(
                of_form, key=lambda text: epoch_us(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC))
            )
            assert len(of_form) > 40
    engine.dispose()


@pytest.mark.parametrize(
    ("form", "index"),
    [
        *((form, "started_at") for form in [*FORMS, None]),
        *(
            (form, index)
            for form in (FORMS[6], None)
            for index in (None, "started_at, run_id", "tenant_id, started_at")
        ),
    ],
    ids=str,
)
def test_rows_and_their_order_are_those_of_the_times(tmp_path: Path, form: TimeForm | None, index: str | None) -> None:
    chance = random.Random(5)
    moments = {f"r{i}": NOON + dt.timedelta(seconds=chance.randrange(40)) for i in range(60)}
    rows = [
        run(run_id=name, started_at=in_form(form or FORMS[i % len(FORMS)], moment))
        for i, (name, moment) in enumerate(moments.items())
    ]
    unstarted = [run(run_id=f"u{i}", started_at=None) for i in range(5)]
    url = create_native(f"sqlite:///{tmp_path / 'd.sqlite'}", {"runs": rows + unstarted})
    if index is not None:
        run_sql(url, f"CREATE INDEX one ON runs ({index})")
    oldest = sorted(moments, key=lambda name: (moments[name], name))
    newest = oldest[::-1]
    last = [row["run_id"] for row in unstarted]
    for tenant in (None, "acme"):
        store = ExportBundleStore(url, tenant_id=tenant)
        assert [found.run_id for found in store.list_runs()] == newest + last[::-1]
        assert [found.run_id for found in store.list_runs(order="oldest")] == oldest + last
        assert [found.run_id for found in store.list_runs(limit=7)] == newest[:7]
        assert [found.run_id for found in store.list_runs(limit=62, order="oldest")] == oldest + last[:2]
        since, until = NOON + dt.timedelta(seconds=9, microseconds=1), NOON + dt.timedelta(seconds=30)
        expected = [name for name in newest if since <= moments[name] < until]
        assert [found.run_id for found in store.list_runs(since=since, until=until)] == expected
        assert [found.run_id for found in store.list_runs(since=since, until=until, agent_id="triage")] == expected
        assert len(store.list_runs(since=LATEST)) == 0
        with store.window_snapshot() as snapshot:
            counts = {found.number: found.runs for found in snapshot.grid_counts(10, tenant, None, None)}
        numbers = [epoch_us(moment) // 10_000_000 for moment in moments.values()]
        assert counts == {number: numbers.count(number) for number in numbers}


def plans_of(store: ExportBundleStore) -> list[str]:
    plans: list[str] = []

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "ORDER BY" in statement:
            cursor.execute("EXPLAIN QUERY PLAN " + statement, parameters)
            plans.append("\n".join(row[3] for row in cursor.fetchall()))

    sa.event.listen(store._reader.database.engine, "before_cursor_execute", explain)
    return plans


def test_an_index_serves_and_a_missing_one_is_named_once(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "exporttools")
    for tenant, statement in (
        (None, "CREATE INDEX runs_started_at ON runs (started_at)"),
        ("acme", "CREATE INDEX runs_tenant_id_started_at ON runs (tenant_id, started_at)"),
    ):
        run_sql(url, "DROP INDEX IF EXISTS runs_started_at")
        caplog.clear()
        store = ExportBundleStore(url, tenant_id=tenant)
        plans = plans_of(store)
        for _ in range(2):
            store.list_runs(limit=1)
            store.list_runs(**PERIOD)
        assert [record.getMessage() for record in caplog.records if "runs" in record.getMessage()] == [
            f"{store._reader.database.label}: lists by started_at read all of runs, which has no index for it. To add one: {statement}"
        ]
        assert not any("USING INDEX runs_" in plan for plan in plans)
        run_sql(url, statement)
        caplog.clear()
        store = ExportBundleStore(url, tenant_id=tenant)
        plans = plans_of(store)
        for options in ({"limit": 1}, {"limit": 1, "order": "oldest"}, PERIOD):
            store.list_runs(**options)
            assert f"USING INDEX {statement.split()[2]}" in plans[-1]
        assert caplog.records == []


@pytest.mark.parametrize("change", [
    "ALTER TABLE runs RENAME TO stored; CREATE VIEW runs AS SELECT * FROM stored",  # no index can be added to a view
    "UPDATE runs SET started_at = replace(started_at, ' ', 'T') WHERE run_id = 'r2'",  # none would serve
])  # fmt: skip
def test_no_index_is_named_that_would_not_serve(url: str, caplog: pytest.LogCaptureFixture, change: str) -> None:
    caplog.set_level(logging.INFO, "exporttools")
    run_sql(url, *change.split(";"))
    ExportBundleStore(url).list_runs(limit=1)
    assert caplog.records == []


@pytest.mark.parametrize("index", [
    "CREATE INDEX one ON runs (started_at) WHERE run_id > 'r'",
    "CREATE INDEX one ON runs (lower(started_at))",
    "CREATE INDEX one ON runs (started_at COLLATE NOCASE)",
    "CREATE INDEX one ON runs (run_id, started_at)",
])  # fmt: skip
def test_an_index_that_does_not_serve_is_none(url: str, caplog: pytest.LogCaptureFixture, index: str) -> None:
    caplog.set_level(logging.INFO, "exporttools")
    run_sql(url, index)
    ExportBundleStore(url).list_runs(limit=1)
    assert [record.getMessage().partition("To add one: ")[2] for record in caplog.records] == [
        "CREATE INDEX runs_started_at ON runs (started_at)"
    ]


def test_a_proof_is_remembered_until_the_data_change(url: str) -> None:
    store = ExportBundleStore(url)
    statements: list[str] = []
    sa.event.listen(store._reader.database.engine, "before_cursor_execute", lambda c, u, s, *_: statements.append(s))
    store.list_runs(limit=1)
    assert sum("GLOB" in statement for statement in statements) == 1
    statements.clear()
    store.list_runs(**PERIOD)
    store.list_runs(tenant_id="acme", agent_id="triage", limit=1)
    assert not any("GLOB" in statement for statement in statements)
    spoil(url, "trace_steps", "tokens", 5)
    store.list_runs(limit=1)
    assert sum("GLOB" in statement for statement in statements) == 1


def test_steps_that_are_read_whole_are_not_looked_through(url: str) -> None:
    store = ExportBundleStore(url)
    statements: list[str] = []
    sa.event.listen(store._reader.database.engine, "before_cursor_execute", lambda c, u, s, *_: statements.append(s))
    assert store.scan_trace_steps().read_all().num_rows == len([step(0), step(1), step(2)])
    assert not any("GLOB" in statement for statement in statements)
