"""Datasets made by hand, part by part: names and rows that no export of the sample has, and manifests that lie."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from exporttools import (
    ConfigError,
    DatasetUnreadable,
    ExportBundleStore,
    InconsistentData,
    export_dataset,
    open_dataset,
)
from exporttools.dataset.committing import Committer
from exporttools.dataset.manifest import UNDATED, PartFile, first_manifest, new_window
from exporttools.dataset.part_files import new_part_file
from exporttools.dataset.storage import open_storage
from exporttools.records.schema import RECORD_TYPES, arrow_schema
from tests.databases import create_native, incident, run, step, trace

HOUR = dt.timedelta(hours=1)
MIDNIGHT = dt.datetime(2026, 10, 5, tzinfo=dt.UTC)
DAY = "2026-10-05"
HOSTILE_TENANTS = ("a/b=c%", "123", "' OR 1", "..", 'q"\\', "ünï", "<b>x</b>")


class Made:
    """A dataset that is being made by hand."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.storage = open_storage(place, create=True)
        self.committer = Committer(self.storage, first_manifest(None))

    def part(
        self, table: str, *rows: Mapping[str, Any], of_day: str = DAY, tenant: str | None = None, **extra: Any
    ) -> PartFile:
        """One part; `extra` are the types of extra columns."""
        record_type = RECORD_TYPES[table]
        columns = record_type.stored_columns([record_type.extra_column(*item) for item in extra.items()])
        batch = pa.RecordBatch.from_pylist(
            [{column.name: row.get(column.name) for column in columns} for row in rows], schema=arrow_schema(columns)
        )
        with new_part_file(
            self.storage, RECORD_TYPES[table], columns, tenant or rows[0]["tenant_id"], of_day
        ) as writer:
            writer.write(batch)
        return writer.part

    def commit(
        self, hour: int, parts: Sequence[PartFile], *, hours: int = 1, settled: bool = True, **extra: Any
    ) -> Any:
        """One window; `extra` are the types of the steps' extra columns. Gives the dataset."""
        window = new_window(
            self.storage, MIDNIGHT + hour * HOUR, MIDNIGHT + (hour + hours) * HOUR, parts,
            read_at="2026-10-07T00:00:00.000000Z", open_runs=0, undated_runs=0, settled=settled,
            extra_columns={"trace_steps": extra},
        )  # fmt: skip
        self.committer.commit(window)
        return open_dataset(self.place)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "d")


def found(dataset: Any) -> list[tuple[str, str]]:
    return [(finding.code, finding.path) for finding in dataset.verify().findings]


# --- reading


def test_a_dataset_without_windows(made: Made) -> None:
    dataset = open_dataset(made.place)
    assert dataset.sql("select count(*), min(day) from ledger").fetchall() == [(0, None)]
    assert [dataset.to_arrow(table).schema for table in dataset.tables] == [dataset.schema(t) for t in dataset.tables]
    assert (dataset.time_range, dataset.tenants, dataset.files("runs")) == (None, (), [])
    assert "time: none" in dataset._repr_html_()
    assert dataset.verify().ok


def test_tenants_with_any_name_are_texts_and_apart(made: Made) -> None:
    parts = []
    for tenant in HOSTILE_TENANTS:
        parts.append(made.part("runs", run(tenant_id=tenant)))
        parts.append(made.part("traces", trace(tenant_id=tenant)))
        parts.append(made.part("trace_steps", step(0, tenant_id=tenant, tokens=len(tenant))))
    dataset = made.commit(0, parts, hours=24)
    assert dataset.tenants == tuple(sorted(HOSTILE_TENANTS))
    # The ids are the same everywhere: joined by them alone, each step would have seven runs.
    rows = dataset.sql("select tenant_id, run_id, agent_id, day, tokens from ledger order by 1").fetchall()
    assert rows == [(tenant, "r1", "triage", DAY, len(tenant)) for tenant in sorted(HOSTILE_TENANTS)]
    for tenant in HOSTILE_TENANTS:
        assert dataset.to_arrow("runs", filter=pc.field("tenant_id") == tenant).num_rows == 1
    assert dataset.verify().findings == ()


