"""The devices that share one model: sums and gathers between them."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks(Protocol):
    """One of ``size`` processes that run the same steps on their shares of the weights."""

    rank: int
    size: int

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum over all ranks, on all of them; may be in place."""
        ...

    def all_gather(self, x: Tensor) -> Tensor:
        """The last axes of all ranks one behind the other; (n, w) becomes (n, size·w)."""
        ...


class Alone:
    """A single device."""

    rank, size = 0, 1

    def all_reduce(self, x: Tensor) -> Tensor:
        """Nothing to add."""
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        """Nothing to append."""
        return x


class Group:
    """The processes of torch.distributed's default group (gloo on CPUs, NCCL on GPUs)."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def all_reduce(self, x: Tensor) -> Tensor:
        """Sums in place."""
        dist.all_reduce(x)
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        """Gathers into a new tensor."""
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts, dim=-1)
