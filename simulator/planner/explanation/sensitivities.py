"""What one change would do: the same traffic before and after, and what chance makes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from simulator.errors import UserError
from simulator.planner.explanation.changes import Change, Group, phrase
from simulator.planner.jobs.tasks import Outcome, Summary
from simulator.planner.jobs.work import Workplace
from simulator.planner.judge import half_width
from simulator.planner.loads.highest import TOLERANCE, HighestRate, highest_rate
from simulator.planner.loads.load_task import task_at
from simulator.results.definitions import value_at
from simulator.scenario import Scenario

FIGURES = {
    "ttft_p99": "latency.ttft_ms.p99",
    "tpot_p99": "latency.tpot_ms.p99",
    "e2e_p50": "latency.e2e_ms.p50",
    "tokens_per_s": "throughput.output_tokens_per_s",
    "usd_per_million": "cost.usd_per_million_output_tokens",
    "goodput_share": "slo.goodput_share",
}
"""What is compared, by the path in a summary."""

AT_MOST = ("highest_per_s", "usd_at_highest")
"""What is compared as well where the highest rate is looked for: that rate, and the cost per
million output tokens at it."""

LEAST = 0.01
"""Changes below this share are none, however sure they are."""

LEAST_OF_ONE = 0.02
"""The same where one run decides."""

Goal = Literal["hold", "save", "speed"]
"""What would help: to hold the SLO that is missed, to hold it for less, or, where no SLO is given,
less latency."""


@dataclass(frozen=True, slots=True)
class Effect:
    """One figure after a change.

    Args:
        value: mean over the seeds; None where it is undefined.
        ratio: over the value before, mean over the seeds (geometric); None where that has none.
        sure: the ratio differs from 1 by more than chance makes of it.
    """

    value: float | None
    ratio: float | None
    sure: bool


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What a change would do.

    Args:
        key, group, title, sets: see ``Change``.
        problem: why it is impossible, in a phrase; then there is nothing else.
        effects: of each of ``FIGURES``, and ``AT_MOST`` where that was asked for.
        slo_held: whether every seed's traffic holds the SLO; None: none is given, or seeds
            disagree.
        helps: its rank among the changes of the deployment that help, from 1; 0: it does not.
    """

    key: str
    group: Group
    title: str
    sets: tuple[str, ...]
    problem: str = ""
    effects: dict[str, Effect] | None = None
    slo_held: bool | None = None
    helps: int = 0


@dataclass(frozen=True, slots=True)
class Sensitivities:
    """All changes.

    Args:
        base: figures before any change, by the names of ``FIGURES``, mean over the seeds.
        slo_held: as of a ``Sensitivity``.
        goal: see ``Goal``.
        changes: what helps most first, then the other changes of the deployment, then traffic,
            then what is impossible.
        seeds: runs of each.
        simulations: in all.
    """

    base: dict[str, float | None]
    slo_held: bool | None
    goal: Goal
    changes: tuple[Sensitivity, ...]
    seeds: int
    simulations: int


def sensitivities(
    scenario: Scenario,
    changes: Sequence[Change],
    work: Workplace,
    *,
    seeds: int = 3,
    highest: bool = False,
) -> Sensitivities:
    """Simulates every change with the traffic of every seed. Where seeds change nothing, as with a
    recorded trace, one is enough.

    Args:
        scenario: before any change.
        changes: see ``simulator.planner.explanation.changes``.
        work: where the simulations are done.
        seeds: how many.
        highest: whether to look for the highest rate that holds the SLO with every change of the
            deployment, which takes about ten simulations each.

    Raises:
        UserError: the scenario cannot be simulated, or has no SLO or rate for ``highest``.
    """
    base = work.run([task_at(scenario, 1.0, seed=seed) for seed in range(seeds)])
    for outcome in base:
        if outcome.problem:
            raise UserError(outcome.problem)
    simulations = len(base)
    if len({tuple(_values(o.summary).values()) for o in base}) == 1:
        base = base[:1]
    possible = [change for change in changes if change.scenario is not None]
    tasks = [
        task_at(change.scenario, 1.0, seed=seed)
        for change in possible
        for seed in range(len(base))
        if change.scenario is not None
    ]
    outcomes = work.run(tasks)
    simulations += len(tasks)
    n = len(base)
    found = {
        change.key: _compared(change, base, outcomes[i * n : (i + 1) * n])
        for i, change in enumerate(possible)
    }
    before = [_values(outcome.summary) for outcome in base]
    means = {name: _mean([values[name] for values in before]) for name in FIGURES}
    if highest:
        now = _at_most(scenario, work)
        simulations += now.simulations
        means |= _most(now)
        for change in possible:
            each = found[change.key]
            if change.group == "deployment" and change.scenario is not None and each.effects:
                after = _at_most(change.scenario, work, now.factor)
                simulations += after.simulations
                most = _compared_most(_most(now), _most(after))
                found[change.key] = replace(each, effects=each.effects | most)
    held = _held(base)
    limited = bool(value_at(base[0].summary, "slo.limits_given"))
    goal: Goal = "speed" if not limited else "save" if held else "hold"
    every = [
        found.get(change.key)
        or Sensitivity(change.key, change.group, change.title, change.sets, change.problem)
        for change in changes
    ]
    return Sensitivities(means, held, goal, _sorted(every, goal), n, simulations)


