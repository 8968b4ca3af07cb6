"""A plan's report in words and tables, for whoever shows it elsewhere than in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simulator.planner.report import terminal
from simulator.planner.report.grid import Column
from simulator.planner.report.words import amount, title, unit

if TYPE_CHECKING:
    import pandas as pd

Report = Mapping[str, Any]
Table = dict[str, list[str]]
"""Titles of columns, and their cells from the top."""


@dataclass(frozen=True, slots=True)
class AskedWords:
    """What a plan asks for.

    Args:
        limits: what must hold, one sentence a limit.
        bearing: under what it must hold, beside the traffic as it is: ``with 20% more traffic and
            1 replica missing``; may be empty.
        best: ``lowest cost per hour``.
        space: how many deployments there are to choose from, and why others are not.
    """

    limits: list[str]
    bearing: str
    best: str
    space: list[str]


@dataclass(frozen=True, slots=True)
class PlanWords:
    """What a search found.

    Args:
        asked: what the plan asks for.
        verdict: the deployment to take, or that none holds.
        costs: of it; empty where none holds.
        prices: what a device of it costs, and who said so when.
        reasons: why this one, or why none.
        search: what was simulated.
        finalists: the winner and the runners-up with the traffic as it is; empty: none.
        limits: of the winner, under what must be borne; empty: none holds.
        closest: where none holds, those that come closest and what they miss.
    """

    asked: AskedWords
    verdict: str
    costs: str
    prices: list[str]
    reasons: list[str]
    search: str
    finalists: Table
    limits: Table
    closest: Table


def figure_title(path: str) -> str:
    """A figure of a summary with its unit: ``TTFT p99, ms`` for ``latency.ttft_ms.p99``."""
    of = unit(path)
    return f"{title(path)}, {of}" if of else title(path)


def figure_text(value: float | None, path: str) -> str:
    """A figure's value with its unit: ``38.27 ms``, ``$39.56``, ``98.5%``."""
    return amount(value, path)


def plan_table(report: Report) -> pd.DataFrame:
    """What ``plan`` gave as a table, as ``deployments.csv`` has it: one row a simulated deployment
    with its axes, verdict and figures, those of the run that decided."""
    from simulator.planner.report.files import deployments

    return deployments(dict(report))


def asked_words(report: Report) -> AskedWords:
    """What ``describe_plan`` or ``plan`` gave, in words."""
    asked = report["asked"]
    return AskedWords(
        [limit["text"] for limit in asked["constraints"]],
        ", ".join(terminal.limit_lines(dict(asked))[1:]),
        terminal.best(asked),
        terminal.space_lines(report["space"]),
    )


def plan_words(report: Report) -> PlanWords:
    """What ``plan`` gave, in words and tables."""
    found, winner = dict(report), report["winner"]
    finalists = [winner, *report["runners_up"]] if winner else []
    judged = winner is None and any(trial["worst"] for trial in report["trials"])
    return PlanWords(
        asked_words(report),
        f"Take {winner['label']}" if winner else "No deployment holds.",
        terminal.costs(winner) if winner else "",
        terminal.prices(found) if winner else [],
        list(report["reasons"]),
        terminal.search_line(report["search"]),
        _table(terminal.finalist_columns(finalists, found)) if finalists else {},
        _table(terminal.limit_columns(winner)) if winner else {},
        _table(terminal.closest_columns(report["trials"])) if judged else {},
    )


def _table(columns: Sequence[Column]) -> Table:
    return {column.title.replace("\n", " "): list(column.cells) for column in columns}
