"""Finds the best deployment that holds, with as few simulations as it can.

Branch and bound over kinds of deployment and their sizes. A size whose bound is worse than what has
been found is never simulated, and a size that is too slow rules out all smaller ones of its kind.
(That more replicas are neither slower nor cheaper is what the search assumes; the simulator does
not.) Estimates say where to begin, never what is true. Rounds have a fixed width, so that the
outcome depends neither on how many workers there are nor on who is first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from simulator.planner.constraints import Constraint
from simulator.planner.document import Asked
from simulator.planner.jobs.tasks import Outcome, Summary, Task
from simulator.planner.jobs.work import Workplace
from simulator.planner.judge import Verdict, closeness, grows_slower, judge
from simulator.planner.outlook import Outlook, Size, seeds_of
from simulator.planner.space import Counts, Kind

WIDTH = 4
"""Kinds that are tried at once."""

LONG = 20_000
"""Requests beyond which every first run gets intervals."""

Key = tuple[float, int, int, Counts]
"""Order of deployments: score, devices, kind, replicas."""


@dataclass
class Trial:
    """A deployment that is, or was, simulated.

    Args:
        kind: of deployment.
        size: of it.
        stress: outcomes under the load and with the replicas missing that it must bear, one a seed.
        plain: outcomes as it would run, where that is asked; the same where it need bear no more.
        verdict: what the outcomes say.
        score: objective times its sign, if it holds; None until that is known.
        hoped: the same as its first run shows it, or a bound of it, whether it holds or not.
    """

    kind: Kind
    size: Size
    stress: list[Outcome] = field(default_factory=list)
    plain: list[Outcome] = field(default_factory=list)
    verdict: Verdict | None = None
    score: float | None = None
    hoped: float = -math.inf

    @property
    def key(self) -> Key:
        """Its place in the order."""
        assert self.score is not None
        return (self.score, self.size.devices, self.kind.index, self.size.counts)


class Line:
    """The sizes of one kind, and what has been found out about them.

    Args:
        outlook: of the kind.
        grows: more replicas only make the objective worse.
    """

    def __init__(self, outlook: Outlook, *, grows: bool) -> None:
        self.kind = outlook.kind
        self.grows = grows
        self.sizes = outlook.sizes
        self.trials: dict[Counts, Trial] = {}
        self.open: Trial | None = None
        self.misses = 0
        self._failed: list[Counts] = []

    @property
    def best(self) -> Trial | None:
        """The best of its deployments that hold."""
        held = [t for t in self.trials.values() if t.score is not None]
        return min(held, key=lambda trial: trial.key, default=None)

    def below(self, threshold: Key | None) -> list[Size]:
        """Sizes that may hold and may come before the threshold, the most promising bound first."""
        return [
            size
            for size in self.sizes
            if size.counts not in self.trials
            and not size.ruled_out
            and not self._fails(size.counts)
            and not (self.grows and self._needless(size.counts))
            and (threshold is None or self._key(size) < threshold)
        ]

    def drop_late(self, threshold: Key | None) -> None:
        """Leaves an open trial alone that could not come before the threshold if it held."""
        trial = self.open
        if trial is None or threshold is None:
            return
        if (trial.hoped, trial.size.devices, self.kind.index, trial.size.counts) > threshold:
            self.open = None

    def settle(self, trial: Trial) -> None:
        """Takes note of a verdict."""
        assert trial.verdict is not None
        if trial.verdict.state != "holds":
            self.misses += 1
            if trial.verdict.smaller_fail:
                self._failed.append(trial.size.counts)
        self.open = None

    def forget_open(self) -> None:
        """What was left alone while there was something better may be tried again."""
        self.trials = {
            counts: trial
            for counts, trial in self.trials.items()
            if trial.verdict is None or trial.verdict.state != "open"
        }

    def next(self, threshold: Key | None) -> Size | None:
        """The size to try; None if no other can come before the threshold.

        The cheapest one that is expected to hold; each time it does not, twice as far beyond it.
        Where none is expected to, the largest: if that fails, all do.
        """
        sizes = self.below(threshold)
        if not sizes:
            return None
        hopeful = [position for position, size in enumerate(sizes) if size.hope <= 0.0]
        if not hopeful:
            return max(sizes, key=lambda size: (size.devices, size.counts))
        if self.best is not None and self.misses:
            return sizes[len(sizes) // 2]
        return sizes[min(hopeful[0] + (1 << self.misses) - 1, len(sizes) - 1)]

    def promise(self, threshold: Key | None) -> tuple[bool, float, Key] | None:
        """How soon to try it: what is expected to hold first, by what is expected of it."""
        sizes = self.below(threshold)
        if not sizes:
            return None
        hopeful = [size for size in sizes if size.hope <= 0.0]
        first = (hopeful or sizes)[0]
        return (not hopeful, max(first.low, first.guess), self._key(first))

    def _key(self, size: Size) -> Key:
        return (size.low, size.devices, self.kind.index, size.counts)

    def _needless(self, counts: Counts) -> bool:
        """Whether fewer replicas do."""
        return any(
            all(n >= m for n, m in zip(counts, held, strict=True))
            for held, trial in self.trials.items() if trial.score is not None
        )  # fmt: skip

    def _fails(self, counts: Counts) -> bool:
        return any(
            all(n <= m for n, m in zip(counts, failed, strict=True)) for failed in self._failed
        )


@dataclass(frozen=True)
class Found:
    """What a search ends with.

    Args:
        best: the best deployment of each of the best kinds, the best first; empty: none holds.
        trials: all that was simulated.
        simulations: runs that the search asked for.
    """

    best: tuple[Trial, ...]
    trials: tuple[Trial, ...]
    simulations: int


class Search:
    """One search.

    Args:
        asked: the plan.
        limits: what must hold.
        outlooks: of every kind of deployment.
        work: where simulations are done.
    """

    def __init__(
        self,
        asked: Asked,
        limits: Sequence[Constraint],
        outlooks: Sequence[Outlook],
        work: Workplace,
        *,
        width: int = WIDTH,
    ) -> None:
        self.asked = asked
        self.plan = asked.plan
        self.limits = tuple(limits)
        grows = self.plan.objective.grows
        self.lines = [Line(outlook, grows=grows) for outlook in outlooks if outlook.sizes]
        self.work = work
        self.width = width
        self.seeds = seeds_of(asked)
        # Costs and power are judged by runs as the deployment would be.
        self._sized = not self._same() and not all(grows_slower(limit) for limit in self.limits)
        self.simulations = 0

    def run(self) -> Found:
        """Searches until nothing that was not simulated can be among the best."""
        while trials := self._round():
            self._simulate(trials)
        best = sorted(
            (line.best for line in self.lines if line.best is not None), key=lambda t: t.key
        )
        every = [trial for line in self.lines for trial in line.trials.values()]
        return Found(tuple(best[: self.plan.runners_up + 1]), tuple(every), self.simulations)

    def refuted(self, found: Found) -> bool:
        """Whether one of the best does not hold over all seeds: its first run was far from every
        limit by chance. Then the search has to be run on.

        Args:
            found: what ``run`` returned.
        """
        asked = [(trial, range(len(trial.stress), self.seeds)) for trial in found.best]
        stress = [self._stress(trial, n) for trial, numbers in asked for n in numbers]
        plain = [self.plain(trial, n) for trial, numbers in asked for n in numbers]
        outcomes = iter(self.work.run(stress))
        others = iter(self.work.run(plain) if self._sized else ())
        lines = {line.kind.index: line for line in self.lines}
        refuted = False
        for trial, numbers in asked:
            more = Trial(trial.kind, trial.size, [*trial.stress, *islice(outcomes, len(numbers))])
            more.plain = [*trial.plain, *islice(others, len(numbers))] if self._sized else []
            more.verdict = self._judge(more)
            if more.verdict.state != "holds":
                line = lines[trial.kind.index]
                line.trials[trial.size.counts] = more
                line.settle(more)
                refuted = True
        if refuted:
            for line in self.lines:
                line.forget_open()
        return refuted

    # --- a round ---------------------------------------------------------------------------------

    def _round(self) -> list[Trial]:
        """What to simulate next: trials whose verdict is open, and new ones."""
        bests = sorted(line.best.key for line in self.lines if line.best is not None)
        wanted = self.plan.runners_up + 1
        threshold = bests[wanted - 1] if len(bests) >= wanted else None
        for line in self.lines:
            line.drop_late(threshold)
        trials = [line.open for line in self.lines if line.open is not None]
        waiting: list[tuple[bool, float, Key, Line, Key | None]] = []
        for line in self.lines:
            if line.open is not None:
                continue
            # A kind that is among the best has only itself to beat.
            best = line.best
            among = best is not None and (threshold is None or best.key <= threshold)
            own = best.key if among and best is not None else threshold
            promise = line.promise(own)
            if promise is not None:
                waiting.append((*promise, line, own))
        waiting.sort(key=lambda entry: entry[:3])
        if threshold is None and any(not late for late, *_ in waiting):
            waiting = [entry for entry in waiting if not entry[0]]
        for *_, line, own in waiting[: max(0, self.width - len(trials))]:
            size = line.next(own)
            assert size is not None
            trial = line.trials[size.counts] = line.open = Trial(line.kind, size)
            trials.append(trial)
        return trials

    def _simulate(self, trials: Sequence[Trial]) -> None:
        asked = [self._stress(trial, len(trial.stress)) for trial in trials]
        if self._sized:
            asked += [self.plain(trial, len(trial.stress)) for trial in trials]
        self.simulations += len(asked)
        outcomes = self.work.run(asked)
        for trial, outcome in zip(trials, outcomes[len(trials) :], strict=self._sized):
            trial.plain.append(outcome)
        for trial, outcome in zip(trials, outcomes, strict=False):
            trial.stress.append(outcome)
            trial.verdict = self._judge(trial)
            trial.hoped = self._hoped(trial)
        held = [trial for trial in trials if trial.verdict and trial.verdict.state == "holds"]
        self._score(held)
        lines = {line.kind.index: line for line in self.lines}
        for trial in trials:
            if trial.verdict is not None and trial.verdict.state != "open":
                lines[trial.kind.index].settle(trial)

    def _hoped(self, trial: Trial) -> float:
        if trial.size.certain or not self._same():
            return trial.size.low
        objective = self.plan.objective
        value = figure(objective.path, trial.stress[0].summary)
        return trial.size.low if value is None else objective.sign * value

    def _judge(self, trial: Trial) -> Verdict:
        return judge(
            trial.stress, self.limits, most_seeds=self.seeds,
            pessimistic=self.plan.judge == "pessimistic", lost_share=self.plan.max_lost_share,
            plain=trial.plain if self._sized else (),
        )  # fmt: skip

    def _score(self, trials: Sequence[Trial]) -> None:
        """The objective of trials that hold."""
        objective = self.plan.objective
        for trial in trials:
            if trial.size.certain:
                trial.score = trial.size.low
        rest = [trial for trial in trials if not trial.size.certain]
        tasks = [self.plain(trial) for trial in rest]
        self.simulations += 0 if self._same() else len(tasks)
        for trial, outcome in zip(rest, self.work.run(tasks), strict=True):
            trial.plain = trial.plain or [outcome]
            value = figure(objective.path, outcome.summary)
            # Undefined: nothing can be said for it, so everything else comes first.
            trial.score = float("inf") if value is None else objective.sign * value

    # --- tasks -----------------------------------------------------------------------------------

    def _same(self) -> bool:
        """Whether what a deployment must bear is just its traffic."""
        return not self.plan.headroom and not self.plan.spare_replicas

    def _stress(self, trial: Trial, number: int) -> Task:
        """With the traffic grown and replicas missing. Of the first seed, what misses a limit by
        far may end early; of others the figure counts."""
        return stress_task(self.asked, trial, number, self.limits if number == 0 else ())

    def plain(self, trial: Trial, number: int = 0) -> Task:
        """As the deployment would run."""
        if self._same():
            return self._stress(trial, number)
        pessimistic = self.plan.judge == "pessimistic"
        return plain_task(self.asked, trial, number, intervals=pessimistic)


def stress_task(asked: Asked, trial: Trial, number: int, limits: Sequence[Constraint] = ()) -> Task:
    """The ``number``-th run of a deployment under what it must bear; it may end early where it
    misses one of the limits beyond doubt."""
    plan = asked.plan
    counts = tuple(n - plan.spare_replicas for n in trial.size.counts)
    scenario = trial.kind.scenario(counts, load=1.0 + plan.headroom, seed=_seed(asked, number))
    loose = tuple(limit.loosened(closeness(limit)) for limit in limits)
    # Beside a long run, those for the intervals are nothing, and it need not be done again.
    intervals = plan.judge == "pessimistic" or (number == 0 and len(asked.requests) >= LONG)
    return Task(scenario, intervals, loose)


def plain_task(asked: Asked, trial: Trial, number: int, *, intervals: bool = False) -> Task:
    """The ``number``-th run of a deployment as it would be."""
    return Task(trial.kind.scenario(trial.size.counts, seed=_seed(asked, number)), intervals)


def _seed(asked: Asked, number: int) -> int:
    """All deployments see the same traffic."""
    return asked.scenario.measurement.seed + number


def figure(path: str, summary: Summary) -> float | None:
    """A figure of a summary; ``devices`` are those held on average."""
    from simulator.results.definitions import value_at

    if path == "devices":
        window = value_at(summary, "run.window.duration_s")
        hours = value_at(summary, "fleet.device_hours")
        return None if hours is None or not window else 3600.0 * float(hours) / float(window)
    value = value_at(summary, path)
    return float(value) if isinstance(value, int | float) else None
