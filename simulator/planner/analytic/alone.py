"""Least latencies of every request of some traffic, as if each had a replica to itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np

from simulator.cluster.disaggregation import Paths
from simulator.cluster.groups import lanes_of, share_of_lane
from simulator.costs.least import ROUNDING, Setting
from simulator.costs.least_requests import Least, least_of
from simulator.planner.analytic.cached import cacheable
from simulator.planner.traffic import Offered
from simulator.resolution.pools import ResolvedPool
from simulator.scenario.policies import DynamicPolicy, StaticPolicy
from simulator.workload.requests import Floats, Ints


def setting_of(pool: ResolvedPool, traffic: Offered) -> Setting:
    """What steps of a pool's schedulers can be like, whatever happens."""
    limits, requests = pool.deployment.limits, traffic.requests
    lanes = lanes_of(pool.resolved.cost)
    layout = share_of_lane(pool.resolved.layout, lanes) if lanes > 1 else pool.resolved.layout
    sequences = limits.max_num_seqs
    if pool.deployment.layout.pp > 1:
        sequences = max(1, sequences // lanes)
    whole = isinstance(limits.policy, StaticPolicy | DynamicPolicy)
    if isinstance(limits.policy, StaticPolicy | DynamicPolicy):
        sequences = min(sequences, limits.policy.batch_size)
    shortest = int(requests.input_tokens.min())
    longest = int((requests.input_tokens + requests.output_tokens).max())
    keeps = whole or limits.policy.kind == "full_reservation" or bool(limits.kv_reserve)
    roomy = sequences * layout.blocks_for(longest) <= layout.blocks - layout.watermark
    shares = requests.answers is not None or (
        limits.prefix_caching and requests.prefixes is not None
    )
    if not shares and not limits.kv_reserve:
        # Sequences that decode have blocks for their prompts at least.
        sequences = max(1, min(sequences, layout.blocks // max(layout.blocks_for(shortest), 1)))
    return Setting(
        budget=limits.max_num_batched_tokens,
        sequences=sequences,
        shortest=shortest,
        longest=longest,
        preempts=pool.life is not None or not (keeps or roomy),
        whole=whole,
    )


def gain_of(pool: ResolvedPool) -> int:
    """Most tokens that a step gives a decoding sequence: one, and the drafts up to the first that
    is never accepted."""
    speculation = pool.deployment.limits.speculation
    gain = 1
    for chance in speculation.acceptance if speculation is not None else ():
        if chance <= 0.0:
            break
        gain += 1
    return gain


class Latencies(Protocol):
    """Least latencies of requests, seconds. Shapes (requests,)."""

    @property
    def ttft_s(self) -> Floats:
        """To the first token that the client sees."""
        ...

    @property
    def e2e_s(self) -> Floats:
        """To the last token of the last answer."""
        ...

    @property
    def tpot_s(self) -> Floats:
        """Between the tokens after the first one; NaN where there are none."""
        ...


class AloneTimes:
    """Least times of requests on replicas that serve all of them (``Latencies``).

    Args:
        pool: what the replicas are.
        traffic: the requests.
        setting: see ``setting_of``.
    """

    def __init__(self, pool: ResolvedPool, traffic: Offered, setting: Setting) -> None:
        self.pool = pool
        self.traffic = traffic
        self.setting = setting
        self.gain = gain_of(pool)
        lanes = lanes_of(pool.resolved.cost)
        limits = pool.deployment.limits
        self.running = (
            limits.max_num_seqs * (lanes if pool.deployment.layout.pp == 1 else 1) + lanes
        )
        """Most requests that are under way on a replica."""
        self.decoding = (setting.sequences + 1) * lanes
        """Most of them that have more than their prompts."""

    @cached_property
    def least(self) -> Least:
        """Least times on one replica."""
        return least_of(self.pool.resolved.cost, self.setting, self.gain)

    @cached_property
    def in_order(self) -> bool:
        """Whether those that have begun and not ended are never more than run at once."""
        engine = self.pool.deployment.scenario.engine
        fcfs = self.pool.deployment.limits.queue.kind == "fcfs"
        kept = fcfs and engine.preemption.kind == "recompute"
        return self.traffic.requests.answers is None and (kept or not self.setting.preempts)

    @cached_property
    def past(self) -> Ints:
        """Prompt tokens of each row that may be cached."""
        requests = self.traffic.requests
        if not self.pool.deployment.limits.prefix_caching:
            return np.zeros(len(requests), dtype=np.int64)
        return cacheable(requests)

    @cached_property
    def computed_s(self) -> Floats:
        """From sending to the end of the step that ends the prompt, of each row."""
        requests, front = self.traffic.requests, self.pool.resolved.front_end
        way_s = 1e-3 * self.pool.deployment.scenario.deployment.network_ms
        way_s += front.request_s + front.busy_s
        computed = self.least.prompt_s(requests.input_tokens - self.past, self.past)
        return computed + ROUNDING * (way_s + front.busy_s_per_token * requests.input_tokens)

    @property
    def back_s(self) -> float:
        """From the end of a step to its token at the client."""
        front = self.pool.resolved.front_end
        way_s = 1e-3 * self.pool.deployment.scenario.deployment.network_ms
        return ROUNDING * (way_s + front.response_s + front.token_s)

    @cached_property
    def later_s(self) -> Floats:
        """From the first token to the last one, of each row."""
        requests = self.traffic.requests
        return self.least.decode_s(requests.input_tokens, requests.output_tokens - 1)

    @cached_property
    def ttft_s(self) -> Floats:
        """To the first token that the client sees."""
        answers, starts = self.traffic.requests.answers, self.traffic.places
        first = self.computed_s[starts] + self.back_s
        return first if answers is None else np.where(answers.at_once[starts], self.e2e_s, first)

    @cached_property
    def e2e_s(self) -> Floats:
        """To the last token of the last answer."""
        done = self.computed_s + self.later_s + self.back_s
        return np.maximum.reduceat(done, self.traffic.places)

    @cached_property
    def tpot_s(self) -> Floats:
        """Between the tokens after the first one; NaN where there are none, 0 where a prompt has
        several answers or hidden thinking."""
        requests, starts = self.traffic.requests, self.traffic.places
        more = requests.output_tokens - 1
        if requests.answers is not None:
            some: Floats = np.where(np.add.reduceat(more, starts) > 0, 0.0, np.nan)
            return some
        between = np.maximum(self.later_s - self._handed_out_s, 0.0)
        return np.where(more > 0, between / np.maximum(more, 1), np.nan)

    @property
    def _handed_out_s(self) -> float:
        """By how much the first token can come later to its client, after its step, than the last
        one: a front end that hands tokens out one by one is never behind by more than a step's, as
        no step is shorter than that. With drafts, whose steps are only that long on average, it
        could be; then no bound is known."""
        each_s = self.pool.resolved.front_end.token_s
        if not each_s:
            return 0.0
        if self.pool.deployment.limits.speculation is not None:
            return float("inf")
        return each_s * self.pool.deployment.limits.max_num_seqs


class HandedOver:
    """Least times of requests whose prompts are computed by one pool and that another one goes on
    with (``Latencies``).

    Args:
        prefill, decode: the two pools.
        paths: the ways of keys and values between them.
    """

    def __init__(self, prefill: AloneTimes, decode: AloneTimes, paths: Paths) -> None:
        self.prefill = prefill
        self.decode = decode
        self.paths = paths

    @cached_property
    def _landed_s(self) -> Floats:
        """From sending to the arrival of keys and values."""
        return self.prefill.computed_s + ROUNDING * self.moved_s

    @cached_property
    def moved_s(self) -> Floats:
        """Least time of keys and values on their way, after the prompt's last step, of each row."""
        requests, paths = self.prefill.traffic.requests, self.paths
        rates = [link.bytes_per_s for link in paths.ends]
        fastest = max(rates) if paths.shared is None else min(max(rates), paths.shared.bytes_per_s)
        lengths, place = np.unique(requests.input_tokens, return_inverse=True)
        size = np.array([paths.bytes_of(tokens, 0) for tokens in lengths.tolist()])
        if paths.by_layer:  # the last layer's part at least comes after the prompt
            size = size / paths.layers
        elif self.decode.pool.deployment.limits.prefix_caching:
            size = 0.0 * size
        moved: Floats = paths.latency_s + size[place] / fastest
        return moved

    @cached_property
    def ttft_s(self) -> Floats:
        """The decode replica speaks to the client, as soon as keys and values are there; a single
        token comes from the prefill replica."""
        single = self.prefill.traffic.requests.output_tokens == 1
        spoken = self.decode.back_s - ROUNDING * self.decode.pool.resolved.front_end.token_s
        found: Floats = np.where(
            single, self.prefill.computed_s + self.prefill.back_s, self._landed_s + spoken
        )
        return found[self.prefill.traffic.places]

    @cached_property
    def e2e_s(self) -> Floats:
        """See ``Latencies``."""
        single = self.prefill.traffic.requests.output_tokens == 1
        done = self._landed_s + self.decode.later_s + self.decode.back_s
        found = np.where(single, self.prefill.computed_s + self.prefill.back_s, done)
        least: Floats = np.maximum.reduceat(found, self.prefill.traffic.places)
        return least

    @cached_property
    def tpot_s(self) -> Floats:
        """See ``Latencies``."""
        return self.decode.tpot_s


class AnyOf:
    """Least times of requests that may come to any of several pools (``Latencies``)."""

    def __init__(self, pools: Sequence[Latencies]) -> None:
        self._pools = pools

    @cached_property
    def ttft_s(self) -> Floats:
        """See ``Latencies``."""
        least: Floats = np.fmin.reduce([pool.ttft_s for pool in self._pools])
        return least

    @cached_property
    def e2e_s(self) -> Floats:
        """See ``Latencies``."""
        least: Floats = np.fmin.reduce([pool.e2e_s for pool in self._pools])
        return least

    @cached_property
    def tpot_s(self) -> Floats:
        """See ``Latencies``."""
        least: Floats = np.fmin.reduce([pool.tpot_s for pool in self._pools])
        return least
