"""Datasets as users read them: what they say of themselves, as Arrow, as of earlier manifests."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from exporttools import (
    ConfigError,
    DatasetUnreadable,
    ExportBundleStore,
    export_dataset,
    open_dataset,
)
from tests.databases import NOON, create_native, one_of_each, run, step, trace
from tests.dataset.handmade import (
    DAY,
    HOSTILE_TENANTS,
    HOUR,
    HandmadeDataset,
    exported,
)
from tests.records.columns import STORED_COLUMNS, shown


def test_what_a_dataset_says_of_itself(tmp_path: Path) -> None:
    dataset = exported(tmp_path)
    assert dataset.tables == ("incidents", "runs", "traces", "trace_steps")
    assert dict(dataset.rows) == {"incidents": 1, "runs": 6, "traces": 6, "trace_steps": 18}
    assert dataset.tenants == ("a", "b")
    assert dataset.time_range == (NOON, NOON + 5 * HOUR)
    assert [len(dataset.files(table)) for table in dataset.tables] == [1, 2, 2, 2]
    assert repr(dataset) == f"<Dataset {tmp_path / 'd'} · manifest 2 · 1 incidents, 6 runs, 6 traces, 18 trace_steps>"
    html = dataset._repr_html_()
    assert "<td style='text-align:left'>trace_steps</td><td>18</td><td>2</td>" in html
    assert "tenants: 2: a, b" in html


def test_arrow_columns_and_filters(tmp_path: Path) -> None:
    dataset = exported(tmp_path)
    table = dataset.to_arrow("trace_steps", columns=["status", "trace_id"], filter=pc.field("status") == "error")
    assert (table.column_names, table.num_rows) == (["status", "trace_id"], 12)
    assert dataset.to_arrow("runs").schema.equals(dataset.schema("runs"))
    reader = dataset.scan("runs", columns=["run_id"])
    assert isinstance(reader, pa.RecordBatchReader)
    assert reader.read_all().num_rows == 6
    with pytest.raises(ConfigError, match="runs has no column 'cents'; its columns are run_id, tenant_id, agent_id"):
        dataset.to_arrow("runs", columns=["cents"])
    with pytest.raises(
        ConfigError, match="there is no table 'steps'; the tables are incidents, runs, traces, trace_steps"
    ):
        dataset.to_arrow("steps")


def test_what_is_not_a_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnreadable, match="no manifest found; expected a dataset that export_dataset wrote"):
        open_dataset(tmp_path)
    exported(tmp_path)
    with pytest.raises(DatasetUnreadable, match="there is no manifest 7; the manifests are 1 to 2"):
        open_dataset(tmp_path / "d", as_of=7)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file is a file; expected a directory, or a path that does not exist yet"):
        open_dataset(tmp_path / "file")
    expected = r"; expected a directory, file:///directory, s3://bucket/prefix"
    for place, fault in (
        ("http://host/x", "a dataset needs a store that can create a file only if it is absent; http:// cannot"),
        ("memory://x", "a dataset needs a store that can create a file only if it is absent; memory:// cannot"),
        ("", "the destination is ''"),
    ):
        with pytest.raises(ConfigError, match=fault + expected):
            open_dataset(place)
    assert open_dataset(f"file://{tmp_path / 'd'}").rows["runs"] == 6


def test_a_dataset_without_windows(handmade: HandmadeDataset) -> None:
    dataset = open_dataset(handmade.place)
    assert dataset.sql("select count(*), min(day) from ledger").fetchall() == [(0, None)]
    for schema_of in (dataset.schema, lambda table: dataset.to_arrow(table).schema):
        assert {table: shown(schema_of(table)) for table in dataset.tables} == STORED_COLUMNS
    assert (dataset.time_range, dataset.tenants, dataset.files("runs")) == (None, (), [])
    assert "time: none" in dataset._repr_html_()
    assert dataset.verify().ok


def test_tenants_with_any_name_are_texts_and_apart(handmade: HandmadeDataset) -> None:
    part_files = []
    for tenant in HOSTILE_TENANTS:
        part_files.append(handmade.part_file("runs", run(tenant_id=tenant)))
        part_files.append(handmade.part_file("traces", trace(tenant_id=tenant)))
        part_files.append(handmade.part_file("trace_steps", step(0, tenant_id=tenant, tokens=len(tenant))))
    dataset = handmade.commit(0, part_files, hours=24)
    assert dataset.tenants == tuple(sorted(HOSTILE_TENANTS))
    # The ids are the same everywhere: joined by them alone, each step would have seven runs.
    rows = dataset.sql("select tenant_id, run_id, agent_id, day, tokens from ledger order by 1").fetchall()
    assert rows == [(tenant, "r1", "triage", DAY, len(tenant)) for tenant in sorted(HOSTILE_TENANTS)]
    for tenant in HOSTILE_TENANTS:
        assert dataset.to_arrow("runs", filter=pc.field("tenant_id") == tenant).num_rows == 1
    assert dataset.verify().findings == ()


def test_files_with_and_without_extra_columns_are_one_table(tmp_path: Path) -> None:
    for name, extra in (("one", {}), ("two", {"model": "string"})):
        rows = one_of_each() if name == "one" else {
            "runs": [run(run_id="r2", started_at=NOON + 24 * HOUR)], "traces": [trace(trace_id="t2", run_id="r2")],
            "trace_steps": [step(0, trace_id="t2", model="gpt")],
        }  # fmt: skip
        url = create_native(f"sqlite:///{tmp_path / name}.sqlite", rows, extra=extra)
        options = {} if name == "one" else {"since": NOON + 12 * HOUR}
        export_dataset(ExportBundleStore(url), tmp_path / "d", progress=False, **options)
    dataset = open_dataset(tmp_path / "d")
    assert dataset.to_arrow("trace_steps")["model"].to_pylist() == [None, None, None, "gpt"]
    assert dataset.sql("select model from ledger order by trace_id, step_index").fetchall() == [(None,)] * 3 + [
        ("gpt",)
    ]
    assert dataset.verify().findings == ()


def test_an_extra_column_that_no_file_has_is_null(handmade: HandmadeDataset) -> None:
    handmade.commit(0, [handmade.part_file("runs", run())], model="string")
    dataset = handmade.commit(1, [handmade.part_file("traces", trace()), handmade.part_file("trace_steps", step(0))])
    assert dataset.schema("trace_steps").names[-1] == "model"
    assert dataset.to_arrow("trace_steps", columns=["model"]).to_pylist() == [{"model": None}]
    assert dataset.sql("select model, typeof(model) from ledger").fetchall() == [(None, "VARCHAR")]


def test_an_extra_column_of_two_types_is_a_text_and_its_windows_stay_apart(handmade: HandmadeDataset) -> None:
    handmade.commit(
        0, [handmade.part_file("trace_steps", step(0, trace_id="a", score=3), score="int64")], score="int64"
    )
    dataset = handmade.commit(
        1, [handmade.part_file("trace_steps", step(0, trace_id="b", score="x"), score="string")], score="string"
    )
    assert dataset.schema("trace_steps").field("score").type == pa.string()
    assert dataset.to_arrow("trace_steps")["score"].to_pylist() == ["3", "x"]
    assert dataset.sql("select score from trace_steps order by trace_id").fetchall() == [("3",), ("x",)]
    assert dataset.compact() is dataset


@pytest.mark.parametrize("name", ["filename", 'we"ird', "it's", "agent_id", "c0"])
def test_extra_columns_with_any_other_name(handmade: HandmadeDataset, name: str) -> None:
    for hour in (0, 1):
        part_file = handmade.part_file(
            "trace_steps", step(0, trace_id=f"t{hour}", **{name: "mine"}), **{name: "string"}
        )
        dataset = handmade.commit(hour, [part_file], **{name: "string"})
    for each in (dataset, dataset.compact()):
        assert each.sql("from trace_steps").arrow().read_all()[name].to_pylist() == ["mine"] * 2
        assert each.to_arrow("trace_steps")[name].to_pylist() == ["mine"] * 2
        assert each.sql("select day, status from ledger").fetchall() == [(DAY, "ok")] * 2
        assert each.verify().findings == ()


def test_as_of_an_earlier_manifest(handmade: HandmadeDataset) -> None:
    first = handmade.commit(0, [handmade.part_file("runs", run(goal="before"))])
    second = handmade.commit(0, [handmade.part_file("runs", run(goal="after"))])
    assert second.to_arrow("runs", columns=["goal"]).to_pylist() == [{"goal": "after"}]
    earlier = open_dataset(handmade.place, as_of=first.manifest.number)
    assert earlier.to_arrow("runs", columns=["goal"]).to_pylist() == [{"goal": "before"}]
    assert (earlier.content_digest, earlier.manifest.number) == (first.content_digest, 2)
    assert earlier.content_digest != second.content_digest
    for dataset in (earlier, second):
        assert (dataset.verify().findings, dataset.verify().unlisted) == ((), 1)


def test_what_is_shown_is_inert(tmp_path: Path) -> None:
    handmade = HandmadeDataset(tmp_path / "<img src=x onerror=alert(1)>\x1b[31m")
    part_files = [handmade.part_file("runs", run(tenant_id=f"<script>{i}\u202e</script>")) for i in range(10)]
    dataset = handmade.commit(0, part_files)
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
