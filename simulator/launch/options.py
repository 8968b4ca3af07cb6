"""The words of a launch command, by what is known of the engine's arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from simulator.errors import UserError
from simulator.launch.known import Known, known_arguments, plain_name
from simulator.yamlio import closest

_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\}|\([^)]*\))")
_UNITS = {"k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20, "g": 10**9, "G": 2**30}


@dataclass(frozen=True, slots=True)
class Options:
    """Arguments that a scenario can take over.

    Args:
        engine: whose they are.
        values: text, lists of it, or whether a flag is set, by the argument's first name.
        model: what stands in the command without a name.
        notes: what was ignored, and why.
    """

    engine: str
    values: dict[str, Any]
    model: str
    notes: list[str]

    def text(self, name: str) -> str | None:
        """A word, as it is.

        Raises:
            UserError: it is a variable that nobody has set.
        """
        found = self.values.get(name)
        if isinstance(found, str) and (variable := _VARIABLE.search(found)):
            raise UserError(
                f"{variable[0]} has no value here", where=self.spelled(name), hint="write it out"
            )
        return None if found is None else str(found)

    def words(self, name: str) -> list[str] | None:
        """Several words."""
        return self.values.get(name)

    def flag(self, name: str) -> bool | None:
        """Whether a flag is set; None if it is not there."""
        return self.values.get(name)

    def whole(self, name: str) -> int | None:
        """A whole number; ``32k`` is 32,000 and ``32K`` 32,768, as vLLM has it."""
        text = self.text(name)
        if text is None:
            return None
        match = re.fullmatch(r"(-?\d+(?:\.\d+)?)([kKmMgG]?)", text)
        number = float(match[1]) * _UNITS.get(match[2], 1) if match else 0.5
        if number != int(number):
            raise UserError(f"must be a whole number, got '{text}'", where=self.spelled(name))
        return int(number)

    def number(self, name: str) -> float | None:
        """A number."""
        text = self.text(name)
        try:
            return None if text is None else float(text)
        except ValueError:
            raise UserError(f"must be a number, got '{text}'", where=self.spelled(name)) from None

    def mapping(self, name: str) -> dict[str, Any] | None:
        """A JSON object."""
        found = self.values.get(name)
        if found is None or isinstance(found, dict):
            return found
        data = _json(found)
        if not isinstance(data, dict):
            raise UserError(f"must be a JSON object, got '{found}'", where=self.spelled(name))
        return data

    def spelled(self, name: str) -> str:
        """The argument as a user writes it."""
        return "--" + (name.replace("-", "_") if self.engine == "tensorrt-llm" else name)


def parse(
    engine: str,
    words: Sequence[str],
    *,
    lenient: bool = False,
    config: dict[str, Any] | None = None,
) -> Options:
    """Sorts the words behind a launch command.

    Args:
        engine: name of its profile.
        words: everything behind the program.
        lenient: unknown arguments and those that cannot be simulated are noted instead of refused.
        config: what stands in the configuration file; arguments go before it.

    Raises:
        UserError: an argument is unknown, misses its value or cannot be simulated.
    """
    reader = _Reader(engine, lenient)
    for key, value in (config or {}).items():
        reader.configured(key, value)
    reader.read(words)
    model = reader.values.pop("model", "") or reader.values.pop("model-path", "") or reader.model
    if variable := _VARIABLE.search(model):
        raise UserError(f"{variable[0]} has no value here", where="model", hint="write it out")
    return Options(engine, reader.values, model, list(reader.notes()))


class _Reader:
    def __init__(self, engine: str, lenient: bool) -> None:
        self._engine = engine
        self._lenient = lenient
        self._known = known_arguments(engine)
        self._ignored: dict[str, list[str]] = {}
        self.values: dict[str, Any] = {}
        self.model = ""

    def read(self, words: Sequence[str]) -> None:
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if not _is_name(word):
                self._free(word)
                continue
            name, equals, value = word.partition("=")
            known, inner, given = self._lookup(name)
            if known is None:
                self._unknown(name)
                while rest and not _is_name(rest[0]):
                    rest.pop(0)
                continue
            if known.kind == "flags":
                if equals and value.lower() not in ("true", "false"):
                    raise UserError("takes no value", where=name)
                self._take(known, name, given is not False and value.lower() != "false")
                continue
            values = [given] if isinstance(given, str) else [value] if equals else []
            while rest and not _is_name(rest[0]) and (known.kind == "lists" or not values):
                values.append(rest.pop(0))
            if not values:
                raise UserError("is given without a value", where=name)
            self._store(known, name, inner, values)

    def configured(self, key: str, value: Any) -> None:
        """An entry of a configuration file."""
        known, inner, given = self._lookup(f"--{key}")
        if known is None:
            self._unknown(f"--{key}")
        elif known.kind == "flags":
            if not isinstance(value, bool):
                raise UserError("must be true or false", where=f"--{key}")
            self._take(known, f"--{key}", value is not (given is False))
        elif isinstance(value, dict):
            self._take(known, f"--{key}", value)
        else:
            values = [str(item) for item in (value if isinstance(value, list) else [value])]
            self._store(known, f"--{key}", inner, values)

    def notes(self) -> Iterator[str]:
        for why, names in self._ignored.items():
            yield f"ignored, {why}: {', '.join(dict.fromkeys(names))}"

    def _lookup(self, name: str) -> tuple[Known | None, str, str | bool]:
        """The argument, a key inside its JSON, and a value that the name holds."""
        plain = plain_name(name.removeprefix("--") if name.startswith("--") else name)
        if plain in self._known:
            return self._known[plain], "", True
        if name.startswith("--no-") and (known := self._known.get(plain.removeprefix("no-"))):
            return (known, "", False) if known.kind == "flags" else (None, "", True)
        top, _, inner = plain.partition(".")
        if inner and top in self._known:
            return self._known[top], inner.replace("-", "_"), True
        short = re.fullmatch(r"(-[A-Za-z]+)(\d+)", name)
        if short and short[1] in self._known:
            return self._known[short[1]], "", short[2]
        return None, "", True

    def _store(self, known: Known, name: str, inner: str, values: list[str]) -> None:
        if not inner:
            self._take(known, name, values if known.kind == "lists" else values[0])
            return
        before = self.values.get(known.name)
        holder = _json(before) if isinstance(before, str) else dict(before or {})
        place = holder
        *above, last = inner.split(".")
        for key in above:
            place = place.setdefault(key, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise UserError("leads through something that has no keys", where=name)
        place[last] = _json(values[0])
        self._take(known, name, holder)

    def _take(self, known: Known, name: str, value: Any) -> None:
        match known.use:
            case "read":
                self.values[known.name] = value
            case "idle":
                self._note("for they have no effect on what is simulated", name)
            case "aside":
                self._note("although they may change times that are not simulated", name)
            case "refused" if _harmless(value):
                self._note("for they have no effect on what is simulated", name)
            case "refused":
                if not self._lenient:
                    raise UserError(
                        f"cannot be simulated: {known.why}", where=name,
                        hint="leave it out, or use --lenient to ignore it",
                    )  # fmt: skip
                self._note("although they cannot be simulated", name)

    def _free(self, word: str) -> None:
        if self.model:
            raise UserError(
                f"'{word}' stands in the command where an argument is expected",
                hint=f"the model is {self.model}",
            )
        self.model = word

    def _unknown(self, name: str) -> None:
        if self._lenient:
            self._note("although they are not known", name)
            return
        options = [f"--{spelling}" for spelling in self._known if not spelling.startswith("-")]
        if self._engine == "tensorrt-llm":
            options = [option.replace("-", "_").replace("__", "--", 1) for option in options]
        near = closest(name, options)
        hint = f"did you mean {near}? " if near else ""
        raise UserError(
            f"{self._engine} has no argument of this name that is known here", where=name,
            hint=f"{hint}--lenient ignores it",
        )  # fmt: skip

    def _note(self, why: str, name: str) -> None:
        self._ignored.setdefault(why, []).append(name)


def _json(text: str) -> Any:
    """What the text means as JSON; itself if it means nothing."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _is_name(word: str) -> bool:
    """Whether a word is an argument's name, and no negative number."""
    return bool(re.match(r"--?[A-Za-z]", word))


def _harmless(value: Any) -> bool:
    """Values that ask for nothing."""
    return value is False or value in ("0", "0.0", "1", "{}", "null", "none")


def one_of(text: str, known: Iterable[str], where: str) -> str:
    """``text``, if it is known.

    Raises:
        UserError: it is not; names the closest.
    """
    names = list(known)
    if text in names:
        return text
    near = closest(text, names)
    raise UserError(
        f"'{text}' cannot be simulated",
        where=where,
        hint=f"did you mean '{near}'?" if near else f"known are {', '.join(names)}",
    )
