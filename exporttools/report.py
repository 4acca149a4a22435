"""An incident as one HTML page: the investigation notebook, executed, its code left out, and the proof at its foot.

The page has no script and asks no network for anything: images are inside it, and its Content-Security-Policy forbids
the rest. The notebook is run by ``notebook.py``; nbconvert is known here alone.
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

from exporttools.bundle import Verification, read_bundle, verify_bundle
from exporttools.durable import replaced_file
from exporttools.errors import ExportToolsError, ReportError
from exporttools.export_bundle import ExportBundle
from exporttools.inert import html_text, one_line
from exporttools.notebook import require_lab, run_notebook
from exporttools.snapshots import IncidentSnapshot
from exporttools.version import __version__

NOTEBOOK = "investigate_incident"

_URL = "EXPORTTOOLS_REPORT_DATABASE"
_SHOWN = ["text/html", "image/png", "text/plain"]


def write_report(incident_id: str, path: str | Path, *, database_url: str, tenant_id: str | None = None) -> Path:
    """Investigate an incident and write what was found as one self-contained HTML page.

    Parameters
    ----------
    incident_id : str
    path : str or Path
        Where to write; a report that is there is replaced, by a whole one or not at all.
    database_url : str
        As for :class:`exporttools.ExportBundleStore`.
    tenant_id : str, optional
        Read this tenant's rows only.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ReportError
        A cell of the notebook failed, as it does where there is no such incident; nothing was written.
    MissingExtra
        The ``lab`` extra is not installed.
    OSError
        What the file system says.
    """
    path = Path(path)
    page = _page(incident_id, database_url, tenant_id)
    with replaced_file(path) as file:
        file.write(page.html.encode())
    return path


@dataclass(frozen=True, slots=True)
class ReportOutcome:
    """What became of one incident's report.

    Attributes
    ----------
    incident : IncidentSnapshot
    path : Path or None
        None: it could not be made.
    verdict : str
        That of the bundle, or why there is no report.
    """

    incident: IncidentSnapshot
    path: Path | None
    verdict: str


def write_reports(
    incidents: Iterable[IncidentSnapshot], directory: str | Path, *, database_url: str
) -> Iterator[ReportOutcome]:
    """Write a report for each of some incidents, and ``index.html`` that leads to them.

    A report that fails is listed in the index with the reason, and does not keep the others from being made.

    Parameters
    ----------
    incidents : iterable of IncidentSnapshot
    directory : str or Path
        Made where it is not there. Reports in it are replaced.
    database_url : str
        As for :class:`exporttools.ExportBundleStore`.

    Yields
    ------
    ReportOutcome
        After each report; the index is written after the last.

    Raises
    ------
    MissingExtra
        The ``lab`` extra is not installed.
    OSError
        What the file system says.
    """
    require_lab("a report")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    outcomes = []
    taken = {"index"}
    for incident in incidents:
        name = _free_name(ExportBundle(incident).file_name, taken)
        try:
            page = _page(incident.id, database_url, incident.tenant_id)
        except ExportToolsError as error:
            outcome = ReportOutcome(incident, None, one_line(error, 500))
        else:
            with replaced_file(directory / f"{name}.html") as file:
                file.write(page.html.encode())
            outcome = ReportOutcome(incident, directory / f"{name}.html", page.verification.verdict)
        outcomes.append(outcome)
        yield outcome
    with replaced_file(directory / "index.html") as file:
        file.write(_index(outcomes).encode())


def _free_name(wanted: str, taken: set[str]) -> str:
    """A file's name that none of the others has, whatever the file system thinks of upper and lower case."""
    name, number = wanted, 1
    while name.lower() in taken:
        number += 1
        name = f"{wanted}-{number}"
    taken.add(name.lower())
    return name


@dataclass(frozen=True, slots=True)
class _Page:
    html: str
    verification: Verification


def _page(incident_id: str, database_url: str, tenant_id: str | None) -> _Page:
    require_lab("a report")
    from papermill import PapermillExecutionError

    with tempfile.TemporaryDirectory(prefix="exporttools-report-") as scratch, _named(database_url) as named:
        bundle_path = Path(scratch, "incident.bundle")
        # Relative to where the notebook runs, so that the page names no place of this machine.
        parameters = {
            "incident_id": incident_id, "tenant_id": tenant_id, "database_url": named, "bundle_path": bundle_path.name,
        }  # fmt: skip
        try:
            executed = run_notebook(NOTEBOOK, Path(scratch, "executed.ipynb"), parameters)
        except PapermillExecutionError as error:
            raise ReportError(
                f"no report of {one_line(repr(incident_id), 80)}: cell {error.cell_index} of the notebook {NOTEBOOK} failed: "
                f"{one_line(error.ename, 60)}: {one_line(error.evalue, 600)}"
            ) from error
        verification = verify_bundle(bundle_path)
        bundle = read_bundle(bundle_path)
        body = _body(executed)
    return _Page(_document(f"Incident {incident_id}", body + _foot(bundle, verification)), verification)


