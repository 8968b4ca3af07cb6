"""The scenario that the sidebar holds: a shipped one or YAML, and values that replace its own.

It is what the command line says with FILE and ``--set``, so that the page's address, the YAML and a
command are three ways to write the same.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256

from simulator import Scenario, UserError, dump_scenario, load_scenario, parse_scenario

DEFAULT = "chat-8b-h100"
MOST_YAML_BYTES = 200_000
"""Of a scenario in an address or from an upload."""

START = "SERVECAST_DASHBOARD_START"
"""Environment variable with the parameters of the first address, where it has none of its own."""

SCENARIO, SET, YAML = "scenario", "set", "yaml"
"""Parameters of the address."""


@dataclass(frozen=True)
class Choice:
    """A scenario as it was asked for.

    Args:
        name: of a shipped scenario; of one of the user's own, what to call it.
        text: YAML of the user's own; empty: the shipped one is meant.
        sets: ``path.to.key=value``, as ``--set`` takes them.
    """

    name: str = DEFAULT
    text: str = ""
    sets: tuple[str, ...] = ()

    @cached_property
    def base(self) -> Scenario:
        """The scenario without replaced values.

        Raises:
            UserError: it is wrong, with line and key.
        """
        return replace(self, sets=()).scenario if self.sets else self.scenario

    @cached_property
    def scenario(self) -> Scenario:
        """What is asked for.

        Raises:
            UserError: it is wrong, with line and key.
        """
        if self.text:
            return parse_scenario(self.text, self.name, self.sets)
        return load_scenario(self.name, self.sets)

    @cached_property
    def yaml(self) -> str:
        """The scenario as ``simulate check`` and every other command reads it."""
        return dump_scenario(self.scenario)

    @cached_property
    def key(self) -> str:
        """Equal for equal scenarios, and for no others."""
        return sha256(self.yaml.encode()).hexdigest()[:32]

    def with_set(self, path: str, value: str | None) -> Choice:
        """The same with one value replaced, or its own again (None)."""
        rest = tuple(item for item in self.sets if item.partition("=")[0] != path)
        return replace(self, sets=rest if value is None else (*rest, f"{path}={value}"))

    def value_set(self, path: str) -> str | None:
        """What replaces the value at ``path``; None: nothing does."""
        found = [item.partition("=")[2] for item in self.sets if item.partition("=")[0] == path]
        return found[-1] if found else None

    def to_query(self) -> dict[str, str | list[str]]:
        """Parameters of an address that restores it."""
        query: dict[str, str | list[str]] = {SCENARIO: self.name}
        if self.text:
            query[YAML] = base64.urlsafe_b64encode(zlib.compress(self.text.encode(), 9)).decode()
        if self.sets:
            query[SET] = list(self.sets)
        return query

    @classmethod
    def from_query(cls, query: Mapping[str, Sequence[str]]) -> Choice:
        """What an address asks for; the default where it asks for nothing.

        Raises:
            UserError: it is no address that this program made.
        """
        name = (list(query.get(SCENARIO, ())) or [DEFAULT])[-1]
        packed = (list(query.get(YAML, ())) or [""])[-1]
        return cls(name, _unpacked(packed) if packed else "", tuple(query.get(SET, ())))


def _unpacked(packed: str) -> str:
    try:
        reader = zlib.decompressobj()
        raw = reader.decompress(base64.urlsafe_b64decode(packed.encode()), MOST_YAML_BYTES + 1)
        text = raw.decode()
    except (binascii.Error, zlib.error, ValueError):
        raise UserError(
            "is not what this dashboard writes there", where=f"the address, {YAML}=",
            hint="copy the whole address, or upload the scenario's YAML",
        ) from None  # fmt: skip
    if len(raw) > MOST_YAML_BYTES or not reader.eof:
        raise UserError(
            f"holds more than {MOST_YAML_BYTES // 1000} kB or is cut off",
            where=f"the address, {YAML}=",
        )
    return text