def _values(summary: Summary) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, path in FIGURES.items():
        value = value_at(summary, path)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        found[name] = float(value) if number else None
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) and known else None


def _held(outcomes: Sequence[Outcome]) -> bool | None:
    verdicts = {value_at(outcome.summary, "slo.held") for outcome in outcomes}
    return verdicts.pop() if len(verdicts) == 1 else None


def _compared(change: Change, base: Sequence[Outcome], after: Sequence[Outcome]) -> Sensitivity:
    problem = next((outcome.problem for outcome in after if outcome.problem), "")
    if problem:
        return Sensitivity(change.key, change.group, change.title, change.sets, phrase(problem))
    old = [_values(outcome.summary) for outcome in base]
    new = [_values(outcome.summary) for outcome in after]
    effects = {name: _effect([o[name] for o in old], [n[name] for n in new]) for name in FIGURES}
    return Sensitivity(
        change.key, change.group, change.title, change.sets, "", effects, _held(after)
    )


def _effect(old: Sequence[float | None], new: Sequence[float | None]) -> Effect:
    pairs = [(a, b) for a, b in zip(old, new, strict=True) if a and b and a > 0 and b > 0]
    if len(pairs) < len(old):
        return Effect(_mean(new), None, sure=False)
    logs = [math.log(b / a) for a, b in pairs]
    middle = sum(logs) / len(logs)
    margin = LEAST_OF_ONE if len(logs) == 1 else max(LEAST, half_width(logs))
    return Effect(_mean(new), math.exp(middle), sure=abs(middle) > margin)


# --- the highest rate ----------------------------------------------------------------------------


def _at_most(scenario: Scenario, work: Workplace, near: float | None = None) -> HighestRate:
    return highest_rate(scenario, (), work, seeds=1, interval=False, near=near)


def _most(found: HighestRate) -> dict[str, float | None]:
    cost = found.figures.get("cost.usd_per_million_output_tokens")
    return {"highest_per_s": found.rate_per_s, "usd_at_highest": cost}


def _compared_most(
    before: Mapping[str, float | None], after: Mapping[str, float | None]
) -> dict[str, Effect]:
    """Rates are known to the tolerance of the search."""
    effects = {}
    for name in AT_MOST:
        old, new = before[name], after[name]
        ratio = new / old if old and new else None
        sure = ratio is not None and abs(math.log(ratio)) > TOLERANCE
        effects[name] = Effect(new, ratio, sure)
    return effects


# --- what helps ----------------------------------------------------------------------------------


def _sorted(found: Sequence[Sensitivity], goal: Goal) -> tuple[Sensitivity, ...]:
    levers = [each for each in found if each.group == "deployment" and each.effects]
    helping = sorted((each for each in levers if merit(each, goal) is not None),
                     key=lambda each: merit(each, goal) or ())  # fmt: skip
    ranked = [replace(each, helps=rank) for rank, each in enumerate(helping, 1)]
    keys = {each.key for each in helping}
    others = [each for each in levers if each.key not in keys]
    traffic = [each for each in found if each.group == "traffic" and each.effects]
    impossible = [each for each in found if not each.effects]
    return (*ranked, *others, *traffic, *impossible)


def merit(change: Sensitivity, goal: Goal) -> tuple[float, ...] | None:
    """How much a change helps, lower is more; None: it does not.

    - ``hold``: changes that hold the SLO, the cheapest first; then those that bring it nearer, by
      the misses that are left.
    - ``save``: changes that hold the SLO for less, the cheapest first; then those that shorten
      latency without costing more.
    - ``speed``: what lowers latency times cost most.

    Where the highest rate was looked for, the cost is that at this rate.
    """
    known = change.effects is not None and "usd_at_highest" in change.effects
    cost = _ratio(change, "usd_at_highest" if known else "usd_per_million")
    latency = _latency(change)
    if goal == "hold":
        share = change.effects["goodput_share"] if change.effects else None
        if change.slo_held:
            return (0.0, cost, latency)
        if share is None or share.value is None or share.ratio is None:
            return None
        return (1.0, 1.0 - share.value) if share.sure and share.ratio > 1.0 else None
    if goal == "save":
        if change.slo_held and cost < 1.0:
            return (0.0, cost, latency)
        return (1.0, latency) if change.slo_held and latency < 1.0 and cost <= 1.0 else None
    return (latency * cost,) if latency * cost < 1.0 else None


def _ratio(change: Sensitivity, name: str) -> float:
    """By what a figure changes; 1 where chance may have done it."""
    effect = change.effects[name] if change.effects else None
    return effect.ratio if effect is not None and effect.ratio and effect.sure else 1.0


def _latency(change: Sensitivity) -> float:
    """Geometric mean of what becomes of TTFT and TPOT at p99."""
    return math.sqrt(_ratio(change, "ttft_p99") * _ratio(change, "tpot_p99"))
