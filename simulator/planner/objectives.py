"""What is best: a figure of a deployment, to be as low or as high as possible."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from simulator.planner.constraints import metric_paths
from simulator.planner.report.words import title
from simulator.results.definitions import DEFINITIONS
from simulator.scenario.base import Model
from simulator.sentences import closest

NAMES = {
    "cost_per_hour": "cost.usd_per_hour",
    "cost_per_million_output_tokens": "cost.usd_per_million_output_tokens",
    "cost_per_million_tokens": "cost.usd_per_million_total_tokens",
    "cost_per_request": "cost.usd_per_request",
    "devices": "devices",
    "energy_per_output_token": "energy.joules_per_output_token",
    "power": "energy.power_w_mean",
    "carbon_per_request": "energy.gco2e_per_request",
    "goodput": "slo.goodput_requests_per_s",
}
"""Names of objectives, and the figures that they stand for."""


class Objective(Model):
    """A figure, by a name of ``NAMES`` or by its path in the summary."""

    metric: str = Field(description="cost_per_hour, devices, energy_per_output_token, … or a path")
    best: Literal["lowest", "highest"] | None = Field(
        None, description="which is better, where the figure does not say so itself"
    )

    @model_validator(mode="after")
    def _known(self) -> Objective:
        if self.path != "devices" and self.path not in metric_paths():
            near = closest(self.metric, [*NAMES, *metric_paths()])
            hint = f"did you mean '{near}'?" if near else f"known are {', '.join(NAMES)}"
            raise ValueError(f"there is no objective {self.metric!r}; {hint}")
        if self.best is None and not self._better():
            raise ValueError(f"say whether the lowest or the highest {self.metric} is best")
        return self

    @property
    def path(self) -> str:
        """Where the figure stands in a summary; ``devices`` stands in none."""
        if self.metric in NAMES:
            return NAMES[self.metric]
        return self.metric if self.metric in metric_paths() else f"latency.{self.metric}"

    @property
    def sign(self) -> int:
        """1 if lower is better, else -1."""
        if self.best is not None:
            return 1 if self.best == "lowest" else -1
        return 1 if self._better() == "lower" else -1

    def _better(self) -> str:
        if self.path in ("devices", "energy.power_w_mean"):
            return "lower"
        found = [d.better for d in DEFINITIONS if self.path.startswith(d.key)]
        return next(iter(found), "")

    @property
    def grows(self) -> bool:
        """Whether more replicas for the same traffic only make it worse: they cost more, and each
        has smaller batches."""
        with_size = self.path.startswith(("cost.", "energy.")) or self.path == "devices"
        return with_size and self.sign > 0

    @property
    def label(self) -> str:
        """As reports call it."""
        return self.metric.replace("_", " ") if self.metric in NAMES else title(self.path)

    @property
    def unit(self) -> str:
        """Of the figure; empty where it is a count."""
        return next((d.unit for d in DEFINITIONS if self.path.startswith(d.key)), "")
