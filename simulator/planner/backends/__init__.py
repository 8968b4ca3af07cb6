"""Who does the simulations: processes of this machine, or a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from simulator.planner.tasks import Outcome, Task

__all__ = ["Backend"]


class Backend(Protocol):
    """Does tasks, in any order, each in a process where numeric libraries have one thread."""

    @property
    def workers(self) -> int:
        """How many tasks are done at once."""
        ...

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Outcomes as they come. A worker that dies is replaced and its task done again."""
        ...

    def close(self) -> None:
        """Lets the workers go."""
        ...
