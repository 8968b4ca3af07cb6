"""Which replicas a request may go to, by its traffic class, and which one of them it takes."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as List

import numpy as np

from simulator.cluster.groups import ReplicaGroup
from simulator.cluster.replica import Replica
from simulator.cluster.routers import ROUTERS, Fleet, Route, SessionAffinity
from simulator.scenario.pools import Role
from simulator.scenario.routers import Router
from simulator.serving.sequence import Sequence
from simulator.workload.requests import Requests


class Routing:
    """Routes requests to the groups of some roles.

    Args:
        groups: of the deployment.
        replicas: of all groups, one after the other.
        loads: requests queued or running, by number of the replica.
        router: how one of several replicas is chosen.
        rng: draws what is random about that.
        requests: the traffic.
        roles: of the groups that take part.
        changing: replicas come and go, so that all fleets begin empty.

    Attributes:
        fleets: the sets of replicas among which requests choose, each with the groups in it.
        fleet_of_class: which of them a traffic class has.
    """

    def __init__(
        self,
        groups: List[ReplicaGroup],
        replicas: List[Replica],
        loads: list[int],
        router: Router,
        rng: np.random.Generator,
        requests: Requests,
        roles: tuple[Role, ...],
        *,
        changing: bool = False,
    ) -> None:
        session = requests.session.tolist() if router.kind == "session_affinity" else []
        weighed = len({group.weight for group in groups}) > 1
        weights = [group.weight for group in groups for _ in range(group.replicas)]
        plain = len(groups) == 1 and not changing
        routes: dict[tuple[int, ...], Route] = {}
        self.fleets: list[tuple[Fleet, tuple[int, ...]]] = []
        self.fleet_of_class: list[int] = []
        self._by_class: list[Route] = []
        firsts: list[int] = np.cumsum([0, *(group.replicas for group in groups)]).tolist()
        for name in requests.classes:
            mine = tuple(
                number
                for number, group in enumerate(groups)
                if group.role in roles and group.serves(name)
            )
            if mine not in routes:
                known = () if changing else mine
                chosen = [r for n in known for r in replicas[firsts[n] : firsts[n + 1]]]
                fleet = Fleet(chosen, loads, weights if weighed else None, session, plain)
                self.fleets.append((fleet, mine))
                routes[mine] = ROUTERS[router.kind](fleet, router, rng)
            self._by_class.append(routes[mine])
            self.fleet_of_class.append([groups for _, groups in self.fleets].index(mine))
        self._class_of: list[int] | None = requests.class_id.tolist() if len(routes) > 1 else None

    def choose(self, sequence: Sequence) -> Replica:
        """The replica for a request that arrives now."""
        if self._class_of is None:
            return self._by_class[0].choose(sequence)
        return self._by_class[self._class_of[sequence.index]].choose(sequence)

    def forget(self, replica: Replica) -> None:
        """A replica is gone for ever: nothing needs to be kept of it."""
        for route in self._by_class:
            if isinstance(route, SessionAffinity):
                route.forget(replica)

    def chooser(self) -> Callable[[Sequence], Replica]:
        """``choose``, without a detour where all requests have the same choice."""
        return self._by_class[0].choose if self._class_of is None else self.choose
