"""From a plan to a recommendation: the search, its finalists, the reasons."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from simulator import __version__
from simulator.errors import UserError
from simulator.planner.closest import measured
from simulator.planner.constraints import Constraint
from simulator.planner.document import Asked
from simulator.planner.jobs.estimate import mean_seconds
from simulator.planner.jobs.tasks import Outcome, Summary, Task
from simulator.planner.jobs.work import Workplace
from simulator.planner.judge import (
    Missed,
    Rule,
    grows_slower,
    half_width,
    interval_of,
    limits_of,
    value_at_end,
)
from simulator.planner.outlook import Outlook, outlook, seeds_of, traffic_of
from simulator.planner.provenance import provenance
from simulator.planner.search import Found, Search, Trial, figure, plain_task, stress_task
from simulator.planner.space import kinds
from simulator.results.definitions import value_at
from simulator.scenario.dump import dump_scenario

PLAN_SCHEMA_VERSION = 1
"""Of the report; a new one whenever a key changes its name or its meaning."""

FIGURES = (
    "latency.ttft_ms.p50", "latency.ttft_ms.p99", "latency.tpot_ms.p50", "latency.tpot_ms.p99",
    "latency.e2e_ms.p50", "latency.e2e_ms.p99", "throughput.output_tokens_per_s",
    "throughput.output_tokens_per_s_per_device", "throughput.output_tokens_per_s_per_user.p50",
    "slo.goodput_share", "slo.goodput_requests_per_s", "kv_cache.use_mean", "utilization.mfu",
    "cost.usd_per_hour", "cost.usd_per_million_output_tokens", "energy.joules_per_output_token",
    "energy.power_w_mean", "energy.gco2e_per_request",
)  # fmt: skip
"""What a report says of every deployment that it lists."""

ONE_RUN = 0.02
"""Difference of an objective that one run of each deployment does not tell: the traffic is the
same, but a scheduler that decides otherwise once goes on differently."""

Told = Callable[[str], None]


def outlooks(asked: Asked) -> tuple[list[Outlook], tuple[Constraint, ...]]:
    """Every kind of deployment with what is known before simulating, and what must hold.

    Raises:
        UserError: nothing must hold, the space is empty, or nothing in it can run the model.
    """
    limits = limits_of(asked.plan.constraints, asked.scenario)
    if not limits:
        raise UserError(
            "nothing must hold: neither constraints nor an slo are given", where="constraints",
            hint="list constraints, e.g. {metric: ttft_ms.p99, max: 1000}",
        )  # fmt: skip
    _check_classes(limits, asked)
    traffic = traffic_of(asked)
    found = [outlook(kind, asked, limits, traffic) for kind in kinds(asked)]
    if not found:
        raise UserError("is empty: its axes have no combination", where="space")
    if all(entry.problem for entry in found):
        raise UserError(_nothing_runs(found), where="space")
    if not any(entry.sizes for entry in found):
        raise UserError(_nothing_small(asked), where="space")
    return found, limits


def plan(asked: Asked, work: Workplace, *, told: Told | None = None) -> dict[str, Any]:
    """Searches, and reports what was found.

    Args:
        asked: the plan.
        work: where simulations are done.
        told: gets a word on what is being done.

    Returns:
        The report: plain data that JSON can hold. ``winner`` is null where nothing holds.

    Raises:
        UserError: the plan contradicts itself, with the reason.
    """
    say = told or (lambda _: None)
    say("bounds")
    known, limits = outlooks(asked)
    say("searching")
    search = Search(asked, limits, known, work)
    found = search.run()
    if not found.best:
        say("measuring the closest")
        found = measured(asked, limits, found, work)
    say("comparing the best")
    finalists = [_Finalist(asked, limits, trial, work) for trial in found.best]
    return {
        "schema_version": PLAN_SCHEMA_VERSION,
        "product": {"name": "servecast", "version": __version__},
        "name": asked.plan.name,
        "description": asked.plan.description,
        "asked": _asked(asked, limits),
        "space": _space(known),
        "search": _search(found),
        "winner": finalists[0].document() if finalists else None,
        "runners_up": [finalist.document(finalists[0]) for finalist in finalists[1:]],
        "reasons": list(_reasons(asked, found, finalists, known)),
        "trials": [_trial(trial, asked) for trial in sorted(found.trials, key=_order)],
        "provenance": provenance(
            (entry.kind.data for entry in known if not entry.problem),
            (asked.scenario.measurement.seed + number for number in range(asked.plan.seeds)),
        ),
    }


def described(asked: Asked) -> dict[str, Any]:
    """What a plan asks for and how large its space is, without a simulation.

    Raises:
        UserError: as ``outlooks``.
    """
    known, limits = outlooks(asked)
    return {
        "name": asked.plan.name,
        "description": asked.plan.description,
        "asked": _asked(asked, limits),
        "space": _space(known),
    }


def dry_run(asked: Asked, workers: int) -> dict[str, Any]:
    """How large a search is, before anything is simulated but a sample to time it.

    The number of simulations is a guess: two for each kind that bounds leave, and those of the
    finalists.
    """
    known, _ = outlooks(asked)
    left = [entry for entry in known if any(not size.ruled_out for size in entry.sizes)]
    finalists = min(asked.plan.runners_up + 1, len(left))
    sample = [plain_task(asked, Trial(entry.kind, entry.sizes[-1]), 0) for entry in left[:1]]
    count = 2 * len(left) + 2 * seeds_of(asked) * finalists
    each = mean_seconds(sample)
    return {
        "name": asked.plan.name,
        "space": _space(known),
        "simulations": count,
        "workers": workers,
        "estimated_s": None if each is None else each * count / workers,
    }


# --- what was asked ------------------------------------------------------------------------------


def _asked(asked: Asked, limits: Sequence[Constraint]) -> dict[str, Any]:
    scenario, objective = asked.scenario, asked.plan.objective
    return {
        "model": scenario.model,
        "workload": scenario.workload.model_dump(mode="json"),
        "constraints": [{"text": str(limit), "path": limit.path} for limit in limits],
        "objective": {
            "metric": objective.metric,
            "path": objective.path,
            "label": objective.label,
            "unit": objective.unit,
            "sign": objective.sign,
        },
        "headroom": asked.plan.headroom,
        "spare_replicas": asked.plan.spare_replicas,
        "judge": asked.plan.judge,
        "seeds": seeds_of(asked),
        "plan": asked.plan.model_dump(mode="json"),
    }


def _space(known: Sequence[Outlook]) -> dict[str, Any]:
    problems = Counter(_short(entry.problem) for entry in known if entry.problem)
    sizes = [size for entry in known for size in entry.sizes]
    ruled = [size for size in sizes if size.ruled_out]
    reasons = Counter(_without_numbers(size.ruled_out) for size in ruled)
    nearest = {
        _without_numbers(size.ruled_out): size.ruled_out
        for size in sorted(ruled, key=lambda size: -size.missed)
    }
    return {
        "kinds": len(known),
        "kinds_that_run": sum(not entry.problem for entry in known),
        "deployments": len(sizes),
        "ruled_out_by_bounds": len(ruled),
        "problems": [{"problem": text, "kinds": count} for text, count in problems.most_common()],
        "ruled_out": [
            {"closest": nearest[text], "deployments": count}
            for text, count in reasons.most_common()
        ],
    }


def _short(problem: str) -> str:
    return problem.partition(":")[0]


def _without_numbers(reason: str) -> str:
    """Reasons that differ by their figures only are one."""
    return re.sub(r"\d[\d,.]*", "#", reason)


def _search(found: Found) -> dict[str, Any]:
    states = Counter(trial.verdict.state for trial in found.trials if trial.verdict)
    runs = [outcome for trial in found.trials for outcome in trial.stress]
    return {
        "simulations": found.simulations,
        "deployments_simulated": len(found.trials),
        "hold": states["holds"],
        "fail": states["fails"],
        "too_close_to_call": states["close"],
        "ended_early": sum(bool(outcome.hopeless) for outcome in runs),
    }


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


# --- finalists -----------------------------------------------------------------------------------


class _Finalist:
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

    def document(self, winner: _Finalist | None = None) -> dict[str, Any]:
        """What the report says of it; of a runner-up also how it compares with the winner."""
        trial, path = self.trial, self.asked.plan.objective.path
        values = self.values(path)
        found = {
            **_deployment(trial),
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
        where that was found with a part of the traffic that does not stand for all of it."""
        summary = self._judged(limit)[0].summary
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

    def _against(self, winner: _Finalist, path: str) -> dict[str, Any]:
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


