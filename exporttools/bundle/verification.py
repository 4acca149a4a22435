"""The result of verifying a bundle: everything found to be wrong, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from exporttools.files.findings import Finding
from exporttools.records.schema import RECORD_TYPES
from exporttools.text.inert import html_text, one_line
from exporttools.text.words import plural


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether a bundle is what it says it is, and who signed it.

    Attributes
    ----------
    path : Path
    findings : tuple of Finding
        Everything that is wrong; empty if nothing is.
    content_digest : str or None
        SHA-256 over the rows as read; None if they were not read.
    rows : dict of str to int
        Rows read, by table.
    redacted : tuple of str
        Columns whose text was replaced by NULL before the bundle was written, such as ``runs.goal``.
    signed_by : tuple of str
        Ids of the keys that the bundle is signed with, trusted or not; empty if it is not signed.
    trusted : tuple of str
        Those of them that you trust.
    signature_checked : bool
        Whether the signatures were checked with their keys. False if there are none, or if the extra ``sign`` is not
        installed.
    remarks : tuple of str
        What is not wrong, but worth knowing: a bundle of format 1 whose totals count some usage twice.

    Notes
    -----
    An *intact* bundle was not damaged. Only an *authentic* one is known to be what somebody you trust has signed: whoever
    changes the rows of an unsigned bundle, or signs it anew with another key, can write new digests.
    """

    path: Path
    findings: tuple[Finding, ...]
    content_digest: str | None
    rows: dict[str, int] = field(default_factory=dict)
    redacted: tuple[str, ...] = ()
    signed_by: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()
    signature_checked: bool = False
    remarks: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    @property
    def authentic(self) -> bool:
        """Whether nothing is wrong and a key that you trust signed it."""
        return self.ok and bool(self.trusted)

    @property
    def verdict(self) -> str:
        """``authentic (signed by KEYID, trusted)``, ``intact, unsigned``, ``intact, signed by an untrusted key`` or ``failed``."""
        if not self.ok:
            return "failed"
        if self.trusted:
            return f"authentic (signed by {', '.join(self.trusted)}, trusted)"
        return "intact, signed by an untrusted key" if self.signed_by else "intact, unsigned"

    def __bool__(self) -> bool:
        return self.ok

    def to_dict(self) -> dict[str, Any]:
        """The verdict and its grounds, ready for JSON."""
        return {
            "path": str(self.path),
            "verdict": self.verdict,
            "ok": self.ok,
            "authentic": self.authentic,
            "signed_by": list(self.signed_by),
            "trusted": list(self.trusted),
            "signature_checked": self.signature_checked,
            "content_digest": self.content_digest,
            "rows": dict(self.rows),
            "redacted": list(self.redacted),
            "remarks": list(self.remarks),
            "findings": [asdict(finding) for finding in self.findings],
        }

    def __str__(self) -> str:
        lines = [f"{one_line(self.path)}: {self.verdict}", *(f"  {line}" for line in self._grounds())]
        return "\n".join([*lines, *(f"  {finding}" for finding in self.findings)])

    def _repr_html_(self) -> str:
        grounds = "".join(f"<br>{html_text(line, 600)}" for line in self._grounds())
        findings = "".join(f"<li>{html_text(finding, 600)}</li>" for finding in self.findings)
        mark = "✔" if self.ok else "✘"
        return (
            f"<p><b>{mark} {html_text(self.verdict)}</b>: <code>{html_text(self.path)}</code>{grounds}</p>"
            f"<ul>{findings}</ul>"
        )

    def _grounds(self) -> Iterator[str]:
        """The grounds of the verdict, a line each."""
        if self.content_digest:
            types = ((RECORD_TYPES[table], count) for table, count in self.rows.items())
            rows = ", ".join(plural(count, record_type.noun, record_type.plural) for record_type, count in types)
            yield f"content digest sha256:{self.content_digest} over {rows}"
        if self.redacted:
            yield f"redacted: {one_line(', '.join(self.redacted), 500)}"
        yield from self.remarks
        if untrusted := [key_id for key_id in self.signed_by if key_id not in self.trusted]:
            yield f"signed by {', '.join(untrusted)}, not one of your trusted keys"
        if self.signed_by and not self.signature_checked:
            yield "the signature was not checked: pip install 'exporttools[sign]'"
