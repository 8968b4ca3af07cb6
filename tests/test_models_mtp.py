"""Heads that predict further tokens: what they consist of, and that nobody pays for them unasked."""

import pytest

from simulator.errors import UserError
from simulator.models import counting, load_model
from simulator.models.huggingface import parse_config

GLM = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "vocab_size": 100,
    "max_position_embeddings": 1024,
    "torch_dtype": "bfloat16",
}


def test_deepseek_has_one_of_the_published_size():
    """Its README_WEIGHTS.md: 11.5 billion parameters beside the shared embedding and LM head; its
    checkpoint, which stores copies of both, has 685 billion in all."""
    model = load_model("deepseek-v3")
    assert model.mtp is not None
    assert model.mtp.layers == model.mtp.group.count == 1
    assert model.mtp.group.mlp == model.groups[-1].mlp
    assert counting.mtp_parameters(model) == pytest.approx(11.5e9, rel=0.01)
    stored = counting.parameters(model) + 2 * counting.embedding_parameters(model)
    assert stored + counting.mtp_parameters(model) == pytest.approx(685e9, rel=1e-3)


def test_heads_are_apart_from_the_model():
    plain, heads = (parse_config(GLM | more, "m", "m") for more in (
        {}, {"num_nextn_predict_layers": 3}
    ))  # fmt: skip
    assert plain.mtp is None
    assert counting.mtp_parameters(plain) == 0
    assert plain.groups == heads.groups
    assert counting.parameters(plain) == counting.parameters(heads)
    assert counting.weight_bytes(plain, "bf16") == counting.weight_bytes(heads, "bf16")
    assert counting.kv_bytes_per_token(plain, "bf16") == counting.kv_bytes_per_token(heads, "bf16")
    layer = 4 * 64 * 64 + 3 * 64 * 128 + 2 * 64
    assert counting.mtp_parameters(heads) == 3 * (layer + 2 * 64 * 64 + 3 * 64)


@pytest.mark.parametrize("number", [-1, 1.5, "one"])
def test_a_number_of_heads_that_is_none(number):
    with pytest.raises(UserError, match="num_nextn_predict_layers"):
        parse_config(GLM | {"num_nextn_predict_layers": number}, "m", "m.json")


def test_none_is_none():
    for value in (None, 0):
        assert parse_config(GLM | {"num_nextn_predict_layers": value}, "m", "m").mtp is None
