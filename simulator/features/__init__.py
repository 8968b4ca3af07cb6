"""What the product covers: a row a feature, as data, one YAML file for each part of the product.

Rows say by which field a feature is asked for, which example shows it, which test holds it and
where the documentation explains it. ``simulate features`` prints them.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from simulator.errors import UserError
from simulator.scenario.base import Model
from simulator.yamlio import parse_yaml, validation_sentence

__all__ = ["AREAS", "Feature", "chosen", "load_features", "read_features"]

AREAS = (
    "Model architecture",
    "Model compression",
    "Attention and kernels",
    "Batching and scheduling",
    "KV cache",
    "Decoding",
    "Parallelism",
    "Deployment",
    "Hardware",
    "Engines",
    "Workload",
    "Metrics",
    "Phases and limits",
    "Planning",
    "Truth",
    "Emulator",
    "Monitoring",
)
"""In the order in which they are shown."""

_Text = Annotated[str, Field(min_length=3, max_length=160)]


class Feature(Model):
    """One thing that works.

    Args:
        area: one of ``AREAS``.
        feature: what it is, in the field's words.
        fields: dotted paths in the scenario, a value behind ``=``
            (``engine.policy=prefill_first``).
        figures: keys of the summary that it fills.
        command: a command of ``simulate`` that does it.
        example: a scenario that shows it.
        test: a test that would fail without it, ``file::function``.
        docs: page and anchor that explain it.
    """

    area: str
    feature: _Text
    fields: tuple[_Text, ...] = ()
    figures: tuple[_Text, ...] = ()
    command: str = Field("", pattern=r"^([a-z][a-z-]*)?$")
    example: str = Field(pattern=r"^examples/[\w.-]+\.yaml$")
    test: str = Field(pattern=r"^tests/test_\w+\.py::test_\w+$")
    docs: str = Field(pattern=r"^(docs/[\w-]+\.md|README\.md)(#[\w-]+)?$")

    @property
    def set_by(self) -> str:
        """The fields, figures or command that make it, in one line."""
        return ", ".join([*self.fields, *self.figures, *([self.command] if self.command else [])])

    def words(self) -> str:
        """All its text, to look something up in."""
        return " ".join([self.area, self.feature, self.set_by, self.example, self.docs]).lower()


class _Table(Model):
    rows: tuple[Feature, ...]


def load_features() -> tuple[Feature, ...]:
    """All rows, by area, those of an area in order of their files and lines."""
    shipped = sorted(
        (file for file in files(__name__).iterdir() if file.name.endswith(".yaml")),
        key=lambda file: file.name,
    )
    rows = [row for file in shipped for row in read_features(file.read_text("utf-8"), file.name)]
    return tuple(sorted(rows, key=lambda row: AREAS.index(row.area)))


def read_features(text: str, name: str) -> tuple[Feature, ...]:
    """The rows of one file.

    Raises:
        UserError: it is no list of rows, or one of them is wrong; with the line.
    """
    indented = "rows:\n" + text  # the reader wants a mapping at the top
    data, lines = parse_yaml(indented, Path(name))
    lines = {at: int(line) - 1 for at, line in lines.items()}
    try:
        rows = _Table.model_validate(data).rows
    except ValidationError as error:
        raise validation_sentence(error, Path(name), lines, _Table) from None
    for i, row in enumerate(rows):
        if row.area not in AREAS:
            raise UserError(
                f"there is no area '{row.area}'",
                where=f"{name}:{lines[('rows', i)]}",
                hint="one of " + ", ".join(AREAS),
            )
        if not row.set_by:
            raise UserError(
                "a row names at least one field, figure or command",
                where=f"{name}:{lines[('rows', i)]}",
            )
    return rows


def chosen(rows: Iterable[Feature], area: str | None, word: str | None) -> list[Feature]:
    """Rows of one area (any spelling of its beginning) that hold a word.

    Raises:
        UserError: no area begins so.
    """
    found = list(rows)
    if area is not None:
        if not any(_begins(known, area) for known in AREAS):
            raise UserError(f"there is no area '{area}'", hint="one of " + ", ".join(AREAS))
        found = [row for row in found if _begins(row.area, area)]
    if word is not None:
        found = [row for row in found if word.lower() in row.words()]
    return found


def _begins(area: str, given: str) -> bool:
    return area.lower().startswith(given.strip().lower())


def document(rows: Iterable[Feature]) -> list[dict[str, Any]]:
    """Rows as plain data for JSON."""
    return [row.model_dump(mode="json") for row in rows]
