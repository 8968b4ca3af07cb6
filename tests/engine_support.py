"""Tiny models for the engine, awkward workloads for it, and the simulator on its durations."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from simulator.cluster import run_cluster
from simulator.costs.protocol import Chunk
from simulator.deployment import Limits
from simulator.scenario.policies import ContinuousPolicy, Policy
from simulator.serving.kv_cache import KvLayout
from simulator.workload.requests import OPEN_LOOP, ROOT, PrefixStreams, Requests

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from calibration.engine.build import Engine, Formats  # noqa: E402
from calibration.engine.decoder import load_runnable  # noqa: E402
from calibration.engine.model import Model, StepInputs  # noqa: E402
from calibration.engine.serve import DoneStep  # noqa: E402

CPU = torch.device("cpu")
FP32 = Formats(torch.float32, None, torch.float32)
VOCAB = 199


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """Tiny products are fastest on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- models --------------------------------------------------------------------------------------

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": 4096,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000.0,
    "tie_word_embeddings": False,
}
MIXTRAL = LLAMA | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
QWEN2_MOE = LLAMA | {
    "model_type": "qwen2_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
    "norm_topk_prob": False,
}


def written(folder: Path, config: dict[str, Any] = LLAMA, **changes: Any) -> Path:
    """A folder with nothing but a config.json, for random weights."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


# --- engines -------------------------------------------------------------------------------------


def limits(
    policy: Policy | None = None,
    *,
    seqs: int = 8,
    budget: int = 64,
    longest: int = 512,
    block_size: int = 4,
    prefix_caching: bool = True,
    ahead: bool = False,
) -> Limits:
    return Limits(
        policy=policy or ContinuousPolicy(),
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        max_model_len=longest,
        block_size=block_size,
        prefix_caching=prefix_caching,
        cuda_graphs=False,
        async_scheduling=ahead,
    )


def engine(
    folder: Path,
    limit: Limits | None = None,
    blocks: int = 200,
    formats: Formats = FP32,
    **options: Any,
) -> Engine:
    """Of a folder; random weights unless there is a ``source`` among the options."""
    limit = limit or limits()
    layout = KvLayout(blocks, limit.block_size)
    return Engine(load_runnable(str(folder)), limit, layout, formats, CPU, **options)


@torch.inference_mode()
def plain_logits(of: Model, tokens: list[int], kv_type: torch.dtype = torch.float32) -> Any:
    """Of all tokens of one text, with the model's weights, in one chunk on a fresh cache."""
    n = len(tokens)
    kv = [
        tuple(torch.zeros(1, n, of.kv_heads, of.head_dim, dtype=kv_type) for _ in "kv")
        for _ in of.decoder.layers
    ]
    model = Model(of.decoder, of.weights, of.kernels, of.ranks, kv, n)
    at = torch.arange(n)
    whole = torch.tensor([0, n], dtype=torch.int32)
    return model.forward(
        StepInputs(
            decode=0, tokens=torch.tensor(tokens), positions=at, slots=at,
            tables=torch.zeros(1, 1, dtype=torch.int32), lengths=whole[1:], starts=whole, longest=n,
            sampled=None,
        )
    )  # fmt: skip


def greedy(logits: Any, prompt: int, answer: list[int]) -> bool:
    """Whether every token of an answer has the largest logit at its place, or one as large as
    float32 can tell. ``logits`` are those of prompt and answer."""
    before = logits[prompt - 1 : prompt - 1 + len(answer)].float()
    taken = before.gather(1, torch.tensor(answer).unsqueeze(1)).squeeze(1)
    return bool((before.amax(1) - taken <= 1e-4).all())


# --- the simulator on the engine's durations -------------------------------------------------------


class Replay:
    """A cost model that gives back the durations of steps that ran, and checks that it is asked
    about the same steps."""

    local_is_chunked = False

    def __init__(self, steps: list[DoneStep], span: int) -> None:
        self.local_span, self._steps, self.at = span, steps, 0

    def _next(self, *asked: Any) -> float:
        done = self._steps[self.at]
        ran = (done.decode, done.context, done.local_context, done.chunks, done.sampled)
        assert asked == ran, f"step {self.at}: the simulator asked for {asked}, but {ran} ran"
        self.at += 1
        return done.seconds

    def decode(
        self, sequences: int, context: int, local: int, growth: int
    ) -> tuple[float, float, int]:
        del growth
        return self._next(sequences, context, local, (), sequences), 0.0, 1

    def step(
        self, sequences: int, context: int, local: int, chunks: list[Chunk], sampled: int
    ) -> float:
        return self._next(sequences, context, local, tuple(chunks), sampled)


def replayed(
    steps: list[DoneStep], requests: Requests, limit: Limits, blocks: int, span: int = 0
) -> Any:
    """The simulator's record of the same run."""
    cost = Replay(steps, span)
    record = run_cluster(requests, limit, blocks, cost)
    assert cost.at == len(steps), f"{len(steps)} steps ran, the simulator needed {cost.at}"
    return record


# --- workloads -----------------------------------------------------------------------------------


def ints(values: Any) -> Any:
    return np.array(list(values), dtype=np.int64)


