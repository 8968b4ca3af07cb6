"""How one replica of a model lies on its devices."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layout:
    """Degrees of parallelism of one replica; 1 everywhere is one device.

    Devices are numbered with ``tp`` innermost, so that those who talk most are next to each other.

    Args:
        tp: devices that share every layer (Megatron-LM, arXiv:1909.08053).
    """

    tp: int = 1

    @property
    def devices(self) -> int:
        """Devices of one replica."""
        return self.tp


ALONE = Layout()
"""One device."""
