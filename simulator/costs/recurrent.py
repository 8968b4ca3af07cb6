"""The two operators of recurrent layers: a token of each decoding sequence, and prompt chunks.

Neither depends on the context: a sequence's past is its state, of fixed size. So decoding with
``n`` sequences takes the same time in every step of a leap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from simulator.costs.operators import Demand, Device, Shape, present, scaled
from simulator.hardware.efficiency import Efficiency, RecurrentKind
from simulator.hardware.forms import ScanEfficiency, UpdateEfficiency
from simulator.models.recurrent import Recurrent, conv_elements, state_elements
from simulator.workload.requests import Floats

SCAN_CHUNK = 64
"""Tokens that kernels of recurrent layers take at once from a prompt (flash-linear-attention)."""


@dataclass(frozen=True, slots=True)
class RecurrentUpdate:
    """One token of each decoding sequence in ``count`` layers.

    Decode attention's interface, at a constant time for a number of sequences.
    """

    name: str
    count: int
    sequence_bytes: float
    """Of one sequence in one layer: its state read and written, inputs and results."""
    weight_bytes: float
    sequence_flops: float
    efficiency: UpdateEfficiency
    device: Device
    peak: float
    local: bool = False

    @property
    def knots(self) -> tuple[float, ...]:
        """Tokens a sequence at which the time may bend: nowhere."""
        return (0.0,)

    @property
    def kernels(self) -> int:
        """One a layer."""
        return self.count

    def seconds(self, sequences: Floats, context: Floats) -> Floats:
        """Duration in ``count`` layers, whatever the context."""
        moved = sequences * self.sequence_bytes + self.weight_bytes
        seconds = self.efficiency.seconds(
            moved,
            sequences * self.sequence_flops,
            self.device.bandwidth,
            self.peak,
            self.efficiency.factor(moved=moved),
        )
        whole: Floats = self.count * seconds * present(sequences) + 0.0 * context
        return whole

    def tail(self, sequences: Floats) -> Floats:
        """Growth with each token more in the context: none."""
        return 0.0 * sequences

    def demand(self, shape: Shape) -> Demand:
        """Time and work for each step."""
        some = present(shape.decode)
        moved = shape.decode * self.sequence_bytes + self.weight_bytes * some
        flops = shape.decode * self.sequence_flops
        return scaled(
            self.count,
            self.seconds(shape.decode, shape.context) / self.count, flops, moved, 0.0 * flops,
            compute=flops / self.peak,
            memory=moved / (self.efficiency.bandwidth * self.device.bandwidth),
            latency=self.efficiency.overhead_s * some,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class RecurrentScan:
    """Prompt chunks in ``count`` layers; ``heads`` have a state of their own."""

    name: str
    count: int
    kernels_a_layer: int
    heads: int
    token_bytes: float
    sequence_bytes: float
    """Of one prompt chunk in one layer: the state read and written."""
    weight_bytes: float
    token_flops: float
    efficiency: ScanEfficiency
    device: Device
    peak: float

    @property
    def kernels(self) -> int:
        """As many as the chunked form of the recurrence has."""
        return self.count * self.kernels_a_layer

    def seconds(self, tokens: Floats, chunks: Floats) -> Floats:
        """Duration in ``count`` layers of ``chunks`` prompt chunks with ``tokens`` in all, which
        count as equally long."""
        some = present(tokens)
        length = tokens / np.maximum(chunks, 1.0)
        moved = self._moved(tokens, chunks, some)
        factor = self.efficiency.factor(
            length=np.maximum(length, 1.0),
            units=np.maximum(chunks, 1.0) * self.heads,
            moved=np.maximum(moved, 1.0),
        )
        seconds = self.efficiency.seconds(
            moved, tokens * self.token_flops, length, self.device.bandwidth, self.peak, factor
        )
        whole: Floats = self.count * seconds * some
        return whole

    def _moved(self, tokens: Floats, chunks: Floats, some: Floats) -> Floats:
        return tokens * self.token_bytes + chunks * self.sequence_bytes + self.weight_bytes * some

    def demand(self, shape: Shape) -> Demand:
        """Time and work for each step."""
        some = present(shape.prefill)
        moved = self._moved(shape.prefill, shape.chunks, some)
        flops = shape.prefill * self.token_flops
        e = self.efficiency
        return scaled(
            self.count,
            self.seconds(shape.prefill, shape.chunks) / self.count, flops, moved, 0.0 * flops,
            compute=flops / (e.compute * self.peak),
            memory=moved / (e.bandwidth * self.device.bandwidth),
            latency=e.overhead_s * some,
        )  # fmt: skip


def state_operators(
    layer: Recurrent,
    count: int,
    efficiency: Efficiency,
    device: Device,
    peak: float,
    *,
    activation_bytes: float,
    state_bytes: float,
) -> Iterator[RecurrentUpdate | RecurrentScan]:
    """The convolution and the state of ``count`` layers, for single tokens and for prompt chunks.

    Args:
        layer: what one device has of it.
        peak: FLOP/s of products in the activations' type.
        activation_bytes, state_bytes: of an element.
    """
    window = 2.0 * layer.channels * layer.conv_kernel
    parts: list[tuple[str, RecurrentKind, float, float, float, float, float]] = [
        (
            "convolution", "conv", conv_elements(layer) * 2.0,
            2 * layer.channels * activation_bytes, window, window, window,
        )
    ]  # fmt: skip
    if layer.kind != "conv":
        parts.append((
            "recurrent_state", layer.kind, state_elements(layer) * state_bytes,
            layer.io_elements * activation_bytes, 0.0,
            layer.update_flops, layer.scan_flops(SCAN_CHUNK),
        ))  # fmt: skip
    for name, kind, kept, token, weights, updated, scanned in parts:
        yield RecurrentUpdate(
            f"{name}_update", count, 2 * kept + token, weights, updated,
            efficiency.update_for(kind), device, peak,
        )  # fmt: skip
        yield RecurrentScan(
            f"{name}_scan", count, 1 if kind == "conv" else 6, layer.heads,
            token_bytes=token, sequence_bytes=2 * kept, weight_bytes=weights,
            token_flops=scanned, efficiency=efficiency.scan_for(kind), device=device, peak=peak,
        )  # fmt: skip


class PromptScans:
    """Recurrent layers of a step's prompt chunks, one step at a time."""

    def __init__(self, operators: list[RecurrentScan]) -> None:
        self._operators = operators
        self._known: dict[tuple[int, int], float] = {}

    @classmethod
    def of(cls, operators: list[RecurrentScan]) -> PromptScans | None:
        """None if there are no such layers."""
        return cls(operators) if operators else None

    def seconds(self, tokens: int, chunks: int) -> float:
        """Duration of ``chunks`` prompt chunks with ``tokens`` in all."""
        found = self._known.get((tokens, chunks))
        if found is None:
            at = np.array([float(tokens)]), np.array([float(chunks)])
            found = float(sum(op.seconds(*at)[0] for op in self._operators))
            self._known[tokens, chunks] = found
        return found
