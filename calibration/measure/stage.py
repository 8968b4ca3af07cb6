"""Steps of given shapes on a real engine, without requests and without a scheduler."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from calibration.engine.build import Engine, Formats
from calibration.engine.decoder import Runnable
from calibration.engine.step import FROM_LAST_STEP, Ints, PackedStep
from calibration.measure.rows import Row, chunks_text
from simulator.costs.protocol import Chunk
from simulator.deployment import Limits
from simulator.scenario.policies import ContinuousPolicy
from simulator.serving.kv_cache import KvLayout


class Shape:
    """A step: each decoding sequence's context (the new token included), and prompt chunks."""

    __slots__ = ("chunks", "contexts")

    def __init__(
        self, contexts: Sequence[int] = (), chunks: Sequence[tuple[int, int]] = ()
    ) -> None:
        self.contexts = tuple(contexts)
        self.chunks = tuple(Chunk(new, past) for new, past in chunks)

    @property
    def tokens(self) -> int:
        """Tokens of the step."""
        return len(self.contexts) + sum(chunk.new for chunk in self.chunks)

    def row(self, what: str, name: str, seconds: Sequence[float], **more: object) -> Row:
        """A measurement of this step."""
        return Row(
            what, name, *summary(seconds),
            decode=len(self.contexts), context=sum(self.contexts),
            chunks=chunks_text(self.chunks), sampled=len(self.contexts) + len(self.chunks),
            **more,  # type: ignore[arg-type]
        )  # fmt: skip


def summary(seconds: Sequence[float], *, least: bool = False) -> tuple[float, int, float]:
    """What a row keeps of several rounds: seconds, rounds, spread. The median stands for a machine
    as it usually is; ``least`` is for ceilings."""
    low, middle, high = np.quantile(seconds, (0.25, 0.5, 0.75))
    kept = float(min(seconds) if least else middle)
    return kept, len(seconds), round(float((high - low) / middle), 4)


def stage(
    decoder: Runnable,
    formats: Formats,
    device: torch.device,
    *,
    sequences: int,
    kv_tokens: int,
    longest: int,
    budget: int,
    block_size: int = 16,
    graphs: bool = False,
    seed: int = 0,
) -> Engine:
    """An engine of a model with random weights whose cache holds ``kv_tokens``."""
    limits = Limits(
        policy=ContinuousPolicy(),
        max_num_seqs=sequences,
        max_num_batched_tokens=budget,
        max_model_len=longest,
        block_size=block_size,
        prefix_caching=True,
        cuda_graphs=graphs,
        async_scheduling=device.type == "cuda",
    )
    layout = KvLayout(-(-kv_tokens // block_size), block_size)
    engine = Engine(decoder, limits, layout, formats, device, seed=seed)
    # Zeros are read faster: on a CPU they are one page of memory, on a GPU they switch no bits.
    generator = torch.Generator(device).manual_seed(seed)
    for stored in (cache for layer in engine.model.kv for cache in layer):
        for block in stored.split(4096):
            drawn = torch.randn(block.shape, generator=generator, device=device)
            block.copy_(drawn)
    return engine


def packed(engine: Engine, shape: Shape) -> PackedStep:
    """The step with every sequence in a seat and blocks of its own; blocks repeat from the
    beginning where the cache is too small, which changes nothing but what is read."""
    size, blocks = engine.limits.block_size, engine.layout.blocks
    stored = [*shape.contexts, *(new + past for new, past in shape.chunks)]
    need = [-(-tokens // size) for tokens in stored]
    seats = np.arange(len(stored))
    decode = len(shape.contexts)
    news = [new for new, _ in shape.chunks]
    positions = [np.asarray(shape.contexts, dtype=np.int64) - 1]
    positions += [np.arange(past, past + new) for new, past in shape.chunks]
    ends = decode + np.cumsum(news, dtype=np.int64) - 1
    text = np.arange(sum(news)) * 7919 % engine.decoder.spec.vocab
    return PackedStep(
        decode=decode,
        tokens=np.concatenate((np.full(decode, FROM_LAST_STEP), text)).astype(np.int64),
        seats=np.repeat(seats, [1] * decode + news),
        positions=np.concatenate(positions).astype(np.int64),
        chunk_seats=seats[decode:],
        starts=np.concatenate(([0], np.cumsum(news, dtype=np.int64))).astype(np.int64),
        lengths=np.asarray(stored[decode:], dtype=np.int64),
        sampled=np.concatenate((np.arange(decode), ends)).astype(np.int64),
        block_seats=np.repeat(seats, need),
        block_columns=_counted(need),
        block_numbers=np.arange(sum(need)) % blocks,
    )


def _counted(lengths: Sequence[int]) -> Ints:
    """0, 1, 2 … for each length, one behind the other."""
    return np.concatenate([np.arange(n, dtype=np.int64) for n in lengths])
