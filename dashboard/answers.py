"""Questions to the simulator, as background work: each gives plain data, small enough to keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import simulator
from dashboard.background import Report, Work
from dashboard.choice import Choice

PREVIEW_REQUESTS = 2000
"""Of traffic that is much longer, the first so many are simulated before the rest."""


@dataclass(frozen=True)
class Run:
    """What a run came to.

    Args:
        summary: as ``simulate run --json`` prints it.
        preview: only the first requests were simulated.
    """

    summary: dict[str, Any]
    preview: bool


def run(choice: Choice) -> Work[Run]:
    """Simulates: the first requests of long traffic, then all of it, then intervals."""

    def work(report: Report[Run]) -> Run:
        def told(done: int, total: int, _: float) -> None:
            report.progress(done, total)

        with choice.located() as scenario:
            report.stage("first requests")
            first = simulator.simulate(
                scenario, intervals=False, progress=told, at_most=PREVIEW_REQUESTS
            )
            report.give(Run(first.summary(), preview=True))
            report.stage("all requests")
            result = simulator.simulate(scenario, progress=told)
            return Run(result.summary(), preview=False)

    return work
