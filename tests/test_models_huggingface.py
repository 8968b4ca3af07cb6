"""Reading config.json: each architecture's peculiarities."""

import pytest

from simulator.models import counting
from simulator.models.huggingface import parse_config
from simulator.models.spec import DenseMlp, GroupedAttention, LatentAttention, MoeMlp

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 1024,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}
MOE = {"num_local_experts": 8, "num_experts_per_tok": 2}
QWEN_MOE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


def parse(**changes):
    return parse_config(LLAMA | changes, "m", "m.json")


def of(model_type, **changes):
    return parse(model_type=model_type, **changes)


def spans(model):
    return {(g.span.kind, g.span.tokens): g.count for g in model.groups}


def mlps(model):
    return {g.mlp: g.count for g in model.groups}


def only(model):
    (group,) = model.groups
    return group


# --- architectures ------------------------------------------------------------------------------


def test_llama():
    model = of("llama")
    assert (model.hidden, model.vocab, model.layers, model.max_context) == (64, 100, 6, 1024)
    assert not model.tied_embeddings
    assert only(model).attention == GroupedAttention(8, 4, 8)
    assert only(model).mlp == DenseMlp(128)
    assert only(model).norms == 2
    assert model.native_dtype == "bf16"
    assert model.source == "m.json"


def test_llama_without_grouped_heads_and_with_biases():
    model = of("llama", num_key_value_heads=None, attention_bias=True, mlp_bias=True, head_dim=32)
    attention = GroupedAttention(8, 8, 32, qkv_bias=True, output_bias=True)
    assert only(model).attention == attention
    assert only(model).mlp == DenseMlp(128, bias=True)
    linear = 4 * 64 * 8 * 32 + 3 * 64 * 128
    biases = 3 * 8 * 32 + 64 + 2 * 128 + 64
    assert counting.parameters(model) == 6 * (linear + biases + 2 * 64) + 64 + 2 * 100 * 64


@pytest.mark.parametrize("kind", ["mistral", "mixtral", "phi3"])
def test_windows_in_all_layers(kind):
    assert spans(of(kind, **MOE, sliding_window=100)) == {("window", 100): 6}
    assert spans(of(kind, **MOE, sliding_window=None)) == {("full", 0): 6}
    assert spans(of(kind, **MOE, sliding_window=1024)) == {("full", 0): 6}  # never binds


def test_a_mistral_that_does_not_say_has_the_window_of_its_class():
    longer = of("mistral", max_position_embeddings=32768)
    assert spans(longer) == {("window", 4096): 6}


def test_mixtral():
    assert only(of("mixtral", **MOE)).mlp == MoeMlp(8, 2, 128)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "qwen3_moe"])
def test_qwen_windows_only_if_used(kind):
    window = QWEN_MOE | {"sliding_window": 100, "max_window_layers": 4}
    assert spans(of(kind, **window)) == {("full", 0): 6}
    assert spans(of(kind, **window, use_sliding_window=False)) == {("full", 0): 6}
    assert spans(of(kind, **window, use_sliding_window=True)) == {
        ("full", 0): 4,
        ("window", 100): 2,
    }


def test_qwen_biases_and_norms():
    assert only(of("qwen2")).attention == GroupedAttention(8, 4, 8, qkv_bias=True)
    assert only(of("qwen3")).attention == GroupedAttention(8, 4, 128, qk_norm=True)
    assert only(of("qwen3_moe", **QWEN_MOE)).attention == GroupedAttention(8, 4, 8, qk_norm=True)


def test_qwen3_moe_layers():
    assert mlps(of("qwen3_moe", **QWEN_MOE)) == {MoeMlp(8, 2, 16): 6}
    mixed = of("qwen3_moe", **QWEN_MOE, decoder_sparse_step=2, mlp_only_layers=[1, 2])
    assert mlps(mixed) == {DenseMlp(128): 4, MoeMlp(8, 2, 16): 2}


def test_qwen2_moe_shared_expert():
    model = of("qwen2_moe", **QWEN_MOE, shared_expert_intermediate_size=48)
    assert only(model).mlp == MoeMlp(8, 2, 16, shared_intermediate=48, shared_gate=True)
    expert, shared, gates = 3 * 64 * 16, 3 * 64 * 48, 64 * 8 + 64
    attention = 64 * (8 + 4 + 4 + 8) * 8 + (8 + 4 + 4) * 8
    layer = attention + 8 * expert + shared + gates + 2 * 64
    assert counting.parameters(model) == 6 * layer + 64 + 2 * 100 * 64
    assert counting.active_parameters(model) == counting.parameters(model) - 6 * 6 * expert


