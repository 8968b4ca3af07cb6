"""Runs planned steps on a device: the other side of the simulator's cost model."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from calibration.engine.model import Model, StepInputs
from calibration.engine.step import FROM_LAST_STEP, PADDING, Ints, PackedStep, lengths_of_parts

_IN_FLIGHT = 4
"""Staging buffers: more than the two steps that are ever under way at once."""


@dataclass(frozen=True, slots=True)
class Pending:
    """Tokens of a step that may still run. ``ready`` is None where nothing runs behind the
    host's back."""

    tokens: Tensor
    ready: torch.cuda.Event | None

    def wait(self) -> list[int]:
        """The tokens, in the order of the step's ``sampled``, once they are there."""
        if self.ready is not None:
            self.ready.synchronize()
        found: list[int] = self.tokens.tolist()
        return found


class Executor:
    """A model with what changes from step to step: block tables and each seat's last token.

    On a CUDA device steps are enqueued without waiting; those in which all sequences decode replay
    a graph of the next larger size in ``graph_sizes``.

    Args:
        model: the layers.
        seats: most sequences running at once.
        width: most blocks of a sequence.
        block_size: tokens a block.
        temperature: 0 takes the likeliest token.
        seed: of the draws.
        graph_sizes: ascending; empty for no graphs.
    """

    def __init__(
        self,
        model: Model,
        *,
        seats: int,
        width: int,
        block_size: int,
        temperature: float = 0.0,
        seed: int = 0,
        graph_sizes: tuple[int, ...] = (),
    ) -> None:
        self.model = model
        self.device = model.cos_sin.device
        self.block_size, self.width = block_size, width
        self.temperature, self.seed = temperature, seed
        self.nobody = seats  # a seat whose tables and token nobody reads
        self.tables = torch.zeros(seats + 1, width, dtype=torch.int32, device=self.device)
        self.last = torch.zeros(seats + 1, dtype=torch.int64, device=self.device)
        self.number = torch.zeros(1, dtype=torch.int64, device=self.device)
        on_gpu = self.device.type == "cuda"
        self.graph_sizes = tuple(s for s in graph_sizes if s <= seats) if on_gpu else ()
        self._graphs: dict[int, _Graph] = {}
        self._staging: list[Tensor] = []
        self._turn = 0

    @torch.inference_mode()
    def run(self, step: PackedStep) -> Pending:
        """Starts a step."""
        sizes, numbers = step.flat()
        return self.run_flat(sizes, self._to_device(numbers))

    @torch.inference_mode()
    def run_flat(self, sizes: Ints, numbers: Tensor) -> Pending:
        """Starts a step that is on the device already; see ``PackedStep.flat``."""
        parts = numbers.split(lengths_of_parts(sizes))
        tokens, seats, positions, *_, block_seats, block_columns, block_numbers = parts
        decode, size, chunks, _, blocks, longest = sizes.tolist()
        if blocks:
            self.tables[block_seats, block_columns] = block_numbers.int()
        if not chunks and self.graph_sizes and size <= self.graph_sizes[-1]:
            graph = self._graph(self.graph_sizes[bisect_left(self.graph_sizes, size)])
            return self._hand_over(graph.replay(seats, positions)[:size])
        chunk_seats, starts, lengths, sampled = parts[3:7]
        inputs = self._inputs(tokens, seats, positions, decode)
        if chunks:
            inputs = StepInputs(
                decode, inputs.tokens, inputs.positions, inputs.slots,
                tables=torch.cat((inputs.tables, self.tables[chunk_seats])),
                lengths=torch.cat((inputs.lengths, lengths.int())),
                starts=starts.int(), longest=longest, sampled=sampled,
            )  # fmt: skip
        return self._hand_over(self._forward(inputs, seats[sampled] if chunks else seats))

    def restart(self) -> None:
        """The next step draws as the first one did."""
        self.number.zero_()

    def capture(self) -> None:
        """Records all graphs."""
        for size in self.graph_sizes:
            self._graph(size)

    def state(self) -> tuple[Tensor, Tensor]:
        """What a step changes besides the cache, where running it again changes nothing more."""
        return self.last.clone(), self.number.clone()

    def restore(self, state: tuple[Tensor, Tensor]) -> None:
        """As if the steps since then had not been run."""
        for mine, before in zip((self.last, self.number), state, strict=True):
            mine.copy_(before)

    @torch.inference_mode()
    def warm_up(self, tokens: int) -> None:
        """Compiles, captures and touches what steps of up to ``tokens`` tokens need."""
        self.capture()
        if self.device.type == "cpu":
            self.model.warm_up_products(tokens)
        most = min(tokens, len(self.model.cos_sin))
        for new in sorted({1, min(2, most), min(17, most), most // 2 + 1, most}):
            self.run(_rehearsal(self.nobody, decode=0, new=new)).wait()
            self.run(_rehearsal(self.nobody, decode=3, new=new)).wait()
        for decode in (1, 2, 3, 16):
            self.run(_rehearsal(self.nobody, decode=min(decode, self.nobody), new=0)).wait()

    def _inputs(self, tokens: Tensor, seats: Tensor, positions: Tensor, decode: int) -> StepInputs:
        """Of a step in which all sequences decode; looks nothing up on the host."""
        size = self.block_size
        real = positions > PADDING
        at = positions.clamp_min(0)
        slots = self.tables[seats, at // size].long() * size + at % size
        return StepInputs(
            decode=decode,
            tokens=torch.where(tokens < 0, self.last[seats], tokens),
            positions=at,
            slots=torch.where(real, slots, -1),
            tables=self.tables[seats[:decode]],
            lengths=(positions[:decode] + 1).int(),
            starts=seats.new_zeros(1, dtype=torch.int32),
            longest=0,
            sampled=None,
        )

    def _forward(self, inputs: StepInputs, takers: Tensor) -> Tensor:
        """Computes the step and leaves its tokens where the next one finds them."""
        logits = self.model.forward(inputs)
        found = self.model.kernels.sample(logits, self.temperature, self.seed, self.number)
        self.last[takers] = found
        self.number += 1
        return found

    def _to_device(self, numbers: Ints) -> Tensor:
        host = torch.from_numpy(numbers)
        if self.device.type != "cuda":
            return host
        if not self._staging or self._staging[0].numel() < len(numbers):
            torch.cuda.synchronize(self.device)
            room = 2 * len(numbers)
            self._staging = [
                torch.empty(room, dtype=torch.int64, pin_memory=True) for _ in range(_IN_FLIGHT)
            ]
        self._turn = (self._turn + 1) % _IN_FLIGHT
        staged = self._staging[self._turn][: len(numbers)]
        staged.copy_(host)
        return staged.to(self.device, non_blocking=True)

    def _hand_over(self, found: Tensor) -> Pending:
        if self.device.type != "cuda":
            return Pending(found, None)
        copy = torch.empty(len(found), dtype=torch.int64, pin_memory=True)
        copy.copy_(found, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        return Pending(copy, ready)

    def _graph(self, size: int) -> _Graph:
        if size not in self._graphs:
            self._graphs[size] = _Graph(self, size)
        return self._graphs[size]


class _Graph:
    """Kernel launches of a step with ``size`` decoding sequences, recorded once."""

    def __init__(self, executor: Executor, size: int) -> None:
        device = executor.device
        self._seats = torch.full((size,), executor.nobody, dtype=torch.int64, device=device)
        self._positions = torch.full_like(self._seats, PADDING)
        self._nobody = executor.nobody
        # A recording keeps addresses, not tensors: what it reads has to live as long as it does.
        self._tokens = torch.full_like(self._seats, FROM_LAST_STEP)

        def compute() -> Tensor:
            inputs = executor._inputs(self._tokens, self._seats, self._positions, size)
            return executor._forward(inputs, self._seats)

        compute()  # what compiles or allocates for good does so outside the recording
        torch.cuda.synchronize(device)
        self._recording = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._recording):
            self._found = compute()

    def replay(self, seats: Tensor, positions: Tensor) -> Tensor:
        """Tokens, those of the padding last."""
        used = len(seats)
        self._seats[:used] = seats
        self._positions[:used] = positions
        if used < len(self._seats):
            self._seats[used:] = self._nobody
            self._positions[used:] = PADDING
        self._recording.replay()
        return self._found


def _rehearsal(seat: int, *, decode: int, new: int) -> PackedStep:
    """A step of nobody's: ``decode`` sequences and a prompt of ``new`` tokens, all in one seat."""

    def ints(*values: int) -> Ints:
        return np.array(values, dtype=np.int64)

    size = decode + new
    chunks = 1 if new else 0
    return PackedStep(
        decode=decode,
        tokens=np.zeros(size, dtype=np.int64),
        seats=np.full(size, seat, dtype=np.int64),
        positions=np.concatenate((np.zeros(decode, dtype=np.int64), np.arange(new))),
        chunk_seats=ints(*[seat] * chunks),
        starts=ints(0, *[new] * chunks),
        lengths=ints(*[new] * chunks),
        sampled=ints(*range(decode), *[size - 1] * chunks),
        block_seats=ints(), block_columns=ints(), block_numbers=ints(),
    )  # fmt: skip
