"""Presets against the figures their publishers state."""

import json
import re
from pathlib import Path

import pytest

from simulator.models import counting, load_model, preset_names
from simulator.models.layout import Layout

PRESETS = Path(__file__).parents[1] / "simulator" / "models" / "presets"

# Totals of the published checkpoints, text decoder, every tensor counted once.
EXACT = {
    "codellama-34b": 33_743_970_304,
    "deepseek-v2-lite": 15_706_484_224,
    "gemma-2-27b": 27_227_128_320,
    "gemma-2-9b": 9_241_705_984,
    "gemma-3-12b": 12_187_325_040 - 421_290_864,
    "gemma-3-27b": 27_432_406_640 - 423_060_336,
    "gemma-3-4b": 4_300_079_472 - 419_816_304,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-2-7b": 6_738_415_616,
    "llama-3-70b": 70_553_706_496,
    "llama-3-8b": 8_030_261_248,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.3-70b": 70_553_706_496,
    "llama-4-maverick": 401_583_781_376 - 871_932_416,
    "llama-4-scout": 108_641_793_536 - 871_932_416,
    "mistral-7b": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "mistral-nemo": 12_247_782_400,
    "mistral-small-24b": 23_572_403_200,
    "mixtral-8x22b": 140_630_071_296,
    "mixtral-8x7b": 46_702_792_704,
    "phi-3-medium": 13_960_238_080,
    "phi-3-medium-128k": 13_960_238_080,
    "phi-3-mini": 3_821_079_552,
    "phi-3-mini-128k": 3_821_079_552,
    "phi-4": 14_659_507_200,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-72b": 72_706_203_648,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-14b": 14_768_307_200,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen3-235b-a22b-2507": 235_093_634_560,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-30b-a3b-2507": 30_532_122_624,
    "qwen3-32b": 32_762_123_264,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "tinyllama-1.1b": 1_100_048_384,
    "yi-34b": 34_388_917_248,
    "deepseek-r1-distill-llama-70b": 70_553_706_496,
    "deepseek-r1-distill-llama-8b": 8_030_261_248,
    "deepseek-r1-distill-qwen-1.5b": 1_777_088_000,
    "deepseek-r1-distill-qwen-14b": 14_770_033_664,
    "deepseek-r1-distill-qwen-32b": 32_763_876_352,
    "deepseek-r1-distill-qwen-7b": 7_615_616_512,
    "granite-3.3-2b": 2_533_539_840,
    "granite-3.3-8b": 8_170_864_640,
    "lfm2-1.2b": 1_170_340_608,
    "olmo-2-13b": 13_716_198_400,
    "olmo-2-32b": 32_234_279_936,
    "olmo-2-7b": 7_298_617_344,
    "smollm3-3b": 3_075_098_624,
}
# Publishers that round.
ROUNDED = {
    "deepseek-r1": 671e9,
    "deepseek-v3": 671e9,
    "gpt-oss-120b": 116.83e9,
    "gpt-oss-20b": 20.91e9,
    "kimi-k2": 1.0265e12,
    "minimax-m2.5": 229e9,
    "apertus-70b": 70.6e9,
    "apertus-8b": 8.05e9,
    "bamba-9b": 9.78e9,
    "codestral-mamba-7b": 7.29e9,
    "command-a": 111e9,
    "command-r7b": 8.03e9,
    "ernie-4.5-21b-a3b": 21.8e9,
    "ernie-4.5-300b-a47b": 300e9,
    "exaone-4.0-1.2b": 1.28e9,
    "exaone-4.0-32b": 32e9,
    "falcon-h1-0.5b": 0.521e9,
    "falcon-h1-7b": 7.59e9,
    "glm-4-32b-0414": 32.57e9,
    "glm-4-9b": 9.4e9,
    "glm-4.7-flash": 30e9,
    "granite-4.0-h-micro": 3.19e9,
    "granite-4.0-h-small": 32.2e9,
    "granite-4.0-h-tiny": 6.94e9,
    "hunyuan-a13b": 80.4e9,
    "hunyuan-large": 389e9,
    "lfm2-8b-a1b": 8.34e9,
    "llama-3.1-minitron-4b-depth": 4.54e9,
    "llama-3.1-minitron-4b-width": 4.51e9,
    "nemotron-3-nano-30b-a3b": 31.6e9,
    "nemotron-h-8b": 8.1e9,
    "nemotron-nano-9b-v2": 8.89e9,
    "olmo-3-7b": 7.3e9,
    "phi-3.5-moe": 41.9e9,
    "qwen3.5-397b-a17b": 397e9,
    "seed-oss-36b": 36.15e9,
}
# Publishers that state whole billions, some with a head for further tokens or a vision encoder.
WHOLE = {
    "dots.llm1": 142e9,
    "ernie-4.5-0.3b": 0.36e9,
    "glm-4.5": 355e9,
    "glm-4.5-air": 106e9,
    "glm-4.6": 355e9,
    "mimo-7b": 7.83e9,
    "nemotron-h-56b": 56e9,
    "qwen3-next-80b-a3b": 80e9,
    "qwen3.5-27b": 27e9,
    "qwen3.5-35b-a3b": 35e9,
    "qwen3.5-9b": 9e9,
}


