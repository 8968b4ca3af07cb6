"""``--set path.to.field=value``: one value of a scenario replaced from the command line."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from simulator.errors import ScenarioError, UserError
from simulator.scenario.document import Document, KeyPath, anchor_paths, expand_shorthand
from simulator.yamlio import parse_yaml


def apply_override(document: Document, override: str, option: str = "--set") -> Document:
    """A copy of ``document`` with one value replaced.

    Args:
        document: the scenario so far.
        override: ``a.b.c=value``; the value is read as YAML, a list element is meant by its
            position (``workload.classes.0.name=chat``). Mappings that are missing are made, so that
            defaults can be overridden.
        option: what the command line calls it.

    Raises:
        ScenarioError: no ``=``, no path, a value that is not YAML, or a path that leads through
            something that has no keys. Unknown keys are found by the validation that follows.
    """
    place = f"{option} {override}"
    path_text, equals, value_text = override.partition("=")
    keys = path_text.strip().split(".")
    if not equals or not all(keys):
        raise ScenarioError(
            "must be a path and a value", where=place, hint=f"write {option} path.to.field=value"
        )
    if not override.isascii() and override.encode(errors="replace").decode() != override:
        raise ScenarioError("is not UTF-8 text", where=ascii(place))
    value = _value(value_text, place)
    result = Document(copy.deepcopy(document.data), dict(document.places))
    holder: Any = result.data
    at: KeyPath = ()
    for key in keys[:-1]:
        step = _step(holder, key, at, place)
        at = (*at, step)
        if isinstance(holder, dict) and holder.get(key) is None:
            holder[key] = {}
            result.places[at] = place
        holder = holder[step]
    last = _step(holder, keys[-1], at, place)
    layer = {keys[-1]: value}
    anchor_paths(layer, Path.cwd())
    result.forget((*at, last))
    holder[last] = layer[keys[-1]]
    result.places[(*at, last)] = place
    expand_shorthand(result)
    return result


def _value(text: str, place: str) -> Any:
    try:
        data, _ = parse_yaml(f"value: {text}", Path("--set"))
    except UserError as error:
        raise ScenarioError(
            f"the value is not YAML: {error.what.removeprefix('not valid YAML: ')}", where=place
        ) from None
    if set(data) != {"value"}:
        raise ScenarioError("the value must be a single one", where=place)
    return data["value"]


def _step(holder: Any, key: str, at: KeyPath, place: str) -> str | int:
    """``key`` as an index into ``holder``."""
    if isinstance(holder, dict):
        return key
    dotted = ".".join(map(str, at))
    if isinstance(holder, list):
        if not key.isdigit() or int(key) >= len(holder):
            hint = f"give a position from 0 to {len(holder) - 1} instead of '{key}'"
            raise ScenarioError(
                f"{dotted} is a list of {len(holder)}", where=place, hint=hint if holder else ""
            )
        return int(key)
    raise ScenarioError(
        f"{dotted} is a single value and has no '{key}'",
        where=place,
        hint=f"write --set {dotted}=value",
    )