def test_no_step_is_lost_where_its_run_or_trace_is(made: Made) -> None:
    dataset = made.commit(
        0,
        [
            made.part("runs", run(run_id="r1")),
            made.part("traces", trace(trace_id="t1"), trace(trace_id="t2", run_id="gone")),
            made.part("trace_steps", *(step(0, trace_id=f"t{i}") for i in (1, 2, 3))),
        ],
    )
    rows = dataset.sql("select trace_id, run_id, termination_reason from ledger order by 1").fetchall()
    assert rows == [("t1", "r1", "budget_exceeded"), ("t2", "gone", None), ("t3", None, None)]


def test_runs_without_a_day_are_read_beside_those_with_one(made: Made) -> None:
    dataset = made.commit(
        0, [made.part("runs", run()), made.part("runs", run(run_id="r2", started_at=None), of_day=UNDATED)]
    )
    assert dataset.sql("select run_id, day from runs order by 1").fetchall() == [("r1", DAY), ("r2", UNDATED)]
    assert dataset.sql("select typeof(day) from runs limit 1").fetchall() == [("VARCHAR",)]
    assert dataset.verify().findings == ()


def test_times_are_utc_whatever_the_machine_thinks(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    dataset = made.commit(0, [made.part("runs", run(started_at=MIDNIGHT))])
    assert dataset.sql("select started_at::text, started_at::date::text from runs").fetchall() == [
        ("2026-10-05 00:00:00+00", DAY)
    ]


def test_a_mistake_in_a_query_is_duckdbs_own_error(made: Made) -> None:
    dataset = open_dataset(made.place)
    with pytest.raises(duckdb.ParserException, match="syntax error"):
        dataset.sql("selec 1").fetchall()
    with pytest.raises(duckdb.CatalogException, match="steps does not exist"):
        dataset.sql("select * from steps")


def test_a_day_asked_for_reads_its_files_alone(made: Made) -> None:
    for day in range(4):
        at = MIDNIGHT + 24 * day * HOUR
        part = made.part("runs", run(run_id=f"r{day}", started_at=at), of_day=at.date().isoformat())
        dataset = made.commit(24 * day, [part], hours=24)
    plan = dataset.sql("explain analyze select run_id from runs where day = '2026-10-06'").fetchall()[0][1]
    assert "Total Files Read: 1 " in plan


@pytest.mark.parametrize("name", ["[x]", "x*y", "x?y", 'it\'s "x"', "50%20off", "a\\b", "tenant_id=7", "day=1"])
def test_a_dataset_in_a_directory_with_any_name(tmp_path: Path, name: str) -> None:
    """As patterns, three of the names are those of the other two directories, whose files have the same names."""
    made = Made(tmp_path / name)
    for hour in (0, 1):
        part = made.part("runs", run(run_id=f"r{hour}"))
        dataset = made.commit(hour, [part])
    for other in ("x", "xzy"):
        shutil.copytree(tmp_path / name, tmp_path / other)
    paths = dataset.sql("select count(*), min(day), min(tenant_id) from runs").fetchall()
    assert paths == [(2, DAY, "acme")]
    assert dataset.to_arrow("runs").num_rows == 2
    shutil.rmtree(tmp_path / "x")
    shutil.rmtree(tmp_path / "xzy")
    merged = dataset.compact()
    assert (merged.sql("select count(*) from runs").fetchall(), merged.verify().findings) == ([(2,)], ())


# --- extra columns


def test_an_extra_column_that_no_file_has_is_null(made: Made) -> None:
    made.commit(0, [made.part("runs", run())], model="string")
    dataset = made.commit(1, [made.part("traces", trace()), made.part("trace_steps", step(0))])
    assert dataset.schema("trace_steps").names[-1] == "model"
    assert dataset.to_arrow("trace_steps", columns=["model"]).to_pylist() == [{"model": None}]
    assert dataset.sql("select model, typeof(model) from ledger").fetchall() == [(None, "VARCHAR")]


def test_an_extra_column_of_two_types_is_a_text_and_its_windows_stay_apart(made: Made) -> None:
    made.commit(0, [made.part("trace_steps", step(0, trace_id="a", score=3), score="int64")], score="int64")
    dataset = made.commit(
        1, [made.part("trace_steps", step(0, trace_id="b", score="x"), score="string")], score="string"
    )
    assert dataset.schema("trace_steps").field("score").type == pa.string()
    assert dataset.to_arrow("trace_steps")["score"].to_pylist() == ["3", "x"]
    assert dataset.sql("select score from trace_steps order by trace_id").fetchall() == [("3",), ("x",)]
    assert dataset.compact() is dataset


@pytest.mark.parametrize("name", ["STATUS", "day", "Day", "Trace_Id"])
def test_columns_that_sql_cannot_tell_apart_are_refused_there_alone(made: Made, name: str) -> None:
    """DuckDB takes no notice of case: it would answer for one column with the other's values, and merge them so."""
    for hour in (0, 1):
        part = made.part("trace_steps", step(0, trace_id=f"t{hour}", **{name: "mine"}), **{name: "string"})
        dataset = made.commit(hour, [part], **{name: "string"})
    with pytest.raises(
        ConfigError, match=f"trace_steps has a column '{name}' that SQL cannot tell from '{name.lower()}'"
    ):
        dataset.sql("select 1")
    merged = dataset.compact()
    assert len(merged.files("trace_steps")) == 1
    assert merged.to_arrow("trace_steps", columns=[name, "status"]).to_pylist() == [{name: "mine", "status": "ok"}] * 2


@pytest.mark.parametrize("name", ["filename", 'we"ird', "it's", "agent_id", "c0"])
def test_extra_columns_with_any_other_name(made: Made, name: str) -> None:
    for hour in (0, 1):
        part = made.part("trace_steps", step(0, trace_id=f"t{hour}", **{name: "mine"}), **{name: "string"})
        dataset = made.commit(hour, [part], **{name: "string"})
    for each in (dataset, dataset.compact()):
        assert each.sql("from trace_steps").arrow().read_all()[name].to_pylist() == ["mine"] * 2
        assert each.to_arrow("trace_steps")[name].to_pylist() == ["mine"] * 2
        assert each.sql("select day, status from ledger").fetchall() == [(DAY, "ok")] * 2
        assert each.verify().findings == ()


# --- what was, and what is shown


def test_as_of_an_earlier_manifest(made: Made) -> None:
    first = made.commit(0, [made.part("runs", run(goal="before"))])
    second = made.commit(0, [made.part("runs", run(goal="after"))])
    assert second.to_arrow("runs", columns=["goal"]).to_pylist() == [{"goal": "after"}]
    earlier = open_dataset(made.place, as_of=first.manifest.number)
    assert earlier.to_arrow("runs", columns=["goal"]).to_pylist() == [{"goal": "before"}]
    assert (earlier.content_digest, earlier.manifest.number) == (first.content_digest, 2)
    assert earlier.content_digest != second.content_digest
    for dataset in (earlier, second):
        assert (dataset.verify().findings, dataset.verify().unlisted) == ((), 1)


def test_what_is_shown_is_inert(tmp_path: Path) -> None:
    made = Made(tmp_path / "<img src=x onerror=alert(1)>\x1b[31m")
    parts = [made.part("runs", run(tenant_id=f"<script>{i}\u202e</script>")) for i in range(10)]
    dataset = made.commit(0, parts)
    html = dataset._repr_html_()
    assert "tenants: 10: &lt;script&gt;0�&lt;/script&gt;, " in html
    assert "7�&lt;/script&gt; and 2 more" in html
    Path(dataset.files("runs")[0]).unlink()
    verification = dataset.verify()
    for text in (html, verification._repr_html_()):
        assert "<script" not in text
        assert "<img" not in text
    for text in (repr(dataset), str(verification), html, verification._repr_html_()):
        assert "\x1b" not in text
        assert "\u202e" not in text


def test_many_findings_are_cut_short_in_notebooks_only(made: Made) -> None:
    dataset = made.commit(0, [made.part("runs", run(run_id=f"r{i}", tenant_id=f"t{i}")) for i in range(103)])
    shutil.rmtree(made.place / "runs")
    verification = dataset.verify()
    assert {finding.code for finding in verification.findings} == {"missing"}
    assert str(verification).count("missing: ") == 103
    assert verification._repr_html_().count("<li>missing: ") == 100
    assert "<li>… 3 more</li>" in verification._repr_html_()
    assert json.loads(json.dumps(verification.to_dict()))["ok"] is False
    assert not verification


# --- verifying


def test_all_that_is_wrong_is_found_at_once(made: Made) -> None:
    parts = [made.part("runs", run(run_id=f"r{i}", tenant_id=f"t{i}")) for i in range(4)]
    dataset = made.commit(0, parts)
    missing, flipped, cut, sound = (made.place / part.path for part in parts)
    missing.unlink()
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"?")
    cut.write_bytes(cut.read_bytes()[:-9])
    verification = dataset.verify()
    assert [(f.code, f.path) for f in verification.findings] == [
        ("missing", parts[0].path), ("changed", parts[1].path), ("changed", parts[2].path)
    ]  # fmt: skip
    assert sound.exists()
    assert verification.content_digest == dataset.content_digest  # as the manifest says


