"""The scenario that the sidebar holds: a shipped one or YAML, and values that replace its own.

It is what the command line says with FILE and ``--set``, so that the page's address, the YAML and a
command are three ways to write the same.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import shlex
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from simulator import (
    Scenario,
    Setting,
    UserError,
    dump_scenario,
    load_with_places,
    parse_with_places,
    scenario_field,
    scenario_files,
    scenario_names,
    values_that_hold,
)

DEFAULT = "chat-8b-h100"
MOST_YAML_BYTES = 200_000
"""Of a scenario in an address or from an upload."""

FILES = "SERVECAST_DASHBOARD_FILES"
"""Environment variable with the files that the scenario of the command line names: it may, wherever
they lie."""

START = "SERVECAST_DASHBOARD_START"
"""Environment variable with the parameters of the first address, where it has none of its own."""

SCENARIO, SET, YAML = "scenario", "set", "yaml"
"""Parameters of the address."""


@dataclass(frozen=True)
class Choice:
    """A scenario as it was asked for.

    Args:
        name: of a shipped scenario; of one of the user's own, the name of its file.
        text: YAML of the user's own; empty: the shipped one is meant.
        sets: ``path.to.key=value``, as ``--set`` takes them.
        uploads: folder of files that it may name, beside what is shipped and what lies at or below
            the folder that the server was started in.
    """

    name: str = DEFAULT
    text: str = ""
    sets: tuple[str, ...] = ()
    uploads: Path | None = field(default=None, compare=False)

    @cached_property
    def base(self) -> Scenario:
        """The scenario without replaced values.

        Raises:
            UserError: it is wrong, with line and key.
        """
        return replace(self, sets=()).scenario if self.sets else self.scenario

    @property
    def scenario(self) -> Scenario:
        """What is asked for.

        Raises:
            UserError: it is wrong, with line and key.
        """
        return self._read[0]

    @property
    def within(self) -> tuple[Path, ...]:
        """Files and folders that it may name, beside what is shipped and what lies at or below the
        working directory."""
        named = [Path(file) for file in os.environ.get(FILES, "").split(os.pathsep) if file]
        return (*named, *([self.uploads] if self.uploads else []))

    @cached_property
    def _read(self) -> tuple[Scenario, Callable[[UserError], UserError]]:
        within = self.within
        if self.text:
            return parse_with_places(self.text, self.name, self.sets, within=within)
        if self.name not in scenario_names():
            raise UserError(
                f"no shipped scenario is called {self.name!r}", where="scenario",
                hint="choose another one, or upload yours",
            )  # fmt: skip
        return load_with_places(self.name, self.sets, within=within)

    @contextmanager
    def located(self) -> Iterator[Scenario]:
        """The scenario; errors inside that speak of one of its keys get the key's file and line, as
        the command line tells them."""
        scenario, located = self._read
        try:
            yield scenario
        except UserError as error:
            raise located(error) from None

    @cached_property
    def yaml(self) -> str:
        """The scenario as ``simulate check`` and every other command reads it."""
        return dump_scenario(self.scenario)

    @property
    def key(self) -> str:
        """Equal for equal scenarios with equal files, and for no others."""
        stamps = [(str(file), *_stamp(file)) for file in scenario_files(self.scenario)]
        return sha256(f"{self.yaml}{stamps or ''}".encode()).hexdigest()[:32]

    def with_set(self, path: str, value: str | None) -> Choice:
        """The same with one value replaced, or its own again (None)."""
        rest = tuple(item for item in self.sets if item.partition("=")[0] != path)
        return replace(self, sets=rest if value is None else (*rest, f"{path}={value}"))

    def with_workload(self, workload: Mapping[str, Any]) -> Choice:
        """The same with other traffic, whatever was replaced in it before."""
        return self.without("workload").with_set("workload", json.dumps(workload))

    def with_lengths(self, lengths: Mapping[str, Any]) -> Choice:
        """The same with other lengths of requests."""
        return self.without("workload.lengths").with_set("workload.lengths", json.dumps(lengths))

    def with_arrivals(self, arrivals: Mapping[str, Any]) -> Choice:
        """The same with other arrivals, which say themselves when they end."""
        rest = self
        for path in ("workload.arrivals", "workload.requests", "workload.duration_s"):
            rest = rest.without(path)
        sized = rest.with_set("workload.requests", "null").with_set("workload.duration_s", "null")
        return sized.with_set("workload.arrivals", json.dumps(arrivals))

    def without(self, path: str) -> Choice:
        """The same without replaced values at and below a path."""
        kept = [
            item for item in self.sets
            if not (item.partition("=")[0] + ".").startswith(path + ".")
        ]  # fmt: skip
        return replace(self, sets=tuple(kept))

    def value_set(self, path: str) -> str | None:
        """What replaces the value at ``path``; None: nothing does."""
        found = [item.partition("=")[2] for item in self.sets if item.partition("=")[0] == path]
        return found[-1] if found else None

    def with_value(self, path: str, value: object) -> Choice:
        """The same with another value at ``path``; the scenario's own replaces nothing.

        Raises:
            UserError: the scenario has no such key.
        """
        own = self.with_set(path, None)
        if own.has(path, value):
            return own
        return self.with_set(path, self.setting(path).assignment(value).partition("=")[2])

    def setting(self, path: str) -> Setting:
        """What stands at ``path``; while the scenario is wrong, in what it was made of.

        Raises:
            UserError: both are wrong, or there is no such key.
        """
        try:
            return scenario_field(path, self.scenario)
        except UserError:
            return scenario_field(path, self.base)

    def has(self, path: str, value: object) -> bool:
        """Whether the scenario is right, and has this value there."""
        try:
            return bool(scenario_field(path, self.scenario).value == value)
        except UserError:
            return False

    @cached_property
    def held(self) -> dict[str, Any]:
        """What holds where the scenario leaves a key out; nothing where it is wrong."""
        try:
            return values_that_hold(self.scenario)
        except UserError:
            return {}

    @property
    def file(self) -> str:
        """What the scenario's file would be called."""
        return self.name if self.name.endswith((".yaml", ".yml")) else f"{self.name}.yaml"

    @property
    def options(self) -> str:
        """``FILE --set …`` for the shell."""
        file = self.file if self.text else self.name
        return shlex.join([file, *(word for item in self.sets for word in ("--set", item))])

    @property
    def uploaded(self) -> list[Path]:
        """Files of the user's session that the scenario names."""
        found = scenario_files(self.scenario)
        root = self.uploads.resolve() if self.uploads else None
        return [file for file in found if root and file.is_relative_to(root)]

    def to_query(self, prefix: str = "") -> dict[str, str | list[str]]:
        """Parameters of an address that restores it, their names after ``prefix``."""
        query: dict[str, str | list[str]] = {prefix + SCENARIO: self.name}
        if self.text:
            query[prefix + YAML] = base64.urlsafe_b64encode(
                zlib.compress(self.text.encode(), 9)
            ).decode()
        if self.sets:
            query[prefix + SET] = list(self.sets)
        return query

    @classmethod
    def from_file(cls, name: str, data: bytes, uploads: Path | None = None) -> Choice:
        """A scenario from a file of the user's.

        Raises:
            UserError: it is too large, or no text.
        """
        if len(data) > MOST_YAML_BYTES:
            raise UserError(f"holds more than {MOST_YAML_BYTES // 1000} kB", where=name)
        try:
            return cls(name, data.decode("utf-8-sig") or "\n", (), uploads)
        except UnicodeDecodeError as error:
            raise UserError(f"is not UTF-8 text (byte {error.start})", where=name) from None

    @classmethod
    def from_query(
        cls, query: Mapping[str, Sequence[str]], prefix: str = "", uploads: Path | None = None
    ) -> Choice:
        """What an address asks for; the default where it asks for nothing.

        Raises:
            UserError: it is no address that this program made.
        """
        name = (list(query.get(prefix + SCENARIO, ())) or [DEFAULT])[-1]
        packed = (list(query.get(prefix + YAML, ())) or [""])[-1]
        return cls(name, _unpacked(packed) if packed else "", tuple(query.get(prefix + SET, ())),
                   uploads)  # fmt: skip


def _stamp(file: Path) -> tuple[int, int]:
    """What changes when a file does; of the folder of a model, its configuration."""
    inside = file / "config.json"
    status = (inside if inside.is_file() else file).stat()
    return status.st_mtime_ns, status.st_size


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
