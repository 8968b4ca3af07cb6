"""Layers of further architectures with attention alone, read from their configuration.

Key names, what absent keys mean and which layer is of which kind follow the configuration and
modelling classes of transformers; Hunyuan-Large's follow the code published with its weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from simulator.models.config import Config
from simulator.models.layers import (
    FULL,
    Layer,
    dense,
    experts,
    grouped,
    number_of_layers,
    spans,
    window,
)
from simulator.models.spec import Attention, GroupedAttention, Mlp, MoeMlp


def _same(config: Config, attention: Attention, mlp: Mlp, norms: int = 2) -> list[Layer]:
    return [Layer(attention, FULL, mlp, norms)] * number_of_layers(config)


def _usual(config: Config, **options: Any) -> GroupedAttention:
    bias = config.flag("attention_bias")
    return grouped(config, qkv_bias=bias, output_bias=bias, **options)


def cohere(config: Config) -> list[Layer]:
    """One norm a layer, before attention and feed-forward block, which run side by side."""
    if config.flag("use_qk_norm"):
        raise config.error("use_qk_norm", "norms with a weight for each head are not supported")
    return _same(config, _usual(config), dense(config), norms=1)


def cohere2(config: Config) -> list[Layer]:
    """As Cohere's first, with windows in three of four layers."""
    attention, mlp = _usual(config), dense(config)
    period = config.integer("sliding_window_pattern", 4)
    by_layer = spans(config, window(config), lambda layer: (layer + 1) % period != 0)
    return [Layer(attention, span, mlp, norms=1) for span in by_layer]


def olmo2(config: Config) -> list[Layer]:
    """Norms after each block, and of queries and keys over all heads; OLMo 3 has windows in three
    of four layers."""
    attention, mlp = _usual(config, qk_norm=True, qk_norm_per_head=False), dense(config)
    by_layer = spans(config, window(config), lambda layer: (layer + 1) % 4 != 0)
    return [Layer(attention, span, mlp) for span in by_layer]


def exaone4(config: Config) -> list[Layer]:
    """Norms after each block; windows in three of four layers, or in none. The pattern may be
    written as LLLG."""
    attention, mlp = grouped(config, qk_norm=True), dense(config)
    pattern = config.get("sliding_window_pattern")
    period = len(pattern) if isinstance(pattern, str) else None
    if period is None and pattern is not None:
        period = config.integer("sliding_window_pattern")
    by_layer = spans(config, window(config), lambda layer: (layer + 1) % (period or 4) != 0)
    return [Layer(attention, span, mlp) for span in by_layer]


def gemma(config: Config) -> list[Layer]:
    """The first Gemma: full attention everywhere."""
    return _same(config, _usual(config), dense(config))


def glm(config: Config) -> list[Layer]:
    """Biases of queries, keys and values."""
    return _same(config, grouped(config, qkv_bias=config.flag("attention_bias")), dense(config))


def glm4(config: Config) -> list[Layer]:
    """As GLM, with norms before and after both blocks."""
    bias = config.flag("attention_bias")
    return _same(config, grouped(config, qkv_bias=bias), dense(config), norms=4)


def _first_dense(config: Config, attention: Attention, **options: Any) -> list[Layer]:
    """Routed and shared experts but in the first ``first_k_dense_replace`` layers."""
    first, shared = (
        config.integer(key, 0, least=0) for key in ("first_k_dense_replace", "n_shared_experts")
    )
    width = config.integer("moe_intermediate_size")
    sparse = experts(
        config, "n_routed_experts", "moe_intermediate_size",
        shared_intermediate=shared * width, router_bias=True, **options,
    )  # fmt: skip
    plain: Mlp = dense(config) if first else sparse
    return [
        Layer(attention, FULL, plain if layer < first else sparse)
        for layer in range(number_of_layers(config))
    ]