def test_a_directory_in_a_files_place_is_no_file(made: Made) -> None:
    part = made.part("runs", run())
    dataset = made.commit(0, [part])
    (made.place / part.path).unlink()
    (made.place / part.path).mkdir()
    assert found(dataset) == [("missing", part.path)]


def test_a_file_of_another_tenant_is_found(made: Made) -> None:
    part = made.part("runs", run(tenant_id="rival"), tenant="acme")
    dataset = made.commit(0, [part])
    assert [str(finding) for finding in dataset.verify().findings] == [
        f"tenant: {part.path}: expected rows of 'acme' only; found 1 of others"
    ]


@pytest.mark.parametrize(
    ("table", "row", "day"),
    [
        ("runs", run(started_at=MIDNIGHT - dt.timedelta(microseconds=1)), DAY),
        ("runs", run(started_at=MIDNIGHT + 24 * HOUR), DAY),
        ("runs", run(started_at=None), DAY),
        ("runs", run(started_at=MIDNIGHT), UNDATED),
        ("incidents", incident(created_at=MIDNIGHT + 24 * HOUR), DAY),
    ],
)
def test_a_row_of_another_day_is_found(made: Made, table: str, row: Any, day: str) -> None:
    part = made.part(table, row, of_day=day)
    assert found(made.commit(0, [part])) == [("day", part.path)]


