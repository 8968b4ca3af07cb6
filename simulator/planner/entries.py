"""What a report says of each deployment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from simulator.planner.constraints import Constraint
from simulator.planner.document import Asked
from simulator.planner.jobs.tasks import Summary
from simulator.planner.judge import Missed, Rule
from simulator.planner.search import Trial
from simulator.results.definitions import value_at

FIGURES = (
    "latency.ttft_ms.p50", "latency.ttft_ms.p99", "latency.tpot_ms.p50", "latency.tpot_ms.p99",
    "latency.e2e_ms.p50", "latency.e2e_ms.p99", "throughput.output_tokens_per_s",
    "throughput.output_tokens_per_s_per_device", "throughput.output_tokens_per_s_per_user.p50",
    "slo.goodput_share", "slo.goodput_requests_per_s", "kv_cache.use_mean", "utilization.mfu",
    "cost.usd_per_hour", "cost.usd_per_million_output_tokens", "energy.joules_per_output_token",
    "energy.power_w_mean", "energy.gco2e_per_request",
)  # fmt: skip
"""What a report says of every deployment that it lists."""


def deployment_entry(trial: Trial) -> dict[str, Any]:
    """What it is."""
    size = trial.size
    return {
        "label": label(trial),
        "axes": dict(trial.kind.axes),
        "replicas": list(size.counts),
        "pools": list(trial.kind.pools),
        "devices": size.devices,
        "usd_per_hour": size.usd_per_hour,
    }


def label(trial: Trial) -> str:
    """``4 × h100-sxm, tp2: 2 replicas``."""
    size, axes = trial.size, dict(trial.kind.axes)
    hardware = axes.pop("hardware")
    rest = ", ".join(axes.values())
    if trial.kind.pools:
        counts = "prefill {} : decode {}".format(*size.counts)
    elif size.counts:
        (count,) = size.counts
        counts = f"{count} replica{'s' if count != 1 else ''}"
    else:
        return f"{hardware}, {rest}"
    return f"{size.devices} × {hardware}, {rest}: {counts}"


def trial_entry(trial: Trial, asked: Asked, limits: Sequence[Constraint]) -> dict[str, Any]:
    """What it is, and what its runs said, the figures with limits included. A run that was ended
    early has no figures."""
    verdict = trial.verdict
    assert verdict is not None
    last = trial.stress[-1]
    summary: Summary = {} if last.hopeless else last.summary
    score = trial.score if trial.score is not None and math.isfinite(trial.score) else None
    return {
        **deployment_entry(trial),
        "state": verdict.state,
        "seeds": verdict.seeds,
        "problem": verdict.problem,
        "ended_early": next((o.hopeless for o in trial.stress if o.hopeless), ""),
        "worst": None if verdict.worst is None else _worst(verdict.worst),
        "objective": None if score is None else score * asked.plan.objective.sign,
        "figures": {
            **{limit.path: limit.value(summary) for limit in limits},
            **{name: value_at(summary, name) for name in FIGURES},
        },
    }


def _worst(missed: Missed) -> dict[str, Any]:
    from simulator.planner.reasons import missed_words

    rule = isinstance(missed.constraint, Rule)
    return {
        "limit": str(missed.constraint),
        "path": "" if rule else missed.constraint.path,
        "value": missed.value,
        "excess": missed.excess if math.isfinite(missed.excess) else None,
        "text": missed_words(missed),
    }


def order(trial: Trial) -> tuple[bool, float, int, int, tuple[int, ...]]:
    """Those that hold first, the best of them first."""
    held = trial.score is not None
    score = trial.score if trial.score is not None else trial.size.low
    return (not held, score, trial.size.devices, trial.kind.index, trial.size.counts)
