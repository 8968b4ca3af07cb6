"""YAML with line numbers: reads a bounded, plain subset and says where a value stands.

Numbers follow YAML 1.2 (``1e6`` is a number, ``1:30`` and ``off`` are text), so that nothing a
person writes turns into something else on the way.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from simulator.errors import UserError
from simulator.sentences import Lines, closest, validation_sentence

__all__ = [
    "Lines",
    "closest",
    "decoded",
    "dump_yaml",
    "load_yaml",
    "parse_yaml",
    "read_model",
    "read_text",
    "validation_sentence",
]

MAX_BYTES = 5_000_000
MAX_NODES = 200_000
MAX_DEPTH = 64

_M = TypeVar("_M", bound=BaseModel)
_TAG = "tag:yaml.org,2002:"
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_BASE):  # type: ignore[misc]
    """Resolves scalars as YAML 1.2 does."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"null|Null|NULL|~|", "nN~"),
    ("int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?", "-+0123456789."),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("merge", r"<<", "<"),
):
    _firsts: list[str | None] = [*_first, *([""] if _tag == "null" else [])]
    _Loader.add_implicit_resolver(_TAG + _tag, re.compile(f"^(?:{_pattern})$"), _firsts)


class _Dumper(yaml.SafeDumper):
    """Quotes text that the loader above would take for something else."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # Line breaks of Unicode survive only as escapes, which only double quotes have.
    style = '"' if re.search("[\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar(_TAG + "str", text, style=style)


_Dumper.add_representer(str, _represent_text)


class _OlderDumper(_Dumper):
    """Quotes text that a loader of either version would take for something else."""

    yaml_implicit_resolvers = {
        first: [
            *_Dumper.yaml_implicit_resolvers.get(first, []),
            *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
        ]
        for first in {*_Dumper.yaml_implicit_resolvers, *yaml.SafeDumper.yaml_implicit_resolvers}
    }


def read_text(path: Path) -> str:
    """A text file of bounded size.

    Raises:
        UserError: it is missing, too large or not UTF-8.
    """
    try:
        with path.open("rb") as stream:  # never more than the limit: it may be a pipe or a device
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError("no such file", where=str(path)) from None
    except IsADirectoryError:
        raise UserError("is a directory, not a YAML file", where=str(path)) from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from None
    return decoded(raw, str(path))


def decoded(raw: bytes, where: str) -> str:
    """The text of a file that was read up to one byte beyond the limit.

    Raises:
        UserError: it is larger, or not UTF-8.
    """
    if len(raw) > MAX_BYTES:
        raise UserError(f"holds more than the {MAX_BYTES // 1_000_000} MB allowed", where=where)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"is not UTF-8 text (byte {error.start})", where=where) from None


def load_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """Read a YAML file whose top level is a mapping.

    Returns:
        The data, and for every key path (a tuple of keys and list positions) its 1-based line.

    Raises:
        UserError: the file is missing, too large, not UTF-8, not YAML, repeats a key, or is not a
            mapping.
    """
    return parse_yaml(read_text(path), path)


def parse_yaml(text: str, path: Path) -> tuple[dict[str, Any], Lines]:
    """As :func:`load_yaml`, from text; ``path`` only names it in errors."""
    try:
        _check_depth(text, path)
        node = yaml.compose(text, _Loader)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, path) from None
    except yaml.reader.ReaderError as error:
        raise UserError(
            f"holds a character YAML forbids (#x{error.character:x})", where=str(path)
        ) from None
    if node is None:
        raise UserError("the file is empty", where=str(path))
    if not isinstance(node, yaml.MappingNode):
        raise UserError(
            "the top level must be a mapping of keys to values",
            where=f"{path}:{node.start_mark.line + 1}",
        )
    builder = _Builder(path)
    return builder.build(node, ()), builder.lines


def read_model(path: Path, model: type[_M]) -> _M:
    """Read a YAML file and validate it as ``model``; raises :class:`UserError` with the line."""
    data, lines = load_yaml(path)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise validation_sentence(error, path, lines, model) from None


def _check_depth(text: str, path: Path) -> None:
    """Look first: the C library composes by recursion and would overrun its stack."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            where = f"{path}:{event.start_mark.line + 1}" if event.start_mark else str(path)
            raise UserError(f"is nested more than {MAX_DEPTH} deep", where=where)


