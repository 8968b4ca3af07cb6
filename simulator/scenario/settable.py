"""One value of a scenario, with all that its model says about it: for forms and other editors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types as at
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from simulator.errors import UserError
from simulator.scenario.engine import EngineChoice
from simulator.scenario.fields import describe, tag_of, unwrap
from simulator.scenario.hardware import Hardware
from simulator.scenario.scenario import Scenario
from simulator.yamlio import parse_yaml

Kind = Literal["text", "number", "whole", "switch", "choice"]

_SCALARS: dict[Any, Kind] = {str: "text", float: "number", int: "whole", bool: "switch"}


@dataclass(frozen=True, slots=True)
class Setting:
    """A single value of a scenario.

    Args:
        path: its key, as ``--set`` takes it: ``slo.ttft_ms``.
        kind: text, a number, a whole number, true or false, or one of ``choices``.
        value: what the scenario has; of a mapping with a ``kind``, that.
        default: what it has if the key is left out; None where the key is required, or where what
            stands for it depends on other values.
        required: whether the key must be given.
        nullable: whether null may stand there.
        choices: what may stand there; of text, the names that are shipped.
        least, most: limits of a number; None: there is none.
        unit: of a number, in words; empty if it has none.
        limits: the same limits in words.
        meaning: what it is for.
    """

    path: str
    kind: Kind
    value: Any
    default: Any
    required: bool
    nullable: bool
    choices: tuple[Any, ...]
    least: float | None
    most: float | None
    unit: str
    limits: str
    meaning: str
    of_mapping: bool = False

    def assignment(self, value: Any) -> str:
        """``path=value`` as ``--set`` takes it."""
        if self.of_mapping and value is not None:
            return f"{self.path}={{kind: {value}}}"
        return f"{self.path}={_written(value)}"


def scenario_field(path: str, scenario: Scenario) -> Setting:
    """What a scenario has at a key, and what may stand there instead.

    Args:
        path: ``slo.ttft_ms``, ``workload.classes.0.workload.rate_scale``; the key of a mapping with
            a ``kind`` stands for that kind, the others of which need nothing else.
        scenario: decides which keys there are: ``workload.arrivals.rate_per_s`` only where arrivals
            have a rate.

    Raises:
        UserError: this scenario has no such key, or its value is no single one.
    """
    value, field = _at(path, scenario)
    annotation, metadata = unwrap(field.annotation, field.metadata)
    owner, _ = _at(path.rpartition(".")[0], scenario) if "." in path else (scenario, None)
    name = path.rpartition(".")[2]
    told = next(each for each in describe(type(owner)) if each.name == name)
    kind, choices, of_mapping = _kind(annotation, value, path)
    if of_mapping and value is not None:
        value = tag_of(type(value))
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        default = tag_of(type(default))
    names = _names(type(owner), name)
    low = next((item for item in metadata if isinstance(item, at.Gt | at.Ge)), None)
    high = next((item for item in metadata if isinstance(item, at.Lt | at.Le)), None)
    return Setting(
        path=path,
        kind=kind,
        value=value,
        default=default,
        required=field.is_required(),
        nullable=_nullable(field.annotation),
        choices=tuple(names()) if names else choices,
        least=_limit(low),
        most=_limit(high),
        unit=told.unit,
        limits=told.limits,
        meaning=told.meaning.replace("``", ""),
        of_mapping=of_mapping,
    )


def _at(path: str, scenario: Scenario) -> tuple[Any, FieldInfo]:
    """The value at a key and its field; raises UserError where there is none."""
    value: Any = scenario
    field: FieldInfo | None = None
    for part in path.split("."):
        if isinstance(value, tuple) and part.isdigit() and int(part) < len(value):
            value, field = value[int(part)], None
        elif isinstance(value, BaseModel) and part in type(value).model_fields:
            field = type(value).model_fields[part]
            value = getattr(value, part)
        else:
            raise UserError("this scenario has no such key", where=path)
    return value, field or FieldInfo(annotation=type(value))


def _kind(annotation: Any, value: Any, path: str) -> tuple[Kind, tuple[Any, ...], bool]:
    """What may stand there, its choices, and whether they are kinds of a mapping."""
    if annotation in _SCALARS:
        return _SCALARS[annotation], (), False
    if get_origin(annotation) is Literal:
        return "choice", get_args(annotation), False
    if get_origin(annotation) in (Union, UnionType):
        members = [unwrap(arg, [])[0] for arg in get_args(annotation) if arg is not NoneType]
        if all(member is bool or get_origin(member) is Literal for member in members):
            options = [(True, False) if m is bool else get_args(m) for m in members]
            return "choice", tuple(option for part in options for option in part), False
        if all(isinstance(m, type) and issubclass(m, BaseModel) and tag_of(m) for m in members):
            free = [tag_of(m) for m in members if isinstance(value, m) or _needs_nothing(m)]
            return "choice", tuple(free), True
    raise UserError("is no single value", where=path)


def _needs_nothing(model: type[BaseModel]) -> bool:
    return not any(f.is_required() for name, f in model.model_fields.items() if name != "kind")


def _nullable(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType) and NoneType in get_args(annotation)


def _names(owner: type[BaseModel], name: str) -> Callable[[], list[str]] | None:
    """Where the names of what is shipped come from."""
    from simulator import engines, hardware
    from simulator.models import preset_names

    if name == "model":
        return preset_names
    known = {(Hardware, "profile"): hardware.profile_names,
             (EngineChoice, "profile"): engines.profile_names}  # fmt: skip
    return known.get((owner, name))


def _limit(item: Any) -> float | None:
    match item:
        case at.Gt():
            return float(item.gt)  # type: ignore[arg-type]
        case at.Ge():
            return float(item.ge)  # type: ignore[arg-type]
        case at.Lt():
            return float(item.lt)  # type: ignore[arg-type]
        case at.Le():
            return float(item.le)  # type: ignore[arg-type]
    return None


def _written(value: Any) -> str:
    """YAML on one line."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        plain = parse_yaml(f"value: {value}", Path())[0] == {"value": value}
    except UserError:
        plain = False
    return value if plain and "\n" not in value else json.dumps(value, ensure_ascii=False)
