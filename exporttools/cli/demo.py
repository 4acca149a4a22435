"""The demo: one incident of the embedded sample, from the database to a proof, with every file kept for a look."""

from __future__ import annotations

import shutil
import sys
from itertools import count
from pathlib import Path

import typer

from exporttools.bundle import SigningKey, verify_bundle, write_bundle, write_key_pair
from exporttools.cli.overview import write_overview
from exporttools.cli.terminal import Format, write_heading, write_lines
from exporttools.database.embedded import TENANT_VARIABLE, embedded_database
from exporttools.database.store import ExportBundleStore
from exporttools.errors import ConfigError, ExportToolsError, MissingExtra
from exporttools.records.export_bundle import ExportBundle
from exporttools.report.notebook import run_notebook
from exporttools.text.inert import one_line

NOTEBOOK = "investigate_incident"


def run_demo(output: Path) -> None:
    """Show the sample's worst incident, save and verify its bundle, draw it, and run the notebook on it.

    Parameters
    ----------
    output : Path
        A directory to create; if it exists, the first free name with a number.
    """
    database = embedded_database()
    store = ExportBundleStore(database)
    if store.tenant_id is not None:
        raise ConfigError(f"the demo reads all tenants of the embedded sample; unset {TENANT_VARIABLE} to run it")
    worst = store.list_incidents(severity="critical", limit=1)[0]
    bundle = store.get_export_bundle(worst.id)
    if bundle is None:
        raise ExportToolsError(
            f"{database}: incident {worst.id!r} is listed but cannot be read; the sample is damaged, reinstall exporttools"
        )
    output = _make_new(output)

    write_overview(bundle, Format.table)
    write_heading("the proof")
    key = _make_key(output / "demo.key")
    path = write_bundle(bundle, output / f"{bundle.file_name}.bundle", signing_key=key)
    # As a recipient does who was given the public key as a file.
    write_lines(str(verify_bundle(path, trusted_keys=output / "demo.key.pub" if key else None, incident_id=worst.id)))

    made = ({"key": output / "demo.key"} if key else {}) | {
        "bundle": path,
        "timeline": _draw(bundle, output / "timeline.png"),
    }
    try:
        typer.echo("running the notebook ...", err=True)
        parameters = {
            "incident_id": worst.id,
            "database_url": f"sqlite:///{database}",
            "bundle_path": str(path.absolute()),
        }
        made["notebook"] = run_notebook(
            NOTEBOOK, output / f"{NOTEBOOK}.ipynb", parameters, progress=sys.stderr.isatty()
        )
    except MissingExtra as missing:
        typer.echo(f"SKIPPED: the notebook was not run. {missing}", err=True)

    write_heading("the files")
    for name, place in {**made, "database": database}.items():
        typer.echo(f"  {name:<9} {one_line(place)}")
    write_heading("what to try next")
    command = "exporttools" if shutil.which("exporttools") else one_line(sys.argv[0])
    for line, meaning in (
        (f"{command} incidents", "list the sample's eight incidents"),
        (f"{command} show inc-0000-2", "show another one"),
        (f"{command} verify {one_line(path)}{_trusting(key, output)}", "verify the bundle again"),
        (f"(cd {one_line(path)} && sha256sum -c manifest-sha256.txt)", "check its files without exporttools"),
        (f"{command} --database postgresql://... incidents", "read your own database"),
        (f"{command} lab", "open JupyterLab on the notebooks"),
    ):
        typer.echo(f"  {line}\n      {meaning}")


def _make_key(path: Path) -> SigningKey | None:
    """Make a key for the demo, or return None if the sign extra is not installed."""
    try:
        return write_key_pair(path)
    except MissingExtra as missing:
        typer.echo(f"SKIPPED: the bundle is not signed. {missing}", err=True)
        return None


def _trusting(key: SigningKey | None, output: Path) -> str:
    return f" --trusted-key {one_line(output / 'demo.key.pub')}" if key else ""


def _draw(bundle: ExportBundle, path: Path) -> Path:
    from exporttools.plots import timeline

    figure = timeline(bundle).get_figure(root=True)
    if figure is not None:
        figure.savefig(path, dpi=150)
    return path


def _make_new(wanted: Path) -> Path:
    """Create the directory under the first free name, so that an earlier demo's files stay."""
    for number in count(1):
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise AssertionError