def test_gemma():
    second = of("gemma2", sliding_window=100)
    assert second.tied_embeddings
    assert spans(second) == {("window", 100): 3, ("full", 0): 3}
    assert {g.norms for g in second.groups} == {4}
    assert second.groups[0].span.kind == "window"
    third = of("gemma3_text", sliding_window=100, rope_scaling={"rope_type": "linear", "factor": 8})
    assert spans(third) == {("window", 100): 5, ("full", 0): 1}
    assert third.groups[0].attention == GroupedAttention(8, 4, 256, qk_norm=True)
    assert third.max_context == 1024
    assert spans(of("gemma3_text", sliding_window=100, sliding_window_pattern=2)) == {
        ("window", 100): 3,
        ("full", 0): 3,
    }


def test_gemma3_that_leaves_everything_to_its_class():
    """The published 4B configuration states three numbers only."""
    text = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
    text |= {"model_type": "gemma3_text", "sliding_window": 1024}
    model = parse_config(
        {"model_type": "gemma3", "text_config": text, "torch_dtype": "bfloat16"}, "m", "m.json"
    )
    assert counting.parameters(model) == 3_880_263_168
    assert model.source == "m.json; text decoder only"


def test_gpt_oss():
    model = of("gpt_oss", **MOE, sliding_window=128)
    assert spans(model) == {("window", 128): 3, ("full", 0): 3}
    attention = GroupedAttention(8, 4, 64, qkv_bias=True, output_bias=True, sinks=True)
    assert model.groups[0].attention == attention
    assert model.groups[0].mlp == MoeMlp(8, 2, 128, bias=True, router_bias=True)
    heads, kv = 8 * 64, 4 * 64
    attention = 2 * 64 * heads + 2 * 64 * kv + heads + 2 * kv + 64 + 8
    expert = 3 * 64 * 128 + 2 * 128 + 64
    layer = attention + 8 * expert + 64 * 8 + 8 + 2 * 64
    assert counting.parameters(model) == 6 * layer + 64 + 2 * 100 * 64


@pytest.mark.parametrize("kind", ["gpt_oss", "gemma2", "qwen3", "mistral"])
def test_layer_types_decide(kind):
    types = ["sliding_attention"] * 4 + ["full_attention"] * 2
    model = of(kind, **MOE, sliding_window=100, use_sliding_window=True, layer_types=types)
    assert spans(model) == {("window", 100): 4, ("full", 0): 2}


LATENT = {
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}


def test_deepseek():
    second = of("deepseek_v2", **LATENT)
    assert second.groups[0].attention == LatentAttention(8, 16, 8, 4, 8, None)
    assert mlps(second) == {DenseMlp(128): 1, MoeMlp(8, 2, 16, shared_intermediate=32): 5}
    third = of("deepseek_v3", **LATENT, q_lora_rank=24)
    assert third.groups[0].attention == LatentAttention(8, 16, 8, 4, 8, 24)
    assert mlps(third)[MoeMlp(8, 2, 16, shared_intermediate=32, router_bias=True)] == 5
    assert of("kimi_k2", **LATENT, q_lora_rank=24).groups == third.groups


def llama4(**changes):
    text = LLAMA | MOE | {"model_type": "llama4_text", "intermediate_size_mlp": 256} | changes
    text["attention_chunk_size"] = changes.get("attention_chunk_size", 100)
    return parse_config({"model_type": "llama4", "text_config": text}, "m", "m.json")


def test_llama4():
    sparse = MoeMlp(8, 2, 128, shared_intermediate=128)
    assert {g.mlp for g in llama4().groups} == {sparse}
    assert spans(llama4()) == {("chunk", 100): 5, ("full", 0): 1}
    assert spans(llama4(no_rope_layers=[1, 0, 1, 0, 1, 0])) == {("chunk", 100): 3, ("full", 0): 3}
    assert spans(llama4(attention_chunk_size=None)) == {("full", 0): 6}
    every_second = llama4(interleave_moe_layer_step=2)
    assert sum(g.count for g in every_second.groups if g.mlp == sparse) == 3
    assert sum(g.count for g in every_second.groups if g.mlp == DenseMlp(256)) == 3
    # The layer without rotary embedding (the 4th) has experts, as the 2nd and 6th.
    assert {(g.span.kind, g.mlp.kind, g.count) for g in every_second.groups} == {
        ("chunk", "dense", 3),
        ("chunk", "moe", 2),
        ("full", "moe", 1),
    }


