"""Commands that show where the money went, what is unusual, and how two runs differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from exporttools.cli.application import (
    FAILED,
    DatabaseOption,
    FormatOption,
    ImportedOption,
    TenantOption,
    app,
    bundle_of,
    bundle_summary,
    note,
    open_store,
    parse_time,
)
from exporttools.cli.terminal import Format
from exporttools.text.inert import one_line
from exporttools.text.words import plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

    from exporttools.database.store import ExportBundleStore

STEPS_TO_JUDGE = 5
"""How many steps of a type a run needs before their mean is judged."""

SinceOption = Annotated[str | None, typer.Option(metavar="TIME", help="Only steps that started at or after this time.")]
UntilOption = Annotated[str | None, typer.Option(metavar="TIME", help="Only steps that started before this time.")]


@app.command()
def cost(
    context: typer.Context,
    by: Annotated[
        str, typer.Option("--by", metavar="COLUMN,...", help="Group by these columns, such as agent_id,step_type.")
    ] = "agent_id",
    every: Annotated[
        str | None,
        typer.Option(
            metavar="LENGTH", help="Also group by time, in periods such as 1h, 1d or 1w; --by then takes one column."
        ),
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    database: DatabaseOption = None,
    _imported: ImportedOption = False,
    tenant: TenantOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Show where the money went, most expensive first.

    For each group: cost in US cents, share of the total, tokens, steps, duration and runs.
    """
    from exporttools.analysis import cost_by, cost_over_time
    from exporttools.cli.terminal import write_rows

    keys = _column_names(by)
    if every is not None and len(keys) > 1:
        note(f"error: --every takes at most one --by column; found --by {one_line(by, 60)}")
        raise typer.Exit(FAILED)
    columns = [*keys, "timestamp", "cost_cents", "tokens", "duration_ms"]
    steps = _steps(open_store(context, database, tenant), columns, since, until)
    answer = cost_over_time(steps, every, *keys) if every else cost_by(steps, *keys)
    table = answer.to_arrow_table()
    rows = table.to_pylist()
    if output is Format.table:
        for row in rows:
            if "share" in row:
                row["share"] = "" if row["share"] is None else f"{row['share']:.1%}"
    write_rows(rows, table.column_names, output)


@app.command()
def anomalies(
    context: typer.Context,
    each: Annotated[
        str, typer.Option(metavar="run|step", help="Judge runs by their average step, or judge single steps.")
    ] = "run",
    by: Annotated[
        str, typer.Option("--by", metavar="COLUMN,...", help="Compare with what has the same values in these columns.")
    ] = "agent_id,step_type",
    usual_until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Take the baseline from steps before this time. Default: from all steps."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(metavar="Z", help="Report robust z-scores of Z and above. Default: 5.")
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=0, help="Show at most this many, most unusual first.")
    ] = 50,
    database: DatabaseOption = None,
    _imported: ImportedOption = False,
    tenant: TenantOption = None,
    output: FormatOption = Format.table,
) -> None:
    """List runs or steps that cost or took far more than usual.

    Each is compared with the baseline of its agent and step type (see --by), and the reason is given in words.
    """
    from exporttools.analysis import anomalies, baseline, run_profiles
    from exporttools.analysis.baselines import THRESHOLD
    from exporttools.cli.terminal import write_rows

    if each not in ("run", "step"):
        note(f"error: --each is {one_line(repr(each), 40)}; expected run or step")
        raise typer.Exit(FAILED)
    keys = _column_names(by)
    columns = [*keys, "step_index", "timestamp", "cost_cents", "tokens", "duration_ms"]
    steps = _steps(open_store(context, database, tenant), columns, since, until)
    until_then = parse_time(usual_until)
    usual = steps if until_then is None else steps.filter(f"timestamp < TIMESTAMPTZ '{until_then.isoformat()}'")
    if each == "run":
        steps, usual = (run_profiles(frame, by=keys, at_least=STEPS_TO_JUDGE) for frame in (steps, usual))
    judged = anomalies(steps, baseline(usual, by=keys), THRESHOLD if threshold is None else threshold)
    rows = judged.to_arrow_table().to_pylist()
    found = [row for row in rows if row["measure"] is not None]
    shown = ["run_id", *(["step_index"] if each == "step" else []), "z", "reason"]
    if output is not Format.table:
        shown = list(judged.columns)
    write_rows(found[:limit], shown, output)
    if len(found) > limit:
        note(f"{limit:,} of {len(found):,} shown; raise --limit to see more")
    if small := len(rows) - len(found):
        note(f"{plural(small, 'group')} of steps not judged: too few rows in the baseline")


@app.command()
def compare(
    context: typer.Context,
    first: Annotated[str, typer.Argument(metavar="RUN", help="The id of a run or an incident.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="The id of the run or incident to compare with it.")],
    database: DatabaseOption = None,
    _imported: ImportedOption = False,
    tenant: TenantOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Compare two runs by step type.

    Differences are the second run (b) minus the first (a). With --format json or csv: step by step.
    """
    from exporttools.analysis import compare_runs
    from exporttools.cli.terminal import write_rows

    store = open_store(context, database, tenant)
    bundles = [bundle_of(store, identifier) for identifier in (first, second)]
    compared = compare_runs(*bundles, by="step_type" if output is Format.table else "step")
    if output is not Format.table:
        write_rows(compared.to_pylist(), compared.column_names, output)
        return
    write_rows(_with_total(compared.to_pylist()), ["step_type", *_COMPARED], output)
    for name, bundle in zip("ab", bundles, strict=True):
        note(f"{name}: {one_line(bundle.name, 80)}, {bundle_summary(bundle)}")


def _column_names(by: str) -> list[str]:
    return [name.strip() for name in by.split(",") if name.strip()]


def _with_total(sums: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the sums under the table's headings, then a row for all step types."""
    rows = [
        {name: row[column] * scale for name, (column, scale) in _COMPARED.items()} | {"step_type": row["step_type"]}
        for row in sums
    ]
    return [*rows, {name: sum(row[name] for row in rows) for name in _COMPARED} | {"step_type": "all"}]


_COMPARED: dict[str, tuple[str, float]] = {
    "steps_a": ("steps_a", 1),
    "steps_b": ("steps_b", 1),
    "other_status": ("status_changes", 1),
    "cents_a": ("cost_cents_a", 1),
    "cents_b": ("cost_cents_b", 1),
    "cents_diff": ("cost_cents_difference", 1),
    "tokens_a": ("tokens_a", 1),
    "tokens_b": ("tokens_b", 1),
    "tokens_diff": ("tokens_difference", 1),
    "s_a": ("duration_ms_a", 0.001),
    "s_b": ("duration_ms_b", 0.001),
    "s_diff": ("duration_ms_difference", 0.001),
}
"""By heading: the column of the sums, and what to multiply it by."""


def _steps(
    store: ExportBundleStore, columns: Sequence[str], since: str | None, until: str | None
) -> duckdb.DuckDBPyRelation:
    wanted = {"tenant_id", "run_id", "trace_id", "agent_id", *columns}
    return store.load_trace_steps(since=parse_time(since), until=parse_time(until), columns=wanted)
