"""Reads and verifies a bundle in one pass, the safest checks first, and gathers everything wrong, not just the first.

Entries are checked before they are opened. bundle.json says by which format's rules the rest is read, so it is parsed first,
strictly; the signatures are checked before their statement is parsed, every file is hashed before any Parquet is parsed,
and Parquet is read in batches under a byte budget.

What was hashed is what is read, whoever writes to the files in between: each is opened once; small ones are read once, and of
a Parquet file, so is its end with the footer. Its rows are held to the content digest in the description. Somebody who
rewrites the pages of a large file at that moment can make reading fail, at worst by a crash of pyarrow, but not lie.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from exporttools.bundle import attestation, description
from exporttools.bundle.archive import FIT, unfit
from exporttools.bundle.bag import GUIDE, MANIFEST, TAG_FILE_BYTES, TAG_FILES, TAG_MANIFEST, check_bag, is_foreign
from exporttools.bundle.contents import BagFiles, FileSlice, open_bag
from exporttools.bundle.demands import Demands, TrustedKeySources
from exporttools.bundle.description import PART_FILES
from exporttools.bundle.keys import TrustedKey
from exporttools.bundle.parts import MOST_END_BYTES, MOST_PART_BYTES, PartRefused, read_part
from exporttools.bundle.remarks import StepNumbers, hidden_columns, remarks
from exporttools.bundle.verification import Verification
from exporttools.errors import BundleUnreadable, ConfigError, ExportToolsError, VerificationFailed
from exporttools.files.findings import Finding
from exporttools.records.export_bundle import ExportBundle
from exporttools.records.row_totals import RowTotals
from exporttools.records.snapshot_table import SnapshotTable
from exporttools.records.snapshots import (
    IncidentSnapshot,
    RunSnapshot,
    TraceStepSnapshot,
    TraceSummarySnapshot,
)
from exporttools.text.inert import one_line, quoted
from exporttools.times import parse_utc

_SNAPSHOT_TYPES: dict[str, type[Any]] = {
    "incident": IncidentSnapshot,
    "run": RunSnapshot,
    "trace": TraceSummarySnapshot,
    "steps": TraceStepSnapshot,
}

_REQUIRED = {
    **dict.fromkeys((*TAG_FILES[1], TAG_MANIFEST), TAG_FILE_BYTES),
    description.PATH: description.MOST_BYTES,
    **dict.fromkeys(PART_FILES.values(), MOST_PART_BYTES),
}
_OPTIONAL = {attestation.FILE_NAME: attestation.MAX_BYTES, GUIDE: TAG_FILE_BYTES}


def read_bundle(
    path: str | os.PathLike[str],
    *,
    trusted_keys: TrustedKeySources = None,
    require_trusted: bool = True,
    threshold: int = 1,
    incident_id: str | None = None,
    run_id: str | None = None,
    max_bytes: int | None = None,
) -> ExportBundle:
    """Read a bundle that verifies.

    Parameters
    ----------
    path, trusted_keys, require_trusted, threshold, incident_id, run_id, max_bytes
        See :func:`verify_bundle`.

    Returns
    -------
    ExportBundle
        Equal to the one that was written.

    Raises
    ------
    VerificationFailed
        The files are not what the bundle says they are, or a demand is not met; see its ``findings``.
    BundleUnreadable, ConfigError, MissingExtra
        As :func:`verify_bundle` does.

    Examples
    --------
    >>> import tempfile
    >>> from exporttools import ExportBundle, RunSnapshot, read_bundle, write_bundle
    >>> bundle = ExportBundle(run=RunSnapshot(run_id="r1", tenant_id="acme"))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     read_bundle(write_bundle(bundle, f"{directory}/r1"), run_id="r1") == bundle
    True
    """
    demands = Demands.of(
        trusted_keys, require_trusted=require_trusted, threshold=threshold, incident_id=incident_id, run_id=run_id
    )
    return read_demanded(path, demands, max_bytes=max_bytes)[0]


def read_demanded(
    path: str | os.PathLike[str], demands: Demands, *, max_bytes: int | None = None
) -> tuple[ExportBundle, Verification]:
    """Read a bundle that verifies and meets all demands, with its verification.

    Raises
    ------
    VerificationFailed, BundleUnreadable
        As :func:`read_bundle` does.
    """
    verification, bundle = _read(path, demands, max_bytes, keep=True)
    if bundle is None or not verification.ok:
        findings = "; ".join(map(str, verification.findings[:3]))
        more = f" and {len(verification.findings) - 3:,} more" if len(verification.findings) > 3 else ""
        raise VerificationFailed(f"{quoted(os.fspath(path))} does not verify: {findings}{more}", verification.findings)
    return bundle, verification


def verify_bundle(
    path: str | os.PathLike[str],
    *,
    trusted_keys: TrustedKeySources = None,
    require_trusted: bool = True,
    threshold: int = 1,
    incident_id: str | None = None,
    run_id: str | None = None,
    max_bytes: int | None = None,
) -> Verification:
    """Check a bundle's files against its manifests and signature, its rows against what it says of them, and your demands.

    Parameters
    ----------
    path : str or path
        A bundle, as a directory or a zip file. It is only read; nothing is unpacked to disk.
    trusted_keys : one or more of path, PEM bytes, TrustedKey or cryptography's Ed25519PublicKey, optional
        The public keys that you trust; the path of a directory stands for every key in it. Naming keys is a demand:
        the bundle is authentic by `threshold` of them, or it fails. Trust comes from nowhere else. A key that is given
        twice counts once; one that was not valid when the bundle says it was written does not count.
    require_trusted : bool
        False: a bundle that the keys have not signed does not fail for that, and its verdict says so.
    threshold : int
        How many of the keys must have signed.
    incident_id, run_id : str, optional
        The incident and the run that the bundle must be about. A file's name says nothing about what is in it.
    max_bytes : int, optional
        The most bytes that one Parquet file may unpack to. By default 256 MiB or 200 times its size, whichever is more:
        a file that is small to send and huge to read is an attack, not a trace.

    Returns
    -------
    Verification
        What was verified, and everything found to be wrong; true if nothing was.

    Raises
    ------
    BundleUnreadable
        The path is not a bundle, or the file system refused.
    ConfigError
        A trusted key is not a valid key, there are no keys in what is given as such, or fewer than `threshold`;
        `require_trusted` or `threshold` is given without keys; an id is empty; `max_bytes` is not a number above 0.
    MissingExtra
        There are trusted keys, and the extra ``sign`` is not installed.

    Notes
    -----
    Memory is bounded by one batch of rows, however many there are.

    Examples
    --------
    >>> import tempfile
    >>> from exporttools import ExportBundle, RunSnapshot, verify_bundle, write_bundle, write_key_pair
    >>> bundle = ExportBundle(run=RunSnapshot(run_id="r1", tenant_id="acme"))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     key, other = write_key_pair(f"{directory}/alice"), write_key_pair(f"{directory}/bob")
    ...     path = write_bundle(bundle, f"{directory}/r1", signing_key=key)
    ...     for keys in (None, f"{directory}/alice.pub", f"{directory}/bob.pub"):
    ...         found = verify_bundle(path, trusted_keys=keys)
    ...         print(bool(found), found.verdict)
    True intact, signature not checked
    True authentic, signed by alice.pub
    False failed
    """
    demands = Demands.of(
        trusted_keys, require_trusted=require_trusted, threshold=threshold, incident_id=incident_id, run_id=run_id
    )
    return verify_demanded(path, demands, max_bytes=max_bytes)


def verify_demanded(path: str | os.PathLike[str], demands: Demands, *, max_bytes: int | None = None) -> Verification:
    """Check a bundle as :func:`verify_bundle` does, with demands that were checked and keys that were loaded before.

    Raises
    ------
    BundleUnreadable
        The path is not a bundle, or the file system refused.
    """
    return _read(path, demands, max_bytes, keep=False)[0]


@dataclass(frozen=True, slots=True)
class _Rows:
    """What was read: the parts without the steps, the whole bundle (with ``keep``), and what follows from the rows."""

    head: ExportBundle
    bundle: ExportBundle | None
    totals: dict[str, RowTotals]
    remarks: tuple[str, ...]


def _read(
    path: str | os.PathLike[str], demands: Demands, max_bytes: int | None, *, keep: bool
) -> tuple[Verification, ExportBundle | None]:
    """Verify; with `keep`, also return the rows."""
    if not os.fspath(path):  # which Path takes for the working directory
        raise BundleUnreadable("the path is empty, perhaps from a variable that is not set; expected that of a bundle")
    if max_bytes is not None and (not isinstance(max_bytes, int) or isinstance(max_bytes, bool) or max_bytes < 1):
        raise ConfigError(f"max_bytes is {one_line(repr(max_bytes))}; expected a number of bytes, at least 1, or None")
    bag = Path(path)
    rows = None
    try:
        with open_bag(bag, required=_REQUIRED, optional=_OPTIONAL) as opened:
            contents = {name: file.read() for name, file in opened.files.items() if _is_small(name)}
            for name in opened.files.keys() - contents:
                opened.files[name].hold_end(MOST_END_BYTES)
            if (nothing := _nothing_to_judge(opened, contents)) is not None:
                return Verification(bag, nothing, threshold=demands.threshold), None
            signature, stated, more = _verify_files(opened.files, contents, list(demands.trusted_keys))
            findings = [*opened.findings, *_unfit_base(bag.name, opened.base, stated), *more]
            findings += demands.unmet(signature, stated)
            if stated is not None and not findings:  # a bundle that fails its manifests or a demand is not parsed
                rows, findings = _read_rows(opened.files, stated, max_bytes, keep=keep)
    except OSError as error:
        raise BundleUnreadable(f"{quoted(os.fspath(bag))} cannot be read: {one_line(error)}") from error
    if rows is None or stated is None or findings:
        return Verification(bag, tuple(findings), threshold=demands.threshold), None
    source, (first, last) = rows.head.source, rows.totals["steps"].time_range or (None, None)
    verification = Verification(
        bag,
        content_digest=stated["content_digest"],
        format_version=stated["format_version"],
        **{name: stated[name] for name in ("tenant_id", "incident_id", "run_id", "trace_id", "trace_count")},
        rows={_SNAPSHOT_TYPES[part].RECORD_TYPE.table: of.rows for part, of in rows.totals.items()},
        missing=tuple(stated["missing"]),
        redacted=tuple(stated["redacted"]),
        totals=_totals(stated, rows.totals["steps"]),
        first_timestamp=first,
        last_timestamp=last,
        read_at=None if source is None else source.read_at.astimezone(dt.UTC),
        written_at=parse_utc(stated["written_at"]),
        signed=signature is not None,
        signature_checked=signature is not None and bool(demands.trusted_keys),
        signed_by=() if signature is None else signature.trusted,
        threshold=demands.threshold,
        remarks=(*hidden_columns(bag, rows.head), *rows.remarks),
    )
    return verification, rows.bundle


def _nothing_to_judge(opened: BagFiles, contents: Mapping[str, bytes]) -> tuple[Finding, ...] | None:
    """The findings in what has no file of a bundle, of which nothing else can be said; None for anything else."""
    if is_foreign(opened.names, contents.get(MANIFEST, b""), [*PART_FILES.values(), description.PATH]):
        found = "a BagIt bag, but not an exporttools bundle"
        return (Finding("format", ".", f"an exporttools bundle, which has {description.PATH}", found),)
    return None if opened.files else opened.findings


def _unfit_base(name: str, base: str | None, stated: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Yield what is wrong with the name of a zip file's top directory, by the rules of the bundle's format."""
    if base is None or stated is None:
        return
    if problem := unfit(base, format_version=stated["format_version"]):
        yield Finding("archive", name, FIT, problem)


