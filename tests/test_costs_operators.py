"""What an operator asks for: against closed forms, and never below the machine's limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulator.costs.operators import Collective, Demand, Experts, Operator, Shape
from simulator.costs.rows import table_shape
from simulator.errors import UserError
from simulator.models import load_model, preset_names
from simulator.models.counting import (
    active_parameters,
    embedding_parameters,
    kv_elements,
    parameters,
    state_bytes_per_rank,
)
from simulator.models.layout import ALONE
from simulator.models.spec import GroupedAttention, LatentAttention, LayerGroup, ModelSpec
from tests.rig import (
    BANDWIDTH,
    DENSE,
    FULL,
    IDEAL,
    LATENT,
    LINK,
    MODELS,
    MOE,
    PEAK,
    REAL,
    cost_model,
    decode_shape,
    demands,
    device,
    precision,
    prompt_shape,
    shape,
    total,
)

STEPS = {
    "one token": decode_shape(1, 2, 1),
    "small batch": decode_shape(7, 4000, 3000, padded=8),
    "large batch": decode_shape(256, 300_000, 100_000),
    "long contexts": decode_shape(16, 2_000_000, 8000),
    "prompt": prompt_shape(2048, local_pairs=800_000),
    "end of a long prompt": prompt_shape(512, past=30_000, local_pairs=260_000),
    "mixed": shape(
        tokens=600, sampled=90, decode=89, context=90_000, local_context=40_000, prefill=511,
        read=2511, local_read=1023, pairs=1_150_000, local_pairs=260_000, chunks=2,
    ),
}  # fmt: skip
ON_STEPS = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
ON_MODELS = pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS.keys())


def seconds(demand: Demand) -> float:
    return float(demand.seconds[0])


# --- floors --------------------------------------------------------------------------------------


@ON_MODELS
@ON_STEPS
@pytest.mark.parametrize("efficiency", [REAL, IDEAL], ids=["real", "ideal"])
@pytest.mark.parametrize("tp", [1, 8])
def test_nothing_beats_the_machine(
    spec: ModelSpec, step: Shape, efficiency: dict[str, object], tp: int
) -> None:
    operators = cost_model(spec, hardware=device(efficiency), tp=tp).operators
    whole = 0.0
    for operator in operators:
        demand = operator.demand(step)
        took = seconds(demand) * (1 + 1e-12)
        assert took >= demand.flops[0] / PEAK, operator.name
        assert took >= demand.link[0] / LINK, operator.name
        if not isinstance(operator, Collective):  # those move their bytes over the link
            assert took >= demand.moved[0] / BANDWIDTH, operator.name
        parts = (demand.compute_s[0], demand.memory_s[0], demand.network_s[0])
        assert took >= max(parts), operator.name
        assert demand.latency_s[0] <= took, operator.name
        whole += took
    memory = sum(o.demand(step).moved[0] for o in operators if not isinstance(o, Collective))
    floor = max(memory / BANDWIDTH, total(operators, step, "flops") / PEAK)
    assert whole >= max(floor, total(operators, step, "link") / LINK) > 0


GROWTH = {
    "padding": ("tokens",),
    "logits": ("sampled",),
    "sequences": ("tokens", "sampled", "decode", "context", "local_context"),
    "context": ("context", "local_context"),
    "prompt": ("tokens", "prefill", "read", "local_read", "pairs", "local_pairs"),
    "past": ("read", "local_read", "pairs", "local_pairs"),
    "pairs": ("pairs", "local_pairs"),
}


@ON_MODELS
@pytest.mark.parametrize("names", GROWTH.values(), ids=GROWTH.keys())
def test_more_work_never_takes_less_time(spec: ModelSpec, names: tuple[str, ...]) -> None:
    base = STEPS["mixed"]
    operators = cost_model(spec, tp=2).operators
    before = total(operators, base)
    for more in (1.0, 13.0, 5000.0):
        sizes = {name: float(getattr(base, name)[0]) for name in Shape.__dataclass_fields__}
        step = shape(**sizes | {name: sizes[name] + more for name in names})
        for operator in operators:
            assert seconds(operator.demand(step)) >= seconds(operator.demand(base)), operator.name
        after = total(operators, step)
        assert after >= before
        before = after
    attends = any(group.attention is not None for group in spec.groups)
    assert before > total(operators, base) or not attends


@ON_MODELS
def test_an_empty_step_launches_nothing(spec: ModelSpec) -> None:
    for what in ("seconds", "flops", "moved", "link", "latency_s"):
        assert total(cost_model(spec, tp=2).operators, shape(), what) == 0.0


# --- floating-point operations -------------------------------------------------------------------


def attention_flops(spec: ModelSpec, pairs: int, local_pairs: int, *, absorbed: bool) -> float:
    """Products of queries with keys and of weights with values."""
    flops = 0.0
    for group in spec.groups:
        attention = group.attention
        if attention is None:
            continue
        if isinstance(attention, LatentAttention):
            shared = 2 * attention.kv_lora_rank + attention.qk_rope_head_dim
            own = attention.qk_nope_head_dim + attention.qk_rope_head_dim + attention.v_head_dim
            width = 2 * attention.heads * (shared if absorbed else own)
        else:
            width = 4 * attention.heads * attention.head_dim
        flops += group.count * width * (pairs if group.span.kind == "full" else local_pairs)
    return flops


def state_flops(spec: ModelSpec, tokens: int, *, scanned: bool) -> float:
    """What tokens do to states, besides products with weights (the convolution's are weights)."""
    flops = 0.0
    for group in spec.groups:
        if (layer := group.recurrent) is not None:
            flops += group.count * (layer.scan_flops(64) if scanned else layer.update_flops)
    return flops * tokens


def products(spec: ModelSpec) -> int:
    """Parameters that take part in products with every token, LM head apart."""
    head = embedding_parameters(spec)
    return active_parameters(spec) - head - (0 if spec.tied_embeddings else head)


@pytest.mark.parametrize("name", preset_names())
def test_flops_of_a_prompt(name: str) -> None:
    """Two for every parameter a token passes, and attention; the LM head for one token only."""
    spec = load_model(name)
    tokens, near = 4096, 3_000_000
    step = prompt_shape(tokens, local_pairs=near)
    expected = 2.0 * tokens * products(spec) + 2.0 * embedding_parameters(spec)
    expected += attention_flops(spec, tokens * (tokens + 1) // 2, near, absorbed=False)
    expected += state_flops(spec, tokens, scanned=True)
    operators = cost_model(spec, numbers=precision("bf16")).operators
    assert total(operators, step, "flops") == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize("name", preset_names())
def test_flops_of_a_decode_step(name: str) -> None:
    spec = load_model(name)
    sequences, context, near = 64, 200_000, 50_000
    expected = 2.0 * sequences * (products(spec) + embedding_parameters(spec))
    expected += attention_flops(spec, context, near, absorbed=True)
    expected += state_flops(spec, sequences, scanned=False)
    operators = cost_model(spec, numbers=precision("bf16")).operators
    step = decode_shape(sequences, context, near)
    assert total(operators, step, "flops") == pytest.approx(expected, rel=0.005)


def test_a_later_chunk_of_latent_attention_expands_what_is_stored() -> None:
    """Keys and values of the past are made again from the latents, those of new tokens once."""
    operators = cost_model(LATENT).operators
    new, past = 512, 4096
    chunk, fresh = prompt_shape(new, past=past), prompt_shape(new)
    more = total(operators, chunk, "flops") - total(operators, fresh, "flops")
    attention = LATENT.groups[0].attention
    assert isinstance(attention, LatentAttention)
    up = attention.kv_lora_rank * attention.heads * 256
    assert more == pytest.approx(12 * (2 * past * up + new * past * 2 * 64 * (192 + 128)))


# --- bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", preset_names())
def test_bytes_of_a_decode_step(name: str) -> None:
    """One sequence reads every active weight once, but of the embedding a single row; its keys and
    values, those that layers share once for each; and its states, which it writes as well."""
    spec = load_model(name)
    state = 2 * state_bytes_per_rank(spec, "bf16", ALONE)
    weights = 2.0 * (products(spec) + embedding_parameters(spec))
    assert total(cost_model(spec).operators, decode_shape(1, 0), "moved") == pytest.approx(
        weights + state, rel=0.02
    )
    context = 50_000
    layers = [g for g in spec.groups if g.attention is not None]
    stored = context * sum(2.0 * g.count * kv_elements(g.attention) for g in layers)
    found = demands(cost_model(spec).operators, decode_shape(1, context, context))
    read = sum(float(demand.moved[0]) for demand in found.get("decode_attention", ()))
    assert read == pytest.approx(stored, rel=0.01)


def test_8_bit_weights_halve_their_bytes() -> None:
    wide = cost_model(DENSE, numbers=precision("bf16")).operators
    narrow = cost_model(DENSE, numbers=precision("fp8")).operators
    step = decode_shape(1, 1)
    for name in ("qkv_proj", "o_proj", "up_proj", "down_proj"):
        a, b = (demands(ops, step)[name][0].moved[0] for ops in (wide, narrow))
        assert b == pytest.approx(a / 2, rel=0.001), name
    a, b = (demands(ops, step)["lm_head"][0] for ops in (wide, narrow))
    assert a.moved[0] == b.moved[0]  # checkpoints leave it at 16 bits
    assert a.seconds[0] == b.seconds[0]


def test_4_bit_weights_with_16_bit_products_keep_the_flops() -> None:
    step = prompt_shape(1024)
    wide = demands(cost_model(DENSE).operators, step)["up_proj"][0]
    narrow = demands(cost_model(DENSE, numbers=precision("int4", "bf16")).operators, step)
    up = narrow["up_proj"][0]
    assert up.flops[0] == wide.flops[0]
    saved = 32 * 2 * 14_336 * 4096 * (2 - (0.5 + 2.5 / 128))
    assert wide.moved[0] - up.moved[0] == pytest.approx(saved)


def test_an_8_bit_cache_halves_what_attention_reads() -> None:
    step = decode_shape(4, 400_000)
    wide = demands(cost_model(DENSE).operators, step)["decode_attention"][0]
    narrow = demands(cost_model(DENSE, numbers=precision("bf16", kv="fp8")).operators, step)
    assert narrow["decode_attention"][0].moved[0] == pytest.approx(wide.moved[0] / 2, rel=0.001)


# --- experts -------------------------------------------------------------------------------------


def experts_of(spec: ModelSpec) -> Experts:
    (found,) = [op for op in cost_model(spec).operators if isinstance(op, Experts)]
    return found


def weights_read(operator: Experts, tokens: int) -> float:
    """Experts whose weights one layer reads."""
    of = operator.demand(shape(tokens=tokens))
    activations = operator.demand(shape(tokens=tokens)).moved[0]
    each = operator.hidden * operator.width * operator.matrices * operator.weight_bytes
    routed = tokens * operator.top_k
    activations = operator.count * (
        tokens * operator.hidden * 2.0
        + routed * operator.hidden * 2.0
        + routed * operator.width * (2.0 * (operator.matrices - 1) + 2.0)
    )
    return float((of.moved[0] - activations) / (operator.count * each))


def test_one_token_reads_its_own_experts_and_many_read_all() -> None:
    operator = experts_of(MOE)
    assert weights_read(operator, 1) == pytest.approx(4)
    assert weights_read(operator, 100_000) == pytest.approx(64)
    counts = [weights_read(operator, tokens) for tokens in (1, 2, 3, 8, 64, 512)]
    assert counts == sorted(counts)


def test_expected_number_of_different_experts() -> None:
    """Against drawing 4 of 64 without replacement for every token, many times."""
    rng = np.random.default_rng(1)
    operator = replace(experts_of(MOE), skew=1.0)
    for tokens in (2, 8, 40):
        draws = rng.random((400, tokens, 64)).argsort(axis=2)[:, :, :4].reshape(400, -1)
        seen = np.mean([len(np.unique(row)) for row in draws])
        assert weights_read(operator, tokens) == pytest.approx(seen, rel=0.02)


# --- tensor parallelism --------------------------------------------------------------------------


@ON_MODELS
@ON_STEPS
def test_devices_together_do_at_least_the_work_of_one(spec: ModelSpec, step: Shape) -> None:
    whole = cost_model(spec).operators
    for tp in (2, 4, 8):
        part = cost_model(spec, tp=tp).operators
        for what in ("flops", "moved"):
            assert tp * total(part, step, what) >= total(whole, step, what) * (1 - 1e-12)
            assert total(part, step, what) <= total(whole, step, what) * 1.25


def test_more_devices_than_kv_heads_copy_keys_and_values() -> None:
    spec = ModelSpec(
        "few", 4096, 32_000, (LayerGroup(4, GroupedAttention(32, 2, 128), FULL, MODELS["dense"].groups[0].mlp),),
        tied_embeddings=False, max_context=4096,
    )  # fmt: skip
    step = decode_shape(8, 80_000)
    read = [
        demands(cost_model(spec, tp=tp).operators, step)["decode_attention"][0].moved[0]
        for tp in (1, 2, 4)
    ]
    assert read[1] == pytest.approx(read[0] / 2)
    assert read[2] == pytest.approx(read[1], rel=0.01)


def test_traffic_of_all_reduces() -> None:
    """A ring passes 2(g−1)/g of each message: two a layer and one for the embedding."""
    for tp in (2, 4, 8):
        operators = cost_model(DENSE, hardware=device(IDEAL), tp=tp).operators
        found = demands(operators, decode_shape(100, 10_000))
        message = 100 * 4096 * 2
        traffic = (2 * 32 + 1) * message * 2 * (tp - 1) / tp
        assert sum(d.link[0] for d in found["all_reduce"]) == pytest.approx(traffic)
        assert sum(map(seconds, found["all_reduce"])) == pytest.approx(traffic / LINK)
        gathered = 100 * 32_000 * 2 * (tp - 1) / tp
        assert found["all_gather"][0].link[0] == pytest.approx(gathered)
    assert "all_reduce" not in demands(cost_model(DENSE).operators, decode_shape(1, 1))


def test_contention_and_latency_of_a_collective() -> None:
    slow = REAL | {
        "collective": {"bandwidth": 0.5, "latency_us": 10, "per_peer_us": 2, "contention": 1}
    }
    operators = cost_model(DENSE, hardware=device(slow), tp=4).operators
    gather = demands(operators, decode_shape(1, 1))["all_gather"][0]
    expected = (10 + 2 * 3) * 1e-6 + 32_000 * 2 * 3 / 4 * 3 / (0.5 * LINK)
    assert seconds(gather) == pytest.approx(expected)
    assert gather.latency_s[0] == pytest.approx(16e-6)


def test_impossible_parallelism_is_an_error() -> None:
    with pytest.raises(UserError, match="no link between devices"):
        cost_model(DENSE, hardware=device(link=False), tp=2)
    with pytest.raises(UserError, match="does not fit into one node of 4"):
        cost_model(DENSE, hardware=device(devices=4), tp=8)


# --- where decode turns compute-bound ------------------------------------------------------------


def bound(operators: list[Operator], sequences: int) -> str:
    of = decode_shape(sequences, sequences)
    compute, memory = (total(operators, of, what) for what in ("compute_s", "memory_s"))
    return "compute" if compute > memory else "memory"


def test_products_of_a_dense_model_turn_compute_bound_at_a_finite_batch() -> None:
    """Ideal kernels in 16 bits: at peak / bandwidth sequences, somewhat later for activations."""
    operators = [
        op for op in cost_model(DENSE, hardware=device(IDEAL)).operators if op.name.endswith("proj")
    ]
    first = next(n for n in range(1, 5000) if bound(operators, n) == "compute")
    assert PEAK / BANDWIDTH < first < 1.5 * PEAK / BANDWIDTH
    assert bound(operators, 10 * first) == "compute"


def test_experts_turn_compute_bound_later_by_the_share_that_is_active() -> None:
    dense = [
        op for op in cost_model(DENSE, hardware=device(IDEAL)).operators if op.name == "up_proj"
    ]
    moe = [op for op in cost_model(MOE, hardware=device(IDEAL)).operators if op.name == "experts"]
    of_dense = next(n for n in range(1, 50_000, 5) if bound(dense, n) == "compute")
    of_experts = next(n for n in range(1, 50_000, 5) if bound(moe, n) == "compute")
    assert of_experts > 10 * of_dense


def test_parameters_of_the_toy_are_those_of_the_operators() -> None:
    """The products of one rank hold the weights that the memory budget counts."""
    products_of = [op for op in cost_model(DENSE).operators if hasattr(op, "k")]
    held = sum(op.count * op.n * op.k for op in products_of)  # type: ignore[attr-defined]
    norms = 4096 * (2 * 32 + 1)
    assert held + embedding_parameters(DENSE) + norms == parameters(DENSE)


def test_an_operator_that_tells_its_time_alone_tells_the_same() -> None:
    tokens = np.array([0.0, 1.0, 3.0, 64.0, 65.0, 1000.0])
    cost = cost_model(MOE, tp=2)
    timed = [op for op in cost.operators if hasattr(op, "duration")]
    assert {type(op).__name__ for op in timed} == {"Matmul", "Elementwise", "Collective"}
    for op in timed:
        at = table_shape(**{"sampled" if op.sampled else "tokens": tokens})
        np.testing.assert_array_equal(op.duration(at), op.demand(at).seconds)
