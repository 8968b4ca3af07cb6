"""Pieces of the HTML report: tables, bars, lists. Everything from outside is escaped here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from simulator.results.format import percent


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names and values; pairs with an empty value are left out."""
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in pairs if text
    )
    return f'<dl class="facts">{rows}</dl>'


def tiles(items: Iterable[tuple[str, str, str, str]]) -> str:
    """Figures at a glance: title, value, what stands below it, and a mood (good, bad or none)."""
    cells = "".join(
        f'<div class="tile {escape(mood)}"><span class="title">{escape(title)}</span>'
        f'<span class="value">{escape(value)}</span>'
        f'<span class="below">{escape(below)}</span></div>'
        for title, value, below, mood in items
    )
    return f'<div class="tiles">{cells}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    inner = (f"<thead><tr>{top}</tr></thead>" if any(head) else "") + f"<tbody>{body}</tbody>"
    return f'<div class="scroll"><table>{inner}</table></div>'


def bars(shares: dict[str, float], most: int = 12) -> str:
    """Horizontal bars, longest first, the rest summed up; lengths are relative to the longest."""
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    shown, rest = ordered[:most], ordered[most:]
    if len(rest) == 1:
        shown += rest
    elif rest:
        shown.append((f"{len(rest)} others", sum(share for _, share in rest)))
    longest = max((share for _, share in shown), default=1.0) or 1.0
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="bar">'
        f'<i style="width:{100 * share / longest:.2f}%"></i></td><td>{percent(share)}</td></tr>'
        for name, share in shown
    )
    return f'<table class="bars"><tbody>{rows}</tbody></table>'


def stack(parts: Sequence[tuple[str, float, str, int]]) -> str:
    """One bar of several parts with a legend: name, size, text and number of the colour."""
    whole = sum(size for _, size, _, _ in parts) or 1.0
    pieces = "".join(
        f'<i class="c{colour}" style="width:{100 * size / whole:.3f}%" '
        f'title="{escape(name)}: {escape(text)}"></i>'
        for name, size, text, colour in parts
        if size > 0
    )
    legend = "".join(
        f'<li><i class="c{colour}"></i>{escape(name)} <b>{escape(text)}</b></li>'
        for name, size, text, colour in parts
        if size > 0
    )
    return f'<div class="stack">{pieces}</div><ul class="legend">{legend}</ul>'


def notes(lines: Iterable[str], kind: str) -> str:
    """Warnings or notes; nothing if there are none. What stands between backticks is code."""
    texts = (re.sub("`([^`]+)`", r"<code>\1</code>", escape(line)) for line in lines)
    items = "".join(f"<li>{text}</li>" for text in texts)
    return f'<ul class="notes {escape(kind)}">{items}</ul>' if items else ""


def chart(name: str, title: str) -> str:
    """A place for a figure."""
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><div class="chart" id="{escape(name)}">'
        "</div></figure>"
    )
