"""Weights: where they come from, and what is left of them in eight bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from simulator.errors import UserError

from tests.engine_support import (  # isort: skip
    CPU,
    FP32,
    LLAMA,
    MIXTRAL,
    QWEN2_MOE,
    VOCAB,
    drawn,
    engine,
    limits,
    one_thread,  # noqa: F401
    plain_logits,
    sharing,
    torch,
    written,
)

from safetensors.torch import save_file

from calibration.engine.build import Formats
from calibration.engine.decoder import load_runnable
from calibration.engine.weights import Checkpoint, RandomSource, narrow_rows
from calibration.kernels.api import Dense, ExpertWeights, Fp8, Int8

FP8 = torch.float8_e4m3fn
TEXT = [(i * 37) % VOCAB for i in range(30)]


class Recording:
    """Random weights, and what was asked for."""

    def __init__(self, seed: int = 0) -> None:
        self.inner = RandomSource(seed, torch.float32, CPU)
        self.asked: dict[str, Any] = {}
        self.fused = True

    def __contains__(self, name: str) -> bool:
        return self.fused and name in self.inner

    def get(self, name: str, *shape: int) -> Any:
        assert name not in self.asked, f"{name} is read twice"
        self.asked[name] = self.inner.get(name, *shape)
        return self.asked[name]


# --- random ones -----------------------------------------------------------------------------------


def test_random_weights_follow_from_seed_and_name() -> None:
    source = RandomSource(3, torch.float32, CPU)
    first = source.get("a.weight", 20, 30)
    source.get("b.weight", 7, 7)
    torch.testing.assert_close(source.get("a.weight", 20, 30), first, rtol=0, atol=0)
    other = RandomSource(3, torch.float32, CPU)
    other.get("c.weight", 5, 5)
    assert torch.equal(other.get("a.weight", 20, 30), first)
    assert not torch.equal(other.get("b.weight", 20, 30), first)
    assert not torch.equal(RandomSource(4, torch.float32, CPU).get("a.weight", 20, 30), first)


def test_random_weights_keep_activations_near_one() -> None:
    source = RandomSource(3, torch.float32, CPU)
    product = torch.randn(50, 400, generator=torch.Generator().manual_seed(0))
    product = product @ source.get("a.weight", 300, 400).T
    assert product.std().item() == pytest.approx(1.0, rel=0.05)
    assert source.get("norm.weight", 400).mean().item() == pytest.approx(1.0, abs=0.01)
    assert source.get("q_proj.bias", 400).mean().item() == pytest.approx(0.0, abs=0.01)


def test_the_seed_of_the_engine_is_that_of_its_weights(tmp_path) -> None:
    folder = written(tmp_path)
    logits = [plain_logits(engine(folder, seed=seed).model, TEXT) for seed in (1, 1, 2)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


# --- checkpoints -----------------------------------------------------------------------------------


def saved(folder: Any, config: dict[str, Any] = LLAMA, **changes: Any) -> Recording:
    """A checkpoint of random weights, in two files."""
    source = Recording()
    engine(written(folder, config, **changes), source=source)
    names = sorted(source.asked)
    for part, half in enumerate((names[::2], names[1::2])):
        tensors = {name: source.asked[name].contiguous() for name in half}
        save_file(tensors, folder / f"model-{part}.safetensors")
    return source


def checkpoint(folder: Any) -> Checkpoint:
    return Checkpoint(folder, torch.float32, CPU)


@pytest.mark.parametrize("config", [LLAMA, MIXTRAL, QWEN2_MOE], ids=lambda c: c["model_type"])
def test_a_checkpoint_is_read_as_it_was_saved(tmp_path, config) -> None:
    """In several files, with all experts of a layer in one tensor."""
    saved(tmp_path, config)
    expected = plain_logits(engine(tmp_path).model, TEXT)
    found = plain_logits(engine(tmp_path, source=checkpoint(tmp_path)).model, TEXT)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_tied_embeddings_need_no_head(tmp_path) -> None:
    source = saved(tmp_path, tie_word_embeddings=True)
    assert "lm_head.weight" not in source.asked
    weights = engine(tmp_path, source=checkpoint(tmp_path)).model.weights
    assert weights.lm_head.weight is weights.embedding


def complaint(make: Callable[[], Any]) -> str:
    """The one sentence that a mistake gets."""
    with pytest.raises(UserError) as caught:
        make()
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_a_missing_tensor(tmp_path) -> None:
    source = saved(tmp_path)
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    del source.asked["model.norm.weight"]
    save_file(source.asked, tmp_path / "model.safetensors")
    assert complaint(lambda: engine(tmp_path, source=checkpoint(tmp_path))) == (
        f"{tmp_path}: no file has the tensor model.norm.weight"
    )


def test_a_wrong_shape(tmp_path) -> None:
    saved(tmp_path)
    written(tmp_path, intermediate_size=64)
    assert complaint(lambda: engine(tmp_path, source=checkpoint(tmp_path))) == (
        f"{tmp_path}: model.layers.0.mlp.gate_proj.weight has the shape [48, 32]; "
        "config.json says [64, 32]"
    )


def test_a_type_that_needs_scales(tmp_path) -> None:
    source = saved(tmp_path)
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    name = "model.layers.1.self_attn.o_proj.weight"
    source.asked[name] = source.asked[name].to(FP8)
    save_file(source.asked, tmp_path / "model.safetensors")
    assert complaint(lambda: engine(tmp_path, source=checkpoint(tmp_path))) == (
        f"{tmp_path}: {name} is stored as float8_e4m3fn; "
        "the micro-engine reads float32, bfloat16 and float16"
    )


def test_no_files(tmp_path) -> None:
    assert (
        complaint(lambda: checkpoint(tmp_path)) == f"{tmp_path}: the folder holds no *.safetensors"
    )


def test_no_safetensors_file(tmp_path) -> None:
    (tmp_path / "model.safetensors").write_text("no")
    assert complaint(lambda: checkpoint(tmp_path)).startswith(
        f"{tmp_path / 'model.safetensors'}: is no safetensors file: "
    )


# --- models that it does not run -------------------------------------------------------------------

KINDS = "it runs llama, mistral, mixtral, qwen2, qwen2_moe, qwen3, qwen3_moe with grouped attention and SiLU"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("deepseek-v3", "model_type 'deepseek_v3'"),
        ("gemma-2-9b", "model_type 'gemma2'"),
        ("gpt-oss-20b", "model_type 'gpt_oss'"),
        ("phi-3-mini", "model_type 'phi3'"),
        ("llama-4-scout", "model_type 'llama4_text'"),
    ],
)
def test_other_models(name, what) -> None:
    assert complaint(lambda: load_runnable(name)) == (
        f"model: the micro-engine does not run {name}: it has no code for {what}; {KINDS}"
    )


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"mlp_bias": True}, "biases of the feed-forward block"),
        ({"attention_bias": True}, "biases of the output projection"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type 'yarn'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope_type 'dynamic'"),
        ({"partial_rotary_factor": 0.5}, "a rotation of some of a head's numbers"),
    ],
)
def test_parts_that_it_has_no_code_for(tmp_path, changes, what) -> None:
    folder = written(tmp_path / "odd", **changes)
    assert complaint(lambda: load_runnable(str(folder))) == (
        f"model: the micro-engine does not run odd: it has no code for {what}; {KINDS}"
    )


@pytest.mark.parametrize(
    "name",
    [
        "llama-3.1-8b",
        "llama-3.2-1b",
        "mistral-7b",
        "mixtral-8x7b",
        "qwen2.5-7b",
        "qwen3-8b",
        "qwen3-30b-a3b",
        "yi-34b",
    ],
)
def test_presets_that_it_runs(name) -> None:
    runnable = load_runnable(name)
    assert runnable.folder is None
    assert runnable.cos_sin(5, CPU).shape == (5, runnable.attention.head_dim)


# --- eight bits ------------------------------------------------------------------------------------


def widened(weights: Any) -> Any:
    """The numbers that narrow weights stand for."""
    if isinstance(weights, Int8 | Fp8):
        return Dense(weights.weight.float() * weights.scale.unsqueeze(1), weights.bias)
    if isinstance(weights, ExpertWeights):
        return ExpertWeights(
            weights.gate_up.float() * weights.gate_up_scale.unsqueeze(-1),
            weights.down.float() * weights.down_scale.unsqueeze(-1),
        )
    return weights


def widen(run: Any) -> None:
    """Puts the numbers that narrow weights stand for in their place."""
    for layer in run.model.weights.layers:
        blocks = [layer, layer.mlp, getattr(layer.mlp, "shared", None)]
        for block in filter(None, blocks):
            for name in type(block).__slots__:
                object.__setattr__(block, name, widened(getattr(block, name)))


CONFIGS = [LLAMA | {"model_type": "qwen2"}, MIXTRAL, QWEN2_MOE]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["model_type"])
@pytest.mark.parametrize(
    ("narrow", "from_wide", "from_exact"), [("int8", 1e-4, 0.1), ("fp8", 0.25, 0.5)]
)
def test_narrow_products_are_close(tmp_path, config, narrow, from_wide, from_exact) -> None:
    """To those of the numbers that they stand for, and to those of the weights before."""
    folder = written(tmp_path, config)
    exact = plain_logits(engine(folder).model, TEXT)
    run = engine(folder, formats=Formats(torch.float32, narrow, torch.float32))
    kept = {type(layer.qkv) for layer in run.model.weights.layers}
    assert kept == {Int8 if narrow == "int8" else Fp8}
    found = plain_logits(run.model, TEXT)
    widen(run)
    wide = plain_logits(run.model, TEXT)
    assert not torch.equal(found, exact)
    assert _off(found, wide) < from_wide
    assert _off(found, exact) < from_exact


def _off(found: Any, expected: Any) -> float:
    """Root mean square of the error over that of what is expected."""
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.mark.parametrize("narrow", ["int8", "fp8"])
def test_rows_have_scales_of_their_own(narrow) -> None:
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    weight *= torch.tensor([1e-3, 1.0, 1e3, 1.0, 0.0, 1.0]).unsqueeze(1)
    stored, scale = narrow_rows(weight, narrow)
    assert (
        stored.float().abs().amax(1)[[0, 1, 2, 3, 5]] == {"int8": 127, "fp8": 448}[narrow]
    ).all()
    back = stored.float() * scale.unsqueeze(1)
    step = scale.unsqueeze(1) / 2 if narrow == "int8" else weight.abs() / 16 + scale.unsqueeze(1)
    assert ((back - weight).abs() <= step * 1.001).all()


def test_a_narrow_kv_cache(tmp_path) -> None:
    formats = Formats(torch.float32, None, FP8)
    folder = written(tmp_path)
    run = engine(folder, limits(budget=16), formats=formats)
    assert run.model.kv[0][0].dtype == FP8
    exact = plain_logits(run.model, TEXT)
    found = plain_logits(run.model, TEXT, FP8)
    assert not torch.equal(found, exact)
    assert _off(found, exact) < 0.1
    requests = sharing(3)
    _, texts = run.serve(requests)
    assert [len(answer) for answer in texts.answers] == requests.output_tokens.tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits(tmp_path, dtype) -> None:
    folder = written(tmp_path, QWEN2_MOE)
    run = engine(folder, limits(budget=16), formats=Formats(dtype, None, dtype))
    requests = drawn(3)
    _, texts = run.serve(requests)
    assert [len(answer) for answer in texts.answers] == requests.output_tokens.tolist()
    logits = plain_logits(run.model, TEXT, dtype)
    assert logits.dtype == dtype
    wide = engine(
        folder, formats=FP32, source=_Widened(run.seed, dtype)
    )  # the same numbers, computed in 32 bits
    assert _off(logits.float(), plain_logits(wide.model, TEXT)) < 0.06


class _Widened(RandomSource):
    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        super().__init__(seed, dtype, CPU)

    def get(self, name: str, *shape: int) -> Any:
        return super().get(name, *shape).float()
