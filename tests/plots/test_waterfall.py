"""The waterfall."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from exporttools import ExportBundle, ExportBundleStore, analysis, plots
from exporttools.errors import ConfigError
from tests.plots.drawings import HOSTILE
from tests.plots.fleets import bars, said


def changed(*rows: dict[str, Any]) -> pa.Table:
    usual = {"step_type": "llm_call", "name": None, "cause": "dearer tokens", "cost_cents": 2.0, "duration_ms": 0.0}
    schema = pa.schema([(n, pa.float64() if n in ("cost_cents", "duration_ms") else pa.string()) for n in usual])
    return pa.Table.from_pylist([usual | row for row in rows], schema=schema)


def test_a_waterfall_goes_from_a_normal_run_to_this_one(store: ExportBundleStore) -> None:
    bundle = store.get_export_bundle("inc-0000-5")
    assert bundle is not None
    changes = analysis.what_changed(bundle, store.scan_trace_steps().read_all())
    ax = plots.what_changed(changes, bundle=bundle, limit=5)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert (names[0], names[1], names[-2][:8], names[-1]) == (
        "a normal run",
        "dearer tokens\nllm_call",
        "all else",
        "this run",
    )
    (end,), (begin,) = bars(ax, "this run"), bars(ax, "normal")
    assert end == pytest.approx(bundle.totals["cost_cents"], abs=1e-5)
    assert end - begin == pytest.approx(sum(bars(ax, "more")) + sum(bars(ax, "less")), abs=1e-4)
    assert "+46.76¢" in said(ax)
    assert "this run minus a normal one: +97.56 US cents, +1 min 31 s" in said(ax)
    (time,) = [panel for panel in ax.figure.axes if panel is not ax]
    assert time.get_xlabel() == "seconds from first start to last end"


def test_a_waterfall_of_little_or_hostile() -> None:
    assert "difference" in said(plots.what_changed(changed()))
    hostile = changed(*({"cause": text, "name": text, "step_type": text, "cost_cents": -1.0} for text in HOSTILE))
    assert "\x1b" not in said(plots.what_changed(hostile))
    only = ExportBundle()
    assert "a normal run" in said(plots.what_changed(changed({}), bundle=only))
    with pytest.raises(ConfigError, match="contributions: no column cause; found step_type"):
        plots.what_changed(changed({}).drop_columns(["cause"]))
    with pytest.raises(ConfigError, match="limit is 0; expected a positive integer"):
        plots.what_changed(changed({}), limit=0)
    with pytest.raises(ConfigError, match="bundle is a str; expected an ExportBundle or None"):
        plots.what_changed(changed({}), bundle="inc-1")  # type: ignore[arg-type]