def test_a_part_listed_twice_is_found(made: Made) -> None:
    part = made.part("runs", run())
    made.commit(0, [part])
    dataset = made.commit(1, [part])
    assert dataset.to_arrow("runs").num_rows == 2  # which is why it matters
    assert found(dataset) == [("duplicate", part.path)]


@pytest.mark.parametrize(
    ("table", "one", "other"),
    [
        ("runs", [run()], [run(goal="again")]),
        ("incidents", [incident()], [incident(severity="low")]),
        ("traces", [trace()], [trace(violation_step_index=None)]),
        ("trace_steps", [step(0), step(1)], [step(2)]),  # a trace lies in one file with all its steps
    ],
)
def test_a_key_in_two_files_is_found_but_not_of_two_tenants(made: Made, table: str, one: Any, other: Any) -> None:
    parts = [made.part(table, *rows) for rows in (one, other)]
    foreign = made.part(table, *(row | {"tenant_id": "rival"} for row in one))
    made.commit(0, [parts[0], foreign])
    dataset = made.commit(1, parts[1:])
    (finding,) = dataset.verify().findings
    assert (finding.code, {finding.path, finding.found.removeprefix("also in ")}) == (
        "duplicate",
        {p.path for p in parts},
    )
    assert dataset.verify().findings == (finding,)


