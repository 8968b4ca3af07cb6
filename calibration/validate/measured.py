"""Reads measured points from CSV: a row a deployment, or a row a request.

A row a deployment is what NVIDIA AIConfigurator publishes (columns ``model_path``, ``backend``,
``silicon_ttft_ms`` …) and what a user writes; ``columns.py`` has all names. A row a request has
``arrival_s``, ``first_token_s`` and ``last_token_s``; a ``summary.csv`` beside it may give the
engine's limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pydantic import ValidationError

from calibration.validate.columns import (
    APART,
    COLUMNS,
    FIGURES,
    FLAGS,
    LATENCIES,
    NAMES,
    OF_THE_PUBLISHER,
    PERCENTILES,
    RATES,
    REAL,
    REQUIRED,
    STATISTICS,
    WHOLE,
)
from calibration.validate.loads import Wrong, translate
from calibration.validate.point import Figures, Point
from calibration.validate.rows import Row, name_of, read_rows
from simulator.errors import UserError

PUBLISHED_LENGTHS = ((1024, 1024), (8192, 1024), (1024, 8192))
"""Pairs of nominal lengths that the public InferenceX sweep measures."""

ONE_NODE = 8
"""Devices of the nodes that single servers with expert or data parallelism were measured on."""

FEW_USERS = 4
"""So few that one prefill and one decode worker take them: where a row with both apart does not
state how many there were, more would change little."""

_REQUEST_COLUMNS = ("arrival_s", "first_token_s", "last_token_s")


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that is not simulated, and why."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a file holds.

    Args:
        name: the file's, without its ending.
        points: rows that can be simulated as far as the file tells.
        skipped: the others.
        ignored: columns that are not read.
    """

    name: str
    points: tuple[Point, ...]
    skipped: tuple[Skipped, ...]
    ignored: tuple[str, ...]


def read_dataset(path: Path | str, *, files: bool = True) -> Dataset:
    """Reads measured points.

    Args:
        path: of the CSV file, compressed or not.
        files: whether cells may name files (a model's config.json, a hardware profile); off for
            what others send.

    Raises:
        UserError: the file cannot be read, or a cell holds something wrong; with its line.
    """
    file = Path(path)
    columns, rows = read_rows(file)
    if all(name in columns for name in _REQUEST_COLUMNS):
        from calibration.validate.requests import read_requests

        if not files:
            _refuse_files(file, rows, {name: name for name in columns})
        return read_requests(file, columns, rows)
    known, ignored = _columns(file, columns)
    if not files:
        _refuse_files(file, rows, known)
    points: list[Point] = []
    skipped: list[Skipped] = []
    lines: dict[str, int] = {}
    for row in rows:
        cells = {known[name]: text for name, text in row.cells.items() if name in known}
        cells.setdefault("id", f"line {row.line}")
        if cells["id"] in lines:
            raise _wrong(file, row.line, "id", f"'{cells['id']}' is on line {lines[cells['id']]} "
                         "too", "give every row an id of its own")  # fmt: skip
        lines[cells["id"]] = row.line
        reason = translate(cells)
        if isinstance(reason, Wrong):
            raise _wrong(file, row.line, *reason)
        reason = reason or _not_modelled(file, row.line, cells)
        if reason:
            skipped.append(Skipped(cells["id"], reason))
        else:
            points.append(_point(file, row.line, cells, "measured_on" in known.values()))
    return Dataset(name_of(file), tuple(points), tuple(skipped), ignored)


