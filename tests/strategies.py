"""Small but awkward runs for the property tests: tight KV, ties, shared text, sessions."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from simulator.cluster import FrontEndTimes
from simulator.deployment import Limits
from simulator.resolution.terms import ClassTerms, Terms
from simulator.scenario.policies import (
    ContinuousPolicy,
    DynamicPolicy,
    FullReservationPolicy,
    Policy,
    PrefillFirstPolicy,
    StaticPolicy,
)
from simulator.serving.below import Below, TierSpec
from simulator.serving.kv_cache import KvLayout
from simulator.workload.requests import OPEN_LOOP, ROOT, PrefixStreams, Requests
from tests.dyadic import TICK_S, BucketCost, DyadicCost, KneeCost, StairCost
from tests.oracle import OracleRun, run_oracle


def examples(count: int) -> settings:
    """Settings of a property test: ``count`` fixed examples in the suite, the profile's number of
    fresh ones under another hypothesis profile (see conftest.py)."""
    suite = os.environ.get("HYPOTHESIS_PROFILE", "ci") == "ci"
    common = settings(deadline=None, suppress_health_check=list(HealthCheck))
    return settings(common, max_examples=count) if suite else common


Segments = tuple[tuple[int, int], ...]
"""(stream, end) of each piece of a prompt."""


@dataclass(frozen=True)
class Req:
    """One request; times in ticks."""

    at: float
    prompt: int
    output: int
    parent: int = ROOT
    pool: int = OPEN_LOOP
    text: Segments = ()
    continues: bool = False
    kind: int = 0
    """Number of its traffic class."""


class Delays(TypedDict, total=False):
    """Constant times between client and engine, seconds."""

    network_s: float
    front_end: FrontEndTimes


@dataclass(frozen=True)
class Case:
    """Everything one run depends on, printed readably when a test fails."""

    reqs: tuple[Req, ...]
    limits: Limits
    kv_blocks: int
    cost: DyadicCost
    users: tuple[int, ...] = ()
    replicas: int = 1
    delays: Delays = field(default_factory=Delays)
    timeout_s: float | None = None
    terms: Terms = (ClassTerms(),)
    watermark: int = 0
    below: Below | None = None

    @property
    def layout(self) -> KvLayout:
        return KvLayout(
            self.kv_blocks, self.limits.block_size, watermark=self.watermark, below=self.below
        )

    @property
    def requests(self) -> Requests:
        return make_requests(self.reqs, self.users, len(self.terms))

    def oracle(self) -> OracleRun:
        return run_oracle(
            self.requests,
            self.limits,
            self.kv_blocks,
            self.cost,
            replicas=self.replicas,
            terms=self.terms,
            timeout_s=self.timeout_s,
            watermark=self.watermark,
            below=self.below,
            **self.delays,
        )


def make_requests(reqs: tuple[Req, ...], users: tuple[int, ...] = (), classes: int = 1) -> Requests:
    """The columns that a list of requests stands for."""

    def ints(values: list[int]) -> Any:
        return np.array(values, dtype=np.int64)

    prefixes = None
    if any(req.text for req in reqs):
        prefixes = PrefixStreams(
            offsets=ints([0, *np.cumsum([len(req.text) for req in reqs])]),
            stream=ints([stream for req in reqs for stream, _ in req.text]),
            end=ints([end for req in reqs for _, end in req.text]),
            continues=np.array([req.continues for req in reqs], dtype=np.bool_),
        )
    return Requests(
        arrival_s=np.array([req.at * TICK_S for req in reqs], dtype=np.float64),
        input_tokens=ints([req.prompt for req in reqs]),
        output_tokens=ints([req.output for req in reqs]),
        class_id=ints([req.kind for req in reqs]),
        parent=ints([req.parent for req in reqs]),
        pool=ints([req.pool for req in reqs]),
        session=ints([-1] * len(reqs)),
        pool_concurrency=users,
        classes=tuple(f"class {i}" for i in range(classes)) if classes > 1 else ("default",),
        prefixes=prefixes,
    )


def make_limits(
    policy: Policy,
    *,
    seqs: int = 8,
    budget: int = 64,
    block_size: int = 3,
    prefix_caching: bool = False,
    async_scheduling: bool = False,
) -> Limits:
    return Limits(
        policy=policy,
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        max_model_len=1_000_000,
        block_size=block_size,
        prefix_caching=prefix_caching,
        cuda_graphs=True,
        async_scheduling=async_scheduling,
    )


def blocks_needed(req: Req, block_size: int) -> int:
    """Blocks that one request fills at its end."""
    return -(-(req.prompt + req.output - 1) // block_size)


CONTINUOUS: list[Policy] = [
    ContinuousPolicy(),
    ContinuousPolicy(chunked_prefill=False),
    FullReservationPolicy(),
    FullReservationPolicy(chunked_prefill=False, wait_steps=3, wait_fill=0.7),
    FullReservationPolicy(wait_steps=9),
    PrefillFirstPolicy(),
]


@st.composite
def batch_policies(draw: st.DrawFn) -> Policy:
    size = draw(st.integers(1, 5))
    if draw(st.booleans()):
        return StaticPolicy(batch_size=size)
    # A binary fraction of a millisecond, so that the window's end is a binary fraction of a second.
    ticks = draw(st.sampled_from([0, 1, 60, 300, 2000, 30_000]))
    return DynamicPolicy(batch_size=size, window_ms=ticks * TICK_S * 1e3)


def costs() -> st.SearchStrategy[DyadicCost]:
    plain = st.builds(
        DyadicCost,
        base=st.integers(1, 200),
        sequence=st.integers(0, 9),
        context=st.integers(0, 3),
        token=st.integers(0, 5),
        pair=st.integers(0, 2),
    )
    local = st.builds(
        DyadicCost,
        local=st.integers(1, 4),
        local_span=st.sampled_from([1, 4, 7, 16]),
        local_is_chunked=st.booleans(),
    )
    knees = st.builds(KneeCost, every=st.integers(5, 90), steeper=st.integers(0, 3))
    stairs = st.builds(StairCost, every=st.integers(3, 90), rise=st.integers(0, 20))
    both = st.builds(
        StairCost,
        every=st.integers(3, 60),
        local=st.integers(1, 3),
        local_span=st.integers(1, 20),
        local_is_chunked=st.booleans(),
    )
    return st.one_of(plain, local, knees, stairs, both, st.builds(BucketCost))


@st.composite
def arrival_ticks(draw: st.DrawFn, n: int) -> list[float]:
    """Ascending times: one burst, crowds, a steady trickle, long silences."""
    longest_gap = draw(st.sampled_from([0, 30, 300, 3000, 50_000]))
    gaps = draw(
        st.lists(st.one_of(st.just(0), st.integers(0, longest_gap)), min_size=n, max_size=n)
    )
    return [float(t) for t in np.cumsum(gaps)]


@st.composite
def lengths(draw: st.DrawFn, n: int) -> list[tuple[int, int]]:
    """(prompt, output) of each; half of the time outputs are long, so that KV runs out."""
    longest = draw(st.sampled_from([10, 40, 100]))
    prompt = st.one_of(st.integers(1, longest), st.sampled_from([1, 2, 15, 16, 17, 32, 33, 48]))
    if draw(st.booleans()):
        output = st.integers(8, 50)
    else:
        output = st.one_of(st.just(1), st.integers(1, 8), st.integers(1, 45))
    return draw(st.lists(st.tuples(prompt, output), min_size=n, max_size=n))


@st.composite
def with_texts(draw: st.DrawFn, reqs: list[Req]) -> list[Req]:
    """Prompts that begin with shared text: one root text, then one of three longer ones that all
    begin with it, then the request's own; some have a tail that belongs to no text."""
    root = draw(st.integers(1, 20))
    branches = [root + draw(st.integers(1, 30)) for _ in range(3)]
    told = []
    for i, req in enumerate(reqs):
        text: list[tuple[int, int]] = []
        if draw(st.booleans()) or not i:
            text.append((0, min(root, req.prompt)))
            if req.prompt > root and draw(st.booleans()):
                branch = draw(st.integers(0, 2))
                text.append((1 + branch, min(branches[branch], req.prompt)))
        covered = text[-1][1] if text else 0
        if covered < req.prompt and draw(st.booleans()):
            text.append((100 + i, req.prompt))
            covered = req.prompt
        continues = covered == req.prompt and draw(st.booleans())
        told.append(replace(req, text=tuple(text), continues=continues))
    return told


