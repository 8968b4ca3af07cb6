"""Numbers as people read them, the same in the terminal and in the HTML report."""

from __future__ import annotations

from collections.abc import Sequence

NOTHING = "–"


def number(value: float | int | None, digits: int = 3) -> str:
    """About ``digits`` significant digits, thousands separated; a dash for nothing."""
    if value is None:
        return NOTHING
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0:
        return "0"
    value = float(f"{value:.{digits}g}") if abs(value) < 10**digits else value
    size = abs(value)
    if size >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    if size < 1e-4:
        return f"{value:.{digits - 1}e}"
    decimals = digits
    while decimals > 0 and size >= 10 ** (digits - decimals):
        decimals -= 1
    if size < 0.1:
        return f"{value:.{digits}g}"
    return f"{value:,.{decimals}f}"


def milliseconds(value: float | None) -> str:
    """As ``number``, but nobody wants to know thousandths of a microsecond."""
    return "<0.01" if value is not None and 0 < value < 0.01 else number(value)


def bounds(pair: Sequence[float] | None) -> str:
    """An interval, both ends as ``milliseconds``."""
    return NOTHING if pair is None else f"{milliseconds(pair[0])}–{milliseconds(pair[1])}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share of 1 in percent; never rounded up to 100% or down to 0%."""
    if share is None:
        return NOTHING
    text = f"{100 * share:.{digits}f}"
    if 0 < share < 1 and float(text) in (0.0, 100.0):
        edge = 10.0**-digits
        return f"<{edge:g}%" if share < 0.5 else f">{100 - edge:g}%"
    return f"{text}%"


def money(usd: float | None) -> str:
    """US dollars with cents, or with three digits where cents are too coarse."""
    if usd is None:
        return NOTHING
    return f"${usd:,.2f}" if usd >= 1 or usd == 0 else f"${number(usd)}"


def parameters(count: float) -> str:
    """8.03 B, 671 B."""
    for size, name in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if count >= size:
            return f"{number(count / size)} {name}"
    return f"{count:,.0f}"


def duration(seconds: float) -> str:
    """12.3 s, 4 min 10 s, 2 h 5 min."""
    if seconds < 59.95:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def energy(kwh: float | None) -> str:
    """Wh below one kWh."""
    if kwh is None:
        return NOTHING
    return f"{number(kwh)} kWh" if kwh >= 1 else f"{number(1e3 * kwh)} Wh"


def with_unit(value: float | int | None, unit: str) -> str:
    """A metric's value as its definition's unit asks for."""
    if value is None:
        return NOTHING
    if unit == "%":
        return percent(value)
    if unit == "USD":
        return money(value)
    return f"{number(value)} {unit}".rstrip()
