"""What a deployment will probably do: estimates without simulation, to know where to begin.

A replica that decodes B sequences gives each a token every t(B), and each prompt makes all wait for
p more. With λ requests/s of o tokens each that is the case for (Little's law)

    B = λ · (o · t(B) + B · p),     so     λ(B) = B / (o · t(B) + B · p)

which is priced at a few B and read backwards, for all numbers of replicas at once. Prompts wait for
each other as in M/G/1 (Pollaczek-Khinchine), requests for a slot as in G/G/c (Sakasegawa, 1977:
Lq ≈ ρ^√(2(c+1)) / (1 − ρ) · (Ca² + Cs²) / 2), tails are exponential, and above capacity the queue
grows as long as traffic comes. Not bounds: ``benchmarks/bounds.py`` prints how far off they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from simulator.planner.analytic.alone import AloneTimes
from simulator.planner.analytic.curve import Curve
from simulator.planner.constraints import Constraint
from simulator.workload.requests import Floats

_LENGTHS = 25
_HALVINGS = 24
_LOGISTIC = 1.702
"""Makes the logistic function the normal distribution's, but for heavier tails."""

PERCENTS = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class State:
    """Replicas in their steady state. Shapes (candidates,).

    Args:
        rate_per_s: requests/s that one of them serves.
        load: requests/s that come to one, over those that it can serve.
        sequences: that decode on one on average.
        pace_s: between two tokens of a sequence, prompts of others included.
        prompts_load: share of the time that prompts take.
    """

    rate_per_s: Floats
    load: Floats
    sequences: Floats
    pace_s: Floats
    prompts_load: Floats