def set_apart(i: int) -> float:
    """A different fraction of a tick for each request: two that come from different sources at the
    same instant are queued in an order that nobody promises."""
    return (i + 1) * 2.0**-12


@st.composite
def sessions(draw: st.DrawFn, caching: bool, one_source: bool) -> list[Req]:
    """Conversations: each turn's prompt is all that was said before and a new message. With
    ``one_source`` only one of them has several turns, and then without any pause at times."""
    reqs: list[Req] = []
    starts = draw(arrival_ticks(draw(st.integers(1, 4))))
    system = draw(st.integers(0, 20))
    talkative = draw(st.integers(0, len(starts) - 1))
    for number, start in enumerate(starts):
        said, parent = system, ROOT
        single = one_source and number != talkative
        for _turn in range(1 if single else draw(st.integers(1, 4))):
            prompt = said + draw(st.integers(1, 20))
            output = draw(st.one_of(st.just(1), st.integers(1, 25)))
            at = start if parent == ROOT else float(draw(st.sampled_from([0, 0, 7, 100, 5000])))
            if parent == ROOT or not one_source:
                at += set_apart(len(reqs))
            text = ((0, system), (10 + number, prompt)) if system else ((10 + number, prompt),)
            reqs.append(
                Req(at, prompt, output, parent, text=text if caching else (), continues=caching)
            )
            parent, said = len(reqs) - 1, prompt + output
    return reqs


