"""Commands that show where the money went, what is unusual, and how two runs differ."""

from __future__ import annotations

import datetime as dt
from functools import partial
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
from exporttools.errors import ConfigError
from exporttools.text.inert import one_line
from exporttools.text.words import plural
from exporttools.times import EPOCH, LATEST, epoch_us

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
        str,
        typer.Option(
            "--by",
            metavar="COLUMN,...",
            help="Group by these columns of steps or runs: agent_id,step_type or termination_reason.",
        ),
    ] = "agent_id",
    every: Annotated[
        str | None,
        typer.Option(metavar="LENGTH", help="Also group by time, in periods such as 1h, 1d or 1w."),
    ] = None,
    as_model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="Show what it would have cost on this model, by the prices of the time; OLD=NEW for the calls of one model. "
            "Needs the extra prices.",
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

    For each group: cost in US cents, share of the total, tokens, steps, duration and runs. With --as-model: what the same
    calls would have cost.
    """
    from exporttools.analysis import cost_by, cost_over_time
    from exporttools.cli.terminal import write_rows

    keys = _column_names(by)
    columns = [*keys, "timestamp", "cost_cents", "tokens", "duration_ms"]
    store = open_store(context, database, tenant)
    if as_model:
        if every:
            note("error: --as-model does not go with --every; leave one of them out")
            raise typer.Exit(FAILED)
        _write_repriced(store, keys, _models(as_model), since, until, output)
        return
    steps = _steps(store, columns, since, until)
    answer = cost_over_time(steps, every, keys) if every else cost_by(steps, *keys)
    table = answer.to_arrow_table()
    rows = table.to_pylist()
    shown = table.column_names
    if output is Format.table:
        shown = [name for name in shown if name not in ("roll_ups", "ambiguous")]
        for row in rows:
            if "share" in row:
                row["share"] = "" if row["share"] is None else f"{row['share']:.1%}"
    write_rows(rows, shown, output, keys=keys)
    if every and "parent_step_index" in steps.columns:  # sums over time do not say what they leave out
        rows = cost_by(steps).to_arrow_table().to_pylist()
    _note_roll_ups(rows)


@app.command()
def anomalies(
    context: typer.Context,
    each: Annotated[
        str,
        typer.Option(metavar="run|step", help="Judge runs, by what they took and by their mean step, or single steps."),
    ] = "run",
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            metavar="COLUMN,...",
            help="Compare with what has the same values in these columns. Default: agent_id,step_type, and name for steps.",
        ),
    ] = None,
    usual_until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Take the baseline from steps before this time. Default: from all steps."),
    ] = None,
    false_alarms: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Report at most this share of what is normal. Default: 0.001.")
    ] = None,
    at_least_cents: Annotated[
        float | None,
        typer.Option(metavar="CENTS", help="Report a cost so far above the usual, not less. Default: 0.1."),
    ] = None,
    at_least_ms: Annotated[
        float | None, typer.Option(metavar="MS", help="Report a time so far above the usual, not less. Default: 1000.")
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

    A run is compared with others of its agent, as a whole and by its mean step of each type; a step with others of its
    agent, type and name. Says why in words, and how many of those listed are expected to be false alarms.
    """
    from exporttools.analysis import anomalies, baseline, run_profiles, run_totals
    from exporttools.cli.terminal import write_rows

    if each not in ("run", "step"):
        note(f"error: --each is {one_line(repr(each), 40)}; expected run or step")
        raise typer.Exit(FAILED)
    keys = ["agent_id", "step_type"] if by is None else _column_names(by)
    columns = [*keys, "step_index", "timestamp", "status", "cost_cents", "tokens", "duration_ms"]
    store = open_store(context, database, tenant)
    try:
        steps = _steps(store, [*columns, "name"], since, until)
        keys += ["name"] if by is None and each == "step" else []
    except ConfigError:  # not every layout has names; what else is wrong is raised again
        steps = _steps(store, columns, since, until)
    until_then = parse_time(usual_until)
    usual = steps if until_then is None else steps.filter(f"timestamp < TIMESTAMPTZ '{until_then.isoformat()}'")
    asked = {"false_alarms": false_alarms, "at_least_cents": at_least_cents, "at_least_ms": at_least_ms}
    options: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    judged: dict[str, duckdb.DuckDBPyRelation] = {}
    if each == "step":
        judged["steps"] = anomalies(steps, baseline(usual, by=keys), **options)
    else:
        if of_run := [key for key in keys if key in ("tenant_id", "agent_id")]:
            totals, usual_totals = (run_totals(frame, by=of_run) for frame in (steps, usual))
            judged["totals of runs"] = anomalies(totals, baseline(usual_totals, by=of_run), **options)
        profiles, usual_profiles = (run_profiles(frame, by=keys, at_least=STEPS_TO_JUDGE) for frame in (steps, usual))
        judged["mean steps of runs"] = anomalies(profiles, baseline(usual_profiles, by=keys), **options)
    names = list(dict.fromkeys(name for relation in judged.values() for name in relation.columns))
    empty = dict.fromkeys(names)
    rows = {what: [empty | row for row in relation.to_arrow_table().to_pylist()] for what, relation in judged.items()}
    found = [row for part in rows.values() for row in part if row["measure"] is not None]
    found.sort(key=lambda row: row["p_value"])
    shown = found[:limit]
    if output is Format.table:
        place = _place(shown, steps)
        names = [place, *(["step_index"] if each == "step" else []), "reason"]
    write_rows(shown, names, output, wrapped="reason")
    if len(found) > limit:
        note(f"{limit:,} of {len(found):,} shown; raise --limit to see more")
    for what, part in rows.items():
        small = sum(row["measure"] is None for row in part) - 1
        few = f"; {plural(small, 'group')} not judged: too few rows in the baseline" if small > 0 else ""
        note(f"{what}: {part[-1]['reason']}{few}" if part else f"{what}: there are none")


