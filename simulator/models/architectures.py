"""Layers of each Hugging Face architecture, read from its configuration.

Key names, what absent keys mean and which layer is of which kind follow the configuration and
modelling classes of transformers (https://github.com/huggingface/transformers), one function an
architecture; MiniMax-M2's follow the code published with its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from simulator.models import families, hybrids
from simulator.models.config import Config
from simulator.models.layers import (
    FULL,
    Layer,
    chunk,
    dense,
    experts,
    grouped,
    number_of_layers,
    spans,
    window,
)
from simulator.models.spec import Attention, LatentAttention, Mlp, Span


class Architecture(NamedTuple):
    """How to read one ``model_type``: its layers, and what absent keys mean."""

    layers: Callable[[Config], list[Layer]]
    defaults: Mapping[str, Any] = {}
    norm_bias: bool = False


def _uniform(config: Config, attention: Attention, span: Span, mlp: Mlp) -> list[Layer]:
    return [Layer(attention, s, mlp) for s in spans(config, span, lambda _: True)]


def llama(config: Config) -> list[Layer]:
    """Full attention, optional biases."""
    bias = config.flag("attention_bias")
    attention = grouped(config, qkv_bias=bias, output_bias=bias)
    return _uniform(config, attention, FULL, dense(config, bias=config.flag("mlp_bias")))


def _mistral(config: Config) -> list[Layer]:
    """Also Phi-3 and Phi-4, whose fused projections hold the same weights."""
    return _uniform(config, grouped(config), window(config), dense(config))


def _mixtral(config: Config) -> list[Layer]:
    mlp = experts(config, "num_local_experts", "intermediate_size")
    return _uniform(config, grouped(config), window(config), mlp)


def _qwen_spans(config: Config) -> list[Span]:
    local = window(config)
    first = config.integer("max_window_layers", least=0) if local != FULL else 0
    return spans(config, local, lambda layer: layer >= first)


def _qwen2(config: Config) -> list[Layer]:
    attention, mlp = grouped(config, qkv_bias=True), dense(config)
    return [Layer(attention, span, mlp) for span in _qwen_spans(config)]


def _qwen3_attention(config: Config) -> Attention:
    bias = config.flag("attention_bias")
    return grouped(config, qk_norm=True, qkv_bias=bias, output_bias=bias)


def _qwen3(config: Config) -> list[Layer]:
    attention, mlp = _qwen3_attention(config), dense(config)
    return [Layer(attention, span, mlp) for span in _qwen_spans(config)]


def _qwen_moe(config: Config, attention: Attention, sparse: Mlp) -> list[Layer]:
    """Every ``decoder_sparse_step``-th layer has experts, but those of ``mlp_only_layers``."""
    layers, step = number_of_layers(config), config.integer("decoder_sparse_step", 1)
    spared = set(config.integers("mlp_only_layers", below=layers) or ())
    has_experts = [layer not in spared and (layer + 1) % step == 0 for layer in range(layers)]
    plain = sparse if all(has_experts) else dense(config)
    return [
        Layer(attention, span, sparse if chosen else plain)
        for span, chosen in zip(_qwen_spans(config), has_experts, strict=True)
    ]


def _qwen2_moe(config: Config) -> list[Layer]:
    shared = config.integer("shared_expert_intermediate_size")
    sparse = experts(
        config, "num_experts", "moe_intermediate_size", shared_intermediate=shared, shared_gate=True
    )
    return _qwen_moe(config, grouped(config, qkv_bias=True), sparse)


def _qwen3_moe(config: Config) -> list[Layer]:
    # transformers 5 writes the second name
    number = "num_experts" if config.get("num_experts") is not None else "num_local_experts"
    sparse = experts(config, number, "moe_intermediate_size")
    return _qwen_moe(config, _qwen3_attention(config), sparse)


def _gemma2(config: Config) -> list[Layer]:
    """Windows on every other layer from the first on; norms before and after both blocks."""
    attention, mlp = grouped(config), dense(config)
    by_layer = spans(config, window(config), lambda layer: layer % 2 == 0)
    return [Layer(attention, span, mlp, norms=4) for span in by_layer]


def _gemma3(config: Config) -> list[Layer]:
    """One layer in ``sliding_window_pattern`` sees everything."""
    attention, mlp = grouped(config, qk_norm=True), dense(config)
    period = config.integer("sliding_window_pattern")
    by_layer = spans(config, window(config), lambda layer: (layer + 1) % period != 0)
    return [Layer(attention, span, mlp, norms=4) for span in by_layer]


def _gpt_oss(config: Config) -> list[Layer]:
    bias = config.flag("attention_bias")
    attention = grouped(config, qkv_bias=bias, output_bias=bias, sinks=True)
    mlp = experts(config, "num_local_experts", "intermediate_size", bias=True, router_bias=True)
    by_layer = spans(config, window(config), lambda layer: layer % 2 == 0)
    return [Layer(attention, span, mlp) for span in by_layer]


def _llama4(config: Config) -> list[Layer]:
    """Layers with rotary embedding attend within chunks, the others to everything; one layer in
    ``interleave_moe_layer_step`` has experts. Its norm of queries and keys has no weights."""
    bias = config.flag("attention_bias")
    attention = grouped(config, qkv_bias=bias, output_bias=bias)
    layers, step = number_of_layers(config), config.integer("interleave_moe_layer_step")
    period = config.integer("no_rope_layer_interval")
    rotary = config.integers("no_rope_layers", below=2, length=layers) or [
        (layer + 1) % period != 0 for layer in range(layers)
    ]
    with_experts = set(config.integers("moe_layers", below=layers) or range(step - 1, layers, step))
    sparse = experts(
        config,
        "num_local_experts",
        "intermediate_size",
        shared_intermediate=config.integer("intermediate_size"),
    )
    plain = sparse if len(with_experts) == layers else dense(config, "intermediate_size_mlp")
    return [
        Layer(attention, span, sparse if layer in with_experts else plain)
        for layer, span in enumerate(spans(config, chunk(config), lambda i: bool(rotary[i])))
    ]


def _deepseek_v2(config: Config) -> list[Layer]:
    return _deepseek(config, router_bias=False)


def _deepseek_v3(config: Config) -> list[Layer]:
    """Also Kimi-K2. The router's bias balances the experts' load (arXiv:2412.19437, 2.1.2)."""
    return _deepseek(config, router_bias=True)


def _deepseek(config: Config, router_bias: bool) -> list[Layer]:
    if config.flag("attention_bias"):
        raise config.error("attention_bias", "biases in latent attention are not supported")
    attention = LatentAttention(
        heads=config.integer("num_attention_heads"),
        kv_lora_rank=config.integer("kv_lora_rank"),
        qk_nope_head_dim=config.integer("qk_nope_head_dim"),
        qk_rope_head_dim=config.integer("qk_rope_head_dim"),
        v_head_dim=config.integer("v_head_dim"),
        q_lora_rank=config.optional_integer("q_lora_rank"),
    )
    first = config.integer("first_k_dense_replace", least=0)
    step = config.integer("moe_layer_freq", 1)
    shared = config.integer("n_shared_experts", 0, least=0) * config.integer(
        "moe_intermediate_size"
    )
    sparse = experts(
        config,
        "n_routed_experts",
        "moe_intermediate_size",
        shared_intermediate=shared,
        router_bias=router_bias,
    )
    plain = dense(config)
    return [
        Layer(attention, FULL, sparse if layer >= first and layer % step == 0 else plain)
        for layer in range(number_of_layers(config))
    ]


def _minimax_m2(config: Config) -> list[Layer]:
    """The norms of queries and keys span all heads."""
    attention = grouped(config, qk_norm=config.flag("use_qk_norm", True), qk_norm_per_head=False)
    mlp = experts(
        config,
        "num_local_experts",
        "intermediate_size",
        router_bias=config.flag("use_routing_bias", True),
    )
    return _uniform(config, attention, FULL, mlp)


_QWEN = {"use_sliding_window": False, "max_window_layers": 28}
_GEMMA = {"tie_word_embeddings": True, "head_dim": 256, "sliding_window": 4096}
_DEEPSEEK = {"first_k_dense_replace": 0, "moe_layer_freq": 1}

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(llama),
    "mistral": Architecture(_mistral, {"sliding_window": 4096}),
    "mixtral": Architecture(_mixtral),
    "phi3": Architecture(_mistral),
    "qwen2": Architecture(_qwen2, _QWEN),
    "mimo": Architecture(_qwen2, _QWEN),
    "qwen2_moe": Architecture(_qwen2_moe, _QWEN),
    "qwen3": Architecture(_qwen3, {**_QWEN, "head_dim": 128}),
    "qwen3_moe": Architecture(_qwen3_moe, _QWEN),
    "gemma2": Architecture(_gemma2, {**_GEMMA, "max_position_embeddings": 8192}),
    "gemma3_text": Architecture(
        _gemma3,
        {
            **_GEMMA,
            "vocab_size": 262208,
            "max_position_embeddings": 131072,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "sliding_window_pattern": 6,
        },
    ),
    "gpt_oss": Architecture(
        _gpt_oss, {"attention_bias": True, "head_dim": 64, "sliding_window": 128}
    ),
    "llama4_text": Architecture(
        _llama4,
        {"interleave_moe_layer_step": 1, "no_rope_layer_interval": 4, "attention_chunk_size": 8192},
    ),
    "deepseek_v2": Architecture(_deepseek_v2, _DEEPSEEK),
    "deepseek_v3": Architecture(_deepseek_v3, {**_DEEPSEEK, "first_k_dense_replace": 3}),
    "kimi_k2": Architecture(_deepseek_v3, _DEEPSEEK),
    "minimax_m2": Architecture(_minimax_m2),
}
for _kind, _read in (
    ("qwen3_next", hybrids.qwen3_next),
    ("qwen3_5_text", hybrids.qwen3_5),
    ("qwen3_5_moe_text", hybrids.qwen3_next),
    ("bamba", hybrids.bamba),
    ("granitemoehybrid", hybrids.granitemoehybrid),
    ("falcon_h1", hybrids.falcon_h1),
    ("nemotron_h", hybrids.nemotron_h),
    ("mamba2", hybrids.mamba2),
    ("lfm2", hybrids.lfm2),
    ("lfm2_moe", hybrids.lfm2_moe),
    ("cohere", families.cohere),
    ("cohere2", families.cohere2),
    ("dots1", families.dots1),
    ("ernie4_5", families.ernie4_5),
    ("ernie4_5_moe", families.ernie4_5_moe),
    ("exaone4", families.exaone4),
    ("gemma", families.gemma),
    ("glm", families.glm),
    ("glm4", families.glm4),
    ("glm4_moe", families.glm4_moe),
    ("granite", llama),
    ("granitemoe", families.granitemoe),
    ("granitemoeshared", families.granitemoe),
    ("hunyuan", families.hunyuan_large),
    ("hunyuan_v1_dense", families.hunyuan),
    ("hunyuan_v1_moe", families.hunyuan_moe),
    ("apertus", families.apertus),
    ("arcee", families.ungated),
    ("nemotron", families.ungated),
    ("olmo2", families.olmo2),
    ("olmo3", families.olmo2),
    ("phimoe", families.phimoe),
    ("seed_oss", families.seed_oss),
    ("smollm3", families.smollm3),
    ("starcoder2", families.starcoder2),
):
    ARCHITECTURES[_kind] = Architecture(
        _read,
        {**hybrids.DEFAULTS, **families.DEFAULTS}.get(_kind, {}),
        norm_bias=_kind in families.NORM_BIAS,
    )
ARCHITECTURES["glm4_moe_lite"] = Architecture(
    _deepseek_v3, {**_DEEPSEEK, "first_k_dense_replace": 1}
)
# Language models of these are the same as those of the plain text models.
for _kind, _same in (
    ("qwen2_vl", "qwen2"),
    ("qwen2_vl_text", "qwen2"),
    ("qwen2_5_vl", "qwen2"),
    ("qwen2_5_vl_text", "qwen2"),
    ("qwen3_vl_text", "qwen3"),
    ("qwen3_vl_moe_text", "qwen3_moe"),
    ("qwen3_5", "qwen3_5_text"),
    ("qwen3_5_moe", "qwen3_5_moe_text"),
    ("gemma3", "gemma3_text"),
    ("llama4", "llama4_text"),
):
    ARCHITECTURES[_kind] = ARCHITECTURES[_same]
