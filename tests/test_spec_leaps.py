"""Steps with drafts that are planned together are those that come one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cluster import FrontEndTimes, drafting, run_cluster
from simulator.costs.protocol import Chunk, decode_series_of
from simulator.costs.speculative import SpeculativeCost
from simulator.deployment import Speculation
from simulator.results.record import RunRecord, StepTable
from simulator.scenario.admission import Admission, KvUseRule, QueueLengthRule
from simulator.scenario.routers import PrefixAwareRouter
from simulator.serving import drafts
from simulator.serving.drafts import SpeculativeDecodeSet
from simulator.serving.sequence import Sequence
from simulator.serving.timetable import Timetable
from tests.dyadic import TICK_S, DyadicCost
from tests.rig import DENSE, WINDOW
from tests.strategies import CONTINUOUS, Case, cases, examples, random_case
from tests.test_spec_costs import LOCAL, SMALL, speculation, speculative
from tests.test_spec_exactness import speculating, with_drafts


@dataclass(unsafe_hash=True)
class RoundedCost(DyadicCost):
    """Durations that no binary fraction is, so that every sum is rounded."""

    def decode(
        self, sequences: int, context: int, local_context: int, local_growth: int
    ) -> tuple[float, float, int]:
        first, _, _ = super().decode(sequences, context, local_context, 0)
        return first / 3, 0.0, 1

    def step(
        self, sequences: int, context: int, local_context: int, chunks: list[Chunk], sampled: int
    ) -> float:
        return super().step(sequences, context, local_context, chunks, sampled) / 7


def rounded(case: Case) -> Case:
    names = [field.name for field in fields(DyadicCost)]
    return replace(case, cost=RoundedCost(**{name: getattr(case.cost, name) for name in names}))


@contextmanager
def planned(most: int, worth: int) -> Iterator[Counter[str]]:
    """At most so many steps together, and no fewer than so many; counts them."""
    seen: Counter[str] = Counter()
    finish = drafting.DraftingReplica._finish

    def count(self: Any, plan: Any, now: float) -> None:
        whole = len(self._run.seconds) if self._run is not None else 1
        seen["together"] += self._steps if self._steps > 1 else 0
        seen["cut"] += self._steps < whole
        finish(self, plan, now)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drafting, "MOST_STEPS", most)
        patch.setattr(drafting, "_WORTH_STEPS", worth)
        patch.setattr(drafting.DraftingReplica, "_finish", count)
        yield seen


def execute(case: Case, **more: Any) -> RunRecord:
    return run_cluster(
        case.requests, case.limits, case.kv_blocks, case.cost,
        layout=case.layout, replicas=case.replicas, timeout_s=case.timeout_s,
        **case.delays, **more,
    )  # fmt: skip


def same_columns(ours: Any, theirs: Any) -> None:
    for field in fields(ours):
        one, other = getattr(ours, field.name), getattr(theirs, field.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other, err_msg=field.name)


def assert_same(case: Case, **more: Any) -> Counter[str]:
    """Together and one by one: every column of the record, to the last bit."""
    with planned(1, 1) as single:
        slow = execute(case, **more)
    assert not single["together"]
    with planned(64, 2) as seen:
        fast = execute(case, **more)
    same_columns(fast, slow)
    same_columns(fast.gaps, slow.gaps)
    assert isinstance(fast.steps, StepTable)
    same_columns(fast.steps, slow.steps)
    assert fast.end_s == slow.end_s
    assert fast.refusals == slow.refusals
    return seen


@examples(150)
@given(with_drafts(cases(st.sampled_from(CONTINUOUS))).map(rounded))
def test_open_loop(case: Case) -> None:
    assert_same(case)


@examples(100)
@given(
    with_drafts(cases(st.sampled_from(CONTINUOUS), prefix_caching=True)).map(rounded),
    st.integers(1, 3000),
)
def test_time_outs_with_shared_prefixes(case: Case, patience: int) -> None:
    assert_same(replace(case, timeout_s=patience * TICK_S))


@examples(100)
@given(with_drafts(cases(st.sampled_from(CONTINUOUS), prefix_caching=True, dependent=True)))
def test_sessions_and_closed_loops(case: Case) -> None:
    assert_same(rounded(case))


@pytest.mark.parametrize("policy", CONTINUOUS, ids=str)
def test_longer_runs_are_cut(policy: Any) -> None:
    """Newcomers and clients that give up cut what was planned; a load that swings around the most
    sequences that draft; KV memory for a few requests."""
    seen: Counter[str] = Counter()
    for seed in range(16):
        rng = np.random.default_rng([seed, 1])
        case = random_case(rng, policy, prefix_caching=bool(seed % 2))
        chances = tuple(rng.uniform(0.1, 0.9, int(rng.integers(1, 5))).tolist())
        asked = Speculation(len(chances), chances, int(rng.choice([2, 4, 1000])), seed)
        case = rounded(speculating(case, asked))
        case = replace(
            case,
            limits=replace(case.limits, async_scheduling=bool(seed & 2)),
            timeout_s=2**-7 if seed & 4 else None,
            delays={"front_end": FrontEndTimes(0.0, 0.0, 0.0, 1e-5 * (seed % 3), 0.0)},
        )
        seen += assert_same(case)
    assert seen["together"] > 500
    assert seen["cut"] > 20


@pytest.mark.parametrize("rule", [None, KvUseRule(max_use=0.6), QueueLengthRule(max_waiting=2)])
def test_who_looks_at_a_replica_sees_the_step_under_way(rule: Any) -> None:
    """Routers look at caches and admission control at blocks while steps are planned ahead."""
    seen: Counter[str] = Counter()
    for seed in range(20):
        rng = np.random.default_rng([seed, 2])
        case = random_case(rng, CONTINUOUS[0], prefix_caching=True)
        case = replace(rounded(speculating(case, Speculation(2, (0.6, 0.5), 1000, 1))), replicas=2)
        admission = None if rule is None else Admission(rules=(rule,))
        router = PrefixAwareRouter(min_match=0.0, max_imbalance=1)
        seen += assert_same(case, router=router, admission=admission)
    assert seen["together"] > 100


@pytest.mark.parametrize(("most", "crowd"), [(3, 128), (1000, 2)])
def test_timetables_are_given_up_and_made_again(
    monkeypatch: pytest.MonkeyPatch, most: int, crowd: int
) -> None:
    """A load around ``max_batch``, or more newcomers than steps now and then: both ways of keeping
    sequences take over from each other, and their integrity holds."""
    monkeypatch.setattr(drafts, "_CROWD", crowd)
    seen: Counter[str] = Counter()
    for name in ("_give_up", "_make"):
        original = getattr(SpeculativeDecodeSet, name)

        def count(self: Any, *args: Any, name: str = name, original: Any = original) -> None:
            seen[name] += 1
            original(self, *args)
            self.check_integrity()

        monkeypatch.setattr(SpeculativeDecodeSet, name, count)
    for seed in range(10):
        case = random_case(np.random.default_rng([seed, 3]), CONTINUOUS[0])
        assert_same(rounded(speculating(case, Speculation(2, (0.5, 0.5), most, 0))))
    assert seen["_give_up"] > 20
    assert seen["_make"] > 5


def test_sums_of_steps_to_come() -> None:
    """Sequences come and go at random; the sums are those of the ones that are there."""
    rng = np.random.default_rng(5)
    for block_size, span, chunked in ((4, 0, False), (0, 7, True), (3, 5, False)):
        table = Timetable(3, block_size, span, chunked=chunked)
        inside: list[Sequence] = []
        for order in range(300):
            sequence = Sequence(order, 1, 1000)
            sequence.order = order
            left = int(rng.integers(1, 400))
            drawn = rng.integers(1, 4, left)
            table.join(sequence, int(rng.integers(0, 50)), left, 20, drawn)
            inside.append(sequence)
            if len(inside) > 5:
                table.leave(inside.pop(int(rng.integers(len(inside)))))
            for sequence in table.advance(int(rng.integers(0, table.until_end() + 1))):
                assert table.left(sequence) == 0
                table.leave(sequence)
                inside.remove(sequence)
            table.check_integrity()


COSTS = [
    speculative()[0],
    speculative(LOCAL)[0],
    speculative(WINDOW, draft=LOCAL)[0],
    speculative(DENSE, draft=None, lookup_s=3e-6)[0],
    speculative(DENSE, draft=SMALL, asked=speculation(5, most=4))[0],
]


@pytest.mark.parametrize("cost", COSTS)
def test_a_series_takes_what_its_steps_take(cost: SpeculativeCost) -> None:
    """Over all bends of the lines, to the last bit."""
    rng = np.random.default_rng(0)
    series = decode_series_of(cost)
    assert series == cost.decode_series
    for sequences in (1, 3, 4, 5, 40):
        for step in (1, 7, 300):
            context = 20 * sequences + np.cumsum(rng.integers(1, 2 * step * sequences, 200))
            local = np.minimum(context, rng.integers(1, 300, 200) * sequences)
            took = [
                cost.decode(sequences, c, n, 0)[0]
                for c, n in zip(context.tolist(), local.tolist(), strict=True)
            ]
            assert series(sequences, context, local).tolist() == took
