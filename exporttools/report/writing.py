"""An incident as one HTML page: the investigation notebook, executed, its code left out, and the proof at its foot.

The page has no script and asks no network for anything: images are inside it, and its Content-Security-Policy forbids
the rest. The notebook is run by ``notebook.py``; nbconvert and Jinja are known here alone. Whatever a page says of the
bundle is told by the bundle that the notebook wrote, as read again and verified, not by the notebook.
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

from exporttools.bundle import Verification, read_bundle, verify_bundle
from exporttools.connections.urls import parse_url, resolved
from exporttools.errors import ConfigError, ExportToolsError, ReportError
from exporttools.files.durable import replaced_file
from exporttools.records.export_bundle import ExportBundle
from exporttools.records.snapshots import IncidentSnapshot
from exporttools.report.notebook import require_lab, run_notebook
from exporttools.text.inert import one_line
from exporttools.version import __version__

NOTEBOOK = "investigate_incident"

_TEMPLATES = Path(__file__).parent / "templates"
_DATABASE = "EXPORTTOOLS_REPORT_DATABASE"
_NUMBER = re.compile(r"<(t[dh])([^<>]*)>([-+]?\d[-+\d.,e]*|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[\d.]*)(\+00:00)?</\1>")
_NAME_BYTES = 200  # most file systems take 255 for a name; the rest is for a number, the suffix and a partial's


def write_report(
    incident_id: str,
    path: str | os.PathLike[str],
    *,
    database_url: str | os.PathLike[str],
    tenant_id: str | None = None,
    progress: bool = False,
) -> Path:
    """Investigate an incident and write what was found as one self-contained HTML page.

    Parameters
    ----------
    incident_id : str
    path : str or path
        Where to write; a file that is there is replaced, by a whole report or not at all.
    database_url : str or path
        ``postgresql://...``, ``sqlite:///file``, ``env:NAME`` or the path of an SQLite file.
    tenant_id : str, optional
        Read this tenant's rows only.
    progress : bool
        Whether to draw a progress bar on standard error.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ConfigError
        That is no database, or no place for a file.
    ReportError
        A cell of the notebook failed, as it does where there is no such incident, or the file system refused; what was
        at `path` is as it was.
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
        raise ConfigError(f"{one_line(path.parent)} is no directory; make it first")
    if os.path.isdir(path):  # noqa: PTH112
        raise ConfigError(f"{one_line(path)} is a directory; a report of one incident is a file")
    page = _investigated(incident_id, _absolute(database_url), tenant_id, progress=progress)
    _write(path, page.html)
    return path


@dataclass(frozen=True, slots=True)
class ReportOutcome:
    """What became of one incident's report.

    Attributes
    ----------
    incident : IncidentSnapshot
    path : Path or None
        The page; None: it could not be made.
    verdict : str
        That of the incident's bundle, or why there is no report.
    cost_cents : int or None
        What the incident's run cost, in US cents; None where that is not known.
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
    """Write a report for each of some incidents, and ``index.html`` that leads to them.

    A report that fails is listed in the index with the reason, and does not keep the others from being made.

    Parameters
    ----------
    incidents : iterable of IncidentSnapshot
        Such as ``store.list_incidents(since=...)``.
    directory : str or path
        Made where it is not there. Pages of the same names in it are replaced, others stay.
    database_url, progress
        As for :func:`write_report`.

    Returns
    -------
    list of ReportOutcome
        In the incidents' order.

    Raises
    ------
    ConfigError
        That is no database, or no place for a directory.
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

    url, directory, listed = _absolute(database_url), Path(directory), list(incidents)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{one_line(directory)} cannot be made a directory: {one_line(error)}") from error
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


def _absolute(database: str | os.PathLike[str]) -> str:
    """The URL of a database for a process that works in another directory; may hold a password."""
    named = resolved(database)
    if not isinstance(named, (str, os.PathLike)):
        raise ConfigError(f"a report reads a database by its URL; found {type(named).__name__}")
    url = parse_url(named)
    if url.get_backend_name() == "sqlite":
        url = url.set(database=str(Path(url.database or "").absolute()))
    return url.render_as_string(hide_password=False)


