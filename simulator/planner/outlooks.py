"""All that a plan has to choose from, with what is known before anything is simulated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from simulator.errors import UserError
from simulator.planner.constraints import Constraint
from simulator.planner.defined import check_defined
from simulator.planner.document import Asked
from simulator.planner.judge import limits_of
from simulator.planner.outlook import Outlook, outlook, traffic_of
from simulator.planner.space import kinds

Looked = Callable[[int, int], object]
"""Gets how many kinds of deployment were looked at, and of how many."""


def outlooks(
    asked: Asked, looked: Looked | None = None
) -> tuple[list[Outlook], tuple[Constraint, ...]]:
    """Every kind of deployment with what is known before simulating, and what must hold.

    Args:
        asked: the plan.
        looked: called after each kind, whose exception ends this.

    Raises:
        UserError: nothing must hold, a figure is asked for that no run will have, the space is
            empty, or nothing in it can run the model.
    """
    limits = limits_of(asked.plan.constraints, asked.scenario)
    if not limits:
        raise UserError(
            "nothing must hold: neither constraints nor an slo are given", where="constraints",
            hint="list constraints, e.g. {metric: ttft_ms.p99, max: 1000}",
        )  # fmt: skip
    _check_classes(limits, asked)
    check_defined(asked, limits)
    traffic = traffic_of(asked)
    every, found = kinds(asked), []
    for kind in every:
        found.append(outlook(kind, asked, limits, traffic))
        if looked is not None:
            looked(len(found), len(every))
    if not found:
        raise UserError("is empty: its axes have no combination", where="space")
    if all(entry.problem for entry in found):
        raise UserError(_nothing_runs(found), where="space")
    if not any(entry.sizes for entry in found):
        raise UserError(_nothing_small(asked), where="space")
    return found, limits


def _check_classes(limits: Sequence[Constraint], asked: Asked) -> None:
    from simulator.results.slo import slo_of_classes

    known = list(slo_of_classes(asked.scenario))
    for number, limit in enumerate(limits):
        name = limit.traffic_class
        if name is not None and (name not in known or len(known) == 1):
            raise UserError(
                f"there is no traffic class {name!r}" if len(known) > 1 else
                "the traffic has no classes",
                where=f"constraints.{number}.traffic_class",
                hint=f"the workload has {', '.join(known)}" if len(known) > 1 else "leave it out",
            )  # fmt: skip


def _nothing_runs(known: Sequence[Outlook]) -> str:
    problems = Counter(entry.problem for entry in known)
    text, count = problems.most_common(1)[0]
    if len(problems) == 1:
        return f"no deployment runs: {text}"
    return f"none of {len(known)} kinds of deployment runs; {count} of them: {text}"


def _nothing_small(asked: Asked) -> str:
    plan, space = asked.plan, asked.plan.space
    limits = [f"max_devices {space.max_devices}"]
    if space.max_power_kw is not None:
        limits.append(f"max_power_kw {space.max_power_kw:g}")
    spare = ""
    if plan.spare_replicas:
        spare = f" beside {plan.spare_replicas} that may be missing"
    return (
        f"is empty: not even one replica{spare} of any kind of deployment is within "
        f"{' and '.join(limits)}"
        if space.replicas is None
        else f"is empty: no number of replicas that it lists{spare} is within "
        f"{' and '.join(limits)}"
    )
