"""Plans as plain data and as YAML, the other way round than they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from simulator import engines, hardware
from simulator.planner.constraints import metric_paths
from simulator.planner.document import Asked, Plan, Plan_, Space
from simulator.planner.objectives import NAMES
from simulator.scenario import Scenario
from simulator.scenario.dump import compact
from simulator.scenario.precision import Dtype
from simulator.yamlio import dump_yaml


@dataclass(frozen=True, slots=True)
class PlanChoices:
    """What a plan may name: profiles of devices and engines, formats of weights, price plans,
    figures that limits are on, names of objectives, and judges; ``defaults`` by key of the plan and
    of its space (``space.max_devices``)."""

    hardware: tuple[str, ...]
    engine: tuple[str, ...]
    weights: tuple[str, ...]
    price_plans: tuple[str, ...]
    metrics: tuple[str, ...]
    objectives: tuple[str, ...]
    judges: tuple[str, ...]
    defaults: Mapping[str, Any]


def plan_choices() -> PlanChoices:
    """What a plan may name, shipped profiles included."""
    return PlanChoices(
        tuple(hardware.profile_names()), tuple(engines.profile_names()), get_args(Dtype),
        get_args(Plan_), tuple(metric_paths()), tuple(NAMES),
        get_args(Plan.model_fields["judge"].annotation), dict(_defaults()),
    )  # fmt: skip


def _defaults() -> Iterator[tuple[str, Any]]:
    for prefix, model in (("", Plan), ("space.", Space)):
        for name, field in model.model_fields.items():
            if not field.is_required():
                yield prefix + name, field.get_default(call_default_factory=True)


def plan_document(source: Asked | Scenario) -> dict[str, Any]:
    """A plan as the plain data that its file holds, without what has its default value.

    Args:
        source: a plan that was read, whose scenario is then part of it; or a scenario: the plan
            that asks for the cheapest deployment on any device with a price that holds its SLO.
    """
    if isinstance(source, Scenario):
        return {"name": f"plan-{source.name}"[:80], "scenario": compact(source)}
    found = compact(source.plan)
    found["scenario"] = compact(source.scenario)
    if "set" in found.get("space", {}):
        found["space"]["set"] = {key: list(axis) for key, axis in source.plan.space.set.items()}
    return found


def dump_plan(plan: Asked | Mapping[str, Any]) -> str:
    """A plan as the YAML that ``simulate plan`` takes.

    Args:
        plan: one that was read, or what ``plan_document`` gives, perhaps changed.
    """
    return dump_yaml(plan_document(plan) if isinstance(plan, Asked) else dict(plan))
