"""The engine's tokens are those of Hugging Face's transformers on the same weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from simulator.scenario.policies import ContinuousPolicy, FullReservationPolicy, PrefillFirstPolicy
from simulator.workload.requests import Requests

from tests.engine_support import (  # isort: skip
    CPU,
    VOCAB,
    drawn,
    engine,
    greedy,
    limits,
    most_blocks,
    one_thread,  # noqa: F401
    pooled,
    replayed,
    sharing,
    some_requests,
    talks,
    torch,
)

transformers = pytest.importorskip("transformers")

from calibration.engine.weights import Checkpoint  # noqa: E402

SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.25,  # so that tokens depend on more than the one before them
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
MOE = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama3": ("Llama", {"rope_parameters": LLAMA3, "rms_norm_eps": 1e-3}),
    "llama-linear": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}},
    ),
    "llama-tied": ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "llama-wide-heads": ("Llama", {"head_dim": 24, "num_key_value_heads": 4}),
    "mistral-window": ("Mistral", {"sliding_window": 7, "head_dim": 12}),
    "qwen2": ("Qwen2", {"num_hidden_layers": 3}),
    "qwen2-window": (
        "Qwen2",
        {
            "num_hidden_layers": 3,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
        },
    ),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "mixtral": ("Mixtral", {"num_local_experts": 5, "num_experts_per_tok": 2}),
    "qwen3-moe": ("Qwen3Moe", MOE | {"norm_topk_prob": True, "head_dim": 16}),
    "qwen3-moe-unscaled": ("Qwen3Moe", MOE | {"norm_topk_prob": False, "head_dim": 8}),
    "qwen3-moe-some-dense": ("Qwen3Moe", MOE | {"mlp_only_layers": [0], "head_dim": 8}),
    "qwen2-moe": ("Qwen2Moe", MOE | {"shared_expert_intermediate_size": 40}),
}
"""Class, and what differs from ``SMALL``."""


class Reference:
    """A model of transformers with random weights, and the folder it is saved in."""

    def __init__(self, folder: Path, name: str) -> None:
        kind, changes = MODELS[name]
        self.folder = folder / name
        torch.manual_seed(len(name))
        config = getattr(transformers, f"{kind}Config")(**SMALL | changes)
        self.model = getattr(transformers, f"{kind}ForCausalLM")(config).float().eval()
        with torch.no_grad():
            for key, parameter in self.model.named_parameters():
                if parameter.ndim == 1:  # norms start as ones, biases as zeros
                    parameter.add_(torch.randn_like(parameter) * (0.8 if "bias" in key else 0.3))
        self.model.save_pretrained(self.folder)

    @torch.inference_mode()
    def check(self, texts: Any, requests: Requests) -> None:
        """Every answer is the greedy one: given all before it, each token is the likeliest."""
        lengths = requests.input_tokens.tolist()
        whole = [texts.slice(i, 0, p + len(texts.answers[i])) for i, p in enumerate(lengths)]
        longest = max(len(text) for text in whole)
        padded = torch.zeros(len(whole), longest, dtype=torch.int64)
        for row, text in zip(padded, whole, strict=True):
            row[: len(text)] = torch.from_numpy(text)
        logits = self.model(padded).logits  # what follows a text changes nothing in it
        for i, (prompt, answer) in enumerate(zip(lengths, texts.answers, strict=True)):
            assert greedy(logits[i], prompt, answer), f"request {i}"

    def served(self, requests: Requests, limit: Any, blocks: int = 200) -> Any:
        """Serves, checks all answers, and returns the simulator's record of the run."""
        run = engine(self.folder, limit, blocks, source=Checkpoint(self.folder, torch.float32, CPU))
        steps, texts = run.serve(requests)
        self.check(texts, requests)
        assert len({token for answer in texts.answers for token in answer}) > 5
        assert [len(answer) for answer in texts.answers] == requests.output_tokens.tolist()
        spans = [layer.span.tokens for layer in run.decoder.layers]
        return replayed(steps, requests, limit, blocks, max(spans))


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder, made = tmp_path_factory.mktemp("models"), {}

    def reference(name: str) -> Reference:
        if name not in made:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made[name] = Reference(folder, name)
        return made[name]

    return reference


# --- every kind of model ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_any_model(references, name) -> None:
    """Chunked prompts, shared beginnings, preemptions and steps planned ahead, all at once."""
    requests = sharing(11, 10, shared=19, output=16, gap=0.0)
    limit = limits(budget=16, block_size=4, ahead=True)
    record = references(name).served(requests, limit, most_blocks(requests, 4) + 8)
    assert record.preemptions.sum() > 0
    assert record.cached_tokens.sum() > 0
    assert (record.steps.prefill_tokens + record.steps.decode == 16).any()


@pytest.mark.parametrize("name", ["llama3", "mistral-window", "qwen3-moe"])
def test_the_same_as_generate(references, name) -> None:
    reference = references(name)
    requests = some_requests([(21, 30), (1, 30), (40, 12)])
    run = engine(
        reference.folder, limits(budget=16), source=Checkpoint(reference.folder, torch.float32, CPU)
    )
    _, texts = run.serve(requests)
    for index, (prompt, output) in enumerate([(21, 30), (1, 30), (40, 12)]):
        given = torch.from_numpy(texts.slice(index, 0, prompt)).unsqueeze(0)
        made = reference.model.generate(
            given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=output,
            do_sample=False,
            pad_token_id=0,
        )
        assert made[0, prompt:].tolist() == texts.answers[index]
    assert len({token for answer in texts.answers for token in answer}) > 5


# --- every kind of load ----------------------------------------------------------------------------

LOADS = {
    "plain": lambda: drawn(21),
    "shared": lambda: sharing(22),
    "conversations": lambda: talks(23),
    "unshared-conversations": lambda: talks(24, streams=False),
    "pool": lambda: pooled(25),
}


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("load", LOADS)
def test_any_load(references, load, ahead) -> None:
    requests = LOADS[load]()
    record = references("llama3").served(requests, limits(budget=24, block_size=8, ahead=ahead))
    found = record.cached_tokens.sum() > 0
    assert found == (load in ("shared", "conversations"))


@pytest.mark.parametrize("block_size", [1, 5, 16])
@pytest.mark.parametrize(
    "policy",
    [
        ContinuousPolicy(chunked_prefill=False),
        PrefillFirstPolicy(),
        FullReservationPolicy(),
        FullReservationPolicy(wait_steps=2, wait_fill=0.5),
    ],
    ids=lambda policy: f"{policy.kind}-{getattr(policy, 'wait_steps', '')}",
)
def test_any_policy(references, policy, block_size) -> None:
    requests = sharing(31, output=20, gap=0.0)
    limit = limits(policy, seqs=6, budget=64, block_size=block_size, ahead=True)
    blocks = most_blocks(requests, block_size) + 24 // block_size
    record = references("qwen2").served(requests, limit, blocks)
    if policy.kind == "continuous":
        assert record.preemptions.sum() > 0


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("name", ["mistral-window", "mixtral"])
def test_conversations_under_pressure(references, name, ahead) -> None:
    """Blocks are forgotten, found and taken away while answers are continued."""
    requests = talks(41, sessions=5, turns=3, pause=0.0)
    limit = limits(seqs=4, budget=12, block_size=3, ahead=ahead)
    record = references(name).served(requests, limit, most_blocks(requests, 3) + 4)
    assert record.preemptions.sum() > 0
    assert record.cached_tokens.sum() > 0
