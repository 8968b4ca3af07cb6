"""Questions to the simulator, as background work: each gives plain data, small enough to keep."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

from plotly.offline import get_plotlyjs

import simulator
from dashboard.background import Report, Work
from dashboard.choice import Choice

RUN = "run"
"""The question that ``run`` answers, in whatever place of a page."""

PREVIEW_REQUESTS = 2000
"""Of traffic that is much longer, the first so many are simulated before the rest."""

WORTH_A_PREVIEW = 2.5
"""How many times that the traffic must be."""


@dataclass(frozen=True)
class Run:
    """What a run came to.

    Args:
        summary: as ``simulate run --json`` prints it; without intervals until ``final``.
        of: requests in all, where only the first of them were simulated; None: all were.
        final: nothing is missing.
        distributions, over_time: as ``Result`` gives them.
        binds: what binds, in sentences.
        page: the HTML report without the script that draws, packed; empty before ``final``.
    """

    summary: dict[str, Any]
    of: int | None
    final: bool
    distributions: dict[str, Any]
    over_time: dict[str, Any]
    binds: tuple[str, ...]
    page: tuple[bytes, ...] = ()

    @property
    def preview(self) -> bool:
        """Whether only the first requests were simulated."""
        return self.of is not None

    def json(self) -> str:
        """What ``simulate run --json`` prints."""
        return json.dumps(self.summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def report(self) -> str:
        """The HTML report, as ``simulate run`` writes it."""
        script: str = get_plotlyjs()
        return script.join(zlib.decompress(part).decode() for part in self.page)


def run(choice: Choice) -> Work[Run]:
    """Simulates: the first requests of long traffic, then all of it, then intervals."""

    def work(report: Report[Run]) -> Run:
        def told(done: int, total: int, _: float) -> None:
            report.progress(done, total)

        with choice.located() as scenario:
            report.stage("making the traffic")
            traffic = simulator.traffic_of(scenario)
            if len(traffic) > WORTH_A_PREVIEW * PREVIEW_REQUESTS:
                report.stage("first requests")
                first = simulator.simulate(
                    scenario, intervals=False, progress=told, traffic=lambda: traffic,
                    at_most=PREVIEW_REQUESTS,
                )  # fmt: skip
                if len(first.times.ttft_ms) < len(traffic):
                    report.give(_answer(first, of=len(traffic)))
            report.stage("all requests")
            result = simulator.simulate(scenario, progress=told, traffic=lambda: traffic)
            found = _answer(result)
            report.give(found)
            report.stage("intervals")
            return _answer(result, final=True, binds=found.binds)

    return work


def _answer(
    result: simulator.Result,
    *,
    of: int | None = None,
    final: bool = False,
    binds: tuple[str, ...] | None = None,
) -> Run:
    page = result.report().split(get_plotlyjs()) if final else []
    return Run(
        summary=result.summary(intervals=final),
        of=of,
        final=final,
        distributions=result.distributions(),
        over_time=result.over_time(),
        binds=_binds(result) if binds is None else binds,
        page=tuple(zlib.compress(part.encode()) for part in page),
    )


def _binds(result: simulator.Result) -> tuple[str, ...]:
    try:
        return simulator.explain_result(result).summary
    except simulator.UserError as error:  # nothing has completed
        return (f"{error}.",)


@dataclass(frozen=True)
class Load:
    """Latency and throughput as the load grows.

    Args:
        report: as ``simulate load --json`` prints it.
        quick: more points and intervals will follow.
    """

    report: dict[str, Any]
    quick: bool


def load(choice: Choice) -> Work[Load]:
    """A quick load curve, then the whole one with intervals of the highest rate."""

    def work(report: Report[Load]) -> Load:
        def told(standing: Any) -> None:
            report.progress(standing.done, standing.total)

        def first(found: dict[str, Any]) -> None:
            report.give(Load(found, quick=True))
            report.stage("load curve, more closely")

        with choice.located() as scenario:
            report.stage("load curve")
            found = simulator.load_report(scenario, told=told, first=first)
            return Load(found, quick=False)

    return work
