"""All metrics of one run, by the definitions that ``definitions.py`` states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator import __version__
from simulator.deployment import ResolvedDeployment
from simulator.results.adapters import adapters_section
from simulator.results.advice import growing_backlog, notes, warnings
from simulator.results.answers import answers_section, times_of
from simulator.results.classes import classes_section, fairness_section
from simulator.results.describe import simulated_section
from simulator.results.fleet import Member, Part, added, parts_of
from simulator.results.handover import handover_section
from simulator.results.integrity import violations
from simulator.results.jobs import jobs_section
from simulator.results.latency import RequestTimes, gap_statistics, statistics
from simulator.results.money import cost_section, devices_held, energy_section
from simulator.results.presence import fleet_section
from simulator.results.quantiles import GapDistribution
from simulator.results.rates import Delivered, delivered, request_section, throughput_section
from simulator.results.record import Gaps, RunRecord, StepTable
from simulator.results.slo import slo_section
from simulator.results.speculation import speculation_section
from simulator.results.stretches import cut_at
from simulator.results.usage import (
    kv_section,
    littles_law,
    scheduling_section,
    utilization_section,
)
from simulator.results.window import Window, end_of_run

SCHEMA_VERSION = 1
"""Of the summary; a new one whenever a key changes its name or its meaning."""


def summarize(
    deployment: ResolvedDeployment,
    record: RunRecord,
    members: Sequence[Member],
    window: Window,
    times: RequestTimes,
    gaps: GapDistribution,
    uncertainty: dict[str, Any] | None,
) -> dict[str, Any]:
    """The summary: a nested dictionary that JSON can hold, with units in its keys and null for
    what is undefined. The same run gives the same summary, bit for bit.

    Args:
        deployment: the first pool's; its scenario is the run's own.
        members: the pools, in the order of the record's groups.
    """
    parts = parts_of(members, record, window)
    out = delivered(times, window, added(parts))
    devices = devices_held(parts, window)
    summary: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "product": {"name": "servecast", "version": __version__},
        "name": deployment.scenario.name,
        "description": deployment.scenario.description,
        "simulated": simulated_section(deployment, members, record),
        "run": {
            "simulated_s": end_of_run(record),
            "interrupted": record.interrupted,
            "window": _window_section(window),
        },
        "requests": request_section(times, window),
        "answers": answers_section(record, window, times),
        "latency": _latency_section(window, times, gaps, _between_steps(parts, record, window)),
        "throughput": throughput_section(devices, times, window, out),
        "slo": slo_section(deployment, times, window),
        "classes": classes_section(deployment, times, window),
        "fairness": fairness_section(deployment, times, window),
        **_used(parts, window, out),
        "handover": handover_section(parts, record, window),
        "pools": _pools_section(parts, window),
        "fleet": fleet_section(parts, record, window),
        "checks": {
            "violations": list(violations(record)),
            "backlog_grows": growing_backlog(record, window) is not None,
            "littles_law": littles_law(parts, record),
        },
    }
    summary["adapters"] = adapters_section(parts, record)
    summary["jobs"] = jobs_section(deployment, times, parts)
    summary["uncertainty"] = _uncertainty_section(summary, uncertainty)
    summary["warnings"] = list(warnings(record, window, summary))
    summary["notes"] = list(notes(deployment, record, window, summary))
    summary["scenario"] = deployment.scenario.model_dump(mode="json")
    return summary


def _used(parts: Sequence[Part], window: Window, out: Delivered) -> dict[str, Any]:
    """What the replicas of some pools did, and what it took. Of devices that several pools share,
    each pays for its share; what one of them did alone, it did in all of their time."""
    wholes = [part.whole for part in parts]
    return {
        "kv_cache": kv_section(wholes),
        "scheduling": scheduling_section(wholes, window),
        "speculation": speculation_section(parts),
        "utilization": utilization_section(parts if len(parts) > 1 else wholes, window),
        "energy": energy_section(parts, window, out),
        "cost": cost_section(parts, window, out),
    }


def _pools_section(parts: Sequence[Part], window: Window) -> dict[str, Any]:
    """The same of each pool, where there are several."""
    if len(parts) < 2:
        return {}
    below: dict[str, Any] = {"prefix_hit_rate_by_tier": {}, "moved": {}, "link_busy_share": {}}
    sections = {
        part.name: {
            "role": part.role,
            "replicas": part.replicas,
            "devices": part.replicas * part.devices_per_replica,
            "requests": part.window.requests,
            **_used([part], window, delivered(times_of(part.record), window, part.sums)),
        }
        for part in parts
    }
    for section in sections.values():
        section["kv_cache"] |= below  # links and places belong to no pool: see the whole
    return sections


def _uncertainty_section(
    summary: dict[str, Any], found: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Bounds of the figures of this very summary, from bounds relative to them."""
    if found is None:
        return None
    intervals = {}
    for path, (low, high) in found["factors"].items():
        section, key, *rest = path.split(".")
        value = summary[section][key]
        for name in rest:
            value = value[name]
        if value is not None:
            most = 1.0 if path.endswith("_share") else math.inf
            intervals[path] = [value * low, min(value * high, most)]
    kept = {key: value for key, value in found.items() if key != "factors"}
    return {**kept, "intervals": intervals}


