"""Arguments of launch commands that are known, by engine."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, NamedTuple

from simulator.yamlio import parse_yaml

Use = Literal["read", "idle", "aside", "refused"]
_KINDS = ("values", "lists", "flags")


class Known(NamedTuple):
    """An argument: its first name, how many words it takes, and what becomes of it."""

    name: str
    kind: str
    use: Use
    why: str = ""


@cache
def known_arguments(engine: str) -> dict[str, Known]:
    """Arguments by every spelling, without the dashes in front of long ones."""
    text = (files("simulator.launch") / "arguments.yaml").read_text("utf-8")
    found: dict[str, Known] = {}
    for use, kinds in parse_yaml(text, Path("arguments.yaml"))[0][engine].items():
        for kind in _KINDS:
            entries = kinds.get(kind, [])
            for entry in entries:
                why = entries[entry] if isinstance(entries, dict) else ""
                name, *others = entry.split()
                for spelling in (name, *others):
                    found[plain_name(spelling)] = Known(plain_name(name), kind, use, why)
    return found


def plain_name(name: str) -> str:
    """Long names alike: with hyphens. Short ones keep theirs in front."""
    return name if name.startswith("-") else name.replace("_", "-")
