"""Where nothing holds: how far the last candidates are from holding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from simulator.planner.constraints import Constraint
from simulator.planner.document import Asked
from simulator.planner.jobs.tasks import Outcome
from simulator.planner.jobs.work import Workplace
from simulator.planner.judge import judge
from simulator.planner.search import Found, Trial, stress_task

MOST = 8
"""Kinds whose largest deployment is run to its end."""


def measured(asked: Asked, limits: Sequence[Constraint], found: Found, work: Workplace) -> Found:
    """The same trials, with the most promising ones run to their end.

    A search ends runs as soon as a limit is out of reach, and then nobody knows by how much it is
    missed. Of each kind the largest deployment comes closest; the kinds with the best estimates are
    run.
    """
    largest: dict[int, Trial] = {}
    for trial in found.trials:
        known = largest.get(trial.kind.index)
        if known is None or trial.size.devices > known.size.devices:
            largest[trial.kind.index] = trial
    promising = sorted(largest.values(), key=lambda trial: (trial.size.hope, trial.kind.index))
    early = [t for t in promising[:MOST] if any(outcome.hopeless for outcome in t.stress)]
    outcomes = work.run([stress_task(asked, trial, 0) for trial in early])
    whole = {
        id(old): _judged(asked, limits, old, outcome)
        for old, outcome in zip(early, outcomes, strict=True)
    }
    trials = tuple(whole.get(id(trial), trial) for trial in found.trials)
    return replace(found, trials=trials, simulations=found.simulations + len(early))


def _judged(asked: Asked, limits: Sequence[Constraint], trial: Trial, outcome: Outcome) -> Trial:
    verdict = judge(
        [outcome], limits, most_seeds=1, pessimistic=asked.plan.judge == "pessimistic",
        lost_share=asked.plan.max_lost_share,
    )  # fmt: skip
    return replace(trial, stress=[outcome], verdict=verdict)
