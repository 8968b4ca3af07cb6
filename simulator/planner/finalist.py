"""The best deployments, run with every seed, and what is then known of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from simulator.planner.constraints import Constraint
from simulator.planner.document import Asked
from simulator.planner.entries import FIGURES, deployment_entry
from simulator.planner.jobs.tasks import Outcome, Summary, Task
from simulator.planner.jobs.work import Workplace
from simulator.planner.judge import grows_slower, half_width, interval_of, value_at_end
from simulator.planner.outlook import KNOWN, seeds_of
from simulator.planner.search import Trial, figure, plain_task, stress_task
from simulator.scenario.dump import dump_scenario

ONE_RUN = 0.02
"""Difference of an objective that one run of each deployment does not tell: the traffic is the
same, but a scheduler that decides otherwise once goes on differently."""

_STEADY = ("poisson", "gamma", "constant", "closed_loop", "burst")


class Finalist:
    """A deployment of the best, run with every seed, as it would be and under what it must bear."""

    def __init__(
        self, asked: Asked, limits: Sequence[Constraint], trial: Trial, work: Workplace
    ) -> None:
        self.asked, self.limits, self.trial = asked, limits, trial
        numbers = range(seeds_of(asked))
        plain = [plain_task(asked, trial, n, intervals=n == 0) for n in numbers]
        stress = [stress_task(asked, trial, n) for n in numbers]
        stress[0] = Task(stress[0].scenario, intervals=True)
        first = trial.stress[0]
        if not first.summary.get("uncertainty"):
            (first,) = work.run(stress[:1])
        self.stress: list[Outcome] = [first, *work.run(stress[1:])]
        same = stress[0].scenario == plain[0].scenario
        self.plain: list[Outcome] = self.stress if same else work.run(plain)

    def values(self, path: str) -> list[float]:
        """A figure of each run as it would be; where it is known beforehand, that."""
        if self.trial.size.certain and path == self.asked.plan.objective.path:
            return [self.trial.size.low * self.asked.plan.objective.sign]
        found = [figure(path, outcome.summary) for outcome in self.plain]
        return [value for value in found if value is not None]

    def score(self) -> float:
        """Mean of the objective over the seeds, times its sign; infinite where it is undefined."""
        objective = self.asked.plan.objective
        values = self.values(objective.path)
        return objective.sign * sum(values) / len(values) if values else math.inf

    def document(self, winner: Finalist | None = None) -> dict[str, Any]:
        """What the report says of it; of a runner-up also how it compares with the winner."""
        trial, path = self.trial, self.asked.plan.objective.path
        values = self.values(path)
        found = {
            **deployment_entry(trial),
            "objective": _spread(values),
            "figures": {name: self._figure(name) for name in FIGURES},
            "limits": [self._limit(limit) for limit in self.limits],
            "seeds": len(self.plain),
            "sure": _all_of([self._sure(limit) for limit in self.limits]),
            "scenario": dump_scenario(trial.kind.scenario(trial.size.counts)),
        }
        if winner is not None:
            found["than_winner"] = self._against(winner, path)
        return found

    def _figure(self, path: str) -> dict[str, Any] | None:
        values = self.values(path)
        if not values:
            return None
        first = self.plain[0].summary
        interval, predicted = interval_of(path, first), figure(path, first)
        spread = _spread(values)
        if interval is None or not predicted:
            return spread | {"interval": None}
        # The interval is of the first seed's run; around the mean it is as wide.
        return spread | {"interval": [spread["mean"] * end / predicted for end in interval]}

    def _limit(self, limit: Constraint) -> dict[str, Any]:
        sure, first = self._sure(limit), self._judged(limit)[0].summary
        values = [limit.value(outcome.summary) for outcome in self._judged(limit)]
        known = [value for value in values if value is not None]
        spread = _spread(known)
        return {
            "text": str(limit),
            "path": limit.path,
            "limit": limit.limit,
            "share": limit.of_share,
            **spread,
            "excess": _excess(limit, known),
            "bad_end": None if sure is None else value_at_end(limit, first),
            "sure": sure,
        }

    def _sure(self, limit: Constraint) -> bool | None:
        """Whether it holds at the bad end of the prediction's interval; None where it has none, or
        where that was found with a part of the traffic that does not stand for all of it. What a
        fixed number of replicas costs an hour is certain."""
        summary = self._judged(limit)[0].summary
        if limit.path in KNOWN and self.trial.size.counts:  # a price is no prediction
            return limit.holds(limit.value(summary))
        if interval_of(limit.path, summary) is None or not self._stands_for_all(summary):
            return None
        return limit.holds(value_at_end(limit, summary))

    def _stands_for_all(self, summary: Summary) -> bool:
        workload = self.asked.scenario.workload
        steady = getattr(getattr(workload, "arrivals", None), "kind", "") in _STEADY
        seen = (summary.get("uncertainty") or {}).get("requests") or 0
        return steady or 2 * seen >= summary["requests"]["counted"]

    def _judged(self, limit: Constraint) -> list[Outcome]:
        """The runs that a limit is judged by."""
        return self.stress if grows_slower(limit) else self.plain

    def _against(self, winner: Finalist, path: str) -> dict[str, Any]:
        """The objective, seed by seed the same traffic: mean difference relative to the winner's,
        and whether it is one."""
        own, other = self.values(path), winner.values(path)
        if len(own) != len(other):
            size = min(len(own), len(other))
            own, other = own[:size] or own, other[:size] or other
        if not own or not other:
            return {"difference": None, "half": None, "tie": True}
        differences = [(a - b) / abs(b) if b else a - b for a, b in zip(own, other, strict=False)]
        mean = sum(differences) / len(differences)
        exact = self.trial.size.certain and winner.trial.size.certain
        half = 0.0 if exact else half_width(differences)
        single = math.isinf(half)
        return {
            "difference": mean,
            "half": None if single else half,
            "tie": abs(mean) <= (ONE_RUN if single else half),
        }


def _all_of(flags: Sequence[bool | None]) -> bool | None:
    """All of them; None where that is not known."""
    if False in flags:
        return False
    return None if None in flags else True


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean over the seeds and half of its 80% interval."""
    if not values:
        return {"mean": None, "half": None}
    half = half_width(values)
    return {
        "mean": sum(values) / len(values),
        "half": None if math.isinf(half) else half,
    }


def _excess(limit: Constraint, values: Sequence[float]) -> float | None:
    if not values:
        return None
    return sum(limit.excess(value) for value in values) / len(values)
