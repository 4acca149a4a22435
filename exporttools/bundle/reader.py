"""Reads and verifies a bundle in one pass, the safest checks first, and gathers everything wrong, not just the first.

Entries are checked before they are opened. bundle.json says by which format's rules the rest is read, so it is parsed first,
strictly; the signatures are checked before their statement is parsed, every file is hashed before any Parquet is parsed,
and Parquet is read in batches under a byte budget. Each file is opened once, so that what was
hashed is what is read.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from exporttools.bundle import attestation, description
from exporttools.bundle.bag import GUIDE, TAG_FILE_BYTES, TAG_FILES, TAG_MANIFEST, check_bag
from exporttools.bundle.contents import FileSlice, open_bag
from exporttools.bundle.description import PART_FILES
from exporttools.bundle.keys import TrustedKey, TrustedKeySource, load_trusted_key
from exporttools.bundle.parts import MOST_PART_BYTES, PartRefused, read_part
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
from exporttools.text.inert import one_line

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
    trusted_keys: Iterable[TrustedKeySource] | TrustedKeySource = (),
    require_signature: bool = False,
    max_bytes: int | None = None,
) -> ExportBundle:
    """Read a bundle that verifies.

    Parameters
    ----------
    path, trusted_keys, require_signature, max_bytes
        See :func:`verify_bundle`.

    Returns
    -------
    ExportBundle
        Equal to the one that was written.

    Raises
    ------
    VerificationFailed
        The files are not what the bundle says they are, or not signed as required; see its ``findings``.
    BundleUnreadable, ConfigError, MissingExtra
        As :func:`verify_bundle` does.
    """
    verification, bundle = _read(path, trusted_keys, require_signature, max_bytes, keep=True)
    if bundle is None or not verification.ok:
        findings = "; ".join(map(str, verification.findings[:3]))
        more = f" and {len(verification.findings) - 3} more" if len(verification.findings) > 3 else ""
        raise VerificationFailed(
            f"{one_line(verification.path)} does not verify: {findings}{more}", verification.findings
        )
    return bundle


def verify_bundle(
    path: str | os.PathLike[str],
    *,
    trusted_keys: Iterable[TrustedKeySource] | TrustedKeySource = (),
    require_signature: bool = False,
    max_bytes: int | None = None,
) -> Verification:
    """Check a bundle's files against its manifests and signature, and its rows against what it says of them.

    Parameters
    ----------
    path : str or path
        A bundle, as a directory or a zip file. It is only read; nothing is unpacked to disk.
    trusted_keys : one or more of path, PEM bytes, TrustedKey or cryptography's Ed25519PublicKey
        The public keys that you trust. Trust comes from nowhere else: the key that a bundle carries proves nothing
        about who signed it.
    require_signature : bool
        Whether a bundle fails unless one of `trusted_keys` signed it.
    max_bytes : int, optional
        The most bytes that one Parquet file may unpack to. By default 256 MiB or 200 times its size, whichever is more:
        a file that is small to send and huge to read is an attack, not a trace.

    Returns
    -------
    Verification
        Everything found to be wrong; true if nothing was.

    Raises
    ------
    BundleUnreadable
        The path is not a bundle, or the file system refused.
    ConfigError
        A trusted key is not a valid key.
    MissingExtra
        There are trusted keys, and the extra ``sign`` is not installed.

    Notes
    -----
    Memory is bounded by one batch of rows, however many there are.

    Examples
    --------
    >>> import tempfile
    >>> from exporttools import ExportBundle, RunSnapshot, verify_bundle, write_bundle
    >>> bundle = ExportBundle(run=RunSnapshot(run_id="r1", tenant_id="acme"))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     verify_bundle(write_bundle(bundle, f"{directory}/r1")).verdict
    'intact, unsigned'
    """
    return _read(path, trusted_keys, require_signature, max_bytes, keep=False)[0]


def _read(
    path: str | os.PathLike[str],
    trusted_keys: Iterable[TrustedKeySource] | TrustedKeySource,
    require_signature: bool,
    max_bytes: int | None,
    *,
    keep: bool,
) -> tuple[Verification, ExportBundle | None]:
    """Verify; with `keep`, also return the rows."""
    trusted = _load(trusted_keys)
    bag = Path(path)
    try:
        with open_bag(bag, required=_REQUIRED, optional=_OPTIONAL) as opened:
            findings = list(opened.findings)
            envelope, stated, more = _verify_files(opened.files, trusted)
            findings += more
            if require_signature and not (envelope and envelope.trusted):
                expected = f"a signature by a trusted key ({len(trusted)} given)"
                found = "no signature by a trusted key" if envelope else "no signature"
                findings.append(Finding("signature", attestation.FILE_NAME, expected, found))
            bundle, totals = None, None
            if stated is not None and not findings:  # a file that fails its manifest is not parsed
                bundle, totals, findings = _read_rows(opened.files, stated, max_bytes, keep=keep)
    except OSError as error:
        raise BundleUnreadable(f"{one_line(bag)} cannot be read: {one_line(error)}") from error
    verification = Verification(
        bag,
        tuple(findings),
        stated["content_digest"] if stated and totals and not findings else None,
        {_SNAPSHOT_TYPES[part].RECORD_TYPE.table: of.rows for part, of in totals.items()} if totals else {},
        redacted=tuple(stated["redacted"]) if stated and totals else (),
        signed_by=envelope.key_ids if envelope else (),
        trusted=tuple(key.key_id for key in envelope.trusted) if envelope else (),
        signature_checked=envelope is not None and envelope.checked,
        remarks=tuple(description.remarks(stated, totals)) if stated and totals and not findings else (),
    )
    return verification, bundle


def _load(sources: Iterable[TrustedKeySource] | TrustedKeySource) -> list[TrustedKey]:
    if isinstance(sources, Iterable) and not isinstance(sources, (str, bytes)):
        return [load_trusted_key(source) for source in sources]
    return [load_trusted_key(sources)]


def _verify_files(
    files: Mapping[str, FileSlice], trusted: list[TrustedKey]
) -> tuple[attestation.SignatureCheck | None, dict[str, Any] | None, list[Finding]]:
    """The signature, if any, the description, if valid, and what is wrong with any file's bytes."""
    findings: list[Finding] = []
    contents = {name: files[name].read() for name in (*_OPTIONAL, *_REQUIRED) if name in files and _is_small(name)}
    stated = None
    if description.PATH in contents:
        stated, more = description.parse(contents[description.PATH])
        findings += more
    # A bundle whose description is not valid fails; what else is wrong is told by the rules of the format it looks like.
    format_version = stated["format_version"] if stated is not None else 2 if GUIDE in files else 1
    signature = None
    if attestation.FILE_NAME in contents:
        written_at = None if stated is None else dt.datetime.fromisoformat(stated["written_at"])
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
) -> tuple[ExportBundle | None, dict[str, RowTotals] | None, list[Finding]]:
    """The bundle (with `keep`), the totals of its rows, and where they differ from the description."""
    findings: list[Finding] = []
    totals: dict[str, RowTotals] = {}
    tables: dict[str, SnapshotTable[Any]] = {}
    for part, name in PART_FILES.items():
        try:
            totals[part], tables[part] = _read_table(part, files[name], max_bytes, keep=keep)
        except (PartRefused, ExportToolsError) as error:
            findings.append(Finding("schema", name, f"the rows of a bundle's {part}", one_line(error, 400)))
    if findings:
        return None, None, findings
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
        return None, None, [Finding("content", description.PATH, "parts that belong together", one_line(error, 400))]
    if totals["steps"].rows and head.trace is None:
        found = f"{totals['steps'].rows:,} steps without a trace"
        findings.append(Finding("content", description.PATH, "parts that belong together", found))
    findings += description.check_statements(stated, head, totals)
    return (ExportBundle(**others, steps=steps) if keep and not findings else None), totals, findings


def _read_table(
    part: str, file: FileSlice, max_bytes: int | None, *, keep: bool
) -> tuple[RowTotals, SnapshotTable[Any]]:
    """The totals of a part's rows, and the rows; those of the steps only with `keep`."""
    snapshot_type = _SNAPSHOT_TYPES[part]
    schema, batches = read_part(snapshot_type.RECORD_TYPE, file, max_bytes=max_bytes)
    totals, kept = RowTotals(snapshot_type.RECORD_TYPE, schema), []
    for batch in batches:
        totals.update(batch)
        if keep or part != "steps":
            kept.append(batch)
        if part != "steps" and totals.rows > 1:
            break  # one too many is enough
    return totals, SnapshotTable(snapshot_type, pa.Table.from_batches(kept, schema))
