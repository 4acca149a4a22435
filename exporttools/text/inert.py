"""Untrusted text made harmless for where it is shown. No text from a database or a bundle is trusted.

One function for each place: :func:`one_line` for terminals and messages, :func:`quoted` and :func:`shown_name` for names
beside a verdict, :func:`html_text` for notebooks and pages, :func:`plot_text` for matplotlib, :func:`csv_text` for
spreadsheets, :func:`sql_identifier` for names in SQL.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata

# ECMA-48 control sequences: CSI ... final byte; OSC, DCS, PM, APC and SOS strings up to their terminator; two-byte escapes.
# An unterminated string loses only its introducer: mis-decoded text is full of \x9d, and what follows must not vanish.
_ESCAPE_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)|\x1b[ -/]*[0-~]"
)


_RIGHT_TO_LEFT = ("R", "AL")  # letters that turn the punctuation beside them around (UAX #9)
_WORD = r"[\w.@+=#~/-]+(?::[\w.@+=#~/-]+)*"
_PLAIN_WORDS = re.compile(f"{_WORD}(?: {_WORD})*")


def one_line(text: object, width: int = 200) -> str:
    r"""Return one printable line of at most `width` characters.

    Terminal escape sequences are removed, each run of white space becomes one space, other control and
    invisible formatting characters (bidirectional overrides too) become ``�``, and a cut is marked by ``…``.

    Examples
    --------
    >>> one_line("\x1b[31mred\x1b[0m\nline")
    'red line'
    >>> one_line("abcdef", width=4)
    'abc…'
    """
    raw = str(text)
    # A goal may be a megabyte long: look only at what can end up in the line, with slack for escape sequences.
    head = raw[: width * 4 + 1000]
    plain = " ".join(_ESCAPE_SEQUENCE.sub("", head).split())
    plain = "".join(
        "�" if unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp") else c for c in plain[: width + 1]
    )
    if len(plain) > width or len(head) < len(raw):
        return plain[: width - 1] + "…"
    return plain


def quoted(text: str, width: int = 5000) -> str:
    r"""Return a name in double quotes, exactly: what cannot be printed or could reorder a line is written as ``\uXXXX``.

    Unlike :func:`one_line` it loses nothing, and nothing in it can end the quotes, so that a name never reads as part of
    what stands around it. A name of more than `width` characters is cut, and ``…`` after the quotes says so.

    Examples
    --------
    >>> print(quoted("authentic, signed by alice"), quoted('a"\n\u202eb'))
    "authentic, signed by alice" "a\"\n\u202eb"
    """
    inert = "".join(
        c if c.isprintable() and unicodedata.bidirectional(c) not in _RIGHT_TO_LEFT else json.dumps(c)[1:-1]
        for c in text[:width].replace("\\", "\\\\").replace('"', '\\"')
    )
    return f'"{inert}"' + ("…" if len(text) > width else "")


def shown_name(text: str, width: int = 200) -> str:
    r"""Return an id or a person's name as it is if it is plain words, else :func:`quoted`.

    Examples
    --------
    >>> print(shown_name("inc-0000-1"), shown_name("Ann Lee"), shown_name("Ann, trusted"))
    inc-0000-1 Ann Lee "Ann, trusted"
    """
    plain = len(text) <= width and _PLAIN_WORDS.fullmatch(text)
    return text if plain and quoted(text) == f'"{text}"' else quoted(text, width)


def html_text(text: object, width: int = 200) -> str:
    """Return one line escaped for HTML, inert in an element and in a quoted attribute.

    Examples
    --------
    >>> html_text("<script>alert(1)</script>")
    '&lt;script&gt;alert(1)&lt;/script&gt;'
    """
    return html.escape(one_line(text, width))


def plot_text(text: object, width: int = 40) -> str:
    r"""Return one line for a matplotlib label, with ``$`` escaped so that it never starts a formula.

    Escaping works whenever the figure is drawn. ``rcParams["text.parse_math"]`` would have to be set
    around every draw, which a plotting function does not control.

    Examples
    --------
    >>> plot_text(r"$\frac{$")
    '\\$\\frac{\\$'
    """
    return one_line(text, width).replace("$", r"\$")


_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def csv_text(text: str) -> str:
    """Return text for a CSV cell that no spreadsheet runs as a formula (OWASP: CSV injection).

    Examples
    --------
    >>> csv_text("=cmd()"), csv_text("plain")
    ("'=cmd()", 'plain')
    """
    return "'" + text if text.startswith(_FORMULA_STARTS) else text


def sql_identifier(name: str) -> str:
    """Return a name quoted for SQL (SQL-92 §5.2, delimited identifier), as DuckDB and SQLite read it.

    Examples
    --------
    >>> sql_identifier('a "b" c')
    '"a ""b"" c"'
    """
    return '"' + name.replace('"', '""') + '"'
