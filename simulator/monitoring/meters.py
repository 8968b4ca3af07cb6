"""What the devices of a deployment were held for, drew and cost, summed up as time goes on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from simulator.monitoring.fleet import Fleet
from simulator.results.history import STATES as NAMED
from simulator.results.lives import DRAINING, NOT_HELD, OFF, RECLAIMED, STATES, UP
from simulator.results.record import StepTable
from simulator.workload.requests import Floats, Ints

STATE_NAMES = tuple(NAMED)
_CHUNK = 1 << 14
_HELD = np.array([state not in NOT_HELD for state in range(len(STATES))])
_SERVES = np.array([state in (UP, DRAINING, RECLAIMED) for state in range(len(STATES))])


class Presence:
    """Which replicas are there, and how long devices have been held.

    Args:
        fleet: the replicas.
        changing: they come and go, as ``change`` tells; if not, all are up from the beginning.

    Attributes:
        state: of each replica, an index into STATES. Shape (engines,).
        seen: which replicas have ever been up. Shape (engines,).
    """

    def __init__(self, fleet: Fleet, *, changing: bool) -> None:
        self.fleet = fleet
        self.state: Ints = np.full(fleet.engines, OFF if changing else UP, dtype=np.int64)
        self.seen: npt.NDArray[np.bool_] = np.full(fleet.engines, not changing)
        self._held_s = np.zeros(len(fleet.groups))
        self._at_s = 0.0

    def change(self, changes: Iterable[tuple[float, int, int]]) -> None:
        """Replicas change their states: when, which, and to what; in order of time."""
        for at_s, replica, state in changes:
            self._advance(at_s)
            self.state[replica] = state
            if state == UP:
                self.seen[replica] = True

    def _advance(self, at_s: float) -> None:
        if at_s > self._at_s:
            self._held_s += self.held * (at_s - self._at_s)
            self._at_s = at_s

    def held_s(self, at_s: float) -> Floats:
        """Replica-seconds until then in which devices were held. Shape (pools,)."""
        self._advance(at_s)
        return self._held_s.copy()

    @property
    def held(self) -> Ints:
        """Replicas whose devices are held. Shape (pools,)."""
        return self._by_pool(_HELD[self.state])

    @property
    def there(self) -> npt.NDArray[np.bool_]:
        """Which replicas serve requests. Shape (engines,)."""
        serves: npt.NDArray[np.bool_] = _SERVES[self.state]
        return serves

    def counts(self) -> Ints:
        """Replicas by pool and state, as STATE_NAMES names them. Shape (pools, states)."""
        columns = [self._by_pool(np.isin(self.state, states)) for states in NAMED.values()]
        return np.stack(columns, axis=1)

    def _by_pool(self, chosen: npt.NDArray[np.bool_]) -> Ints:
        return np.bincount(self.fleet.pool_of[chosen], minlength=len(self.fleet.groups))


class Work:
    """What steps took of devices, by pool. Shapes (pools,).

    Attributes:
        energy_j, powered_s: of steps, and the replica-seconds that it is for.
        busy_s: replica-seconds in which devices worked.
        model_flops, hbm_bytes: see ``StepWork``.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        pools = len(fleet.groups)
        self.energy_j = np.zeros(pools)
        self.powered_s = np.zeros(pools)
        self.busy_s = np.zeros(pools)
        self.model_flops = np.zeros(pools)
        self.hbm_bytes = np.zeros(pools)
        owners = {group.name: number for number, group in enumerate(fleet.groups)}
        self._owner = np.array([owners[group.devices_of] for group in fleet.groups])
        self._sharing = np.bincount(self._owner, minlength=pools)[self._owner]
        energy = fleet.deployment.scenario.energy
        self._pue = energy.pue

    def add(self, priced: Floats) -> None:
        """Adds what ``price`` gave. Shape (5, pools)."""
        self.energy_j += priced[0]
        self.powered_s += priced[1]
        self.busy_s += priced[2]
        self.model_flops += priced[3]
        self.hbm_bytes += priced[4]

    def joules(self, held_s: Floats) -> Floats:
        """Energy of all devices that were held for so many replica-seconds, idle ones included,
        times PUE; idle energy of shared devices is their owner's."""
        pools = len(self.fleet.groups)
        powered_s = np.bincount(self._owner, self.powered_s, pools)
        return self._pue * self.energy_j + self.idle_w(np.maximum(0.0, held_s - powered_s))

    def idle_w(self, held: Floats | Ints) -> Floats:
        """Power of the devices of so many replicas that are held and do not run, times PUE."""
        idle_w = np.array([member.accountant.idle_w for member in self.fleet.members])
        own = self._owner == np.arange(len(self.fleet.groups))
        result: Floats = np.where(own, self._pue * idle_w * held, 0.0)
        return result

    def usd(self, held_s: Floats) -> Floats | None:
        """Price of the devices held; those that pools share are shared. None: not known."""
        prices = [m.deployment.usd_per_device_hour for m in self.fleet.members]
        if None in prices:
            return None
        devices = self.devices(held_s)
        usd: Floats = np.array(prices, dtype=np.float64) * devices / 3600.0
        return usd

    def devices(self, held: Floats | Ints) -> Floats:
        """Devices of so many replicas held, of shared ones the pool's share."""
        each = np.array([m.deployment.devices_per_replica for m in self.fleet.members])
        devices: Floats = each * held / self._sharing
        return devices

    def peaks(self, held: Ints) -> tuple[Floats, Floats]:
        """FLOP/s and bytes/s that so many replicas held could do."""
        accountants = [member.accountant for member in self.fleet.members]
        flops = np.array([each.peak_flops for each in accountants])
        byte = np.array([each.peak_bytes_per_s for each in accountants])
        return flops * held / self._sharing, byte * held / self._sharing


def price(fleet: Fleet, steps: StepTable, cells: Ints, size: int) -> Floats:
    """What rows of steps took, summed by cell.

    Args:
        fleet: who prices them.
        steps: rows in order of time; lanes that step together stay together.
        cells: of each row, from 0 to below ``size``.

    Returns:
        Energy (J), powered and busy replica-seconds, FLOPs and bytes. Shape (5, pools, size).
    """
    sums = np.zeros((5, len(fleet.groups), size))
    pool = fleet.pool_of[steps.replica]
    for number, member in enumerate(fleet.members):
        mine = np.flatnonzero(pool == number)
        start_s = steps.start_s[mine]
        start = 0
        while start < len(mine):
            stop = min(start + _CHUNK, len(mine))
            while stop < len(mine) and start_s[stop] == start_s[stop - 1]:
                stop += 1
            rows = mine[start:stop]
            part, where = steps.select(rows), cells[rows]
            work, duration = member.accountant.account(part), part.duration_s
            for row, column in enumerate(
                (
                    work.energy_j,
                    duration if work.powered_s is None else work.powered_s,
                    duration if work.busy_s is None else work.busy_s,
                    work.model_flops,
                    work.hbm_bytes,
                )
            ):
                sums[row, number] += np.bincount(where, column, size)
            start = stop
    return sums
