"""Files that a scenario names, and whether it may: for servers that take scenarios from others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from simulator.errors import ScenarioError
from simulator.paths import expanded, is_there
from simulator.scenario.document import FILE_KEYS
from simulator.scenario.scenario import Scenario
from simulator.scenario.shipped import examples_folder

_PACKAGE = Path(__file__).parents[1]


def scenario_files(scenario: Scenario) -> list[Path]:
    """The files and folders that a scenario names and that are there, as absolute paths: traces,
    tables, configurations of models, profiles; those that come with the package left out."""
    named = (expanded(text) for _, text in _named(scenario, ""))
    ours = [_resolved(path) for path in _ours()]
    found = dict.fromkeys(path.resolve() for path in named if is_there(path))
    return [path for path in found if not any(path.is_relative_to(root) for root in ours)]


def check_files(scenario: Scenario, within: Sequence[Path]) -> None:
    """Makes sure that a scenario names nothing but what ``check_within`` allows. Opens no file.

    Raises:
        ScenarioError: it does; ``where`` is the key.
    """
    for key, text in _named(scenario, ""):
        check_within(text, within, key)


def check_within(path: str | Path, within: Sequence[Path], where: str) -> None:
    """Makes sure that a path, links followed, leads to a file of the package, to one at or below
    the working directory, or to one at or below those of ``within``. Whether it is there makes no
    difference, so that the answer says nothing about files elsewhere.

    Args:
        path: as it was written; a name counts as a file in the working directory.
        within: files or folders.
        where: the key, or the line that includes it.

    Raises:
        ScenarioError: it leads elsewhere.
    """
    allowed = [Path.cwd(), *_ours(), *within]
    try:
        found = Path(path).expanduser().resolve()
        inside = any(found.is_relative_to(_resolved(root)) for root in allowed)
    except (OSError, RuntimeError, ValueError):  # a loop of links, nobody's home, a zero byte
        inside = False
    if not inside:
        raise ScenarioError(
            f"{str(path)!r} lies outside the folder that this server was started in", where=where,
            hint="name something shipped, upload the file, or start the server above it",
        )  # fmt: skip


def _ours() -> tuple[Path, Path]:
    return _PACKAGE, examples_folder()


def _resolved(path: Path) -> Path:
    return path.resolve()


def _named(value: Any, at: str) -> Iterator[tuple[str, str]]:
    """Dotted key and value of everything below that may be a path."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            inner, key = getattr(value, name), f"{at}.{name}".removeprefix(".")
            if isinstance(inner, str) and name in FILE_KEYS:
                yield key, inner
            else:
                yield from _named(inner, key)
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            yield from _named(item, f"{at}.{position}")
