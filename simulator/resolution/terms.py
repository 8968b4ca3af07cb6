"""What each traffic class is promised, as far as order of service and admission depend on it."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.scenario.scenario import Scenario
from simulator.scenario.workload import MixWorkload


@dataclass(frozen=True, slots=True)
class ClassTerms:
    """Of one class.

    Args:
        priority: lower goes first.
        weight: share of the service under a fair queue.
        ttft_s, e2e_s: limits of its SLO, None where it has none.
    """

    priority: int = 0
    weight: float = 1.0
    ttft_s: float | None = None
    e2e_s: float | None = None


Terms = tuple[ClassTerms, ...]


def class_terms(scenario: Scenario, names: tuple[str, ...]) -> Terms:
    """Terms by index of the class; classes that a trace brought along have the scenario's SLO."""
    workload = scenario.workload
    known = {c.name: c for c in workload.classes} if isinstance(workload, MixWorkload) else {}
    found = []
    for name in names:
        traffic = known.get(name)
        slo = (traffic.slo if traffic else None) or scenario.slo
        found.append(
            ClassTerms(
                priority=traffic.priority if traffic else 0,
                weight=traffic.weight if traffic else 1.0,
                ttft_s=None if slo.ttft_ms is None else slo.ttft_ms / 1e3,
                e2e_s=None if slo.e2e_ms is None else slo.e2e_ms / 1e3,
            )
        )
    return tuple(found)