def published(name: str) -> dict:
    return json.loads((PRESETS / f"{name}.json").read_text())


def test_every_preset_is_checked():
    assert sorted([*EXACT, *ROUNDED, *WHOLE]) == preset_names()


@pytest.mark.parametrize("name", sorted(EXACT))
def test_parameters_exactly(name):
    model = load_model(name)
    assert counting.parameters(model) == EXACT[name] == model.parameters_published


@pytest.mark.parametrize("name", sorted(ROUNDED))
def test_parameters_as_rounded(name):
    model = load_model(name)
    assert counting.parameters(model) == pytest.approx(ROUNDED[name], rel=2e-3)
    assert model.parameters_published == pytest.approx(ROUNDED[name], rel=1e-4)


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_parameters_in_whole_billions(name):
    model = load_model(name)
    ways = (counting.parameters(model), counting.parameters(model) + counting.mtp_parameters(model))
    assert min(abs(way / WHOLE[name] - 1) for way in ways) < 0.01
    assert model.parameters_published == WHOLE[name]


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("mixtral-8x7b", 12.9),
        ("mixtral-8x22b", 39.2),
        ("qwen3-30b-a3b", 3.3),
        ("qwen3-235b-a22b", 22.2),
        ("llama-4-scout", 17.2),
        ("llama-4-maverick", 17.2),
        ("deepseek-v3", 37.6),
        ("kimi-k2", 32.9),
    ],
)
def test_active_parameters(name, billions):
    assert counting.active_parameters(load_model(name)) == pytest.approx(billions * 1e9, rel=0.02)


@pytest.mark.parametrize(
    ("name", "billions"), [("gpt-oss-20b", 3.61), ("gpt-oss-120b", 5.13), ("deepseek-v2-lite", 2.4)]
)
def test_active_parameters_without_embedding(name, billions):
    model = load_model(name)
    active = counting.active_parameters(model) - counting.embedding_parameters(model)
    assert active == pytest.approx(billions * 1e9, rel=0.025)


@pytest.mark.parametrize("name", preset_names())
def test_active_parameters_as_published(name):
    """Publishers count embedding and LM head or not; one of the ways has to give their figure."""
    model = load_model(name)
    active = counting.active_parameters(model)
    stated = published(name).get("_active_parameters_published")
    if stated is None:
        assert active == counting.parameters(model)
        return
    embedding = counting.embedding_parameters(model)
    ways = (active, active - embedding, active - 2 * embedding)
    rounding = 0.5e9 if stated % 1e9 == 0 and stated < 10e9 else 0.04 * stated
    assert min(abs(way - stated) for way in ways) < rounding


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("qwen3-0.6b", 0.44),
        ("qwen3-4b", 3.6),
        ("qwen3-8b", 6.95),
        ("qwen3-14b", 13.2),
        ("qwen3-32b", 31.2),
        ("qwen3-30b-a3b", 29.9),
        ("qwen3-235b-a22b", 234.0),
        ("qwen2.5-7b", 6.53),
        ("qwen2.5-72b", 70.0),
    ],
)
def test_parameters_without_embeddings(name, billions):
    """The model cards of Qwen state these too."""
    model = load_model(name)
    matrices = 1 if model.tied_embeddings else 2
    rest = counting.parameters(model) - matrices * counting.embedding_parameters(model)
    assert rest == pytest.approx(billions * 1e9, rel=0.02)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("llama-2-7b", 512 * 1024),
        ("llama-2-13b", 800 * 1024),
        ("llama-2-70b", 320 * 1024),
        ("llama-3.1-8b", 128 * 1024),
        ("llama-3.1-70b", 320 * 1024),
        ("llama-3.1-405b", 504 * 1024),
        ("qwen2.5-7b", 56 * 1024),
        ("qwen3-8b", 144 * 1024),
        ("qwen3-32b", 256 * 1024),
        ("mistral-7b", 128 * 1024),
        ("mixtral-8x7b", 128 * 1024),
        ("deepseek-v3", 70_272),
        ("deepseek-v2-lite", 27 * 576 * 2),
        ("kimi-k2", 70_272),
    ],
)
def test_kv_bytes_per_token(name, size):
    model = load_model(name)
    assert counting.kv_bytes_per_token(model, "bf16") == size
    assert counting.kv_bytes_per_token(model, "fp8") == size / 2


