"""Loads that are tried until it is known which of them hold."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.errors import UserError
from simulator.planner.constraints import Constraint
from simulator.planner.jobs.tasks import Outcome
from simulator.planner.jobs.work import Workplace
from simulator.planner.judge import Verdict, closeness, judge
from simulator.planner.loads.load_task import loads_of, task_at
from simulator.scenario import Scenario

LOST_SHARE = 0.01
"""Of the requests that count, that may be rejected, time out or fail."""


class Probe:
    """Loads that were tried, by their factor."""

    def __init__(
        self, scenario: Scenario, limits: Sequence[Constraint], work: Workplace, seeds: int
    ) -> None:
        self.scenario = scenario
        self.limits = tuple(limits)
        self.seeds = seeds
        self.simulations = 0
        self._work = work
        self._early = tuple(limit.loosened(closeness(limit)) for limit in limits)
        self._outcomes: dict[float, list[Outcome]] = {}
        self._verdicts: dict[float, Verdict] = {}

    def at(self, factors: Sequence[float]) -> list[float]:
        """Tries loads, each with more seeds if one does not decide; the loads that can be had."""
        loads = list(dict.fromkeys(loads_of(self.scenario, factors)))
        new = [load for load in loads if load not in self._verdicts]
        self._run([(load, 0) for load in new])
        unclear = [load for load in new if self._verdicts[load].state == "open"]
        self._run([(load, seed) for load in unclear for seed in range(1, self.seeds)])
        return loads

    def fresh(self, factors: Sequence[float]) -> bool:
        """Whether any of these loads was not tried yet."""
        return any(load not in self._verdicts for load in loads_of(self.scenario, factors))

    def _run(self, runs: Sequence[tuple[float, int]]) -> None:
        tasks = [task_at(self.scenario, load, seed=seed, limits=self._early) for load, seed in runs]
        self.simulations += len(tasks)
        for (load, _), outcome in zip(runs, self._work.run(tasks) if tasks else [], strict=True):
            if outcome.problem:
                raise UserError(outcome.problem)
            self._outcomes.setdefault(load, []).append(outcome)
        for load in dict.fromkeys(load for load, _ in runs):
            self._verdicts[load] = judge(
                self._outcomes[load], self.limits, most_seeds=self.seeds, pessimistic=False,
                lost_share=LOST_SHARE,
            )  # fmt: skip

    def verdict(self, load: float) -> Verdict:
        """Of a load that was tried."""
        return self._verdicts[load]

    def outcome(self, load: float) -> Outcome:
        """Of the first seed."""
        return self._outcomes[load][0]

    def holds(self, load: float) -> bool:
        """Whether all limits hold, on average over the seeds."""
        verdict = self._verdicts[load]
        if verdict.state in ("holds", "fails"):
            return verdict.state == "holds"
        return all(missed.excess <= 0.0 for missed in verdict.missed)

    def edge(self) -> tuple[float | None, float | None]:
        """The lowest load that fails, and the highest one below it that holds."""
        fails = [load for load in self._verdicts if not self.holds(load)]
        high = min(fails, default=None)
        held = [load for load in self._verdicts if self.holds(load)]
        return max((x for x in held if high is None or x < high), default=None), high

    def sure(self) -> tuple[list[float], list[float], list[float]]:
        """Loads that surely hold, those that chance decides, those that surely fail; sorted."""
        kinds: dict[str, list[float]] = {"holds": [], "close": [], "fails": []}
        for load in sorted(self._verdicts):
            state = self._verdicts[load].state
            kinds["close" if state == "open" else state].append(load)
        return kinds["holds"], kinds["close"], kinds["fails"]
