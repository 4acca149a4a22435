"""Untrusted text: harmless in terminals, HTML, plots and spreadsheets, and never silently dropped."""

from __future__ import annotations

import html
import json
import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporttools.text.inert import csv_text, html_text, one_line, plot_text, quoted, shown_name

ANY_TEXT = st.text(st.characters())  # lone surrogates and control characters among them


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("", ""),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[38;2;1;2;3mred\x1b[m", "red"),
        ("\x1b[?25lhidden cursor", "hidden cursor"),
        ("\x1b[2 qcursor", "cursor"),
        ("\x9b31mred", "red"),  # CSI as one C1 character
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9d0;title\x9cafter", "after"),
        ("\x1bP1$r0m\x1b\\after", "after"),
        ("\x1b_apc\x1b\\after", "after"),
        ("\x1b^pm\x1b\\after", "after"),
        ("\x1bXsos\x1b\\after", "after"),
        ("\x1bcreset", "reset"),
        ("\x1b(0box", "box"),
        # An unterminated string hides nothing of what follows.
        ("\x1b]0;title", "0;title"),
        ("an â\x80\x9cerrorâ\x80\x9d in mis-decoded quotes", "an â��errorâ�� in mis-decoded quotes"),
        # What is left of a sequence that another one split is not a sequence any more.
        ("\x1b\x1b[m[31mred", "�[31mred"),
        ("tail\x1b", "tail�"),
        ("a\nb\r\nc\td\x0be\x0cf\x85g\u2028h\u2029i", "a b c d e f g h i"),
        ("  spaces\u00a0 all \n over  ", "spaces all over"),
        ("a\0b\x08c\x7fd", "a�b�c�d"),
        ("user\u202egnp.exe\u202c", "user�gnp.exe�"),
        ("\u2066isolate\u2069", "�isolate�"),
        ("zero\u200bwidth\ufeff", "zero�width�"),
        ("lone\ud800surrogate", "lone�surrogate"),
        ("private\ue000use", "private�use"),
        ("Grüße, 世界 🙂", "Grüße, 世界 🙂"),
    ],
)
def test_one_line(text: str, expected: str) -> None:
    assert one_line(text) == expected


def test_one_line_takes_any_object() -> None:
    assert one_line(None) == "None"
    assert one_line(ValueError("a\nb")) == "a b"


@pytest.mark.parametrize(
    ("length", "width", "expected"),
    [(4, 4, "xxxx"), (5, 4, "xxx…"), (1, 1, "x"), (2, 1, "…"), (200, 200, "x" * 200), (201, 200, "x" * 199 + "…")],
)
def test_width_counts_the_mark_of_the_cut(length: int, width: int, expected: str) -> None:
    assert one_line("x" * length, width) == expected


def test_escape_sequences_take_no_room() -> None:
    assert one_line("\x1b[31m" * 50 + "x" * 10, 10) == "x" * 10


def test_a_megabyte_is_cut_and_says_so() -> None:
    for megabyte in ("x" * 2**20, "\n" * 2**20, "\x1b]" * 2**19, "\x9d" * 2**20, "\x1b[31m" * 2**18):
        line = one_line(megabyte)
        assert len(line) <= 200
        assert line.endswith("…")


@given(ANY_TEXT, st.integers(1, 30))
def test_one_line_is_always_one_printable_line(text: str, width: int) -> None:
    line = one_line(text, width)
    assert len(line) <= width
    assert line.splitlines() in ([line], [])
    assert line.encode("utf-8").decode("utf-8") == line
    assert not {unicodedata.category(c) for c in line} & {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}
    assert one_line(line, width) == line


class _Elements(HTMLParser):
    """The tags with their attributes, and the text between them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(
    ANY_TEXT
    | st.sampled_from(["<script>alert(1)</script>", "\" onload='x", "' onload=\"x", "-->", "]]>", "&lt;b&gt;", "</td>"])
)
def test_html_text_is_inert_in_an_element_and_in_an_attribute(text: str) -> None:
    line = one_line(text)
    for quote in "\"'":
        parser = _Elements()
        parser.feed(f"<p title={quote}{html_text(text)}{quote}>{html_text(text)}</p>")
        parser.close()
        assert parser.tags == [("p", [("title", line)])]
        assert parser.text == line


def test_html_text_is_cut_before_it_is_escaped() -> None:
    assert html_text("<" * 10, 4) == html.escape("<<<") + "…"


def test_plot_text_is_never_a_formula() -> None:
    from matplotlib.cbook import is_math_text

    for text in (r"$\frac{$", "$", "$$", r"\$x$", r"cost \$5 or $6", "$" * 7):
        assert not is_math_text(plot_text(text))
    assert plot_text("a\nb$c") == r"a b\$c"
    assert plot_text("x" * 41) == "x" * 39 + "…"


def test_plot_text_draws_as_the_text_it_was() -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    hostile = r"$\frac{$ costs $5 and \$6"
    label = figure.text(0, 0, plot_text(hostile))
    figure.canvas.draw()
    assert label._preprocess_math(label.get_text()) == (hostile, False)  # type: ignore[attr-defined]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_no_spreadsheet_takes_csv_text_for_a_formula(start: str) -> None:
    assert csv_text(f"{start}cmd()") == f"'{start}cmd()"


@pytest.mark.parametrize("text", ["", "plain", "a=b", " =b", "'=b"])
def test_other_csv_text_stays_as_it_is(text: str) -> None:
    assert csv_text(text) == text


@given(ANY_TEXT)
def test_a_quoted_name_is_exact_and_cannot_end_its_quotes(text: str) -> None:
    shown = quoted(text)
    assert shown.isprintable()
    assert not {unicodedata.bidirectional(c) for c in shown} & {"R", "AL"}
    assert json.loads(shown) == text  # one string, from the first character to the last


def test_a_name_that_is_cut_says_so_after_its_quotes() -> None:
    assert (quoted("abcdef", 3), quoted("abc", 3), quoted('""""', 3)) == ('"abc"…', '"abc"', r'"\"\"\""…')


@pytest.mark.parametrize(
    "plain", ["inc-0000-1", "Ann Lee", "a@b.example", "urn:run:7", "größe", "山田", "run/1#2", "signer.key.pub"]
)
def test_a_plain_name_stays_as_it_is(plain: str) -> None:
    assert shown_name(plain) == plain


@pytest.mark.parametrize(
    "name",
    [
        "",
        " a",
        "a ",
        "a  b",
        "a, b",
        "a: b",
        "a:",
        "a; b",
        'a"',
        "a'",
        "a\\b",
        "a\n",
        "\u202ea",
        "\u05d0",
        "a\u00a0b",
        "…",
        "(a)",
    ],
)
def test_any_other_name_is_quoted(name: str) -> None:
    assert shown_name(name) == quoted(name) != name