@contextmanager
def _named(database_url: str) -> Iterator[str]:
    """A name for a database that holds no password: what the notebook is given ends up in a file."""
    before = os.environ.get(_URL)
    os.environ[_URL] = database_url
    try:
        yield f"env:{_URL}"
    finally:
        del os.environ[_URL]
        if before is not None:
            os.environ[_URL] = before


def _body(executed: Path) -> str:
    """What the notebook says and shows, as HTML, without its code."""
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    hidden = {"exclude_input": True, "exclude_input_prompt": True, "exclude_output_prompt": True}
    config = Config(TemplateExporter=hidden, NbConvertBase={"display_data_priority": _SHOWN})
    exporter = HTMLExporter(config=config, template_name="basic", embed_images=True)  # type: ignore[no-untyped-call]
    body: str = exporter.from_filename(str(executed))[0]
    # Anchors to link to cells by, which without a menu lead nowhere.
    return re.sub(r'<a class="anchor-link"[^>]*>.*?</a>', "", body)


def _foot(bundle: ExportBundle, verification: Verification) -> str:
    """What the page's reader can hold it against."""
    source = bundle.source
    facts = [
        ("bundle", bundle.name),
        ("content digest", f"sha256:{verification.content_digest}"),
        ("verification", verification.verdict),
        ("rows", ", ".join(f"{rows:,} in {table}" for table, rows in verification.rows.items())),
    ]
    if bundle.missing:
        facts.append(("missing", ", ".join(bundle.missing)))
    if source is not None:
        facts.append(
            (
                "read",
                f"{source.read_at:%Y-%m-%d %H:%M:%S} UTC from {source.dialect} {source.server_version}, layout {source.layout}",
            )
        )
    facts.append(("made by", f"exporttools {__version__}"))
    rows = "".join(f"<tr><th>{name}</th><td>{html_text(value, 300)}</td></tr>" for name, value in facts)
    explained = (
        "The content digest is SHA-256 over the rows, whatever database or file they are read from. "
        "<code>exporttools bundle</code> saves them; <code>exporttools verify</code> gives the digest again."
    )
    return f"<footer><table class='facts'>{rows}</table><p>{explained}</p></footer>"


def _index(outcomes: Iterable[ReportOutcome]) -> str:
    rows = []
    count = failed = 0
    for outcome in outcomes:
        incident, count = outcome.incident, count + 1
        failed += outcome.path is None
        name = html_text(incident.id, 120)
        link = f"<a href='{html_text(outcome.path.name, 300)}'>{name}</a>" if outcome.path else name
        values = (
            f"{incident.created_at:%Y-%m-%d %H:%M:%S}", incident.severity, incident.violation_type, incident.tenant_id,
            incident.source_run_id, outcome.verdict if outcome.path else f"no report: {outcome.verdict}",
        )  # fmt: skip
        cells = "".join(f"<td>{'' if value is None else html_text(value, 500)}</td>" for value in values)
        rows.append(f"<tr{'' if outcome.path else ' class=failed'}><td>{link}</td>{cells}</tr>")
    head = "".join(
        f"<th>{name}</th>" for name in ("incident", "recorded (UTC)", "severity", "what", "tenant", "run", "bundle")
    )
    said = f"{count:,} incident{'' if count == 1 else 's'}" + (f", {failed:,} without a report" if failed else "")
    made = f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC by exporttools {__version__}"
    table = (
        f"<div class='output_html'><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
    return _document("Incidents", f"<h1>Incidents</h1><p>{said}; made {made}</p>{table}")


def _document(title: str, body: str) -> str:
    return (
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        f"<meta http-equiv='Content-Security-Policy' content=\"{_POLICY}\">\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{html_text(title, 120)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #1c1c1c; font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1.25rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 0.8rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 0.5rem; padding-top: 0.6rem; border-top: 1px solid #ddd; }
h3, h4 { margin: 0.8rem 0 0.3rem; }
p { margin: 0.5rem 0; }
code, pre { font: 0.88em ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0.4rem 0; }
img { max-width: 100%; height: auto; }
svg { max-width: 100%; }
.output_html { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.82rem; margin: 0.4rem 0; }
th, td { padding: 0.18rem 0.55rem; border-bottom: 1px solid #e4e4e4; vertical-align: top; text-align: left; }
thead th { border-bottom: 1.5px solid #888; white-space: nowrap; }
.dataframe { border: 0; font-variant-numeric: tabular-nums; } .dataframe td { text-align: right; } td, th { white-space: nowrap; }
footer td { white-space: normal; }
tr.failed td { color: #8a0f22; }
footer { margin-top: 2.5rem; padding-top: 0.8rem; border-top: 2px solid #1c1c1c; font-size: 0.85rem; }
footer td { overflow-wrap: anywhere; }
@page { size: A4; margin: 14mm; }
@media print {
  body { font-size: 10.5px; } main { max-width: none; padding: 0; }
  .output_html { overflow: visible; } table { font-size: 7.5px; } td, th { overflow-wrap: anywhere; padding: 0.12rem 0.3rem; white-space: normal; }
  img, svg, tr, footer { break-inside: avoid; } h1, h2, h3, h4 { break-after: avoid; }
}
"""