def test_a_file_with_other_columns_than_its_window_says_is_found(made: Made) -> None:
    part = made.part("trace_steps", step(0, model="m"), model="string")
    (finding,) = made.commit(0, [part]).verify().findings
    assert (finding.code, finding.path) == ("schema", part.path)
    assert finding.found == finding.expected + ", model: string"


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("rows", 2, "content"),
        ("content_digest", "0" * 64, "content"),
        ("bytes", 1, "changed"),
        ("sha256", "0" * 64, "missing"),
    ],
)
def test_a_parts_file_that_lies_is_found(made: Made, field: str, value: Any, code: str) -> None:
    part = made.part("runs", run())
    lie = replace(part, **{field: value})
    if field == "sha256":
        lie = replace(lie, path=part.path.replace(part.sha256[:32], "0" * 32))
    assert found(made.commit(0, [lie])) == [(code, lie.path)]


def forge(made: Made, **changes: Any) -> Any:
    """The next manifest, whose window says something else than its parts."""
    window = replace(made.committer.manifest.windows[0], **changes)
    manifest = made.committer.manifest.child("window", "w", [window])
    made.storage.create(manifest.path, manifest.encoded())
    return open_dataset(made.place)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rows", {"incidents": 0, "runs": 2, "traces": 0, "trace_steps": 0}),
        ("bytes", {"incidents": 0, "runs": 2, "traces": 0, "trace_steps": 0}),
    ],
)
def test_a_window_that_is_not_the_sum_of_its_parts_is_found(made: Made, field: str, value: Any) -> None:
    made.commit(0, [made.part("runs", run())])
    dataset = forge(made, **{field: value})
    assert found(dataset) == [("rows", dataset.manifest.windows[0].parts_path)]


def test_a_window_without_its_parts_file_is_found_beside_other_faults(made: Made) -> None:
    parts = [made.part("runs", run(run_id=f"r{i}")) for i in (0, 1)]
    for hour, part in enumerate(parts):
        dataset = made.commit(hour, [part])
    gone = made.place / dataset.manifest.windows[0].parts_path
    gone.write_bytes(gone.read_bytes() + b" ")
    (made.place / parts[1].path).unlink()
    assert found(dataset) == [("malformed", dataset.manifest.windows[0].parts_path), ("missing", parts[1].path)]
    with pytest.raises(DatasetUnreadable, match=r"its SHA-256 is [0-9a-f]{64}; the manifest says"):
        open_dataset(made.place).files("runs")


@pytest.mark.parametrize(
    "data", [b"[]", b"{}", b"", b"\xff", b"[" * 100_000, b'{"parent_sha256": 7}', b'{"parent_sha256": "x"}']
)
def test_a_manifest_in_the_chain_that_is_none_is_found(made: Made, data: bytes) -> None:
    """Its SHA-256 is as the next one says."""
    manifest = replace(made.committer.manifest.child("start", "w", ()), parent_sha256=hashlib.sha256(data).hexdigest())
    (made.place / "_manifest" / "000001.json").write_bytes(data)
    made.storage.create(manifest.path, manifest.encoded())
    (finding,) = open_dataset(made.place).verify().findings
    assert (finding.code, finding.path) == ("chain", "_manifest/000001.json")


# --- merging