def _free_name(wanted: str, taken: set[str]) -> str:
    """A file's name that none of the others has, whatever the file system thinks of upper and lower case."""
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
        # Relative to where the notebook runs, so that the page names no place of this machine.
        parameters = {
            "incident_id": incident_id, "tenant_id": tenant_id, "database_url": named, "bundle_path": bundle_path.name,
        }  # fmt: skip
        executed = _executed(Path(scratch, "executed.ipynb"), parameters, progress=progress)
        verification = verify_bundle(bundle_path)
        bundle = read_bundle(bundle_path)
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
    """A name for a database that holds no password: what the notebook is given ends up in a file."""
    before = os.environ.get(_DATABASE)
    os.environ[_DATABASE] = database_url
    try:
        yield f"env:{_DATABASE}"
    finally:
        del os.environ[_DATABASE]
        if before is not None:
            os.environ[_DATABASE] = before


def _executed(output: Path, parameters: dict[str, str | None], *, progress: bool) -> Path:
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill import PapermillExecutionError

    try:
        return run_notebook(NOTEBOOK, output, parameters, progress=progress)
    except PapermillExecutionError as error:
        raise ReportError(
            f"no report: cell {error.cell_index} of the notebook {NOTEBOOK} failed: "
            f"{one_line(error.ename, 60)}: {one_line(error.evalue, 600)}"
        ) from error
    except (CellTimeoutError, DeadKernelError, NoSuchKernel) as error:
        raise ReportError(
            f"no report: the notebook {NOTEBOOK} could not be run: {type(error).__name__}: {one_line(error, 600)}"
        ) from error


def _body(executed: Path) -> str:
    """What the notebook says and shows, as HTML, without its code."""
    import nbformat
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    notebook = nbformat.read(executed, as_version=4)  # type: ignore[no-untyped-call]
    # What stands before the parameters tells whoever runs the notebook how to; the page has a heading of its own.
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
    # Where a wide table must wrap, on paper, a number is not to: cut in two it reads as another. A time may, before its zone.
    return _NUMBER.sub(lambda cell: f"<{cell[1]}{cell[2]} data-number>{cell[3]}<wbr>{cell[4] or ''}</{cell[1]}>", body)


def _summary(bundle: ExportBundle) -> Iterator[str]:
    """The line under the heading."""
    incident, run = bundle.incident, bundle.run
    if incident is not None:
        yield from (text for text in (incident.violation_type, incident.severity) if text)
        yield f"tenant {incident.tenant_id}"
        yield f"recorded {incident.created_at:%Y-%m-%d %H:%M:%S} UTC"
    if run is not None and run.total_cost_cents is not None:
        yield f"the run cost {run.total_cost_cents:,} US cents"


def _facts(bundle: ExportBundle, verification: Verification) -> Iterator[tuple[str, str]]:
    """What the page's reader can hold it against."""
    yield "incident", bundle.name
    yield "content digest", f"sha256:{verification.content_digest}"
    yield "verification", verification.verdict
    for finding in verification.findings:
        yield "found", str(finding)
    yield "rows", ", ".join(f"{rows:,} in {table}" for table, rows in verification.rows.items())
    if bundle.missing:
        yield "missing", ", ".join(bundle.missing)
    source = bundle.source
    if source is not None:
        point = f", snapshot {source.snapshot_id}" if source.snapshot_id else ""
        yield "read", f"{source.read_at:%Y-%m-%d %H:%M:%S} UTC{point}"
        yield "from", f"{source.dialect} {source.server_version}, layout {source.layout}"
    yield "made by", f"exporttools {__version__}"


def _rendered(template: str, **values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # Everything is escaped that a template does not say to be HTML.
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["one_line"] = one_line
    return environment.get_template(template).render(**values)
