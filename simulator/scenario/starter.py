"""A commented scenario to start from, generated from the models' own descriptions."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from simulator.scenario.fields import Described, describe, meaning_of, tag_of
from simulator.scenario.scenario import Scenario
from simulator.yamlio import dump_yaml

_START: dict[str, Any] = {
    "description": "Chat traffic on one GPU",
    "model": "llama-3.1-8b",
    "hardware": {"profile": "h100-sxm"},
    "engine": {"profile": "vllm"},
    "workload": {
        "kind": "synthetic",
        "arrivals": {"kind": "poisson", "rate_per_s": 8.0},
        "lengths": {
            "kind": "independent",
            "input": {"kind": "lognormal", "mean": 1000.0, "cv": 1.0, "high": 8000},
            "output": {"kind": "lognormal", "mean": 200.0, "cv": 0.8, "high": 2000},
        },
        "requests": 2000,
    },
    "slo": {"ttft_ms": 500.0, "tpot_ms": 30.0},
}
"""What the starter simulates; every other key stands beside it as a comment."""

_HEAD = """\
# A scenario for `simulate run`. A key behind a # has the value shown until you take the # away.
# `simulate check` says whether the file is right and whether the model fits; docs/scenario.md
# explains every key.
"""

_WIDTH = 100


def starter(name: str) -> str:
    """YAML that loads as it is and shows every top-level choice."""
    return f"{_HEAD}\n{commented(Scenario, {'name': name, **_START})}"


def commented(model: type[BaseModel], values: Mapping[str, Any]) -> str:
    """YAML of a model: the values, and every other key beside them as a comment."""
    return "\n".join(_mapping(model, values, depth=0)) + "\n"


def _mapping(model: type[BaseModel], values: Mapping[str, Any], depth: int) -> Iterator[str]:
    for field in describe(model):
        if depth == 0 and field.models:
            yield ""
        if field.name in values:
            yield from _given(field, values[field.name], depth)
        else:
            yield from _left_out(field, depth)


def _given(field: Described, value: Any, depth: int) -> Iterator[str]:
    pad = "  " * depth
    if field.models and isinstance(value, dict):
        model = _chosen(field, value)
        yield from _comment(_explained(field, model), depth)
        yield f"{pad}{field.name}:"
        yield from _mapping(model, value, depth + 1)
    elif field.name == "kind":
        yield f"{pad}kind: {value}"
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        yield from _comment(field.meaning, depth)
        yield f"{pad}{field.name}:"
        yield from (f"{pad}  - {_flow(item)}" for item in value)
    else:
        yield from _line(f"{pad}{_entry(field.name, value)}", _note(field), depth)


def _left_out(field: Described, depth: int) -> Iterator[str]:
    pad = "  " * depth
    if depth == 0 and len(field.models) == 1:
        yield from _comment(meaning_of(field.models[0]), depth)
        yield f"# {field.name}:"
        for inner in describe(field.models[0]):
            lines = _line(f"  {inner.name}: {inner.default}", _note(inner), depth + 1)
            yield from (f"# {line}" for line in lines)
    elif field.name != "kind":
        yield from _line(f"{pad}# {field.name}: {field.default}", _note(field), depth)


def _chosen(field: Described, value: Mapping[str, Any]) -> type[BaseModel]:
    if len(field.models) == 1:
        return field.models[0]
    return next(model for model in field.models if tag_of(model) == value["kind"])


def _explained(field: Described, model: type[BaseModel]) -> str:
    """The field's meaning and, for a choice of kinds, what else there is."""
    others = [tag_of(m) for m in field.models if m is not model]
    kinds = f" (or kind: {', '.join(others)})" if others else ""
    return f"{field.meaning}{kinds}"


def _note(field: Described) -> str:
    kinds = " or ".join(f"{{kind: {tag_of(m)}}}" for m in field.models if tag_of(m))
    return "; ".join(filter(None, [field.meaning, field.unit, kinds]))


def _entry(key: str, value: Any) -> str:
    if isinstance(value, list):
        return f"{key}: {_flow(value)}"
    return dump_yaml({key: value}).rstrip("\n")


def _flow(value: Any) -> str:
    """On one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    return dump_yaml({"value": value}).removeprefix("value: ").rstrip("\n")


def _line(entry: str, note: str, depth: int) -> Iterator[str]:
    """The entry with its note behind it, or above it where the line would become too long."""
    if len(entry) + len(note) + 4 <= _WIDTH:
        yield f"{entry}  # {note}"
    else:
        yield from _comment(note, depth)
        yield entry


def _comment(text: str, depth: int) -> list[str]:
    pad = "  " * depth + "# "
    return textwrap.wrap(text.replace("``", ""), _WIDTH, initial_indent=pad, subsequent_indent=pad)