def _place(rows: Sequence[dict[str, Any]], steps: duckdb.DuckDBPyRelation) -> str:
    """Put where a run or step is into one column, whose name is returned: its run, with its tenant if several have one of
    that id, and with its trace if a step's run has several.
    """
    tenants = _several(steps, "run_id", "tenant_id")
    traces = _several(steps, "tenant_id, run_id", "trace_id")
    parts = ["run_id"]
    if any((row["run_id"],) in tenants for row in rows):
        parts.insert(0, "tenant_id")
    if any("trace_id" in row and (row["tenant_id"], row["run_id"]) in traces for row in rows):
        parts.append("trace_id")
    place = " ".join(parts)
    for row in rows:
        row[place] = " ".join(filter(None, (row[part] for part in parts))) or None
    return place


def _several(steps: duckdb.DuckDBPyRelation, keys: str, column: str) -> set[tuple[Any, ...]]:
    """The keys that have several values of a column."""
    counted = steps.aggregate(f"{keys}, count(DISTINCT {column}) AS several").filter("several > 1")
    return {row[:-1] for row in counted.fetchall()}


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
    """Compare two runs by step type, and say what only one of them did.

    Differences are the second run (b) minus the first (a). With --format json or csv: step by step, as in a diff.
    """
    from exporttools.analysis import compare_runs
    from exporttools.analysis.run_comparison import only_in, sums_by_step_type
    from exporttools.cli.terminal import write_rows

    store = open_store(context, database, tenant)
    bundles = [bundle_of(store, identifier) for identifier in (first, second)]
    compared = compare_runs(*bundles)
    if output is not Format.table:
        write_rows(compared.to_pylist(), compared.column_names, output)
        return
    write_rows(_with_total(sums_by_step_type(compared).to_pylist()), ["step_type", *_COMPARED], output)
    for side, words in (("a", only_in(compared, "a")), ("b", only_in(compared, "b"))):
        if words:
            typer.echo(f"only in {side}: {words}")
    for name, bundle in zip("ab", bundles, strict=True):
        note(f"{name}: {one_line(bundle.name, 80)}, {bundle_summary(bundle)}")


def _note_roll_ups(costs: Sequence[dict[str, Any]]) -> None:
    """Say what sums of costs leave out, and what they may count twice."""
    if left_out := sum(row.get("roll_ups", 0) for row in costs):
        verb = (
            "repeats the usage of its parts, which counts"
            if left_out == 1
            else "repeat the usage of their parts, which counts"
        )
        note(f"{plural(left_out, 'step')} {verb} once")
    if unclear := sum(row.get("ambiguous", 0) for row in costs):
        note(f"{plural(unclear, 'step')} and their parts have usage that may be the same; both count")


