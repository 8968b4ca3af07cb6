"""Turns what pydantic found wrong into one sentence that says where and what would be right."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from simulator.errors import UserError

Lines = Mapping[tuple[str | int, ...], int | str]
"""Where each key path stands: a line of the file, or in words if it comes from elsewhere."""

_UNITS = (
    r"_(?:usd_per_device_hour|gb_per_s_per_device|gb_per_s_per_direction|gb_per_s|per_s|us_per_token|"
    r"gco2e_per_kwh|per_hour|ms|us|s|gib|gb|mib|mb|w|kw|tokens|fraction|pct|percent|seconds|sec|minutes|"
    r"qps|rps)$"
)
_TYPE_ERRORS = (
    "tuple_type", "list_type", "string_type", "dict_type", "model_type", "model_attributes_type",
    "literal_error", "int_type", "int_parsing", "float_type", "float_parsing", "int_from_float",
    "bool_type", "none_required",
)  # fmt: skip
"""What pydantic says of a value that is of another type altogether."""

_UNIT_WORDS = {
    "_per_s": "a rate per second", "_gb_per_s": "GB/s", "_gco2e_per_kwh": "grams of CO2e per kWh",
    "_ms": "milliseconds", "_us": "microseconds", "_s": "seconds", "_gib": "GiB",
    "_w": "watts", "_tflops": "TFLOP/s",
    "_fraction": "a fraction from 0 to 1", "_per_device_hour": "USD for a device and hour",
}  # fmt: skip


def closest(name: str, options: Iterable[str]) -> str | None:
    """The option that ``name`` most likely meant, or None when none is near."""
    by_form = {re.sub(r"[\W_]+", "", option).lower(): option for option in options}
    form = re.sub(r"[\W_]+", "", name).lower()
    if form in by_form:
        return by_form[form]
    near = difflib.get_close_matches(form, by_form, n=1, cutoff=0.6)
    if near:
        return by_form[near[0]]
    longer = [o for f, o in by_form.items() if len(form) >= 3 and (f.startswith(form) or form in f)]
    return min(longer, key=len) if longer else None


def validation_sentence(
    error: ValidationError, path: Path | str, lines: Lines, model: type[BaseModel]
) -> UserError:
    """The most telling of pydantic's findings as one sentence.

    Args:
        error: what pydantic raised while validating ``model``.
        path: the file, as the user knows it.
        lines: 1-based line of every key path of the file, or words (``--set model=x``) for what
            was set elsewhere.
        model: the class that was validated; its fields are what an unknown key could have meant.

    Returns:
        The error to raise: ``chat.yaml:12: workload.rate_per_s: must be greater than 0, got -3``.
    """
    findings = [_Finding(detail, lines, model) for detail in error.errors(include_url=False)]
    findings = _without_other_branches(findings)
    meant = {(*f.path[:-1], f.suggestion) for f in findings if f.unknown_key and f.suggestion}
    findings = [f for f in findings if not (f.type == "missing" and f.path in meant)]
    findings = [f for f in findings if not f.follows_from_others] or findings
    first = min(findings, key=_Finding.rank)
    elsewhere = isinstance(first.line, str)
    where = str(first.line) if elsewhere else f"{path}:{first.line}" if first.line else str(path)
    what = f"{first.dotted}: {first.what}" if first.path else first.what
    rest = len(findings) - 1
    hint = first.hint
    if rest:
        more = f"{rest} more problem{'s' if rest > 1 else ''}{'' if elsewhere else ' in this file'}"
        hint = f"{hint} ({more})" if hint else more
    return UserError(what, where=where, hint=hint)


def _without_other_branches(findings: list[_Finding]) -> list[_Finding]:
    """Pydantic tries every member of a union and tells what each lacks. What is meant is the member
    that the value resembles: the others only complain of its type. Where it resembles none, one
    finding names them all."""
    kept = list(findings)
    for union in sorted({union for f in findings for union in f.unions}, key=len):
        inside = [f for f in kept if union in f.unions]
        shallow = [f for f in inside if f.path == union and f.type in _TYPE_ERRORS]
        if len(shallow) < len(inside):
            kept = [f for f in kept if f not in shallow]
        elif len(shallow) > 1:
            shallow[0].name_all(shallow)
            kept = [f for f in kept if f not in shallow[1:]]
    return kept


class _Finding:
    """One of pydantic's errors: its path without union tags, its line, its sentence."""

    def __init__(self, detail: Any, lines: Lines, model: type[BaseModel]) -> None:
        self.type: str = detail["type"]
        self._detail = detail
        self._root = model
        self.path, self._owner, self._schema, self.unions = _locate(model, detail["loc"])
        self.unknown_key = self.type == "extra_forbidden"
        self.suggestion = self._meant_key() if self.unknown_key else None
        self.what, self.hint = self._sentence()
        self.line = next(
            (lines[self.path[:n]] for n in range(len(self.path), 0, -1) if self.path[:n] in lines),
            lines.get((), 0),
        )

    def name_all(self, others: Iterable[_Finding]) -> None:
        """Says what each member of a union would take."""
        words = dict.fromkeys(_member_words(other._schema) for other in others)
        value = self._detail["input"]
        self.what = f"must be {' or '.join(words)}, got {_shown(value)}"
        self.hint = _as_list(value) if "a list" in words else ""

    @property
    def follows_from_others(self) -> bool:
        """A list is only too short because its items were refused."""
        return self.type == "too_short" and bool(self._detail["input"])

    def rank(self) -> tuple[bool, bool, int]:
        """Unknown keys first, then by line, then what was set elsewhere."""
        number = 0 if isinstance(self.line, str) else self.line or 0
        return not self.unknown_key, isinstance(self.line, str), number

    @property
    def dotted(self) -> str:
        parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)
        return "".join(parts).removeprefix(".")

    def _sentence(self) -> tuple[str, str]:
        ctx: dict[str, Any] = self._detail.get("ctx", {})
        value = self._detail.get("input")
        got = f"got {_shown(value)}"
        if isinstance(value, float) and not math.isfinite(value):
            return f"must be a finite number, {got}", ""
        if self.unknown_key:
            return "unknown key", self._unknown_key_hint()
        if self.type == "missing":
            return "is required but missing", self._missing_hint()
        if self.type == "too_short":
            least = ctx.get("min_length", 1)
            return f"needs at least {least} {'entry' if least == 1 else 'entries'}", ""
        if self.type in ("union_tag_invalid", "literal_error"):
            return self._choice(ctx, value)
        if self.type == "union_tag_not_found":
            key = str(ctx.get("discriminator", "kind")).strip("'")
            return f"needs a '{key}', one of {', '.join(_tags(self._schema))}", ""
        if self.type in ("value_error", "assertion_error"):
            return str(ctx.get("error", self._detail["msg"])), ""
        if self.type in ("model_type", "model_attributes_type", "dict_type", "dataclass_type"):
            return f"must be a mapping of keys to values, {got}", self._mapping_hint(value)
        if self.type in ("float_parsing", "float_type", "int_parsing", "int_type"):
            return self._number(value, got)
        if self.type in ("tuple_type", "list_type"):
            return f"must be a list, {got}", _as_list(value)
        if self.type == "int_from_float":
            return f"must be a whole number, {got}", ""
        message = str(self._detail["msg"])
        message = re.sub(
            r"^Input should be( a valid)?",
            "must be a" if "valid" in message else "must be",
            message,
        )
        return f"{message}, {got}", ""

    def _choice(self, ctx: dict[str, Any], value: Any) -> tuple[str, str]:
        expected = ctx.get("expected_tags") or ctx.get("expected", "")
        options = re.findall(r"'([^']*)'", expected)
        given = str(ctx.get("tag", value))
        near = closest(given, options)
        key = "kind: " if self.type == "union_tag_invalid" else ""
        what = f"{key}must be one of {', '.join(options) or expected}, got {_shown(given)}"
        return what, f"did you mean '{near}'?" if near else ""

    def _number(self, value: Any, got: str) -> tuple[str, str]:
        whole = "whole number" if self.type.startswith("int") else "number"
        if isinstance(value, str) and re.match(r"^\s*[-+.\d]+\s*[a-zA-Z/%]+", value):
            if whole == "number" and (share := re.fullmatch(r"\s*([\d.]+)\s*%\s*", value)):
                return f"must be a {whole}, {got}", _as_share(share[1])
            unit = unit_of(str(self.path[-1]))
            say = f"the unit belongs to the key ({unit})" if unit else "leave the unit away"
            if self._owner is not None and "metric" in self._owner.model_fields:
                say += "; the metric's name has it, as ttft_ms has milliseconds"
            return f"must be a {whole}, {got}", say
        return f"must be a {whole}, {got}", ""

    def _mapping_hint(self, value: Any) -> str:
        tags = _tags(self._schema)
        if isinstance(value, str) and tags:
            near = closest(value, tags) or tags[0]
            return f"write it as {{kind: {near}}}"
        return ""

    def _missing_hint(self) -> str:
        tags = _tags(self._schema)
        if self.path and self.path[-1] == "kind":
            return ""
        return f"its kind is one of {', '.join(tags)}" if tags else ""

    def _meant_key(self) -> str | None:
        if self._owner is None:
            return None
        key = str(self.path[-1])
        fields = list(self._owner.model_fields)
        bare = re.sub(_UNITS, "", key)
        by_unit = [field for field in fields if re.sub(_UNITS, "", field) == bare]
        return by_unit[0] if by_unit else closest(key, fields)

    def _unknown_key_hint(self) -> str:
        key = str(self.path[-1])
        elsewhere = {p for p in _paths(self._root) if p[-1] == key and p[:-1] != self.path[:-1]}
        if self.suggestion and re.sub(_UNITS, "", key) == re.sub(_UNITS, "", self.suggestion):
            unit = unit_of(self.suggestion)
            return f"did you mean '{self.suggestion}'{f' ({unit})' if unit else ''}?"
        above = tuple(part for part in self.path[:-1] if isinstance(part, str))
        below = [p for p in elsewhere if p[: len(above)] == above]
        if len(below) == 1:
            return f"it belongs at '{'.'.join(below[0])}'"
        kinds = [
            tag for m in _owners(self._root, above) if key in m.model_fields and (tag := _tag(m))
        ]
        if kinds and self._owner and (own := _tag(self._owner)):
            return f"kind: {own} has none; it goes with kind: {' or '.join(kinds)}"
        if len(elsewhere) == 1:
            return f"it belongs at '{'.'.join(elsewhere.pop())}'"
        if self.suggestion:
            return f"did you mean '{self.suggestion}'?"
        anywhere = {p[-1]: p for p in _paths(self._root)}
        near = closest(key, anywhere) if len(key) > 3 else None
        if near:
            return f"did you mean '{'.'.join(anywhere[near])}'?"
        fields = list(self._owner.model_fields) if self._owner else []
        return f"known keys here: {', '.join(fields)}" if fields else ""