class Estimates:
    """Figures to expect of replicas of one kind.

    Args:
        alone: the replica and the traffic; ``Bounds`` has it.
    """

    def __init__(self, alone: AloneTimes) -> None:
        self.pool = alone.pool
        self.traffic = alone.traffic
        self.curve = Curve(alone)
        front = alone.pool.resolved.front_end
        prompt = float(self.traffic.input_tokens.mean())
        way_s = front.request_s + front.busy_s + front.busy_s_per_token * prompt
        network_s = alone.pool.deployment.scenario.deployment.network_ms * 1e-3
        self._way_s = way_s + network_s + alone.back_s

    # --- what comes ------------------------------------------------------------------------------

    @cached_property
    def offered_per_s(self) -> float:
        """Requests/s of all replicas together; infinite where all come at once."""
        traffic = self.traffic
        if traffic.timed:
            return traffic.rate_per_s
        roots = traffic.requests.arrival_s[traffic.requests.parent < 0]
        return traffic.count / float(roots.max()) if len(roots) and roots.max() > 0 else math.inf

    @cached_property
    def users(self) -> float:
        """Requests that are under way or pause at once, where their number is limited."""
        limited = self.traffic.users + sum(self.traffic.requests.worker_limits)
        return float(limited) if limited else math.inf

    @cached_property
    def _bursts(self) -> float:
        """Square of the coefficient of variation of the gaps between requests."""
        if not self.traffic.timed:
            return 1.0
        gaps = np.diff(np.sort(self.traffic.requests.arrival_s[self.traffic.places]))
        mean = float(gaps.mean()) if len(gaps) else 0.0
        return float(gaps.var()) / mean**2 if mean > 0 else 1.0

    def state(self, replicas: npt.ArrayLike) -> State:
        """Steady states. Shape of ``replicas``: (candidates,)."""
        numbers = np.asarray(replicas, dtype=np.float64)
        curve = self.curve
        comes = self.offered_per_s / numbers
        served = np.minimum(comes, curve.most_per_s)
        sequences = curve.at_rate(served)
        if math.isfinite(self.users):
            away_s = self._way_s + self._pause_s + float(curve.first_s(np.ones(1), None)[0])
            limited = curve.with_users(self.users / numbers, away_s)
            if self.traffic.closed:
                sequences = limited
            sequences = np.minimum(sequences, limited)
            served = np.minimum(served, np.interp(sequences, curve.sequences, curve.rate_per_s))
            if self.traffic.closed:
                comes = served = np.interp(sequences, curve.sequences, curve.rate_per_s)
        prompts = np.minimum(served * np.interp(sequences, curve.sequences, curve.extra_s), 0.98)
        gap = np.interp(sequences, curve.sequences, curve.gap_s)
        capacity = np.interp(
            np.minimum(self.users / numbers, curve.most), curve.sequences, curve.rate_per_s
        )
        return State(served, comes / capacity, sequences, gap / (1.0 - prompts), prompts)

    @cached_property
    def _pause_s(self) -> float:
        closed = self.traffic.requests.pool >= 0
        return float(self.traffic.requests.arrival_s[closed].mean()) if closed.any() else 0.0

    # --- figures ---------------------------------------------------------------------------------

    def figure(self, path: str, replicas: npt.ArrayLike) -> Floats:
        """What to expect of a figure of the summary, for each number of replicas; NaN where nothing
        is. Shape (candidates,).

        Args:
            path: ``latency.{ttft,tpot,e2e}_ms.{mean,p50,p90,p95,p99}``, a rate of ``throughput``,
                or ``cost.usd_per_hour`` and the costs of requests and tokens.
            replicas: their numbers. Shape (candidates,).
        """
        numbers = np.asarray(replicas, dtype=np.float64)
        state = self.state(numbers)
        section, _, rest = path.partition(".")
        name, _, statistic = rest.partition(".")
        if section == "latency" and (statistic == "mean" or statistic in PERCENTS):
            share = PERCENTS.get(statistic)
            match name:
                case "ttft_ms":
                    return 1e3 * self.ttft_s(state, share, numbers)
                case "tpot_ms":
                    return 1e3 * self.tpot_s(state, share)
                case "e2e_ms":
                    return 1e3 * self._e2e_s(state, share, numbers)
        return self._rates(path, state, numbers)

    def ttft_s(self, state: State, share: float | None, numbers: Floats) -> Floats:
        """Time to the first token, mean or quantile, seconds. Shape (candidates,)."""
        curve = self.curve
        # A request waits for the step under way, if there is one.
        busy = 1.0 - np.exp(-state.sequences)
        ahead = 1.5 if self.pool.deployment.limits.async_scheduling else 0.5
        step_s = ahead * busy * np.interp(state.sequences, curve.sequences, curve.gap_s)
        squared = np.interp(state.sequences, curve.sequences, curve.extra_squared)
        prompts_s = state.rate_per_s * squared / (2.0 * (1.0 - state.prompts_load))
        slots_s, waiting = self.slots(state)
        base = self._way_s + step_s + curve.first_s(state.sequences, None)
        if share is None:
            return base + prompts_s + slots_s + self.behind_s(0.5, numbers)
        longer = curve.first_s(state.sequences, share) - curve.first_s(state.sequences, 0.5)
        waits = _tail(prompts_s, state.prompts_load, share) + _tail(slots_s, waiting, share)
        middle = self._way_s + step_s + curve.first_s(state.sequences, 0.5)
        spread: Floats = np.sqrt(np.maximum(longer, 0.0) ** 2 + waits**2)
        return middle + spread + self.behind_s(share, numbers)

    def slots(self, state: State) -> tuple[Floats, Floats]:
        """Mean wait for a slot, and how probable one is."""
        load = np.minimum(state.load, 0.999)
        slots = min(float(self.curve.most), self.users)
        waiting: Floats = load ** (math.sqrt(2.0 * (slots + 1.0)) - 1.0)
        stays = self.curve.later * state.pace_s
        lengths = self.traffic.output_tokens
        varies = float(lengths.var() / max(float(lengths.mean()), 1.0) ** 2)
        wait = 0.5 * (self._bursts + varies) * waiting / (slots * (1.0 - load)) * stays
        if self.traffic.timed:  # no longer than it takes to pile up
            wait = np.minimum(wait, 0.5 * self.traffic.window_s * load)
        closed = self.traffic.closed or not self.traffic.timed
        return (0.0 * wait if closed else wait), waiting

    def behind_s(self, share: float, numbers: Floats) -> Floats:
        """How far behind the replicas are when that share of the requests has come, where more come
        than they can serve."""
        traffic, curve = self.traffic, self.curve
        if not traffic.timed:
            users = np.full(len(numbers), self.users) / numbers
            away = curve.sequences[-1] + curve.most_per_s * self._pause_s
            waiting: Floats = np.maximum(users - away, 0.0) / curve.most_per_s
            return np.where(np.isfinite(waiting), waiting, 0.0)
        come_s = traffic.window_s if math.isfinite(self.offered_per_s) else 0.0
        busiest = np.minimum(self.users / numbers, curve.most)
        served = numbers * np.interp(busiest, curve.sequences, curve.rate_per_s)
        behind: Floats = share * np.maximum(traffic.count / served - come_s, 0.0)
        return behind

    def tpot_s(self, state: State, share: float | None) -> Floats:
        """How many prompts come while a request decodes is Poisson distributed, and they hold up
        few tokens more than many; the quantile is that of the mixture over the answers' lengths."""
        if share is None or share == 0.5:
            return state.pace_s
        curve, pace = self.curve, state.pace_s
        squared = np.interp(state.sequences, curve.sequences, curve.extra_squared)
        crowd = state.sequences + np.sqrt(state.sequences)
        at = [state.sequences, np.minimum(crowd, curve.sequences[-1])]
        gaps = np.interp(at, curve.sequences, curve.gap_s)
        varies = pace * (gaps[1] / gaps[0] - 1.0)
        variance = (state.rate_per_s * pace * squared)[:, None] / self._tokens
        spread = np.maximum(np.sqrt(variance + varies[:, None] ** 2), 1e-9 * pace[:, None])
        low, high = pace, pace + 20.0 * spread.max(axis=1)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            away = np.minimum(_LOGISTIC * (middle - pace)[:, None] / spread, 60.0)
            above = 1.0 / (1.0 + np.exp(away))
            many = above.mean(axis=1) > 1.0 - share
            low, high = np.where(many, middle, low), np.where(many, high, middle)
        return np.asarray(high)

    @cached_property
    def _tokens(self) -> Floats:
        """Tokens after the first one, at even quantiles of the answers that have some."""
        later = self.traffic.requests.output_tokens - 1.0
        some = later[later > 0]
        places = (np.arange(_LENGTHS) + 0.5) / _LENGTHS
        found: Floats = np.quantile(some, places) if len(some) else np.ones(1)
        return found

    def _e2e_s(self, state: State, share: float | None, numbers: Floats) -> Floats:
        first = self.ttft_s(state, None, numbers)
        if share is not None:
            first = first + self.behind_s(share, numbers) - self.behind_s(0.5, numbers)
        return first + self.later(share) * state.pace_s

    def later(self, share: float | None) -> float:
        """Tokens after the first one, mean or quantile."""
        if share is None:
            return self.curve.later
        return float(np.quantile(self.traffic.requests.output_tokens, share)) - 1.0

    def _rates(self, path: str, state: State, numbers: Floats) -> Floats:
        deployment = self.pool.deployment
        devices = deployment.devices_per_replica * numbers
        price = deployment.usd_per_device_hour
        second = devices * (math.nan if price is None else price) / 3600
        return self.spread_over(path, state.rate_per_s * numbers, devices, second)

    def spread_over(self, path: str, requests: Floats, devices: Floats, second: Floats) -> Floats:
        """A rate or a cost, from requests/s and what a second of all devices costs."""
        outputs = self.traffic.total_output_tokens / self.traffic.count
        tokens = outputs + self.traffic.total_input_tokens / self.traffic.count
        found = {
            "throughput.requests_per_s": requests,
            "throughput.output_tokens_per_s": requests * outputs,
            "throughput.total_tokens_per_s": requests * tokens,
            "throughput.output_tokens_per_s_per_device": requests * outputs / devices,
            "throughput.total_tokens_per_s_per_device": requests * tokens / devices,
            "cost.usd_per_hour": 3600 * second,
            "cost.usd_per_request": second / requests,
            "cost.usd_per_million_output_tokens": 1e6 * second / (requests * outputs),
            "cost.usd_per_million_total_tokens": 1e6 * second / (requests * tokens),
        }
        return found.get(path, np.full(len(requests), np.nan))

    def least_replicas(self, constraints: Sequence[Constraint], most: int) -> int | None:
        """Fewest replicas, up to ``most``, that are expected to hold all limits of which something
        is known; None: none are."""
        numbers = np.arange(1, most + 1)
        holds = self.state(numbers).load < 1.0
        for limit in constraints:
            if limit.traffic_class is None:
                expected = self.figure(limit.path, numbers)
                fails = expected > limit.limit if limit.max is not None else expected < limit.limit
                holds &= ~fails
        return int(numbers[holds][0]) if holds.any() else None


def _tail(mean: Floats, probable: Floats, share: float) -> Floats:
    """The quantile of a wait that is 0 but for the share ``probable``, and then exponential."""
    chance = np.maximum(probable, 1e-12)
    tail: Floats = mean / chance * np.log(np.maximum(chance / (1.0 - share), 1.0))
    return tail