def _totals(stated: Mapping[str, Any], steps: RowTotals) -> dict[str, int | float | None]:
    """The totals in which everything counts once, as :attr:`ExportBundle.totals` names them."""
    if stated["format_version"] == 1:  # which may have counted twice
        return {"steps": steps.rows, "failed": steps.failed, **description.finite(steps.own_sums)}
    return {"failed" if name == "errors" else name: total for name, total in stated["totals"].items()}


def _verify_files(
    files: Mapping[str, FileSlice], contents: Mapping[str, bytes], trusted: list[TrustedKey]
) -> tuple[attestation.SignatureCheck | None, dict[str, Any] | None, list[Finding]]:
    """The signature, if any, the description, if valid, and what is wrong with any file's bytes."""
    findings: list[Finding] = []
    stated = None
    if description.PATH in contents:
        stated, more = description.parse(contents[description.PATH])
        findings += more
    # A bundle whose description is not valid fails; what else is wrong is told by the rules of the format it looks like.
    format_version = stated["format_version"] if stated is not None else 2 if GUIDE in files else 1
    signature = None
    if attestation.FILE_NAME in contents:
        written_at = None if stated is None else parse_utc(stated["written_at"])
        signature = attestation.check_signature(
            contents[attestation.FILE_NAME], trusted, format_version=format_version, written_at=written_at
        )
        findings += signature.findings
    payload = [*PART_FILES.values(), description.PATH]
    tags = {*TAG_FILES[format_version]}
    covered = {*payload, *tags, *([TAG_MANIFEST] if format_version == 1 else [])}
    digests = {name: _sha256(file, contents.get(name)) for name, file in files.items()}
    if signature is not None and signature.payload is not None:
        found = {name: digests[name] for name in covered if name in digests}
        findings += attestation.check_statement(
            signature.payload, found, stated, format_version=format_version, names=covered
        )
    if format_version == 2:
        signed = attestation.FILE_NAME in files
        if stated is not None and not (signed and signature is None):
            findings += attestation.check_signers(signature, stated["signed_by"])
            signed = bool(stated["signed_by"])
        tags |= {attestation.FILE_NAME} if signed else set()
        if GUIDE not in files:
            findings.append(Finding("missing", GUIDE, "a file", "nothing"))
    elif GUIDE in files:
        findings.append(Finding("unexpected", GUIDE, "no such file in a bundle of format 1", "a file"))
    sizes = {name: file.size for name, file in files.items()}
    findings += check_bag(contents, digests, sizes, payload=payload, tags=tags, description=stated)
    return signature, stated, findings


