"""Checked access to the keys of a Hugging Face ``config.json``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from simulator.errors import UserError

_MOST = 2**31


class Config:
    """The keys of one configuration, with errors that name the file, the line and the key.

    Args:
        values: the keys, as read from JSON.
        origin: the file (or preset) as the user knows it.
        text: what the file says, to find a key's line; empty for presets.
        section: key that the values stand under (``text_config``), empty at the top.
        outer: keys around the section; they stand in for a few that may stand in either place.
        defaults: what the architecture's class in transformers assumes for keys left out.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        origin: str,
        text: str = "",
        section: str = "",
        outer: Mapping[str, Any] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.values = values
        self.origin = origin
        self._text = text
        self._section = section
        self._outer = outer or {}
        self._defaults = defaults or {}

    def with_defaults(self, defaults: Mapping[str, Any]) -> Config:
        """The same configuration with other defaults."""
        return Config(self.values, self.origin, self._text, self._section, self._outer, defaults)

    def with_values(self, values: Mapping[str, Any]) -> Config:
        """The same configuration with other values of these keys."""
        merged = {**self.values, **values}
        return Config(merged, self.origin, self._text, self._section, self._outer, self._defaults)

    def get(self, key: str) -> Any:
        """The value as it is; the default if the key is left out, None without one."""
        return self.values[key] if key in self.values else self._defaults.get(key)

    def section(self, key: str) -> Config | None:
        """What stands under ``key``, or None when it is left out or null.

        Raises:
            UserError: it is no mapping.
        """
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(key, f"must be a mapping of keys to values, got {value!r}")
        name = f"{self._section}.{key}" if self._section else key
        return Config(value, self.origin, self._text, name, self.values)

    def anywhere(self, key: str) -> Any:
        """The value in this section or, if not there, around it."""
        value = self.values.get(key)
        return self._outer.get(key) if value is None else value

    def integer(self, key: str, default: int | None = None, least: int = 1) -> int:
        """A whole number; ``default`` stands in when the key is left out or null."""
        value = self.get(key)
        if value is None:
            value = default
        if value is None:
            raise self.error(key, "is null" if key in self.values else "is missing")
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST:
            kind = "positive " if least else ""
            raise self.error(key, f"must be a {kind}whole number, got {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number; ``default`` stands in when the key is left out or null."""
        value = self.get(key)
        if value is None:
            value = default
        if value is None:
            raise self.error(key, "is missing")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MOST:
            raise self.error(key, f"must be a positive number, got {value!r}")
        return float(value)

    def optional_integer(self, key: str) -> int | None:
        """A positive whole number, or None when the key is left out or null."""
        return None if self.get(key) is None else self.integer(key)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false; ``default`` when the key is left out or null."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, got {value!r}")
        return value

    def sequence(self, key: str, length: int | None = None) -> Sequence[Any] | None:
        """A list (of ``length`` entries), or None when the key is left out, null or empty."""
        value = self.get(key)
        if value is None or value == []:
            return None
        if not isinstance(value, list):
            raise self.error(key, f"must be a list, got {value!r}")
        if length is not None and len(value) != length:
            raise self.error(
                key, f"has {len(value)} entries", f"one for each of the {length} layers is needed"
            )
        return value

    def integers(self, key: str, below: int, length: int | None = None) -> Sequence[int] | None:
        """A list of whole numbers from 0 to ``below`` - 1; None as with `sequence`."""
        values = self.sequence(key, length)
        for value in values or ():
            if type(value) is not int or not 0 <= value < below:
                raise self.error(
                    key, f"must hold whole numbers from 0 to {below - 1}, got {value!r}"
                )
        return values

    def error(self, key: str, what: str, hint: str = "") -> UserError:
        """The error to raise about ``key``."""
        name = f"{self._section}.{key}" if self._section else key
        return UserError(f"{name}: {what}", where=f"{self.origin}{self._line(key)}", hint=hint)

    def _line(self, key: str) -> str:
        """``:12`` for a key that stands on line 12 of the file."""
        start = 0
        for section in filter(None, self._section.split(".")):
            if found := _find(section, self._text, start):
                start = found.end()
        found = _find(key, self._text, start)
        return f":{self._text.count(chr(10), 0, found.start()) + 1}" if found else ""


def _find(key: str, text: str, start: int) -> re.Match[str] | None:
    return re.compile(rf'"{re.escape(key)}"\s*:').search(text, start)
