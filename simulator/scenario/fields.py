"""What the models say about their fields, in words: for the reference and the starter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as at
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from simulator.scenario.base import Unit
from simulator.sentences import unit_of

_SCALARS = {str: "text", float: "number", int: "whole number", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class Described:
    """One field of one model.

    Args:
        name: the key in the YAML.
        kind: what may stand there, in words.
        unit: of a number, empty if it has none.
        default: as it would be written, empty if the field is required.
        limits: of a number, text or list.
        meaning: what it is for.
        models: the mappings that may stand there.
        many: whether a list of them is meant.
    """

    name: str
    kind: str
    unit: str
    default: str
    limits: str
    meaning: str
    models: tuple[type[BaseModel], ...]
    many: bool

    @property
    def required(self) -> bool:
        """Whether the key must be given."""
        return not self.default


def describe(model: type[BaseModel]) -> Iterator[Described]:
    """The fields of a model in order, its ``kind`` first."""
    ordered = sorted(model.model_fields.items(), key=lambda item: item[0] != "kind")
    for name, field in ordered:
        annotation, limits = unwrap(field.annotation, field.metadata)
        models, many = _models(annotation)
        yield Described(
            name=name,
            kind=_kind(annotation),
            unit=_unit(name, limits) if annotation in (int, float) else "",
            default=_default(name, field),
            limits=_limits(limits),
            meaning=field.description or "",
            models=models,
            many=many,
        )


def tag_of(model: type[BaseModel]) -> str:
    """The value of ``kind`` that stands for this model, empty if it has none."""
    field = model.model_fields.get("kind")
    return str(get_args(field.annotation)[0]) if field else ""


def meaning_of(model: type[BaseModel]) -> str:
    """The model's docstring on one line."""
    return " ".join((model.__doc__ or "").split())


def unwrap(annotation: Any, metadata: list[Any]) -> tuple[Any, list[Any]]:
    """Without Annotated and Optional; what Annotated said comes along."""
    found = list(metadata)
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            for item in more:
                found += item.metadata if isinstance(item, FieldInfo) else [item]
        elif get_origin(annotation) in (Union, UnionType):
            rest = [arg for arg in get_args(annotation) if arg is not NoneType]
            if len(rest) != 1:
                return annotation, found
            annotation = rest[0]
        else:
            return annotation, found


def _models(annotation: Any) -> tuple[tuple[type[BaseModel], ...], bool]:
    if get_origin(annotation) in (tuple, list):
        inner, _ = unwrap(get_args(annotation)[0], [])
        return _models(inner)[0], True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,), False
    if get_origin(annotation) in (Union, UnionType):
        return tuple(
            m for arg in get_args(annotation) for m in _models(unwrap(arg, [])[0])[0]
        ), False
    return (), False


def _kind(annotation: Any) -> str:
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if get_origin(annotation) is Literal:
        return " or ".join(str(arg) for arg in get_args(annotation))
    if get_origin(annotation) in (tuple, list):
        inner, _ = unwrap(get_args(annotation)[0], [])
        return f"list of {_kind(inner)}"
    if get_origin(annotation) in (Union, UnionType):
        members = [unwrap(arg, [])[0] for arg in get_args(annotation) if arg is not NoneType]
        return " or ".join(dict.fromkeys(map(_kind, members)))
    return "mapping"


def _default(name: str, field: FieldInfo) -> str:
    if field.is_required() or name == "kind":
        return ""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        if tag_of(type(value)):
            return f"{{kind: {tag_of(type(value))}}}"
        given = value.model_dump(mode="json", exclude_defaults=True)
        return "{" + ", ".join(f"{key}: {item}" for key, item in given.items()) + "}"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return (
            f"{value:g}"
            if abs(value) < 1e6
            else f"{value:d}"
            if isinstance(value, int)
            else str(value)
        )
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value) or '""'


def _unit(name: str, metadata: list[Any]) -> str:
    return next((item.name for item in metadata if isinstance(item, Unit)), unit_of(name))


def _limits(metadata: list[Any]) -> str:
    parts = []
    for item in metadata:
        match item:
            case at.Gt():
                parts.append(f"> {item.gt:g}")
            case at.Ge():
                parts.append(f"≥ {item.ge:g}")
            case at.Lt():
                parts.append("< 2⁶³" if item.lt == 2**63 else f"< {item.lt:g}")
            case at.Le():
                parts.append(f"≤ {item.le:,}")
            case at.MinLen():
                parts.append(f"at least {item.min_length} long")
            case at.MaxLen():
                parts.append(f"at most {item.max_length} long")
    return ", ".join(parts)
