"""The table of metrics in the documentation."""

from __future__ import annotations

from simulator.monitoring.families import FAMILIES, LENGTHS, Family

_SUFFIX = {"counter": "_total", "gauge": "", "histogram": ""}


def metrics_table() -> str:
    """All metrics by name, type and labels, with what they count."""
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for family in FAMILIES.values():
        labels = ", ".join(f"`{label}`" for label in family.labels) or "–"
        only = " Live alone." if family.live_only else ""
        kind = family.kind + (f", {_buckets(family)}" if family.kind == "histogram" else "")
        name = family.name + _SUFFIX[family.kind]
        lines.append(f"| `{name}` | {kind} | {labels} | {family.help}{only} |")
    return "\n".join(lines) + "\n"


def _buckets(family: Family) -> str:
    if isinstance(family.buckets, str):
        assert family.buckets == LENGTHS
        return "1, 2, 5, 10 … up to the context"
    return f"{family.buckets[0]:g} … {family.buckets[-1]:g}"
