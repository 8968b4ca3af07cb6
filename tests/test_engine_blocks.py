"""Which block belongs to whom: no model, only the scheduler, its cache and the numbers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cluster.clients import Dependents, Sequences
from simulator.deployment import Limits
from simulator.scenario.policies import ContinuousPolicy, FullReservationPolicy, PrefillFirstPolicy
from simulator.serving.inflight import InFlightScheduler
from simulator.serving.kv_cache import KvCache, KvLayout
from simulator.serving.policies import POLICIES
from simulator.serving.sequence import Sequence
from simulator.workload.requests import OPEN_LOOP, ROOT, Requests
from tests.strategies import examples

from tests.engine_support import drawn, limits, most_blocks, sharing, talks, workloads  # isort: skip

from calibration.engine.blocks import BlockTables

Token = tuple[int, int]
"""(text, position): equal ones are equal tokens."""


def token_of(sequence: Sequence, at: int) -> Token:
    """The token of a prompt, or of the answer behind it."""
    for stream, end in sequence.streams or ():
        if at < end:
            return stream, at
    if at >= sequence.prompt and sequence.continues:
        return sequence.streams[-1][0], at
    return -1 - sequence.index, at


@dataclass
class Blocks:
    """What lies in the memory: of every number, the tokens written to it last."""

    size: int
    held: dict[int, list[Token | None]]

    def write(self, table: list[int], at: int, token: Token) -> None:
        block = self.held.setdefault(table[at // self.size], [None] * self.size)
        block[at % self.size] = token

    def read(self, table: list[int], at: int) -> Token | None:
        return self.held[table[at // self.size]][at % self.size]


class Drive:
    """The engine's loop without a device: every token that a step computes is written to its block,
    and all that its sequence must see is read back."""

    def __init__(self, requests: Requests, limit: Limits, blocks: int) -> None:
        layout = KvLayout(blocks, limit.block_size)
        self.kv = BlockTables(layout, prefix_caching=limit.prefix_caching)
        self.plain = KvCache(layout, prefix_caching=limit.prefix_caching)
        make = POLICIES[limit.policy.kind]
        self.scheduler, self.other = (
            make(self.kv, limit, 0, False),
            make(self.plain, limit, 0, False),
        )
        assert isinstance(self.scheduler, InFlightScheduler)
        self.blocks = Blocks(limit.block_size, {})
        self.reserves = isinstance(limit.policy, FullReservationPolicy)
        self.make, self.twin = Sequences(requests).make, Sequences(requests).make
        self.waits = Dependents(requests)
        roots = (requests.parent == ROOT) & (requests.pool == OPEN_LOOP)
        self.arrivals = deque(roots.nonzero()[0].tolist())
        self.arrivals.extend(index for index, _ in self.waits.first())
        self.reused = 0
        self.preempted = 0

    def run(self, at_once: int) -> None:
        """``at_once`` requests arrive before each step."""
        while True:
            for _ in range(min(at_once, len(self.arrivals))):
                index = self.arrivals.popleft()
                self.scheduler.add(self.make(index))
                self.other.add(self.twin(index))
            plan, twin = self.scheduler.schedule(), self.other.schedule()
            assert (plan is None) == (twin is None)
            if plan is None:
                if not self.arrivals:
                    break
                continue
            assert plan.chunks == twin.chunks
            assert (plan.decode, plan.context) == (twin.decode, twin.context)
            self.preempted += len(plan.preempted)
            self.check_step(plan)
            ended = self.scheduler.complete(plan)
            assert [s.index for s in ended] == [s.index for s in self.other.complete(twin)]
            self.check_counts()
            for sequence in ended:
                assert sequence not in self.kv.tables
                for child, _ in self.waits.released_by(sequence.index, served=True):
                    self.arrivals.append(child)
        assert self.kv.used == 0
        assert not self.kv.tables
        assert sorted(self.kv._unused + list(self.kv._by_key.values())) == list(
            range(self.kv.total)
        )

    def check_step(self, plan) -> None:
        """Gives numbers to all who compute, writes their tokens, then looks at what they see."""
        computing = [(s, stored, 1) for s, stored in self.scheduler.decoding_now() if plan.decode]
        chunks = zip(plan.prefill, plan.chunks, strict=True)
        computing += [(s, chunk.past, chunk.new) for s, chunk in chunks]
        for sequence, past, new in computing:
            before, numbers = self.kv.bind(sequence, past + new)
            table = self.kv.tables[sequence]
            assert table[before:] == numbers
            assert len(table) == self.kv.layout.growing_blocks(past + new)
            assert len(set(table)) == len(table)
            self.reused += before == 0 < past
        for sequence, past, new in computing:
            for at in range(past, past + new):
                self.blocks.write(self.kv.tables[sequence], at, token_of(sequence, at))
        for sequence, past, new in computing:
            table = self.kv.tables[sequence]
            for at in range(past + new):
                assert self.blocks.read(table, at) == token_of(sequence, at), f"{sequence} at {at}"
        stored = dict(self.scheduler.decoding_now())
        self.check_tables(stored | {s: past + new for s, past, new in computing})

    def check_tables(self, stored: dict[Sequence, int]) -> None:
        """A number in two tables holds the same text for both, and a whole block of it."""
        size = self.kv.block_size
        known: dict[int, list[Token]] = {}
        for sequence, table in self.kv.tables.items():
            tokens = stored.get(sequence, sequence.computed)
            assert len(table) == self.kv.layout.growing_blocks(tokens)
            for block, number in enumerate(table):
                end = min((block + 1) * size, tokens)
                text = [token_of(sequence, at) for at in range(block * size, end)]
                if number in known:
                    assert known[number] == text
                    assert len(text) == size
                known[number] = text
        self.kv.check_integrity()

    def check_counts(self) -> None:
        kv, plain = self.kv, self.plain
        self.scheduler.check_integrity()
        assert kv.free == plain.free
        assert kv._references == plain._references
        assert kv._queue == plain._queue
        held = {number for table in kv.tables.values() for number in table}
        assert kv.used >= len(held) if self.reserves else kv.used == len(held)


@st.composite
def drives(draw: st.DrawFn):
    requests = draw(workloads(12))
    policy = draw(
        st.sampled_from(
            [
                ContinuousPolicy(),
                ContinuousPolicy(chunked_prefill=False),
                PrefillFirstPolicy(),
                FullReservationPolicy(),
            ]
        )
    )
    block_size = draw(st.sampled_from([1, 2, 5, 16]))
    longest = int((requests.input_tokens + requests.output_tokens).max())
    whole = not getattr(policy, "chunked_prefill", True)
    limit = limits(
        policy,
        seqs=draw(st.sampled_from([1, 3, 8])),
        budget=longest + 8 if whole else draw(st.sampled_from([8, 19, 100])),
        block_size=block_size,
        prefix_caching=draw(st.sampled_from([True, True, False])),
    )
    blocks = most_blocks(requests, block_size) + draw(st.sampled_from([0, 1, 2, 5, 12, 100]))
    return requests, limit, blocks, draw(st.integers(1, 12))


@examples(150)
@given(drives())
def test_every_sequence_finds_its_own_text(case) -> None:
    requests, limit, blocks, at_once = case
    Drive(requests, limit, blocks).run(at_once)


@pytest.mark.parametrize("make", [drawn, sharing, talks])
@pytest.mark.parametrize("seed", range(5))
def test_under_pressure(make, seed) -> None:
    """Longer runs in which blocks are taken away and found again."""
    requests = make(seed, 30) if make is not talks else make(seed, 8, 5)
    limit = limits(seqs=6, budget=20, block_size=4)
    drive = Drive(requests, limit, most_blocks(requests, 4) + 5)
    drive.run(3)
    assert drive.preempted > 0
    assert drive.reused > 0


def test_an_equal_block_computed_twice_keeps_one_number() -> None:
    """Two equal prompts in one step: each computes its own blocks, and one of each stays."""
    kv = BlockTables(KvLayout(8, 4), prefix_caching=True)
    one, two = (Sequence(index, 8, 1, ((1, 8),)) for index in range(2))
    for sequence in (one, two):
        kv.take(2)
        sequence.blocks, sequence.computed = 2, 8
        kv.register(sequence, 8)
    assert kv.bind(one, 8) == (0, [0, 1])
    assert kv.bind(two, 8) == (0, [2, 3])
    kv.release(two, 2, 8)
    kv.check_integrity()
    kv.release(one, 2, 8)
    kv.check_integrity()
    assert kv.free == 8
    third = Sequence(2, 12, 1, ((1, 12),))
    assert kv.lookup(third) == 2
    kv.share(third, 2)
    kv.take(1)
    third.blocks, third.computed = 3, 12
    kv.register(third, 12)
    assert kv.bind(third, 12) == (0, [0, 1, 3])


def test_a_layer_that_forgets_is_refused() -> None:
    with pytest.raises(AssertionError, match="every layer keeps every token"):
        BlockTables(KvLayout(8, 4, local_ratio=0.5, local_tokens=16), prefix_caching=True)
