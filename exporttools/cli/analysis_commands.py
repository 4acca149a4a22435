"""Commands that ask where the money went, what is unusual, and how two runs differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from exporttools.cli.application import (
    FAILED,
    DatabaseOption,
    FormatOption,
    TenantOption,
    app,
    bundle_of,
    note,
    open_store,
    parse_time,
)
from exporttools.cli.terminal import Format
from exporttools.errors import StoreError
from exporttools.text.inert import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

    from exporttools.database.store import ExportBundleStore

STEPS_TO_JUDGE = 5
"""How many steps of a type a run needs for their mean to be judged."""

SinceOption = Annotated[str | None, typer.Option(metavar="TIME", help="Steps that started from this time on.")]
UntilOption = Annotated[str | None, typer.Option(metavar="TIME", help="Steps that started before this time.")]


@app.command()
def cost(
    context: typer.Context,
    by: Annotated[
        str, typer.Option("--by", metavar="COLUMN,...", help="What to split by, such as agent_id,step_type or model.")
    ] = "agent_id",
    every: Annotated[
        str | None, typer.Option(metavar="LENGTH", help="For each such period, as 1h, 1d, 1w; by one column at most.")
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    database: DatabaseOption = None,
    tenant: TenantOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Say where the money went: cents, share, tokens, steps and runs, the dearest first."""
    from exporttools.analysis import cost_by, cost_over_time
    from exporttools.cli.terminal import write_rows

    keys = [name.strip() for name in by.split(",") if name.strip()]
    if every is not None and len(keys) > 1:
        note(f"error: --every splits by one column; found --by {one_line(by, 60)}")
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
        str, typer.Option(metavar="run|step", help="Judge what a run's steps were like on average, or single steps.")
    ] = "run",
    by: Annotated[
        str, typer.Option("--by", metavar="COLUMN,...", help="What is compared with its like.")
    ] = "agent_id,step_type",
    usual_until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="What started before this time is what is usual; without: everything."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(metavar="Z", help="The robust z-score from which on it is unusual; default 5.")
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="At most so many, the most unusual.")] = 50,
    database: DatabaseOption = None,
    tenant: TenantOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Say which runs, or steps, cost or took far more than is usual for their agent and step type, and why."""
    from exporttools.analysis import anomalies, baseline, run_profiles
    from exporttools.analysis.baselines import THRESHOLD
    from exporttools.cli.terminal import write_rows

    if each not in ("run", "step"):
        note(f"error: --each is {one_line(repr(each), 40)}; accepted are run and step")
        raise typer.Exit(FAILED)
    keys = [name.strip() for name in by.split(",") if name.strip()]
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
        note(f"{limit:,} of {len(found):,} shown; --limit shows more")
    if small := len(rows) - len(found):
        note(f"{small:,} kinds of steps had too few like them to be judged")


@app.command()
def compare(
    context: typer.Context,
    first: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or an incident's.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="Another's.")],
    database: DatabaseOption = None,
    tenant: TenantOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Compare two runs: what the second has more of than the first, by step type; as JSON or CSV step by step."""
    from exporttools.analysis import compare_runs
    from exporttools.cli.terminal import write_rows

    store = open_store(context, database, tenant)
    bundles = [bundle_of(store, identifier) for identifier in (first, second)]
    compared = compare_runs(*bundles)
    if output is not Format.table:
        write_rows(compared.to_pylist(), compared.column_names, output)
        return
    rows = _by_step_type(compared.to_pylist())
    write_rows(rows, list(rows[-1]), output)
    for name, bundle in zip("ab", bundles, strict=True):
        missing = f"; missing {', '.join(bundle.missing)}" if bundle.missing else ""
        note(f"{name}: {one_line(bundle.name, 80)}, {bundle.steps.describe()}{missing}")


def _by_step_type(compared: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Steps, cents, tokens and seconds of both runs and their differences, the greatest difference in cost first."""
    total: dict[str, Any] = dict.fromkeys(_COMPARED, 0)
    sums: dict[str, dict[str, Any]] = {}
    for step in compared:
        for row in (sums.setdefault(step["step_type"], dict.fromkeys(_COMPARED, 0)), total):
            row["steps_a"] += step["step_index_a"] is not None
            row["steps_b"] += step["step_index_b"] is not None
            row["other_status"] += step["change"] == "status"
            for unit, measure, scale in (
                ("cents", "cost_cents", 1),
                ("tokens", "tokens", 1),
                ("s", "duration_ms", 0.001),
            ):
                for side in "ab":
                    row[f"{unit}_{side}"] += (step[f"{measure}_{side}"] or 0) * scale
                row[f"{unit}_diff"] += step[f"{measure}_difference"] * scale
    ordered = sorted(sums.items(), key=lambda item: (-abs(item[1]["cents_diff"]), -abs(item[1]["s_diff"]), item[0]))
    return [*({"step_type": name, **row} for name, row in ordered), {"step_type": "all", **total}]


_COMPARED = (
    *("steps_a", "steps_b", "other_status"),
    *(f"{unit}_{side}" for unit in ("cents", "tokens", "s") for side in ("a", "b", "diff")),
)


def _steps(
    store: ExportBundleStore, columns: Sequence[str], since: str | None, until: str | None
) -> duckdb.DuckDBPyRelation:
    """The fleet's steps as a table of DuckDB's, which goes to disk where memory ends."""
    import duckdb

    wanted = list(dict.fromkeys(["tenant_id", "run_id", "trace_id", "agent_id", *columns]))
    reader = store.scan_trace_steps(since=parse_time(since), until=parse_time(until), columns=wanted)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    try:
        connection.execute("CREATE TEMP TABLE steps AS FROM reader")
    except duckdb.Error as error:  # what the database said reaches us as DuckDB's
        raise StoreError(f"reading the steps stopped: {one_line(error, 1500)}") from error
    del reader
    return connection.table("steps")
