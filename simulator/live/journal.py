"""What happens to replicas that come and go on a live deployment, until it is told."""

from __future__ import annotations

from simulator.cluster.journal import Journal

Change = tuple[float, int, int]
"""When, which replica, and its state from then on (see ``simulator.results.lives``)."""


class LiveJournal(Journal):
    """Keeps changes of states until they are taken, and nothing else."""

    def take(self) -> list[Change]:
        """The changes since the last time, in order of time."""
        taken, self._states = self._states, []
        return taken

    def __len__(self) -> int:
        """How many there are to be taken."""
        return len(self._states)

    def decide(self, now: float, group: int, wanted: int) -> None:
        """See ``Journal.decide``."""

    def wait(self, request: int, since: float, until: float) -> None:
        """See ``Journal.wait``."""

    def lose(
        self,
        request: int,
        replica: int,
        start_s: float,
        first_token_s: float,
        left_s: float,
        tokens: int,
    ) -> None:
        """See ``Journal.lose``."""

    def end(self, request: int, left_s: float) -> None:
        """See ``Journal.end``."""