def _as_list(value: Any) -> str:
    """How one value is written where a list is wanted."""
    return f"write [{value}]" if isinstance(value, str | int | float) else ""


def _shown(value: Any) -> str:
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if value is None:
        return "nothing (null)"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _as_share(percent: str) -> str:
    """What to write instead of so many percent."""
    try:
        return f"write {float(percent) / 100.0:g}"
    except ValueError:  # such as 1.2.3
        return ""


def unit_of(key: str) -> str:
    """What the end of a key says about its unit."""
    ends = (end for end in sorted(_UNIT_WORDS, key=len, reverse=True) if key.endswith(end))
    return _UNIT_WORDS[end] if (end := next(ends, "")) else ""


def _plain(annotation: Any) -> Any:
    """Without Annotated and Optional."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        rest = [arg for arg in get_args(annotation) if arg is not NoneType]
        if len(rest) == 1:
            return _plain(rest[0])
    return annotation


def _members(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field may hold: one, or the members of a union."""
    annotation = _plain(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType):
        return [model for arg in get_args(annotation) for model in _members(arg)]
    return []


def _element(annotation: Any) -> Any:
    """What a list holds; anything else as it is."""
    annotation = _plain(annotation)
    return get_args(annotation)[0] if get_origin(annotation) in (tuple, list) else annotation


