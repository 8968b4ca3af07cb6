"""Context parallelism: what is shared among ranks, what goes round, and what does not shrink."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator.costs.attention import DecodeAttention, PrefillAttention
from simulator.costs.context import ContextExchange, Ring, RingAttention
from simulator.costs.context_steps import ContextCostModel
from simulator.costs.memory import activation_bytes
from simulator.costs.operators import Operator
from simulator.costs.protocol import Chunk
from simulator.errors import UserError
from simulator.models import load_model
from simulator.models.counting import kv_bytes_per_rank, weight_bytes_per_rank
from simulator.models.layout import Layout
from simulator.models.splits import check_split
from simulator.results.record import StepTable
from tests.rig import (
    DENSE,
    IDEAL,
    LATENT,
    MOE,
    REAL,
    cost_model,
    device,
    engine,
    limits,
    precision,
    shape,
)
from tests.test_parallel_lockstep import table


def context(
    cp: int, spec=DENSE, efficiency: dict[str, Any] = IDEAL, tp: int = 1, **options: Any
) -> ContextCostModel:
    return ContextCostModel(
        spec, device(efficiency, network=50.0, **options), engine(), precision(),
        Layout(tp=tp, cp=cp), limits(async_scheduling=True),
    )  # fmt: skip


def only(cost, kind: type[Operator]) -> Operator:
    (found,) = (op for op in cost.operators if isinstance(op, kind))
    return found


def whole_prompt(tokens: int, ranks: int = 1) -> Any:
    return shape(
        tokens=tokens / ranks, prefill=tokens / ranks, read=tokens,
        pairs=tokens * (tokens + 1) / 2 / ranks,
    )  # fmt: skip


# --- one rank ------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [DENSE, MOE, LATENT])
@pytest.mark.parametrize("efficiency", [IDEAL, REAL])
def test_one_rank_takes_what_a_replica_of_old_takes(spec, efficiency) -> None:
    one, plain = context(1, spec, efficiency), cost_model(spec, hardware=device(efficiency))
    for n, each in ((1, 1), (3, 500), (64, 9000)):
        assert one.decode(n, n * each, 0, 0) == plain.decode(n, n * each, 0, 0)
    for chunks in ((Chunk(1, 0),), (Chunk(4000, 0),), (Chunk(300, 5000), Chunk(9, 0))):
        assert one.step(5, 4000, 0, chunks, 6) == pytest.approx(
            plain.step(5, 4000, 0, chunks, 6), rel=1e-12
        )


# --- prompts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [DENSE, LATENT])
@pytest.mark.parametrize("cp", [2, 4, 8])
def test_ranks_share_the_pairs_of_a_prompt(spec, cp: int) -> None:
    whole = only(cost_model(spec), PrefillAttention).demand(whole_prompt(64_000))
    part = only(context(cp, spec), RingAttention).demand(whole_prompt(64_000, cp))
    if spec is DENSE:  # latent attention expands what it receives once more
        assert part.flops[0] == pytest.approx(whole.flops[0] / cp)
    assert whole.flops[0] / cp <= part.flops[0] * (1 + 1e-12) < whole.flops[0]
    # Computing hides the ring: 64,000 tokens take what their share takes without one.
    op = only(context(cp, spec), RingAttention)
    alone = PrefillAttention.demand(op, whole_prompt(64_000, cp))
    assert part.seconds[0] == pytest.approx(alone.seconds[0], rel=1e-12)
    assert part.seconds[0] >= part.flops[0] / 1000e12


def test_the_ring_by_hand() -> None:
    """Four parts are computed one after the other; three of them have to come first."""
    ring = Ring(4, 1e-6, 100e9)
    sent = np.array([99e-6 * 100e9])  # 100 us with the latency
    assert ring.seconds(np.array([800e-6]), sent)[0] == pytest.approx(800e-6)
    assert ring.seconds(np.array([400e-6]), sent)[0] == pytest.approx(400e-6)
    assert ring.seconds(np.array([40e-6]), sent)[0] == pytest.approx(10e-6 + 3 * 100e-6)


def test_short_prompts_wait_for_the_ring() -> None:
    """A token's keys and values take 4 KB a layer; 400 GB/s carry 100 million of them a second."""
    op = only(context(4), RingAttention)
    tokens = 400
    found = op.demand(whole_prompt(tokens, 4))
    passing = tokens / 4 * 2 * 8 * 128 * 2 / 400e9
    alone = PrefillAttention.demand(op, whole_prompt(tokens, 4)).seconds[0] / 32
    assert passing > alone / 4
    assert found.seconds[0] == pytest.approx(32 * (alone / 4 + 3 * passing))
    assert found.network_s[0] == pytest.approx(32 * 3 * passing)
    assert found.link[0] == pytest.approx(32 * 3 / 4 * tokens * 2 * 8 * 128 * 2)


def test_a_ring_over_nodes_goes_at_the_pace_of_the_network() -> None:
    near, far = (only(context(8, devices=size), RingAttention).ring for size in (8, 4))
    assert near.bytes_per_s == 400e9
    assert far.bytes_per_s == 0.9 * 50e9
    assert far.latency_s > near.latency_s
    placed = only(context(4, tp=4, devices=4), RingAttention).ring
    assert placed.bytes_per_s == 0.9 * 50e9  # each group of four fills a node


