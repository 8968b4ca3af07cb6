"""Whether a deployment holds, from runs with different traffic of the same kind.

One run decides unless it is close to a limit; then further seeds are drawn, and a Student t
interval over them decides. What stays unclear counts as not held, and is reported as too close to
call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from simulator.planner.constraints import Constraint
from simulator.planner.jobs.tasks import Outcome
from simulator.results.slo import has_limits, slo_of_classes
from simulator.scenario import Scenario

CLOSE = 0.2
"""Share of a limit within which one run does not decide: percentiles of a few thousand requests
differ by that much from seed to seed."""

CLOSE_SHARE = 0.5
"""The same for shares of requests, compared by the misses that they allow: twenty of two thousand
are twenty, give or take a quarter."""

LEVEL = 0.8
"""Of the two-sided interval over seeds."""

_T = (3.0777, 1.8856, 1.6377, 1.5332, 1.4759, 1.4398, 1.4149, 1.3968, 1.3830, 1.3722, 1.3634,
      1.3562, 1.3502, 1.3450, 1.3406, 1.3368, 1.3334, 1.3304, 1.3277)  # fmt: skip
"""90% quantiles of Student's t with 1, 2, … degrees of freedom."""

State = Literal["holds", "fails", "open", "close"]
"""open: more seeds may tell; close: they did not."""


