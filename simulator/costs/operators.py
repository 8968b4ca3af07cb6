"""What one decoder step consists of on one device, operator by operator.

Every operator says for arrays of steps how long it takes, how much it computes and how much it
moves. The efficiency forms (simulator.hardware.forms) turn that into seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from simulator.costs import routing
from simulator.hardware.forms import (
    CollectiveEfficiency,
    ElementwiseEfficiency,
    ExpertsEfficiency,
    MatmulEfficiency,
)
from simulator.scenario.base import Model
from simulator.workload.requests import Floats


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of steps, one array element a step. Shapes are (steps,).

    ``tokens`` pass the layers (padding included), ``sampled`` sequences need logits, ``decode``
    sequences attend to ``context`` tokens (``local_context`` in local layers), and prompt chunks
    have ``prefill`` tokens that read ``read`` (``local_read``) stored and new tokens in ``pairs``
    (``local_pairs``) pairs of query and key. ``chunks`` says how many prompt chunks there are.
    """

    tokens: Floats
    sampled: Floats
    decode: Floats
    context: Floats
    local_context: Floats
    prefill: Floats
    read: Floats
    local_read: Floats
    pairs: Floats
    local_pairs: Floats
    chunks: Floats


@dataclass(frozen=True, slots=True)
class Demand:
    """What an operator asks of a device, all its layers together. Shapes are (steps,).

    ``seconds`` is the prediction; ``compute_s``, ``memory_s`` and ``network_s`` are its parts
    before they overlap, ``latency_s`` what no throughput explains.
    """

    seconds: Floats
    flops: Floats
    moved: Floats
    link: Floats
    compute_s: Floats
    memory_s: Floats
    network_s: Floats
    latency_s: Floats


class Operator(Protocol):
    """One kind of work in a step."""

    @property
    def kernels(self) -> int:
        """How many kernels a step launches for it."""
        ...

    @property
    def efficiency(self) -> Model:
        """Its coefficients."""
        ...

    @property
    def name(self) -> str:
        """How reports call it."""
        ...

    def demand(self, shape: Shape) -> Demand:
        """Time and work for each step."""
        ...


@dataclass(frozen=True, slots=True)
class Device:
    """Peaks of one device: bytes/s, and FLOP/s of the type at hand comes with each operator."""

    bandwidth: float
    link: float | None


@dataclass(frozen=True, slots=True)
class Matmul:
    """``count`` products y[m, n] = x[m, k] · W; m is the number of tokens, or of sampled ones.

    ``density``: share of W's elements that are stored and multiplied.
    """

    name: str
    count: int
    n: int
    k: int
    weight_bytes: float
    input_bytes: float
    efficiency: MatmulEfficiency
    device: Device
    peak: float
    sampled: bool = False
    density: float = 1.0

    @property
    def widens(self) -> bool:
        """Whether weights are narrower than what they are multiplied with."""
        return self.weight_bytes < self.density * self.input_bytes

    @property
    def kernels(self) -> int:
        """The product, and where inputs are narrow the one that converts them."""
        return self.count * (2 if self.input_bytes < 2.0 else 1)

    def demand(self, shape: Shape) -> Demand:
        """Time and work for each step."""
        m = shape.sampled if self.sampled else shape.tokens
        some = present(m)
        flops, moved, converted = self._asked(m, some)
        efficiency, bandwidth = self.efficiency, self.device.bandwidth
        memory = moved / (efficiency.bandwidth * bandwidth)
        memory = memory + converted / ((efficiency.conversion or 1.0) * bandwidth)
        return scaled(
            self.count, self._each_s(m, some, flops, moved, converted), flops, moved, 0.0 * flops,
            compute=flops / (efficiency.compute * self.peak), memory=memory,
            latency=efficiency.overhead_s * some,
        )  # fmt: skip

    def duration(self, shape: Shape) -> Floats:
        """What ``demand`` has as ``seconds``, to the last bit, and nothing else."""
        m = shape.sampled if self.sampled else shape.tokens
        some = present(m)
        return self.count * self._each_s(m, some, *self._asked(m, some))

    def _asked(self, m: Floats, some: Floats) -> tuple[Floats, Floats, Floats]:
        """FLOPs, bytes, and bytes to convert inputs, of one product."""
        flops = 2.0 * self.density * m * self.n * self.k
        inputs = m * self.k * self.input_bytes
        outputs = m * self.n * max(2.0, self.input_bytes)
        moved = inputs + outputs + self.n * self.k * self.weight_bytes * some
        converted = m * self.k * (2.0 + self.input_bytes) if self.input_bytes < 2.0 else 0.0 * m
        return flops, moved, converted

    def _each_s(
        self, m: Floats, some: Floats, flops: Floats, moved: Floats, converted: Floats
    ) -> Floats:
        factor = self.efficiency.factor(m=m, n=self.n, k=self.k)
        bandwidth, peak = self.device.bandwidth, self.peak
        seconds = self.efficiency.seconds(moved, flops, converted, bandwidth, peak, factor)
        return seconds * some


