"""Replicas whose KV blocks move between devices and what lies below them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from simulator.cluster.link import Link
from simulator.cluster.recorder import Recorder
from simulator.cluster.replica import Replica
from simulator.results.moved import KvMoved, PathUse
from simulator.results.waste import KvWaste
from simulator.serving.below import Below, Moves
from simulator.serving.contiguous import ContiguousScheduler
from simulator.serving.kv_cache import KvLayout
from simulator.serving.ordered import FairScheduler
from simulator.serving.scheduler import Plan, Scheduler
from simulator.serving.sequence import Sequence
from simulator.serving.tiered import TieredScheduler


class Paths:
    """The links of one replica, and those of its node that it shares.

    Args:
        below: what lies below its devices.
        drives: (reading, writing) of every tier that is not the host's memory.
    """

    def __init__(self, below: Below, drives: dict[int, tuple[Link, Link]]) -> None:
        self.below = below
        self.to_device = Link(below.host_bytes_per_s)
        self.to_host = Link(below.host_bytes_per_s)
        self.drives = drives

    def carry(self, moves: Moves, now: float) -> float:
        """Sends what moves from ``now`` on; returns how long it takes until all has arrived.

        What comes from a drive goes on to the device as it is read; what goes down does so beside
        what comes up.
        """
        own = self.below.block_bytes
        whole = own * self.below.devices
        end = now
        up = sum(moves.loaded) + moves.swapped_in
        if up:
            end = max(end, self.to_device.send(up * own, now))
        down = moves.swapped_out + (moves.stored[0] if moves.stored else 0)
        if down:
            end = max(end, self.to_host.send(down * own, now))
        for tier, (read, write) in self.drives.items():
            if moves.loaded[tier]:
                end = max(end, read.send(moves.loaded[tier] * whole, now))
            if moves.stored[tier]:
                end = max(end, write.send(moves.stored[tier] * whole, now))
        return end - now

    def note(self, moves: Moves) -> None:
        """Books blocks that were stored while no step waited for them."""
        own = self.below.block_bytes
        if moves.stored[0]:
            self.to_host.book(moves.stored[0] * own)
        for tier, (_, write) in self.drives.items():
            if moves.stored[tier]:
                write.book(moves.stored[tier] * own * self.below.devices)

    def seconds_per_block(self) -> float:
        """The longest that one block takes on its way down, one path after another."""
        own = self.below.block_bytes
        whole = own * self.below.devices
        rates = [whole / write.bytes_per_s for _, write in self.drives.values()]
        return max([own / self.below.host_bytes_per_s, *rates])

    def down_is_idle(self, now: float) -> bool:
        """Whether nothing is on its way down, and nobody else can send anything there."""
        if self.drives and self.below.replicas_per_node > 1:
            return False
        links = [self.to_host, *(write for _, write in self.drives.values())]
        return all(link.free_s <= now for link in links)


def _innermost(scheduler: Scheduler) -> Scheduler:
    """The scheduler that plans, without what counts around it."""
    return scheduler.inner if isinstance(scheduler, FairScheduler) else scheduler


class MovingReplica(Replica):
    """A replica whose steps last at least as long as the moves that they cause.

    Args:
        paths: what carries them.
        moved: where they are recorded.
        args, settings: see ``Replica``.
    """

    def __init__(self, *args: Any, paths: Paths, moved: KvMoved, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.paths = paths
        self.moved = moved
        self._plans = _innermost(self.scheduler)
        self._tiers = isinstance(self._plans, TieredScheduler)
        self._names = [tier.name for tier in paths.below.tiers]

    def _begin(self, now: float) -> None:
        self._stall = 0.0
        super()._begin(now)
        plan = self._plan
        if plan is None:
            return
        moves = plan.moves
        if moves is not None:
            self._wait_for(moves, now)
        if self._steps > 1 and self._tiers and not self._hides_moves(now):
            assert isinstance(self._plans, TieredScheduler)
            steps = self._plans.steps_without_moves(self._steps)
            if steps < self._steps:
                self._steps = steps
                self._wake(self._span(steps))

    def _wait_for(self, moves: Moves, now: float) -> None:
        """Lets the step that begins wait for what moves."""
        took = self.paths.carry(moves, now)
        self._record(moves)
        size = self.scheduler.kv.block_size
        for sequence, blocks in moves.hits:
            assert isinstance(sequence, Sequence)
            if not sequence.preemptions:
                self.moved.found(sequence.index, self._names, [size * n for n in blocks])
        beside = self._tiers and self.paths.below.overlap
        stall = max(0.0, took - self._first) if beside else took
        if stall > 0.0:
            self._stall = stall
            self._first += stall
            self._slope = 0.0
            self._steps = 1
            self._wake(self._first)

    def _record(self, moves: Moves) -> None:
        whole = self.paths.below.block_bytes * self.paths.below.devices
        for name, up, down in zip(self._names, moves.loaded, moves.stored, strict=True):
            self.moved.add(name, up * whole, down * whole)
        if not self._names:
            self.moved.add("swap", moves.swapped_in * whole, moves.swapped_out * whole)

    def _hides_moves(self, now: float) -> bool:
        """Whether each step of the run that begins lasts longer than whatever it may send down."""
        paths = self.paths
        assert isinstance(self._plans, TieredScheduler)
        most_s = self._plans.most_taken() * paths.seconds_per_block()
        return (
            paths.below.overlap and most_s <= self._first and paths.down_is_idle(now + self._first)
        )

    def _finish(self, plan: Plan, now: float) -> None:
        super()._finish(plan, now)
        if self._tiers:
            assert isinstance(self._plans, TieredScheduler)
            later = self._plans.tiered.drain()
            if later is not None:
                self.paths.note(later)
                self._record(later)


class ContiguousReplica(Replica):
    """A replica that records how much of its contiguous KV memory is of no use.

    Args:
        waste: where.
        args, settings: see ``Replica``.
    """

    def __init__(self, *args: Any, waste: KvWaste, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.waste = waste

    def _finish(self, plan: Plan, now: float) -> None:
        scheduler = _innermost(self.scheduler)
        assert isinstance(scheduler, ContiguousScheduler)
        runs = scheduler.runs
        unfit = runs.free if scheduler.no_hole else 0
        self.waste.note(self._start, now, runs.used - runs.stored_at_most, unfit)
        super()._finish(plan, now)


Made = Callable[..., Replica]


def replica_maker(
    layout: KvLayout, first: int, replicas: int, recorder: Recorder
) -> Callable[[int], Made]:
    """Who makes the replicas of one group, by number: ``Replica``, or one with paths of its own.

    Args:
        layout: of the group.
        first, replicas: their numbers.
        recorder: of the run.
    """
    if layout.reserve:
        if recorder.waste is None:
            recorder.waste = KvWaste()
        contiguous = partial(ContiguousReplica, waste=recorder.waste)
        return lambda _: contiguous
    below = layout.below
    if below is None:
        return lambda _: Replica
    moved = recorder.moved
    if moved is None:
        moved = recorder.moved = KvMoved(recorder.requests)
    nodes: dict[int, dict[int, tuple[Link, Link]]] = {}
    paths: dict[int, Paths] = {}
    for number in range(first, first + replicas):
        node = (number - first) // below.replicas_per_node
        if node not in nodes:
            nodes[node] = {
                tier: (Link(spec.read_bytes_per_s), Link(spec.write_bytes_per_s))
                for tier, spec in enumerate(below.tiers)
                if spec.read_bytes_per_s
            }
        paths[number] = Paths(below, nodes[node])
    moved.watch(
        [PathUse(number, "host", own.to_device, own.to_host) for number, own in paths.items()]
        + [
            PathUse(first + node * below.replicas_per_node, below.tiers[tier].name, *links)
            for node, drives in nodes.items()
            for tier, links in drives.items()
        ],
        [spec.name for spec in below.tiers],
    )
    return lambda number: partial(MovingReplica, paths=paths[number], moved=moved)
