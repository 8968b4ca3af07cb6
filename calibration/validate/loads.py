"""Rows that name their load (``load_kind``): what is known about it besides the row.

``calibration/datasets/loads.yaml`` has the settings and, for each, the source or the assumption.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from math import ceil
from pathlib import Path
from typing import Literal, NamedTuple

from calibration.validate.formats import Target, preset_name
from calibration.validate.point import Number, Point, Ratio, Spread, Whole
from simulator.scenario.base import Model
from simulator.yamlio import read_model

FILE = Path(__file__).parent.parent / "datasets" / "loads.yaml"

KINDS = ("closed_loop_max_num_seqs", "offline_max_throughput")
_WAYS = {"TP": "tp", "PP": "pp", "EP": "moe_ep", "DP": "attention_dp"}


class Settings(Model):
    """What the server was started with."""

    memory_fraction: Ratio
    prefix_caching: bool
    max_num_batched_tokens: Whole | None = None
    async_scheduling: bool | None = None

    def cells(self) -> Iterator[tuple[str, str]]:
        """As cells of a row."""
        for name, value in self.model_dump(exclude_none=True).items():
            yield name, str(value).lower()


class Task(Model):
    """Requests of a task whose rows give a mean output length only."""

    isl: Number
    input_cv: Spread
    output_cv: Spread
    requests: Whole
    sequences: Whole
    source: str


class Saturated(Model):
    """A full server with a queue; ``name`` of the data that come like this."""

    name: str
    settings: Settings
    source: str
    tasks: dict[str, Task]
    held_out: tuple[str, ...]


class Sent(Model):
    """How many requests of a length are sent."""

    isl: Number
    osl: Number
    requests: Whole


class Renamed(Model):
    """Cells that a table fills in with another name."""

    models: tuple[str, ...]
    cells: dict[Literal["model", "precision", "kv_cache"], str]
    source: str


class Unsaid(Model):
    """Rows that ran with something that is not modelled."""

    models: tuple[str, ...]
    version: str
    reason: str


class Offline(Model):
    """Everything at once. ``kv_cache``: its format by the weights', where a row does not say."""

    settings: Settings
    kv_cache: dict[str, str]
    requests: tuple[Sent, ...]
    other_requests: Whole
    renamed: tuple[Renamed, ...]
    source: str
    excluded: tuple[Unsaid, ...]


class Loads(Model):
    """The file of loads."""

    saturated: Saturated
    offline: Offline


@cache
def loads() -> Loads:
    """The loads that come with the product."""
    return read_model(FILE, Loads)


class Wrong(NamedTuple):
    """A cell that cannot be read, and why."""

    key: str
    what: str


def translate(cells: dict[str, str]) -> Wrong | str:
    """Fills in the cells that follow from ``load_kind``, ``load``, ``task`` and ``parallelism``.
    What the row itself says stays.

    Returns:
        Why the row cannot be simulated; mostly empty.
    """
    if "load_kind" in cells and "weights" in cells:
        cells.setdefault("precision", cells.pop("weights"))  # a checkpoint's label, such as mxfp4
        cells["model"] = preset_name(cells.get("model", ""))
        for name in ("engine", "version"):  # what stands in parentheses is a remark
            if name in cells:
                cells[name] = re.sub(r"\s*\(.*\)$", "", cells[name])
    devices = cells.pop("n_gpus", "")
    if "parallelism" in cells:
        found = ways(cells.pop("parallelism"))
        if found is None:
            return Wrong("parallelism", "must be such as TP2 or TP1-EP8-DP1")
        for name, number in found.items():
            cells.setdefault(name, str(number))
    elif devices:
        cells.setdefault("tp", devices)
    kind = cells.pop("load_kind", None)
    load, task = cells.pop("load", ""), cells.pop("task", "")
    if "Mamba" in cells.pop("architecture", ""):
        return "state-space layers are not modelled yet"
    if kind == "closed_loop_max_num_seqs":
        return _saturate(cells, load, task)
    if kind == "offline_max_throughput":
        return _all_at_once(cells)
    return "" if kind is None else Wrong("load_kind", f"must be one of {', '.join(KINDS)}")


def _saturate(cells: dict[str, str], load: str, name: str) -> Wrong | str:
    if not load.isdigit() or int(load) < 1:
        return Wrong("load", f"must be a number of sequences, got '{load}'")
    known = loads().saturated
    task = known.tasks.get(name)
    if task is None and ("image" in name or "video" in name):
        return "prompts with images or videos are not modelled yet"
    if task is None and "isl" not in cells:
        return f"no isl is given, and nothing is known about the task '{name}'"
    if task is not None:
        repeats = ceil(int(load) / task.sequences)
        cells.setdefault("num_prompts", str(task.requests * repeats))
        cells.setdefault("isl", str(task.isl))
        cells.setdefault("input_cv", str(task.input_cv))
        cells.setdefault("output_cv", str(task.output_cv))
    for key, text in (("concurrency", load), ("max_num_seqs", load), ("until_queue_empty", "true"),
                      *known.settings.cells()):  # fmt: skip
        cells.setdefault(key, text)
    return ""


def _all_at_once(cells: dict[str, str]) -> str:
    known = loads().offline
    for row in known.renamed:
        if cells.get("model") in row.models:
            cells.update((name, text) for name, text in row.cells.items())
    sent = {(str(float(row.isl)), str(float(row.osl))): row.requests for row in known.requests}
    key = tuple(str(float(cells.get(name, "0") or 0)) for name in ("isl", "osl"))
    count = sent.get((key[0], key[1]), known.other_requests)
    cells.setdefault("num_prompts", str(count))
    cells.setdefault("concurrency", cells["num_prompts"])
    cells.setdefault("bench_limits", "true")
    if cells.get("precision") in known.kv_cache:
        cells.setdefault("kv_cache", known.kv_cache[cells["precision"]])
    for name, text in known.settings.cells():
        cells.setdefault(name, text)
    return ""


def ways(parallelism: str) -> dict[str, int] | None:
    """Devices by kind of parallelism: ``TP4``, ``TP1-EP8-DP1``; ``DEP4`` is data-parallel attention
    with the experts over as many devices. None: something else."""
    found: dict[str, int] = {}
    for part in parallelism.upper().replace("_", "-").split("-"):
        match = re.fullmatch(r"(DEP|TP|PP|EP|DP)([1-9]\d*)", part)
        if match is None:
            return None
        kind, number = match[1], int(match[2])
        if kind == "DEP":
            found |= {"attention_dp": number, "moe_ep": number}
        else:
            found[_WAYS[kind]] = number
    return found


def unsaid(point: Point, found: Target) -> str:
    """Why an offline row cannot be held against a simulation though it could be simulated."""
    rows = loads().offline.excluded if point.bench_limits else ()
    version = point.version or ""
    return next(
        (
            row.reason
            for row in rows
            if found.model.name in row.models and version.startswith(row.version)
        ),
        "",
    )


def held_out(point: Point) -> bool:
    """Whether the power curve's fit may not see a row."""
    return point.model in loads().saturated.held_out
