"""What a run leaves behind about replicas that come and go, and about requests they cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

OFF, AWAY, PROVISIONING, BOOTING, LOADING, WARMING, UP, DRAINING, RECLAIMED, DOWN = range(10)
STATES = (
    "off", "away", "provisioning", "booting", "loading", "warming", "up", "draining", "reclaimed",
    "down",
)  # fmt: skip
"""``off``: nothing is held; ``away``: other devices are being looked for, nothing is held;
``draining``: no new requests; ``reclaimed``: the same, because the owner of spot devices wants them
back; ``down``: crashed, devices held."""

STARTING = (PROVISIONING, BOOTING, LOADING, WARMING)

NOT_HELD = (OFF, AWAY)


@dataclass(frozen=True, slots=True)
class Lost:
    """Attempts that a crash ended and that were followed by another one. Shapes (m,).

    Args:
        request: its row.
        replica: where it was.
        start_s: start of the first step that worked on it (NaN: none).
        first_token_s: first token at the client, if what came is thrown away (NaN: none, or kept).
        left_s: when it left the replica.
        tokens: output tokens that are thrown away.
    """

    request: Ints
    replica: Ints
    start_s: Floats
    first_token_s: Floats
    left_s: Floats
    tokens: Ints

    @property
    def first_tokens(self) -> int:
        """Streams that had begun and begin anew."""
        return int(np.isfinite(self.first_token_s).sum())


@dataclass(frozen=True, slots=True)
class Lives:
    """Replicas that come and go.

    Args:
        at_s, replica, state: changes of replicas' states (index into STATES), in order of time;
            before its first one a replica is off. Shapes (changes,).
        decided_s, group, wanted: when how many replicas of which group (its index) were wanted from
            then on. Shapes (decisions,).
        waited: requests that waited for a replica, as rows of request, from, until (s).
        lost: attempts that a crash ended and that were followed by others.
        gone: requests whose last attempt a crash ended, as rows of request and when it left the
            replica.
        resumes: answers go on after a crash, so that a first token may be older than the first
            step on the last replica.
        most: by group, replicas that a deployment for its peak would have.
    """

    at_s: Floats
    replica: Ints
    state: Ints
    decided_s: Floats
    group: Ints
    wanted: Ints
    waited: Floats
    lost: Lost
    gone: Floats
    resumes: bool
    most: tuple[int, ...]

    def held(self, end_s: float) -> Floats:
        """When devices were held, as rows of replica, from, until."""
        return self.spans(tuple(s for s in range(len(STATES)) if s not in NOT_HELD), end_s)

    def spans(self, states: tuple[int, ...], end_s: float) -> Floats:
        """When replicas were in one of these states, as rows of replica, from, until; by replica
        and time."""
        rows: list[tuple[float, float, float]] = []
        for replica in np.unique(self.replica).tolist():
            mine = self.replica == replica
            begun: float | None = None
            for at, state in zip(self.at_s[mine].tolist(), self.state[mine].tolist(), strict=True):
                inside = state in states
                if inside and begun is None:
                    begun = at
                elif not inside and begun is not None:
                    rows.append((replica, begun, at))
                    begun = None
            if begun is not None:
                rows.append((replica, begun, end_s))
        return np.array(rows, dtype=np.float64).reshape(-1, 3)

    def starts(self) -> Floats:
        """Starts that were completed, as rows of replica, beginning, up: those that took no time
        are left out."""
        rows = [
            (int(replica), begun, until)
            for replica, begun, until in self.spans(STARTING, np.inf)
            if np.isfinite(until) and self._is(int(replica), until, UP)
        ]
        return np.array(rows, dtype=np.float64).reshape(-1, 3)

    def _is(self, replica: int, at_s: float, state: int) -> bool:
        return bool(((self.replica == replica) & (self.at_s == at_s) & (self.state == state)).any())

    def counts(self, states: tuple[int, ...], end_s: float, group: range) -> tuple[Floats, Ints]:
        """How many replicas of a group are in one of these states: times of changes, the first
        being 0, and the number from then on."""
        spans = self.spans(states, end_s)
        spans = spans[(spans[:, 0] >= group.start) & (spans[:, 0] < group.stop)]
        times = np.concatenate((spans[:, 1], spans[:, 2]))
        steps = np.concatenate((np.ones(len(spans)), -np.ones(len(spans))))
        known, place = np.unique(np.append(times, 0.0), return_inverse=True)
        changes = np.bincount(place, np.append(steps, 0.0), len(known))
        return known, np.cumsum(changes).round().astype(np.int64)
