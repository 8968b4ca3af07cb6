"""Faults of replicas on a live deployment, on demand: what a scenario has at given times, now."""

from __future__ import annotations

from math import isfinite

from simulator.cluster.changing import ChangingCluster
from simulator.cluster.run import Cluster
from simulator.errors import UserError
from simulator.scenario.lifecycle import SLOWEST


class ReplicaFaults:
    """Makes replicas slow, and crashes them.

    Args:
        cluster: whose they are.
        together: they share their weights, so that none is slow or crashes alone.
    """

    def __init__(self, cluster: Cluster, *, together: bool) -> None:
        self._cluster = cluster
        self._together = together

    @property
    def crashes(self) -> bool:
        """Whether replicas can crash."""
        return isinstance(self._cluster, ChangingCluster)

    def slow(self, replica: int, *, factor: float, for_s: float) -> bool:
        """Steps that a replica begins within the next ``for_s`` seconds take ``factor`` times as
        long, unless it goes before; see ``deployment.failures.slowdowns``.

        Args:
            replica: its number among all.
            factor: above 1, at most 1,000.
            for_s: seconds of the deployment's clock.

        Returns:
            Whether there is such a replica now.

        Raises:
            UserError: there is never such a replica, or the figures make no sense.
        """
        if not factor > 1.0:
            raise UserError(f"{factor:g} makes nothing slow", where="factor", hint="above 1")
        if factor > SLOWEST:
            raise UserError(
                f"{factor:g} would be a standstill", where="factor", hint=f"at most {SLOWEST:g}"
            )
        return self._cluster.slow(self._known(replica), factor, _positive(for_s))

    def crash(self, replica: int, *, for_s: float | None = None) -> bool:
        """A replica crashes now. What becomes of its requests, and when that is noticed, the
        scenario says (``deployment.retry``, ``deployment.failures.detection_s``).

        Args:
            replica: its number among all.
            for_s: seconds of the deployment's clock until it is up again, as in
                ``deployment.failures.outages``; None: as after a crash at random, ``repair_s`` (30
                seconds where the scenario has none) and a cold start without provisioning.

        Returns:
            Whether it was up.

        Raises:
            UserError: replicas of this deployment stay, or as of ``slow``.
        """
        number = self._known(replica)
        if self._cluster.apart:
            raise UserError(
                "replicas with the roles prefill and decode cannot crash in the simulation",
                where="crash",
                hint="use pools that serve whole requests",
            )
        if not isinstance(self._cluster, ChangingCluster):
            raise UserError(
                "the replicas of this deployment cannot crash",
                where="crash",
                hint="start it with crashes on demand, or give deployment.failures",
            )
        return self._cluster.strike(number, None if for_s is None else _positive(for_s))

    def _known(self, replica: int) -> int:
        count = len(self._cluster.loads)
        if not 0 <= replica < count:
            raise UserError(
                f"there is no replica {replica}",
                where="replica",
                hint=f"numbers go from 0 to {count - 1}",
            )
        if self._together:
            raise UserError(
                "replicas that share weights are not slow, and do not crash, one by one",
                where="replica",
                hint="leave out parallelism.fsdp",
            )
        return replica


def _positive(for_s: float) -> float:
    if not (for_s > 0.0 and isfinite(for_s)):
        raise UserError(f"{for_s:g} s is no time", where="for_s", hint="above 0")
    return for_s