def test_merged_files_are_in_the_order_of_keys_and_of_the_columns_of_all(made: Made) -> None:
    """Texts by code points, whatever their script; of two tenants, one has no file with the later column."""
    ids = ["\U0001f600", "Z", "a", "é", "a\x00", "\uffee", "aa", ""]
    for hour in range(4):
        rows = [
            step(i, trace_id=key, model="m") for key in sorted(ids[2 * hour : 2 * hour + 2]) for i in range(hour + 1)
        ]
        extra = {"model": "string"} if hour > 1 else {}
        parts = [made.part("trace_steps", *rows, **extra)]
        if hour == 0:
            parts.append(made.part("trace_steps", step(0, tenant_id="quiet", trace_id="q")))
        dataset = made.commit(hour, parts, **extra)
    before = sorted(
        dataset.to_arrow("trace_steps").to_pylist(), key=lambda r: (r["tenant_id"], r["trace_id"], r["step_index"])
    )
    merged = dataset.compact()
    assert merged.to_arrow("trace_steps").to_pylist() == before
    assert len(merged.files("trace_steps")) == 2
    assert merged.verify().findings == ()


def test_what_nobody_looked_for_is_not_covered_by_a_merged_window(tmp_path: Path) -> None:
    """Two exports left an interval between them. In one window with it, no later export would read it."""
    runs = [run(run_id=f"r{h}", started_at=MIDNIGHT + h * HOUR, completed_at=MIDNIGHT + h * HOUR) for h in (1, 7, 11)]
    url = create_native(f"sqlite:///{tmp_path / 'db.sqlite'}", {"runs": runs})

    def export(**options: Any) -> Any:
        export_dataset(ExportBundleStore(url), tmp_path / "d", window="1h", progress=False, **options)
        return open_dataset(tmp_path / "d")

    export(until=MIDNIGHT + 5 * HOUR)
    export(since=MIDNIGHT + 10 * HOUR).compact()
    assert export().to_arrow("runs")["run_id"].to_pylist() == ["r1", "r7", "r11"]


@pytest.mark.parametrize("window", ["2h", "1d"])
def test_windows_are_merged_within_the_length_given(made: Made, window: str) -> None:
    for hour in (22, 23, 24, 25, 27):
        day = (MIDNIGHT + hour * HOUR).date().isoformat()
        part = made.part("runs", run(run_id=f"r{hour}", started_at=MIDNIGHT + hour * HOUR), of_day=day)
        dataset = made.commit(hour, [part])
    hours = [
        tuple((dt.datetime.fromisoformat(end) - MIDNIGHT) // HOUR for end in (merged.since, merged.until))
        for merged in dataset.compact(window=window).manifest.windows
    ]
    assert hours == [(22, 24), (24, 26), (27, 28)]


@pytest.mark.parametrize("damage", ["flipped", "swapped", "gone"])
def test_damage_is_not_merged_into_a_file_that_is_in_order(made: Made, damage: str) -> None:
    parts = [made.part("runs", run(run_id=f"r{hour}")) for hour in (0, 1)]
    other = made.part("runs", run(run_id="r9"))
    for hour, part in enumerate(parts):
        dataset = made.commit(hour, [part])
    path, data = made.place / parts[0].path, (made.place / parts[0].path).read_bytes()
    path.unlink()
    if damage == "flipped":
        path.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
    elif damage == "swapped":
        (made.place / other.path).rename(path)
    with pytest.raises(
        DatasetUnreadable,
        match=rf"{parts[0].path} cannot be merged: expected SHA-256 {parts[0].sha256}; found .*Nothing was merged",
    ):
        dataset.compact()
    assert open_dataset(made.place).manifest.windows == dataset.manifest.windows


def test_rows_that_are_twice_are_not_merged(made: Made) -> None:
    for hour in (0, 1):
        dataset = made.commit(hour, [made.part("runs", run(goal=str(hour)))])
    with pytest.raises(InconsistentData, match="run_id='r1' comes after run_id='r1'; expected strictly ascending keys"):
        dataset.compact()
    assert open_dataset(made.place).manifest.windows == dataset.manifest.windows


@pytest.mark.parametrize("window", ["", "1", "7h", "0d", "1y"])
def test_lengths_that_are_none(made: Made, window: str) -> None:
    with pytest.raises(ConfigError, match="window is"):
        open_dataset(made.place).compact(window=window)
