"""Operators on a GPU, one kind at a time: the same kernel for one layer after the other, so that
each finds its weights in memory and not in the cache, as one graph whose replays are timed.

Keys and values of a few short sequences stay in the cache all the same. What is timed is the device
alone: in a graph the host takes no part.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from calibration.engine.build import Engine
from calibration.engine.model import StepInputs
from calibration.engine.weights import DenseBlock, LayerWeights, MoeBlock
from calibration.measure.rows import Row, chunks_text
from calibration.measure.stage import Shape, packed, summary

LAYERS = 8
"""Layers that are enough to empty the cache between two calls for the same one."""

SEQUENCES, LONGEST, BUDGET = 256, 16384, 8192

_TOKENS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 2048, 4096, 8192)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_CONTEXTS = (64, 256, 1024, 2048, 4096, 8192, 16384)
_PROMPTS = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_LATER = ((64, 1024), (256, 1024), (512, 4096), (1024, 4096), (2048, 8192))
_SEVERAL = ((4, 128), (8, 256), (16, 128), (4, 1024))


class Timer(Protocol):
    """How long work takes on a device."""

    def seconds(self, work: Callable[[], object]) -> list[float]:
        """Of several rounds."""
        ...


class GraphTimer:
    """Replays of a graph, by events."""

    def __init__(self, rounds: int = 5, least_s: float = 2e-3) -> None:
        self.rounds, self.least_s = rounds, least_s

    def seconds(self, work: Callable[[], object]) -> list[float]:
        """Each round replays for at least ``least_s``."""
        work()  # compiles
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        once = self._replay(graph, 1)
        times = max(1, min(50, round(self.least_s / max(once, 1e-6))))
        return [self._replay(graph, times) for _ in range(self.rounds)]

    @staticmethod
    def _replay(graph: torch.cuda.CUDAGraph, times: int) -> float:
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        for _ in range(times):
            graph.replay()
        ended.record()
        ended.synchronize()
        return began.elapsed_time(ended) / 1e3 / times


class CallTimer:
    """Calls on a CPU, by this thread's computing time."""

    def __init__(self, rounds: int = 3) -> None:
        self.rounds = rounds

    def seconds(self, work: Callable[[], object]) -> list[float]:
        """Each round calls once."""
        work()
        taken = []
        for _ in range(self.rounds):
            start = time.thread_time()
            work()
            taken.append(time.thread_time() - start)
        return taken


class Call(NamedTuple):
    """An operator at a size: ``work`` runs it once for each layer; ``row`` makes the measurement
    of the seconds that one run takes."""

    name: str
    work: Callable[[], object]
    row: Callable[[str, tuple[float, int, float]], Row]
    calls: int


def operator_rows(
    engine: Engine, timer: Timer, labels: dict[str, str], progress: Callable[[int, int], None]
) -> Iterator[Row]:
    """Seconds of each operator, one kernel of it.

    Args:
        engine: of a model cut to ``LAYERS`` layers.
        timer: how to time.
        labels: model and number formats of the rows.
        progress: called with calls done and calls in all.
    """
    sizes = Sizes(engine)
    with torch.inference_mode():
        every = [*sizes.of_tokens(), *sizes.of_rows(), *sizes.of_attention()]
        for done, call in enumerate(every):
            seconds = timer.seconds(call.work)
            value, rounds, spread = summary(seconds)
            row = call.row(call.name, (value / call.calls, rounds, spread))
            yield replace(row, **labels)  # type: ignore[arg-type]
            progress(done + 1, len(every))


_OFTEN = 8
"""Calls of a short kernel in one graph, whose launch would take longer than one."""


def _often(work: Callable[[], object]) -> Callable[[], object]:
    def repeated() -> None:
        for _ in range(_OFTEN):
            work()

    return repeated


