"""Who does the simulations: processes of this machine, or a cluster."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

from simulator.planner.tasks import Outcome, Task

__all__ = ["Backend"]


class Backend(Protocol):
    """Does tasks, in any order, each in a process where numeric libraries have one thread."""

    @property
    def workers(self) -> int:
        """How many tasks are done at once."""
        ...

    def run(self, tasks: Sequence[Task]) -> Generator[Outcome, None, None]:
        """Outcomes as they come. A worker that dies is replaced and its task done again; where that
        helps not, the outcome is ``lost``. Closing the generator ends what is under way."""
        ...

    def close(self) -> None:
        """Lets the workers go."""
        ...
