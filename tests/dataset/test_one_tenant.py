"""A dataset opened for one tenant: the files and rows of that tenant, and no others by any way."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow.compute as pc
import pytest

from exporttools import ConfigError, open_dataset
from exporttools.dataset.storage import Storage
from tests.databases import run, step
from tests.dataset.handmade import HOSTILE_TENANTS, HandmadeDataset, exported


@pytest.mark.parametrize("tenant", ["a", "b"])
def test_all_that_it_shows_is_the_tenants(tmp_path: Path, storage: Storage, tenant: str) -> None:
    whole = exported(tmp_path, storage)
    dataset = open_dataset(storage, tenant_id=tenant)
    assert dataset.tenants == (tenant,)
    assert dict(dataset.rows) == {"incidents": int(tenant == "a"), "runs": 3, "traces": 3, "trace_steps": 9}
    assert sum(dataset.bytes.values()) == sum(file.bytes for file in dataset.part_files) > 0
    for table in dataset.tables:
        files = [file for file in whole.files(table) if f"/tenant_id={tenant}/" in file]
        assert dataset.files(table) == files
        rows = dataset.to_arrow(table).to_pylist()
        assert rows == [row for row in whole.to_arrow(table).to_pylist() if row["tenant_id"] == tenant]
        assert dataset.sql(f"select count(*) from {table}").fetchall() == [(len(rows),)]
    failed = dataset.to_arrow("trace_steps", columns=["status"], filter=pc.field("status") == "error")
    assert failed.num_rows == 6
    assert dataset.sql("select distinct tenant_id from ledger").fetchall() == [(tenant,)]
    assert repr(dataset) == repr(whole).partition("manifest 2")[0] + (
        f"manifest 2 · tenant '{tenant}' · {int(tenant == 'a')} incidents, 3 runs, 3 traces, 9 trace_steps>"
    )
    assert [name for name, _ in dataset.facts] == ["time", "tenants"]
    other = next(file for file in whole.files("runs") if file not in dataset.files("runs"))
    for query in (f"from read_parquet('{other}')", f"from '{other}'", "set enable_external_access = true"):
        with pytest.raises(duckdb.Error, match=r"disabled by configuration|configuration has been locked"):
            dataset.sql(query).fetchall()


def test_a_row_in_another_tenants_file_is_shown_to_neither(handmade: HandmadeDataset) -> None:
    misplaced = handmade.part_file("runs", run(tenant_id="b"), tenant="a")
    handmade.commit(0, [misplaced], hours=24)
    for tenant in "ab":
        dataset = open_dataset(handmade.place, tenant_id=tenant)
        assert dataset.to_arrow("runs").num_rows == 0
        assert dataset.sql("from runs").fetchall() == []


@pytest.mark.parametrize("tenant", [*HOSTILE_TENANTS, "nobody"])
def test_names_of_tenants_are_texts(tmp_path: Path, tenant: str) -> None:
    handmade = HandmadeDataset(tmp_path / "with [glob] * and 'quote")
    handmade.commit(0, [handmade.part_file("runs", run(tenant_id=name)) for name in HOSTILE_TENANTS], hours=24)
    dataset = open_dataset(handmade.place, tenant_id=tenant)
    expected = [(tenant,)] if tenant in HOSTILE_TENANTS else []
    assert dataset.sql("select tenant_id from runs").fetchall() == expected
    assert [(row["tenant_id"],) for row in dataset.to_arrow("runs").to_pylist()] == expected


def test_columns_that_only_other_tenants_have_are_null(handmade: HandmadeDataset) -> None:
    handmade.commit(0, [handmade.part_file("trace_steps", step(tenant_id="a"))])
    handmade.commit(
        1, [handmade.part_file("trace_steps", step(tenant_id="b", model="m"), model="string")], model="string"
    )
    dataset = open_dataset(handmade.place, tenant_id="a")
    assert dataset.sql("select model from trace_steps").fetchall() == [(None,)]


def test_it_is_verified_and_compacted_whole(tmp_path: Path) -> None:
    exported(tmp_path)
    dataset = open_dataset(tmp_path / "d", tenant_id="a")
    for verb, call in (("verified", dataset.verify), ("compacted", dataset.compact)):
        with pytest.raises(
            ConfigError,
            match=f"^a dataset is {verb} as a whole, with the files of all tenants; open it without a tenant$",
        ):
            call()
