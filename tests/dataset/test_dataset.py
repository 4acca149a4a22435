"""Datasets as they are read, verified and merged; where they may lie."""

from __future__ import annotations

import datetime as dt
import json
import os
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from exporttools import (
    ConfigError,
    DatasetError,
    DatasetUnreadable,
    DestinationConflict,
    ExportBundleStore,
    export_dataset,
    open_dataset,
)
from exporttools.dataset.storage import LocalStorage, ObjectStorage, Storage, open_storage
from tests.databases import NOON, create_native, incident, one_of_each, run, step, trace
from tests.s3 import s3_server

HOUR = dt.timedelta(hours=1)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return open_storage(tmp_path / "place", create=True)
    request.getfixturevalue("s3")
    return open_storage(f"s3://fleet/{tmp_path.name}")


def hourly(tmp_path: Path) -> str:
    """A database of six runs, an hour after each other, of two tenants."""
    runs = [
        run(run_id=f"r{i}", tenant_id="ab"[i % 2], started_at=NOON + i * HOUR, completed_at=NOON + i * HOUR)
        for i in range(6)
    ]
    return create_native(
        f"sqlite:///{tmp_path / 'db.sqlite'}",
        {
            "incidents": [incident(tenant_id="a")],
            "runs": runs,
            "traces": [trace(trace_id=f"t{9 - i}", run_id=f"r{i}", tenant_id="ab"[i % 2]) for i in range(6)],
            "trace_steps": [
                step(j, trace_id=f"t{9 - i}", tenant_id="ab"[i % 2], status="error" if j else "ok")
                for i in range(6)
                for j in range(3)
            ],
        },
    )


def exported(tmp_path: Path, destination: Any = None, **options: Any) -> Any:
    place = tmp_path / "d" if destination is None else destination
    url = hourly(tmp_path) if not (tmp_path / "db.sqlite").exists() else f"sqlite:///{tmp_path / 'db.sqlite'}"
    export_dataset(ExportBundleStore(url), place, progress=False, **options)
    return open_dataset(place)


# --- reading


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
    with pytest.raises(ConfigError, match="runs has no column 'cents'; there are run_id, tenant_id, agent_id"):
        dataset.to_arrow("runs", columns=["cents"])
    with pytest.raises(ConfigError, match="no table 'steps'; there are incidents, runs, traces, trace_steps"):
        dataset.to_arrow("steps")


def test_sql_over_tables_without_rows(tmp_path: Path) -> None:
    url = create_native(f"sqlite:///{tmp_path / 'db.sqlite'}", {"runs": [run()]})
    export_dataset(ExportBundleStore(url), tmp_path / "d", progress=False)
    dataset = open_dataset(tmp_path / "d")
    assert dataset.sql("select * from ledger").fetchall() == []
    assert dataset.sql("select day, started_at, total_cost_cents from runs").fetchall() == [("2026-10-05", NOON, 12)]
    assert dataset.to_arrow("incidents").num_rows == 0


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


def test_what_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnreadable, match="no manifest; expected a dataset that export_dataset wrote"):
        open_dataset(tmp_path)
    exported(tmp_path)
    with pytest.raises(DatasetUnreadable, match="no manifest 7; there are 1 to 2"):
        open_dataset(tmp_path / "d", as_of=7)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file is a file; expected a directory"):
        open_dataset(tmp_path / "file")
    for place in ("http://host/x", "memory://x", ""):
        with pytest.raises(ConfigError, match=r"accepted are a directory, file:///directory, s3://bucket/prefix"):
            open_dataset(place)
    assert open_dataset(f"file://{tmp_path / 'd'}").rows["runs"] == 6


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"format": 1', '"format": 2'),
        ('"number": 2', '"number": 3'),
        ('"number": 2', '"number": 2, "number": 2'),
        ('"_manifest/windows/', '"../../'),
        ('"rows": {', '"rows": 3, "x": {'),
        ("{", "{{"),
        ('"settled": true', '"settled": "no"'),
        ('"open_runs": 0', '"open_runs": "x"'),
        ('"incidents": 1,', '"incidents": -1,'),
        ('"extra_columns": {}', '"extra_columns": []'),
        ('"extra_columns": {}', '"extra_columns": {"runs": {"goal": "string"}}'),
        ('"since": "2026', '"since": "x2026'),
        ('"until": "2026-10-06T00:00:00.000000Z"', '"until": null'),
        ('"tenant_id": null', '"tenant_id": 5'),
    ],
)
def test_a_hostile_manifest_is_refused(tmp_path: Path, old: str, new: str) -> None:
    exported(tmp_path)
    path = tmp_path / "d" / "_manifest" / "000002.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(
        DatasetUnreadable, match=r"_manifest/000002\.json cannot be read: .*open_dataset\(\.\.\., as_of=N\)"
    ):
        open_dataset(tmp_path / "d")