@dataclass(frozen=True, slots=True)
class Experts:
    """Routed experts of ``count`` layers: each token takes ``top_k`` of ``experts``, each expert
    has ``matrices`` of ``width`` × ``hidden``. ``skew``: how many times as many tokens the most
    popular expert gets as the least (simulator.costs.routing)."""

    name: str
    count: int
    experts: int
    top_k: float
    hidden: int
    width: int
    matrices: int
    weight_bytes: float
    input_bytes: float
    skew: float
    efficiency: ExpertsEfficiency
    device: Device
    peak: float

    @property
    def widens(self) -> bool:
        """Whether weights are narrower than what they are multiplied with."""
        return self.weight_bytes < self.input_bytes

    @property
    def kernels(self) -> int:
        """Three to score and choose, three to sort by expert, a conversion, two products, and one
        to sum; the activation is part of a product."""
        return 10 * self.count

    def demand(self, shape: Shape) -> Demand:
        """Time and work for each step."""
        # Each number of tokens once: a run has many steps and few sizes.
        tokens, place = np.unique(shape.tokens, return_inverse=True)
        some = present(tokens)
        tokens = np.maximum(tokens, 1.0)
        load = routing.loads(tokens, self.experts, self.top_k, np.full(len(tokens), self.skew))
        reached = routing.drawn(load, tokens)
        moved, flops = self._work(tokens, self.experts * reached.mean(axis=1))
        seconds = routing.seconds(self._balanced(), load, reached, self.efficiency.tiling)
        seconds = np.maximum(seconds, np.maximum(moved / self.device.bandwidth, flops / self.peak))
        moved, flops, seconds = ((some * values)[place] for values in (moved, flops, seconds))
        return scaled(
            self.count, seconds, flops, moved, 0.0 * flops,
            compute=flops / (self.efficiency.compute * self.peak),
            memory=moved / (self.efficiency.bandwidth * self.device.bandwidth),
            latency=self.efficiency.overhead_s * some[place],
        )  # fmt: skip

    def _work(self, tokens: Floats, reached: Floats) -> tuple[Floats, Floats]:
        return routing.work(
            tokens, reached, top_k=self.top_k, hidden=self.hidden, width=self.width,
            matrices=self.matrices, weight_bytes=self.weight_bytes, input_bytes=self.input_bytes,
        )  # fmt: skip

    def _balanced(self) -> Callable[[Floats], Floats]:
        """Time of a layer whose experts all get the same, by interpolation of logarithms."""
        load = 2.0**_LOG_LOADS
        reached = self.experts * np.minimum(load, 1.0)
        moved, flops = self._work(load * self.experts / self.top_k, reached)
        factor = self.efficiency.factor(
            tokens_per_expert=load, experts=self.experts, hidden=self.hidden, width=self.width
        )
        seconds = self.efficiency.seconds(
            moved, flops, 0.0 * moved, self.device.bandwidth, self.peak, factor
        )
        logs = np.log2(seconds)
        return lambda at: 2.0 ** np.interp(np.log2(at), _LOG_LOADS, logs)


_LOG_LOADS = np.arange(-14.0, 20.0, 1 / 16)
"""Logarithms of tokens an expert between which time is interpolated."""