@pytest.mark.parametrize(
    ("name", "span", "tokens", "local", "full"),
    [
        ("mistral-7b", "window", 4096, 32, 0),
        ("gemma-2-9b", "window", 4096, 21, 21),
        ("gemma-3-12b", "window", 1024, 40, 8),
        ("gemma-3-27b", "window", 1024, 52, 10),
        ("gpt-oss-20b", "window", 128, 12, 12),
        ("gpt-oss-120b", "window", 128, 18, 18),
        ("llama-4-scout", "chunk", 8192, 36, 12),
        ("llama-4-maverick", "chunk", 8192, 36, 12),
        ("phi-3-mini", "window", 2047, 32, 0),
        ("phi-3-mini-128k", "full", 0, 0, 32),
        ("mistral-7b-v0.3", "full", 0, 0, 32),
        ("qwen2.5-7b", "full", 0, 0, 28),
    ],
)
def test_local_layers(name, span, tokens, local, full):
    model = load_model(name)
    counts = {"full": 0, span: 0}
    for group in model.groups:
        counts[group.span.kind] += group.count
        assert group.span.kind == "full" or (group.span.kind, group.span.tokens) == (span, tokens)
    assert counts["full"] == full
    assert span == "full" or counts[span] == local
    kv = counting.kv_bytes_per_rank(model, "bf16", Layout())
    assert kv.total * local == kv.local * model.layers
    assert kv.total * full == kv.full * model.layers


@pytest.mark.parametrize(("name", "gib"), [("gpt-oss-20b", 12.8), ("gpt-oss-120b", 60.8)])
def test_checkpoint_size_of_gpt_oss(name, gib):
    """The model card (arXiv:2508.10925, table 1) states it: experts in MXFP4, the rest bf16."""
    model = load_model(name)
    assert model.native_dtype == "fp4"
    assert counting.weight_bytes(model, "fp4") / 2**30 == pytest.approx(gib, abs=0.05)


def test_native_types():
    native = {name: load_model(name).native_dtype for name in preset_names()}
    assert {name for name, dtype in native.items() if dtype == "fp8"} == {
        "deepseek-r1",
        "deepseek-v3",
        "kimi-k2",
        "minimax-m2.5",
    }
    assert {name for name, dtype in native.items() if dtype == "fp16"} == {
        "llama-2-7b",
        "llama-2-13b",
        "llama-2-70b",
    }


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("llama-2-7b", 4096),
        ("llama-3.1-8b", 131_072),
        ("llama-4-scout", 10_485_760),
        ("qwen3-8b", 40_960),
        ("qwen3-235b-a22b-2507", 262_144),
        ("gemma-3-27b", 131_072),
        ("gpt-oss-120b", 131_072),
        ("deepseek-v3", 163_840),
        ("mixtral-8x22b", 65_536),
        ("kimi-k2", 131_072),
    ],
)
def test_longest_context(name, tokens):
    assert load_model(name).max_context == tokens


@pytest.mark.parametrize("name", preset_names())
def test_sources(name):
    preset, model = published(name), load_model(name)
    assert re.match(r"config\.json of https://huggingface\.co/[\w.-]+/[\w.-]+", model.source)
    assert preset["_aliases"][0] in model.source
    assert "assumed" not in model.source
    assert ("text decoder only" in model.source) == ("text_config" in preset)


def test_teachers_are_presets_and_larger_than_their_students():
    students = {name: load_model(name).distilled_from for name in preset_names()}
    students = {name: teacher for name, teacher in students.items() if teacher}
    assert students["deepseek-r1-distill-llama-8b"] == "deepseek-r1"
    assert len(students) >= 16
    for name, teacher in students.items():
        larger, smaller = load_model(teacher), load_model(name)
        assert counting.parameters(larger) > counting.parameters(smaller)
