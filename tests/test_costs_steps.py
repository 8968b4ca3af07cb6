"""The clock's shortcuts (tables, straight lines) against adding up every operator of every step."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from simulator.costs.model import StepCostModel
from simulator.costs.operators import Shape
from simulator.costs.protocol import Chunk, local_pairs
from simulator.engines.profile import EngineProfile
from simulator.models.spec import ModelSpec
from tests.rig import (
    DENSE,
    LATENT,
    MODELS,
    cost_model,
    decode_shape,
    device,
    engine,
    launch_s,
    limits,
    rows,
    shape,
    total,
)

SIZES = (1, 2, 4, 8, 16, 32, 64)
ENGINES = {
    "bare": engine(),
    "graphs": engine(sizes=SIZES, piecewise=True, launch_us=5),
    "decode graphs": engine(sizes=SIZES, launch_us=5),
    "launch-bound": engine(launch_us=40),
    "host": engine(step_ms=2, per_seq_us=30, per_token_us=1, overlap=0.5),
    "hidden host": engine(step_ms=12, per_seq_us=100, overlap=1.0, sizes=SIZES),
}
ON_MODELS = pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS.keys())
ON_ENGINES = pytest.mark.parametrize("profile", ENGINES.values(), ids=ENGINES.keys())


def whole_step(
    cost: StepCostModel, spec: ModelSpec, profile: EngineProfile, step: Shape, *, chunks: int = 0
) -> float:
    """Seconds of a step by the engine profile's own words: operators with padding, launches that
    bound them from below, and the host's work behind or beside them."""
    graphs, host = profile.cuda_graphs, profile.host
    tokens = int(step.tokens[0])
    in_graph = graphs.enabled and tokens <= graphs.sizes[-1] and (graphs.piecewise or not chunks)
    launches = 0.0
    if in_graph:
        tokens = graphs.sizes[bisect_left(graphs.sizes, tokens)]
    else:
        launches = launch_s(cost, profile)
    seconds = total(cost.operators, replace(step, tokens=np.array([float(tokens)])))
    sequences = step.decode[0] + chunks
    on_host = host.step_ms * 1e-3 + 1e-6 * (
        host.per_seq_us * sequences + host.per_token_us * step.tokens[0]
    )
    return float(max(seconds, launches, host.overlap * on_host) + (1 - host.overlap) * on_host)


# --- decode --------------------------------------------------------------------------------------


@ON_MODELS
@ON_ENGINES
@pytest.mark.parametrize("sequences", [1, 9, 64, 70])
def test_a_decode_line_is_every_step_it_claims(
    spec: ModelSpec, profile: EngineProfile, sequences: int
) -> None:
    cost = cost_model(spec, profile=profile)
    for context, near, growth in (
        (sequences, sequences, sequences),
        (sequences * 900, sequences * 400, sequences),
        (sequences * 30_000, sequences * 500, 0),
    ):
        first, slope, steps = cost.decode(sequences, context, near, growth)
        assert steps >= 1
        assert slope >= 0
        for i in sorted({0, 1, 2, 7, 100, 5000, steps - 1}):
            if i >= min(steps, 200_000):
                continue
            at = decode_shape(sequences, context + i * sequences, near + i * growth)
            expected = whole_step(cost, spec, profile, at)
            assert first + i * slope == pytest.approx(expected, rel=1e-9), i


@ON_ENGINES
@pytest.mark.parametrize("sequences", [3, 40])
def test_stretches_of_decode_lines_cover_a_long_run(profile: EngineProfile, sequences: int) -> None:
    """From stretch to stretch over the floor of launches and the bend of latent attention."""
    cost = cost_model(LATENT, profile=profile)
    context, done, stretches = sequences * 10, 0, 0
    while done < 30_000:
        first, slope, steps = cost.decode(sequences, context, 0, 0)
        stretches += 1
        steps = min(steps, 30_000 - done)
        last = context + (steps - 1) * sequences
        expected = whole_step(cost, LATENT, profile, decode_shape(sequences, last))
        assert first + (steps - 1) * slope == pytest.approx(expected, rel=1e-9)
        # Time only ever bends upward.
        after = whole_step(
            cost,
            LATENT,
            profile,
            decode_shape(sequences, last + sequences),
        )
        if done + steps < 30_000:
            assert after >= (first + steps * slope) * (1 - 1e-12)
        context, done = last + sequences, done + steps
    assert stretches <= 4