@dataclass(frozen=True, slots=True)
class Elementwise:
    """``count`` kernels that only move data: norms, rotation, activations, sampling."""

    name: str
    count: int
    bytes_per_token: float
    efficiency: ElementwiseEfficiency
    device: Device
    sampled: bool = False

    @property
    def kernels(self) -> int:
        """One a layer."""
        return self.count

    def demand(self, shape: Shape) -> Demand:
        """Time and work for each step."""
        m = shape.sampled if self.sampled else shape.tokens
        some = present(m)
        moved = m * self.bytes_per_token
        return scaled(
            self.count, self._each_s(moved, some), 0.0 * moved, moved, 0.0 * moved,
            memory=moved / (self.efficiency.bandwidth * self.device.bandwidth),
            latency=self.efficiency.overhead_s * some,
        )  # fmt: skip

    def duration(self, shape: Shape) -> Floats:
        """What ``demand`` has as ``seconds``, to the last bit, and nothing else."""
        m = shape.sampled if self.sampled else shape.tokens
        return self.count * self._each_s(m * self.bytes_per_token, present(m))

    def _each_s(self, moved: Floats, some: Floats) -> Floats:
        factor = self.efficiency.factor(moved=moved)
        return self.efficiency.seconds(moved, self.device.bandwidth, factor) * some


@dataclass(frozen=True, slots=True)
class Collective:
    """``count`` all-reduces or all-gathers of ``bytes_per_token`` over ``devices``."""

    name: str
    count: int
    bytes_per_token: float
    devices: int
    all_reduce: bool
    efficiency: CollectiveEfficiency
    device: Device
    sampled: bool = False

    @property
    def kernels(self) -> int:
        """One a layer."""
        return self.count

    def demand(self, shape: Shape) -> Demand:
        """Time and work for each step. A ring sends 2(g−1)/g of the message to reduce it
        everywhere and (g−1)/g to gather it (Thakur et al., 2005)."""
        assert self.device.link is not None
        m = shape.sampled if self.sampled else shape.tokens
        some = present(m)
        traffic, factor = self._sent(m)
        seconds = self.efficiency.seconds(self.devices, traffic, self.device.link, factor) * some
        nothing = self.efficiency.seconds(self.devices, 0.0 * traffic, self.device.link, factor)
        return scaled(
            self.count, seconds, 0.0 * traffic, 2.0 * m * self.bytes_per_token, traffic,
            network=seconds - nothing * some, latency=nothing * some,
        )  # fmt: skip

    def duration(self, shape: Shape) -> Floats:
        """What ``demand`` has as ``seconds``, to the last bit, and nothing else."""
        assert self.device.link is not None
        m = shape.sampled if self.sampled else shape.tokens
        traffic, factor = self._sent(m)
        seconds = self.efficiency.seconds(self.devices, traffic, self.device.link, factor)
        return self.count * (seconds * present(m))

    def _sent(self, m: Floats) -> tuple[Floats, Floats | float]:
        """Bytes over the link, and the correction for them."""
        passes = 2 if self.all_reduce else 1
        traffic = m * self.bytes_per_token * passes * (self.devices - 1) / self.devices
        return traffic, self.efficiency.factor(devices=self.devices, traffic=traffic)


def present(m: Floats) -> Floats:
    """1 where there is something to do, 0 where the kernel is not launched."""
    return (m > 0).astype(np.float64)


def scaled(
    count: int,
    seconds: Floats,
    flops: Floats,
    moved: Floats,
    link: Floats,
    *,
    compute: Floats | None = None,
    memory: Floats | None = None,
    network: Floats | None = None,
    latency: Floats,
) -> Demand:
    """For all layers; a form's parts are cut where a correction makes the whole shorter."""

    def part(value: Floats | None) -> Floats:
        zero = np.zeros_like(seconds)
        return zero if value is None else count * np.minimum(value, seconds)

    return Demand(
        seconds=count * seconds,
        flops=count * flops,
        moved=count * moved,
        link=count * link,
        compute_s=part(compute),
        memory_s=part(memory),
        network_s=part(network),
        latency_s=part(latency),
    )
