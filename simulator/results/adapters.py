"""How LoRA adapters were used: found in memory or loaded, how many at once, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simulator.results.fleet import Part, added
from simulator.results.record import RunRecord


def adapters_section(parts: Sequence[Part], record: RunRecord) -> dict[str, Any]:
    """Empty where no request asks for one. Hits and loads are those of the whole run."""
    counts = record.adapter_counts
    if counts is None:
        return {}
    steps = record.steps
    duration = steps.duration_s
    whole_s = float(duration.sum())
    sums = added(parts)
    products_s = sum(phase.operator_s.get("adapters", 0.0) for phase in sums.phases.values())

    def over(part: float, whole: float) -> float | None:
        return part / whole if whole > 0 else None

    return {
        "requests": counts.asked,
        "loads": counts.loads,
        "hit_rate": over(counts.asked - counts.loads, counts.asked),
        "load_s": counts.load_s,
        "load_ms_mean": over(1e3 * counts.load_s, counts.loads),
        "load_time_share": over(counts.load_s, whole_s),
        "distinct_mean": over(float((duration * steps.adapters).sum()), whole_s),
        "distinct_max": int(steps.adapters.max(initial=0)),
        "time_share": over(products_s, sums.busy_s),
    }
