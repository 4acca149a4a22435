"""An incident as one HTML page: the investigation notebook, executed, without its code, and the proof in the footer.

The page has no script and needs no network: images are embedded, and its Content-Security-Policy forbids the rest.
``notebook.py`` runs the notebook; only this module knows nbconvert and Jinja. What a page says about the bundle comes
from the bundle that the notebook wrote, read back and verified, not from the notebook.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporttools.bundle import Verification
from exporttools.bundle.demands import Demands
from exporttools.bundle.reader import read_demanded
from exporttools.errors import ConfigError, ExportToolsError, ReportError
from exporttools.files.durable import replaced_file
from exporttools.records.export_bundle import ExportBundle
from exporttools.records.snapshots import IncidentSnapshot
from exporttools.report.notebook import absolute_url, require_lab, run_notebook
from exporttools.text.inert import one_line
from exporttools.text.words import plural
from exporttools.times import time_text
from exporttools.version import __version__

NOTEBOOK = "investigate_incident"

_TEMPLATES = Path(__file__).parent / "templates"
_DATABASE = "EXPORTTOOLS_REPORT_DATABASE"
_NUMBER = re.compile(r"<(t[dh])([^<>]*)>([-+]?\d[-+\d.,e]*|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[\d.]*)(\+00:00)?</\1>")
_NAME_BYTES = 200  # most file systems allow 255 a name; the rest is for a number, the suffix and the temporary name


def write_report(
    incident_id: str,
    path: str | os.PathLike[str],
    *,
    database_url: str | os.PathLike[str],
    tenant_id: str | None = None,
    progress: bool = False,
) -> Path:
    """Investigate an incident and write the result as one self-contained HTML page.

    Parameters
    ----------
    incident_id : str
    path : str or path
        Where to write. An existing file is replaced, by a whole report or not at all.
    database_url : str or path
        ``postgresql://...``, ``sqlite:///file``, ``env:NAME`` or the path of an SQLite file.
    tenant_id : str, optional
        Read only this tenant's rows.
    progress : bool
        Whether to draw a progress bar on standard error.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ConfigError
        `database_url` does not name a database, or a file cannot be written at `path`.
    ReportError
        A cell of the notebook failed, for example because there is no such incident, or the file could not be written.
        A file at `path` is left as it was.
    MissingExtra
        The ``lab`` extra is not installed.

    Examples
    --------
    >>> write_report("inc-0000-1", "report.html", database_url="agents.sqlite")  # doctest: +SKIP
    PosixPath('report.html')
    """
    require_lab("a report")
    path = Path(path)
    # Unlike Path.is_dir, never an error: a name may be too long.
    if not os.path.isdir(path.parent):  # noqa: PTH112
        raise ConfigError(f"{one_line(path.parent)} is not a directory; create it first")
    if os.path.isdir(path):  # noqa: PTH112
        raise ConfigError(f"{one_line(path)} is a directory; the report of one incident is a file")
    page = _investigated(incident_id, absolute_url(database_url), tenant_id, progress=progress)
    _write(path, page.html)
    return path


@dataclass(frozen=True, slots=True)
class ReportOutcome:
    """The outcome of one incident's report.

    Attributes
    ----------
    incident : IncidentSnapshot
    path : Path or None
        The page, or None if the report failed.
    verdict : str
        The verdict on the incident's bundle, or why there is no report.
    cost_cents : int or None
        What the incident's run cost, in US cents, or None if that is not recorded.
    """

    incident: IncidentSnapshot
    path: Path | None
    verdict: str
    cost_cents: int | None = None


def write_reports(
    incidents: Iterable[IncidentSnapshot],
    directory: str | os.PathLike[str],
    *,
    database_url: str | os.PathLike[str],
    progress: bool = False,
) -> list[ReportOutcome]:
    """Write a report for each incident, and an ``index.html`` that links to them.

    A report that fails is listed in the index with the reason; the others are still written.

    Parameters
    ----------
    incidents : iterable of IncidentSnapshot
        For example ``store.list_incidents(since=...)``.
    directory : str or path
        Created if it does not exist. Pages of the same name are replaced, other files stay.
    database_url, progress
        As for :func:`write_report`.

    Returns
    -------
    list of ReportOutcome
        In the incidents' order.

    Raises
    ------
    ConfigError
        `database_url` does not name a database, or `directory` cannot be created.
    ReportError
        The index could not be written.
    MissingExtra
        The ``lab`` extra is not installed.

    Examples
    --------
    >>> outcomes = write_reports(store.list_incidents(), "reports", database_url="agents.sqlite")  # doctest: +SKIP
    >>> [outcome.incident.id for outcome in outcomes if outcome.path is None]  # doctest: +SKIP
    []
    """
    require_lab("a report")
    from tqdm import tqdm

    url, directory, listed = absolute_url(database_url), Path(directory), list(incidents)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{one_line(directory)} cannot be created as a directory: {one_line(error)}") from error
    taken = {"index"}
    outcomes = []
    for incident in tqdm(listed, unit="report", disable=not progress):
        path = directory / f"{_free_name(ExportBundle(incident).file_name, taken)}.html"
        try:
            page = _investigated(incident.id, url, incident.tenant_id)
            _write(path, page.html)
        except ExportToolsError as error:
            outcomes.append(ReportOutcome(incident, None, one_line(error, 600)))
        else:
            cost = page.bundle.run.total_cost_cents if page.bundle.run else None
            outcomes.append(ReportOutcome(incident, path, page.verification.verdict, cost))
    _write(
        directory / "index.html",
        _rendered(
            "index.html",
            outcomes=outcomes,
            failed=sum(outcome.path is None for outcome in outcomes),
            made=f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M}",
            version=__version__,
        ),
    )
    return outcomes


def _free_name(wanted: str, taken: set[str]) -> str:
    """Return a file name that is not taken, also on a file system that ignores case."""
    wanted = wanted.encode()[:_NAME_BYTES].decode(errors="ignore")
    name, number = wanted, 1
    while name.casefold() in taken:
        number += 1
        name = f"{wanted}-{number}"
    taken.add(name.casefold())
    return name


def _write(path: Path, html: str) -> None:
    try:
        with replaced_file(path) as file:
            file.write(html.encode())
    except OSError as error:
        raise ReportError(f"{one_line(path)} could not be written: {one_line(error)}") from error


@dataclass(frozen=True, slots=True)
class _Page:
    html: str
    bundle: ExportBundle
    verification: Verification


def _investigated(incident_id: str, database_url: str, tenant_id: str | None, *, progress: bool = False) -> _Page:
    with tempfile.TemporaryDirectory(prefix="exporttools-report-") as scratch, _named(database_url) as named:
        bundle_path = Path(scratch, "incident.bundle")
        # Relative to where the notebook runs, so that the page shows no path of this machine.
        parameters = {
            "incident_id": incident_id, "tenant_id": tenant_id, "database_url": named, "bundle_path": bundle_path.name,
        }  # fmt: skip
        try:
            executed = run_notebook(NOTEBOOK, Path(scratch, "executed.ipynb"), parameters, progress=progress)
        except ReportError as error:
            raise ReportError(f"no report: {error}") from error
        bundle, verification = read_demanded(bundle_path, Demands.of(None, incident_id=incident_id))
        body = _body(executed)
    html = _rendered(
        "incident.html",
        bundle=bundle,
        summary=list(_summary(bundle)),
        body=body,
        facts=list(_facts(bundle, verification)),
    )
    return _Page(html, bundle, verification)


@contextmanager
def _named(database_url: str) -> Iterator[str]:
    """Name the database without its password, since the notebook's parameters end up in a file."""
    before = os.environ.get(_DATABASE)
    os.environ[_DATABASE] = database_url
    try:
        yield f"env:{_DATABASE}"
    finally:
        del os.environ[_DATABASE]
        if before is not None:
            os.environ[_DATABASE] = before