def _columns(file: Path, columns: list[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Which column of the file is which of ours, and those that are not read."""
    known: dict[str, str] = {}
    ignored = []
    for name in columns:
        key = NAMES.get(name)
        if name in OF_THE_PUBLISHER:
            continue
        if key is None:
            near = next(iter(get_close_matches(name, NAMES, 1, 0.8)), None)
            if near and NAMES[near] not in {NAMES.get(other) for other in columns}:
                raise UserError(
                    f"has an unknown column '{name}'", where=f"{file}:1",
                    hint=f"did you mean '{near}'?",
                )  # fmt: skip
            ignored.append(name)
        elif key in known.values():
            raise UserError(f"has two columns for {key}, one is '{name}'", where=f"{file}:1")
        else:
            known[name] = key
    for key in REQUIRED:
        if key not in known.values():
            names = " or ".join(f"'{name}'" for name in (key, *COLUMNS[key]))
            raise UserError(f"has no column {names}", where=f"{file}:1")
    return known, tuple(ignored)


def _not_modelled(file: Path, line: int, cells: dict[str, str]) -> str:
    """Why a row cannot be simulated, as far as it tells itself; empty if it can."""
    if _apart(cells):
        return _not_apart(file, line, cells) or _nothing_to_replay(cells)
    ways = {
        key: _number(file, line, key, cells[key]) if cells.get(key) else 1.0
        for key in ("tp", "pp", "attention_dp", "moe_tp", "moe_ep")
    }
    if ways["pp"] > 1:
        return f"pipeline parallelism over {ways['pp']:g} devices is not replayed yet"
    devices, experts = ways["tp"] * ways["attention_dp"], ways["moe_tp"] * ways["moe_ep"]
    if "moe_tp" in cells and ways["moe_ep"] > 1 and devices != experts:
        return f"experts on {experts:g} devices and attention on {devices:g} contradict each other"
    if ways["moe_ep"] * ways["attention_dp"] > 1 and devices > ONE_NODE:
        return f"a single server with {devices:g} devices is beyond one node: the label is in doubt"
    return _nothing_to_replay(cells)


def _apart(cells: dict[str, str]) -> bool:
    """Whether prompts were computed on servers of their own."""
    return cells.get("mode", "agg").lower() not in ("agg", "aggregated", "ifb")


def _not_apart(file: Path, line: int, cells: dict[str, str]) -> str:
    """Why a row with prefill and decode apart cannot be simulated; empty if it can."""
    for key in ("prefill_pp", "prefill_dp", "decode_pp", "decode_dp"):
        if cells.get(key) and _number(file, line, key, cells[key]) > 1:
            return "prefill and decode apart, with pipelines or data-parallel attention"
    few = "concurrency" in cells and (
        _number(file, line, "concurrency", cells["concurrency"]) <= FEW_USERS
    )
    if not few and not ("prefill_workers" in cells and "decode_workers" in cells):
        return "prefill and decode apart, and the number of workers is not given"
    return ""


def _nothing_to_replay(cells: dict[str, str]) -> str:
    missing = [key for key in REQUIRED if key not in cells]
    if missing:
        return f"no {missing[0]} is given"
    if "concurrency" not in cells and "rate_per_s" not in cells:
        return "neither concurrency nor rate_per_s is given"
    if not any(key in cells for key in FIGURES):
        return "nothing was measured"
    return ""


def _workers(file: Path, line: int, cells: dict[str, str], phase: str) -> dict[str, object]:
    """How many there were, one of each where there were too few users to need more."""
    found: dict[str, object] = {}
    for key in ("workers", "tp", "ep"):
        text = cells.get(f"{phase}_{key}")
        number = _number(file, line, f"{phase}_{key}", text) if text else 0.0
        if number >= 1:  # files say 0 where there are no experts
            found[key] = int(number)
    return found


def _point(file: Path, line: int, cells: dict[str, str], dated: bool) -> Point:
    values: dict[str, object] = {}
    if _apart(cells):
        values |= {phase: _workers(file, line, cells, phase) for phase in ("prefill", "decode")}
    for key, text in cells.items():
        if key in APART:
            continue
        if key in WHOLE or key in REAL:
            number = _number(file, line, key, text)
            if key in WHOLE and not number.is_integer():
                raise _wrong(file, line, key, f"must be a whole number, got {text}")
            values[key] = int(number) if key in WHOLE else number
        elif key in FLAGS:
            values[key] = _flag(file, line, key, text)
        elif key in ("model", "system", "engine"):
            values[key] = _located(file, text)
        else:
            values[key] = text
    for key in ("mode", "pp", "moe_tp"):
        values.pop(key, None)
    given = str(values.pop("statistic", "mean")).lower()
    statistic = STATISTICS.get(given)
    if statistic is None:
        known = ", ".join(STATISTICS)
        raise _wrong(file, line, "statistic", f"must be one of {known}, got {given}")
    figures: dict[str, object] = {
        key: {statistic: values.pop(key)} for key in LATENCIES if key in values
    }
    spread = {key.rpartition("_")[2]: values.pop(key) for key in PERCENTILES if key in values}
    if spread:
        figures["itl_ms"] = spread
        statistic = "p50" if statistic == "mean" and not figures.keys() - {"itl_ms"} else statistic
    figures |= {key: values.pop(key) for key in RATES if key in values}
    pair = (values["isl"], values["osl"])
    origin = "sweep" if pair in PUBLISHED_LENGTHS else "own"
    if dated and "measured_on" not in values:
        origin = "vendor"
    document = values | {"statistic": statistic, "measured": figures, "origin": origin}
    return checked(file, line, document)


def _refuse_files(file: Path, rows: Iterable[Row], known: Mapping[str, str]) -> None:
    """Refuses cells that would be read as the path of a file."""
    for row in rows:
        for column, text in row.cells.items():
            key = NAMES.get(known.get(column, ""), "")
            if key not in ("model", "system", "engine"):
                continue
            if text.startswith((".", "~", "/", "\\")) or Path(text).suffix in _ENDINGS or (
                Path(text).exists() or (file.parent / text).exists()
            ):  # fmt: skip
                raise _wrong(
                    file, row.line, column, f"'{text}' names a file, which is not read here",
                    "give the name of a shipped one, or validate on the command line",
                )  # fmt: skip


_ENDINGS = (".json", ".yaml", ".yml")


def _located(file: Path, text: str) -> str:
    """A name as it stands; a file's path, which starts from the dataset's folder, in full."""
    path = file.parent / text
    return str(path.resolve()) if path.exists() else text


def checked(file: Path, line: int, document: dict[str, object]) -> Point:
    """A point, or the sentence that says what is wrong with it.

    Raises:
        UserError: a value is outside its limits.
    """
    try:
        measured = Figures.model_validate(document["measured"])
        return Point.model_validate(document | {"measured": measured})
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        message = str(first["msg"]).removeprefix("Value error, ")
        what = message[:1].lower() + message[1:].replace("Input should", "should")
        what = what.replace("input should", "should")
        if key and first["type"] != "value_error":
            what += f", got {first['input']}"
        raise _wrong(file, line, key, what) from None


def _number(file: Path, line: int, key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise _wrong(file, line, key, f"must be a number, got '{text}'") from None
    if value - value != 0.0:
        raise _wrong(file, line, key, f"must be a finite number, got {text}")
    return value


def _flag(file: Path, line: int, key: str, text: str) -> bool:
    if text.lower() in ("true", "yes", "1", "on"):
        return True
    if text.lower() in ("false", "no", "0", "off"):
        return False
    raise _wrong(file, line, key, f"must be true or false, got '{text}'")


def _wrong(file: Path, line: int, key: str, what: str, hint: str = "") -> UserError:
    return UserError(what, where=f"{file}:{line}" + (f", {key}" if key else ""), hint=hint)


def unread(columns: Iterable[str]) -> str:
    """The sentence about columns that are not read; empty without any."""
    names = ", ".join(f"'{name}'" for name in columns)
    return f"Columns that say nothing to the simulator: {names}." if names else ""