def glm4_moe(config: Config) -> list[Layer]:
    """GLM-4.5 and later: routed and a shared expert after the first dense layers."""
    bias = config.flag("attention_bias")
    attention = grouped(config, qkv_bias=bias, qk_norm=config.flag("use_qk_norm"))
    return _first_dense(config, attention)


def dots1(config: Config) -> list[Layer]:
    """As DeepSeek-V3 with grouped attention."""
    return _first_dense(config, _usual(config, qk_norm=True))


def granitemoe(config: Config) -> list[Layer]:
    """Experts in every layer, with a shared one where its width is given."""
    shared = config.integer("shared_intermediate_size", 0, least=0)
    mlp = experts(config, "num_local_experts", "intermediate_size", shared_intermediate=shared)
    return _same(config, _usual(config), mlp)


def phimoe(config: Config) -> list[Layer]:
    """Phi-3.5-MoE: norms with biases (the LM head's bias, one number a token, is left out)."""
    mlp = experts(config, "num_local_experts", "intermediate_size")
    return [Layer(_usual(config), s, mlp) for s in spans(config, window(config), lambda _: True)]


def seed_oss(config: Config) -> list[Layer]:
    """Biases of queries, keys and values, and of the output apart."""
    attention = grouped(
        config,
        qkv_bias=config.flag("attention_bias"),
        output_bias=config.flag("attention_out_bias"),
    )
    return _same(config, attention, dense(config, bias=config.flag("mlp_bias")))


def smollm3(config: Config) -> list[Layer]:
    """A Llama without rotary embedding in every fourth layer, where a window may stand."""
    attention, mlp = _usual(config), dense(config, bias=config.flag("mlp_bias"))
    period = config.integer("no_rope_layer_interval", 4)
    layers = number_of_layers(config)
    rotary = config.integers("no_rope_layers", below=2, length=layers) or [
        (layer + 1) % period != 0 for layer in range(layers)
    ]
    by_layer = spans(config, window(config), lambda layer: not rotary[layer])
    return [Layer(attention, span, mlp) for span in by_layer]


def starcoder2(config: Config) -> list[Layer]:
    """Biases everywhere, no gate in the feed-forward block."""
    bias = config.flag("use_bias")
    attention = grouped(config, qkv_bias=bias, output_bias=bias)
    mlp = dense(config, bias=bias, gated=False)
    return [Layer(attention, s, mlp) for s in spans(config, window(config), lambda _: True)]


def ungated(config: Config) -> list[Layer]:
    """A Llama whose feed-forward block has no gate: Arcee, Nemotron-4."""
    mlp = dense(config, bias=config.flag("mlp_bias"), gated=False)
    return _same(config, _usual(config), mlp)


def apertus(config: Config) -> list[Layer]:
    """No gate in the feed-forward block, whose activation has two learned numbers."""
    return _same(config, _usual(config, qk_norm=True), dense(config, gated=False))


# --- ERNIE 4.5 -----------------------------------------------------------------------------------


def _ernie_attention(config: Config) -> GroupedAttention:
    bias = config.flag("use_bias")
    return grouped(config, qkv_bias=bias, output_bias=bias)


def ernie4_5(config: Config) -> list[Layer]:
    """A Llama with or without biases."""
    mlp = dense(config, bias=config.flag("use_bias"))
    return _same(config, _ernie_attention(config), mlp)


def ernie4_5_moe(config: Config) -> list[Layer]:
    """Experts every ``moe_layer_interval`` layers from the first to the last that have some."""
    layers, step = number_of_layers(config), config.integer("moe_layer_interval")
    first = config.integer("moe_layer_start_index", least=0)
    last = config.get("moe_layer_end_index")
    last = layers - 1 if last in (None, -1) else config.integer("moe_layer_end_index", least=0)
    shared = config.integer("moe_num_shared_experts", 0, least=0)
    bias = config.flag("use_bias")
    if bias:
        raise config.error("use_bias", "biases beside experts are not supported")
    sparse = experts(
        config, "moe_num_experts", "moe_intermediate_size", "moe_k",
        shared_intermediate=shared * config.integer("moe_intermediate_size"), router_bias=True,
    )  # fmt: skip
    plain, attention = dense(config), _ernie_attention(config)
    return [
        Layer(attention, FULL, sparse if (layer + 1) % step == 0 and first <= layer <= last
              else plain)
        for layer in range(layers)
    ]  # fmt: skip


