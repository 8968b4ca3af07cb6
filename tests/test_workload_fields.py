"""No field of the traffic is accepted and ignored: some entry of CHANGES (tests/fields_*.py), each
of which changes a result, changes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fields_work import SAME
from pydantic import BaseModel
from test_matrix_fields import BASE, CHANGES, Fields, nested

from simulator.scenario.fields import describe
from simulator.scenario.scenario import Scenario


def traffic_of(fields: Fields) -> BaseModel:
    return Scenario.model_validate(nested(BASE | fields)).workload


def differences(before: Any, after: Any) -> Iterator[tuple[str, str]]:
    """(model, field) in which two values differ."""
    if isinstance(before, BaseModel) and isinstance(after, BaseModel):
        if type(before) is not type(after):
            return
        for name in type(before).model_fields:
            old, new = getattr(before, name), getattr(after, name)
            if old != new:
                yield type(before).__name__, name
                yield from differences(old, new)
    elif isinstance(before, tuple) and isinstance(after, tuple):
        for old, new in zip(before, after, strict=False):
            yield from differences(old, new)


def models(model: type[BaseModel], found: dict[str, type[BaseModel]]) -> None:
    if model.__name__ not in found:
        found[model.__name__] = model
        for field in describe(model):
            for below in field.models:
                models(below, found)


@pytest.fixture(scope="module")
def told() -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for path, value, given in CHANGES:
        if path.split(".")[0] == "workload":
            found |= set(differences(traffic_of(given), traffic_of(given | {path: value})))
    return found


def test_every_field_of_the_traffic_changes_a_result(told: set[tuple[str, str]]) -> None:
    known: dict[str, type[BaseModel]] = {}
    for field in describe(Scenario):
        if field.name == "workload":
            for model in field.models:
                models(model, known)
    known.pop("Slo")  # the scenario's own, which has entries there
    every = {(name, key) for name, model in known.items() for key in model.model_fields} - {
        (name, "kind") for name in known
    }
    assert every - told - set(SAME) == set(), "no entry of CHANGES changes these"
    assert set(SAME) <= every
