"""How plans and sweeps call figures and say their values."""

from __future__ import annotations

from functools import cache

from simulator.results.definitions import DEFINITIONS, Definition
from simulator.results.format import NOTHING, money, number, percent


@cache
def _meant(path: str) -> tuple[Definition, str] | None:
    """The definition of the figure at a path of a summary, and the statistic of it."""
    if path.startswith("classes."):
        name = path.split(".", 2)[2]
        found = next((d for d in DEFINITIONS if _ends(d.key, name)), None)
        return None if found is None else (found, name.removeprefix(_last(found.key)).lstrip("."))
    for definition in DEFINITIONS:
        if path == definition.key or path.startswith(f"{definition.key}."):
            return definition, path.removeprefix(definition.key).lstrip(".")
    return None


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _ends(key: str, name: str) -> bool:
    return name == _last(key) or name.startswith(f"{_last(key)}.")


def title(path: str) -> str:
    """``TTFT p99`` for ``latency.ttft_ms.p99``; the path itself where nothing is said of it."""
    if path == "devices":
        return "Devices"
    found = _meant(path)
    if found is None:
        return path
    definition, statistic = found
    return f"{definition.label} {statistic}".rstrip()


def unit(path: str) -> str:
    """Of the figure; empty for counts."""
    found = _meant(path)
    if found is None:
        return ""
    return "requests/s" if found[0].unit == "1/s" else found[0].unit


def amount(value: float | None, path: str, digits: int = 4) -> str:
    """A value with its unit: ``38.27 ms``, ``$39.56``, ``98.5%``."""
    if value is None:
        return NOTHING
    of = unit(path)
    if of == "%":
        return percent(value)
    if of == "USD":
        return money(value)
    if path == "devices":
        return f"{value:,.4g}"
    return f"{number(float(value), digits)} {of}".rstrip()


def bound(value: float, path: str) -> str:
    """A limit with its unit, as exact as it was given: ``1,000 ms``, ``99.5%``."""
    of = unit(path)
    if of == "%":
        return f"{100 * value:.10g}%"
    if of == "USD":
        return f"${value:,.10g}"
    return f"{value:,.10g} {of}".rstrip()
