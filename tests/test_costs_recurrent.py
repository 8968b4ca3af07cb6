"""Layers with a state of fixed size: closed forms of their time, memory and traffic."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.costs.memory import memory_budget
from simulator.costs.protocol import Chunk
from simulator.errors import ScenarioError
from simulator.models import load_model
from simulator.models.counting import state_bytes_per_rank
from simulator.models.layout import ALONE, Layout
from simulator.models.spec import LayerGroup
from simulator.resolve import resolve
from simulator.scenario.scenario import Scenario
from simulator.serving.kv_cache import KvLayout
from simulator.simulation import simulate
from tests.rig import (
    BANDWIDTH,
    FULL,
    GDN,
    HYBRID,
    IDEAL,
    MLP,
    SSM,
    STATES,
    cost_model,
    decode_shape,
    demands,
    device,
    engine,
    limits,
    model,
    precision,
    prompt_shape,
)

LENGTHS = {
    "kind": "independent",
    "input": {"kind": "fixed", "tokens": 500},
    "output": {"kind": "fixed", "tokens": 60},
}
TRAFFIC = {
    "kind": "synthetic",
    "requests": 40,
    "arrivals": {"kind": "poisson", "rate_per_s": 20.0},
    "lengths": LENGTHS,
}


def scenario(**fields: object) -> Scenario:
    return Scenario.model_validate(
        {"model": "granite-4.0-h-micro", "hardware": "h100-sxm", "workload": TRAFFIC} | fields
    )


# --- time ----------------------------------------------------------------------------------------


def test_a_decode_step_reads_and_writes_the_states() -> None:
    """32 heads of 128 × 128 elements, and 3 inputs of 8,192 channels of the convolution."""
    ops = cost_model(HYBRID, hardware=device(IDEAL)).operators
    found = demands(ops, decode_shape(64, 64_000))
    state = found["recurrent_state_update"][0]
    io = (8192 + 4096 + 2 * 32) * 2
    assert state.moved[0] == 18 * 64 * (2 * 32 * 128 * 128 * 2 + io)
    assert state.flops[0] == 18 * 64 * 7 * 32 * 128 * 128
    inputs = found["convolution_update"][0]
    assert inputs.moved[0] == 18 * (64 * (2 * 3 * 8192 * 2 + 2 * 8192 * 2) + 8192 * 4 * 2)


@pytest.mark.parametrize("name", ["qwen3-next-80b-a3b", "codestral-mamba-7b", "falcon-h1-7b"])
def test_states_take_the_same_time_at_any_context(name: str) -> None:
    ops = cost_model(load_model(name), tp=1).operators
    short, long = (demands(ops, decode_shape(16, context)) for context in (100, 4_000_000))
    for operator in ("recurrent_state_update", "convolution_update"):
        for near, far in zip(short[operator], long[operator], strict=True):
            assert near.seconds[0] == far.seconds[0] > 0


def test_a_model_of_states_alone_decodes_in_equal_steps() -> None:
    """However long the contexts, so that one leap takes a request to its end."""
    cost = cost_model(STATES)
    first, slope, steps = cost.decode(32, 1000, 0, 0)
    assert slope == 0.0
    assert steps > 1 << 40
    assert cost.decode(32, 3_000_000, 0, 0)[0] == first


def test_only_attention_makes_steps_of_a_hybrid_longer() -> None:
    """A quarter of its layers attend, so a quarter of the slope of a model that has them all."""
    hybrid = cost_model(HYBRID, hardware=device(IDEAL))
    whole = cost_model(
        model(LayerGroup(24, HYBRID.groups[1].attention, FULL, MLP)), hardware=device(IDEAL)
    )
    slopes = [cost.decode(32, 1_000_000, 0, 0)[1] for cost in (hybrid, whole)]
    assert slopes[0] == pytest.approx(slopes[1] / 4)
    # A cache element is read for good, a state at 1.1 of its size for a token of 500 contexts.
    assert hybrid.decode(32, 32_000_000, 0, 0)[0] < whole.decode(32, 32_000_000, 0, 0)[0] / 2


def test_prompts_pass_in_linear_time() -> None:
    """Without overheads twice the tokens take twice the time, the state apart."""
    ops = cost_model(STATES, hardware=device(IDEAL)).operators
    one, two = (
        sum(float(d.seconds[0]) for d in demands(ops, prompt_shape(n))["recurrent_state_scan"])
        for n in (20_000, 40_000)
    )
    assert two == pytest.approx(2 * one, rel=0.01)
    moved = demands(ops, prompt_shape(20_000))["recurrent_state_scan"][0].moved[0]
    per_token = (SSM.channels + SSM.inner + SSM.heads) * 2
    assert moved == 24 * (20_000 * per_token + 2 * 64 * 64 * 128 * 2)


def test_a_long_prompt_alone_waits_for_its_chunks() -> None:
    """They depend on each other: on a device a thousand times as fast it takes no less."""
    scan = {"gdn": {"bandwidth": 1, "compute": 1, "serial_ns": 50.0, "overhead_us": 0}}
    ops = cost_model(HYBRID, hardware=device(IDEAL | {"recurrent_scan": scan})).operators
    alone = demands(ops, prompt_shape(4096))["recurrent_state_scan"][0]
    assert alone.seconds[0] == pytest.approx(18 * 4096 * 50e-9)
    assert alone.seconds[0] > alone.moved[0] / BANDWIDTH


def test_more_chunks_read_and_write_more_states() -> None:
    cost = cost_model(HYBRID)
    one = cost.step(0, 0, 0, [Chunk(1024, 0)], 1)
    many = cost.step(0, 0, 0, [Chunk(16, 0)] * 64, 64)
    states = cost_model(STATES)
    assert many > one
    assert states.step(0, 0, 0, [Chunk(16, 0)] * 64, 1) > states.step(0, 0, 0, [Chunk(1024, 0)], 1)


@pytest.mark.parametrize("layer", [GDN, SSM], ids=["gdn", "mamba2"])
@pytest.mark.parametrize("tp", [2, 4, 8])
def test_devices_share_heads(layer: object, tp: int) -> None:
    spec = model(LayerGroup(8, None, FULL, MLP, recurrent=layer))  # type: ignore[arg-type]
    whole = demands(cost_model(spec).operators, decode_shape(64, 1000))
    part = demands(cost_model(spec, tp=tp).operators, decode_shape(64, 1000))
    for name in ("recurrent_in_proj", "recurrent_state_update", "convolution_update"):
        assert part[name][0].flops[0] == pytest.approx(whole[name][0].flops[0] / tp), name
    state = [state_bytes_per_rank(spec, "fp32", Layout(n)) for n in (1, tp)]
    assert state[1] == state[0] / tp


UPDATE = {"bandwidth": 0.8, "overhead_us": 4.0}
SCAN = {"bandwidth": 0.6, "compute": 0.4, "serial_ns": 5.0, "overhead_us": 9.0}


@pytest.mark.parametrize(
    ("family", "kind", "changed"),
    [("recurrent_update", kind, {name: value}) for kind in ("gdn", "conv")
     for name, value in (("bandwidth", 0.3), ("overhead_us", 50.0))]
    + [("recurrent_scan", kind, {name: value}) for kind in ("gdn", "conv")
       for name, value in (("bandwidth", 0.1), ("serial_ns", 9000.0), ("overhead_us", 90.0))]
    + [("recurrent_scan", "gdn", {"compute": 0.01})],
)  # fmt: skip
def test_every_coefficient_matters(family: str, kind: str, changed: dict[str, float]) -> None:
    took = []
    for more in ({}, changed):
        entries = {
            "recurrent_update": dict.fromkeys(("gdn", "conv"), UPDATE),
            "recurrent_scan": dict.fromkeys(("gdn", "conv"), SCAN),
        }
        entries[family] |= {kind: entries[family][kind] | more}
        cost = cost_model(HYBRID, hardware=device(IDEAL | entries))
        took.append((cost.decode(64, 64_000, 0, 0)[0], cost.step(0, 0, 0, [Chunk(2048, 0)], 1)))
    slower = 0 if family == "recurrent_update" else 1
    assert took[1][slower] > took[0][slower]
    assert took[1][1 - slower] == took[0][1 - slower]


# --- memory --------------------------------------------------------------------------------------


def test_a_state_is_taken_once() -> None:
    """Qwen3-Next: 36 layers of 32 × 128 × 128 elements and 3 × 8,192 inputs; 12 layers with a key
    and a value of 2 × 256 elements a token."""
    spec = load_model("qwen3-next-80b-a3b")
    state = 36 * (32 * 128 * 128 * 4 + 3 * 8192 * 2)
    assert state_bytes_per_rank(spec, "fp32", ALONE) == state
    numbers = replace(precision(), recurrent_state="fp32")
    memory, layout = memory_budget(
        spec, engine(), numbers, limits(block_size=16), ALONE, device_gib=400.0, fraction=0.9
    )
    block = 16 * 12 * 2 * 2 * 256 * 2
    assert memory.block_bytes == block
    assert layout.state_blocks == state / block
    fixed = -(-state // block)
    assert memory.state_blocks == fixed
    for tokens in (1, 16, 17, 100_000):
        assert layout.blocks_for(tokens) == fixed + -(-tokens // 16)


def test_states_alone_make_blocks_of_one_sequence() -> None:
    memory, layout = memory_budget(
        STATES, engine(), precision(), limits(), ALONE, device_gib=80.0, fraction=0.9
    )
    assert memory.block_bytes == state_bytes_per_rank(STATES, "bf16", ALONE)
    assert layout == KvLayout(memory.kv_blocks, layout.block_size, False, state_blocks=1.0)
    assert layout.blocks_for(1) == layout.blocks_for(1_000_000) == 1


def test_memory_limits_sequences_by_their_states() -> None:
    """A cache that holds four states and a little runs four sequences, not sixteen."""
    small = scenario(
        hardware={"profile": "h100-sxm", "memory_gib": 8.1},
        engine={"profile": "vllm", "max_num_seqs": 16, "max_num_batched_tokens": 512},
        workload=TRAFFIC | {"arrivals": {"kind": "poisson", "rate_per_s": 2000.0}},
    )
    resolved = resolve(small)
    layout = resolved.layout
    most = layout.blocks // layout.blocks_for(559)
    assert 1 <= most < 16
    result = simulate(small)
    assert int(result.record.steps.running.max()) <= most + 1  # until a preemption
    assert result.summary()["requests"]["all_by_outcome"]["completed"] == 40


def test_prefixes_are_not_cached() -> None:
    assert not resolve(scenario()).deployment.limits.prefix_caching
    with pytest.raises(ScenarioError, match="recurrent layers keep no state of a prompt's"):
        resolve(scenario(engine={"profile": "vllm", "prefix_caching": True}))


def test_tokens_of_cache_make_no_sense_for_states_alone() -> None:
    with pytest.raises(ScenarioError, match="caches nothing for each token"):
        resolve(
            scenario(
                model="codestral-mamba-7b", engine={"profile": "vllm", "kv_cache_tokens": 5000}
            )
        )


def test_a_state_type_needs_a_state() -> None:
    with pytest.raises(ScenarioError, match="has no layers that keep a recurrent state"):
        resolve(scenario(model="llama-3.1-8b", precision={"recurrent_state": "fp32"}))


@pytest.mark.parametrize("name", ["granite-4.0-h-micro", "codestral-mamba-7b", "lfm2-1.2b"])
def test_runs_end_with_every_token(name: str) -> None:
    result = simulate(scenario(model=name))
    result.check_integrity()
    assert result.summary()["requests"]["all_by_outcome"]["completed"] == 40


# Median inter-token latency, ms, of Nemotron-Nano-9B-v2 on vLLM 0.11 and one H100 at so many
# sequences with answers of 5,400 tokens (ML.ENERGY leaderboard v3, GPQA).
SERVED = {8: 9.51, 16: 10.6, 32: 13.08, 64: 18.01, 128: 27.27, 192: 38.76}


def test_decode_steps_of_a_served_hybrid() -> None:
    """States of 32 bits explain how steps grow with the batch: the ratio stays level. Those of 16
    bits would not: it would fall by a quarter."""
    ratios = {}
    for state in (None, "bf16"):
        numbers = {} if state is None else {"precision": {"recurrent_state": state}}
        cost = resolve(
            scenario(
                model="nemotron-nano-9b-v2",
                engine={"profile": "vllm", "version": "0.11"},
                **numbers,
            )
        ).cost
        ratios[state] = [
            cost.decode(n, n * 2950, 0, 0)[0] * 1e3 / milliseconds
            for n, milliseconds in SERVED.items()
        ]
    assert all(0.84 < ratio < 1.0 for ratio in ratios[None])
    assert max(ratios[None]) / min(ratios[None]) < 1.05
    assert max(ratios["bf16"]) / min(ratios["bf16"]) > 1.25