@st.composite
def open_loop(draw: st.DrawFn, at_most: int = 12) -> list[Req]:
    n = draw(st.one_of(st.integers(1, at_most), st.integers(4, at_most)))
    at = draw(arrival_ticks(n))
    sizes = draw(lengths(n))
    return [Req(t, prompt, output) for t, (prompt, output) in zip(at, sizes, strict=True)]


@st.composite
def closed_loop(draw: st.DrawFn, one_source: bool) -> tuple[list[Req], tuple[int, ...]]:
    """Users of one or two pools that think for a while, or not at all."""
    n = draw(st.integers(2, 12))
    users = draw(st.lists(st.integers(1, 4), min_size=1, max_size=1 if one_source else 2))
    think = st.sampled_from([0.0, 0.0, 3.0, 250.0, 9000.0])
    reqs = []
    for i, (prompt, output) in enumerate(draw(lengths(n))):
        pause = draw(think) + (0.0 if one_source else set_apart(i))
        reqs.append(Req(pause, prompt, output, pool=draw(st.integers(0, len(users) - 1))))
    return reqs, tuple(users)


@st.composite
def engines(
    draw: st.DrawFn, reqs: list[Req], policy: Policy, prefix_caching: bool
) -> tuple[Limits, int]:
    """Limits around what the requests need, and KV from barely enough upward."""
    block_size = draw(st.sampled_from([1, 3, 16]))
    seqs = draw(st.sampled_from([64, 8, 5, 3, 2, 1]))
    longest = max(req.prompt + req.output for req in reqs)
    budgets = [4, 11, 32, 1000]
    if not getattr(policy, "chunked_prefill", True):
        budgets = [longest, longest + 20, 1000]
    budgets = [budget for budget in budgets if budget >= min(seqs, 8)]
    seqs = min(seqs, *budgets)
    limits = make_limits(
        policy,
        seqs=seqs,
        budget=draw(st.sampled_from(budgets)),
        block_size=block_size,
        prefix_caching=prefix_caching,
        async_scheduling=draw(st.booleans()),
    )
    barely = max(blocks_needed(req, block_size) for req in reqs)
    spare = draw(st.sampled_from([0, 1, 2, 4, 8, 16, 32, 1000]))
    return limits, barely + spare


@st.composite
def on_boundaries(draw: st.DrawFn, case: Case) -> Case:
    """Moves the last arrivals onto ends of steps (or next to them): an arrival changes nothing that
    happens before it, so the step that ends there stays where it is."""
    for _ in range(draw(st.integers(0, 3))):
        last = max(len(case.reqs) - 3, 0)
        moved = draw(st.integers(last, len(case.reqs) - 1))
        floor = case.reqs[moved - 1].at if moved else 0.0
        ends = [(step.start_s + step.duration_s) / TICK_S for step in case.oracle().steps]
        ends = [end for end in ends if end > floor]
        if not ends:
            break
        at = draw(st.sampled_from(ends)) + draw(st.sampled_from([0.0, 0.0, 0.0, -(2.0**-10), 1.0]))
        at = max(at, floor)
        reqs = [*case.reqs[:moved], replace(case.reqs[moved], at=at)]
        reqs += [replace(req, at=max(req.at, at)) for req in case.reqs[moved + 1 :]]
        case = replace(case, reqs=tuple(reqs))
    return case


