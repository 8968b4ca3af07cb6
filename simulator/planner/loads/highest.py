"""The highest load that still holds: bracketed, then narrowed down by runs at two loads a round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from simulator.errors import UserError
from simulator.planner.constraints import Constraint
from simulator.planner.jobs.work import Workplace
from simulator.planner.judge import Rule, Verdict, limits_of
from simulator.planner.loads.load_task import (
    FIGURES,
    check_scalable,
    closed_loop_users,
    number_at,
    task_at,
)
from simulator.planner.loads.probe import Probe
from simulator.planner.loads.stretch import step_factors, stretched
from simulator.planner.reasons import missed_words
from simulator.planner.report.words import amount, title
from simulator.results.format import percent
from simulator.scenario import Scenario

TOLERANCE = 0.05
"""By what share the lowest load that fails may lie above the highest that holds."""

SEEDS = 3
"""Runs with different traffic that decide where one run is close to a limit."""

_MOST = 2.0**14
"""How much more than the scenario's own traffic is tried."""

_LEAST = 2.0**8
"""How much less."""

_NEAR = 1.25
"""How far from a guess is looked first."""

_SURE = 1.1
"""Loads between which chance decides are told to this factor."""

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class HighestRate:
    """What was found.

    Args:
        name: of the scenario.
        limits: what must hold, in words.
        rate_per_s: highest rate that holds, requests/s (of closed loops, what their users come to);
            None: no rate holds, or there is no highest.
        users: of closed loops, the most that hold; None elsewhere.
        factor: the same as a multiple of the scenario's own traffic.
        fails_at_factor: the lowest load found that does not hold.
        binding: the limit that is missed there first, in words, with the figure.
        by_chance: loads, as multiples of ``factor``, below which every seed's traffic would hold
            and above which none would, at 80%; None where one seed decided.
        by_prediction: the same if steps take as long as 80% of measured ones do at least and at
            most; None if that was not asked for.
        figures: of the run at the highest rate, by their paths in a summary; empty without one.
        verdict: one sentence.
        simulations: runs that were asked for.
    """

    name: str
    limits: tuple[str, ...]
    rate_per_s: float | None
    users: int | None
    factor: float | None
    fails_at_factor: float | None
    binding: str
    by_chance: Range | None
    by_prediction: Range | None
    figures: dict[str, float | None]
    verdict: str
    simulations: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def highest_rate(
    scenario: Scenario,
    constraints: Sequence[Constraint],
    work: Workplace,
    *,
    tolerance: float = TOLERANCE,
    seeds: int = SEEDS,
    interval: bool = True,
    near: float | None = None,
) -> HighestRate:
    """Finds the highest rate, or for a closed loop the most users, that holds all limits.

    Args:
        scenario: what is served; its traffic is scaled.
        constraints: what must hold; none: the SLO of every traffic class.
        work: where the simulations are done.
        tolerance: by what share the answer may be too low.
        seeds: runs that decide where one is close to a limit.
        interval: whether to say what the interval of the predictions makes of the answer, which
            takes about as many runs again, twice.
        near: a guess, as a multiple of the scenario's own traffic.

    Raises:
        UserError: there is nothing to hold, no rate to raise, or nothing that can be simulated.
    """
    limits = limits_of(constraints, scenario)
    if not limits:
        raise UserError(
            "there is no limit that a rate could exceed",
            where="slo",
            hint="give slo.ttft_ms, slo.tpot_ms or slo.e2e_ms, or a limit such as "
            "ttft_ms.p99<=1000",
        )
    check_scalable(scenario)
    if not 0.0 < tolerance < 1.0:
        raise UserError("must lie between 0 and 1", where=f"tolerance {tolerance:g}")
    probe = Probe(scenario, limits, work, seeds)
    low, high = _bracket(probe, 1.0) if near is None else _bracket(probe, near, _NEAR)
    low, high = _narrow(probe, low, high, tolerance)
    words = tuple(limit_words(limit) for limit in limits)
    if low is None or high is None:
        return _nothing(scenario, words, probe, low, high)
    chance = _by_chance(probe, low, high)
    simulations = probe.simulations
    predicted = None
    if interval:
        predicted, more = _by_prediction(scenario, limits, work, low, tolerance)
        simulations += more
    outcome, verdict = probe.outcome(low), probe.verdict(high)
    rate = number_at(outcome.summary, "throughput.sent_requests_per_s")
    users = closed_loop_users(scenario)
    found = None if users is None else round(low * users)
    binding = _binding(verdict)
    load = f"{found} users" if found is not None else f"{rate:.3g} requests/s"
    return HighestRate(
        scenario.name, words, rate, found, low, high, binding, chance, predicted,
        {path: number_at(outcome.summary, path) for path in FIGURES},
        f"{load} hold; at {high / low - 1:.0%} more {binding}", simulations,
    )  # fmt: skip


