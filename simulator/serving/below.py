"""What lies below device memory: how much there is, and how fast blocks get there and back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TierSpec:
    """One tier.

    Args:
        name: ``host`` or ``ssd``.
        blocks: KV blocks of one replica that it holds.
        read_bytes_per_s, write_bytes_per_s: of the whole node's drives; 0 where nothing but the
            link between device and host limits it.
    """

    name: str
    blocks: int
    read_bytes_per_s: float = 0.0
    write_bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Below:
    """Memory below that of a replica's devices, either tiers of the prefix cache or room for
    swapping.

    Args:
        block_bytes: of one KV block on one device.
        devices: of a replica; each holds its share of every block.
        host_bytes_per_s: between a device and the host, each direction, each device.
        tiers: nearest first; none has room for no block.
        min_blocks: fewest blocks found in tiers for which they are loaded.
        overlap: loads run layer by layer beside the step that needs them.
        swap_blocks: blocks that host memory holds for preempted sequences.
        replicas_per_node: that share the drives of one node.
    """

    block_bytes: float
    devices: int
    host_bytes_per_s: float
    tiers: tuple[TierSpec, ...] = ()
    min_blocks: int = 1
    overlap: bool = True
    swap_blocks: int = 0
    replicas_per_node: int = 1


class Moves:
    """KV blocks that move because of one step.

    Attributes:
        loaded: into the device, by the tier that they come from.
        stored: written to each tier, from the one above it.
        hits: (sequence, blocks by tier) of every admission that loads.
        swapped_in, swapped_out: of preempted sequences.
    """

    __slots__ = ("hits", "loaded", "stored", "swapped_in", "swapped_out")

    def __init__(self, tiers: int = 0) -> None:
        self.loaded = [0] * tiers
        self.stored = [0] * tiers
        self.hits: list[tuple[object, list[int]]] = []
        self.swapped_in = self.swapped_out = 0
