"""Whether a plan's figures exist at all for its traffic, before anything is simulated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from simulator.errors import UserError
from simulator.planner.constraints import Constraint
from simulator.planner.document import Asked
from simulator.results.slo import has_limits, slo_of_classes

GRID = "energy.grid_gco2e_per_kwh"
"""The key without which no carbon is counted."""


def check_defined(asked: Asked, limits: Sequence[Constraint]) -> None:
    """That the objective and the constraints are figures which runs of the plan will have.

    Raises:
        UserError: goodput is asked for without an SLO, or carbon without the grid's intensity.
    """
    named: list[tuple[str, str, str | None]] = [("objective", asked.plan.objective.path, None)]
    named += [
        (f"constraints.{place}", limit.path, limit.traffic_class)
        for place, limit in enumerate(limits)
    ]
    slos = slo_of_classes(asked.scenario)
    without_slo = not any(has_limits(slo) for slo in slos.values())
    without_grid = asked.scenario.energy.grid_gco2e_per_kwh is None
    for where, path, name in named:
        goodput, carbon = "goodput" in path, "gco2e" in path
        alone = name is not None and name in slos and not has_limits(slos[name])
        if goodput and (without_slo or alone) and not _varied(asked.plan.space.set, "slo"):
            raise UserError(
                "goodput is what is served within the SLO, and "
                f"{f'class {name} of the scenario' if alone else 'the scenario'} has none",
                where=where, hint="give it limits, e.g. slo: {ttft_ms: 1000, tpot_ms: 50}",
            )  # fmt: skip
        if carbon and without_grid and not _varied(asked.plan.space.set, GRID):
            raise UserError(
                "carbon is not counted, as the scenario does not say what the grid emits",
                where=where, hint=f"give its {GRID}",
            )  # fmt: skip


def _varied(keys: Iterable[str], wanted: str) -> bool:
    """Whether an axis gives the key, one above or one below it."""
    return any(f"{key}.".startswith(f"{wanted}.") or f"{wanted}.".startswith(f"{key}.")
               for key in keys)  # fmt: skip
