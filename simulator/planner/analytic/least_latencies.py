"""What the mean and the percentiles of latencies are at least."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from simulator.costs.least import ROUNDING
from simulator.planner.analytic.alone import Latencies
from simulator.planner.analytic.backlog import Backlog
from simulator.planner.analytic.machines import Machine
from simulator.planner.traffic import Offered
from simulator.workload.requests import Floats

LATENCIES = ("ttft_ms", "tpot_ms", "e2e_ms")
PERCENTILES = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}
_MEANS = np.array([0.0, 0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
"""Shares of the requests whose least waits bound the mean from below."""

Flags = npt.NDArray[np.bool_]


class LeastLatencies:
    """Least figures of latencies, in ms, of the requests that count and complete.

    Percentiles keep order: where every request takes at least so long, so does the request at each
    place of the order. Which requests count is known for open traffic; of others the fastest are
    taken, as many as count at the least.

    Args:
        traffic: what is asked.
        requests: least times of each request by itself.
        machines: what works on one thing at a time; none where that is not known.
        certain: every request ends with its last token. If not, nothing but the fastest of all
            requests is known of those that do.
    """

    def __init__(
        self,
        traffic: Offered,
        requests: Latencies,
        machines: Sequence[Machine],
        *,
        certain: bool,
    ) -> None:
        self.traffic = traffic
        self.requests = requests
        self.machines = machines
        self.certain = certain
        self._known_waits: tuple[bytes, list[tuple[Floats, Floats]]] = b"", []

    def figure(self, name: str, statistic: str, numbers: Floats) -> Floats:
        """Of all requests. Args: one of ``LATENCIES``, ``mean`` or a percentile, and numbers of
        replicas, (candidates, pools). Shape (candidates,)."""
        found = self.alone(name, statistic, numbers, np.ones(self.traffic.count, dtype=np.bool_))
        if self.certain and self.traffic.timed and name != "tpot_ms" and found.any():
            found = np.maximum(found, 1e3 * ROUNDING * self._waits(name, statistic, numbers))
        return found

    def alone(self, name: str, statistic: str, numbers: Floats, members: Flags) -> Floats:
        """Of some requests, as if nobody waited for others; ``members``: (requests,)."""
        values = getattr(self.requests, name.removesuffix("_ms") + "_s")
        values = self._counting(values, members)
        if not len(values) or statistic not in ("mean", *PERCENTILES):
            return np.zeros(len(numbers))
        mean = statistic == "mean"
        least = values.mean() if mean else np.percentile(values, PERCENTILES[statistic])
        return np.full(len(numbers), 1e3 * ROUNDING * float(least))

    def _counting(self, values: Floats, members: Flags) -> Floats:
        """Of the requests' least values, those of the fewest and fastest that may count."""
        known = np.isfinite(values) & members
        if self.certain and self.traffic.counted is not None:
            return values[known & self.traffic.counted[self.traffic.leads]]
        some = np.sort(values[known])
        if not self.certain:
            return some[:1]
        return some[: max(1, len(some) - self.traffic.most_cut)]

    # --- waiting ---------------------------------------------------------------------------------

    @cached_property
    def _backlogs(self) -> list[tuple[Backlog, Backlog, float]]:
        """Of each machine, the work up to first tokens and that of all tokens, of the requests that
        count; and the most work after the first token that any has."""
        traffic = self.traffic
        assert traffic.counted is not None
        chosen = traffic.counted[traffic.leads]
        sent_s = traffic.requests.arrival_s[traffic.places]
        found = []
        for one in self.machines:
            parts = (np.where(chosen, seconds, 0.0) for seconds in (one.first_s, one.whole_s))
            early, whole = (Backlog(sent_s, seconds) for seconds in parts)
            found.append((early, whole, float((one.whole_s - one.first_s).max())))
        return found

    def _waits(self, name: str, statistic: str, numbers: Floats) -> Floats:
        """What requests wait at least because others come as well, seconds."""
        n = self.traffic.least_counted
        if statistic != "mean":
            rank = int((n - 1) * PERCENTILES[statistic] / 100)
            return self._wait_of_rank(name, n - 1 - rank, numbers)
        ranks = np.unique((_MEANS * (n - 1)).astype(np.int64))
        total = np.zeros(len(numbers))
        for rank, end in zip(ranks.tolist(), [*ranks[1:].tolist(), n], strict=True):
            total += (end - rank) * self._wait_of_rank(name, n - 1 - rank, numbers)
        return total / n

    def _wait_of_rank(self, name: str, slower: int, numbers: Floats) -> Floats:
        """Of the request than which so many take longer."""
        found = np.zeros(len(numbers))
        for one, (early, whole, later_s), (for_first, for_all) in zip(
            self.machines, self._backlogs, self._longest(numbers), strict=True
        ):
            replicas = numbers[:, one.pool]
            if name == "e2e_ms":
                found = np.maximum(found, for_all - whole.largest_s(slower) / replicas)
                continue
            found = np.maximum(found, for_first - early.largest_s(slower) / replicas)
            if one.at_first is not None:  # all but those under way have more than a first token
                missing = whole.largest_s(slower) / replicas + one.at_first * later_s
                found = np.maximum(found, for_all - missing)
        return found

    def _longest(self, numbers: Floats) -> list[tuple[Floats, Floats]]:
        """Longest waits of each machine, for first tokens and for all; those of the last numbers
        asked for are kept."""
        key = numbers.tobytes()
        if self._known_waits[0] != key:
            waits = [
                (early.waits_s(numbers[:, one.pool]), whole.waits_s(numbers[:, one.pool]))
                for one, (early, whole, _) in zip(self.machines, self._backlogs, strict=True)
            ]
            self._known_waits = key, waits
        return self._known_waits[1]
