"""The two operators that look back: attention of decoding sequences and of prompt chunks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.costs.operators import Demand, Device, Shape, present, scaled
from simulator.hardware.forms import DecodeAttentionEfficiency, PrefillAttentionEfficiency
from simulator.workload.requests import Floats

Line = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class DecodeAttention:
    """Attention of decoding sequences in ``count`` layers.

    At a given number of sequences its time is piecewise linear in the context and never falls:
    corrections hold at their knots, multiples of the number of sequences, and beyond the last one
    the slope goes on.
    """

    name: str
    count: int
    heads: int
    kv_heads: int
    head_dim: float
    kv_bytes: float
    """Bytes of one token's keys and values in one layer."""
    query_bytes: float
    """Bytes of one sequence's queries and outputs in one layer."""
    flops_per_token: float
    efficiency: DecodeAttentionEfficiency
    device: Device
    peak: float
    local: bool
    launches: int = 1
    """Kernels of a layer."""
    shards: int = 1
    """Devices that share the context; bytes and FLOPs of a token are those of one device."""
    widening_s: float = 0.0
    """To bring one token's keys and values in one layer into the type of the products, where the
    coefficients were not measured with it; overlaps with reading them."""

    @property
    def knots(self) -> tuple[float, ...]:
        """Tokens a sequence at which the time may bend, from 0 on."""
        return (0.0, *(knot * self.shards for knot in self.efficiency.knots("tokens")))

    def seconds(self, sequences: Floats, context: Floats) -> Floats:
        """Duration in ``count`` layers; what is not there costs nothing."""
        bends = np.asarray(self.knots)
        numbers, row = np.unique(np.maximum(sequences, 1.0), return_inverse=True)
        row = row.reshape(np.shape(sequences))
        n = numbers[row]
        if len(bends) == 1:
            whole: Floats = self.count * self._at(n, context / n) * present(sequences)
            return whole
        # Where a table says that more context takes less time, it takes the same.
        at = np.maximum.accumulate(self._at(numbers[:, None], bends), axis=1)
        slopes = np.empty_like(at)
        slopes[:, :-1] = np.diff(at, axis=1) / np.diff(bends)
        slopes[:, -1] = self._tail(numbers)
        tokens = context / n
        low = np.clip(np.searchsorted(bends, tokens, side="right") - 1, 0, len(bends) - 1)
        line: Floats = at[row, low] + slopes[row, low] * (tokens - bends[low])
        return self.count * line * present(sequences)

    def tail(self, sequences: Floats) -> Floats:
        """Growth with each token more in the context beyond the last knot, seconds."""
        growth: Floats = self.count * self._tail(sequences) / sequences
        return growth

    def _at(self, n: Floats, tokens: Floats) -> Floats:
        """Corrected form of one layer, all sequences with so many tokens."""
        seconds = self.efficiency.seconds(
            n * self.kv_heads,
            n * self.query_bytes,
            n * tokens * self.kv_bytes,
            n * tokens * self._flops_per_token,
            self.device.bandwidth,
            self.peak,
            self._factor(n, tokens),
        )
        if self.widening_s:
            seconds = np.maximum(seconds, n * tokens * self.widening_s)
        return seconds

    @property
    def _flops_per_token(self) -> float:
        """With widening as the arithmetic that would take as long, if it takes longer."""
        return max(self.flops_per_token, self.widening_s * self.efficiency.compute * self.peak)

    def _factor(self, n: Floats, tokens: Floats | float) -> Floats | float:
        return self.efficiency.factor(
            units=n * self.kv_heads,
            tokens=tokens / self.shards,
            head_dim=self.head_dim,
            sharing=self.heads / self.kv_heads,
        )

    def _tail(self, n: Floats) -> Floats:
        """Of one layer, growth with a token more in every sequence: the form's slope with the last
        correction, not below the machine's."""
        e, bandwidth = self.efficiency, self.device.bandwidth
        stored, flops = self.kv_bytes / bandwidth, self._flops_per_token / self.peak
        form = max(stored / e.bandwidth, flops / e.compute)
        growth: Floats = n * np.maximum(
            form * self._factor(n, np.inf), max(stored, flops, self.widening_s)
        )
        return growth

    @property
    def kernels(self) -> int:
        """One a layer, unless attention is not one kernel."""
        return self.count * self.launches

    def demand(self, shape: Shape) -> Demand:
        """Time and work for each step."""
        n = shape.decode
        some = present(n)
        context = shape.local_context if self.local else shape.context
        moved = context * self.kv_bytes + n * self.query_bytes
        flops = context * self.flops_per_token
        e = self.efficiency
        seconds = self.seconds(n, context)
        latency = (e.overhead_s + e.per_unit_us * 1e-6 * n * self.kv_heads) * some
        return Demand(
            seconds=seconds,
            flops=self.count * flops,
            moved=self.count * moved,
            link=0.0 * flops,
            compute_s=np.minimum(
                self.count * context * self._flops_per_token / (e.compute * self.peak), seconds
            ),
            memory_s=np.minimum(
                self.count * moved / (e.bandwidth * self.device.bandwidth), seconds
            ),
            network_s=0.0 * flops,
            latency_s=np.minimum(self.count * latency, seconds),
        )


