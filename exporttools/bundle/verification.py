"""What verifying a bundle gives: everything found to be wrong, and the verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from exporttools.inert import html_text, one_line


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as the bundle says.

    Attributes
    ----------
    code : str
        ``missing``, ``unexpected``, ``not-a-file``, ``changed``, ``malformed``, ``format``, ``schema``, ``rows`` or
        ``content``.
    path : str
        The file, relative to the bundle.
    expected, found : str
    """

    code: str
    path: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.code}: {one_line(self.path)}: expected {one_line(self.expected)}; found {one_line(self.found)}"


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether a bundle is what it says it is.

    Attributes
    ----------
    path : Path
    findings : tuple of Finding
        Everything that is wrong; empty: nothing.
    content_digest : str or None
        SHA-256 over the rows as read; None where they could not be.
    rows : dict of str to int
        Rows as read, by table.

    Notes
    -----
    An unsigned bundle that verifies is *intact*: nothing was damaged. It is not thereby *authentic*: whoever changes
    the rows can write new digests.
    """

    path: Path
    findings: tuple[Finding, ...]
    content_digest: str | None
    rows: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing was found to be wrong."""
        return not self.findings

    @property
    def verdict(self) -> str:
        """``intact, unsigned`` or ``failed``."""
        return "intact, unsigned" if self.ok else "failed"

    def __bool__(self) -> bool:
        return self.ok

    def to_dict(self) -> dict[str, Any]:
        """The verdict and what it rests on, ready for JSON."""
        return {
            "path": str(self.path),
            "verdict": self.verdict,
            "ok": self.ok,
            "content_digest": self.content_digest,
            "rows": dict(self.rows),
            "findings": [asdict(finding) for finding in self.findings],
        }

    def __str__(self) -> str:
        rows = ", ".join(f"{count:,} {table}" for table, count in self.rows.items())
        lines = [f"{one_line(self.path)}: {self.verdict}"]
        if self.content_digest:
            lines.append(f"  content digest sha256:{self.content_digest} over {rows}")
        return "\n".join([*lines, *(f"  {finding}" for finding in self.findings)])

    def _repr_html_(self) -> str:
        findings = "".join(f"<li>{html_text(finding, 600)}</li>" for finding in self.findings)
        digest = (
            f"<br>content digest <code>sha256:{html_text(self.content_digest)}</code>" if self.content_digest else ""
        )
        mark = "✔" if self.ok else "✘"
        return f"<p><b>{mark} {self.verdict}</b>: <code>{html_text(self.path)}</code>{digest}</p><ul>{findings}</ul>"