_STEADY = ("poisson", "gamma", "constant", "closed_loop", "burst")


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


def _deployment(trial: Trial) -> dict[str, Any]:
    size = trial.size
    return {
        "label": label(trial),
        "axes": dict(trial.kind.axes),
        "replicas": list(size.counts),
        "pools": list(trial.kind.pools),
        "devices": size.devices,
        "usd_per_hour": size.usd_per_hour,
    }


def label(trial: Trial) -> str:
    """``4 × h100-sxm, tp2: 2 replicas``."""
    size, axes = trial.size, dict(trial.kind.axes)
    hardware = axes.pop("hardware")
    rest = ", ".join(axes.values())
    if trial.kind.pools:
        counts = "prefill {} : decode {}".format(*size.counts)
    elif size.counts:
        (count,) = size.counts
        counts = f"{count} replica{'s' if count != 1 else ''}"
    else:
        return f"{hardware}, {rest}"
    return f"{size.devices} × {hardware}, {rest}: {counts}"


def _trial(trial: Trial, asked: Asked) -> dict[str, Any]:
    verdict = trial.verdict
    assert verdict is not None
    summary: Summary = trial.stress[-1].summary
    score = trial.score if trial.score is not None and math.isfinite(trial.score) else None
    return {
        **_deployment(trial),
        "state": verdict.state,
        "seeds": verdict.seeds,
        "problem": verdict.problem,
        "ended_early": next((o.hopeless for o in trial.stress if o.hopeless), ""),
        "worst": None if verdict.worst is None else _worst(verdict.worst),
        "objective": None if score is None else score * asked.plan.objective.sign,
        "figures": {name: value_at(summary, name) for name in FIGURES},
    }


def _worst(missed: Missed) -> dict[str, Any]:
    from simulator.planner.reasons import missed_words

    rule = isinstance(missed.constraint, Rule)
    return {
        "limit": str(missed.constraint),
        "path": "" if rule else missed.constraint.path,
        "value": missed.value,
        "excess": missed.excess if math.isfinite(missed.excess) else None,
        "text": missed_words(missed),
    }


def _order(trial: Trial) -> tuple[bool, float, int, int, tuple[int, ...]]:
    held = trial.score is not None
    score = trial.score if trial.score is not None else trial.size.low
    return (not held, score, trial.size.devices, trial.kind.index, trial.size.counts)


# --- reasons -------------------------------------------------------------------------------------


def _reasons(
    asked: Asked, found: Found, finalists: Sequence[_Finalist], known: Sequence[Outlook]
) -> list[str]:
    from simulator.planner.reasons import nothing_holds, why

    if not finalists:
        return nothing_holds(asked, found, known)
    winner, *others = finalists
    return why(asked, found, winner.document(), [other.document(winner) for other in others])