@dataclass(frozen=True, slots=True)
class PrefillAttention:
    """Attention of prompt chunks in ``count`` layers."""

    name: str
    count: int
    heads: int
    kv_heads: int
    head_dim: float
    kv_bytes: float
    query_bytes: float
    flops_per_pair: float
    past_bytes: float
    past_flops: float
    """To bring a token stored by an earlier step into the form that the kernel reads (MLA: its
    keys and values are computed from the latent once more)."""
    efficiency: PrefillAttentionEfficiency
    device: Device
    peak: float
    local: bool
    pair_bytes: float = 0.0
    """Bytes that each pair of query and key moves, where scores pass the memory."""
    launches: int = 1
    latent: bool = False

    @property
    def kernels(self) -> int:
        """One a layer; where keys and values are expanded from a latent, a dozen that split, copy
        and join their parts as well."""
        return self.count * (12 + self.launches if self.latent else self.launches)

    def demand(self, shape: Shape) -> Demand:
        """Time and work for each step."""
        some = present(shape.prefill)
        pairs = shape.local_pairs if self.local else shape.pairs
        read = shape.local_read if self.local else shape.read
        past = read - shape.prefill
        moved = shape.prefill * self.query_bytes + read * self.kv_bytes + past * self.past_bytes
        moved = moved + pairs * self.pair_bytes
        flops = pairs * self.flops_per_pair + past * self.past_flops
        e = self.efficiency
        factor = e.factor(
            reach=pairs / np.maximum(shape.prefill, 1.0),
            queries=shape.prefill * self.heads,
            head_dim=self.head_dim,
            sharing=self.heads / self.kv_heads,
        )
        seconds = e.seconds(
            moved, flops, self.head_dim, self.device.bandwidth, self.peak, factor
        ) * some  # fmt: skip
        share = 1 + e.half_head_dim / self.head_dim
        return scaled(
            self.count, seconds, flops, moved, 0.0 * flops,
            compute=flops / (e.compute * self.peak) * share,
            memory=moved / (e.bandwidth * self.device.bandwidth),
            latency=e.overhead_s * some,
        )  # fmt: skip

    def lines(self) -> tuple[Line, Line, Line]:
        """Seconds for ``count`` layers as (constant, per new token, per token read, per pair): the
        form, and what memory and arithmetic take at their peaks."""
        e = self.efficiency
        rate = self.count / self.peak
        memory = self.count / self.device.bandwidth
        past_read, past_made = self.past_bytes * memory, self.past_flops * rate
        share = (1 + e.half_head_dim / self.head_dim) / e.compute
        past = past_read / e.bandwidth + past_made * share
        return (
            (
                self.count * e.overhead_s,
                self.query_bytes * memory / e.bandwidth - past,
                self.kv_bytes * memory / e.bandwidth + past,
                self.flops_per_pair * rate * share + self.pair_bytes * memory / e.bandwidth,
            ),
            (
                0.0,
                self.query_bytes * memory - past_read,
                self.kv_bytes * memory + past_read,
                self.pair_bytes * memory,
            ),
            (0.0, -past_made, past_made, self.flops_per_pair * rate),
        )
