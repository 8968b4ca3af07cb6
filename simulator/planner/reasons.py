"""Why a deployment is the one to take, or why none is, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from simulator.planner.document import Asked
from simulator.planner.judge import Missed, Rule
from simulator.planner.outlook import Outlook
from simulator.planner.report.words import amount, bound, title
from simulator.planner.search import Found, Trial
from simulator.results.format import money

NEARLY = 0.02
"""Share by which an objective may be worse than the best and still be as good to most people."""


def why(
    asked: Asked, found: Found, winner: dict[str, Any], others: Sequence[dict[str, Any]]
) -> list[str]:
    """What speaks for the winner."""
    from simulator.planner.entries import label

    objective = asked.plan.objective
    best = "lowest" if objective.sign > 0 else "highest"
    sentences = [
        f"Of all deployments that hold, it has the {best} {objective.label} "
        f"({amount(winner['objective']['mean'], objective.path)})."
    ]
    nearest = _nearest(found, winner)
    if nearest is not None and nearest.verdict is not None:
        sentences.append(_failed(label(nearest), nearest))
    known = [limit for limit in winner["limits"] if limit["excess"] is not None]
    if known:
        tight = max(known, key=lambda limit: limit["excess"])
        sentences.append(
            f"Its tightest limit is {tight['text']}: {amount(tight['mean'], tight['path'])}"
            f"{_bearing(asked)}, which leaves {-100 * tight['excess']:.0f}%."
        )
    unsure = [limit["text"] for limit in winner["limits"] if limit["sure"] is False]
    if unsure:
        sentences.append(
            "It is not sure: at the bad end of the predictions' 80% interval it misses "
            f"{' and '.join(unsure)}; `judge: pessimistic` asks for one that does not."
        )
    elif winner["sure"] is None:
        blind = [limit["text"] for limit in winner["limits"] if limit["sure"] is None]
        sentences.append(
            f"How sure it is of {' and '.join(blind)} is not known: such figures, or such traffic, "
            "have no interval of the prediction."
        )
    else:
        sentences.append("It is sure: it holds at the bad end of the predictions' 80% interval.")
    ties = [other["label"] for other in others if other["than_winner"]["tie"]]
    if ties:
        sentences.append(f"As good, as far as {_seeds(asked)} can tell: {'; '.join(ties)}.")
    cheaper = _cheaper(found, winner)
    if cheaper is not None:
        assert cheaper.score is not None
        sentences.append(
            f"Nearly as good for less: {label(cheaper)} costs {money(cheaper.size.usd_per_hour)} "
            f"an hour, its {objective.label} is "
            f"{amount(cheaper.score * objective.sign, objective.path)} in one run."
        )
    return sentences


def _bearing(asked: Asked) -> str:
    plan = asked.plan
    words = []
    if plan.headroom:
        words.append(f"{100 * plan.headroom:.0f}% more traffic")
    if plan.spare_replicas:
        count = plan.spare_replicas
        words.append(f"{count} replica{'s' if count > 1 else ''} missing")
    return f" with {' and '.join(words)}" if words else ""


def _cheaper(found: Found, winner: dict[str, Any]) -> Trial | None:
    """The cheapest deployment that holds, costs less than the winner and is not worse than it by
    more than one run tells."""
    best = found.best[0].score
    price = winner["usd_per_hour"]
    if best is None or price is None:
        return None
    near = [
        (trial.size.usd_per_hour, trial)
        for trial in found.trials
        if trial.score is not None
        and trial.verdict is not None
        and trial.verdict.state == "holds"
        and trial.score - best <= NEARLY * abs(best)
        and trial.size.usd_per_hour is not None
        and trial.size.usd_per_hour < price
    ]
    return min(near, key=lambda entry: entry[0], default=(0.0, None))[1]


def _nearest(found: Found, winner: dict[str, Any]) -> Trial | None:
    """The next smaller size of the winner's kind that was simulated and failed."""
    own = [
        trial
        for trial in found.trials
        if dict(trial.kind.axes) == winner["axes"]
        and trial.verdict is not None
        and trial.verdict.state in ("fails", "close")
        and trial.size.devices < winner["devices"]
    ]
    return max(own, key=lambda trial: trial.size.devices, default=None)


def _seeds(asked: Asked) -> str:
    return f"{asked.plan.seeds} seeds" if asked.plan.seeds > 1 else "one seed"


def _failed(name: str, trial: Trial) -> str:
    verdict = trial.verdict
    assert verdict is not None
    if verdict.problem:
        return f"{name} cannot be simulated: {verdict.problem}."
    hopeless = next((o.hopeless for o in trial.stress if o.hopeless), "")
    if hopeless:
        limit, _, why = hopeless.partition(": ")
        return f"{name} fails by far: even {limit} is out of reach ({why})."
    assert verdict.worst is not None
    if verdict.state == "close":
        seeds = f"{verdict.seeds} seeds" if verdict.seeds > 1 else "one seed"
        return f"{name} is too close to call: over {seeds}, {missed_words(verdict.worst)}."
    return f"{name} fails: {missed_words(verdict.worst)}."


def missed_words(missed: Missed) -> str:
    """What a deployment lacks: ``TPOT p99 is 50.75 ms, 27% above the limit of 40 ms``."""
    limit = missed.constraint
    if isinstance(limit, Rule):
        if missed.value is None:
            return "ever more requests wait"
        return f"{100 * (1.0 - missed.value):.3g}% of its requests do not complete"
    if missed.value is None:
        return f"{title(limit.path)} is undefined"
    of = f" of {limit.traffic_class}" if limit.traffic_class else ""
    figure = f"{title(limit.path)}{of} is {amount(missed.value, limit.path)}"
    high = (missed.excess > 0) == (limit.max is not None)
    side, share = "above" if high else "below", 100 * abs(missed.excess)
    if limit.of_share:
        return f"{figure}, {side} the {bound(limit.limit, limit.path)} that are asked for"
    most = bound(limit.limit, limit.path)
    if high and share > 150.0 and limit.limit > 0:
        return f"{figure}, {1.0 + share / 100.0:.3g} times the limit of {most}"
    return f"{figure}, {share:.0f}% {side} the limit of {most}"


def nothing_holds(asked: Asked, found: Found, known: Sequence[Outlook]) -> list[str]:
    """Which limit kills the last candidates, and by how much."""
    from simulator.planner.entries import label

    count = sum(len(entry.sizes) for entry in known)
    sentences = [f"None of {count:,} deployments holds{_bearing(asked)}."]
    measured = [
        (trial.verdict.worst.excess, trial) for trial in found.trials
        if trial.verdict is not None and trial.verdict.worst is not None
        and not any(outcome.hopeless for outcome in trial.stress)
    ]  # fmt: skip
    last = min(measured, key=lambda entry: entry[0], default=None)
    if last is not None:
        sentences.append(f"Closest: {_failed(label(last[1]), last[1])}")
    problems = Counter(t.verdict.problem for t in found.trials if t.verdict and t.verdict.problem)
    if problems:
        text, times = problems.most_common(1)[0]
        sentences.append(f"{times:,} could not be simulated: {text}.")
    ruled = [
        (size.missed, size.ruled_out, entry) for entry in known for size in entry.sizes
        if size.ruled_out
    ]  # fmt: skip
    if ruled:
        missed, reason, _ = min(ruled, key=lambda entry: entry[0])
        sentences.append(
            f"{len(ruled):,} cannot hold, even at best; the closest of them: {reason} "
            f"(by {100 * missed:.0f}%)."
        )
    return sentences
