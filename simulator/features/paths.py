"""Whether a dotted path of a feature's row leads to a field of the scenario."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from simulator.scenario.fields import describe, tag_of
from simulator.scenario.scenario import Scenario
from simulator.yamlio import parse_yaml

Models = list[type[BaseModel]]


def leads_somewhere(path: str) -> bool:
    """Whether ``path`` (``workload.classes.slo``, ``engine.policy=prefill_first``) exists in the
    scenario. Positions in lists are left out, and of a choice of kinds any may have the field.
    What stands behind ``=`` must be a kind of the mapping, or a value that the field takes."""
    where, given, value = path.partition("=")
    *parents, last = where.split(".")
    owners: Models = [Scenario]
    for name in parents:
        owners = _below(owners, name)
    if not any(last in owner.model_fields for owner in owners):
        return False
    return not given or any(_takes(owner, last, value) for owner in owners)


def _below(owners: Iterable[type[BaseModel]], name: str) -> Models:
    found: Models = []
    for owner in owners:
        for field in describe(owner):
            if field.name == name:
                found += [model for model in field.models if model not in found]
    return found


def _takes(owner: type[BaseModel], name: str, text: str) -> bool:
    field = owner.model_fields.get(name)
    if field is None:
        return False
    below = _below([owner], name)
    if below:
        return text in {tag_of(model) for model in below}
    adapter: TypeAdapter[Any] = TypeAdapter(field.annotation or Any)
    value = parse_yaml(f"value: {text}", Path("value"))[0]["value"]
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True