@ON_MODELS
def test_a_decode_step_grows_with_sequences_and_context(spec: ModelSpec) -> None:
    cost = cost_model(spec, profile=ENGINES["graphs"])
    times = [cost.decode(n, n * 500, n * 200, n)[0] for n in range(1, 130)]
    at_sizes = [times[n - 1] for n in SIZES]
    assert at_sizes == sorted(at_sizes)
    # Between two sizes only attention and logits grow.
    assert all(a <= b for a, b in pairwise(times[32:64]))
    for context in (100, 1000, 100_000):
        more = cost.decode(10, context * 11 // 10, context, 0)[0]
        assert more >= cost.decode(10, context, context, 0)[0]


def test_graphs_make_a_staircase() -> None:
    """Seventeen sequences cost the products of thirty-two; what is not padded is attention and
    logits."""
    cost = cost_model(DENSE, profile=ENGINES["graphs"])

    def products(sequences: int) -> float:
        step = decode_shape(sequences, sequences * 100)
        unpadded = replace(step, tokens=np.array([0.0]))
        return cost.decode(sequences, sequences * 100, 0, 0)[0] - total(cost.operators, unpadded)

    for low, high in pairwise(SIZES):
        inside = [products(n) for n in range(low + 1, high + 1)]
        assert inside == pytest.approx([inside[0]] * len(inside), rel=1e-9)
        assert inside[0] > products(low)
    bare = cost_model(DENSE, profile=ENGINES["graphs"], limit=limits(cuda_graphs=False))
    assert bare.decode(17, 1700, 0, 0)[0] == pytest.approx(
        max(total(bare.operators, decode_shape(17, 1700)), launch_s(bare, ENGINES["graphs"]))
    )


def test_beyond_the_largest_graph_kernels_are_launched_one_by_one() -> None:
    slow = engine(sizes=(1, 2, 4), launch_us=1000)
    cost = cost_model(DENSE, profile=slow)
    assert cost.decode(4, 40, 0, 0)[0] < 0.1
    assert cost.decode(5, 50, 0, 0)[1] == 0.0
    assert cost.decode(5, 50, 0, 0)[0] == pytest.approx(launch_s(cost, slow))


def test_host_work_is_hidden_as_far_as_the_profile_says() -> None:
    plain = cost_model(DENSE).decode(8, 800, 0, 0)[0]

    def with_host(step_ms: float, overlap: float) -> float:
        profile = engine(step_ms=step_ms, per_seq_us=100, overlap=overlap)
        return cost_model(DENSE, profile=profile).decode(8, 800, 0, 0)[0]

    assert with_host(2, 0.0) == pytest.approx(plain + 2.8e-3)
    assert with_host(2, 1.0) == pytest.approx(plain)
    assert with_host(2, 0.25) == pytest.approx(plain + 0.75 * 2.8e-3)
    assert with_host(50, 1.0) == pytest.approx(50.8e-3)  # the device waits for the host
    assert with_host(50, 0.5) == pytest.approx(50.8e-3)


# --- steps with prompts --------------------------------------------------------------------------

MIXES: dict[str, tuple[int, int, int, list[Chunk], int]] = {
    "one prompt": (0, 0, 0, [Chunk(300, 0)], 1),
    "part of a prompt": (0, 0, 0, [Chunk(512, 4096)], 0),
    "one token left": (0, 0, 0, [Chunk(1, 255)], 1),
    "prompts": (0, 0, 0, [Chunk(700, 0), Chunk(30, 400), Chunk(200, 0)], 2),
    "decode beside a prompt": (20, 30_000, 9000, [Chunk(1000, 0)], 21),
    "decode beside chunks": (50, 900_000, 20_000, [Chunk(9, 0), Chunk(900, 2000)], 51),
    "beyond the tables": (200, 400_000, 90_000, [Chunk(5000, 0), Chunk(9000, 10)], 202),
    "small": (3, 300, 300, [Chunk(20, 0)], 4),
}


def mixed_shape(
    cost: StepCostModel,
    sequences: int,
    context: int,
    near: int,
    chunks: list[Chunk],
    sampled: int,
) -> Shape:
    new = sum(chunk.new for chunk in chunks)
    read = sum(chunk.new + chunk.past for chunk in chunks)
    span, chunked = cost.local_span, cost.local_is_chunked
    return shape(
        tokens=sequences + new, sampled=sampled, decode=sequences, context=context,
        local_context=near, prefill=new, chunks=len(chunks), read=read,
        local_read=min(read, new + len(chunks) * span),
        pairs=sum(n * p + n * (n + 1) // 2 for n, p in chunks),
        local_pairs=sum(local_pairs(n, p, span, chunked=chunked) for n, p in chunks)
        if span
        else 0,
    )  # fmt: skip


@ON_MODELS
@ON_ENGINES
@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES.keys())
def test_a_mixed_step_is_the_sum_of_its_operators(
    spec: ModelSpec, profile: EngineProfile, mix: tuple[int, int, int, list[Chunk], int]
) -> None:
    cost = cost_model(
        spec, profile=profile, limit=limits(seqs=64, budget=2048, async_scheduling=True)
    )
    sequences, context, near, chunks, sampled = mix
    step = mixed_shape(cost, *mix)
    took = cost.step(sequences, context, near, chunks, sampled)
    expected = whole_step(cost, spec, profile, step, chunks=len(chunks))
    assert took == pytest.approx(expected, rel=1e-9)


@ON_MODELS
def test_a_step_takes_longer_with_more_of_anything(spec: ModelSpec) -> None:
    cost = cost_model(spec)
    base = cost.step(8, 8000, 4000, [Chunk(500, 1000)], 9)
    assert cost.step(9, 8000, 4000, [Chunk(500, 1000)], 9) > base
    if any(group.attention is not None for group in spec.groups):
        assert cost.step(8, 9000, 4500, [Chunk(500, 1000)], 9) > base
    assert cost.step(8, 8000, 4000, [Chunk(501, 1000)], 9) > base
    assert cost.step(8, 8000, 4000, [Chunk(500, 1000), Chunk(50, 0)], 9) > base
    assert cost.step(8, 8000, 4000, [Chunk(500, 1000)], 10) > base
    if spec.grows:
        assert cost.step(8, 8000, 4000, [Chunk(500, 2000)], 9) > base


def test_a_prompt_in_chunks_computes_the_pairs_of_the_whole() -> None:
    for span, chunked in ((100, False), (100, True), (7, False), (7, True), (1000, False)):
        whole = local_pairs(950, 0, span, chunked=chunked)
        assert whole == sum((i % span + 1) if chunked else min(i + 1, span) for i in range(950))
        cuts = (0, 64, 65, 300, 300 + span // 2, 950)
        parts = [local_pairs(b - a, a, span, chunked=chunked) for a, b in pairwise(cuts)]
        assert sum(parts) == whole


def test_the_same_question_has_the_same_answer_after_the_tables_grew() -> None:
    cost = cost_model(DENSE, limit=limits(seqs=4, budget=64))
    questions = [(4, 400, 0, [Chunk(60, 0)], 5), (0, 0, 0, [Chunk(64, 64)], 1)]
    before = [cost.step(*question) for question in questions], cost.decode(4, 400, 0, 0)
    cost.step(500, 50_000, 0, [Chunk(20_000, 0)], 501)
    cost.decode(900, 90_000, 0, 0)
    after = [cost.step(*question) for question in questions], cost.decode(4, 400, 0, 0)
    assert before == after


def test_power_stays_between_idle_and_tdp() -> None:
    cost = cost_model(DENSE, hardware=device(), tp=2)
    table = rows(cost, (1, 100, [], 1), (64, 64_000, [], 500), (0, 0, [Chunk(2048, 0)], 1))
    watts = cost.account(table).energy_j / table.duration_s / 2
    assert ((watts > 100) & (watts <= 700)).all()
    assert watts[2] > watts[0]
    assert cost.idle_w == 200
