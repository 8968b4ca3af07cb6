"""Notes what happens to replicas that come and go, and to requests that wait or lose theirs."""

from __future__ import annotations

import numpy as np

from simulator.results.lives import Lives, Lost


class Journal:
    """Rows of ``Lives``, appended in order of time."""

    def __init__(self) -> None:
        self._states: list[tuple[float, int, int]] = []
        self._decisions: list[tuple[float, int, int]] = []
        self._waited: list[tuple[int, float, float]] = []
        self._gone: list[tuple[int, float]] = []
        self._lost: list[tuple[int, int, float, float, float, int]] = []

    def state(self, now: float, replica: int, state: int) -> None:
        """A replica changes its state."""
        self._states.append((now, replica, state))

    def decide(self, now: float, group: int, wanted: int) -> None:
        """So many replicas of a group are wanted from now on."""
        self._decisions.append((now, group, wanted))

    def wait(self, request: int, since: float, until: float) -> None:
        """A request has waited for a replica."""
        self._waited.append((request, since, until))

    def lose(
        self,
        request: int,
        replica: int,
        start_s: float,
        first_token_s: float,
        left_s: float,
        tokens: int,
    ) -> None:
        """A crash ended an attempt; another one follows. See ``Lost``."""
        self._lost.append((request, replica, start_s, first_token_s, left_s, tokens))

    def end(self, request: int, left_s: float) -> None:
        """A crash ended a request's last attempt."""
        self._gone.append((request, left_s))

    def lives(self, *, resumes: bool, most: tuple[int, ...]) -> Lives:
        """Everything noted so far."""
        states = np.array(self._states, dtype=np.float64).reshape(-1, 3)
        decisions = np.array(self._decisions, dtype=np.float64).reshape(-1, 3)
        lost = np.array(self._lost, dtype=np.float64).reshape(-1, 6)
        whole = np.int64
        return Lives(
            at_s=states[:, 0],
            replica=states[:, 1].astype(whole),
            state=states[:, 2].astype(whole),
            decided_s=decisions[:, 0],
            group=decisions[:, 1].astype(whole),
            wanted=decisions[:, 2].astype(whole),
            waited=np.array(self._waited, dtype=np.float64).reshape(-1, 3),
            lost=Lost(
                request=lost[:, 0].astype(whole),
                replica=lost[:, 1].astype(whole),
                start_s=lost[:, 2],
                first_token_s=lost[:, 3],
                left_s=lost[:, 4],
                tokens=lost[:, 5].astype(whole),
            ),
            gone=np.array(self._gone, dtype=np.float64).reshape(-1, 2),
            resumes=resumes,
            most=most,
        )
