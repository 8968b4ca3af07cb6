"""Plain data with the place each value was written at: what a scenario is before validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulator.paths import is_there

KeyPath = tuple[str | int, ...]
Places = dict[KeyPath, int | str]

SHORTHAND = {"hardware": "profile", "engine": "profile"}
"""Top-level keys that may be a bare name, and the key that the name stands for."""

FILE_KEYS = ("file", "model", "profile")
"""Keys whose value may be a path; a relative one is meant from the file it is written in."""

_FILE_SUFFIXES = (".csv", ".gz", ".json", ".jsonl", ".parquet", ".yaml", ".yml", ".zst")


@dataclass(slots=True)
class Document:
    """Data and, by key path, where each value stands.

    A place is a line of the main file, or text for values from elsewhere (``base.yaml:3``,
    ``--set model=x``).
    """

    data: dict[str, Any]
    places: Places = field(default_factory=dict)

    def elsewhere(self, name: str) -> Document:
        """The same, for use in another file: lines become ``name:line``."""
        told: Places = {
            at: p if isinstance(p, str) else f"{name}:{p}" for at, p in self.places.items()
        }
        return Document(self.data, told)

    def place_of(self, dotted: str) -> int | str | None:
        """Where the key ``a.b.c``, or else the nearest one above it, is written."""
        path = tuple(int(part) if part.isdigit() else part for part in dotted.split("."))
        above = (path[:length] for length in range(len(path), 0, -1))
        return next((self.places[at] for at in above if at in self.places), None)

    def forget(self, path: KeyPath) -> None:
        """Drop the places at and below ``path``."""
        gone = [at for at in self.places if at[: len(path)] == path]
        for at in gone:
            del self.places[at]


def expand_shorthand(document: Document) -> None:
    """Turn ``hardware: h100-sxm`` into ``hardware: {profile: h100-sxm}``, so that layers merge."""
    for key, inner in SHORTHAND.items():
        value = document.data.get(key)
        if isinstance(value, str):
            document.data[key] = {inner: value}
            if (key,) in document.places:
                document.places[(key, inner)] = document.places[(key,)]


def anchor_paths(value: Any, folder: Path) -> None:
    """Make relative paths absolute, in place, as seen from ``folder``."""
    if isinstance(value, list):
        for item in value:
            anchor_paths(item, folder)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in FILE_KEYS and isinstance(item, str):
                value[key] = _anchored(item, folder)
            else:
                anchor_paths(item, folder)


def _anchored(text: str, folder: Path) -> str:
    """``text`` as an absolute path if it is a path; names of presets stay as they are."""
    if text.startswith("~/"):
        return str(Path(text).expanduser())
    explicit = text.startswith(("./", "../")) or text.lower().endswith(_FILE_SUFFIXES)
    candidate = folder / text
    if explicit or ("/" in text and is_there(candidate)):
        return str(candidate.resolve())
    return text


def merge(below: Document, above: Document) -> Document:
    """``above`` laid over ``below``: mappings merge key by key, everything else is replaced.

    A mapping with another ``kind`` than the one below replaces it too: the keys of a Poisson
    process mean nothing to a burst.
    """
    merged = Document(dict(below.data), dict(below.places))
    merged.data = _merge(below.data, above.data, (), merged.forget)
    merged.places |= above.places
    return merged


def _merge(
    below: dict[str, Any], above: dict[str, Any], at: KeyPath, forget: Callable[[KeyPath], None]
) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        old = below.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and not _other_kind(old, value):
            result[key] = _merge(old, value, (*at, key), forget)
        else:
            forget((*at, key))
            result[key] = value
    return result


def _other_kind(below: dict[str, Any], above: dict[str, Any]) -> bool:
    return "kind" in above and above["kind"] != below.get("kind")
