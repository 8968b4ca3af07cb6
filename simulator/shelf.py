"""Profiles that ship as YAML files in a package, and a user's own beside them."""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from simulator.errors import UnknownNameError
from simulator.paths import expanded
from simulator.scenario.base import Model
from simulator.yamlio import closest, parse_yaml, read_model, validation_sentence

M = TypeVar("M", bound=Model)


class Shelf(Generic[M]):
    """The profiles of one kind, read when asked for and kept.

    Args:
        kind: what a profile is called in messages ("hardware", "engine").
        package: where the files are; a file's stem is the profile's name.
        model: what a file holds.
    """

    def __init__(self, kind: str, package: str, model: type[M]) -> None:
        self.kind = kind
        self.package = package
        self.model = model

    def names(self) -> list[str]:
        """Names of all shipped profiles, sorted."""
        return list(_names(self.package))

    def load(self, name_or_path: str, base: Path | None = None) -> M:
        """A shipped profile by name or alias, or a file by path (relative to ``base``).

        Raises:
            UnknownNameError: no shipped profile is called so.
            UserError: the file cannot be read, or a value in it is wrong.
        """
        if _is_path(name_or_path):
            path = (base or Path()) / expanded(name_or_path)
            stamp = _stamp(path)
            return _read_file(path, self.model, stamp) if stamp else read_model(path, self.model)
        wanted = name_or_path.strip().lower().replace("_", "-").replace(" ", "-")
        names = self.names()
        if wanted in names:
            return self._shipped(wanted)
        aliases = self._aliases()
        if wanted in aliases:
            return self._shipped(aliases[wanted])
        near = closest(wanted, [*names, *aliases])
        raise UnknownNameError(
            f"unknown {self.kind} profile '{name_or_path}'",
            hint=f"did you mean '{near}'?"
            if near
            else f"known are {', '.join(names)}, or give the path of a YAML file",
        )

    def _shipped(self, name: str) -> M:
        profile: M = _read_shipped(self.package, name, self.model)
        return profile

    def _aliases(self) -> dict[str, str]:
        return {
            alias: name
            for name in self.names()
            for alias in getattr(self._shipped(name), "aliases", ())
        }


def _is_path(text: str) -> bool:
    return text.endswith((".yaml", ".yml")) or "/" in text or os.sep in text


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a file does; None if there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=16)
def _names(package: str) -> tuple[str, ...]:
    found = (file.name for file in files(package).iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in found if name.endswith(".yaml")))


@lru_cache(maxsize=256)
def _read_shipped(package: str, name: str, model: Any) -> Any:
    file = files(package) / f"{name}.yaml"
    path = Path(str(file))
    data, lines = parse_yaml(file.read_text(encoding="utf-8"), path)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise validation_sentence(error, path, lines, model) from None


@lru_cache(maxsize=64)
def _read_file(path: Path, model: Any, stamp: tuple[int, int]) -> Any:
    del stamp  # part of the key, so that an edited file is read again
    return read_model(path, model)