def _write_repriced(
    store: ExportBundleStore,
    keys: list[str],
    model: str | dict[str, str],
    since: str | None,
    until: str | None,
    output: Format,
) -> None:
    """Write what the steps cost and what they would have cost, and below it what could not be priced."""
    from exporttools.analysis import reprice, repricing_by, repricing_verdict
    from exporttools.cli.terminal import write_rows

    needed = ["timestamp", "model", "cost_cents", "tokens", "input_tokens", "output_tokens"]
    optional = ["price_basis", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens"]
    there = {column.name for column in store.get_columns("trace_steps")}
    if missing := [name for name in ("input_tokens", "output_tokens") if name not in there]:
        raise ConfigError(
            f"steps have no column {', '.join(missing)}, so that their calls cannot be priced: a mere sum of tokens is not split"
        )
    wanted = [name for name in needed if name in there or name != "model"] + [
        name for name in optional if name in there
    ]
    repriced = reprice(_steps(store, [*keys, *wanted], since, until), model)
    table = repricing_by(repriced, *keys).to_arrow_table()
    rows, shown = table.to_pylist(), table.column_names
    if output is Format.table:
        shown = [*keys, "calls", "cost_cents", *_REPRICED]
        if not any(row["unpriced_calls"] for row in rows):
            shown.remove("not priced")
        rows = [row | {heading: row[column] for heading, column in _REPRICED.items()} for row in rows]
        for row in rows:
            if row["unpriced_calls"] and not row["calls"] and not row["then"]:  # unknown, and not free
                row["then"] = row["difference"] = None
    write_rows(rows, shown, output, keys=keys)
    note(repricing_verdict(repriced))


_REPRICED = {"then": "repriced_cents", "difference": "difference_cents", "not priced": "unpriced_cents"}
"""By heading: the column of the sums, all in US cents."""


def _models(given: list[str]) -> str | dict[str, str]:
    """A model for all calls, or models by the models they replace."""
    if len(given) == 1 and "=" not in given[0]:
        return given[0]
    pairs = [value.partition("=") for value in given]
    if not all(old and new for old, _, new in pairs):
        raise ConfigError(
            f"--as-model is {one_line(' '.join(given), 80)}; expected one model, or OLD=NEW for each model to replace"
        )
    return {old: new for old, _, new in pairs}


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
    "cents_a": ("cost_cents_a", 1),
    "cents_b": ("cost_cents_b", 1),
    "s_a": ("duration_ms_a", 0.001),
    "s_b": ("duration_ms_b", 0.001),
    "tokens_a": ("tokens_a", 1),
    "tokens_b": ("tokens_b", 1),
    "other_status": ("status_changes", 1),
    "cents_diff": ("cost_cents_difference", 1),
    "s_diff": ("duration_ms_difference", 0.001),
    "tokens_diff": ("tokens_difference", 1),
}
"""By heading: the column of the sums, and what to multiply it by. What a narrow terminal has room for comes first."""


def _steps(
    store: ExportBundleStore, columns: Sequence[str], since: str | None, until: str | None
) -> duckdb.DuckDBPyRelation:
    """Load columns of steps and, where steps do not have them, of their runs; and those that say which steps are parts of which."""
    from exporttools.records.roll_ups import PLACE

    of_scan = ["tenant_id", "run_id", "trace_id", "agent_id"]
    of_steps = [*of_scan, *(c.name for c in store.get_columns("trace_steps") if c.name not in of_scan)]
    of_runs = [column.name for column in store.get_columns("runs") if column.name not in of_steps]
    if unknown := [name for name in columns if name not in of_steps and name not in of_runs]:
        raise ConfigError(
            f"no column {', '.join(one_line(repr(name), 60) for name in unknown)}; found {', '.join(of_steps)}; of runs "
            f"{', '.join(of_runs)}"
        )
    tree = [*PLACE, "cost_cents", "tokens", "duration_ms"] if "parent_step_index" in of_steps else []
    load = partial(
        store.load_trace_steps,
        since=parse_time(since),
        columns={*of_scan, *tree, *(name for name in columns if name in of_steps)},
        run_columns=[name for name in columns if name in of_runs],
    )
    end = parse_time(until)
    if end is None or not tree:
        return load(until=end)
    with store.snapshot():
        return _with_parts(load, end)


def _with_parts(load: Callable[..., duckdb.DuckDBPyRelation], end: dt.datetime) -> duckdb.DuckDBPyRelation:
    """Load the steps that started before a time, so that each cent counts once.

    A step that still ran then may repeat the usage of parts that started later: those are read as well, to be left out of it.
    """
    from exporttools.analysis.trees import with_own_amounts

    steps = load(until=end)
    ((last_us,),) = steps.aggregate("max(epoch_us(timestamp) + duration_ms * 1000)").fetchall()
    if last_us is None or last_us <= epoch_us(end):
        return steps
    last = LATEST if last_us >= epoch_us(LATEST) else EPOCH + dt.timedelta(microseconds=int(last_us) + 1)
    own = with_own_amounts(load(until=last))
    return own.filter(f"epoch_us(timestamp) < {epoch_us(end)}")  # type: ignore[no-any-return]
