"""Context parallelism: ranks that share the tokens of prompts and the KV cache.

- Each rank keeps every n-th token's keys and values, and all weights.
- In a step the tokens are dealt out evenly, so products, norms and sums over tensor-parallel
  devices see an n-th of them. Chunks are dealt so that every rank has the same share of the
  (query, key) pairs (the zigzag of Llama 3's context parallelism, arXiv:2407.21783, section 3.3.2).
- Prompt chunks: keys and values go round in a ring, and while a rank computes with one part it
  receives the next (ring attention, arXiv:2310.01889).
- Decoding: every rank gets the queries of all sequences, computes attention over its own part of
  the cache, and sends results with their log-sum-exp to the sequence's rank, which merges them
  (as split-KV kernels do within a device; arXiv:2411.01783, section 3.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from simulator.costs.attention import DecodeAttention, PrefillAttention
from simulator.costs.exchange import NodeCollective
from simulator.costs.links import NETWORK_SHARE, Group, Network
from simulator.costs.operators import Collective, Demand, Operator, Shape
from simulator.costs.stretches import PromptAttention, PromptRates
from simulator.hardware.forms import CollectiveEfficiency
from simulator.workload.requests import Floats


@dataclass(frozen=True, slots=True)
class Ring:
    """Neighbours that pass keys and values on: seconds before the first byte, bytes/s of the
    slowest link that the ring passes."""

    ranks: int
    latency_s: float
    bytes_per_s: float

    @classmethod
    def of(
        cls,
        group: Group,
        efficiency: CollectiveEfficiency,
        link: float | None,
        network: Network | None,
    ) -> Ring:
        """The ring over a group. Within a node a message takes the latency of a collective."""
        latency, rate = efficiency.latency_us * 1e-6, efficiency.bandwidth * (link or 0.0)
        if group.nodes > 1:
            assert network is not None
            between = NETWORK_SHARE * network.bytes_per_s
            latency, rate = network.latency_s, min(rate, between) if group.per_node > 1 else between
        return cls(group.members, latency, rate)

    def seconds(self, computing: Floats, sent: Floats) -> Floats:
        """Of a layer that computes so long on its ``ranks`` parts in turn, while all but the first
        of them arrive; ``sent``: bytes of one part."""
        passing = self.latency_s + sent / self.bytes_per_s
        each = computing / self.ranks
        taken: Floats = each + (self.ranks - 1) * np.maximum(each, passing)
        return taken


@dataclass(frozen=True, slots=True, kw_only=True)
class RingAttention(PrefillAttention):
    """Attention of prompt chunks in ``count`` layers whose keys and values go round."""

    ring: Ring
    sent_bytes: float
    """Of one token's keys and values in one layer, as they are stored."""

    def demand(self, shape: Shape) -> Demand:
        """Time and work of one rank; the shape holds its tokens and pairs, but all that is read."""
        alone = PrefillAttention.demand(self, shape)
        sent = shape.read * self.sent_bytes / self.ring.ranks
        passes = (self.ring.ranks - 1) * (shape.prefill > 0)
        seconds = self.count * self.ring.seconds(alone.seconds / self.count, sent)
        network = self.count * passes * (self.ring.latency_s + sent / self.ring.bytes_per_s)
        return replace(
            alone,
            seconds=seconds * (shape.prefill > 0),
            link=self.count * passes * sent,
            network_s=np.minimum(network, seconds),
        )