def _tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    options = (
        get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()
    )
    return str(options[0]) if len(options) == 1 else None


def _tags(annotation: Any) -> list[str]:
    members = _members(annotation)
    return [tag for model in members if (tag := _tag(model))] if len(members) > 1 else []


def _locate(
    model: type[BaseModel], loc: tuple[int | str, ...]
) -> tuple[tuple[int | str, ...], type[BaseModel] | None, Any, tuple[tuple[int | str, ...], ...]]:
    """Follow pydantic's location: the path as in the file, the model that owns its last key, the
    annotation found there, and the paths of the unions of unlike members on the way."""
    path: list[int | str] = []
    unions: list[tuple[int | str, ...]] = []
    schema: Any = model
    owner: type[BaseModel] | None = None
    for part in loc:
        schema = _plain(schema)
        members = _members(schema)
        if len(members) > 1:
            chosen = [m for m in members if _tag(m) == part]
            if chosen:
                schema = chosen[0]
                continue
        unlike = _unlike(schema)
        if unlike:
            unions.append(tuple(path))
            schema = next((member for member in unlike if _is_called(member, str(part))), None)
            continue
        if len(members) == 1:
            owner = members[0]
            field = owner.model_fields.get(str(part))
            schema = field.annotation if field else None
            path.append(part)
        elif get_origin(schema) in (tuple, list) and isinstance(part, int):
            owner, schema = None, get_args(schema)[0]
            path.append(part)
        elif get_origin(schema) is dict and part != "[key]":
            owner, schema = None, get_args(schema)[1]
            path.append(part)
    return tuple(path), owner, schema, tuple(unions)


