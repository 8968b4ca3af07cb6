"""Serving engines as data: scheduler defaults, memory rule, graphs and host overheads."""

from __future__ import annotations

from pathlib import Path

from simulator.engines.profile import EngineProfile
from simulator.shelf import Shelf

__all__ = ["EngineProfile", "engine_names", "load_engine", "profile_names"]

_SHELF: Shelf[EngineProfile] = Shelf("engine", "simulator.engines.profiles", EngineProfile)


def load_engine(name_or_path: str, base: Path | None = None) -> EngineProfile:
    """A shipped profile by name (``vllm``), or one's own YAML file.

    Args:
        name_or_path: a name of :func:`profile_names`, an alias, or a path that ends in .yaml.
        base: the folder that a relative path starts from; the current one by default.

    Raises:
        UnknownNameError: no shipped profile is called so; the closest name is in the message.
        UserError: the file cannot be read or holds something wrong, with its line.
    """
    return _SHELF.load(name_or_path, base)


def profile_names() -> list[str]:
    """Names of all shipped engine profiles, sorted."""
    return _SHELF.names()


def engine_names() -> list[str]:
    """Names of all shipped engine profiles, sorted: what ``load_engine`` takes."""
    return profile_names()
