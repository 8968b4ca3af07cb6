"""In which keys scenarios differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from simulator.scenario.dump import compact
from simulator.scenario.scenario import Scenario

_WORDS = ("name", "description")
"""Keys that change no result."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A key that is not the same in all of several scenarios.

    Args:
        key: dotted path, ``engine.max_num_seqs``; elements of lists by their number from 0.
        values: of each scenario, its default where it does not say; None: it has no such key, or
            nothing there.
    """

    key: str
    values: tuple[Any, ...]


def scenario_differences(scenarios: Sequence[Scenario]) -> list[Difference]:
    """Keys in which scenarios differ, in the order in which their YAML has them, name and
    description left out.

    Args:
        scenarios: two or more.
    """
    written = [dict(_leaves(compact(scenario))) for scenario in scenarios]
    whole = [dict(_leaves(scenario.model_dump(mode="json"))) for scenario in scenarios]
    keys = dict.fromkeys(key for leaves in written for key in leaves)
    found = (
        Difference(key, tuple(leaves.get(key) for leaves in whole))
        for key in keys
        if key not in _WORDS
    )
    return [each for each in found if any(value != each.values[0] for value in each.values)]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no mapping and no list of mappings, with its path."""
    if isinstance(value, dict) and value:
        inside = list(value.items())
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        inside = list(enumerate(value))
    else:
        yield path, value
        return
    for key, item in inside:
        yield from _leaves(item, f"{path}.{key}" if path else str(key))
