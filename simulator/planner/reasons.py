"""Why a deployment is the one to take, or why none is, in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from simulator.planner.document import Asked
from simulator.planner.outlook import Outlook
from simulator.planner.search import Found, Trial


def why(
    asked: Asked, found: Found, winner: dict[str, Any], others: Sequence[dict[str, Any]]
) -> list[str]:
    """What speaks for the winner."""
    from simulator.planner.plan import label

    objective = asked.plan.objective
    best = "lowest" if objective.sign > 0 else "highest"
    sentences = [
        f"Of all deployments that hold, it has the {best} {objective.label} "
        f"({amount(winner['objective']['mean'], objective.path)})."
    ]
    nearest = _nearest(found, winner)
    if nearest is not None and nearest.verdict is not None and nearest.verdict.worst is not None:
        sentences.append(f"{_failed(label(nearest), nearest)}")
    tight = max(winner["limits"], key=lambda limit: limit["excess"] or -math.inf)
    if tight["excess"] is not None:
        sentences.append(
            f"Its tightest limit is {tight['text']}: {tight['mean']:,.4g}"
            f"{_bearing(asked)}, {-100 * tight['excess']:.0f}% below what is allowed."
            if tight["excess"] <= 0
            else f"Its tightest limit is {tight['text']}."
        )
    unsure = [limit["text"] for limit in winner["limits"] if not limit["sure"]]
    if unsure:
        sentences.append(
            f"Not sure: at the bad end of the predictions' 80% interval it misses "
            f"{' and '.join(unsure)}; judge: pessimistic asks for one that does not."
        )
    else:
        sentences.append("It holds at the bad end of the predictions' 80% interval as well.")
    ties = [other["label"] for other in others if other["than_winner"]["tie"]]
    if ties:
        sentences.append(f"Within the noise, as good: {'; '.join(ties)}.")
    return sentences


def _bearing(asked: Asked) -> str:
    plan = asked.plan
    words = []
    if plan.headroom:
        words.append(f"{100 * plan.headroom:.0f}% more traffic")
    if plan.spare_replicas:
        words.append(
            f"{plan.spare_replicas} replica{'s' if plan.spare_replicas > 1 else ''} missing"
        )
    return f" with {' and '.join(words)}" if words else ""


def _nearest(found: Found, winner: dict[str, Any]) -> Trial | None:
    """The next smaller size of the winner's kind that was simulated and failed."""
    own = [
        trial
        for trial in found.trials
        if dict(trial.kind.axes) == winner["axes"]
        and trial.score is None
        and trial.size.devices < winner["devices"]
    ]
    return max(own, key=lambda trial: trial.size.devices, default=None)


def _failed(name: str, trial: Trial) -> str:
    assert trial.verdict is not None
    if trial.verdict.problem:
        return f"{name} cannot be simulated: {trial.verdict.problem}."
    hopeless = next((o.hopeless for o in trial.stress if o.hopeless), "")
    if hopeless:
        return f"{name} fails: {hopeless}."
    worst = trial.verdict.worst
    assert worst is not None
    if trial.verdict.state == "close":
        return f"{name} is too close to call: {worst.constraint} at {_value(worst.value)}."
    return (
        f"{name} fails: it misses {worst.constraint} by {100 * worst.excess:.0f}% "
        f"({_value(worst.value)})."
    )


def nothing_holds(asked: Asked, found: Found, known: Sequence[Outlook]) -> list[str]:
    """Which limit kills the last candidates, and by how much."""
    from simulator.planner.plan import label

    count = sum(len(entry.sizes) for entry in known)
    sentences = [f"None of {count:,} deployments holds{_bearing(asked)}."]
    measured = [
        trial for trial in found.trials
        if trial.verdict is not None and trial.verdict.worst is not None
        and not any(outcome.hopeless for outcome in trial.stress)
    ]  # fmt: skip
    last = min(
        measured,
        key=lambda trial: trial.verdict.worst.excess if trial.verdict.worst else math.inf,  # type: ignore[union-attr]
        default=None,
    )
    if last is not None:
        sentences.append(f"Closest: {_failed(label(last), last)}")
    ruled = [
        (size.missed, size.ruled_out, entry) for entry in known for size in entry.sizes
        if size.ruled_out
    ]  # fmt: skip
    if ruled:
        missed, reason, _ = min(ruled, key=lambda entry: entry[0])
        sentences.append(
            f"{len(ruled):,} cannot hold by physics; the closest of them: {reason} "
            f"(by {100 * missed:.0f}%)."
        )
    return sentences


def _value(value: float | None) -> str:
    return "undefined" if value is None else f"{value:,.4g}"


def amount(value: float | None, path: str) -> str:
    """A figure with its unit."""
    if value is None:
        return "undefined"
    if path == "devices":
        return f"{value:,.0f}"
    if path.startswith("cost."):
        return f"${value:,.4g}"
    return f"{value:,.4g}"