@pytest.mark.parametrize("efficiency", [IDEAL, REAL])
def test_long_prompts_gain_and_decoding_hardly(efficiency) -> None:
    one, four = cost_model(hardware=device(efficiency)), context(4, efficiency=efficiency)
    long = [cost.step(0, 0, 0, (Chunk(32_000, 0),), 1) for cost in (one, four)]
    assert 3.3 < long[0] / long[1] < 4.0
    short = [cost.decode(4, 400, 0, 0)[0] for cost in (one, four)]
    assert short[1] / short[0] > 0.95  # weights are read all the same


def test_scalar_and_array_prices_agree() -> None:
    cost = context(4, MOE, REAL, tp=2)
    chunks = (Chunk(900, 300), Chunk(70, 0))
    first = cost.step(6, 9000, 0, chunks, 7)
    row = {
        "steps": 1, "first_s": first, "decode": 6, "context": 9000, "prefill": 2,
        "prefill_tokens": 970, "prefill_pairs": 900 * 300 + 900 * 901 / 2 + 70 * 71 / 2,
        "prefill_context": 1270, "sampled": 7, "gap_tokens": 6,
    }  # fmt: skip
    decode = {"steps": 1, "first_s": cost.decode(6, 9000, 0, 0)[0], "decode": 6,
              "context": 9000, "sampled": 6, "gap_tokens": 6}  # fmt: skip
    steps: StepTable = table([row, decode])
    work = cost.account(steps)
    total = np.sum(list(work.operator_s.values()), axis=0)
    assert total == pytest.approx(steps.duration_s, rel=1e-9)
    alone = cost_model(MOE, hardware=device(REAL), tp=2).account(steps)
    # The last rank's sequences are fewer: a row of logits too many.
    assert work.model_flops == pytest.approx(alone.model_flops, rel=1e-4)


# --- decoding ------------------------------------------------------------------------------------


def test_each_rank_reads_its_part_of_the_cache() -> None:
    one, four = cost_model(hardware=device(IDEAL)), context(4)
    step = shape(tokens=8, decode=8, context=8 * 100_000)
    whole, part = (only(cost, DecodeAttention).demand(step) for cost in (one, four))
    assert part.moved[0] == pytest.approx(whole.moved[0] / 4, rel=1e-3)
    assert part.flops[0] == whole.flops[0] / 4
    assert part.seconds[0] == pytest.approx(whole.seconds[0] / 4, rel=1e-3)


def test_queries_and_results_travel_by_hand() -> None:
    """32 heads of 128 numbers of 2 bytes each way, and 4 bytes a head back, to 3 of 4 ranks."""
    exchange = only(context(4), ContextExchange)
    size = 10 * (32 * 128 * 2 + 32 * 128 * 2 + 32 * 4)
    expected = 32 * size * 3 / 4 / 400e9
    found = exchange.demand(shape(tokens=99, decode=10))
    assert found.seconds[0] == pytest.approx(expected)
    assert exchange.seconds(np.array([10.0]), np.array([777.0]))[0] == pytest.approx(expected)
    assert exchange.demand(shape(tokens=99)).seconds[0] == 0.0


@pytest.mark.parametrize("spec", [DENSE, LATENT])
def test_runs_of_steps_stay_straight_lines(spec) -> None:
    cost = context(4, spec, REAL)
    done, n = 0, 7
    while done < 3000:
        first, slope, steps = cost.decode(n, n * (50 + done), 0, 0)
        for ahead in (1, min(steps, 400) - 1):
            later = cost.decode(n, n * (50 + done + ahead), 0, 0)[0]
            assert first + ahead * slope == pytest.approx(later, rel=1e-9)
        done += min(steps, 400)


# --- memory and refusals -------------------------------------------------------------------------


def test_weights_are_copied_and_the_cache_is_shared() -> None:
    one, four = Layout(tp=2), Layout(tp=2, cp=4)
    for spec in (DENSE, LATENT):
        assert weight_bytes_per_rank(spec, "bf16", four) == weight_bytes_per_rank(spec, "bf16", one)
        assert kv_bytes_per_rank(spec, "bf16", four).total * 4 == (
            kv_bytes_per_rank(spec, "bf16", one).total
        )
    assert activation_bytes(DENSE, limits(), four) < 0.3 * activation_bytes(DENSE, limits(), one)
    assert four.devices == 8


@pytest.mark.parametrize(
    ("model", "layout", "sentence"),
    [
        ("gemma-3-27b", Layout(cp=2),
         "parallelism.cp: layers of gemma-3-27b see a window or chunk that lies on one rank, so "
         "that ranks cannot share their context; leave cp out"),
        ("llama-3.1-8b", Layout(cp=2, dp=2),
         "parallelism.cp: context parallelism together with dp = 2 is not modelled; use tp and cp, "
         "or tp and dp"),
    ],
)  # fmt: skip
def test_what_cannot_share_context_is_refused(model: str, layout: Layout, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        check_split(load_model(model), layout)
    assert str(caught.value) == sentence
