"""What no simulation of a deployment can beat: bounds from arithmetic alone.

``ReplicaBounds`` says of replicas of one kind and some traffic, for any number of replicas at once:
no figure of a run is below ``floor`` or above ``ceiling``. Where no bound is known, these are 0
and infinity. What they rest on: the least times of requests alone (simulator.costs.least), the
least time of the work as a whole (simulator.costs.burden), and the wait of requests that come
faster than they can be served (simulator.planner.backlog).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from simulator.costs.burden import burdens
from simulator.costs.least import ROUNDING
from simulator.planner.alone import AloneTimes, setting_of
from simulator.planner.backlog import Backlog
from simulator.planner.constraints import Constraint
from simulator.planner.rates import Capacity, Rates
from simulator.planner.traffic import Offered
from simulator.resolution.pools import ResolvedPool
from simulator.results.money import J_PER_KWH
from simulator.results.slo import slo_of_classes
from simulator.workload.requests import Floats

Counts = npt.ArrayLike
"""Numbers of replicas. Shape (candidates,)."""

_PERCENTILES = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}
_LATENCIES = ("ttft_ms", "tpot_ms", "e2e_ms")
_MEANS = np.array([0.0, 0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
"""Shares of the requests whose least waits bound the mean from below."""


class ReplicaBounds:
    """Bounds of deployments whose replicas are all of one kind and serve all of the traffic.

    Replicas that come and go, that share devices with another pool, or that have a role of their
    own, have bounds of single requests alone.

    Args:
        pool: of the kind; how many replicas it has does not matter.
        traffic: what is asked.
    """

    def __init__(self, pool: ResolvedPool, traffic: Offered) -> None:
        self.pool = pool
        self.traffic = traffic
        self.alone = AloneTimes(pool, traffic, setting_of(pool, traffic))
        asked = pool.deployment.scenario.deployment
        self.certain = (
            asked.timeout_s is None
            and asked.admission is None
            and asked.oversized_requests == "error"
            and asked.gateway.max_queue is None
            and pool.life is None
        )
        """Whether every request ends with its last token."""
        self.whole = pool.life is None and not pool.shares and pool.role == "serve"
        """Whether the replicas are all there is, all of the time."""
        self._known_waits: tuple[bytes, list[tuple[Floats, Floats]]] = b"", []

    # --- what all of the traffic takes -----------------------------------------------------------

    @cached_property
    def _works(self) -> list[tuple[Floats, Floats, float]]:
        """Least seconds of each machine of a replica: of each request up to its first token, of all
        of it, and of any later token. Shapes (requests,)."""
        requests, starts = self.traffic.requests, self.traffic.places
        prompt = requests.input_tokens.astype(np.float64)
        past = self.alone.past.astype(np.float64)
        later = (requests.output_tokens - 1).astype(np.float64)
        if requests.answers is not None:  # further answers to a prompt share it
            past = np.where(requests.answers.leads, past, prompt)
        found = []
        for each, work in burdens(self.alone.least, prompt, past, later):
            first, rest = each.first_s(work), each.later_s(work)
            token_s = each.later + each.context * (float(prompt.min()) + 1.0)
            found.append((first[starts], np.add.reduceat(first + rest, starts), max(token_s, 0.0)))
        return found

    @cached_property
    def _front_end_s(self) -> Floats:
        """Seconds of each request that keep a replica's front end busy. Shape (requests,)."""
        front, prompts = self.pool.resolved.front_end, self.traffic.input_tokens
        return (front.busy_s + front.busy_s_per_token * prompts) / self.alone.least.ranks

    @cached_property
    def _backlogs(self) -> list[tuple[Backlog, Backlog, float]]:
        """Of each machine, the work up to first tokens and that of all tokens, of the requests that
        count; and the most work after the first token that any has."""
        traffic = self.traffic
        assert traffic.counted is not None
        chosen = traffic.counted[traffic.leads]
        sent_s = traffic.requests.arrival_s[traffic.places]
        found = []
        front = self._front_end_s
        for first, full, _ in [*self._works, (front, front, 0.0)]:
            parts = (np.where(chosen, seconds, 0.0) for seconds in (first, full))
            early, whole = (Backlog(sent_s, seconds) for seconds in parts)
            found.append((early, whole, float((full - first).max())))
        return found

    @cached_property
    def load(self) -> float:
        """Replicas that the traffic keeps busy on average, at least; NaN where requests wait for
        other ones."""
        if not (self.traffic.timed and self.whole):
            return float("nan")
        sent_s = self.traffic.requests.arrival_s[self.traffic.places]
        span_s = float(np.ptp(sent_s))
        sums = [float(full.sum()) for _, full, _ in self._works]
        most = max(*sums, float(self._front_end_s.sum()))
        return most / span_s if span_s > 0 else math.inf

    def least_replicas(self) -> int:
        """Fewest replicas that keep up with the traffic; with fewer, requests pile up for as long
        as it lasts. 1 where no bound is known."""
        if not math.isfinite(self.load):
            return 1
        return max(1, math.ceil(self.load * ROUNDING))

    # --- figures of a run ------------------------------------------------------------------------

    def floor(self, path: str, replicas: Counts) -> Floats:
        """What a figure of the summary is at least; 0 where no bound is known.

        Args:
            path: ``latency.{ttft,tpot,e2e}_ms.{mean,p50,p90,p95,p99}``, or one of ``cost`` and
                ``energy``.
            replicas: numbers of replicas.

        Returns:
            Of each number of replicas. Shape (candidates,).
        """
        numbers = np.asarray(replicas, dtype=np.float64)
        section, _, rest = path.partition(".")
        name, _, statistic = rest.partition(".")
        if section == "latency" and name in _LATENCIES:
            return self._least_latency(name, statistic, numbers)
        if section == "cost" and self.whole:
            return self._least_cost(name, numbers)
        if section == "energy" and self.whole:
            return self._least_energy(name, numbers)
        return np.zeros(numbers.shape)

    def ceiling(self, path: str, replicas: Counts) -> Floats:
        """What a figure of ``throughput`` or ``slo`` is at most; infinite where no bound is known.
        Arguments and result as of ``floor``."""
        numbers = np.asarray(replicas, dtype=np.float64)
        devices = self.pool.deployment.devices_per_replica * numbers
        match path:
            case "slo.goodput_share" if self._meeting is not None:
                return np.full(numbers.shape, self._meeting)
            case "throughput.requests_per_s" | "slo.goodput_requests_per_s":
                return self._rate("requests", numbers)
            case "throughput.output_tokens_per_s":
                return self._rate("output_tokens", numbers)
            case "throughput.total_tokens_per_s":
                return self._rate("total_tokens", numbers)
            case "throughput.output_tokens_per_s_per_device":
                return self._rate("output_tokens", numbers) / devices
            case "throughput.total_tokens_per_s_per_device":
                return self._rate("total_tokens", numbers) / devices
        return np.full(numbers.shape, np.inf)

    def possible(
        self, constraints: Sequence[Constraint], replicas: Counts
    ) -> npt.NDArray[np.bool_]:
        """Which numbers of replicas no bound rules out. Shape (candidates,)."""
        numbers = np.asarray(replicas, dtype=np.float64)
        found = np.ones(numbers.shape, dtype=np.bool_)
        for each in constraints:
            if each.traffic_class is not None:
                continue
            if each.max is not None:
                found &= self.floor(each.path, numbers) <= each.max
            else:
                found &= self.ceiling(each.path, numbers) >= each.limit
        return found

    # --- latency ---------------------------------------------------------------------------------

    def _least_latency(self, name: str, statistic: str, numbers: Floats) -> Floats:
        alone = self._counting(getattr(self.alone, name.removesuffix("_ms") + "_s"))
        if not len(alone) or statistic not in ("mean", *_PERCENTILES):
            return np.zeros(numbers.shape)
        mean = statistic == "mean"
        own = alone.mean() if mean else np.percentile(alone, _PERCENTILES[statistic])
        least = np.full(numbers.shape, float(own))
        waits = self.certain and self.whole and self.traffic.timed
        if waits and name != "tpot_ms":
            least = np.maximum(least, self._waits(name, statistic, numbers))
        return 1e3 * ROUNDING * least

    def _counting(self, values: Floats) -> Floats:
        """Of the requests' least values, those of the fewest and fastest that may count."""
        if self.certain and self.traffic.counted is not None:
            values = values[self.traffic.counted[self.traffic.leads]]
            return values[np.isfinite(values)]
        values = np.sort(values[np.isfinite(values)])
        if not self.certain:
            return values[:1]
        return values[: max(1, len(values) - self.traffic.most_cut)]

    def _waits(self, name: str, statistic: str, numbers: Floats) -> Floats:
        """What requests wait at least because others come as well, seconds."""
        n = self.traffic.least_counted
        if statistic != "mean":
            rank = int((n - 1) * _PERCENTILES[statistic] / 100)
            return self._wait_of_rank(name, n - 1 - rank, numbers)
        ranks = np.unique((_MEANS * (n - 1)).astype(np.int64))
        total = np.zeros(numbers.shape)
        for rank, end in zip(ranks.tolist(), [*ranks[1:].tolist(), n], strict=True):
            total += (end - rank) * self._wait_of_rank(name, n - 1 - rank, numbers)
        return total / n

    def _wait_of_rank(self, name: str, slower: int, numbers: Floats) -> Floats:
        """Of the request than which so many take longer."""
        found = np.zeros(numbers.shape)
        for (early, whole, later_s), waits in zip(
            self._backlogs, self._longest(numbers), strict=True
        ):
            if name == "e2e_ms":
                found = np.maximum(found, waits[1] - whole.largest_s(slower) / numbers)
                continue
            found = np.maximum(found, waits[0] - early.largest_s(slower) / numbers)
            if self._in_order:  # all but those under way have more than their first token
                under_way_s = self.alone.decoding * later_s
                missing = whole.largest_s(slower) / numbers + under_way_s
                found = np.maximum(found, waits[1] - missing)
        return found

    def _longest(self, numbers: Floats) -> list[tuple[Floats, Floats]]:
        """Longest waits of each machine, for first tokens and for all; those of the last numbers
        asked for are kept."""
        key = numbers.tobytes()
        if self._known_waits[0] != key:
            waits = [
                (early.waits_s(numbers), whole.waits_s(numbers))
                for early, whole, _ in self._backlogs
            ]
            self._known_waits = key, waits
        return self._known_waits[1]

    @cached_property
    def _in_order(self) -> bool:
        """Whether those that have begun and not ended never are more than run at once."""
        engine = self.pool.deployment.scenario.engine
        fcfs = self.pool.deployment.limits.queue.kind == "fcfs"
        kept = fcfs and engine.preemption.kind == "recompute"
        return self.traffic.requests.answers is None and (kept or not self.alone.setting.preempts)

    @cached_property
    def _meeting(self) -> float | None:
        """Share of the requests that count which may meet the limits of their class; None where it
        is not known which count, or nothing is asked of them."""
        if self.traffic.counted is None:
            return None
        met, limited = self._may_meet
        return float(met[self.traffic.counted[self.traffic.leads]].mean()) if limited else None

    @cached_property
    def _may_meet(self) -> tuple[npt.NDArray[np.bool_], bool]:
        scenario, requests = self.pool.deployment.scenario, self.traffic.requests
        slos = slo_of_classes(scenario)
        met = np.ones(self.traffic.count, dtype=np.bool_)
        limited = False
        classes = requests.class_id[self.traffic.places]
        for number, name in enumerate(requests.classes):
            slo = slos.get(name, scenario.slo)
            for limit, least in (
                (slo.ttft_ms, "ttft_s"), (slo.tpot_ms, "tpot_s"), (slo.e2e_ms, "e2e_s"),
            ):  # fmt: skip
                if limit is not None:
                    limited = True
                    met &= ~((classes == number) & (1e3 * getattr(self.alone, least) > limit))
        return met, limited

    # --- rates, money, energy --------------------------------------------------------------------

    @cached_property
    def _rates(self) -> list[Rates]:
        alone_s = self.alone.e2e_s
        running = float(self.alone.running) if self._in_order else np.inf
        return [
            Rates(self.traffic, Capacity(full, token_s, running, self.alone.gain, alone_s))
            for _, full, token_s in self._works
        ]

    def _rate(self, what: str, numbers: Floats) -> Floats:
        """Most of the machines' least."""
        if not self.whole:
            return np.full(numbers.shape, np.inf)
        ends_s = self._ends_s(numbers)
        found = [getattr(rates, what)(numbers, ends_s) for rates in self._rates]
        least: Floats = np.minimum.reduce(found)
        return least / ROUNDING

    def _ends_s(self, numbers: Floats) -> Floats:
        """When the run ends at the earliest; 0 where that depends on the run."""
        traffic = self.traffic
        if not (traffic.timed and self.certain):
            return np.full(numbers.shape, traffic.last_s if traffic.timed else 0.0)
        sent_s = traffic.requests.arrival_s[traffic.places]
        ends = np.full(numbers.shape, float((sent_s + self.alone.e2e_s).max()))
        for _, full, _ in self._works:
            ends = np.maximum(ends, Backlog(sent_s, full).ends_s(numbers))
        return ROUNDING * ends

    def _least_cost(self, name: str, numbers: Floats) -> Floats:
        price = self.pool.deployment.usd_per_device_hour
        if price is None:
            return np.zeros(numbers.shape)
        per_hour = ROUNDING * price * self.pool.deployment.devices_per_replica * numbers
        match name:
            case "usd_per_hour":
                return per_hour
            case "usd_per_request":
                return per_hour / 3600 / self._rate("requests", numbers)
            case "usd_per_million_output_tokens":
                return 1e6 * per_hour / 3600 / self._rate("output_tokens", numbers)
            case "usd_per_million_total_tokens":
                return 1e6 * per_hour / 3600 / self._rate("total_tokens", numbers)
            case "usd" if self.traffic.timed:
                return per_hour / 3600 * self.traffic.window_s
            case "whole_run_usd" if self.traffic.timed:
                return per_hour / 3600 * self._ends_s(numbers)
        return np.zeros(numbers.shape)

    def _least_energy(self, name: str, numbers: Floats) -> Floats:
        """Devices draw what they draw when idle, at least."""
        energy = self.pool.deployment.scenario.energy
        idle_w = ROUNDING * energy.pue * self.pool.resolved.cost.idle_w * numbers
        grams = (energy.grid_gco2e_per_kwh or 0.0) / J_PER_KWH
        match name:
            case "power_w_mean":
                return idle_w
            case "power_w_mean_per_device":
                return idle_w / (self.pool.deployment.devices_per_replica * numbers)
            case "joules_per_request":
                return idle_w / self._rate("requests", numbers)
            case "joules_per_output_token":
                return idle_w / self._rate("output_tokens", numbers)
            case "joules_per_total_token":
                return idle_w / self._rate("total_tokens", numbers)
            case "gco2e_per_request":
                return grams * idle_w / self._rate("requests", numbers)
            case "gco2e_per_million_output_tokens":
                return 1e6 * grams * idle_w / self._rate("output_tokens", numbers)
            case "energy_kwh" if self.traffic.timed:
                return idle_w * self.traffic.window_s / J_PER_KWH
            case "gco2e" if self.traffic.timed:
                return grams * idle_w * self.traffic.window_s
            case "whole_run_kwh" if self.traffic.timed:
                return idle_w * self._ends_s(numbers) / J_PER_KWH
            case "whole_run_gco2e" if self.traffic.timed:
                return grams * idle_w * self._ends_s(numbers)
        return np.zeros(numbers.shape)
