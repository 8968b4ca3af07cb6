"""A part of a trace: what it is like, and a scenario under it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import simulator
from dashboard.background import Report, Work
from dashboard.choice import Choice
from simulator import TraceProfile, UserError

FORMATS = ("auto", "azure", "burstgpt", "mooncake", "sharegpt", "csv", "jsonl")


@dataclass(frozen=True)
class Part:
    """A part of a file.

    Args:
        file: a shipped trace or table, or the path of an upload of this session.
        format: how it is laid out.
        start_s: where the part begins, since the first row.
        duration_s: how long it is; None: to the end.
        requests: the most of them; None: all.
    """

    file: str
    format: str
    start_s: float = 0.0
    duration_s: float | None = None
    requests: int | None = None

    @property
    def whole(self) -> Part:
        """All of the file."""
        return Part(self.file, self.format)

    @property
    def key(self) -> str:
        """Equal for equal parts of equal files: paths of uploads tell their contents."""
        return repr(self)

    @property
    def slice(self) -> dict[str, Any]:
        """What a scenario says of it."""
        given = {"start_s": self.start_s, "duration_s": self.duration_s, "requests": self.requests}
        return {key: value for key, value in given.items() if value}

    def replayed(self, choice: Choice, profile: TraceProfile, scale: float) -> Choice:
        """The scenario with this traffic.

        Raises:
            UserError: the file has no times or no lengths, and neither has the scenario.
        """
        if profile.is_table:
            return self._with_rates(choice, scale)
        if profile.to_dict()["arrivals"] is None:
            return self._with_lengths(choice)
        workload: dict[str, Any] = {"kind": "trace", "file": self.file}
        if self.format != "auto":
            workload["format"] = self.format
        if self.slice:
            workload["slice"] = self.slice
        if scale != 1:
            workload["rate_scale"] = scale
        return choice.with_workload(workload)

    def _with_rates(self, choice: Choice, scale: float) -> Choice:
        """The table's arrivals, with the scenario's lengths or with those of its trace."""
        own = choice.scenario.workload
        rates: dict[str, Any] = {"kind": "rates", "file": self.file}
        if scale != 1:
            rates["scale"] = scale
        if own.kind == "synthetic":
            return choice.with_arrivals(rates)
        if own.kind == "trace":
            lengths = {"kind": "from_trace", "file": own.file, "format": own.format}
            return choice.with_workload(
                {"kind": "synthetic", "arrivals": rates, "lengths": lengths}
            )
        raise UserError(
            f"has rates but no lengths, and the scenario's workload, {own.kind}, has none either",
            where=self.file, hint="take a scenario whose workload is synthetic or a trace",
        )  # fmt: skip

    def _with_lengths(self, choice: Choice) -> Choice:
        """The file's lengths with the scenario's arrivals."""
        kind = choice.scenario.workload.kind
        if kind != "synthetic":
            raise UserError(
                "holds lengths but no arrival times, and the scenario's workload, which is "
                f"{kind}, has none to go with them",
                where=self.file, hint="take a scenario whose workload is synthetic",
            )  # fmt: skip
        lengths = {"kind": "from_trace", "file": self.file, "format": self.format}
        return choice.with_lengths(lengths)


def profile(part: Part) -> Work[TraceProfile]:
    """Reads the part."""

    def work(report: Report[TraceProfile]) -> TraceProfile:
        report.stage("reading")
        return simulator.profile_trace(
            part.file, part.format, start_s=part.start_s, duration_s=part.duration_s,
            requests=part.requests,
        )  # fmt: skip

    return work
