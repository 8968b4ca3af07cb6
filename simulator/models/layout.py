"""How one replica of a model lies on its devices."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layout:
    """Degrees of parallelism of one replica; 1 everywhere is one device.

    Devices are numbered with ``tp`` innermost, then ``dp`` or ``cp``, then ``pp``, so that those
    who talk most are next to each other.

    Args:
        tp: devices that share every layer (Megatron-LM, arXiv:1909.08053).
        dp: groups of ``tp`` devices that have sequences of their own and share the experts.
        pp: stages of layers, each on devices of its own.
        ep: groups of the ``tp`` · ``dp`` devices of a stage that hold different experts.
        cp: groups of those devices that share the context of every sequence.
        fsdp: replicas of which each has a part of every layer's weights.
        redundant: further copies of popular experts, placed evenly; None: experts as numbered.
    """

    tp: int = 1
    dp: int = 1
    pp: int = 1
    ep: int = 1
    cp: int = 1
    fsdp: int = 1
    redundant: int | None = None

    @property
    def devices(self) -> int:
        """Devices of one replica."""
        return self.tp * self.dp * self.cp * self.pp

    @property
    def words(self) -> str:
        """In words: tensor parallelism 8, experts on 8 ranks; empty on one device."""
        parts = [f"tensor parallelism {self.tp}"] if self.tp > 1 else []
        if self.dp > 1:
            parts.append(f"data-parallel attention {self.dp}")
        if self.pp > 1:
            parts.append(f"pipeline of {self.pp} stages")
        if self.cp > 1:
            parts.append(f"context parallelism {self.cp}")
        if self.fsdp > 1:
            parts.append(f"weights sharded over {self.fsdp} replicas")
        if self.ep > 1:
            parts.append(f"experts on {self.ep} ranks")
        if self.redundant:
            parts.append(f"{self.redundant} redundant")
        return ", ".join(parts)

    @property
    def expert_tp(self) -> int:
        """Devices that share every expert."""
        return self.tp * self.dp // self.ep

    def stored(self, experts: int) -> int:
        """Experts of a layer as stored, copies included."""
        return experts + (self.redundant or 0)

    def local(self, experts: int) -> int:
        """Experts of a layer on the fullest device."""
        return -(-self.stored(experts) // self.ep)


ALONE = Layout()
"""One device."""