def _is_small(name: str) -> bool:
    """Whether a file is read whole, once: hashed and parsed from the same bytes."""
    return name not in PART_FILES.values()


def _sha256(file: FileSlice, content: bytes | None) -> str:
    if content is not None:
        return hashlib.sha256(content).hexdigest()
    return hashlib.file_digest(file, "sha256").hexdigest()


def _read_rows(
    files: Mapping[str, FileSlice], stated: dict[str, Any], max_bytes: int | None, *, keep: bool
) -> tuple[_Rows | None, list[Finding]]:
    """What was read, and where the rows differ from the description."""
    findings: list[Finding] = []
    totals: dict[str, RowTotals] = {}
    tables: dict[str, SnapshotTable[Any]] = {}
    numbers = StepNumbers()
    for part, name in PART_FILES.items():
        try:
            totals[part], tables[part] = _read_table(
                part, files[name], stated["format_version"], max_bytes, numbers, keep=keep
            )
        except (PartRefused, ExportToolsError) as error:
            findings.append(Finding("schema", name, f"the rows of a bundle's {part}", one_line(error, 400)))
    if findings:
        return None, findings
    steps = tables.pop("steps")
    others = {
        **tables,
        "trace_count": stated["trace_count"],
        "source": description.source_from_json(stated["source"]),
        "redacted": stated["redacted"],
    }
    try:
        head = ExportBundle(**others, steps=steps[:0])
    except ConfigError as error:
        return None, [Finding("content", description.PATH, "parts that belong together", one_line(error, 400))]
    if totals["steps"].rows and head.trace is None:
        found = f"{totals['steps'].rows:,} steps without a trace"
        findings.append(Finding("content", description.PATH, "parts that belong together", found))
    findings += description.check_statements(stated, head, totals)
    if findings:
        return None, findings
    bundle = ExportBundle(**others, steps=steps) if keep else None
    return _Rows(head, bundle, totals, tuple(remarks(stated, head, totals["steps"], numbers))), []


def _read_table(
    part: str, file: FileSlice, format_version: int, max_bytes: int | None, numbers: StepNumbers, *, keep: bool
) -> tuple[RowTotals, SnapshotTable[Any]]:
    """The totals of a part's rows, and the rows; those of the steps only with `keep`."""
    snapshot_type = _SNAPSHOT_TYPES[part]
    schema, batches = read_part(snapshot_type.RECORD_TYPE, file, format_version=format_version, max_bytes=max_bytes)
    totals, kept = RowTotals(snapshot_type.RECORD_TYPE, schema), []
    with closing(batches):
        for batch in batches:
            totals.update(batch)
            if part == "steps":
                numbers.update(batch)
            elif part == "trace" and batch.num_rows:
                numbers.violation = batch["violation_step_index"][0].as_py()  # traces are read before their steps
            if keep or part != "steps":
                kept.append(batch)
            if part != "steps" and totals.rows > 1:
                break  # one too many is enough
    return totals, SnapshotTable(snapshot_type, pa.Table.from_batches(kept, schema))
