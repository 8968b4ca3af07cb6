"""Which rows may be fitted and which are kept for validation.

The file ``calibration/datasets/splits.yaml`` fixes the groups (model × GPU × engine × version ×
precision). Of the groups of an engine, ordered by rows, the first goes to the fit, the second to
validation, and so on; whole groups that validation has are never seen by a fit. Of the rows of a
fit group, half are held back as well: those whose deployment and load have an odd hash. Groups that
the file does not name belong to validation.

Rows with power are what the power curve is fitted to, by models as ``loads.yaml`` says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from calibration.validate.formats import target
from calibration.validate.loads import held_out
from calibration.validate.point import Point
from calibration.validate.protocol import exclusion
from simulator.scenario.base import Count, Model
from simulator.yamlio import read_model

FILE = Path(__file__).parent.parent / "datasets" / "splits.yaml"

Half = Literal["fit", "validation"]
SPLITS = ("fit", "validation", "all")


class Group(Model):
    """A group, how many rows of the published file it has, and where it goes."""

    group: str
    engine: str
    rows: Count
    half: Half


class Splits(Model):
    """The file of groups."""

    rule: str
    groups: tuple[Group, ...]


@cache
def splits() -> Splits:
    """The groups that come with the product."""
    return read_model(FILE, Splits)


@cache
def _halves() -> dict[str, Half]:
    return {entry.group: entry.half for entry in splits().groups}


def group_seen(point: Point) -> bool:
    """Whether rows of the point's group belong to the fit."""
    if point.measured.power_w is not None:
        return not held_out(point)
    return _halves().get(point.group) == "fit"


def half_of(point: Point) -> Half:
    """Where a row belongs."""
    if point.spread or not group_seen(point):
        return "validation"
    if point.measured.power_w is not None:
        return "fit"
    # Not the id: one run may stand in a file under several.
    load = (point.group, point.lengths, point.concurrency, point.rate_per_s, point.tp)
    digest = hashlib.sha256("|".join(map(str, load)).encode()).digest()
    return "fit" if digest[0] % 2 == 0 else "validation"


def assign(points: Sequence[Point]) -> list[Group]:
    """Groups by the rule of the file, from all rows that can be simulated."""
    rows: dict[str, int] = {}
    engine: dict[str, str] = {}
    for point in points:
        found_target = target(point)
        if not point.spread and not exclusion(point, found_target):
            rows[point.group] = rows.get(point.group, 0) + 1
            engine[point.group] = found_target.engine.name
    found: list[Group] = []
    for name in sorted(set(engine.values())):
        own = sorted((g for g in rows if engine[g] == name), key=lambda g: (-rows[g], g))
        found += [
            Group(group=g, engine=name, rows=rows[g], half="validation" if i % 2 else "fit")
            for i, g in enumerate(own)
        ]
    return found
