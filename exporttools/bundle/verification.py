"""The result of verifying a bundle: the verdict, what was verified, and everything found to be wrong.

A bundle that fails says nothing: nothing that it contains is shown, and nobody is named as its signer. Nor is anybody whose
signature was not checked with a key that the caller trusts.
"""

from __future__ import annotations

import datetime as dt
import html
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from exporttools.bundle.demands import signer_names
from exporttools.bundle.keys import TrustedKey
from exporttools.files.findings import Finding
from exporttools.records.schema import RECORD_TYPES
from exporttools.text.inert import html_text, one_line, quoted, shown_name
from exporttools.text.words import amount_text, plural
from exporttools.times import duration_text, time_text

SHOWN_FINDINGS = 100
"""How many findings a notebook shows; text and JSON have all."""

_LABEL_WIDTH = 10
_HUGE = 1e15
_CELL = "text-align:left;vertical-align:top"


@dataclass(frozen=True, slots=True, repr=False)
class Verification:
    """Whether a bundle is what it says it is, who signed it, and what it is about.

    Attributes
    ----------
    path : Path
    findings : tuple of Finding
        Everything that is wrong, and every demand that is not met; empty if there is nothing. If there is something, what
        follows is None, empty or false, except for your `threshold`: nothing in a bundle that fails is known to be so.
    content_digest : str or None
        SHA-256 over the rows as read.
    format_version : int or None
    tenant_id, incident_id, run_id, trace_id : str or None
        Whose data it is and of what; None for a part that the bundle does not have.
    trace_count : int or None
        How many traces the run has; the bundle contains at most one.
    rows : dict of str to int
        Rows read, by table.
    missing : tuple of str
        Which of ``incident``, ``run``, ``trace`` and ``steps`` have no rows.
    redacted : tuple of str
        Columns whose text was replaced by NULL before the bundle was written, such as ``runs.goal``.
    totals : dict of str to (int, float or None)
        Over the steps: how many ``steps``, how many of them ``failed``, ``tokens``, ``cost_cents`` (US cents) and
        ``duration_ms``, each counted once. None for a sum that a float cannot hold.
    first_timestamp, last_timestamp : datetime.datetime or None
        When the first and the last step started, UTC.
    read_at, written_at : datetime.datetime or None
        When the rows were read from their database and when the bundle was written, UTC, by the clocks of those who did.
    signed : bool
        Whether there is an attestation, whoever made it.
    signature_checked : bool
        Whether its signatures were compared with keys that you trust. False if you named none.
    signed_by : tuple of TrustedKey
        Those of your trusted keys that signed it, and were valid when it was written. Nobody else is named.
    threshold : int
        How many of them had to.
    remarks : tuple of str
        What is not wrong, but odd or easy to overlook; see docs/bundle-format.md.

    Notes
    -----
    An *intact* bundle was not damaged. Only an *authentic* one is known to be what somebody you trust has signed: whoever
    changes the rows of an unsigned bundle, or signs it anew with another key, can write new digests.
    """

    path: Path
    findings: tuple[Finding, ...] = ()
    content_digest: str | None = None
    format_version: int | None = None
    tenant_id: str | None = None
    incident_id: str | None = None
    run_id: str | None = None
    trace_id: str | None = None
    trace_count: int | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    redacted: tuple[str, ...] = ()
    totals: Mapping[str, int | float | None] = field(default_factory=dict)
    first_timestamp: dt.datetime | None = None
    last_timestamp: dt.datetime | None = None
    read_at: dt.datetime | None = None
    written_at: dt.datetime | None = None
    signed: bool = False
    signature_checked: bool = False
    signed_by: tuple[TrustedKey, ...] = ()
    threshold: int = 1
    remarks: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong and every demand is met."""
        return not self.findings and self.content_digest is not None  # nothing passes whose rows were not read

    @property
    def authentic(self) -> bool:
        """Whether nothing is wrong and as many of your trusted keys signed it as you asked for."""
        return self.ok and len(self.signed_by) >= max(self.threshold, 1)

    @property
    def verdict(self) -> str:
        """``authentic, signed by NAME``, ``intact, unsigned``, ``intact, signature not checked``, ``intact, not signed by a
        trusted key``, ``intact, not signed by enough trusted keys`` or ``failed``.
        """
        if not self.ok:
            return "failed"
        if self.authentic:
            return f"authentic, signed by {signer_names(self.signed_by)}"
        if not self.signed:
            return "intact, unsigned"
        if not self.signature_checked:
            return "intact, signature not checked"
        return f"intact, not signed by {'enough trusted keys' if self.signed_by else 'a trusted key'}"

    def __bool__(self) -> bool:
        return self.ok

    def to_dict(self) -> dict[str, Any]:
        """The verdict, what was verified and what is wrong, ready for JSON: times in ISO 8601, every text exact and whole."""
        moments = {name: getattr(self, name) for name in ("first_timestamp", "last_timestamp", "read_at", "written_at")}
        return {
            "path": os.fspath(self.path),
            "verdict": self.verdict,
            "ok": self.ok,
            "authentic": self.authentic,
            "signed": self.signed,
            "signature_checked": self.signature_checked,
            "signed_by": [{"name": key.name, "key_id": key.key_id} for key in self.signed_by],
            "threshold": self.threshold,
            "format_version": self.format_version,
            "tenant_id": self.tenant_id,
            "incident_id": self.incident_id,
            "run_id": self.run_id,
            "trace_id": self.trace_id,
            "trace_count": self.trace_count,
            "rows": dict(self.rows),
            "missing": list(self.missing),
            "redacted": list(self.redacted),
            "totals": dict(self.totals),
            **{name: moment and moment.isoformat() for name, moment in moments.items()},
            "content_digest": self.content_digest,
            "remarks": list(self.remarks),
            "findings": [asdict(finding) for finding in self.findings],
        }

    def __repr__(self) -> str:
        return f"<Verification: {self._headline()}>"

    def __str__(self) -> str:
        facts = (f"  {label:<{_LABEL_WIDTH}}  {text}" for label, text in self._facts())
        return "\n".join([self._headline(), *facts, *(f"  {finding}" for finding in self.findings)])

    def _repr_html_(self) -> str:
        mark = "✔ " if self.authentic else "" if self.ok else "✘ "
        # <bdi>: letters that are written from right to left stay among themselves.
        path = f"<bdi><code style='overflow-wrap:anywhere'>{html.escape(quoted(os.fspath(self.path)))}</code></bdi>"
        facts = "".join(
            f"<tr><th style='{_CELL}'>{label}</th><td style='{_CELL};overflow-wrap:anywhere'>{html_text(text, 2000)}</td></tr>"
            for label, text in self._facts()
        )
        findings = "".join(f"<li>{html_text(finding, 600)}</li>" for finding in self.findings[:SHOWN_FINDINGS])
        if (more := len(self.findings) - SHOWN_FINDINGS) > 0:
            findings += f"<li>… {more:,} more</li>"
        return (
            f"<p><b>{mark}{html_text(self.verdict, 2000)}</b>: {path}</p>"
            + (f"<table>{facts}</table>" if facts else "")
            + (f"<ul>{findings}</ul>" if findings else "")
        )

    def _headline(self) -> str:
        """The verdict, and then the path, quoted: no name of a file reads as a verdict."""
        return f"{self.verdict}: {quoted(os.fspath(self.path))}"

    def _facts(self) -> Iterator[tuple[str, str]]:
        """What was verified, as labels and texts that are safe to show; nothing of a bundle that failed."""
        if not self.ok or self.content_digest is None:
            return
        if not self.authentic:
            yield "note", self._note()
        for label, name in (("incident", self.incident_id), ("run", self.run_id)):
            if name is not None:
                yield label, shown_name(name)
        if self.trace_id is not None:
            others = f", one of the run's {self.trace_count:,}" if self.trace_count and self.trace_count > 1 else ""
            yield "trace", f"{shown_name(self.trace_id)}{others}"
        if self.tenant_id is not None:
            yield "tenant", shown_name(self.tenant_id)
        types = ((RECORD_TYPES[table], count) for table, count in self.rows.items())
        rows = ", ".join(plural(count, record_type.noun, record_type.plural) for record_type, count in types)
        failed = self.totals.get("failed")
        yield "rows", rows + (f" ({failed:,} of them failed)" if failed else "")
        if self.totals.get("steps"):
            yield "totals", self._totals_text()
        if self.first_timestamp is not None and self.last_timestamp is not None:
            yield "steps", f"{time_text(self.first_timestamp)} to {time_text(self.last_timestamp)} UTC"
        for label, moment in (("read", self.read_at), ("written", self.written_at)):
            if moment is not None:
                yield label, f"{time_text(moment)} UTC"
        for label, names in (("missing", self.missing), ("redacted", self.redacted)):
            if names:
                # Each is made inert by itself: an escape sequence that one name begins must not swallow the next.
                yield label, one_line(", ".join(map(one_line, names)), 500)
        yield "format", f"{self.format_version}"
        yield "digest", self.content_digest
        for key in self.signed_by:
            yield "key", f"{key.key_id} ({key.label})"
        for remark in self.remarks:
            yield "remark", remark

    def _note(self) -> str:
        if not self.signed:
            return "not damaged; but without a signature, anybody could have written it"
        if not self.signature_checked:
            install = "" if find_spec("cryptography") else " (which needs pip install 'exporttools[sign]')"
            return f"not damaged; but anybody could have signed it: name the keys that you trust{install}"
        if self.signed_by:
            return f"not damaged; {len(self.signed_by):,} of the {self.threshold:,} trusted keys asked for signed it"
        return "not damaged; but no trusted key that was valid at the time signed it"

    def _totals_text(self) -> str:
        tokens, cents, duration_ms = (self.totals[name] for name in ("tokens", "cost_cents", "duration_ms"))
        return ", ".join(
            (
                f"{tokens:,} {'token' if tokens == 1 else 'tokens'}",
                _huge(cents, "US cents") or amount_text(cents or 0, "US cents"),
                _huge(duration_ms, "ms of steps") or f"{duration_text((duration_ms or 0) * 1000)} of steps",
            )
        )


def _huge(amount: float | None, unit: str) -> str | None:
    """Words for a sum that is too large to be sensible, rather than hundreds of digits; None for any other."""
    if amount is None:
        return f"more {unit} than a float can hold"
    return f"{amount:.6g} {unit}" if amount >= _HUGE else None
