"""Several processes run one model: the first one plans, all of them compute the same steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from calibration.engine.executor import Executor, Pending
from calibration.engine.step import SIZES, Ints, PackedStep, lengths_of_parts

_STOP, _CAPTURE, _RESTART = -1, -2, -3
"""In place of a step's first size, which is never negative."""


class Line:
    """From rank 0 to the others. Every rank makes one, at the same time.

    A step's sizes go from host to host through gloo, because a follower must know them to make room
    and to launch kernels; its numbers go from device to device, in the order of the steps' own sums
    and without any host waiting for them.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._hosts = dist.new_group(backend="gloo")

    def tell(self, command: int) -> None:
        """Sends something other than a step."""
        self._sizes(np.full(SIZES, command, dtype=np.int64))

    def send(self, sizes: Ints, numbers: Tensor) -> None:
        """Sends a step, as ``PackedStep.flat`` has it; its numbers are on the device already."""
        self._sizes(sizes)
        dist.broadcast(numbers, src=0)

    def receive(self) -> tuple[int, Ints, Tensor | None]:
        """Waits for what rank 0 sends: a command, or 0 with a step."""
        sizes = self._sizes(np.empty(SIZES, dtype=np.int64))
        if sizes[0] < 0:
            return int(sizes[0]), sizes, None
        length = sum(lengths_of_parts(sizes))
        numbers = torch.empty(length, dtype=torch.int64, device=self._device)
        dist.broadcast(numbers, src=0)
        return 0, sizes, numbers

    def _sizes(self, sizes: Ints) -> Ints:
        dist.broadcast(torch.from_numpy(sizes), src=0, group=self._hosts)
        return sizes


class Leader(Executor):
    """The executor of rank 0, which tells the others what it does.

    Args:
        line: to the others.
        options: see ``Executor``.
    """

    def __init__(self, *args: Any, line: Line, **options: Any) -> None:
        super().__init__(*args, **options)
        self._line: Line | None = line

    @torch.inference_mode()
    def run(self, step: PackedStep) -> Pending:
        """Starts a step on all ranks."""
        sizes, numbers = step.flat()
        on_device = self._to_device(numbers)
        self._open.send(sizes, on_device)
        return self.run_flat(sizes, on_device)

    def restart(self) -> None:
        """See ``Executor.restart``."""
        self._open.tell(_RESTART)
        super().restart()

    def capture(self) -> None:
        """Records all graphs, whose sums over ranks need all of them."""
        self._open.tell(_CAPTURE)
        super().capture()

    def stop(self) -> None:
        """Lets the others go; nothing runs after that."""
        if self._line is not None:
            self._line.tell(_STOP)
            self._line = None

    @property
    def _open(self) -> Line:
        assert self._line is not None, "the other ranks are gone"
        return self._line


def follow(executor: Executor, line: Line) -> None:
    """Runs what rank 0 runs until it stops."""
    while True:
        command, sizes, numbers = line.receive()
        if numbers is not None:
            executor.run_flat(sizes, numbers)
        elif command == _CAPTURE:
            executor.capture()
        elif command == _RESTART:
            executor.restart()
        else:
            return