@dataclass(frozen=True, slots=True)
class Missed:
    """How far a deployment is from one limit.

    Args:
        constraint: the limit.
        value: the figure, mean over the seeds; None where it is undefined or the run was ended.
        excess: by what share of the limit it misses it; negative: room that is left.
        half: half of the interval of the excess over the seeds; infinite with one seed.
    """

    constraint: Constraint
    value: float | None
    excess: float
    half: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the runs of a deployment say.

    Args:
        state: see ``State``.
        missed: every limit, the worst first.
        seeds: runs behind it.
        problem: why it cannot be simulated, if it cannot.
    """

    state: State
    missed: tuple[Missed, ...]
    seeds: int
    problem: str = ""

    @property
    def smaller_fail(self) -> bool:
        """Whether fewer replicas of the same kind fail as well: those are slower, but they cost and
        draw less."""
        if self.problem or not self.missed:
            return True
        close = self.state == "close"
        slow = [missed for missed in self.missed if grows_slower(missed.constraint)]
        return any(missed.excess > (-missed.half if close else 0.0) for missed in slow)

    @property
    def worst(self) -> Missed | None:
        """The limit that is missed most, or met with the least room."""
        return self.missed[0] if self.missed else None


_WITH_SIZE = ("cost.", "energy.", "utilization.", "kv_cache.", "fleet.", "fairness.", "handover.")


def grows_slower(limit: Constraint) -> bool:
    """Whether fewer replicas can only miss a limit by more."""
    return not limit.metric.startswith(_WITH_SIZE) and "per_device" not in limit.metric


def limits_of(constraints: Sequence[Constraint], scenario: Scenario) -> tuple[Constraint, ...]:
    """What must hold: what the plan lists, or else the SLO of every traffic class."""
    if constraints:
        return tuple(constraints)
    slos = slo_of_classes(scenario)
    limited = {name: slo for name, slo in slos.items() if has_limits(slo)}
    if len(slos) == 1:
        return tuple(
            Constraint(metric="slo.goodput_share", min=slo.attainment) for slo in limited.values()
        )
    return tuple(
        Constraint(metric="goodput_share", min=slo.attainment, traffic_class=name)
        for name, slo in limited.items()
    )


def judge(
    outcomes: Sequence[Outcome],
    limits: Sequence[Constraint],
    *,
    most_seeds: int,
    pessimistic: bool,
    lost_share: float,
    plain: Sequence[Outcome] = (),
) -> Verdict:
    """What one deployment's runs say.

    Args:
        outcomes: one a seed, at least one.
        limits: what must hold.
        most_seeds: after which it is decided.
        pessimistic: figures count at the bad end of the predictions' interval.
        lost_share: of the counted requests, that may be rejected, time out, fail or not end.
        plain: runs of the same seeds as the deployment would be, where the outcomes are of what it
            must bear beyond that; costs and power are those of the former.
    """
    for outcome in (*outcomes, *plain):
        if outcome.problem:
            return Verdict("fails", (), len(outcomes), outcome.problem)
    found = [
        _missed(limit, outcomes if grows_slower(limit) else plain or outcomes, pessimistic)
        for limit in limits
    ]
    losses = max(lost(outcome.summary) for outcome in outcomes)
    if losses > lost_share:
        found.append(Missed(_COMPLETED, 1.0 - losses, losses - lost_share, 0.0))
    if any(overloaded(outcome.summary) for outcome in outcomes):
        found.append(Missed(_KEEPS_UP, None, 1.0, 0.0))
    found.sort(key=lambda missed: -missed.excess)
    return Verdict(_state(found, outcomes, most_seeds), tuple(found), len(outcomes))


class Rule(Constraint):
    """What must hold though no plan says so; its metric is a sentence rather than a figure."""

    def __str__(self) -> str:
        return self.metric


_COMPLETED = Rule.model_construct(metric="requests complete", min=1.0)
_KEEPS_UP = Rule.model_construct(metric="the queue does not grow without end", max=0.0)


def lost(summary: dict[str, Any]) -> float:
    """Share of the counted requests that did not complete."""
    requests = summary.get("requests", {})
    counted = requests.get("counted", 0)
    ends = requests.get("counted_by_outcome", {})
    return 1.0 - float(ends.get("completed", 0)) / counted if counted else 0.0


def overloaded(summary: dict[str, Any]) -> bool:
    """Whether ever more requests wait."""
    return bool(summary.get("checks", {}).get("backlog_grows"))


def closeness(limit: Constraint) -> float:
    """Excess within which one run does not decide."""
    return CLOSE_SHARE if limit.of_share else CLOSE


def _missed(limit: Constraint, outcomes: Sequence[Outcome], pessimistic: bool) -> Missed:
    if any(outcome.hopeless for outcome in outcomes):
        return Missed(limit, None, closeness(limit), 0.0)
    values = [value_at_end(limit, o.summary) if pessimistic else limit.value(o.summary)
              for o in outcomes]  # fmt: skip
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return Missed(limit, None, math.inf, 0.0)
    mean = sum(known) / len(known)
    excesses = [limit.excess(value) for value in known]
    return Missed(limit, mean, sum(excesses) / len(excesses), half_width(excesses))


def interval_of(path: str, summary: dict[str, Any]) -> tuple[float, float] | None:
    """The 80% interval of a figure, where the run says one."""
    found = ((summary.get("uncertainty") or {}).get("intervals") or {}).get(path)
    return None if found is None else (float(found[0]), float(found[1]))


def value_at_end(limit: Constraint, summary: dict[str, Any]) -> float | None:
    """The figure at the bad end of its interval; as predicted where it has none."""
    value, interval = limit.value(summary), interval_of(limit.path, summary)
    if value is None or interval is None:
        return value
    return interval[1] if limit.max is not None else interval[0]


def half_width(values: Sequence[float]) -> float:
    """Half of the interval of a mean (Student's t); infinite for one value."""
    n = len(values)
    if n < 2:
        return math.inf
    mean = sum(values) / n
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    return _T[min(n - 2, len(_T) - 1)] * spread / math.sqrt(n)


def _state(found: Sequence[Missed], outcomes: Sequence[Outcome], most_seeds: int) -> State:
    if any(outcome.hopeless for outcome in outcomes):
        return "fails"
    single = len(outcomes) == 1
    sure = [
        closeness(missed.constraint) if single and missed.half else missed.half for missed in found
    ]
    if any(missed.excess > margin for missed, margin in zip(found, sure, strict=True)):
        return "fails"
    if all(missed.excess <= -margin for missed, margin in zip(found, sure, strict=True)):
        return "holds"
    if len(outcomes) < most_seeds:
        return "open"
    if most_seeds == 1:
        return "holds" if all(missed.excess <= 0.0 for missed in found) else "fails"
    return "close"
