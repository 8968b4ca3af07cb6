"""What the steps of a run were bound by: operators, resources, and the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulator.costs.balance import turning_points
from simulator.costs.model import StepCostModel
from simulator.results.fleet import Part, added
from simulator.results.record import StepTable
from simulator.results.stretches import cut_at
from simulator.results.window import Window

_OF_NO_OPERATOR = {"host": "host", "stall": "stall", "draft_lookup": "host"}
"""What takes time in a step besides operators, and the resource that it is."""

FASTER = 1.1
"""By how much a resource is thought to be faster."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator's part in the time of all steps.

    Args:
        name: of the operator.
        share: of the time of all steps; over operators they add up to 1.
        with_prompts, decode_only: of the time of the steps of each kind.
        resource: what binds it most of that time, and ``resource_share`` of it.
    """

    name: str
    share: float
    with_prompts: float
    decode_only: float
    resource: str
    resource_share: float


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource's part in the time of all steps.

    Args:
        name: compute, memory, network, latency, host or stall.
        share: of the time in which it binds; over resources they add up to 1.
        with_prompts, decode_only: of the time of the steps of each kind.
        tenth_faster_saves: by what share steps would be shorter with 10% more of it, the batches
            being as they are; None for waiting, which is no resource that could be faster.
    """

    name: str
    share: float
    with_prompts: float
    decode_only: float
    tenth_faster_saves: float | None


@dataclass(frozen=True, slots=True)
class Balance:
    """Where a pool's decoding turns compute-bound.

    Args:
        pool: its name.
        batch_mean: sequences that decode in a step, averaged over the steps with any.
        context_tokens: that each of them attends to.
        products_from, steps_from: batch from which matrix products, and whole steps, take longer
            at their rate of arithmetic than at their bandwidth; None: at no batch. ``known`` tells
            whether the cost model has the operators of a single device, from which this follows.
    """

    pool: str
    batch_mean: float | None
    context_tokens: float | None
    products_from: int | None
    steps_from: int | None
    known: bool


def operators(parts: Sequence[Part], window: Window) -> tuple[Operator, ...]:
    """Operators by their share of the time of the steps within the window, the longest first."""
    sums = added(parts)
    phases = [sums.phases[name].operator_s for name in ("prefill", "decode")]
    whole = [sum(phase.values()) or 1.0 for phase in phases]
    total = sum(sum(phase.values()) for phase in phases) or 1.0
    bound = _bound(parts, window)
    found = []
    for name in dict.fromkeys(name for phase in phases for name in phase):
        seconds = [phase.get(name, 0.0) for phase in phases]
        if sum(seconds) <= 0.0:
            continue
        resources = bound.get(name) or {_OF_NO_OPERATOR.get(name, "network"): 1.0}
        most = max(resources, key=lambda key: resources[key])
        spent = sum(resources.values()) or 1.0
        found.append(
            Operator(
                name, sum(seconds) / total, seconds[0] / whole[0], seconds[1] / whole[1],
                most, resources[most] / spent,
            )
        )  # fmt: skip
    return tuple(sorted(found, key=lambda operator: -operator.share))


def _bound(parts: Sequence[Part], window: Window) -> dict[str, dict[str, float]]:
    """Seconds of each operator by the resource that binds it, within the window."""
    found: dict[str, dict[str, float]] = {}
    for part in parts:
        binding = getattr(part.accountant, "binding", None)
        if binding is None:
            continue
        for name, resources in binding(_within(part.record.steps, window)).items():
            mine = found.setdefault(name, {})
            for key, seconds in resources.items():
                mine[key] = mine.get(key, 0.0) + seconds
    return found


def _within(steps: StepTable, window: Window) -> StepTable:
    inside = cut_at(cut_at(steps, window.start_s), window.end_s)
    end = inside.start_s + inside.duration_s
    return inside.select((inside.start_s >= window.start_s) & (end <= window.end_s))


def resources(parts: Sequence[Part]) -> tuple[Resource, ...]:
    """Resources by their share of the time of the steps within the window, the largest first."""
    sums = added(parts)
    phases = [sums.phases[name].resource_s for name in ("prefill", "decode")]
    whole = [sum(phase.values()) or 1.0 for phase in phases]
    total = sum(sum(phase.values()) for phase in phases) or 1.0
    found = []
    for name in dict.fromkeys(name for phase in phases for name in phase):
        seconds = [phase.get(name, 0.0) for phase in phases]
        share = sum(seconds) / total
        if share > 0.0:
            saves = None if name == "stall" else share * (1.0 - 1.0 / FASTER)
            found.append(Resource(name, share, seconds[0] / whole[0], seconds[1] / whole[1], saves))
    return tuple(sorted(found, key=lambda resource: -resource.share))


def balances(parts: Sequence[Part]) -> tuple[Balance, ...]:
    """Of every pool that decodes."""
    return tuple(_balance(part) for part in parts if part.role != "prefill")


def _balance(part: Part) -> Balance:
    steps = part.record.steps
    count = float(steps.steps[steps.decode > 0].sum())
    decoded = float((steps.decode * steps.steps).sum())
    cost = part.accountant
    if not count:
        return Balance(part.name, None, None, None, None, known=False)
    ahead = steps.decode * (steps.steps - 1) / 2
    context = float(np.where(steps.decode > 0, (steps.context + ahead) * steps.steps, 0.0).sum())
    context /= decoded
    found = turning_points(cost, context) if isinstance(cost, StepCostModel) else None
    if found is None:
        return Balance(part.name, decoded / count, context, None, None, known=False)
    return Balance(part.name, decoded / count, context, *found, known=True)