def _nothing(
    scenario: Scenario, words: tuple[str, ...], probe: Probe, low: float | None, high: float | None
) -> HighestRate:
    if low is None:
        assert high is not None
        binding = _binding(probe.verdict(high))
        text = f"No rate holds: even at {percent(high)} of the traffic {binding}."
    else:
        binding = ""
        text = (
            f"There is no highest rate: at {low:,.0f} times the traffic everything still holds, "
            "because there are too few requests to fill the deployment."
        )
    return HighestRate(
        scenario.name,
        words,
        None,
        None,
        None,
        high,
        binding,
        None,
        None,
        {},
        text,
        probe.simulations,
    )


def _binding(verdict: Verdict) -> str:
    if verdict.problem:
        return verdict.problem
    worst = verdict.worst
    if worst is None:
        return ""
    limit, value = worst.constraint, worst.value
    if isinstance(limit, Rule):
        return missed_words(worst)
    if value is None:
        return f"{title(limit.path)} is missed by far"
    if limit.of_share and limit.metric.endswith("goodput_share"):
        return f"only {percent(value)} are{_of_class(limit)}"
    return f"{title(limit.path)}{_of_class(limit)} is {amount(value, limit.path)}"


def limit_words(limit: Constraint) -> str:
    """A limit as people say it."""
    if limit.of_share and limit.metric.endswith("goodput_share"):
        return f"{percent(limit.limit, 0)} of requests within the SLO{_of_class(limit)}"
    return str(limit)


def _of_class(limit: Constraint) -> str:
    return f" ({limit.traffic_class})" if limit.traffic_class else ""


def _bracket(probe: Probe, start: float, spread: float = 2.0) -> tuple[float | None, float | None]:
    """A load that holds and one that fails, first looked for around the start, then by doubling or
    halving."""
    probe.at([start / spread, start, start * spread])
    reach = spread
    while True:
        low, high = probe.edge()
        if high is None:
            wanted = [start * reach * 2, start * reach * 4]
        elif low is None:
            wanted = [start / (reach * 2), start / (reach * 4)]
        else:
            return low, high
        if reach > (_MOST if high is None else _LEAST) or not probe.fresh(wanted):
            return low, high
        probe.at(wanted)
        reach *= 4.0


def _narrow(
    probe: Probe, low: float | None, high: float | None, tolerance: float
) -> tuple[float | None, float | None]:
    """Two loads a round between the highest that holds and the lowest that fails, whoever does
    them: the answer must not depend on how many can be done at once."""
    while low is not None and high is not None and high / low > 1.0 + tolerance:
        third = (high / low) ** (1.0 / 3.0)
        between = [low * third, low * third * third]
        if not probe.fresh(between):
            break  # no whole user lies between them
        probe.at(between)
        low, high = probe.edge()
    return low, high


def _by_chance(probe: Probe, low: float, high: float) -> Range | None:
    """Where seeds begin to disagree, and where they agree again."""
    if probe.seeds < 2 or not probe.sure()[1]:
        return None
    while True:
        holds, close, fails = probe.sure()
        if not close:
            break
        wanted = []
        below = [load for load in holds if load < close[0]]
        above = [load for load in fails if load > close[-1]]
        if below and close[0] / below[-1] > _SURE:
            wanted.append(math.sqrt(below[-1] * close[0]))
        if above and above[0] / close[-1] > _SURE:
            wanted.append(math.sqrt(above[0] * close[-1]))
        if probe.fresh(wanted):
            probe.at(wanted)
        else:
            return (
                (below[-1] if below else close[0]) / low,
                max(above[0] if above else close[-1], high) / low,
            )
    return None


def _by_prediction(
    scenario: Scenario,
    limits: Sequence[Constraint],
    work: Workplace,
    nominal: float,
    tolerance: float,
) -> tuple[Range | None, int]:
    """The answer with steps as long and as short as predictions leave open; see ``stretched``."""
    outcome = work.run([task_at(scenario, nominal, intervals=True)])[0]
    factors = step_factors(outcome.summary)
    if factors is None:
        return None, 1
    simulations, ends = 1, []
    for factor in factors:
        other, tightened = stretched(scenario, limits, factor)
        probe = Probe(other, tightened, work, seeds=1)
        low, high = _bracket(probe, nominal)
        low, _ = _narrow(probe, low, high, tolerance)
        simulations += probe.simulations
        ends.append(0.0 if low is None else low / factor / nominal)
    return (min(ends), max(ends)), simulations
