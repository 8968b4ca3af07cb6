"""The keys of a plan in Markdown, generated from the models."""

from __future__ import annotations

from simulator.planner.constraints import Constraint
from simulator.planner.document import Part, Plan, Range, Space
from simulator.planner.objectives import NAMES, Objective
from simulator.scenario.reference import sections


def plan_keys() -> str:
    """A table a model, and the names of objectives."""
    rows = ["| objective | figure |", "|---|---|"]
    rows += [f"| `{name}` | `{path}` |" for name, path in NAMES.items()]
    tables = sections((Plan, Space, Part, Range, Constraint, Objective), "scenario.md")
    return "\n".join([tables, *rows, ""])