def _body(executed: Path) -> str:
    """Return the notebook's text and outputs as HTML, without its code."""
    import nbformat
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    notebook = nbformat.read(executed, as_version=4)  # type: ignore[no-untyped-call]
    # What comes before the parameters is for whoever runs the notebook; the page has a heading of its own.
    given = [i for i, cell in enumerate(notebook.cells) if "injected-parameters" in cell.metadata.get("tags", ())]
    notebook.cells = notebook.cells[max(given, default=-1) + 1 :]
    heading = "the incident"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = next((line.lstrip("# ") for line in cell.source.splitlines() if line.startswith("#")), heading)
        cell.metadata.setdefault("alt", f"Figure: {heading}")
    config = Config(
        TemplateExporter={"exclude_input": True, "exclude_input_prompt": True, "exclude_output_prompt": True},
        HTMLExporter={"exclude_anchor_links": True, "embed_images": True},
        NbConvertBase={"display_data_priority": ["text/html", "image/png", "text/plain"]},
    )
    body: str = HTMLExporter(config=config, template_name="basic").from_notebook_node(notebook)[0]  # type: ignore[no-untyped-call]
    # On paper a wide table wraps, but a number must not: cut in two, it reads as another. A time may, before its zone.
    return _NUMBER.sub(lambda cell: f"<{cell[1]}{cell[2]} data-number>{cell[3]}<wbr>{cell[4] or ''}</{cell[1]}>", body)


def _summary(bundle: ExportBundle) -> Iterator[str]:
    """Yield the parts of the line under the heading."""
    incident, run = bundle.incident, bundle.run
    if incident is not None:
        yield from (text for text in (incident.violation_type, incident.severity) if text)
        yield f"tenant {incident.tenant_id}"
        yield f"recorded {time_text(incident.created_at)} UTC"
    if run is not None:
        cost = run.total_cost_cents
        yield "the run's cost is unknown" if cost is None else f"the run cost {cost:,} US cents"


def _facts(bundle: ExportBundle, verification: Verification) -> Iterator[tuple[str, str]]:
    """Yield what the page's reader can check it against: names and values for the footer."""
    yield "incident", bundle.name
    yield "content digest", f"sha256:{verification.content_digest}"
    yield "verification", verification.verdict
    for finding in verification.findings:
        yield "finding", str(finding)
    for remark in verification.remarks:
        yield "remark", remark
    yield "rows", ", ".join(f"{rows:,} in {table}" for table, rows in verification.rows.items())
    if bundle.missing:
        yield "missing", ", ".join(bundle.missing)
    source = bundle.source
    if source is not None:
        point = f", snapshot {source.snapshot_id}" if source.snapshot_id else ""
        yield "read at", f"{time_text(source.read_at.astimezone(dt.UTC))} UTC{point}"
        yield "source", f"{source.dialect} {source.server_version}, layout {source.layout}"
    yield "made by", f"exporttools {__version__}"


def _rendered(template: str, **values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # Everything is escaped, except what a template marks as safe.
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"one_line": one_line, "plural": plural, "time_text": time_text}
    return environment.get_template(template).render(**values)
