"""What devices cost and draw at least, from what they do every second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from simulator.results.money import J_PER_KWH
from simulator.workload.requests import Floats


@dataclass(frozen=True)
class Spent:
    """Least figures of money and energy. Shapes (candidates,).

    Args:
        each: of all devices: currency an hour, or watts.
        devices: how many there are.
        window_s: least length of the window.
        ends_s: when the run ends at the earliest.
        rate: most ``requests``, ``output_tokens`` or ``total_tokens`` a second of the window.
    """

    each: Floats
    devices: Floats
    window_s: float
    ends_s: Callable[[], Floats]
    rate: Callable[[str], Floats]

    def cost(self, name: str) -> Floats:
        """A figure of ``cost``; ``each`` is currency an hour."""
        second = self.each / 3600
        match name:
            case "usd_per_hour":
                found = self.each
            case "usd_per_request":
                found = second / self.rate("requests")
            case "usd_per_million_output_tokens":
                found = 1e6 * second / self.rate("output_tokens")
            case "usd_per_million_total_tokens":
                found = 1e6 * second / self.rate("total_tokens")
            case "usd":
                found = second * self.window_s
            case "whole_run_usd":
                found = second * self.ends_s()
            case _:
                found = np.zeros(len(second))
        return found

    def energy(self, name: str, gco2e_per_kwh: float) -> Floats:
        """A figure of ``energy``; ``each`` is in watts. No carbon where the grid is not known."""
        grams = gco2e_per_kwh / J_PER_KWH
        match name:
            case "power_w_mean":
                found = self.each
            case "power_w_mean_per_device":
                found = self.each / self.devices
            case "joules_per_request":
                found = self.each / self.rate("requests")
            case "joules_per_output_token":
                found = self.each / self.rate("output_tokens")
            case "joules_per_total_token":
                found = self.each / self.rate("total_tokens")
            case "gco2e_per_request":
                found = grams * self.each / self.rate("requests")
            case "gco2e_per_million_output_tokens":
                found = 1e6 * grams * self.each / self.rate("output_tokens")
            case "energy_kwh":
                found = self.each * self.window_s / J_PER_KWH
            case "gco2e":
                found = grams * self.each * self.window_s
            case "whole_run_kwh":
                found = self.each * self.ends_s() / J_PER_KWH
            case "whole_run_gco2e":
                found = grams * self.each * self.ends_s()
            case _:
                found = np.zeros(len(self.each))
        return found
