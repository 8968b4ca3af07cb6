"""What no simulation of a deployment can beat: bounds from arithmetic alone.

``Bounds`` says of a deployment's pools and some traffic, for any numbers of replicas at once: no
figure of a run is below ``floor`` or above ``ceiling``. Where no bound is known, these are 0 and
infinity. What they rest on: the least times of requests alone (simulator.costs.least), the
least time of the work as a whole (simulator.costs.burden), and the wait of requests that come
faster than they can be served (simulator.planner.analytic.backlog).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from simulator.costs.least import ROUNDING
from simulator.planner.analytic.alone import AloneTimes, AnyOf, HandedOver, Latencies, setting_of
from simulator.planner.analytic.backlog import Backlog
from simulator.planner.analytic.estimates import Estimates
from simulator.planner.analytic.estimates_of_pairs import PairEstimates
from simulator.planner.analytic.least_latencies import LATENCIES, LeastLatencies
from simulator.planner.analytic.machines import Machine, machines_of
from simulator.planner.analytic.rates import Capacity, Rates
from simulator.planner.analytic.spent import Spent
from simulator.planner.constraints import Constraint
from simulator.planner.traffic import Offered
from simulator.resolution.pools import ResolvedPool
from simulator.resolution.transfers import paths_of
from simulator.results.slo import slo_of_classes
from simulator.workload.requests import Floats

Counts = npt.ArrayLike
"""Numbers of replicas. Shape (candidates,)."""


class Bounds:
    """Bounds of deployments of given pools that serve some traffic, for any numbers of replicas.

    Numbers of replicas are an array, with a column for each pool where there are several. They hold
    for this very traffic: of other seeds, ask anew.

    Args:
        pools: what their replicas are; how many they have does not matter.
        traffic: what is asked.
    """

    def __init__(self, pools: Sequence[ResolvedPool], traffic: Offered) -> None:
        self.pools = tuple(pools)
        self.traffic = traffic
        each = [AloneTimes(pool, traffic, setting_of(pool, traffic)) for pool in pools]
        self._pairs = sorted(pool.role for pool in pools) == ["decode", "prefill"]
        self.alone = _together(each)
        asked = pools[0].deployment.scenario.deployment
        steady = all(pool.life is None for pool in pools)
        self.certain = (
            steady
            and asked.timeout_s is None
            and asked.admission is None
            and asked.oversized_requests == "error"
            and asked.gateway.max_queue is None
        )
        """Whether every request ends with its last token."""
        self.whole = steady and not any(pool.shares for pool in pools)
        """Whether all devices are held all of the time, by one pool each."""
        self._each = each

    def _numbers(self, replicas: Counts) -> Floats:
        """Shape (candidates, pools)."""
        numbers = np.asarray(replicas, dtype=np.float64)
        return numbers.reshape(len(numbers), len(self.pools))

    # --- what all of the traffic takes -----------------------------------------------------------

    @cached_property
    def machines(self) -> list[Machine]:
        """What works on one thing at a time, where it is known who does what."""
        known = self._pairs or (len(self.pools) == 1 and self.pools[0].role == "serve")
        if not (known and self.whole):
            return []
        return [
            one for number, alone in enumerate(self._each) for one in machines_of(alone, number)
        ]

    @cached_property
    def loads(self) -> Floats:
        """Replicas of each pool that the traffic keeps busy on average, at least; 0 where no bound
        is known. Shape (pools,)."""
        found = np.zeros(len(self.pools))
        if not self.traffic.timed:
            return found
        span_s = float(np.ptp(self.traffic.requests.arrival_s[self.traffic.places]))
        for one in self.machines:
            load = float(one.whole_s.sum()) / span_s if span_s > 0 else 0.0
            found[one.pool] = max(found[one.pool], ROUNDING * load)
        return found

    def least_replicas(self) -> tuple[int, ...]:
        """Fewest replicas of each pool that keep up with the traffic; with fewer, requests pile up
        for as long as it lasts. 1 where no bound is known."""
        return tuple(max(1, math.ceil(load)) for load in self.loads.tolist())

    # --- figures of a run ------------------------------------------------------------------------

    def floor(self, path: str, replicas: Counts) -> Floats:
        """What a figure of the summary is at least; 0 where no bound is known.

        Args:
            path: ``latency.{ttft,tpot,e2e}_ms.{mean,p50,p90,p95,p99}``, the same of a class as
                ``classes.chat.ttft_ms.p99``, or one of ``cost`` and ``energy``.
            replicas: numbers of replicas. Shape (candidates,), or (candidates, pools).

        Returns:
            Of each candidate. Shape (candidates,).
        """
        numbers = self._numbers(replicas)
        section, _, rest = path.partition(".")
        name, _, statistic = rest.partition(".")
        if section == "latency" and name in LATENCIES:
            return self._latencies.figure(name, statistic, numbers)
        if section == "classes":
            return self._of_class(rest, numbers)
        if section in ("cost", "energy") and self.whole:
            return self._least_spent(section, name, numbers)
        return np.zeros(len(numbers))

    def ceiling(self, path: str, replicas: Counts) -> Floats:
        """What a figure of ``throughput`` or ``slo`` is at most; infinite where no bound is known.
        Arguments and result as of ``floor``."""
        numbers = self._numbers(replicas)
        devices = numbers @ self._devices
        match path:
            case "slo.goodput_share" if self._meeting is not None:
                return np.full(len(numbers), self._meeting)
            case "throughput.requests_per_s" | "slo.goodput_requests_per_s":
                return self._rate("requests", numbers)
            case "throughput.output_tokens_per_s":
                return self._rate("output_tokens", numbers)
            case "throughput.total_tokens_per_s":
                return self._rate("total_tokens", numbers)
            case "throughput.output_tokens_per_s_per_device" if self.whole:
                return self._rate("output_tokens", numbers) / devices
            case "throughput.total_tokens_per_s_per_device" if self.whole:
                return self._rate("total_tokens", numbers) / devices
        return np.full(len(numbers), np.inf)

    def possible(
        self, constraints: Sequence[Constraint], replicas: Counts
    ) -> npt.NDArray[np.bool_]:
        """Which numbers of replicas no bound rules out. Shape (candidates,)."""
        numbers = self._numbers(replicas)
        found = np.ones(len(numbers), dtype=np.bool_)
        for each in constraints:
            if each.max is not None:
                found &= self.floor(each.path, numbers) <= each.max
            else:
                found &= self.ceiling(each.path, numbers) >= each.limit
        return found

    # --- latency and limits ----------------------------------------------------------------------

    @cached_property
    def _latencies(self) -> LeastLatencies:
        return LeastLatencies(self.traffic, self.alone, self.machines, certain=self.certain)

    def _of_class(self, rest: str, numbers: Floats) -> Floats:
        """A latency of one traffic class: ``chat.ttft_ms.p99``."""
        name, _, metric = rest.rpartition(".")[0].rpartition(".")
        classes = self.traffic.requests.classes
        if metric not in LATENCIES or name not in classes:
            return np.zeros(len(numbers))
        members = self.traffic.requests.class_id[self.traffic.places] == classes.index(name)
        return self._latencies.alone(metric, rest.rpartition(".")[2], numbers, members)

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
        scenario, requests = self.pools[0].deployment.scenario, self.traffic.requests
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
    def _devices(self) -> Floats:
        return np.array([float(pool.deployment.devices_per_replica) for pool in self.pools])

    @cached_property
    def _rates(self) -> list[tuple[int, Rates]]:
        alone_s = self.alone.e2e_s
        found = []
        for one in self.machines:
            if one.under_way is not None:
                gain = self._each[one.pool].gain
                capacity = Capacity(one.whole_s, one.token_s, one.under_way, gain, alone_s)
                found.append((one.pool, Rates(self.traffic, capacity)))
        if not found:  # nothing is known but the traffic
            nothing = Capacity(0.0 * alone_s, 0.0, self.traffic.count, 1, alone_s)
            found.append((0, Rates(self.traffic, nothing)))
        return found

    def _rate(self, what: str, numbers: Floats) -> Floats:
        """Most of the machines' least."""
        ends_s = self._ends_s(numbers)
        found = [getattr(rates, what)(numbers[:, pool], ends_s) for pool, rates in self._rates]
        least: Floats = np.minimum.reduce(found)
        return least / ROUNDING

    def _ends_s(self, numbers: Floats) -> Floats:
        """When the run ends at the earliest; 0 where that depends on the run."""
        traffic = self.traffic
        if not (traffic.timed and self.certain):
            return np.full(len(numbers), traffic.last_s if traffic.timed else 0.0)
        sent_s = traffic.requests.arrival_s[traffic.places]
        ends = np.full(len(numbers), float((sent_s + self.alone.e2e_s).max()))
        for one in self.machines:
            ends = np.maximum(ends, Backlog(sent_s, one.whole_s).ends_s(numbers[:, one.pool]))
        return ROUNDING * ends

    def _least_spent(self, section: str, name: str, numbers: Floats) -> Floats:
        """Devices cost their price, and draw at least what they draw when idle."""
        energy = self.pools[0].deployment.scenario.energy
        if section == "cost":
            prices = [pool.deployment.usd_per_device_hour for pool in self.pools]
            each = self._devices * np.array([price or 0.0 for price in prices])
            if None in prices:
                return np.zeros(len(numbers))
        else:
            each = energy.pue * np.array([pool.resolved.cost.idle_w for pool in self.pools])
        spent = Spent(
            ROUNDING * (numbers @ each),
            devices=numbers @ self._devices,
            window_s=self.traffic.window_s if self.traffic.timed else 0.0,
            ends_s=lambda: self._ends_s(numbers),
            rate=lambda what: self._rate(what, numbers),
        )
        if section == "cost":
            return spent.cost(name)
        return spent.energy(name, energy.grid_gco2e_per_kwh or 0.0)


