"""One incident on the terminal: what happened, what its run cost, and where it went wrong."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from exporttools.cli.terminal import Format, write_fields, write_heading, write_json, write_rows, write_table
from exporttools.records.export_bundle import ExportBundle
from exporttools.records.statuses import failed_steps
from exporttools.text.words import plural

STEPS_AROUND = 3
"""How many steps to show before and after the violation."""


def write_overview(bundle: ExportBundle, output: Format) -> None:
    """Write a bundle to standard output: as a table its parts, cost and violation; as JSON everything; as CSV its steps."""
    columns = list(bundle.steps.schema.names)
    if output is Format.csv:
        write_rows(bundle.steps.to_arrow().to_pylist(), columns, output)
    elif output is Format.json:
        parts = {name: getattr(bundle, name) for name in ("incident", "run", "trace")}
        write_json(
            {name: part and part.to_dict() for name, part in parts.items()}
            | {
                "missing": bundle.missing,
                "trace_count": bundle.trace_count,
                "totals": bundle.totals,
                "rolled_up": bundle.rolled_up,
                "content_digest": bundle.content_digest,
                "steps": bundle.steps.to_arrow().to_pylist(),
            }
        )
    else:
        _write_for_people(bundle)


def _write_for_people(bundle: ExportBundle) -> None:
    for name, part in (("incident", bundle.incident), ("run", bundle.run)):
        if part is not None:
            fields = part.to_dict()
            write_heading(f"{name} {fields.pop('id', None) or fields.pop('run_id', None)}")
            write_fields(fields)
    if bundle.trace is not None:
        others = f" (one of the run's {bundle.trace_count} traces)" if bundle.trace_count > 1 else ""
        write_heading(f"trace {bundle.trace.trace_id}{others}")
    if len(bundle.steps):
        write_fields({**bundle.totals, **({"rolled_up": text} if (text := _roll_ups_text(bundle)) else {})})
        write_heading("where the money and the time went")
        write_table(_by_step_type(bundle), ["step_type", "steps", "failed", "tokens", "cost_cents", "duration_ms"])
        _write_violation(bundle)
    if bundle.missing:
        write_heading(f"missing: {', '.join(bundle.missing)}")


def _roll_ups_text(bundle: ExportBundle) -> str:
    """Say in words what the totals leave out, and what they may count twice; empty if steps repeat nothing of their parts."""
    found, said = bundle.rolled_up, []
    if steps := int(found["steps"]):
        who = "1 step repeats of its parts" if steps == 1 else f"{steps:,} steps repeat of their parts"
        said.append(f"{found['tokens']:,} tokens and {found['cost_cents']:,.4g} US cents left out, which {who}")
    if found["ambiguous"]:
        said.append(
            f"{plural(int(found['ambiguous']), 'step')} and their parts have usage that may be the same; both count"
        )
    return "; ".join(said)


def _write_violation(bundle: ExportBundle) -> None:
    """Write the steps around the violation, or else around the first failed step."""
    steps = bundle.steps.to_arrow()
    at = bundle.trace and bundle.trace.violation_step_index
    row = -1 if at is None else pc.index(steps["step_index"], pa.scalar(at, pa.int64())).as_py()
    title = f"around the violation at step {at}"
    if row < 0:
        row = pc.index(failed_steps(steps["status"]), pa.scalar(True)).as_py()
        title = "around the first failed step"
    if row < 0:
        return
    first = max(0, row - STEPS_AROUND)
    write_heading(title)
    rows = steps.slice(first, row - first + STEPS_AROUND + 1).to_pylist()
    # What a narrow terminal has room for comes first, and what is empty has no column.
    columns = [name for name in ("step_index", "step_type", "name", "status", "duration_ms", "cost_cents", "error", "tokens", "model", "timestamp")
               if name in steps.column_names and any(each[name] is not None for each in rows)]  # fmt: skip
    write_table(rows, columns, highlight=row - first)


def _by_step_type(bundle: ExportBundle) -> list[dict[str, Any]]:
    """Return each step type's steps, failed steps, tokens, cost and duration, most expensive first."""
    from exporttools.analysis import cost_by

    order = [("cost_cents", "descending"), ("duration_ms", "descending"), ("step_type", "ascending")]
    rows: list[dict[str, Any]] = cost_by(bundle, "step_type").sort_by(order).to_pylist()
    return rows
