"""Weights in parts on several replicas: what memory they leave, and when gathering them is hidden."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator.costs.protocol import Chunk
from simulator.costs.sharded import GATHER, ShardedCostModel
from simulator.errors import UserError
from simulator.models import load_model, preset_names
from simulator.models.counting import layer_bytes_per_rank, weight_bytes, weight_bytes_per_rank
from simulator.models.layout import Layout
from simulator.models.splits import check_split
from simulator.resolve import resolve
from simulator.scenario.scenario import Scenario
from tests.rig import DENSE, IDEAL, MOE, cost_model, device, engine, limits, precision
from tests.test_parallel_lockstep import table

LINK, NETWORK = 400e9, 50e9
LAYER = 2 * (4096 * (32 + 8 + 8 + 32) * 128 + 3 * 4096 * 14_336 + 2 * 4096)
"""Bytes of a layer of the dense model: queries, keys, values, output, feed-forward, norms."""


def sharded(fsdp: int, spec=DENSE, tp: int = 1, **options: Any) -> ShardedCostModel:
    return ShardedCostModel(
        spec, device(IDEAL, network=50.0, **options), engine(), precision(),
        Layout(tp=tp, fsdp=fsdp), limits(async_scheduling=True),
    )  # fmt: skip


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", preset_names()[::7])
def test_layers_and_ends_are_the_model(name: str) -> None:
    spec = load_model(name)
    layers = sum(count * size for count, size in layer_bytes_per_rank(spec, "bf16", Layout()))
    ends = 2.0 * spec.hidden * (spec.vocab * (1 if spec.tied_embeddings else 2) + 2)
    assert layers == pytest.approx(weight_bytes(spec, "bf16") - ends, rel=1e-4)


def test_memory_by_hand() -> None:
    """A part of each layer, two whole ones, and the ends."""
    whole = weight_bytes_per_rank(DENSE, "bf16", Layout())
    assert layer_bytes_per_rank(DENSE, "bf16", Layout()) == [(32, LAYER)]
    ends = whole - 32 * LAYER
    for fsdp in (2, 4, 8):
        found = weight_bytes_per_rank(DENSE, "bf16", Layout(fsdp=fsdp))
        assert found == pytest.approx(ends + 32 * LAYER / fsdp + 2 * LAYER)


# --- time ----------------------------------------------------------------------------------------


def test_gathering_by_hand() -> None:
    """Each replica lacks three quarters of every layer."""
    assert sharded(4).gather_s == pytest.approx(32 * LAYER * 3 / 4 / LINK)
    assert sharded(4, tp=2).gather_s == pytest.approx(32 * LAYER * 3 / 8 / LINK, rel=1e-3)
    far = sharded(4, devices=2).gather_s
    # A quarter comes from the other node, and goes on to the neighbour with the own quarter.
    within, between = 32 * LAYER / 2 / LINK, 32 * LAYER / 4 / (0.9 * NETWORK)
    assert far == pytest.approx(within + between + 32 * 5e-6)


@pytest.mark.parametrize("spec", [DENSE, MOE])
@pytest.mark.parametrize("fsdp", [2, 8])
def test_a_step_takes_the_longer_of_work_and_gathering(spec, fsdp: int) -> None:
    cost, plain = sharded(fsdp, spec), cost_model(spec, hardware=device(IDEAL))
    for n in (1, 16, 64):
        first, slope, _ = cost.decode(n, n * 500, 0, 0)
        alone = plain.decode(n, n * 500, 0, 0)[0]
        assert first == pytest.approx(max(alone, cost.gather_s), rel=1e-9)
        assert slope == 0.0 or alone >= cost.gather_s
    for tokens in (16, 2000, 60_000):
        chunks = (Chunk(tokens, 0),)
        alone = plain.step(0, 0, 0, chunks, 1)
        assert cost.step(0, 0, 0, chunks, 1) == pytest.approx(max(alone, cost.gather_s), rel=1e-9)


def test_decoding_waits_for_the_link_and_long_prompts_hide_it() -> None:
    cost, plain = sharded(8), cost_model(hardware=device(IDEAL))
    assert cost.decode(8, 4000, 0, 0)[0] > 5 * plain.decode(8, 4000, 0, 0)[0]
    chunks = (Chunk(8000, 0),)
    assert cost.step(0, 0, 0, chunks, 1) == plain.step(0, 0, 0, chunks, 1)


def test_sums_over_devices_use_the_same_link() -> None:
    """The links carry the gathers and the tensor-parallel sums of a step."""
    cost = sharded(4, tp=2)
    sums = (2 * 32 + 1) * 8 * 4096 * 2 / LINK  # 2 (g - 1)/g = 1 of the message
    assert cost.decode(8, 4000, 0, 0)[0] == pytest.approx(cost.gather_s + sums, rel=1e-6)


def test_runs_of_steps_bend_where_work_outgrows_the_gathers() -> None:
    cost = sharded(2, MOE)
    n, done, flat, steep = 64, 0, 0, 0
    while done < 30_000:
        first, slope, steps = cost.decode(n, n * (1000 + done), 0, 0)
        flat, steep = flat + (slope == 0), steep + (slope > 0)
        last = min(steps, 500) - 1
        later = cost.decode(n, n * (1000 + done + last), 0, 0)[0]
        assert first + slope * last == pytest.approx(later, rel=1e-9)
        done += last + 1
    assert flat
    assert steep


def test_the_account_shows_what_is_not_hidden() -> None:
    cost = sharded(4)
    rows = []
    for decode, prompt in ((8, 0), (0, 8000)):
        chunks = (Chunk(prompt, 0),) if prompt else ()
        first = (
            cost.step(0, 0, 0, chunks, 1) if prompt else cost.decode(decode, 500 * decode, 0, 0)[0]
        )
        rows.append({
            "steps": 1, "first_s": first, "decode": decode, "context": 500 * decode,
            "prefill": len(chunks), "prefill_tokens": prompt, "sampled": decode or 1,
            "prefill_pairs": prompt * (prompt + 1) / 2, "prefill_context": prompt,
            "gap_tokens": decode,
        })  # fmt: skip
    steps = table(rows)
    work = cost.account(steps)
    total = np.sum(list(work.operator_s.values()), axis=0)
    assert total == pytest.approx(steps.duration_s, rel=1e-9)
    assert np.sum(list(work.resource_s.values()), axis=0) == pytest.approx(steps.duration_s)
    bare = work.operator_s[GATHER]
    plain = cost_model(hardware=device(IDEAL)).decode(8, 4000, 0, 0)[0]
    assert bare[0] == pytest.approx(cost.gather_s - plain, rel=1e-6)
    assert bare[1] == 0.0
    assert work.link_bytes == pytest.approx([32 * LAYER * 3 / 4] * 2)


# --- refusals ------------------------------------------------------------------------------------


def test_what_cannot_be_sharded_is_refused() -> None:
    with pytest.raises(UserError, match=r"parallelism.fsdp: sharded weights together with cp = 2"):
        check_split(load_model("llama-3.1-8b"), Layout(cp=2, fsdp=2))
    with pytest.raises(UserError) as caught:
        resolve(four({"replicas": 6}))
    assert str(caught.value) == (
        "parallelism.fsdp: weights sharded over 4 replicas, of which there are 6; make "
        "the replicas, of a pool too, a multiple of 4"
    )
    with pytest.raises(UserError) as caught:
        resolve(four({"replicas": 4, "failures": {"mtbf_h": 1.0}}))
    assert str(caught.value) == (
        "parallelism.fsdp: replicas that share weights cannot come and go one by one, as failures "
        "has it; leave out fsdp or deployment.failures"
    )


def four(deployment: dict[str, Any]) -> Scenario:
    return Scenario.model_validate({
        "model": "llama-3.1-8b", "hardware": "h100-sxm", "parallelism": {"fsdp": 4},
        "deployment": deployment,
        "workload": {"kind": "synthetic", "requests": 1,
                     "arrivals": {"kind": "poisson", "rate_per_s": 1},
                     "lengths": {"kind": "independent", "input": {"kind": "fixed", "tokens": 9},
                                 "output": {"kind": "fixed", "tokens": 9}}},
    })  # fmt: skip
