"""From a plan to a recommendation: the search, its finalists, the reasons."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from simulator import __version__
from simulator.planner.closest import measured
from simulator.planner.constraints import Constraint
from simulator.planner.document import Asked
from simulator.planner.entries import order, trial_entry
from simulator.planner.finalist import Finalist
from simulator.planner.jobs.estimate import mean_seconds
from simulator.planner.jobs.work import Workplace
from simulator.planner.outlook import Outlook, seeds_of
from simulator.planner.outlooks import Looked, outlooks
from simulator.planner.provenance import provenance
from simulator.planner.search import Found, Search, Trial, plain_task

PLAN_SCHEMA_VERSION = 1
"""Of the report; a new one whenever a key changes its name or its meaning."""


Told = Callable[[str], None]


def plan(
    asked: Asked, work: Workplace, *, told: Told | None = None, looked: Looked | None = None
) -> dict[str, Any]:
    """Searches, and reports what was found.

    Args:
        asked: the plan.
        work: where simulations are done.
        told: gets a word on what is being done.
        looked: how far the bounds are; see ``outlooks``.

    Returns:
        The report: plain data that JSON can hold. ``winner`` is null where nothing holds.

    Raises:
        UserError: the plan contradicts itself, with the reason.
    """
    say = told or (lambda _: None)
    say("bounds")
    known, limits = outlooks(asked, looked)
    say("searching")
    search = Search(asked, limits, known, work)
    found = search.run()
    while search.refuted(found):
        found = search.run()
    if not found.best:
        say("measuring the closest")
        found = measured(asked, limits, found, work)
    say("comparing the best")
    finalists = [Finalist(asked, limits, trial, work) for trial in found.best]
    finalists.sort(key=Finalist.score)  # the search went by one seed
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
        "trials": [trial_entry(trial, asked, limits) for trial in sorted(found.trials, key=order)],
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
    return _described(asked, *outlooks(asked))


def _described(
    asked: Asked, known: Sequence[Outlook], limits: Sequence[Constraint]
) -> dict[str, Any]:
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
    return _dry_run(asked, outlooks(asked)[0], workers)


def sized_up(asked: Asked, workers: int, looked: Looked | None = None) -> dict[str, Any]:
    """``described`` and ``dry_run`` in one, with the bounds worked out once."""
    known, limits = outlooks(asked, looked)
    return _described(asked, known, limits) | _dry_run(asked, known, workers)


def _dry_run(asked: Asked, known: Sequence[Outlook], workers: int) -> dict[str, Any]:
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
        "constraints": [
            {"text": str(limit), "path": limit.path, "max": limit.max, "min": limit.min}
            for limit in limits
        ],
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
        "left_open": states["open"],
        "ended_early": sum(bool(outcome.hopeless) for outcome in runs),
    }


def _reasons(
    asked: Asked, found: Found, finalists: Sequence[Finalist], known: Sequence[Outlook]
) -> list[str]:
    from simulator.planner.reasons import nothing_holds, why

    if not finalists:
        return nothing_holds(asked, found, known)
    winner, *others = finalists
    return why(asked, found, winner.document(), [other.document(winner) for other in others])