class ReplicaBounds(Bounds):
    """Bounds of replicas of one kind that serve all of the traffic, and what to expect of them."""

    def __init__(self, pool: ResolvedPool, traffic: Offered) -> None:
        super().__init__([pool], traffic)

    @cached_property
    def expected(self) -> Estimates:
        """What to expect of them."""
        return Estimates(self._each[0])

    def estimate(self, path: str, replicas: Counts) -> Floats:
        """What to expect of a figure; see ``Estimates.figure``. Shape (candidates,)."""
        return self.expected.figure(path, replicas)


class PairBounds(Bounds):
    """Bounds of prefill replicas of one kind and decode replicas of one kind, and what to expect of
    them; numbers of replicas have two columns."""

    def __init__(self, prefill: ResolvedPool, decode: ResolvedPool, traffic: Offered) -> None:
        super().__init__([prefill, decode], traffic)

    @cached_property
    def expected(self) -> PairEstimates:
        """What to expect of them."""
        assert isinstance(self.alone, HandedOver)
        prefill, decode = (Estimates(each) for each in self._each)
        return PairEstimates(prefill, decode, float(self.alone.moved_s.mean()))

    def estimate(self, path: str, replicas: Counts) -> Floats:
        """What to expect of a figure; see ``PairEstimates.figure``. Shape (candidates,)."""
        return self.expected.figure(path, replicas)


def _together(each: Sequence[AloneTimes]) -> Latencies:
    """Of pools that work together, by their roles."""
    pools = [alone.pool for alone in each]
    prefill = [alone for alone in each if alone.pool.role == "prefill"]
    if not prefill:
        return each[0] if len(each) == 1 else AnyOf(each)
    paths = paths_of(pools[0].deployment.scenario, pools)
    assert paths is not None
    decode = [alone for alone in each if alone.pool.role == "decode"]
    ways = [HandedOver(one, other, paths) for one in prefill for other in decode]
    return ways[0] if len(ways) == 1 else AnyOf(ways)