def some_requests(
    lengths: list[tuple[int, int]],
    *,
    at: list[float] | None = None,
    parent: list[int] | None = None,
    pool: list[int] | None = None,
    users: tuple[int, ...] = (),
    texts: list[list[tuple[int, int]]] | None = None,
    continues: list[bool] | None = None,
) -> Requests:
    """(prompt, output) each, all at once unless ``at`` says when; ``texts``: (stream, end)."""
    n = len(lengths)
    prefixes = None
    if texts is not None:
        prefixes = PrefixStreams(
            offsets=ints([0, *np.cumsum([len(text) for text in texts])]),
            stream=ints(stream for text in texts for stream, _ in text),
            end=ints(end for text in texts for _, end in text),
            continues=np.array(continues or [False] * n),
        )
    made = Requests(
        arrival_s=np.array(at or [0.0] * n),
        input_tokens=ints(prompt for prompt, _ in lengths),
        output_tokens=ints(output for _, output in lengths),
        class_id=ints([0] * n),
        parent=ints(parent or [ROOT] * n),
        pool=ints(pool or [OPEN_LOOP] * n),
        session=ints([-1] * n),
        pool_concurrency=users,
        prefixes=prefixes,
    )
    made.check_integrity()
    return made


def drawn(
    seed: int, n: int = 12, *, prompt: int = 40, output: int = 12, gap: float = 2e-3
) -> Requests:
    """Requests with texts of their own."""
    rng = np.random.default_rng(seed)
    lengths = [(int(rng.integers(1, prompt)), int(rng.integers(1, output))) for _ in range(n)]
    return some_requests(lengths, at=np.cumsum(rng.exponential(gap, n)).tolist())


def sharing(
    seed: int, n: int = 12, *, shared: int = 17, output: int = 12, gap: float = 2e-3
) -> Requests:
    """Requests that begin with one of two texts."""
    rng = np.random.default_rng(seed)
    texts = [[(i % 2, shared), (10 + i, shared + int(rng.integers(1, 20)))] for i in range(n)]
    lengths = [(text[-1][1], int(rng.integers(1, output))) for text in texts]
    return some_requests(lengths, at=np.cumsum(rng.exponential(gap, n)).tolist(), texts=texts)


def talks(
    seed: int,
    sessions: int = 3,
    turns: int = 4,
    *,
    system: int = 9,
    pause: float = 1e-3,
    streams: bool = True,
) -> Requests:
    """Conversations: each prompt is all that was said before, and a new message."""
    rng = np.random.default_rng(seed)
    lengths, at, parent, texts = [], [], [], []
    for session in range(sessions):
        said = system
        for turn in range(turns):
            prompt, output = said + int(rng.integers(1, 14)), int(rng.integers(1, 10))
            lengths.append((prompt, output))
            at.append(float(rng.choice([0.0, pause])) if turn else session * pause)
            parent.append(len(parent) - 1 if turn else ROOT)
            texts.append([(0, system), (1 + session, prompt)])
            said = prompt + output
    n = len(lengths)
    return some_requests(
        lengths, at=at, parent=parent, texts=texts if streams else None, continues=[True] * n
    )


def pooled(seed: int, n: int = 12, users: tuple[int, ...] = (3,), *, output: int = 12) -> Requests:
    """A closed loop whose users think for a moment, or not at all."""
    rng = np.random.default_rng(seed)
    lengths = [(int(rng.integers(1, 40)), int(rng.integers(1, output))) for _ in range(n)]
    think = [float(rng.choice([0.0, 0.0, 1e-3])) for _ in range(n)]
    return some_requests(lengths, at=think, pool=[i % len(users) for i in range(n)], users=users)


@st.composite
def workloads(draw: st.DrawFn, most: int = 10) -> Requests:
    """Texts of one's own, shared beginnings, conversations (of which some share a beginning), closed
    loops; no stream is told by two answers at once."""
    kind = draw(st.sampled_from(["own", "shared", "talks", "pool"]))
    n = draw(st.integers(1, most))
    longest = draw(st.sampled_from([6, 40]))
    if kind == "talks":
        turns = draw(st.integers(1, 4))
        return talks(
            draw(st.integers(0, 999)), max(1, n // turns), turns,
            system=draw(st.integers(1, longest)), pause=draw(st.sampled_from([0.0, 1e-3])),
        )  # fmt: skip
    lengths = [(draw(st.integers(1, longest)), draw(st.integers(1, 14))) for _ in range(n)]
    at = sorted(draw(st.sampled_from([0.0, 1e-4, 2e-3, 5e-3])) for _ in range(n))
    if kind == "own":
        return some_requests(lengths, at=at)
    if kind == "pool":
        return some_requests(lengths, pool=[0] * n, users=(draw(st.integers(1, 4)),))
    texts, root = [], draw(st.integers(1, 12))
    for i, (prompt, _) in enumerate(lengths):
        text = [(0, min(root, prompt))]
        if prompt > root and draw(st.booleans()):
            text.append((1 + draw(st.integers(0, 1)), min(root + 9, prompt)))
        if text[-1][1] < prompt and draw(st.booleans()):
            text.append((10 + i, prompt))
        texts.append(text)
    own = [text[-1][0] >= 10 for text in texts]
    return some_requests(lengths, at=at, texts=texts, continues=own)


def most_blocks(requests: Requests, block_size: int) -> int:
    """Blocks of the largest request."""
    most = int((requests.input_tokens + requests.output_tokens - 1).max())
    return math.ceil(most / block_size)
