"""Tasks: what is sent to workers, and equal datasets from threads, processes and a cluster."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from exporttools import ConfigError, ExportBundleStore, Layout, Source, export_dataset, open_dataset
from exporttools.database.layouts import NATIVE, Field
from exporttools.dataset.destinations import open_storage
from exporttools.export import task as task_module
from tests.databases import NOON, writable
from tests.export.fleets import DAY, HOUR


def test_tasks_are_small_and_hold_no_secret(sample_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTS_URL", "postgresql://reader:sesame@db.internal/agents")
    storage = open_storage(tmp_path)
    task = task_module.ExportTask(ExportBundleStore("env:AGENTS_URL"), storage, None, NOON, NOON + DAY, HOUR)
    sent = pickle.dumps(task)
    assert len(sent) < 2000
    assert b"sesame" not in sent
    assert pickle.loads(sent).store.list_runs.__self__.tenant_id is None
    assert pickle.loads(pickle.dumps(ExportBundleStore(sample_url))).list_runs(limit=1).total == 300
    with pytest.raises(
        ConfigError,
        match=r"the store's URL holds a password, or may hold one, which would be sent to other processes; .* 'env:NAME'",
    ):
        pickle.dumps(ExportBundleStore("postgresql://reader:sesame@db.internal/agents"))
    engine = writable(sample_url)
    with pytest.raises(ConfigError, match="a store on an Engine cannot be sent to another process"):
        pickle.dumps(ExportBundleStore(engine))
    engine.dispose()
    with pytest.raises(ConfigError, match="the environment variable 'NOT_SET' is not set"):
        ExportBundleStore("env:NOT_SET")


@contextmanager
def a_dask_cluster() -> Iterator[Executor]:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert len(client.scheduler_info()["workers"]) == 2
        yield client.get_executor()


def processes(count: int) -> Executor:
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"))


@pytest.mark.parametrize(
    "executing",
    [
        pytest.param(partial(processes, 1), id="one process"),
        pytest.param(partial(processes, 2), id="processes", marks=pytest.mark.slow),
        pytest.param(a_dask_cluster, id="dask", marks=pytest.mark.slow),
    ],
)
def test_threads_processes_and_dask_give_equal_digests(
    sample_url: str, tmp_path: Path, executing: Callable[[], AbstractContextManager[Executor]]
) -> None:
    store = ExportBundleStore(sample_url)
    with ThreadPoolExecutor(3) as threads:
        export_dataset(store, tmp_path / "threads", executor=threads, progress=False)
    with executing() as executor:
        export_dataset(store, tmp_path / "others", executor=executor, progress=False)
    digests = [open_dataset(tmp_path / name).content_digest for name in ("threads", "others")]
    assert digests[0] == digests[1]


def twice(cents: Any) -> Any:
    return cents * 2


def costing(convert: Callable[[Any], Any]) -> Layout:
    return replace(
        NATIVE, name="costing", runs=Source("runs", {"total_cost_cents": Field("total_cost_cents", convert=convert)})
    )


def test_a_layout_of_ones_own_reaches_worker_processes(sample_url: str, tmp_path: Path) -> None:
    store = ExportBundleStore(sample_url, layout=costing(twice))
    with processes(1) as executor:
        export_dataset(store, tmp_path, executor=executor, progress=False)
    exported = open_dataset(tmp_path).sql("SELECT sum(total_cost_cents) FROM runs").fetchall()
    assert exported == [(2 * ExportBundleStore(sample_url).list_runs().sums["total_cost_cents"],)]


@pytest.mark.parametrize(
    "options",
    [{"layout": costing(lambda cents: cents)}, {"database": lambda: "sqlite:///agents.sqlite"}],
    ids=["layout", "database"],
)
def test_a_function_that_cannot_reach_worker_processes_is_refused(
    options: dict[str, Any], tmp_path: Path, sample_urls: dict[str, str]
) -> None:
    store = ExportBundleStore(**{"database": sample_urls["sqlite"], **options})
    with processes(1) as executor, pytest.raises(ConfigError) as caught:
        export_dataset(store, tmp_path / "fleet", executor=executor, progress=False)
    assert re.fullmatch(
        "the store cannot be sent to other processes: .*<lambda>.*. Define the functions of its layout, and the one that returns "
        "its URL, with def at the top level of a module; or export in threads, by jobs=",
        str(caught.value),
    )
    assert not (tmp_path / "fleet").exists()