class RingPrompts(PromptAttention):
    """Attention of a step's prompt chunks on one of the ring's ranks, one step at a time."""

    def __init__(self, operators: Sequence[RingAttention]) -> None:
        self._rings = [
            (PromptAttention([op]), op.count, op.sent_bytes, op.ring) for op in operators
        ]

    def seconds(self, new: float, read: float, pairs: float) -> float:
        """Duration for ``new`` tokens in all, as ``PromptAttention.seconds``."""
        total = 0.0
        for alone, count, sent_bytes, ring in self._rings:
            ranks = ring.ranks
            each = alone.seconds(new / ranks, read, pairs / ranks) / count / ranks
            passing = ring.latency_s + read * sent_bytes / ranks / ring.bytes_per_s
            total += count * (each + (ranks - 1) * max(each, passing))
        return total

    def rates(self) -> PromptRates:
        """See ``PromptAttention.rates``: as if parts of the ring arrived at once."""
        fixed, new, past, read, pair = 0.0, *np.zeros((4, 3))
        for alone, _, _, ring in self._rings:
            own = alone.rates()
            fixed += own.fixed
            new, pair = new + own.new / ring.ranks, pair + own.pair / ring.ranks
            past, read = past + own.past, read + own.read
        return PromptRates(fixed, new, past, read, pair)


@dataclass(frozen=True, slots=True)
class ContextExchange:
    """Queries of decoding sequences go to all ranks, results come back, in ``count`` layers. Has
    decode attention's interface; the context does not matter."""

    name: str
    parts: tuple[Collective | NodeCollective, ...]
    local: bool = False

    @property
    def knots(self) -> tuple[float, ...]:
        """Tokens a sequence at which the time may bend: nowhere."""
        return (0.0,)

    @property
    def kernels(self) -> int:
        """Of all layers: the two exchanges, and the merge."""
        return sum(part.count for part in self.parts) + self.parts[0].count

    @property
    def efficiency(self) -> CollectiveEfficiency:
        """Coefficients of the exchanges."""
        return self.parts[0].efficiency

    def seconds(self, sequences: Floats, context: Floats) -> Floats:
        """Duration in all layers, whatever the context."""
        shape = _only(sequences, tokens=True)
        taken: Floats = sum((part.demand(shape).seconds for part in self.parts), 0.0 * context)
        return taken

    def tail(self, sequences: Floats) -> Floats:
        """Growth with each token more in the context: none."""
        return 0.0 * sequences

    def demand(self, shape: Shape) -> Demand:
        """Time and work for each step."""
        found = [part.demand(replace(shape, tokens=shape.decode)) for part in self.parts]
        return Demand(
            **{field.name: sum(getattr(one, field.name) for one in found)
               for field in fields(Demand)}
        )  # fmt: skip


def _only(size: Floats, *, tokens: bool) -> Shape:
    nothing = 0.0 * size
    names = (field.name for field in fields(Shape))
    return Shape(**{name: size if tokens and name == "tokens" else nothing for name in names})


def over_context(
    operators: Sequence[Operator],
    group: Group,
    network: Network | None,
    efficiency: CollectiveEfficiency,
) -> Iterator[Operator]:
    """The operators of one rank of the ``group``; attention of both kinds over its part."""
    sent_bytes = 0.0
    for op in operators:
        if isinstance(op, DecodeAttention):
            sent_bytes = op.kv_bytes
            yield replace(
                op, kv_bytes=op.kv_bytes / group.members,
                flops_per_token=op.flops_per_token / group.members, shards=group.members,
                widening_s=op.widening_s / group.members,
            )  # fmt: skip
            yield _exchange(op, group, network, efficiency)
        elif isinstance(op, PrefillAttention):
            ring = Ring.of(group, efficiency, op.device.link, network)
            same = {field.name: getattr(op, field.name) for field in fields(op)}
            yield RingAttention(**same, ring=ring, sent_bytes=sent_bytes)
        else:
            yield op


def _exchange(
    op: DecodeAttention, group: Group, network: Network | None, efficiency: CollectiveEfficiency
) -> ContextExchange:
    """Queries one way, results and a log-sum-exp of four bytes a head the other way."""
    parts: list[Collective | NodeCollective] = []
    for size in (op.query_bytes / 2, op.query_bytes / 2 + 4.0 * op.heads):
        if group.nodes > 1:
            assert network is not None
            parts.append(
                NodeCollective(
                    op.name, op.count, size, group, False, efficiency, op.device, network
                )
            )
        else:
            parts.append(
                Collective(op.name, op.count, size, group.members, False, efficiency, op.device)
            )
    return ContextExchange("context_exchange", tuple(parts))
