"""Counts, amounts and shares as people read them, the same in plots, tables, pages and messages."""

from __future__ import annotations


def plural(count: float, noun: str, many: str | None = None) -> str:
    """Format a count with its noun. `many` is the plural, if not the noun with an s.

    Examples
    --------
    >>> plural(1, "step"), plural(15_233, "step"), plural(2, "row differs", "rows differ")
    ('1 step', '15,233 steps', '2 rows differ')
    """
    return f"{count:,.0f} {noun if count == 1 else many or f'{noun}s'}"


def amount_text(amount: float, unit: str) -> str:
    """Format an amount with its unit, as precisely as a reader needs it.

    Examples
    --------
    >>> amount_text(1234.5678, "US cents"), amount_text(0.00004, "US cents"), amount_text(1_926_683, "tokens")
    ('1,234.57 US cents', '0.00004 US cents', '1,926,683 tokens')
    """
    number = f"{amount:,.0f}" if unit == "tokens" else f"{amount:,.2f}" if abs(amount) >= 100 else f"{amount:.4g}"
    if 0 < abs(amount) < 1e-4 and unit != "tokens":  # never an exponent
        number = "<0.000001" if abs(amount) < 1e-6 else f"{amount:.8f}".rstrip("0")
    return f"{number} {unit}"


def share_text(share: float) -> str:
    """Format a share in percent; never round a part to none or to all.

    Examples
    --------
    >>> share_text(0.923), share_text(0.0004), share_text(1.0), share_text(0.9999)
    ('92%', '<1%', '100%', '>99%')
    """
    if 0 < share < 0.01:
        return "<1%"
    return ">99%" if 0.99 < share < 1 else f"{share:.0%}"
