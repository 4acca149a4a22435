"""Storages: one contract for directories and object stores."""

from __future__ import annotations

import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from exporttools import (
    ConfigError,
    DatasetError,
    DestinationConflict,
    open_dataset,
)
from exporttools.dataset.destinations import open_storage
from exporttools.dataset.local_storage import LocalStorage
from exporttools.dataset.object_storage import ObjectStorage
from exporttools.dataset.storage import Storage
from tests.databases import NOON
from tests.dataset.handmade import (
    HOUR,
    exported,
    hourly,
)


def test_files_in_each_storage(storage: Storage) -> None:
    assert list(storage.list("_manifest/")) == []
    storage.create("_manifest/000001.json", b"one")
    with pytest.raises(FileExistsError):
        storage.create("_manifest/000001.json", b"two")
    assert storage.read("_manifest/000001.json") == b"one"
    for _ in range(2):  # of the same content: it may be there already
        with storage.new_part_file() as part_file:
            part_file.file.write(b"0123456789")
            part_file.publish("runs/tenant_id=a%2Fb/day=2026-10-05/part-1.parquet")
    with storage.new_part_file() as part_file:
        part_file.file.write(b"never published")
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
    with pytest.raises(
        DestinationConflict, match="another export began here, .*Its commits stay; the other export writes the rest"
    ):
        exported(tmp_path, place)
    assert open_dataset(place).manifest == others[1].manifest
    assert open_dataset(place).verify().findings == ()


def test_a_store_without_conditional_put_is_refused(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy drops If-None-Match, as servers that do not know it do."""
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
                DatasetError,
                match=r"s3://fleet/old does not support conditional puts .*so nothing was exported; export to a directory",
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
    with pytest.raises(
        ConfigError, match="a dataset cannot be stored in a MemoryStore; expected an S3Store, GCSStore or AzureStore"
    ):
        open_storage(MemoryStore())


def test_a_file_that_vanishes_while_files_are_listed_is_left_out(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text("")
    listed = LocalStorage(tmp_path).list("")
    assert next(listed) == ("a", 0)
    (tmp_path / "b").unlink()
    assert list(listed) == []


def test_an_object_that_fails_while_it_is_read_is_an_oserror(s3: str, tmp_path: Path) -> None:
    storage = open_storage(f"s3://fleet/{tmp_path.name}")
    storage.create("runs/one", b"0123456789")
    with storage.open("runs/one") as file:
        storage.delete("runs/one")
        with pytest.raises(FileNotFoundError, match=f"s3://fleet/{tmp_path.name}/runs/one"):
            file.read(4)
