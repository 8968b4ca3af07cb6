"""Every way a config.json can be wrong, and the sentence it gives."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import UserError
from simulator.models import counting
from simulator.models.architectures import ARCHITECTURES
from simulator.models.huggingface import parse_config, read_config
from simulator.models.layout import ALONE
from simulator.models.spec import ModelSpec
from tests.test_models_huggingface import LATENT, LLAMA, MOE, QWEN_MOE, parse

KNOWN = "`simulate list architectures` shows those that are"
SIX = ["full_attention"] * 6


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hidden_size": None}, "hidden_size: is null"),
        ({"hidden_size": -4}, "hidden_size: must be a positive whole number, got -4"),
        ({"hidden_size": 64.0}, "hidden_size: must be a positive whole number, got 64.0"),
        ({"vocab_size": "100"}, "vocab_size: must be a positive whole number, got '100'"),
        ({"vocab_size": True}, "vocab_size: must be a positive whole number, got True"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: must be a positive whole number, got 0"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers: must be at most 10000, got 1000000"),
        (
            {"num_key_value_heads": 3},
            "num_key_value_heads: 3 does not divide num_attention_heads = 8",
        ),
        (
            {"num_attention_heads": 7, "num_key_value_heads": 7},
            "num_attention_heads: 7 does not divide hidden_size = 64; without head_dim it has to",
        ),
        ({"attention_bias": "no"}, "attention_bias: must be true or false, got 'no'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings: must be true or false, got 1"),
        (
            {"torch_dtype": "int3"},
            "torch_dtype: must be one of float32, float16, bfloat16, got 'int3'",
        ),
        (
            {"quantization_config": "fp8"},
            "quantization_config: must be a mapping of keys to values",
        ),
        (
            {"quantization_config": {"quant_method": "awq", "bits": 3}},
            "quantization_config: weights of 3 bits (int) are not known; known are 8 and 4 bits, "
            "int or float",
        ),
        (
            {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": 3}},
            "quantization_config: has no config_groups with weights; one weight type is needed",
        ),
        ({"rope_scaling": 8}, "rope_scaling: must be a mapping of keys to values, got 8"),
        (
            {"rope_scaling": {"type": "yarn", "factor": -1}},
            "rope_scaling.factor: must be a positive number, got -1",
        ),
        (
            {"model_type": "mixtral", **MOE, "num_experts_per_tok": 9},
            "num_experts_per_tok: 9 is more than num_local_experts = 8",
        ),
        ({"model_type": "mixtral"}, "num_local_experts: is missing"),
        (
            {"model_type": "mixtral", **MOE, "sliding_window": 0},
            "sliding_window: must be a positive whole number, got 0",
        ),
        (
            {"model_type": "qwen3", "layer_types": SIX[1:]},
            "layer_types: has 5 entries; one for each of the 6 layers is needed",
        ),
        (
            {"model_type": "qwen3", "layer_types": [*SIX[1:], "linear_attention"]},
            "layer_types: layers of type 'linear_attention' are not supported; full_attention, "
            "sliding_attention, chunked_attention are",
        ),
        (
            {"layer_types": [*SIX[1:], "sliding_attention"]},
            "sliding_window: is missing; layer_types has layers of type 'sliding_attention'",
        ),
        (
            {
                "layer_types": [*SIX[2:], "sliding_attention", "chunked_attention"],
                "sliding_window": 10,
                "attention_chunk_size": 10,
            },
            "layer_types: mixes sliding and chunked attention; one of them may be used",
        ),
        (
            {"model_type": "qwen3_moe", **QWEN_MOE, "mlp_only_layers": [0, 6]},
            "mlp_only_layers: must hold whole numbers from 0 to 5, got 6",
        ),
        (
            {"model_type": "llama4_text", **MOE, "no_rope_layers": [1, 1, 1, 0, 1, True]},
            "no_rope_layers: must hold whole numbers from 0 to 1, got True",
        ),
        ({"layer_types": "full"}, "layer_types: must be a list, got 'full'"),
        (
            {"model_type": "deepseek_v3", **LATENT, "attention_bias": True},
            "attention_bias: biases in latent attention are not supported",
        ),
        ({"model_type": "deepseek_v3"}, "kv_lora_rank: is missing"),
        (
            {"model_type": "mamba3", "intermediate_size": None},
            f"intermediate_size: is missing and model_type 'mamba3' is not known; {KNOWN}",
        ),
        (
            {"model_type": "new_moe", "n_experts": 4},
            f"n_experts: tells of layers unlike Llama's and model_type 'new_moe' is not known; {KNOWN}",
        ),
        (
            {"model_type": "starcoder", "hidden_act": "gelu"},
            f"hidden_act: 'gelu' may mean a block without gate and model_type 'starcoder' is not "
            f"known; {KNOWN}",
        ),
        (
            {"model_type": None, "vocab_size": None},
            f"vocab_size: is missing and there is no model_type; {KNOWN}",
        ),
        ({"text_config": 5}, "text_config: must be a mapping of keys to values, got 5"),
    ],
)
def test_mistakes(changes, sentence):
    with pytest.raises(UserError) as caught:
        parse(**changes)
    assert str(caught.value) == f"m.json: {sentence}"


def test_unknown_quantization():
    with pytest.raises(UserError) as caught:
        parse(quantization_config={"quant_method": "hqq"})
    assert str(caught.value).startswith(
        "m.json: quantization_config: quantization method 'hqq' is not known; known are fp8, "
    )


def test_mistakes_name_the_line(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA | {"vocab_size": 0}, indent=2))
    with pytest.raises(UserError) as caught:
        read_config(tmp_path)
    line = list(LLAMA).index("vocab_size") + 2
    assert str(caught.value) == (
        f"{file}:{line}: vocab_size: must be a positive whole number, got 0"
    )
    nested = {"model_type": "llava", "vocab_size": 5, "text_config": LLAMA | {"vocab_size": -1}}
    text = json.dumps(nested, indent=2)
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        read_config(file)
    line = next(n for n, row in enumerate(text.splitlines(), 1) if '"vocab_size": -1' in row)
    assert str(caught.value) == (
        f"{file}:{line}: text_config.vocab_size: must be a positive whole number, got -1"
    )


@pytest.mark.parametrize(
    "key", [k for k in LLAMA if k not in ("model_type", "num_key_value_heads")]
)
def test_every_key_of_a_llama_matters(key):
    """Leaving one out is an error or, for the type of the weights, said in the source."""
    config = {k: v for k, v in LLAMA.items() if k != key}
    if key == "torch_dtype":
        assert "assumed" in parse_config(config, "m", "m.json").source
        return
    if key == "hidden_act":  # Llama's block always has a gate
        assert parse_config(config, "m", "m.json").groups == parse().groups
        return
    with pytest.raises(UserError) as caught:
        parse_config(config, "m", "m.json")
    assert str(caught.value) == f"m.json: {key}: is missing"


EVERYTHING = {
    **LLAMA,
    **MOE,
    **QWEN_MOE,
    **LATENT,
    "head_dim": 8,
    "q_lora_rank": 8,
    "shared_expert_intermediate_size": 8,
    "sliding_window": 16,
    "use_sliding_window": True,
    "attention_chunk_size": 16,
    "intermediate_size_mlp": 8,
    "layer_types": None,
    "no_rope_layers": None,
    "moe_layers": None,
    "mlp_only_layers": None,
    "rope_scaling": {"type": "yarn", "factor": 2.0},
    "quantization_config": {"quant_method": "awq", "bits": 4},
    "attention_bias": False,
    "tie_word_embeddings": False,
    "full_attention_interval": 3,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
    "mamba_n_heads": 8,
    "mamba_d_head": "auto",
    "mamba_d_state": 8,
    "mamba_n_groups": 2,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_d_ssm": 64,
    "attn_layer_indices": [1],
    "shared_intermediate_size": 8,
    "hybrid_override_pattern": "M-E*M-",
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "ssm_state_size": 8,
    "state_size": 8,
    "num_heads": 16,
    "expand": 2,
    "n_groups": 2,
    "conv_kernel": 4,
    "moe_shared_expert_intermediate_size": 8,
    "conv_L_cache": 3,
    "num_nextn_predict_layers": 1,
    "moe_num_experts": 4,
    "moe_k": 2,
    "moe_topk": 2,
    "num_shared_expert": 1,
    "use_cla": True,
    "cla_share_factor": 2,
}
scalars = st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.text(max_size=3)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(
            st.sampled_from(["quant_method", "bits", "factor", "type", "config_groups", "x"]),
            inner | st.sampled_from(["gptq", "yarn", "compressed-tensors"]),
        )
    ),
    max_leaves=8,
)


@given(
    st.sampled_from(sorted(ARCHITECTURES)),
    st.dictionaries(st.sampled_from(sorted(EVERYTHING)), anything, max_size=2),
)
def test_any_value_gives_a_model_or_a_sentence(kind, changes):
    config = EVERYTHING | changes | {"model_type": kind}
    try:
        model = parse_config(config, "m", "m.json")
    except UserError as error:
        sentence = str(error)
    else:
        sentence = ""
    if sentence:
        assert sentence.startswith("m.json: ")
        assert "\n" not in sentence
        return
    assert isinstance(model, ModelSpec)
    assert counting.parameters(model) >= counting.active_parameters(model) > 0
    state = counting.state_bytes_per_rank(model, "fp32", ALONE)
    assert 0 < counting.kv_bytes_per_token(model, "bf16") + state < math.inf
    assert model.max_context > 0
