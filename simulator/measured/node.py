"""A value of a JSON document that knows its place, so that whatever is wrong can be named."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from simulator.errors import UserError
from simulator.workload.requests import Floats

MOST_TOKENS = 100_000_000
"""Of one prompt or answer."""


class Node:
    """A value, its file, and the path of keys to it (``benchmarks[0].metrics``)."""

    __slots__ = ("file", "path", "value")

    def __init__(self, value: Any, file: str, path: str = "") -> None:
        self.value, self.file, self.path = value, file, path

    @property
    def where(self) -> str:
        """For errors."""
        return f"{self.file}, {self.path}" if self.path else self.file

    def error(self, what: str, hint: str = "") -> UserError:
        """A sentence about this value."""
        return UserError(what, where=self.where, hint=hint)

    def get(self, key: str) -> Node | None:
        """What an object holds under ``key``; None where that is missing or null.

        Raises:
            UserError: this is no object.
        """
        if not isinstance(self.value, dict):
            raise self.error(f"must be an object, got {shown(self.value)}")
        found = self.value.get(key)
        return None if found is None else Node(found, self.file, self._below(key))

    def __getitem__(self, key: str) -> Node:
        found = self.get(key)
        if found is None:
            raise self.error(f"has no '{key}'", "the file may be of another version of the client")
        return found

    def at(self, *keys: str) -> Node | None:
        """``get``, key after key."""
        found: Node | None = self
        for key in keys:
            found = found.get(key) if found is not None else None
        return found

    def __bool__(self) -> bool:
        return True  # it is there, whatever its value

    def __iter__(self) -> Iterator[Node]:
        if not isinstance(self.value, list):
            raise self.error(f"must be a list, got {shown(self.value)}")
        for i, value in enumerate(self.value):
            yield Node(value, self.file, f"{self.path}[{i}]")

    def __len__(self) -> int:
        if not isinstance(self.value, list):
            raise self.error(f"must be a list, got {shown(self.value)}")
        return len(self.value)

    def number(self, least: float = 0.0) -> float:
        """A finite number of at least ``least``.

        Raises:
            UserError: it is none.
        """
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(f"must be a number, got {shown(value)}")
        if not _finite(value):
            raise self.error(f"must be a finite number, got {shown(value)}")
        if value < least:
            raise self.error(f"must be at least {least:g}, got {value:g}")
        return float(value)

    def count(self, least: int = 0) -> int:
        """A whole number from ``least`` to ``MOST_TOKENS``.

        Raises:
            UserError: it is none.
        """
        value = self.number(float(least))
        if not value.is_integer() or value > MOST_TOKENS:
            raise self.error(f"must be a whole number up to {MOST_TOKENS:,}, got {value:g}")
        return int(value)

    def text(self) -> str:
        """A text, cut where it is longer than any name; what would move the cursor or color a
        terminal is replaced.

        Raises:
            UserError: it is none.
        """
        if not isinstance(self.value, str):
            raise self.error(f"must be a text, got {shown(self.value)}")
        return printable(self.value[:200])

    def numbers(self) -> Floats:
        """A list of finite numbers, none negative. Shape (n,).

        Raises:
            UserError: it is none; with the place of the first that is not.
        """
        values = self.value if isinstance(self.value, list) else list(self)
        if set(map(type, values)) <= {int, float}:
            try:
                found = np.array(values, dtype=np.float64)
            except OverflowError:
                found = np.array([np.nan])
            if np.isfinite(found).all() and (found >= 0.0).all():
                return found
        return np.array([node.number() for node in self], dtype=np.float64)

    def _below(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


def _finite(value: float | int) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def printable(text: str) -> str:
    """A text with the replacement character for each that cannot be seen."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else "\ufffd" for each in text)


def shown(value: Any) -> str:
    """A value in an error."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = "null" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
