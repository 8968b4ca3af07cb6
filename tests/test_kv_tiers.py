"""Tiers of the prefix cache: what they hold, what loading costs, and what a published trace finds."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cluster.clients import Sequences
from simulator.costs.protocol import Chunk
from simulator.errors import UserError
from simulator.resolve import resolve
from simulator.scenario.policies import ContinuousPolicy
from simulator.scenario.scenario import Scenario
from simulator.scenario.workload import TraceWorkload
from simulator.serving.below import Below, TierSpec
from simulator.serving.kv_cache import KvCache, KvLayout
from simulator.serving.sequence import Sequence
from simulator.serving.tiers import TieredKvCache
from simulator.simulation import simulate
from simulator.workload import build_requests
from simulator.workload.requests import Requests
from tests.agreement import run_fast
from tests.dyadic import TICK_S, DyadicCost
from tests.strategies import Case, Req, cases, examples, make_limits
from tests.test_matrix_fields import BASE, nested, outcome

from tests.fields_kv import TALKS, host  # isort: skip


def cellar(*blocks: int, **settings: object) -> Below:
    """Tiers of so many blocks, a host and a drive, one tick a block everywhere."""
    rate = 1 / TICK_S
    specs = (TierSpec("host", blocks[0]), *(TierSpec("ssd", n, rate, rate) for n in blocks[1:]))
    return replace(Below(1.0, 1, rate, specs), **settings)  # type: ignore[arg-type]


def tiered(device: int, *blocks: int, size: int = 1) -> TieredKvCache:
    return TieredKvCache(KvLayout(device, size, below=cellar(*blocks)), prefix_caching=True)


def serve(kv: KvCache, sequence: Sequence) -> int:
    """Admits a sequence, computes its prompt and lets it go; returns the hit blocks."""
    hits = kv.lookup(sequence)
    needed = kv.layout.growing_blocks(sequence.target) - hits
    if hits:
        kv.share(sequence, hits)
    kv.take(needed)
    kv.register(sequence, sequence.target)
    kv.release(sequence, hits + needed, sequence.target)
    kv.check_integrity()
    return hits


def text(stream: int, tokens: int) -> Sequence:
    return Sequence(stream, tokens, 1, ((stream, tokens),))


# --- contents ------------------------------------------------------------------------------------


def test_what_the_device_forgets_goes_down_and_comes_back() -> None:
    kv = tiered(4, 3, 10)
    serve(kv, text(1, 4))
    serve(kv, text(2, 4))  # pushes all of text 1 out, its last block first
    assert [key for key, _ in kv.tiers[0].keys.items()] == [(1, 2), (1, 1), (1, 0)]
    assert list(kv.tiers[1].keys) == [(1, 3)]
    moves = kv.drain()
    assert moves is not None
    assert (moves.stored, moves.loaded) == ([4, 1], [0, 0])
    assert serve(kv, text(1, 4)) == 3  # one token is always computed
    moves = kv.drain()
    assert moves is not None
    assert moves.loaded == [3, 0]
    assert moves.hits[0][1] == [3, 0]


def test_a_copy_below_is_not_written_again() -> None:
    kv = tiered(3, 10)
    for stream in (1, 2, 1, 2, 1):
        serve(kv, text(stream, 3))
    moves = kv.drain()
    assert moves is not None
    # Each block goes down once; two of three of a text are loaded at each return.
    assert moves.stored == [6]
    assert moves.loaded == [6]


def test_too_few_to_load_are_computed() -> None:
    kv = TieredKvCache(KvLayout(4, 1, below=cellar(9, min_blocks=3)), prefix_caching=True)
    serve(kv, text(1, 3))
    serve(kv, text(2, 4))
    assert kv.lookup(text(1, 3)) == 0  # two are there to load
    assert kv.lookup(text(1, 4)) == 3


def test_a_chain_ends_at_the_first_gap() -> None:
    kv = tiered(6, 2)
    serve(kv, text(1, 6))
    serve(kv, text(2, 5))
    # Of text 1 the device keeps block 0 and the host the two that it got last, 2 and 1.
    assert list(kv.tiers[0].keys) == [(1, 2), (1, 1)]
    assert kv.lookup(text(1, 6)) == 3


# --- the Mooncake trace --------------------------------------------------------------------------


@cache
def mooncake() -> Requests:
    trace = TraceWorkload(file="mooncake-conversation")
    return build_requests(trace, np.random.default_rng(0), None)


def hit_share(kv: KvCache) -> float:
    """Share of the trace's prompt tokens found when it is served one by one."""
    requests = mooncake()
    make = Sequences(requests).make
    found = sum(serve_whole(kv, make(index)) for index in range(len(requests)))
    return found * 512 / int(requests.input_tokens.sum())


