"""Scenarios that come with the package, by name."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_HERE = Path(__file__).parent

FRAGMENTS = _HERE / "presets"
"""Parts of scenarios (a traffic, an SLO) to put into ``include:``."""


def examples_folder() -> Path:
    """Whole scenarios: beside this file in an installed package, else in the source tree."""
    packaged = _HERE / "examples"
    return packaged if packaged.is_dir() else _HERE.parents[1] / "examples"


@cache
def shipped() -> dict[str, Path]:
    """Name to file of everything that can be run or included by name."""
    files = sorted(FRAGMENTS.glob("*.yaml")) + sorted(examples_folder().glob("*.yaml"))
    return {file.stem: file for file in files}


@cache
def _examples() -> tuple[tuple[str, bool], ...]:
    """Name of every shipped scenario and plan, and whether it is a plan."""
    files = sorted(examples_folder().glob("*.yaml"))
    return tuple(
        (file.stem, re.search(r"(?m)^scenario:", file.read_text("utf-8")) is not None)
        for file in files
    )


def scenario_names() -> list[str]:
    """Names of the whole scenarios."""
    return [name for name, is_plan in _examples() if not is_plan]


def plan_names() -> list[str]:
    """Names of the plans: what `simulate plan` takes."""
    return [name for name, is_plan in _examples() if is_plan]


def fragment_names() -> list[str]:
    """Names of the parts."""
    return sorted(file.stem for file in FRAGMENTS.glob("*.yaml"))


def summary_line(path: Path) -> str:
    """What the comment at the top of a shipped file says, up to its first full stop."""
    words: list[str] = []
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        words += line.lstrip("# ").split()
    text = " ".join(words)
    return text.split(". ")[0].rstrip(".")
