"""Every combination of some values simulated, and what came of each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simulator import __version__
from simulator.errors import UserError
from simulator.planner.constraints import Constraint
from simulator.planner.document import Asked
from simulator.planner.entries import FIGURES
from simulator.planner.jobs.tasks import Outcome, Task
from simulator.planner.jobs.work import Workplace
from simulator.planner.judge import limits_of, lost, overloaded
from simulator.planner.outlook import outlook
from simulator.planner.pareto import FRONTS, flags
from simulator.planner.provenance import provenance
from simulator.planner.space import kinds
from simulator.results.definitions import value_at
from simulator.scenario import Scenario, load_scenario
from simulator.yamlio import parse_yaml

SWEEP_SCHEMA_VERSION = 1
"""Of the report; a new one whenever a key changes its name or its meaning."""

MOST_POINTS = 100_000
"""Combinations; more are a mistake."""


@dataclass(frozen=True)
class Point:
    """One combination: its values by axis, and the scenario, or why there is none."""

    values: Mapping[str, Any]
    scenario: Scenario | None
    problem: str = ""


def points_of_values(source: str, overrides: Sequence[str], varied: Sequence[str]) -> list[Point]:
    """Every combination of ``path=value,value,…`` for a scenario.

    Raises:
        UserError: an axis is not of that form, or the scenario itself is wrong.
    """
    load_scenario(source, overrides)
    axes = [_axis(text) for text in varied]
    paths = [path for path, _ in axes]
    if len(set(paths)) < len(paths):
        double = next(path for path in paths if paths.count(path) > 1)
        raise UserError("two axes have the same path", where=f"--vary {double}")
    total = 1
    for _, values in axes:
        total *= len(values)
    if total > MOST_POINTS:
        raise UserError(
            f"asks for {total:,} combinations", where="--vary", hint=f"at most {MOST_POINTS:,}"
        )
    found = []
    failed: dict[tuple[str, str], list[UserError | None]] = {}
    for chosen in itertools.product(*(values for _, values in axes)):
        own = [f"{path}={text}" for path, text in zip(paths, chosen, strict=True)]
        plain = dict(zip(paths, map(_plain, chosen), strict=True))
        problem: UserError | None = None
        try:
            found.append(Point(plain, load_scenario(source, [*overrides, *own])))
        except UserError as error:
            problem = error
            found.append(Point(plain, None, error.what))
        for each in zip(paths, chosen, strict=True):
            failed.setdefault(each, []).append(problem)
    for (path, text), problems in failed.items():
        first = problems[0]
        # What fails in every combination, and speaks of this very key, is no value for it.
        if all(problems) and first is not None and first.where == f"--set {path}={text}":
            raise UserError(first.what, where=f"--vary {path}={text}", hint=first.hint)
    if all(point.scenario is None for point in found):
        raise UserError(f"no combination is a scenario: {found[0].problem}", where="--vary")
    return found


def points_of_plan(asked: Asked) -> list[Point]:
    """Every deployment of a plan's space, as it would run."""
    found = []
    for kind in kinds(asked):
        known = outlook(kind, asked)
        if known.problem:
            found.append(Point(dict(kind.axes), None, known.problem))
        for size in known.sizes:
            values: dict[str, Any] = dict(kind.axes)
            names = [f"{pool} replicas" for pool in kind.pools] or ["replicas"]
            values |= dict(zip(names, size.counts, strict=False))
            found.append(Point(values, kind.scenario(size.counts)))
    return found


def sweep(
    points: Sequence[Point], work: Workplace, *, name: str, limits: Sequence[Constraint] = ()
) -> dict[str, Any]:
    """Simulates every point.

    Args:
        points: the combinations.
        work: where they are simulated.
        name: of the report.
        limits: what each point is compared with; default: the SLO of its scenario.

    Returns:
        The report: plain data that JSON can hold, one row a point in their order.

    Raises:
        UserError: no point can be simulated, with the reason of the first.
    """
    tasks = [Task(point.scenario) for point in points if point.scenario is not None]
    outcomes = iter(work.run(tasks))
    rows = [
        _row(point, None if point.scenario is None else next(outcomes), limits) for point in points
    ]
    if all(row["problem"] for row in rows):
        raise UserError(f"no combination runs: {rows[0]['problem']}")
    for front in FRONTS:
        for row, flag in zip(rows, flags([row["summary"] for row in rows], front), strict=True):
            row["fronts"][front.name] = flag
    for row in rows:
        del row["summary"]
    axes = list(dict.fromkeys(axis for point in points for axis in point.values))
    return {
        "schema_version": SWEEP_SCHEMA_VERSION,
        "product": {"name": "servecast", "version": __version__},
        "name": name,
        "axes": axes,
        "limits": _limits(points, limits),
        "points": len(rows),
        "simulated": len(tasks),
        "rows": rows,
        "provenance": _provenance(points),
    }


def _limits(points: Sequence[Point], limits: Sequence[Constraint]) -> list[str]:
    """What every point is compared with; empty where each has limits of its own, or none has."""
    if limits:
        return [str(limit) for limit in limits]
    own = {limits_of((), point.scenario) for point in points if point.scenario is not None}
    return [str(limit) for limit in own.pop()] if len(own) == 1 else []


def _provenance(points: Sequence[Point]) -> dict[str, Any]:
    scenarios = [point.scenario for point in points if point.scenario is not None]
    seeds = sorted({scenario.measurement.seed for scenario in scenarios})
    return provenance((scenario.model_dump(mode="json") for scenario in scenarios), seeds)


def _row(point: Point, outcome: Outcome | None, limits: Sequence[Constraint]) -> dict[str, Any]:
    summary = outcome.summary if outcome is not None else {}
    problem = point.problem or (outcome.problem if outcome is not None else "")
    own = limits or (limits_of((), point.scenario) if point.scenario is not None else ())
    holds = None
    if summary and own:
        holds = all(limit.holds(limit.value(summary)) for limit in own)
        holds = holds and not lost(summary) and not overloaded(summary)
    return {
        "values": dict(point.values),
        "problem": problem,
        "holds": holds,
        "figures": {path: value_at(summary, path) for path in FIGURES},
        "fronts": {},
        "summary": summary,
    }


def _axis(text: str) -> tuple[str, list[str]]:
    """``path=a,b,c``; commas inside brackets and quotes belong to a value."""
    path, equals, values = text.partition("=")
    if not equals or not path.strip() or not values.strip():
        raise UserError(
            "must be a path and values", where=f"--vary {text}",
            hint="write --vary parallelism.tp=1,2,4",
        )  # fmt: skip
    return path.strip(), _split(values)


def _split(text: str) -> list[str]:
    found, depth, start, quote = [], 0, 0, ""
    for position, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and depth == 0:
            found.append(text[start:position].strip())
            start = position + 1
    return [*found, text[start:].strip()]


def _plain(text: str) -> Any:
    from pathlib import Path

    data, _ = parse_yaml(f"value: {text}", Path("--vary"))
    return data["value"]