# --- Hunyuan -------------------------------------------------------------------------------------


def _shared_in_turn(config: Config, attention: GroupedAttention, mlp: Mlp) -> list[Layer]:
    """Of ``cla_share_factor`` layers in a row the first stores keys and values, the others read
    them (arXiv:2405.12981, arXiv:2411.02265)."""
    turn = config.integer("cla_share_factor", 2) if config.flag("use_cla") else 1
    reader = replace(attention, shares_kv=True)
    return [
        Layer(reader if layer % turn else attention, FULL, mlp)
        for layer in range(number_of_layers(config))
    ]


def hunyuan(config: Config) -> list[Layer]:
    """A Llama with norms of queries and keys."""
    return _shared_in_turn(config, _usual(config, qk_norm=True), dense(config))


def _hunyuan_experts(config: Config) -> MoeMlp:
    return experts(
        config, "num_experts", "intermediate_size", "moe_topk",
        shared_intermediate=config.integer("num_shared_expert", 1, least=0)
        * config.integer("intermediate_size"),
    )  # fmt: skip


def hunyuan_moe(config: Config) -> list[Layer]:
    """Routed experts and shared ones of the same width."""
    for key in ("num_experts", "moe_topk", "num_shared_expert", "moe_intermediate_size"):
        listed = config.get(key)
        if isinstance(listed, list) and len(set(map(str, listed))) != 1:
            raise config.error(key, "differs from layer to layer", "one number is needed")
    single = {
        key: value[0] for key, value in config.values.items()
        if isinstance(value, list) and value and key in (
            "num_experts", "moe_topk", "num_shared_expert", "moe_intermediate_size")
    }  # fmt: skip
    config = config.with_values(single)
    if config.get("moe_intermediate_size") is not None:
        config = config.with_values({"intermediate_size": config.integer("moe_intermediate_size")})
    return _shared_in_turn(config, _usual(config, qk_norm=True), _hunyuan_experts(config))


def hunyuan_large(config: Config) -> list[Layer]:
    """Hunyuan-Large: routed and shared experts, keys and values shared by pairs of layers."""
    attention = _usual(config, qk_norm=config.flag("use_qk_norm"))
    return _shared_in_turn(config, attention, _hunyuan_experts(config))


_GLM = {"attention_bias": True, "head_dim": 128, "num_key_value_heads": 2}
DEFAULTS: dict[str, dict[str, Any]] = {
    "cohere": {"tie_word_embeddings": True},
    "cohere2": {"tie_word_embeddings": True, "sliding_window": 4096},
    "dots1": {"first_k_dense_replace": 0},
    "ernie4_5": {"head_dim": 128, "tie_word_embeddings": True},
    "ernie4_5_moe": {
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
        "moe_layer_interval": 1,
        "tie_word_embeddings": True,
    },
    "gemma": {"tie_word_embeddings": True, "head_dim": 256},
    "glm": _GLM,
    "glm4": _GLM,
    "glm4_moe": {"first_k_dense_replace": 1, "n_shared_experts": 1},
    "olmo3": {"sliding_window": 4096},
    "seed_oss": {"attention_bias": True, "head_dim": 128},
    "smollm3": {"tie_word_embeddings": True, "use_sliding_window": False},
    "starcoder2": {"use_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 2},
}
"""What absent keys mean."""

NORM_BIAS = frozenset({"nemotron", "phimoe", "starcoder2"})
"""Architectures whose norms have a bias as well."""
