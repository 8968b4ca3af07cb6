"""Limits as bars: what a deployment reaches, how far that is sure, and where the limit lies."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from simulator.planner.report.words import amount

Limit = dict[str, Any]

_REACH = 2.5
"""Limits that a bar may show at most."""


def meters(limits: Sequence[Limit]) -> str:
    """One bar a limit of a report's winner."""
    return f'<div class="limits">{"".join(_row(limit) for limit in limits)}</div>'


def _row(limit: Limit) -> str:
    holds = limit["excess"] is not None and limit["excess"] <= 0
    words = [amount(limit["mean"], limit["path"])]
    if limit["excess"] is not None:
        words.append(f"{abs(100 * limit['excess']):.0f}% {'room' if holds else 'missed'}")
    if limit["sure"] is None:
        words.append("no interval of the prediction")
    else:
        end = "holds" if limit["sure"] else "misses it"
        words.append(f"bad end {amount(limit['bad_end'], limit['path'])}: {end}")
    return (
        f'<div class="name">{escape(limit["text"])}<span>{escape(" · ".join(words))}</span></div>'
        f'<div><div class="meter" role="img" aria-label="{escape(" · ".join(words))}">'
        f"{_bar(limit, holds)}</div></div>"
    )


def _bar(limit: Limit, holds: bool) -> str:
    mean, most = limit["mean"], limit["limit"]
    if mean is None:
        return ""
    half, end = limit["half"] or 0.0, limit["bad_end"]
    values = [mean, most, mean - half, mean + half, *([end] if end is not None else [])]
    low, high = _scale(values, most, share=limit["share"])

    def at(value: float) -> float:
        place = (value - low) / (high - low) if high > low else 0.0
        return 100.0 * min(1.0, max(0.0, place))

    def span(name: str, first: float, last: float) -> str:
        left, right = sorted((at(first), at(last)))
        return f'<i class="{name}" style="left:{left:.2f}%;width:{right - left:.2f}%"></i>'

    pieces = [f'<i class="fill{"" if holds else " miss"}" style="width:{at(mean):.2f}%"></i>']
    if end is not None:
        pieces.append(span("range", mean, end))
    if half:
        pieces.append(span("range seeds", mean - half, mean + half))
    pieces.append(f'<i class="limit" style="left:{at(most):.2f}%"></i>')
    return "".join(pieces)


def _scale(values: Sequence[float], limit: float, *, share: bool) -> tuple[float, float]:
    """What the ends of the bar stand for. Of shares close to 1 the misses are what counts."""
    if share and limit > 0.5:
        worst = max(1.0 - min(values), 2.0 * (1.0 - limit), 0.002)
        return max(0.0, 1.0 - 1.1 * worst), 1.0
    high = min(max(values) * 1.08, _REACH * abs(limit) if limit else max(values) * 1.08)
    return min(0.0, min(values)), high
