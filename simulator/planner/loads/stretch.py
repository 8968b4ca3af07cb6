"""A deployment whose steps all take longer is the same one in slower time.

If everything takes ``f`` times as long, a deployment under a rate of ``λ`` does what the predicted
one does under ``λ·f``, ``f`` times as slowly: its latencies are ``f`` times those, its rates are
``1/f`` of those. So the rate that it can bear follows from runs of the predicted one, with limits
on times divided by ``f`` and limits on rates multiplied by it. Network delays and think times are
taken to stretch as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from simulator.planner.constraints import Constraint
from simulator.planner.jobs.tasks import Summary
from simulator.results.definitions import DEFINITIONS, value_at
from simulator.scenario import Scenario
from simulator.scenario.workload import MixWorkload, Slo

_PER_TOKEN = ("usd_per_million", "usd_per_request", "joules_per", "gco2e_per_request",
              "gco2e_per_million")  # fmt: skip


def step_factors(summary: Summary) -> tuple[float, float] | None:
    """By what factor 80% of measured steps are at least and at most longer than predicted: of both
    kinds of steps, by their share of the time; None where the summary has no intervals."""
    found = (summary.get("uncertainty") or {}).get("step_time_factor")
    if found is None:
        return None
    shares = {
        "with_prompts": value_at(summary, "utilization.steps_with_prompts.share_of_busy_time"),
        "decode_only": value_at(summary, "utilization.decode_only_steps.share_of_busy_time"),
    }
    weights = {name: float(share or 0.0) for name, share in shares.items()}
    whole = sum(weights.values()) or 1.0
    low, high = (
        sum(weights[name] * found[name][side] for name in weights) / whole for side in (0, 1)
    )
    return low, high


def stretched(
    scenario: Scenario, limits: Sequence[Constraint], factor: float
) -> tuple[Scenario, tuple[Constraint, ...]]:
    """The scenario and limits to simulate instead of steps that take ``factor`` times as long."""
    workload = scenario.workload
    changes: dict[str, object] = {"slo": _tightened(scenario.slo, factor)}
    if isinstance(workload, MixWorkload):
        classes = tuple(
            each if each.slo is None
            else each.model_copy(update={"slo": _tightened(each.slo, factor)})
            for each in workload.classes
        )  # fmt: skip
        changes["workload"] = workload.model_copy(update={"classes": classes})
    return scenario.model_copy(update=changes), tuple(_moved(limit, factor) for limit in limits)


def _tightened(slo: Slo, factor: float) -> Slo:
    return slo.model_copy(
        update={
            name: limit / factor
            for name in ("ttft_ms", "tpot_ms", "e2e_ms")
            if (limit := getattr(slo, name)) is not None
        }
    )


def _moved(limit: Constraint, factor: float) -> Constraint:
    """The same limit, of what runs ``factor`` times as fast."""
    unit = next(
        (d.unit for d in DEFINITIONS if limit.path == d.key or limit.path.startswith(f"{d.key}.")),
        "ms" if "_ms" in limit.metric else "1/s" if limit.metric.endswith("_per_s") else "",
    )
    name = limit.path.rpartition(".")[2]
    if unit in ("ms", "ms/token", "s") or name.startswith(_PER_TOKEN):
        by = 1.0 / factor
    elif unit in ("1/s", "tokens/s"):
        by = factor
    else:
        return limit
    side = "max" if limit.max is not None else "min"
    return limit.model_copy(update={side: limit.limit * by})
