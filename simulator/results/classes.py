"""Figures of each traffic class, and how evenly the classes were served."""

from __future__ import annotations

from typing import Any

import numpy as np

from simulator.deployment import ResolvedDeployment
from simulator.resolution.terms import class_terms
from simulator.results.latency import RequestTimes, statistics
from simulator.results.record import REJECTED, TIMED_OUT
from simulator.results.slo import has_limits, judge, slo_of_classes
from simulator.results.window import Window


def classes_section(
    deployment: ResolvedDeployment, times: RequestTimes, window: Window
) -> dict[str, Any]:
    """What became of each class, where there are several; gaps belong to no class."""
    record = times.record
    classes = record.requests.classes
    if len(classes) < 2:
        return {}
    met = judge(deployment, times).met
    slos = slo_of_classes(deployment.scenario)
    span = window.duration_s

    def rate(count: int) -> float | None:
        return count / span if span > 0 else None

    sections = {}
    for i, name in enumerate(classes):
        own = record.requests.class_id == i
        counted = window.counted & own
        ended = window.holds(times.finish_s) & times.is_request & own
        started = record.requests.rows_of(counted) & np.isfinite(record.start_s)
        prompt = int(record.requests.input_tokens[started].sum())
        hits = int(record.cached_tokens[started].sum())
        limited = has_limits(slos.get(name, deployment.scenario.slo))
        total = int(counted.sum())
        sections[name] = {
            "counted": total,
            "completed": int((counted & times.completed).sum()),
            "rejected": int((counted & (times.outcome == REJECTED)).sum()),
            "timed_out": int((counted & (times.outcome == TIMED_OUT)).sum()),
            "requests_per_s": rate(int(np.count_nonzero(ended))),
            "total_tokens_per_s": rate(served_tokens(times, window, i)),
            "goodput_requests_per_s": rate(int((met & ended).sum())) if limited else None,
            "goodput_share": int((met & counted).sum()) / total if limited and total else None,
            "queueing_ms": statistics(times.queueing_ms[counted]),
            "ttft_ms": statistics(times.ttft_ms[counted]),
            "ttfat_ms": statistics(times.ttfat_ms[counted]),
            "tpot_ms": statistics(times.tpot_ms[counted]),
            "e2e_ms": statistics(times.e2e_ms[counted]),
            "prefix_hit_rate": hits / prompt if prompt else None,
        }
    return sections


def served_tokens(times: RequestTimes, window: Window, number: int) -> int:
    """Input and output tokens of a class's requests that completed within the window."""
    requests = times.record.requests
    ended = window.holds(times.finish_s) & times.is_request & (requests.class_id == number)
    return int(requests.input_tokens[ended].sum() + times.tokens[ended].sum())


def fairness_section(
    deployment: ResolvedDeployment, times: RequestTimes, window: Window
) -> dict[str, Any]:
    """Jain's index of the classes' tokens over their weights: (Σx)² / (n Σx²), from 1/n where one
    class got everything to 1 where all got the same (Jain, Chiu and Hawe 1984)."""
    classes = times.record.requests.classes
    weights = [terms.weight for terms in class_terms(deployment.scenario, classes)]
    service = [served_tokens(times, window, i) / weight for i, weight in enumerate(weights)]
    squares = sum(x * x for x in service)
    if len(classes) < 2 or not squares:
        return {"jain_index": None}
    return {"jain_index": sum(service) ** 2 / (len(service) * squares)}