def counted_gaps(record: RunRecord, window: Window, *, per_step: bool = False) -> GapDistribution:
    """Inter-token gaps from the start of the window to the end of the run: the drain counts, as it
    does for every other latency. ``per_step`` leaves out the gaps of zero between tokens that came
    at once, which leaves one gap for each step that brings a request tokens."""
    steps, gaps = record.steps, record.gaps
    late = gaps.at_s > window.start_s
    started = steps.start_s >= window.start_s
    # Few rows run across the edge, one a replica at most: only these are cut.
    torn = cut_at(
        steps.select(np.flatnonzero(~started & _ends_after(steps, window))), window.start_s
    )
    torn = torn.select(_ends_after(torn, window))
    return GapDistribution.of(
        [(steps, np.flatnonzero(started & (steps.gap_tokens > 0))), (torn, np.arange(len(torn)))],
        Gaps(gaps.at_s[late], gaps.gap_s[late], gaps.count[late]),
        at_once=0 if per_step else _at_once(steps, started) + int(torn.accepted_tokens.sum()),
    )


def _at_once(steps: StepTable, rows: npt.NDArray[np.bool_]) -> int:
    return int(steps.accepted_tokens[rows].sum())


def _ends_after(steps: StepTable, window: Window) -> npt.NDArray[np.bool_]:
    after: npt.NDArray[np.bool_] = steps.start_s + steps.duration_s > window.start_s
    return after


def _window_section(window: Window) -> dict[str, Any]:
    return {
        "start_s": window.start_s,
        "end_s": window.end_s,
        "duration_s": window.duration_s,
        "includes_drain": window.drain_counts,
    }


def _between_steps(
    parts: Sequence[Part], record: RunRecord, window: Window
) -> GapDistribution | None:
    """Gaps per step where somebody speculates; for others they are those per token."""
    if all(part.deployment.limits.speculation is None for part in parts):
        return None
    return counted_gaps(record, window, per_step=True)


def _latency_section(
    window: Window,
    times: RequestTimes,
    gaps: GapDistribution,
    between_steps: GapDistribution | None,
) -> dict[str, Any]:
    counted = window.counted
    return {
        "queueing_ms": statistics(times.queueing_ms[counted]),
        "ttft_ms": statistics(times.ttft_ms[counted]),
        "ttfat_ms": statistics(times.ttfat_ms[counted]),
        "tpot_ms": statistics(times.tpot_ms[counted]),
        "itl_ms": gap_statistics(gaps),
        "itl_per_step_ms": gap_statistics(between_steps),
        "e2e_ms": statistics(times.e2e_ms[counted]),
        "normalized_ms_per_token": statistics(times.normalized_ms[counted]),
    }