def serve_whole(kv: KvCache, sequence: Sequence) -> int:
    hits = kv.lookup(sequence)
    needed = kv.layout.growing_blocks(sequence.prompt) - hits
    if hits:
        kv.share(sequence, hits)
    kv.take(needed)
    kv.register(sequence, sequence.prompt)
    kv.release(sequence, hits + needed, sequence.prompt)
    return hits


def least_recently_used(blocks: int) -> float:
    """The same share in a plain list of block hashes."""
    requests, held, found = mooncake(), OrderedDict[int, None](), 0
    prefixes = requests.prefixes
    assert prefixes is not None
    for first, last in zip(prefixes.offsets[:-1], prefixes.offsets[1:], strict=True):
        chain = prefixes.stream[first:last].tolist()
        there = [key in held for key in chain]
        found += there.index(False) if False in there else len(there)
        for key in chain:
            held[key] = None
            held.move_to_end(key)
            if len(held) > blocks:
                held.popitem(last=False)
    return found * 512 / int(requests.input_tokens.sum())


DEVICE = -(-123_192 // 512)
"""Blocks of the longest prompt: less than that cannot serve the trace."""


@pytest.mark.parametrize("blocks", [1_000, 10_000, 50_000])
def test_a_host_tier_finds_what_one_cache_of_that_size_would(blocks: int) -> None:
    """With the whole trace (12,031 requests, of which the first 2,728 are shipped) a cache of 1,000,
    10,000 and 50,000 blocks finds 4.5, 21.6 and 36.1%, and these tiers 4.7, 22.2 and 36.4%."""
    kv = TieredKvCache(KvLayout(DEVICE, 512, below=cellar(blocks)), prefix_caching=True)
    share = hit_share(kv)
    # The device's own blocks come on top of the tier's, and the ends of texts go before their
    # beginnings, which a plain list does not know.
    assert least_recently_used(blocks) - 0.002 <= share
    assert share <= least_recently_used(blocks + DEVICE) + 0.005
    kv.check_integrity()


def test_two_tiers_hold_as_much_as_one() -> None:
    one = TieredKvCache(KvLayout(DEVICE, 512, below=cellar(10_000)), prefix_caching=True)
    two = TieredKvCache(KvLayout(DEVICE, 512, below=cellar(4_000, 6_000)), prefix_caching=True)
    assert hit_share(two) == pytest.approx(hit_share(one), abs=0.005)


def test_an_endless_tier_finds_all_that_repeats() -> None:
    kv = TieredKvCache(KvLayout(DEVICE, 512, below=cellar(10**7)), prefix_caching=True)
    endless = hit_share(kv)
    assert endless == hit_share(KvCache(KvLayout(10**7, 512), prefix_caching=True))
    assert endless == pytest.approx(least_recently_used(10**7), abs=0.002)


# --- time ----------------------------------------------------------------------------------------

STEP = DyadicCost(base=10, sequence=0, context=0, mixed_base=100, token=0, pair=0, chunk=0)


def returning(below: Below, replicas: int = 1) -> Case:
    """On each replica a text of 80 blocks, another one that takes its place, and the first again."""
    reqs = []
    for at, stream in ((0.0, 1), (10_000.0, 2), (20_000.0, 1)):
        reqs += [Req(at, 80, 1, text=((10 * replica + stream, 80),)) for replica in range(replicas)]
    limits = make_limits(ContinuousPolicy(), block_size=1, budget=100, prefix_caching=True)
    return Case(tuple(reqs), limits, 80, STEP, replicas=replicas, below=below)


@pytest.mark.parametrize("ticks", [0.5, 1.0, 2.0, 8.0])
@pytest.mark.parametrize("overlap", [True, False])
def test_a_step_lasts_as_long_as_its_load_or_both(ticks: float, overlap: bool) -> None:
    """79 of 80 blocks are loaded, 80 others are written (in the other direction, at the same time)
    beside a step of 101 ticks."""
    below = cellar(1000, host_bytes_per_s=1 / (ticks * TICK_S), overlap=overlap)
    record = run_fast(returning(below))
    step, moved = 101.0, 80 * ticks
    expected = max(step, moved) if overlap else step + moved
    assert (record.first_token_s - record.start_s)[2] / TICK_S == expected
    assert record.steps.stall_s[-1] / TICK_S == expected - step
    assert record.cached_tokens.tolist() == [0, 0, 79]
    assert record.moved is not None
    assert record.moved.tokens("host").tolist() == [0, 0, 79]


def test_replicas_of_a_node_share_its_drives() -> None:
    """Two that write and read at once: the second one is served after the first."""
    slow = TierSpec("ssd", 1000, 1 / (4 * TICK_S), 1 / TICK_S)
    alone = run_fast(returning(replace(cellar(1), tiers=(slow,)), replicas=2))
    shared = run_fast(returning(replace(cellar(1), tiers=(slow,), replicas_per_node=2), replicas=2))
    took = [(r.first_token_s - r.start_s)[-2:] / TICK_S for r in (alone, shared)]
    assert took[0].tolist() == [79 * 4, 79 * 4]
    assert took[1].tolist() == [79 * 4, 2 * 79 * 4]


def test_loading_pays_where_reading_is_faster_than_computing() -> None:
    """One block at a time against a prefill that grows with the square of its length: the shortest
    prompts are computed sooner, the longest loaded sooner, and the lengths between are where the
    formula says."""
    cost = DyadicCost(
        base=1, sequence=0, context=0, mixed_base=0, token=8, pair=1, chunk=0, sampled=0
    )
    per_block = 40
    for tokens in (20, 50, 64, 70, 120):
        reqs = (Req(0.0, tokens, 1, text=((1, tokens),)), Req(9e5, 120, 1, text=((2, 120),)))
        reqs += (Req(18e5, tokens, 1, text=((1, tokens),)),)
        limits = make_limits(ContinuousPolicy(), block_size=1, budget=200, prefix_caching=True)
        below = cellar(500, host_bytes_per_s=1 / (per_block * TICK_S))
        case = Case(reqs, limits, 120, cost, below=below)
        loaded, computed = run_fast(case), run_fast(replace(case, below=None))
        sooner = (loaded.first_token_s - computed.first_token_s)[2] / TICK_S
        anew = cost.step(0, 0, 0, [Chunk(tokens, 0)], 1) / TICK_S
        assert anew == 8 * tokens + tokens * (tokens + 1) / 2
        # What the third pushes out goes down meanwhile, and there is as much of it as of itself.
        assert sooner == per_block * tokens - anew
        assert (sooner < 0) == (tokens > 63)


# --- limits --------------------------------------------------------------------------------------


@examples(100)
@given(cases(st.just(ContinuousPolicy()), prefix_caching=True, dependent=True))
def test_endless_tiers_and_bandwidth_find_what_an_endless_device_does(case: Case) -> None:
    """One request at a time, so that both serve them in the same order."""
    alone = replace(case, limits=replace(case.limits, max_num_seqs=1))
    below = Below(1.0, 1, 2.0**80, (TierSpec("host", 10**9),))
    device = run_fast(replace(alone, kv_blocks=10**6))
    host_tier = run_fast(replace(alone, below=below))
    assert host_tier.cached_tokens.tolist() == device.cached_tokens.tolist()
    assert host_tier.finish_s.tolist() == device.finish_s.tolist()


def test_a_tier_without_room_is_no_tier() -> None:
    bare = outcome(TALKS)
    assert outcome(TALKS | {"engine.kv_offload": host(0.0)}) == bare
    assert outcome(TALKS | {"engine.kv_offload": host(4.0)}) != bare


def test_hit_rates_by_tier_add_up() -> None:
    tiers = [*host(0.1), {"kind": "ssd", "gib": 5.0, "read_gb_per_s": 5.0, "write_gb_per_s": 5.0}]
    summary = simulate(
        Scenario.model_validate(nested(BASE | TALKS | {"engine.kv_offload": tiers}))
    ).summary()
    kv = summary["kv_cache"]
    rates = kv["prefix_hit_rate_by_tier"]
    assert list(rates) == ["device", "host", "ssd"]
    assert min(rates.values()) > 0
    assert sum(rates.values()) == pytest.approx(kv["prefix_hit_rate"])
    assert 0 < kv["link_busy_share"]["host"]["to_device"] < 1
    assert kv["moved"]["ssd"]["to_device_gb"] > 0
    assert not summary["checks"]["violations"]


@pytest.mark.parametrize(
    ("fields", "where", "why"),
    [
        ({"engine.prefix_caching": False}, "engine.kv_offload", "no prefix cache"),
        ({"engine.kv_offload": host(1e-6)}, "engine.kv_offload.0.gib", "do not hold one KV block"),
        ({"engine.kv_offload": [*host(1.0), *host(1.0)]}, "engine.kv_offload", "in that order"),
        ({"engine.preemption": {"kind": "swap", "host_gib": 1.0}}, "engine.preemption", "already"),
        ({"model": "gemma-3-4b", "engine.prefix_caching": True}, "engine.kv_offload", "window"),
        ({"hardware.profile": "xeon"}, "engine.kv_offload", "computes in host memory"),
        (
            {"engine.kv_offload": [], "engine.kv_loading": {"overlap": False}},
            "engine.kv_loading",
            "no tier to load from",
        ),
    ],
)
def test_what_cannot_be_is_refused(fields: dict, where: str, why: str) -> None:
    given = BASE | {"engine.kv_offload": host(4.0)} | fields
    if "xeon" in str(fields):
        from simulator.hardware import load_hardware, profile_names

        name = next(n for n in profile_names() if load_hardware(n).kind == "cpu")
        given |= {"hardware.profile": name, "model": "qwen2.5-0.5b"}
    with pytest.raises(UserError, match=why) as error:
        resolve(Scenario.model_validate(nested(given)))
    assert error.value.where == where