@st.composite
def cellars(draw: st.DrawFn) -> Below:
    """Tiers of a few blocks behind slow and fast paths; a block takes a whole number of ticks."""
    ticks = st.sampled_from([0.25, 1, 8, 40, 300])
    devices = draw(st.sampled_from([1, 2]))
    host = TierSpec("host", draw(st.sampled_from([1, 2, 5, 12, 40, 1000])))
    drive = TierSpec(
        "ssd",
        draw(st.sampled_from([1, 3, 9, 30, 1000])),
        devices / (draw(ticks) * TICK_S),
        devices / (draw(ticks) * TICK_S),
    )
    return Below(
        block_bytes=1.0,
        devices=devices,
        host_bytes_per_s=1 / (draw(ticks) * TICK_S),
        tiers=draw(st.sampled_from([(host,), (drive,), (host, drive)])),
        min_blocks=draw(st.sampled_from([1, 1, 2, 4])),
        overlap=draw(st.booleans()),
        replicas_per_node=draw(st.sampled_from([1, 2])),
    )


@st.composite
def swap_spaces(draw: st.DrawFn) -> Below:
    """Host memory for preempted sequences, from room for a block to plenty."""
    ticks = draw(st.sampled_from([0.25, 1, 8, 40, 300]))
    return Below(
        block_bytes=1.0,
        devices=draw(st.sampled_from([1, 2])),
        host_bytes_per_s=1 / (ticks * TICK_S),
        swap_blocks=draw(st.sampled_from([1, 4, 10, 30, 1000, 1000])),
    )


@st.composite
def cases(
    draw: st.DrawFn,
    policies: st.SearchStrategy[Policy],
    *,
    prefix_caching: bool = False,
    dependent: bool = False,
    replicas: int = 1,
) -> Case:
    """Runs under one of the policies. ``dependent`` makes sessions and closed loops."""
    users: tuple[int, ...] = ()
    if not dependent:
        reqs = draw(open_loop())
    elif draw(st.booleans()):
        reqs = draw(sessions(prefix_caching, replicas == 1 and draw(st.booleans())))
    else:
        reqs, users = draw(closed_loop(replicas == 1 and draw(st.booleans())))
    if prefix_caching and not any(req.text for req in reqs):
        reqs = draw(with_texts(reqs))
    limits, kv_blocks = draw(engines(reqs, draw(policies), prefix_caching))
    delays = Delays()
    if draw(st.integers(0, 3)) == 0:
        delay = st.sampled_from([0.0, TICK_S, 100 * TICK_S])
        around = FrontEndTimes(*(draw(delay) for _ in FrontEndTimes._fields))
        delays = Delays(network_s=draw(delay), front_end=around)
    case = Case(
        tuple(reqs), limits, kv_blocks, draw(costs()), users, min(replicas, len(reqs)), delays
    )
    if not dependent and not delays:
        case = draw(on_boundaries(case))
    return case


def random_case(
    rng: np.random.Generator, policy: Policy, *, prefix_caching: bool = False, n: int = 50
) -> Case:
    """A longer run without hypothesis: bursts, then calm, and KV for three to six of the requests."""
    gaps = rng.choice([0, 1, 40, 400, 3000], size=n, p=[0.3, 0.1, 0.3, 0.2, 0.1])
    reqs = []
    for i, at in enumerate(np.cumsum(gaps)):
        prompt, output = int(rng.integers(1, 60)), int(rng.integers(1, 80))
        text: Segments = ()
        if prefix_caching and rng.random() < 0.8:
            # Three texts, each with a prompt-long beginning in common.
            group, shared = int(rng.integers(3)), int(rng.integers(5, 50))
            text = ((group, min(shared, prompt)),)
            if shared < prompt:
                text += ((100 + i, prompt),)
        continues = prefix_caching and bool(rng.random() < 0.5) and bool(text)
        reqs.append(Req(float(at), prompt, output, text=text, continues=continues))
    block_size = int(rng.choice([1, 3, 16]))
    barely = max(blocks_needed(req, block_size) for req in reqs)
    longest = max(req.prompt + req.output for req in reqs)
    whole = not getattr(policy, "chunked_prefill", True)
    limits = make_limits(
        policy,
        seqs=int(rng.choice([4, 8, 32])),
        budget=longest + 10 if whole else int(rng.choice([32, 50, 200])),
        block_size=block_size,
        prefix_caching=prefix_caching,
    )
    cost = [DyadicCost(), KneeCost(every=150), StairCost(every=200), BucketCost()]
    return Case(
        tuple(reqs), limits, int(barely * rng.uniform(1, 4)), cost[int(rng.integers(len(cost)))]
    )
