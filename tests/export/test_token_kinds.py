"""Tokens by kind ride from a database through bundles and datasets into the analysis, and are added to nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporttools import ExportBundleStore, cost_by, export_dataset, open_dataset, read_bundle, reprice, write_bundle
from exporttools.records.schema import TOKEN_KINDS
from tests.databases import create_native, one_of_each, step

KINDS = {
    "input_tokens": 90, "output_tokens": 10, "cache_read_tokens": 40, "cache_write_tokens": 30, "cache_write_1h_tokens": 20,
    "reasoning_tokens": 5,
}  # fmt: skip


@pytest.fixture
def store(fresh_url: str) -> ExportBundleStore:
    texts = {"model": "string", "price_basis": "string"}
    call = {"model": "claude-opus-4-6", "price_basis": "genai-prices 0.2.3, claude-opus-4-6"}
    rows = one_of_each(trace_steps=[step(0, **KINDS | {"tokens": 100} | call), step(1, tokens=0), step(2, tokens=7)])
    return ExportBundleStore(create_native(fresh_url, rows, extra=texts | dict.fromkeys(TOKEN_KINDS, "int64")))


def test_tokens_by_kind_ride_along(store: ExportBundleStore, tmp_path: Path) -> None:
    bundle = store.get_export_bundle("i1")
    assert bundle is not None
    again = read_bundle(write_bundle(bundle, tmp_path / "bag"))
    export_dataset(store, tmp_path / "fleet", progress=False)
    with_runs = store.scan_trace_steps().read_all()
    ledger = open_dataset(tmp_path / "fleet").sql("from ledger order by step_index").to_arrow_table()
    expected = [KINDS, dict.fromkeys(KINDS), dict.fromkeys(KINDS)]
    tables = [
        with_runs,
        store.get_trace_steps("t1", "acme").to_arrow(),
        bundle.steps.to_arrow(),
        again.steps.to_arrow(),
        ledger,
    ]
    for table in tables:
        assert table.select(list(KINDS)).to_pylist() == expected
        assert cost_by(table)["tokens"].to_pylist() == [107]
        found = reprice(table)
        assert found.select(["repricing", "repriced_as"]).to_pylist() == [
            {"repricing": "priced", "repriced_as": "claude-opus-4-6"}, {"repricing": "kept", "repriced_as": None},
            {"repricing": "unknown tokens", "repriced_as": None},
        ]  # fmt: skip
        # 20 read nowhere, 40 from a cache, 10 written for 5 minutes and 20 for an hour, and 10 out: in US cents.
        assert found["cost_cents"][0].as_py() == pytest.approx(
            (20 * 5 + 40 * 0.5 + 10 * 6.25 + 20 * 10 + 10 * 25) / 10_000
        )
    assert bundle.totals["tokens"] == 107
