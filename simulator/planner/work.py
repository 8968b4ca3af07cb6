"""Has tasks done: each once, through a store that keeps what was done before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from simulator.planner.tasks import Outcome, Task


class Workplace(Protocol):
    """Where searches have their simulations done.

    What a search decides may depend on outcomes but never on the order in which they came, so that
    every backend leads to the same result.
    """

    def run(self, tasks: Sequence[Task]) -> list[Outcome]:
        """The outcomes, in the order of the tasks; equal tasks are done once, and those that the
        store has, not at all.

        Raises:
            KeyboardInterrupt: Ctrl-C; all that was done is in the store.
        """
        ...