def dump_yaml(data: dict[str, Any], *, older: bool = False) -> str:
    """Plain data as YAML in the order given; :func:`parse_yaml` reads the same data back. With
    ``older``, readers of YAML 1.1 do as well, who take ``on`` and ``1:30`` for no text."""
    dumper = _OlderDumper if older else _Dumper
    return yaml.dump(data, Dumper=dumper, sort_keys=False, allow_unicode=True, width=100)


def _syntax_error(error: yaml.MarkedYAMLError, text: str, path: Path) -> UserError:
    mark = error.problem_mark or error.context_mark
    problem = error.problem or "is not valid YAML"
    hint = ""
    line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        hint = "indent with spaces, not tabs"
    elif "mapping values are not allowed" in problem:
        hint = "check the indentation, and put quotes around text that contains ': '"
    where = f"{path}:{mark.line + 1}" if mark else str(path)
    return UserError(f"not valid YAML: {problem}", where=where, hint=hint)


class _Builder:
    """Turns nodes into data and notes lines; aliases are followed, but only so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[tuple[str | int, ...], int] = {}
        self._nodes = 0

    def build(self, node: yaml.Node, at: tuple[str | int, ...]) -> Any:
        self.lines.setdefault(at, node.start_mark.line + 1)
        self._nodes += 1
        if self._nodes > MAX_NODES or len(at) > MAX_DEPTH:
            limit = f"{MAX_DEPTH} levels" if len(at) > MAX_DEPTH else f"{MAX_NODES:,} values"
            raise self._error(
                node, f"holds more than {limit} (aliases counted where they are used)"
            )
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*at, i)) for i, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, at: tuple[str | int, ...]) -> dict[str, Any]:
        data: dict[str, Any] = {}
        merged: list[yaml.MappingNode] = []
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                merged += self._merged(value_node)
                continue
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
                text = getattr(key_node, "value", "")
                shown = f"'{text}'" if isinstance(text, str) else "a list or mapping"
                raise self._error(key_node, f"a key must be text, got {shown}")
            key = key_node.value
            if key in data:
                first = self.lines[(*at, key)]
                raise self._error(key_node, f"key '{key}' was already given on line {first}")
            self.lines[(*at, key)] = key_node.start_mark.line + 1
            data[key] = self.build(value_node, (*at, key))
        for source in merged:
            new = [pair for pair in source.value if pair[0].value not in data]
            rest = yaml.MappingNode(source.tag, new, source.start_mark, source.end_mark)
            data |= self.build(rest, at)
        return data

    def _merged(self, node: yaml.Node) -> list[yaml.MappingNode]:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not all(isinstance(source, yaml.MappingNode) for source in sources):
            raise self._error(node, "'<<' can only merge mappings")
        self._nodes += len(sources)
        return list(sources)

    def _scalar(self, node: yaml.Node) -> Any:
        text: str = node.value
        match node.tag.removeprefix(_TAG):
            case "str":
                return text
            case "bool":
                return text.lower() == "true"
            case "null":
                return None
            case "int":
                return self._integer(node, text.replace("_", ""))
            case "float":
                plain = text.replace("_", "").lower()
                return float(plain.replace(".inf", "inf").replace(".nan", "nan"))
        raise self._error(node, f"the tag '{node.tag}' is not allowed; write plain values")

    def _integer(self, node: yaml.Node, digits: str) -> int:
        if len(digits) > 40:
            raise self._error(node, "this number has more than 40 digits")
        return int(digits)

    def _error(self, node: yaml.Node, what: str) -> UserError:
        return UserError(what, where=f"{self.path}:{node.start_mark.line + 1}")
