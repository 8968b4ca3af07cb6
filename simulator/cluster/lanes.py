"""Replicas with several schedulers: what pipelines and lockstep ranks have in common."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as List

from simulator.cluster.alone import Alone
from simulator.cluster.replica import Replica
from simulator.results.record import LANES_APART
from simulator.serving.scheduler import Scheduler
from simulator.serving.sequence import Sequence


def lane_number(replica: int, place: int) -> int:
    """Number of a replica's lane in the columns of a run: that of the replica for the first one."""
    return replica + place * LANES_APART


def lanes_within(replica: Replica | LaneGroup) -> List[Replica]:
    """The lanes of a replica, or itself."""
    return replica.lanes if isinstance(replica, LaneGroup) else [replica]


class LaneLoads(list[int]):
    """Requests queued or running in each lane of a replica, by the number of the lane; a change
    goes into the replica's entry as well.

    Args:
        lanes: how many there are.
        loads: of replicas.
        replica: the number of this one.
    """

    def __init__(self, lanes: int, loads: list[int], replica: int) -> None:
        super().__init__([0] * lanes)
        self._of_replicas = loads
        self._replica = replica

    def __getitem__(self, number: int) -> int:  # type: ignore[override]
        return super().__getitem__(number // LANES_APART)

    def __setitem__(self, number: int, load: int) -> None:  # type: ignore[override]
        place = number // LANES_APART
        self._of_replicas[self._replica] += load - super().__getitem__(place)
        super().__setitem__(place, load)

    def least(self) -> int:
        """Place of the lane with the fewest requests, the first one on a tie."""
        return self.index(min(self))


class LaneCaches:
    """The lanes' KV caches as a router sees them."""

    def __init__(self, schedulers: List[Scheduler], loads: LaneLoads) -> None:
        self._schedulers = schedulers
        self._loads = loads
        self.block_size = schedulers[0].kv.block_size
        self.total = sum(scheduler.kv.total for scheduler in schedulers)

    def lookup(self, sequence: Sequence) -> int:
        """Leading blocks that the lane which a request would join now has in its cache. Lanes do
        not see each other's blocks, and their choice does not look at prefixes."""
        return self._schedulers[self._loads.least()].kv.lookup(sequence)


class LaneSchedulers:
    """The lanes' schedulers as one, for those who look at a replica from outside."""

    def __init__(self, schedulers: List[Scheduler], loads: LaneLoads) -> None:
        self._schedulers = schedulers
        self.kv = LaneCaches(schedulers, loads)

    def unfinished(self) -> list[Sequence]:
        """Sequences of all lanes that have not ended, with their progress up to date."""
        return [sequence for one in self._schedulers for sequence in one.unfinished()]

    def check_integrity(self) -> None:
        """Raises AssertionError if blocks leaked in any lane."""
        for one in self._schedulers:
            one.check_integrity()


class LaneGroup:
    """One replica whose requests are spread over lanes.

    Attributes:
        alone: see ``Replica``.
        lanes: each with a scheduler, a queue and KV blocks of its own.
        loads: requests of each lane.
        scheduler: all lanes' schedulers.
    """

    lanes: List[Replica]
    alone: Alone

    def __init__(self, number: int, lanes: List[Replica], loads: LaneLoads) -> None:
        self.number = number
        self.lanes = lanes
        self.loads = loads
        self.scheduler = LaneSchedulers([lane.scheduler for lane in lanes], loads)

    def cached_blocks(self, sequence: Sequence) -> int:
        """Leading blocks of a request that the lane which it would join now has in its cache."""
        return self.scheduler.kv.lookup(sequence)

    def slow(self, factor: float) -> None:
        """See ``Replica.slow``; all lanes are."""
        for lane in self.lanes:
            lane.slow(factor)

    @property
    def last_s(self) -> float:
        """When the tokens of the last step came to their clients."""
        return max(lane.last_s for lane in self.lanes)

    @property
    def response_s(self) -> float:
        """From the end of a step to the client."""
        return self.lanes[0].response_s

    # --- what admission control asks for; see ``Replica`` ----------------------------------------

    @property
    def queued(self) -> int:
        """Requests that wait in any lane."""
        return sum(lane.queued for lane in self.lanes)

    def ahead_of(self, sequence: Sequence) -> int:
        """How many a newcomer would wait for, were all lanes as full as the one that it would join
        now."""
        return len(self.lanes) * self.lanes[self.loads.least()].ahead_of(sequence)

    @property
    def kv_used(self) -> int:
        """KV blocks in use, of all lanes."""
        return sum(lane.kv_used for lane in self.lanes)

    @property
    def started(self) -> Callable[[float, float], None] | None:
        """Called as a request starts in any lane."""
        return self.lanes[0].started

    @started.setter
    def started(self, hear: Callable[[float, float], None] | None) -> None:
        for lane in self.lanes:
            lane.started = hear
