"""Layers of architectures that mix attention with recurrent layers, read from their configuration.

Key names, what absent keys mean and which layer is of which kind follow the configuration and
modelling classes of transformers, one function an architecture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simulator.models.config import Config
from simulator.models.layers import FULL, Layer, dense, experts, grouped, number_of_layers
from simulator.models.recurrent import GatedDeltaNet, Mamba2, ShortConv
from simulator.models.spec import Attention, DenseMlp, Mlp, MoeMlp

_RECURRENT = ("linear_attention", "mamba", "mamba2")
_ATTENTION = ("full_attention", "attention")


def _gated_delta_net(config: Config) -> GatedDeltaNet:
    keys, values = config.integer("linear_num_key_heads"), config.integer("linear_num_value_heads")
    if values % keys:
        raise config.error(
            "linear_num_key_heads", f"{keys} does not divide linear_num_value_heads = {values}"
        )
    return GatedDeltaNet(
        keys,
        values,
        config.integer("linear_key_head_dim"),
        config.integer("linear_value_head_dim"),
        config.integer("linear_conv_kernel_dim"),
    )


def _types(config: Config, key: str, fallback: Sequence[str]) -> Sequence[str]:
    """``recurrent`` or ``attention`` for every layer."""
    named = config.sequence(key, number_of_layers(config))
    found = []
    for name in fallback if named is None else map(str, named):
        if name not in (*_RECURRENT, *_ATTENTION):
            known = ", ".join((*_RECURRENT, *_ATTENTION))
            raise config.error(key, f"layers of type {name!r} are not supported", f"{known} are")
        found.append("recurrent" if name in _RECURRENT else "attention")
    return found


def _qwen_mixed(config: Config, mlps: Sequence[Mlp]) -> list[Layer]:
    """Every ``full_attention_interval``-th layer has attention, whose result is gated."""
    period = config.integer("full_attention_interval", 4)
    usual = ["attention" if (layer + 1) % period == 0 else "linear_attention"
             for layer in range(len(mlps))]  # fmt: skip
    bias = config.flag("attention_bias")
    attention = grouped(config, qk_norm=True, qkv_bias=bias, output_bias=bias, output_gate=True)
    linear = _gated_delta_net(config)
    return [
        Layer(attention, FULL, mlp)
        if kind == "attention"
        else Layer(None, FULL, mlp, recurrent=linear)
        for kind, mlp in zip(_types(config, "layer_types", usual), mlps, strict=True)
    ]


def qwen3_5(config: Config) -> list[Layer]:
    """Gated DeltaNet in three of four layers, dense."""
    return _qwen_mixed(config, [dense(config)] * number_of_layers(config))


def qwen3_next(config: Config) -> list[Layer]:
    """Gated DeltaNet in three of four layers, experts with a shared one."""
    layers, step = number_of_layers(config), config.integer("decoder_sparse_step", 1)
    spared = set(config.integers("mlp_only_layers", below=layers) or ())
    sparse = experts(
        config,
        "num_experts",
        "moe_intermediate_size",
        shared_intermediate=config.integer("shared_expert_intermediate_size"),
        shared_gate=True,
    )
    has_experts = [layer not in spared and (layer + 1) % step == 0 for layer in range(layers)]
    plain: Mlp = sparse if all(has_experts) else dense(config)
    return _qwen_mixed(config, [sparse if chosen else plain for chosen in has_experts])


# --- Mamba-2 -------------------------------------------------------------------------------------


def _granite_mamba(config: Config, inner: int, **options: Any) -> Mamba2:
    """From the keys of Bamba and its kin (``mamba_*``)."""
    heads, width = config.integer("mamba_n_heads"), config.get("mamba_d_head")
    if heads * (inner // heads) != inner:
        raise config.error("mamba_n_heads", f"{heads} does not divide the inner width of {inner}")
    if width not in (None, "auto") and config.integer("mamba_d_head") * heads != inner:
        raise config.error(
            "mamba_d_head", f"{width} × mamba_n_heads = {heads} is not the inner width of {inner}"
        )
    bias = config.flag("mamba_proj_bias")
    return Mamba2(
        heads,
        inner // heads,
        config.integer("mamba_d_state"),
        config.integer("mamba_n_groups"),
        config.integer("mamba_d_conv"),
        conv_bias=config.flag("mamba_conv_bias", True),
        bias=bias,
        **{"output_bias": bias, **options},
    )


def _expanded(config: Config) -> int:
    return config.integer("mamba_expand") * config.integer("hidden_size")


def _mixed(
    config: Config, kinds: Sequence[str], attention: Attention, mamba: Mamba2, mlp: Mlp
) -> list[Layer]:
    return [
        Layer(attention, FULL, mlp)
        if kind == "attention"
        else Layer(None, FULL, mlp, recurrent=mamba)
        for kind in kinds
    ]


def bamba(config: Config) -> list[Layer]:
    """Mamba-2 but for the layers of ``attn_layer_indices``."""
    layers = number_of_layers(config)
    chosen = set(config.integers("attn_layer_indices", below=layers) or ())
    usual = ["attention" if layer in chosen else "mamba" for layer in range(layers)]
    bias = config.flag("attention_bias")
    attention = grouped(config, qkv_bias=bias, output_bias=bias)
    mlp = dense(config, bias=config.flag("mlp_bias"))
    kinds = _types(config, "layers_block_type", usual)
    return _mixed(config, kinds, attention, _granite_mamba(config, _expanded(config)), mlp)


def granitemoehybrid(config: Config) -> list[Layer]:
    """Mamba-2 or attention, each with experts and a shared one, or the shared one alone."""
    layers = number_of_layers(config)
    key = "layer_types" if config.get("layer_types") is not None else "layers_block_type"
    kinds = _types(config, key, ["mamba"] * layers)
    bias = config.flag("attention_bias")
    attention = grouped(config, qkv_bias=bias, output_bias=bias)
    shared = config.integer("shared_intermediate_size")
    mlp: Mlp = DenseMlp(shared)
    if config.integer("num_local_experts", 0, least=0):
        mlp = experts(config, "num_local_experts", "intermediate_size", shared_intermediate=shared)
    return _mixed(config, kinds, attention, _granite_mamba(config, _expanded(config)), mlp)


def falcon_h1(config: Config) -> list[Layer]:
    """Attention and Mamba-2 side by side in every layer."""
    bias = config.flag("attention_bias")
    attention = grouped(config, qkv_bias=bias, output_bias=bias)
    inner = config.optional_integer("mamba_d_ssm") or _expanded(config)
    mamba = _granite_mamba(
        config, inner,
        norm=config.flag("mamba_rms_norm"), output_bias=config.flag("projectors_bias"),
    )  # fmt: skip
    mlp = dense(config, bias=config.flag("mlp_bias"))
    return [Layer(attention, FULL, mlp, recurrent=mamba)] * number_of_layers(config)


_BLOCKS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}


def nemotron_h(config: Config) -> list[Layer]:
    """One block a layer with one norm: Mamba-2, attention, feed-forward without gate, or experts
    (letters M, *, - and E of ``hybrid_override_pattern``)."""
    blocks = {kind: make(config) for kind, make in (
        ("mamba", _nemotron_mamba), ("attention", _nemotron_attention),
        ("mlp", _nemotron_mlp), ("moe", _nemotron_experts),
    ) if kind in nemotron_kinds(config)}  # fmt: skip
    return [blocks[kind] for kind in nemotron_kinds(config)]


def nemotron_kinds(config: Config) -> list[str]:
    """Kind of every block."""
    pattern = config.get("hybrid_override_pattern")
    if pattern is None:
        names = {**{kind: kind for kind in _BLOCKS.values()},
                 "linear_attention": "mamba", "full_attention": "attention"}  # fmt: skip
        key, listed = "layers_block_type", config.sequence("layers_block_type")
        if listed is None:
            raise config.error("hybrid_override_pattern", "is missing")
    else:
        key, names, listed = "hybrid_override_pattern", _BLOCKS, list(str(pattern))
    for name in listed:
        if name not in names:
            raise config.error(key, f"blocks of type {name!r} are not supported",
                               f"{', '.join(names)} are")  # fmt: skip
    layers = config.integer("num_hidden_layers", len(listed))
    if layers != len(listed):
        raise config.error(
            key, f"has {len(listed)} entries", f"one for each of the {layers} layers is needed"
        )
    return [names[name] for name in listed]


def _nemotron_mamba(config: Config) -> Layer:
    bias = config.flag("use_bias")
    return Layer(None, FULL, None, norms=1, recurrent=Mamba2(
        config.integer("mamba_num_heads"),
        config.integer("mamba_head_dim"),
        config.integer("ssm_state_size"),
        config.integer("n_groups"),
        config.integer("conv_kernel"),
        conv_bias=config.flag("use_conv_bias", True),
        bias=bias,
        output_bias=bias,
    ))  # fmt: skip


def _nemotron_attention(config: Config) -> Layer:
    bias = config.flag("attention_bias")
    # earlier configurations call it attention_head_dim
    old = config.get("head_dim") is None and config.get("attention_head_dim") is not None
    attention = grouped(
        config, qkv_bias=bias, output_bias=bias,
        head_dim="attention_head_dim" if old else "head_dim",
    )  # fmt: skip
    return Layer(attention, FULL, None, norms=1)


def _nemotron_mlp(config: Config) -> Layer:
    return Layer(None, FULL, dense(config, bias=config.flag("mlp_bias"), gated=False), norms=1)


def _nemotron_experts(config: Config) -> Layer:
    shared = config.integer("n_shared_experts", 1, least=0)
    mlp: MoeMlp = experts(
        config,
        "n_routed_experts",
        "moe_intermediate_size",
        shared_intermediate=shared * config.integer("moe_shared_expert_intermediate_size"),
        gated=False,
        bias=config.flag("mlp_bias"),
        router_bias=True,
        latent=config.optional_integer("moe_latent_size") or 0,
    )
    return Layer(None, FULL, mlp, norms=1)


def mamba2(config: Config) -> list[Layer]:
    """Mamba-2 in every layer, nothing else (Codestral Mamba)."""
    heads, hidden = config.integer("num_heads"), config.integer("hidden_size")
    inner = config.integer("expand") * hidden
    if config.integer("head_dim") * heads != inner:
        raise config.error("num_heads", f"× head_dim is not the inner width of {inner}")
    bias = config.flag("use_bias")
    layer = Mamba2(
        heads,
        config.integer("head_dim"),
        config.integer("state_size"),
        config.integer("n_groups"),
        config.integer("conv_kernel"),
        conv_bias=config.flag("use_conv_bias", True),
        bias=bias,
        output_bias=bias,
    )
    return [Layer(None, FULL, None, norms=1, recurrent=layer)] * number_of_layers(config)


# --- short convolutions --------------------------------------------------------------------------


def _lfm2_mixed(config: Config, mlps: Sequence[Mlp]) -> list[Layer]:
    layers = len(mlps)
    chosen = set(config.integers("full_attn_idxs", below=layers) or range(layers))
    usual = ["full_attention" if layer in chosen else "conv" for layer in range(layers)]
    kinds = config.sequence("layer_types", layers) or usual
    attention = grouped(config, qk_norm=True)
    conv = ShortConv(
        config.integer("hidden_size"), config.integer("conv_L_cache", 3), config.flag("conv_bias")
    )
    for kind in kinds:
        if kind not in ("conv", "full_attention"):
            raise config.error("layer_types", f"layers of type {kind!r} are not supported",
                               "conv, full_attention are")  # fmt: skip
    return [
        Layer(None, FULL, mlp, recurrent=conv) if kind == "conv" else Layer(attention, FULL, mlp)
        for kind, mlp in zip(kinds, mlps, strict=True)
    ]


def lfm2(config: Config) -> list[Layer]:
    """Convolutions and a few layers of attention; ``block_ff_dim`` is two thirds too wide."""
    key = "block_ff_dim" if config.get("block_ff_dim") is not None else "intermediate_size"
    width = config.integer(key)
    if config.flag("block_auto_adjust_ff_dim", True):
        factor = config.number("block_ffn_dim_multiplier", 1.0)
        width, multiple = int(factor * int(2 * width / 3)), config.integer("block_multiple_of", 256)
        width = multiple * -(-width // multiple)
    return _lfm2_mixed(config, [DenseMlp(width)] * number_of_layers(config))


def lfm2_moe(config: Config) -> list[Layer]:
    """The same with experts but in the first ``num_dense_layers``."""
    layers, first = number_of_layers(config), config.integer("num_dense_layers", 2, least=0)
    sparse = experts(
        config, "num_experts", "moe_intermediate_size",
        router_bias=config.flag("use_expert_bias", True),
    )  # fmt: skip
    plain = dense(config)
    return _lfm2_mixed(config, [plain if layer < first else sparse for layer in range(layers)])


_QWEN = {
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}
_BAMBA = {
    "mamba_n_heads": 128,
    "mamba_d_head": "auto",
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "qwen3_next": _QWEN,
    "qwen3_5_text": _QWEN,
    "qwen3_5_moe_text": _QWEN,
    "bamba": {**_BAMBA, "num_key_value_heads": 8, "max_position_embeddings": 262144},
    "granitemoehybrid": {**_BAMBA, "num_local_experts": 8, "num_experts_per_tok": 2},
    "falcon_h1": _BAMBA,
    "nemotron_h": {
        "mamba_ssm_cache_dtype": "float32",
        "ssm_state_size": 128,
        "mamba_num_heads": 128,
        "mamba_head_dim": 64,
        "n_groups": 8,
        "conv_kernel": 4,
        "num_key_value_heads": 8,
    },
    "lfm2": {"num_key_value_heads": 8, "tie_word_embeddings": True},
    "lfm2_moe": {"num_key_value_heads": 8, "tie_word_embeddings": True},
    "mamba2": {
        "num_heads": 128,
        "head_dim": 64,
        "state_size": 128,
        "n_groups": 8,
        "conv_kernel": 4,
        "expand": 2,
        "max_position_embeddings": 1 << 20,
    },
}
"""What absent keys mean. Mamba-2 has no longest sequence; a million tokens stand in."""