def test_minimax_norms_span_the_heads():
    model = of("minimax_m2", **MOE)
    assert only(model).attention == GroupedAttention(8, 4, 8, qk_norm=True, qk_norm_per_head=False)
    without = of("minimax_m2", **MOE, use_qk_norm=False)
    assert counting.parameters(model) - counting.parameters(without) == 6 * (8 + 4) * 8


def test_nested_text_models():
    text = {key: value for key, value in LLAMA.items() if key != "torch_dtype"}
    text |= {"model_type": "mistral", "sliding_window": None}
    outer = {"model_type": "mistral3", "torch_dtype": "float16", "tie_word_embeddings": True}
    model = parse_config({**outer, "text_config": text}, "m", "m.json")
    assert model.native_dtype == "fp16"
    assert model.tied_embeddings
    assert model.source == "m.json; text decoder only"


def test_unknown_architecture_that_is_like_llama():
    model = of("brand_new")
    assert model.groups == of("llama").groups
    assert model.source == "m.json; model_type 'brand_new' is not known, read as a Llama"


# --- types and lengths --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "dtype"),
    [
        ({"torch_dtype": "float16"}, "fp16"),
        ({"dtype": "bfloat16", "torch_dtype": None}, "bf16"),
        ({"torch_dtype": "float32"}, "fp32"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"quantization_config": {"quant_method": "fbgemm_fp8"}}, "fp8"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "fp4"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 64}}, "int4"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 8}}, "int8"),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}, "fp4"),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}, "fp8"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "int4"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "int8"),
    ],
)
def test_native_type(keys, dtype):
    assert parse(**keys).native_dtype == dtype


def compressed(**weights):
    groups = {"group_0": {"weights": weights}}
    return {"quant_method": "compressed-tensors", "config_groups": groups}


@pytest.mark.parametrize(
    ("weights", "dtype", "group"),
    [
        ({"num_bits": 8, "type": "float"}, "fp8", None),
        ({"num_bits": 8, "type": "float", "block_structure": [128, 128]}, "fp8", 128 * 128),
        ({"num_bits": 8, "type": "float", "block_structure": None}, "fp8", None),
        ({"num_bits": 8, "type": "int"}, "int8", None),
        ({"num_bits": 4, "type": "int", "group_size": 32}, "int4", 32),
        ({"num_bits": 4, "type": "float", "group_size": 16}, "fp4", 16),
    ],
)
def test_compressed_tensors(weights, dtype, group):
    model = parse(quantization_config=compressed(**weights))
    assert (model.native_dtype, model.quantization_group) == (dtype, group)


def test_blocks_of_fp8_weights_with_a_scale():
    blocks = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    assert parse(quantization_config=blocks).quantization_group == 128 * 128
    assert parse(quantization_config={"quant_method": "fp8"}).quantization_group is None


def test_scale_groups_and_spared_attention_of_the_checkpoint_count():
    awq = parse(quantization_config={"quant_method": "awq", "bits": 4, "group_size": 64})
    linear = sum(t.parameters * t.copies for t in counting.tensors(awq) if t.part != "other")
    rest = counting.parameters(awq) - linear
    assert counting.weight_bytes(awq, "int4") == linear * (0.5 + 2.5 / 64) + 2 * rest
    assert counting.weight_bytes(awq, "fp4") == linear * (0.5 + 1 / 16) + 2 * rest
    mxfp4 = {"quant_method": "mxfp4"}
    spared = mxfp4 | {"modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    attention = 6 * 64 * (8 + 4 + 4 + 8) * 8
    narrow = counting.weight_bytes(parse(quantization_config=mxfp4), "fp4")
    wide = counting.weight_bytes(parse(quantization_config=spared), "fp4")
    assert wide - narrow == pytest.approx(attention * (2 - 4.25 / 8))


def test_type_that_is_not_stated_is_said_to_be_assumed():
    model = parse(torch_dtype=None)
    assert model.native_dtype == "bf16"
    assert model.source == "m.json; no dtype given, bf16 assumed"


@pytest.mark.parametrize(
    ("scaling", "tokens"),
    [
        (None, 1024),
        ({"rope_type": "llama3", "factor": 8.0}, 1024),
        ({"type": "yarn", "factor": 4.0}, 4096),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
        ({"type": "linear", "factor": 2}, 2048),
        ({"type": "dynamic", "factor": 2}, 2048),
        ({"type": "longrope", "short_factor": [1.0]}, 1024),
    ],
)
def test_longest_context(scaling, tokens):
    assert parse(rope_scaling=scaling).max_context == tokens