class Sizes:
    """All operators of a model at all sizes, as calls."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.model = engine, engine.model
        self.kernels = engine.model.kernels
        self.layers = engine.model.weights.layers
        self.dtype = engine.model.weights.embedding.dtype
        self.device = engine.device
        self.tokens = [t for t in _TOKENS if t <= engine.limits.max_num_batched_tokens]

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device).to(self.dtype)

    def _each(self, work: Callable[[int, LayerWeights], object]) -> Callable[[], object]:
        def all_layers() -> None:
            for number, layer in enumerate(self.layers):
                work(number, layer)

        return all_layers

    # --- by tokens of a step ---------------------------------------------------------------------

    def of_tokens(self) -> Iterator[Call]:
        """Products, norms, rotation, activation, experts, embedding."""
        for tokens in self.tokens:
            yield from self._of(tokens)

    def _of(self, tokens: int) -> Iterator[Call]:
        model, kernels, eps = self.model, self.kernels, self.model.decoder.eps
        hidden = model.decoder.spec.hidden

        def row(name: str, kept: tuple[float, int, float]) -> Row:
            return Row("operator", name, *kept, rows=tokens)

        def call(name: str, work: Callable[[int, LayerWeights], object]) -> Call:
            return Call(name, self._each(work), row, len(self.layers))

        x, residual = self._random(tokens, hidden), self._random(tokens, hidden)
        first = self.layers[0]
        qkv = kernels.linear(x, first.qkv)
        seen = self._random(tokens, model.heads * model.head_dim)
        yield call("qkv_proj", lambda _, w: kernels.linear(x, w.qkv))
        yield call("o_proj", lambda _, w: kernels.linear(seen, w.out))
        yield call("norm", lambda _, w: kernels.add_rms_norm(x, residual, w.before_mlp, eps))
        if first.q_norm is not None:
            yield call(
                "qk_norm",
                lambda _, w: kernels.qk_norm(
                    qkv, model.heads, model.kv_heads, w.q_norm, w.k_norm, eps
                ),
            )
        at = torch.arange(tokens, device=self.device)
        yield call(
            "rope_kv_write",
            lambda n, _: kernels.rope_kv_write(
                qkv, model.heads, model.kv_heads, model.cos_sin, at, at, *model.kv[n]
            ),
        )
        yield from self._mlp(tokens, x, call)
        known = at % len(model.weights.embedding)
        yield Call("embedding", _often(lambda: model.embed(known)), row, _OFTEN)

    def _mlp(
        self,
        tokens: int,
        x: Tensor,
        call: Callable[[str, Callable[[int, LayerWeights], object]], Call],
    ) -> Iterator[Call]:
        kernels, block = self.kernels, self.layers[0].mlp
        if isinstance(block, DenseBlock):
            wide = kernels.linear(x, block.gate_up)
            inner = kernels.silu_mul(wide)
            yield call("up_proj", lambda _, w: kernels.linear(x, w.mlp.gate_up))  # type: ignore[union-attr]
            yield call("activation", lambda _, w: kernels.silu_mul(wide))
            yield call("down_proj", lambda _, w: kernels.linear(inner, w.mlp.down))  # type: ignore[union-attr]
            return
        decoder = self.model.decoder
        mlp = decoder.layers[0].mlp
        assert mlp.kind == "moe"
        logits = self._random(tokens, mlp.experts)
        ids, shares = kernels.route(logits, mlp.top_k, renormalize=decoder.renormalize)
        yield call("router", lambda _, w: kernels.linear(x, w.mlp.router))  # type: ignore[union-attr]
        yield call(
            "router_topk",
            lambda _, w: kernels.route(logits, mlp.top_k, renormalize=decoder.renormalize),
        )

        def experts(_: int, w: LayerWeights) -> Tensor:
            assert isinstance(w.mlp, MoeBlock)
            return kernels.experts(x, ids, shares, w.mlp.experts)

        yield call("experts", experts)

    # --- by rows of logits -----------------------------------------------------------------------

    def of_rows(self) -> Iterator[Call]:
        """The LM head, and sampling."""
        model, executor = self.model, self.engine.executor
        for rows in (b for b in _BATCHES if b <= self.engine.limits.max_num_seqs):
            x = self._random(rows, model.decoder.spec.hidden)
            logits = model.logits(x)

            def row(name: str, kept: tuple[float, int, float], rows: int = rows) -> Row:
                return Row("operator", name, *kept, rows=rows, sampled=rows)

            def head(x: Tensor = x) -> Tensor:
                return model.logits(x)

            def sample(logits: Tensor = logits) -> Tensor:
                return self.kernels.sample(logits, executor.temperature, 0, executor.number)

            yield Call("lm_head", head, row, 1)
            yield Call("sampling", _often(sample), row, _OFTEN)

    # --- attention -------------------------------------------------------------------------------

    def of_attention(self) -> Iterator[Call]:
        """Of decoding sequences and of prompts, over the stored tokens of all layers in turn."""
        limits, room = self.engine.limits, self.engine.layout.blocks * self.engine.limits.block_size
        for batch in (b for b in _BATCHES if b <= limits.max_num_seqs):
            for context in (c for c in _CONTEXTS if c <= limits.max_model_len):
                if batch * context <= room:
                    yield self._attention("decode_attention", Shape([context] * batch))
        most = limits.max_num_batched_tokens
        prompts = [[(new, 0)] for new in _PROMPTS] + [[later] for later in _LATER]
        prompts += [[(new, 0)] * number for number, new in _SEVERAL]
        for chunks in prompts:
            tokens = sum(new for new, _ in chunks)
            ends = max(new + past for new, past in chunks)
            if tokens <= most and ends <= limits.max_model_len:
                yield self._attention("prefill_attention", Shape(chunks=chunks))

    def _attention(self, name: str, shape: Shape) -> Call:
        model = self.model
        inputs = self._inputs(shape)
        q = self._random(shape.tokens, model.heads, model.head_dim)

        def row(name: str, kept: tuple[float, int, float]) -> Row:
            return Row(
                "operator", name, *kept, rows=shape.tokens, decode=len(shape.contexts),
                context=sum(shape.contexts), chunks=chunks_text(shape.chunks),
                sampled=len(shape.contexts) + len(shape.chunks),
            )  # fmt: skip

        work = self._each(lambda n, _: model.look_back(n, q, inputs))
        return Call(name, work, row, len(self.layers))

    def _inputs(self, shape: Shape) -> StepInputs:
        step = packed(self.engine, shape)
        width = self.engine.executor.width
        tables = torch.zeros(len(shape.contexts) + len(shape.chunks), width, dtype=torch.int32)
        tables[torch.from_numpy(step.block_seats), torch.from_numpy(step.block_columns)] = (
            torch.from_numpy(step.block_numbers).int()
        )
        nothing = torch.zeros(0, dtype=torch.int64, device=self.device)
        lengths = torch.tensor([*shape.contexts, *step.lengths.tolist()], dtype=torch.int32)
        return StepInputs(
            decode=len(shape.contexts), tokens=nothing, positions=nothing, slots=nothing,
            tables=tables.to(self.device), lengths=lengths.to(self.device),
            starts=torch.from_numpy(step.starts).int().to(self.device), longest=step.longest,
            sampled=None,
        )  # fmt: skip
