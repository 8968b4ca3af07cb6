"""Parameter counts against transformers' own models, built without memory for their weights."""

import pytest

from simulator.models import counting
from simulator.models.huggingface import parse_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")

_BASE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 320,
    "max_position_embeddings": 1024,
}
CASES = {
    "qwen3_next": dict(
        _BASE,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=40,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=12,
    ),
    "qwen3_5_text": dict(
        _BASE,
        head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=12,
    ),
    "qwen3_5_moe_text": dict(
        {k: v for k, v in _BASE.items() if k != "intermediate_size"},
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=40,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=12,
    ),
    "bamba": dict(
        _BASE, attn_layer_indices=[2, 5], mamba_n_heads=8, mamba_d_state=16, mamba_n_groups=2
    ),
    "granitemoehybrid": dict(
        _BASE,
        layer_types=["mamba", "attention"] * 4,
        mamba_n_heads=8,
        mamba_d_state=16,
        shared_intermediate_size=48,
        num_local_experts=4,
    ),
    "granitemoehybrid#dense": dict(
        _BASE,
        layer_types=["mamba", "attention"] * 4,
        mamba_n_heads=8,
        mamba_d_state=16,
        shared_intermediate_size=48,
        num_local_experts=0,
    ),
    "falcon_h1": dict(
        _BASE, mamba_d_ssm=96, mamba_n_heads=8, mamba_d_state=16, mamba_n_groups=2, head_dim=16
    ),
    "nemotron_h": dict(
        _BASE,
        hybrid_override_pattern="M-M*E-M*",
        head_dim=16,
        mamba_num_heads=8,
        mamba_head_dim=16,
        ssm_state_size=16,
        n_groups=2,
        n_routed_experts=4,
        moe_intermediate_size=24,
        moe_shared_expert_intermediate_size=40,
        num_experts_per_tok=2,
    ),
    "nemotron_h#latent": dict(
        _BASE,
        hybrid_override_pattern="M-M*E-M*",
        head_dim=16,
        mamba_num_heads=8,
        mamba_head_dim=16,
        ssm_state_size=16,
        n_groups=2,
        n_routed_experts=4,
        moe_intermediate_size=24,
        moe_shared_expert_intermediate_size=40,
        num_experts_per_tok=2,
        moe_latent_size=32,
    ),
    "mamba2": {
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "vocab_size": 320,
        "num_heads": 8,
        "head_dim": 16,
        "state_size": 16,
        "n_groups": 2,
    },
    "lfm2": dict(_BASE, layer_types=["conv", "full_attention"] * 4, block_multiple_of=16),
    "lfm2_moe": dict(
        _BASE,
        layer_types=["conv", "full_attention"] * 4,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        num_dense_layers=2,
    ),
    "cohere": _BASE,
    "cohere2": dict(_BASE, sliding_window=128),
    "dots1": dict(
        _BASE,
        n_routed_experts=4,
        n_shared_experts=2,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        first_k_dense_replace=1,
        sliding_window=None,
    ),
    "ernie4_5": dict(_BASE, use_bias=True),
    "ernie4_5_moe": dict(
        _BASE,
        moe_num_experts=4,
        moe_k=2,
        moe_intermediate_size=24,
        moe_num_shared_experts=2,
        moe_layer_start_index=2,
        moe_layer_interval=2,
    ),
    "exaone4": dict(_BASE, sliding_window=128),
    "gemma": dict(_BASE, head_dim=16),
    "glm": dict(_BASE, head_dim=16),
    "glm4": dict(_BASE, head_dim=16),
    "glm4_moe": dict(
        _BASE,
        head_dim=16,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        first_k_dense_replace=3,
        use_qk_norm=True,
        attention_bias=True,
    ),
    "glm4_moe_lite": dict(
        _BASE,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        kv_lora_rank=16,
        q_lora_rank=24,
        qk_rope_head_dim=8,
        qk_nope_head_dim=16,
        v_head_dim=16,
    ),
    "granite": _BASE,
    "granitemoe": dict(_BASE, num_local_experts=4, num_experts_per_tok=2),
    "granitemoeshared": dict(
        _BASE, num_local_experts=4, num_experts_per_tok=2, shared_intermediate_size=40
    ),
    "hunyuan_v1_dense": dict(_BASE, head_dim=16),
    "hunyuan_v1_moe": dict(_BASE, head_dim=16, num_experts=4, moe_topk=2),
    "apertus": _BASE,
    "arcee": _BASE,
    "nemotron": _BASE,
    "olmo2": _BASE,
    "olmo3": _BASE,
    "phimoe": dict(_BASE, num_local_experts=4, num_experts_per_tok=2, attention_bias=True),
    "seed_oss": dict(_BASE, head_dim=16),
    "smollm3": _BASE,
    "starcoder2": _BASE,
}

# Tensors that transformers registers as buffers and checkpoints hold.
_BIASES = ("correction_bias", "expert_bias")


@pytest.mark.parametrize("name", sorted(CASES))
def test_parameters_are_those_of_transformers(name):
    kind = name.split("#")[0]
    given = {"pad_token_id": 0} | CASES[name]
    if kind not in transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES:
        pytest.skip(f"this transformers does not know {kind}")
    config = transformers.AutoConfig.for_model(kind, **given)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    tensors = {id(tensor): tensor.numel() for tensor in model.parameters()}
    biases = [b.numel() for key, b in model.named_buffers() if key.endswith(_BIASES)]
    # Apertus learns two numbers in each layer's activation, which are left out.
    left_out = 2 * config.num_hidden_layers if kind == "apertus" else 0
    spec = parse_config({**CASES[name], "model_type": kind, "torch_dtype": "bfloat16"}, "m", "m")
    assert counting.parameters(spec) == sum(tensors.values()) + sum(biases) - left_out
