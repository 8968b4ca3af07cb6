"""What prefill and decode pools will probably do together."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from simulator.planner.analytic.estimates import PERCENTS, Estimates, State
from simulator.workload.requests import Floats


class PairEstimates:
    """Figures to expect of prefill replicas of one kind and decode replicas of one kind; numbers of
    replicas have two columns. Closed loops, whose pace both set together, are not foreseen.

    Args:
        prefill, decode: of each pool by itself.
        transfer_s: mean time of keys and values on their way.
    """

    def __init__(self, prefill: Estimates, decode: Estimates, transfer_s: float) -> None:
        self.prefill = prefill
        self.decode = decode
        self.transfer_s = transfer_s

    def figure(self, path: str, replicas: npt.ArrayLike) -> Floats:
        """See ``Estimates.figure``."""
        numbers = np.asarray(replicas, dtype=np.float64)
        first, then = self.prefill, self.decode
        if math.isfinite(first.users):
            return np.full(len(numbers), np.nan)
        states = first.state(numbers[:, 0]), then.state(numbers[:, 1])
        section, _, rest = path.partition(".")
        name, _, statistic = rest.partition(".")
        if section != "latency":
            return self._rates(path, states, numbers)
        share = PERCENTS.get(statistic)
        if name == "tpot_ms":
            return 1e3 * then.tpot_s(states[1], share)
        found = first.ttft_s(states[0], share if name == "ttft_ms" else None, numbers[:, 0])
        found = found + self.transfer_s
        if name == "e2e_ms":
            found = found + then.later(share) * states[1].pace_s + then.slots(states[1])[0]
            found = found + then.behind_s(0.5 if share is None else share, numbers[:, 1])
        return 1e3 * found

    def _rates(self, path: str, states: tuple[State, State], numbers: Floats) -> Floats:
        served = [state.rate_per_s * numbers[:, i] for i, state in enumerate(states)]
        devices, second = np.zeros(len(numbers)), np.zeros(len(numbers))
        for i, one in enumerate((self.prefill, self.decode)):
            deployment = one.pool.deployment
            held = deployment.devices_per_replica * numbers[:, i]
            price = deployment.usd_per_device_hour
            devices, second = devices + held, second + held * (price or math.nan) / 3600
        return self.prefill.spread_over(path, np.minimum(*served), devices, second)