def test_parts_outside_their_place_are_refused(tmp_path: Path) -> None:
    import hashlib

    exported(tmp_path)
    directory = tmp_path / "d" / "_manifest"
    parts = next(directory.glob("windows/*"))
    text = parts.read_text().replace('"path": "runs/', '"path": "../../runs/', 1)
    parts.write_text(text)
    manifest = directory / "000002.json"
    value = json.loads(manifest.read_text())
    value["windows"][0]["parts_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    manifest.write_text(json.dumps(value, indent=1) + "\n")
    with pytest.raises(DatasetUnreadable, match=r"a part at '\.\./\.\./runs/"):
        open_dataset(tmp_path / "d").files("runs")


# --- verifying


def codes(dataset: Any) -> set[str]:
    return {finding.code for finding in dataset.verify().findings}


def test_each_changed_file_is_found(tmp_path: Path) -> None:
    dataset = exported(tmp_path)
    verification = dataset.verify()
    assert verification.ok
    assert str(verification).startswith(f"{tmp_path / 'd'}: intact: 31 rows in 7 files, 0 unlisted; manifest 2\n")
    for path in sorted((tmp_path / "d").glob("*/*/*/*.parquet")):
        good = path.read_bytes()
        for at in (0, len(good) // 2, len(good) - 1):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            findings = dataset.verify().findings
            assert [(f.code, f.path) for f in findings] == [("changed", path.relative_to(tmp_path / "d").as_posix())]
        path.unlink()
        assert codes(dataset) == {"missing"}
        path.write_bytes(good)
    assert dataset.verify().ok


def test_a_broken_chain_is_found(tmp_path: Path) -> None:
    dataset = exported(tmp_path)
    first = tmp_path / "d" / "_manifest" / "000001.json"
    text = first.read_text()
    first.write_text(text.replace('"change": "start"', '"change": "stars"'))
    assert codes(dataset) == {"chain"}
    first.unlink()
    assert codes(dataset) == {"chain"}


def rewritten(dataset: Any, place: Path, table: str, change: Any) -> Any:
    """The dataset with the rows of a table's first part changed, and all digests made to fit."""
    from exporttools.dataset import part_files
    from exporttools.dataset.manifest import new_window
    from exporttools.records.schema import RECORD_TYPES

    storage = open_storage(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part_files.KeyOrder, "follow", lambda *_: None)
        parts = list(dataset.part_files)
        at = next(i for i, part in enumerate(parts) if part.table == table)
        old = parts[at]
        rows = change(dataset.to_arrow(table, filter=pc.field("tenant_id") == old.tenant_id))
        columns = RECORD_TYPES[table].stored_columns()
        with part_files.new_part_file(storage, RECORD_TYPES[table], columns, old.tenant_id, old.day) as writer:
            for batch in rows.to_batches():
                writer.write(batch)
        parts[at] = writer.part
    known = dataset.manifest.windows[0]
    window = new_window(
        storage, NOON.replace(hour=0), NOON.replace(hour=0) + 24 * HOUR, parts,
        read_at=known.read_at, open_runs=0, undated_runs=0, settled=True, extra_columns={},
    )  # fmt: skip
    manifest = dataset.manifest.with_window("w", window)
    storage.create(manifest.path, manifest.encoded())
    return open_dataset(place)


@pytest.mark.parametrize(
    ("table", "change", "code"),
    [
        ("runs", lambda t: t.set_column(1, t.schema.field(1), pa.array(["b"] * len(t))), "tenant"),
        (
            "runs",
            lambda t: t.set_column(5, t.schema.field(5), pa.array([NOON - 24 * HOUR] * len(t), t.schema.types[5])),
            "day",
        ),
        ("trace_steps", lambda t: t.take(pa.array([1, 0, *range(2, len(t))])), "order"),
        ("trace_steps", lambda t: t.take(pa.array([0, 0, *range(2, len(t))])), "order"),
    ],
)
def test_rows_out_of_their_place_are_found_though_all_digests_fit(
    tmp_path: Path, table: str, change: Any, code: str
) -> None:
    dataset = rewritten(exported(tmp_path), tmp_path / "d", table, change)
    assert codes(dataset) == {code}


# --- merging


def test_hours_merged_are_as_a_day_exported(tmp_path: Path) -> None:
    day = exported(tmp_path, tmp_path / "day")
    hours = exported(tmp_path, tmp_path / "hours", window="1h")
    assert len(hours.part_files) > len(day.part_files)
    merged = hours.compact(window="1d")
    assert len(merged.part_files) == len(day.part_files)
    assert merged.content_digest == day.content_digest != hours.content_digest
    assert merged.verify().findings == ()
    assert open_dataset(tmp_path / "hours").manifest == merged.manifest
    assert open_dataset(tmp_path / "hours", as_of=hours.manifest.number).verify().findings == ()
    assert merged.compact() is merged
    assert exported(tmp_path, tmp_path / "hours", window="1h").manifest == merged.manifest  # there is nothing new
    with pytest.raises(DestinationConflict):
        hours.compact()


def test_provisional_windows_are_not_merged(tmp_path: Path) -> None:
    runs = [run(run_id=f"r{i}", started_at=NOON + i * HOUR, completed_at=None) for i in range(3)]
    url = create_native(f"sqlite:///{tmp_path / 'db.sqlite'}", {"runs": runs})
    export_dataset(ExportBundleStore(url), tmp_path / "d", window="1h", progress=False)
    dataset = open_dataset(tmp_path / "d")
    assert dataset.compact() is dataset


# --- storage


def test_files_in_each_storage(storage: Storage) -> None:
    assert list(storage.list("_manifest/")) == []
    storage.create("_manifest/000001.json", b"one")
    with pytest.raises(FileExistsError):
        storage.create("_manifest/000001.json", b"two")
    assert storage.read("_manifest/000001.json") == b"one"
    for _ in range(2):  # of the same content: it may be there already
        with storage.new_part_file() as part:
            part.file.write(b"0123456789")
            part.publish("runs/tenant_id=a%2Fb/day=2026-10-05/part-1.parquet")
    with storage.new_part_file() as part:
        part.file.write(b"never published")
    assert list(storage.list("runs/")) == [("runs/tenant_id=a%2Fb/day=2026-10-05/part-1.parquet", 10)]
    with storage.open("runs/tenant_id=a%2Fb/day=2026-10-05/part-1.parquet") as file:
        assert (file.seek(-3, os.SEEK_END), file.read(), file.seek(2), file.read(3)) == (7, b"789", 2, b"234")
    storage.delete("_manifest/000001.json")
    storage.delete("_manifest/000001.json")
    for call in (storage.read, storage.open):
        with pytest.raises(FileNotFoundError):
            call("_manifest/000001.json")
    assert pickle.loads(pickle.dumps(storage)).url == storage.url


def test_of_many_who_create_one_file_one_does(storage: Storage) -> None:
    def create(name: str) -> str | None:
        barrier.wait()
        try:
            storage.create(f"_manifest/{number:06d}.json", name.encode())
        except FileExistsError:
            return None
        return name

    with ThreadPoolExecutor(4) as pool:
        for number in range(25):
            barrier = threading.Barrier(4)
            created = [name for name in pool.map(create, "abcd") if name]
            assert len(created) == 1
            assert storage.read(f"_manifest/{number:06d}.json") == created[0].encode()


def test_an_export_to_s3_is_the_same_and_resumes(s3: str, tmp_path: Path) -> None:
    local = exported(tmp_path)
    place = f"s3://fleet/{tmp_path.name}"
    remote = exported(tmp_path, place, window="1h", until=NOON + 2 * HOUR)
    assert remote.rows["runs"] == 2
    remote = exported(tmp_path, place, window="1h").compact()
    assert remote.content_digest == local.content_digest
    assert remote.verify().findings == ()
    assert remote.sql("select run_id, count(*) from ledger group by 1 order by 1").fetchall() == [
        (f"r{i}", 3) for i in range(6)
    ]
    assert remote.to_arrow("trace_steps", filter=pc.field("status") == "ok").num_rows == 6
    assert remote.files("runs")[0].startswith(f"{place}/runs/tenant_id=a/day=2026-10-05/part-")
    assert repr(remote).startswith(f"<Dataset {place} · manifest ")


def test_two_exporters_on_s3(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from exporttools.export import task as task_module

    place, original, others = f"s3://fleet/{tmp_path.name}", task_module._attempt, []
    hourly(tmp_path)

    def attempt(task: Any) -> Any:
        if not others:
            others.append(None)
            others.append(exported(tmp_path, place))
        return original(task)

    monkeypatch.setattr(task_module, "_attempt", attempt)
    with pytest.raises(DestinationConflict, match="another export began here"):
        exported(tmp_path, place)
    assert open_dataset(place).manifest == others[1].manifest
    assert open_dataset(place).verify().findings == ()


def test_a_store_without_conditional_put_is_refused(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy takes If-None-Match away, as servers that do not know it do."""
    import http.server
    import urllib.error
    import urllib.request

    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {
                k: v for k, v in self.headers.items() if k.lower() not in ("if-none-match", "host", "connection")
            }
            request = urllib.request.Request(s3 + self.path, body or None, headers, method=self.command)
            try:
                with urllib.request.urlopen(request) as answer:
                    status, data, given = answer.status, answer.read(), answer.headers
            except urllib.error.HTTPError as error:
                with error:
                    status, data, given = error.code, error.read(), error.headers
            self.send_response(status)
            for name in ("ETag", "Content-Type", "Last-Modified"):
                if name in given:
                    self.send_header(name, given[name])
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_DELETE = do_POST = do_HEAD = handle_any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
            with pytest.raises(
                DatasetError, match=r"s3://fleet/old has no conditional put .*so none is begun; export to a directory"
            ):
                exported(tmp_path, "s3://fleet/old")
        finally:
            server.shutdown()
            thread.join()


def test_which_storage(tmp_path: Path, s3: str) -> None:
    from obstore.store import MemoryStore, S3Store

    assert isinstance(open_storage(tmp_path), LocalStorage)
    store = S3Store("fleet", prefix="p")
    assert isinstance(open_storage(store), ObjectStorage)
    assert open_storage(store).url == "s3://fleet/p"
    with pytest.raises(ConfigError, match="a dataset cannot lie in a MemoryStore"):
        open_storage(MemoryStore())
