"""A dumped scenario loads back to the same scenario, whatever it holds."""

from __future__ import annotations

import io
import sys
from typing import Any, Literal, get_args, get_origin

import annotated_types as at
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from simulator.scenario import Scenario, dump_scenario, load_scenario
from simulator.scenario.fields import unwrap
from simulator.scenario.shipped import scenario_names

AWKWARD = [
    "1e3",
    "null",
    "~",
    "true",
    "off",
    "1:30",
    " x ",
    "a: b",
    "# x",
    "- x",
    "é\n\tü",
    "0x1f",
    "\x85",
    "a\u2028b",
]


def value(draw: st.DrawFn, annotation: Any, metadata: list[Any]) -> Any:
    """Anything a field may hold."""
    annotation, limits = unwrap(annotation, metadata)
    if get_origin(annotation) is Literal:
        return draw(st.sampled_from(get_args(annotation)))
    if get_origin(annotation) is tuple:
        inner = get_args(annotation)[0]
        return [value(draw, inner, []) for _ in range(draw(st.integers(1, 2)))]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return mapping(draw, annotation)
    if get_args(annotation):
        return value(draw, draw(st.sampled_from(get_args(annotation))), [])
    if annotation is bool:
        return draw(st.booleans())
    if annotation is str:
        return draw(st.text(min_size=1, max_size=30) | st.sampled_from(AWKWARD))
    low = max([x.ge for x in limits if isinstance(x, at.Ge)], default=0)
    high = min(
        [x.le for x in limits if isinstance(x, at.Le)]
        + [x.lt - 1 for x in limits if isinstance(x, at.Lt)],
        default=1e9,
    )
    if annotation is int:
        return draw(st.integers(low, high))
    return draw(st.floats(low, max(high, low + 0.5), exclude_min=True))


def mapping(draw: st.DrawFn, model: type[BaseModel]) -> dict[str, Any]:
    """Plain data that validates as ``model``."""
    for _ in range(8):
        data = {
            name: value(draw, field.annotation, field.metadata)
            for name, field in model.model_fields.items()
            if field.is_required() or name == "kind" or draw(st.booleans())
        }
        try:
            model.model_validate(data)
        except ValidationError:
            continue
        return data
    return reject()


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    return Scenario.model_validate(mapping(draw, Scenario))


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(scenarios())
def test_round_trip(scenario: Scenario) -> None:
    with pytest.MonkeyPatch.context() as patch:
        text = dump_scenario(scenario)
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert load_scenario("-") == scenario


@pytest.mark.parametrize("name", scenario_names())
def test_round_trip_of_the_examples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = load_scenario(name)
    text = dump_scenario(scenario)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert load_scenario("-") == scenario


def test_only_what_differs_is_written() -> None:
    scenario = load_scenario("chat-8b-h100")
    text = dump_scenario(scenario)
    assert "attainment" not in text
    assert "kind: trace" in text
    assert dump_scenario(load_scenario("chat-8b-h100", ["slo.attainment=0.9"])) != text
