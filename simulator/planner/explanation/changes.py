"""Changes of a scenario, one at a time: of its deployment, and of its traffic."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from simulator.errors import UserError
from simulator.planner.explanation.lengths import longer
from simulator.planner.explanation.levers import levers, yaml_of
from simulator.planner.loads.load_task import check_scalable
from simulator.planner.traffic import scaled
from simulator.resolution.pools import ResolvedPool, resolve_pools
from simulator.scenario import Scenario, load_scenario
from simulator.scenario.dump import compact

Group = Literal["deployment", "traffic"]

MORE, LESS = 1.1, 0.9
"""How traffic is changed."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change.

    Args:
        key: short name, unique among all.
        group: what is changed.
        title: what reports call it.
        sets: the same as ``--set`` options.
        scenario: with the change; None: impossible.
        problem: why it is impossible, in a phrase.
    """

    key: str
    group: Group
    title: str
    sets: tuple[str, ...]
    scenario: Scenario | None
    problem: str = ""


_PLACE = re.compile(r"^(?:[a-z_]+)(?:[.\[][\w\].]*)*: ")
"""A key of the scenario before a sentence."""


def changes(scenario: Scenario, pools: Sequence[ResolvedPool] | None = None) -> list[Change]:
    """All changes that make sense for a scenario; impossible ones say why."""
    pools = pools or resolve_pools(scenario)
    document = compact(scenario)
    found = []
    for key, title, sets in levers(scenario, pools):
        found.append(_applied(document, key, "deployment", title, sets))
    return found + list(_traffic(scenario, document))


def _applied(
    document: dict[str, Any], key: str, group: Group, title: str, sets: tuple[str, ...]
) -> Change:
    try:
        changed = load_scenario(document, sets)
        resolve_pools(changed)
    except UserError as error:
        return Change(key, group, title, sets, None, phrase(error))
    return Change(key, group, title, sets, changed)


def phrase(error: UserError | str) -> str:
    """Why something is impossible, without where and hint."""
    text = error.what if isinstance(error, UserError) else error.partition("; ")[0]
    return _PLACE.sub("", text).rstrip(".")


# --- the traffic ---------------------------------------------------------------------------------


def _traffic(scenario: Scenario, document: dict[str, Any]) -> Iterator[Change]:
    for factor, word in ((MORE, "10% more"), (LESS, "10% less")):
        change = f"{factor - 1:+.0%}"
        try:
            check_scalable(scenario)
            changed = scenario.model_copy(update={"workload": scaled(scenario.workload, factor)})
            yield _changed(document, f"load{change}", f"{word} load", changed)
        except UserError as error:
            yield Change(f"load{change}", "traffic", f"{word} load", (), None, phrase(error))
    for side in ("prompts", "outputs"):
        for factor, word in ((MORE, "longer"), (LESS, "shorter")):
            key, title = f"{side}{factor - 1:+.0%}", f"{side} 10% {word}"
            try:
                changed = longer(scenario, factor, prompts=side == "prompts")
                yield _changed(document, key, title, changed)
            except UserError as error:
                yield Change(key, "traffic", title, (), None, phrase(error))


def _changed(document: dict[str, Any], key: str, title: str, changed: Scenario) -> Change:
    sets = tuple(differences(document, compact(changed)))
    return Change(key, "traffic", title, sets, changed)


def differences(before: Any, after: Any, at: str = "") -> Iterator[str]:
    """``--set`` options that make one document of a scenario from another."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in after:
            below = f"{at}.{key}" if at else str(key)
            yield from differences(before.get(key), after[key], below)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        if after and not isinstance(after[0], dict):
            if before != after:
                yield f"{at}=[{', '.join(map(yaml_of, after))}]"
            return
        for i, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, f"{at}.{i}")
    elif before != after:
        yield f"{at}={yaml_of(after)}"