def _unlike(annotation: Any) -> list[Any]:
    """The members of a union some of which are no models: pydantic names the one that it tried."""
    if get_origin(annotation) not in (Union, UnionType):
        return []
    members = [_plain(arg) for arg in get_args(annotation) if arg is not NoneType]
    models = [m for m in members if isinstance(m, type) and issubclass(m, BaseModel)]
    return members if len(models) < len(members) else []


def _is_called(member: Any, label: str) -> bool:
    """Whether pydantic's label of a union's member means this one."""
    origin = get_origin(member)
    if origin is Literal:
        return label.startswith("literal[")
    name = getattr(origin or member, "__name__", "")
    # A model with validators of its own is called function-after[_validator(), Name].
    return label == name or label.startswith(f"{name}[") or label.endswith(f" {name}]")


def _member_words(member: Any) -> str:
    """What a member of a union takes, in words."""
    origin = get_origin(member)
    if origin is Literal:
        return " or ".join(f"'{option}'" for option in get_args(member))
    if origin in (tuple, list):
        return "a list"
    if member in (int, float, str):
        return {int: "a whole number", float: "a number", str: "text"}[member]
    if isinstance(member, type) and issubclass(member, BaseModel):
        return f"a mapping with {', '.join(member.model_fields)}"
    return "a mapping"


def _owners(model: type[BaseModel], path: tuple[str, ...]) -> list[type[BaseModel]]:
    """The models that may stand at ``path`` below ``model``."""
    if not path:
        return [model]
    field = model.model_fields.get(path[0])
    members = _members(_element(field.annotation)) if field else []
    return list(dict.fromkeys(owner for m in members for owner in _owners(m, path[1:])))


def _paths(model: type[BaseModel], depth: int = 4) -> Iterator[tuple[str, ...]]:
    """The path of every field below ``model``, except inside lists."""
    for name, field in model.model_fields.items():
        yield (name,)
        if depth:
            for member in _members(field.annotation):
                for below in _paths(member, depth - 1):
                    yield (name, *below)
