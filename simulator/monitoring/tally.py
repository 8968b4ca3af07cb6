"""Counters and histograms of replicas, fed with columns: rows of steps, gaps, requests.

A live server feeds what happened since the last time, a simulation what happened in an interval;
both end with the same figures because they add the same columns up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulator.monitoring.families import (
    ENGINE,
    FAMILIES,
    LENGTHS,
    OUTCOMES,
    REASONS,
    SOURCES,
    Family,
)
from simulator.monitoring.fleet import Fleet
from simulator.results.record import Gaps, StepTable
from simulator.workload.requests import Floats, Ints


@dataclass(slots=True)
class Histogram:
    """Counts of values of several replicas.

    Args:
        bounds: upper bounds of the buckets. Shape (buckets,).
        counts: values in each bucket alone; the last one has no upper bound. Shape
            (engines, buckets + 1).
        sums: of the values. Shape (engines,).
    """

    bounds: Floats
    counts: Ints
    sums: Floats

    @classmethod
    def of(cls, bounds: Sequence[float], engines: int) -> Histogram:
        """An empty one."""
        return cls(
            np.array(bounds),
            np.zeros((engines, len(bounds) + 1), dtype=np.int64),
            np.zeros(engines),
        )

    def add(self, engine: Ints, values: Floats, weight: Ints | None = None) -> None:
        """Values of replicas, each counted ``weight`` times; NaN is left out. Shapes (n,)."""
        keep = values == values
        if not keep.all():
            engine, values = engine[keep], values[keep]
            weight = None if weight is None else weight[keep]
        if not len(values):
            return
        bucket = np.searchsorted(self.bounds, values)
        width = self.counts.shape[1]
        if weight is None:
            self.counts += _counted(engine * width + bucket, None, self.counts.size, width)
            self.sums += np.bincount(engine, values, len(self.sums))
        else:
            self.counts += _counted(engine * width + bucket, weight, self.counts.size, width)
            self.sums += np.bincount(engine, values * weight, len(self.sums))

    def add_rows(self, engine: Ints, first: Floats, slope: Floats, steps: Ints,
                 weight: Ints) -> None:  # fmt: skip
        """Progressions: ``first + i · slope`` for i below ``steps``, each ``weight`` times."""
        last = first + (steps - 1) * slope
        across = np.searchsorted(self.bounds, first) != np.searchsorted(self.bounds, last)
        whole = ~across
        middle = first[whole] + slope[whole] * (steps[whole] - 1) / 2
        self.add(engine[whole], middle, (steps * weight)[whole])
        rows = np.repeat(np.flatnonzero(across), steps[across])
        if len(rows):
            before = np.cumsum(steps[across]) - steps[across]
            place = np.arange(len(rows)) - np.repeat(before, steps[across])
            self.add(engine[rows], first[rows] + place * slope[rows], weight[rows])


@dataclass(frozen=True, slots=True)
class Begun:
    """Requests whose first token has come. Shapes (n,).

    Args:
        engine: whose token it is.
        prompt_engine: who computed the prompt.
        ttft_s: from the arrival at the server until the token leaves it.
        prompt, cached: tokens of the prompt, and those of them that were in the prefix cache.
        landed: the token came with its KV cache from ``prompt_engine``.
    """

    engine: Ints
    prompt_engine: Ints
    ttft_s: Floats
    prompt: Ints
    cached: Ints
    landed: Ints


@dataclass(frozen=True, slots=True)
class Ended:
    """Requests that are over. Shapes (n,); those that no replica served have engine -1.

    Args:
        outcome, reason: places in OUTCOMES and REASONS; reasons matter for completed ones alone.
        queued_s, start_s: when it reached its replica's queue and its first step.
        first_s, finish_s: its first and last token, as they left the server.
        e2e_s: from the arrival at the server to its last token.
        output: output tokens.
        prompt, cached, preemptions: see ``Ending``.
        max_tokens: what the client allowed; NaN: nothing was said.
    """

    engine: Ints
    outcome: Ints
    reason: Ints
    queued_s: Floats
    start_s: Floats
    first_s: Floats
    finish_s: Floats
    e2e_s: Floats
    prompt: Ints
    output: Ints
    cached: Ints
    preemptions: Ints
    max_tokens: Floats


class Tally:
    """See the module.

    Args:
        fleet: the replicas.

    Attributes:
        counters: of replicas, by name. Shapes (engines,), or (engines, values of the last label).
        histograms: by name.
        outcomes: requests by outcome. Shape (len(OUTCOMES),).
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        n = fleet.engines
        own = [f for f in FAMILIES.values() if f.name.startswith("vllm:")]
        self.histograms = {
            f.name[5:]: Histogram.of(bounds_of(f, fleet), n) for f in own if f.kind == "histogram"
        }
        self.counters = {
            f.name[5:]: np.zeros((n, *_more(f)), dtype=np.int64) for f in own if f.kind == "counter"
        }
        self.outcomes: Ints = np.zeros(len(OUTCOMES), dtype=np.int64)
        self._speculation = [m.deployment.limits.speculation for m in fleet.members]
        self._caching = fleet.flags([m.deployment.limits.prefix_caching for m in fleet.members])

    def steps(self, steps: StepTable, gaps: Gaps) -> None:
        """Steps that have ended, and the gaps noted apart."""
        engine, hist = steps.replica, self.histograms
        self._count("generation_tokens", engine, steps.tokens)
        hist["iteration_tokens_total"].add(
            engine,
            (steps.prefill_tokens + steps.sampled + steps.accepted_tokens).astype(np.float64),
            steps.steps,
        )
        with_gaps = np.flatnonzero(steps.gap_tokens)
        hist["inter_token_latency_seconds"].add_rows(
            engine[with_gaps],
            steps.first_s[with_gaps],
            steps.slope_s[with_gaps],
            steps.steps[with_gaps],
            steps.gap_tokens[with_gaps],
        )
        if len(gaps.count):
            assert gaps.replica is not None
            self._count("generation_tokens", gaps.replica, gaps.count)
            hist["inter_token_latency_seconds"].add(gaps.replica, gaps.gap_s, gaps.count)
        if any(self._speculation):
            self._drafts(steps)

    def _drafts(self, steps: StepTable) -> None:
        pool = self.fleet.pool_of[steps.replica]
        for number, speculation in enumerate(self._speculation):
            if speculation is None:
                continue
            mine = (pool == number) & (steps.decode <= speculation.max_batch)
            engine, drafts = steps.replica[mine], (steps.decode * steps.steps)[mine]
            self._count("spec_decode_num_drafts", engine, drafts)
            self._count("spec_decode_num_draft_tokens", engine, speculation.tokens * drafts)
            self._count("spec_decode_num_accepted_tokens", engine, steps.accepted_tokens[mine])

    def preempted(self, rows: Floats) -> None:
        """Sequences have lost their KV blocks: rows of time, replica and how many."""
        whole = rows.astype(np.int64)
        self._count("num_preemptions", whole[:, 1], whole[:, 2])

    def begun(self, begun: Begun) -> None:
        """First tokens have come."""
        engine, prompt, cached = begun.prompt_engine, begun.prompt, begun.cached
        self.histograms["time_to_first_token_seconds"].add(begun.engine, begun.ttft_s)
        self._count("generation_tokens", begun.engine, begun.landed)
        self._count("prompt_tokens", engine, prompt)
        self._count("prompt_tokens_cached", engine, cached)
        by_source = self.counters["prompt_tokens_by_source"]
        by_source[:, 0] += _counted(engine, prompt - cached, len(by_source))
        by_source[:, 1] += _counted(engine, cached, len(by_source))
        looked = self._caching[engine]
        self._count("prefix_cache_queries", engine[looked], prompt[looked])
        self._count("prefix_cache_hits", engine[looked], cached[looked])

    def ended(self, ended: Ended) -> None:
        """Requests are over."""
        self.outcomes += np.bincount(ended.outcome, minlength=len(OUTCOMES))
        done = np.flatnonzero(ended.outcome == 0)
        if not len(done):
            return
        engine, width = ended.engine[done], len(REASONS)
        success = self.counters["request_success"]
        success += _counted(engine * width + ended.reason[done], None, success.size, width)
        # An answer that went on after a crash may have begun before its replica's first step.
        start = np.where(ended.start_s <= ended.first_s, ended.start_s, np.nan)[done]
        first, finish, output = ended.first_s[done], ended.finish_s[done], ended.output[done]
        more = np.where(output > 1, output - 1, np.nan)
        for name, values in (
            ("e2e_request_latency_seconds", ended.e2e_s[done]),
            ("request_queue_time_seconds", (ended.start_s - ended.queued_s)[done]),
            ("request_prefill_time_seconds", first - start),
            ("request_decode_time_seconds", finish - first),
            ("request_inference_time_seconds", finish - start),
            ("request_time_per_output_token_seconds", (finish - first) / more),
            ("request_prompt_tokens", ended.prompt[done]),
            ("request_generation_tokens", output),
            ("request_prefill_kv_computed_tokens", (ended.prompt - ended.cached)[done]),
            ("request_num_preemptions", ended.preemptions[done]),
            ("request_params_max_tokens", ended.max_tokens[done]),
        ):
            self.histograms[name].add(engine, np.asarray(values, dtype=np.float64))

    def answered(self, engine: Ints, answers: Ints, longest: Ints) -> None:
        """All answers of requests are over: how many each had, and the tokens of its longest."""
        self.histograms["request_params_n"].add(engine, answers.astype(np.float64))
        self.histograms["request_max_num_generation_tokens"].add(engine, longest.astype(np.float64))

    def _count(self, name: str, engine: Ints, amount: Ints) -> None:
        self.counters[name] += _counted(engine, amount, self.fleet.engines)


def bounds_of(family: Family, fleet: Fleet) -> tuple[float, ...]:
    """The buckets of a histogram."""
    if family.buckets == LENGTHS:
        return fleet.lengths
    assert not isinstance(family.buckets, str)
    return family.buckets


def _more(family: Family) -> tuple[int, ...]:
    """How many values the label has that is not one of the engine's."""
    if family.labels == ENGINE:
        return ()
    return (len(SOURCES if "source" in family.labels else REASONS),)


def _counted(index: Ints, weight: Ints | None, size: int, width: int = 0) -> Ints:
    """Sums of whole weights (default: 1) by index. Shape (size,), or (size / width, width)."""
    # Sums of doubles are exact up to 2^53, which no weight here comes near within one call.
    sums = np.bincount(index, weight, size).astype(np.int64)
    return sums.reshape(-1, width) if width else sums
