"""Real agents' traces, where they lie beside the repository: totals, bundles, and one digest on both databases."""

from __future__ import annotations

import subprocess
from pathlib import Path

import bagit
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

from exporttools import (
    ExportBundleStore,
    compare_bundles,
    read_bundle,
    verify_bundle,
    write_bundle,
    write_key_pair,
)
from exporttools.loading import load_tables

pytestmark = pytest.mark.real

# The totals that the traces' own page states: steps, tokens, US cents, milliseconds, failed steps.
TOTALS = {
    "inspect": (638, 155318, 0, 1986863.064, 0),
    "langfuse": (138, 26766, 2.365675, 554974.0, 0),
    "openhands": (222, 1926683, 0, 348518.018, 21),
}


@pytest.fixture
def url(real: Path, backend: str, request: pytest.FixtureRequest) -> str:
    """The real traces in the test's database."""
    sqlite = f"sqlite:///{real / 'agents.sqlite'}"
    if backend == "sqlite":
        return sqlite
    target = str(request.getfixturevalue("fresh_postgres_url"))
    store = ExportBundleStore(sqlite)
    rows = [
        (name, found.to_arrow())
        for name, found in (
            ("incidents", store.list_incidents()),
            ("runs", store.list_runs()),
            ("traces", store.list_traces()),
        )
    ]
    for trace in store.list_traces():
        steps = store.get_trace_steps(trace.trace_id, trace.tenant_id).to_arrow()
        for name, value in (("trace_id", trace.trace_id), ("tenant_id", trace.tenant_id)):
            steps = steps.add_column(
                0, pa.field(name, pa.string(), nullable=False), [pa.array([value] * len(steps), pa.string())]
            )
        rows.append(("trace_steps", steps))
    load_tables(target, rows)
    return target


@pytest.mark.parametrize("tenant", TOTALS)
def test_totals_by_tenant(url: str, tenant: str) -> None:
    store = ExportBundleStore(url, tenant_id=tenant)
    frame = pd.concat([store.get_trace_steps(found.trace_id).to_pandas() for found in store.list_traces()])
    steps, tokens, cents, milliseconds, failed = TOTALS[tenant]
    assert (len(frame), frame["tokens"].sum(), (frame["status"] == "error").sum()) == (steps, tokens, failed)
    assert frame["cost_cents"].sum() == pytest.approx(cents)
    assert frame["duration_ms"].sum() == pytest.approx(milliseconds, abs=0.001)


def test_bundles_verify_and_read_back(url: str, tmp_path: Path, real: Path) -> None:
    here, there = ExportBundleStore(url), ExportBundleStore(real / "agents.sqlite")
    found = here.list_incidents()
    assert len(found) == 3
    for number, incident in enumerate(found):
        bundle = here.get_export_bundle(incident.id)
        assert bundle is not None
        path = write_bundle(bundle, tmp_path / str(number))
        assert read_bundle(path) == bundle
        assert bagit.Bag(str(path)).validate()
        manifests = ["manifest-sha256.txt", "tagmanifest-sha256.txt"]
        subprocess.run(["sha256sum", "--strict", "--quiet", "-c", *manifests], cwd=path, check=True)
        other = there.get_export_bundle(incident.id)
        assert other is not None
        assert other.content_digest == bundle.content_digest


def test_signed_redacted_archives_verify_and_say_what_was_taken_out(real: Path, tmp_path: Path) -> None:
    store, key = ExportBundleStore(real / "agents.sqlite"), write_key_pair(tmp_path / "key")
    for number, incident in enumerate(store.list_incidents()):
        bundle = store.get_export_bundle(incident.id)
        assert bundle is not None
        path = write_bundle(bundle, tmp_path / f"{number}.zip", signing_key=key, archive=True, redact="goal")
        assert verify_bundle(path, trusted_keys=key.trusted_key).authentic
        found = compare_bundles(path, bundle)
        assert (found.same, found.redacted) == (True, ("runs.goal",))


def test_frames_of_all_kinds_agree(url: str) -> None:
    store = ExportBundleStore(url)
    bundle = store.get_export_bundle(store.list_incidents()[0].id)
    assert bundle is not None
    steps = bundle.steps
    expected = steps.to_pandas()
    assert str(pl.DataFrame(steps).schema["timestamp"]) == "Datetime(time_unit='us', time_zone='UTC')"
    from_duckdb = duckdb.sql("select step_index, tokens, cost_cents, status from steps").fetchall()
    for frame in (
        pl.DataFrame(steps).to_dicts(),
        pa.table(steps).to_pylist(),
        pd.DataFrame.from_arrow(steps).to_dict("records"),
    ):
        for column in ("step_index", "tokens", "cost_cents", "status", "step_type"):
            assert [row[column] for row in frame] == expected[column].tolist()
    assert from_duckdb == list(
        expected[["step_index", "tokens", "cost_cents", "status"]].itertuples(index=False, name=None)
    )


def test_nothing_is_left_beside_the_database(real: Path) -> None:
    ExportBundleStore(real / "agents.sqlite").list_runs()
    assert sorted(path.name for path in real.iterdir() if path.name.startswith("agents")) == ["agents.sqlite"]
    database = ExportBundleStore(real / "agents.sqlite")._reader.database
    with database.transaction() as connection, pytest.raises(sa.exc.OperationalError, match="readonly"):
        connection.exec_driver_sql("DELETE FROM runs")
