"""From a YAML file, what it includes and what the command line overrides, to a ``Scenario``."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from simulator.errors import ScenarioError, UnknownNameError, UserError
from simulator.paths import expanded, is_there
from simulator.scenario.confined import check_files, check_within
from simulator.scenario.document import (
    Document,
    KeyPath,
    Places,
    anchor_paths,
    expand_shorthand,
    merge,
)
from simulator.scenario.overrides import apply_override
from simulator.scenario.scenario import Scenario
from simulator.scenario.shipped import shipped
from simulator.yamlio import MAX_BYTES, closest, load_yaml, parse_yaml, validation_sentence

STDIN = "-"
MAPPING = "scenario"
MAX_INCLUDES = 100

Located = Callable[[UserError], UserError]
"""Puts file and line before an error whose ``where`` is a key of the scenario."""


def load_scenario(
    source: str | Path | Mapping[str, Any],
    overrides: str | Sequence[str] = (),
    *,
    within: Sequence[Path] | None = None,
) -> Scenario:
    """Read and validate a scenario.

    Args:
        source: a YAML file, the name of a shipped scenario, ``-`` for standard input, or what such
            a file holds as a mapping (paths in it start from the working directory).
        overrides: ``path.to.field=value``, or several, applied in order after everything else.
        within: of a scenario that comes from somebody else, the files and folders that it may name
            or include, beside what is shipped and what lies at or below the working directory;
            None: any.

    Raises:
        UserError: one sentence with file, line and key for whatever is wrong.
    """
    return load_with_places(source, overrides, within=within)[0]


def parse_scenario(
    text: str,
    name: str = "scenario",
    overrides: Sequence[str] = (),
    *,
    within: Sequence[Path] | None = None,
) -> Scenario:
    """As :func:`load_scenario`, from YAML.

    Args:
        text: what a scenario file would hold; paths in it start from the working directory.
        name: what errors call it.
        overrides, within: as ``load_scenario`` takes them.

    Raises:
        UserError: as ``load_scenario``.
    """
    return parse_with_places(text, name, overrides, within=within)[0]


def load_with_places(
    source: str | Path | Mapping[str, Any],
    overrides: str | Sequence[str] = (),
    folder: Path | None = None,
    *,
    within: Sequence[Path] | None = None,
) -> tuple[Scenario, Located]:
    """As :func:`load_scenario`, with a function that tells where errors found later come from:
    it puts file and line before an error whose ``where`` is a key of the scenario. Paths in a
    mapping start from ``folder``; default: the working directory."""
    name, document = _read_document(source, folder or Path.cwd(), within)
    listed = [overrides] if isinstance(overrides, str) else overrides
    return _scenario(name, document, listed, within)


def parse_with_places(
    text: str,
    name: str = "scenario",
    overrides: Sequence[str] = (),
    *,
    within: Sequence[Path] | None = None,
) -> tuple[Scenario, Located]:
    """As :func:`parse_scenario`, with the function that ``load_with_places`` gives."""
    document = _Reader(within).parse(text, Path(name), Path.cwd())
    return _scenario(name, document, overrides, within)


def _scenario(
    name: str, document: Document, overrides: Sequence[str], within: Sequence[Path] | None
) -> tuple[Scenario, Located]:
    """The scenario that the data stands for, and the function that says where values come from."""
    if "scenario" in document.data and "model" not in document.data:
        raise UserError(
            "is a plan, not a scenario",
            where=name,
            hint="`simulate plan` and `simulate sweep` take it",
        )
    for override in overrides:
        document = apply_override(document, override)
    try:
        scenario = Scenario.model_validate(document.data)
    except ValidationError as error:
        raise validation_sentence(error, name, document.places, Scenario) from None

    def located(error: UserError) -> UserError:
        place = document.place_of(error.where)
        if place is None:
            return error
        line = place if isinstance(place, str) else f"{name}:{place}"
        return type(error)(error.what, where=f"{line}: {error.where}", hint=error.hint)

    if within is not None:
        try:
            check_files(scenario, within)
        except UserError as error:
            raise located(error) from None
    return scenario, located


def _read_document(
    source: str | Path | Mapping[str, Any], folder: Path, within: Sequence[Path] | None
) -> tuple[str, Document]:
    """The data of a scenario with everything it includes, and how errors name its file."""
    reader = _Reader(within)
    if isinstance(source, Mapping):
        return MAPPING, reader.take(source, folder)
    if str(source) == STDIN:
        return "<stdin>", reader.parse(_standard_input(), Path("<stdin>"), Path.cwd())
    file = resolve_reference(str(source), Path())
    return str(file), reader.read(file)


def resolve_reference(reference: str, folder: Path, where: str = "") -> Path:
    """The file that a path (from ``folder``) or the name of a shipped scenario stands for."""
    path = folder / expanded(reference)
    known = shipped()
    if reference in known and not path.is_file():
        return known[reference]
    if "/" in reference or path.suffix in (".yaml", ".yml", ".json") or is_there(path):
        return path
    near = closest(reference, known)
    raise UnknownNameError(
        f"no file and no shipped scenario is called '{reference}'",
        where=where,
        hint=f"did you mean '{near}'?" if near else "`simulate list scenarios` shows them",
    )


def _standard_input() -> str:
    raw = sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ScenarioError(f"is more than {MAX_BYTES // 1_000_000} MB", where="<stdin>")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ScenarioError(f"is not UTF-8 text (byte {error.start})", where="<stdin>") from None


class _Reader:
    """Reads a file and, beneath it, what it includes; knows which files it is inside of, and
    refuses those outside of ``within``."""

    def __init__(self, within: Sequence[Path] | None = None) -> None:
        self._within = within
        self._inside: list[Path] = []
        self._read = 0

    def read(self, path: Path, where: str = "") -> Document:
        self._read += 1
        if self._read > MAX_INCLUDES:
            raise ScenarioError(f"more than {MAX_INCLUDES} files are included", where=where)
        if self._within is not None:
            check_within(path, self._within, f"{where}: include" if where else "")
        real = path.resolve()
        if real in self._inside:
            circle = " → ".join(p.name for p in [*self._inside[self._inside.index(real) :], real])
            raise ScenarioError(f"includes itself ({circle})", where=where)
        if where and not is_there(path):
            raise ScenarioError(f"no such file: {path}", where=where)
        data, lines = load_yaml(path)
        self._inside.append(real)
        document = self._with_includes(Document(data, dict(lines)), path, path.parent)
        self._inside.pop()
        return document

    def take(self, data: Mapping[str, Any], folder: Path) -> Document:
        own = copy.deepcopy(dict(data))
        places: Places = dict.fromkeys(_key_paths(own), MAPPING)
        return self._with_includes(Document(own, places), Path(MAPPING), folder)

    def parse(self, text: str, name: Path, folder: Path) -> Document:
        data, lines = parse_yaml(text, name)
        return self._with_includes(Document(data, dict(lines)), name, folder)

    def _with_includes(self, document: Document, name: Path, folder: Path) -> Document:
        references = document.data.pop("include", [])
        anchor_paths(document.data, folder)
        expand_shorthand(document)
        below = Document({})
        for position, reference in enumerate(_listed(references, name, document.places)):
            where = _place(document.places, name, position)
            file = resolve_reference(reference, folder, where)
            below = merge(below, self.read(file, where).elsewhere(str(file)))
        return merge(below, document)


def _listed(references: object, name: Path, places: Places) -> list[str]:
    listed = [references] if isinstance(references, str) else references
    if not isinstance(listed, list) or not all(isinstance(r, str) and r for r in listed):
        raise ScenarioError(
            "include: must be a file or name, or a list of them", where=_place(places, name, 0)
        )
    return listed


def _key_paths(value: dict[str, Any] | list[Any], at: KeyPath = ()) -> Iterator[KeyPath]:
    """The path of everything below ``value``."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in inside:
        yield (*at, key)
        if isinstance(item, dict | list):
            yield from _key_paths(item, (*at, key))


def _place(places: Places, name: Path, position: int) -> str:
    """Where the ``position``-th include is written."""
    line = places.get(("include", position), places.get(("include",), 0))
    return line if isinstance(line, str) else f"{name}:{line}"
