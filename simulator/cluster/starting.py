"""How a replica starts: the parts of a cold start, and who shares what its weights come over."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from simulator.cluster.link import Link
from simulator.scenario.lifecycle import Autoscaling, Failures, Spot


@dataclass(frozen=True, slots=True)
class Weights:
    """Where the weights of a replica come from.

    Args:
        node_bytes: what one node reads for one replica.
        nodes: how many nodes one replica lies on.
        per_node: replicas of one node; 0 if ``nodes`` is more than 1.
        node_bytes_per_s: rate of one node's source; infinite where every device has its own.
        store_bytes_per_s: rate of what all nodes share; infinite if there is no such thing.
        least_s: no faster than over the links of the devices.
    """

    node_bytes: float
    nodes: int = 1
    per_node: int = 1
    node_bytes_per_s: float = inf
    store_bytes_per_s: float = inf
    least_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Start:
    """The parts of a cold start, seconds, and its weights."""

    provisioning_s: float = 0.0
    boot_s: float = 0.0
    warmup_s: float = 0.0
    weights: Weights | None = None

    @property
    def alone_s(self) -> float:
        """How long it takes where nothing else starts."""
        loading = Loading(self.weights).done(0, 0.0) if self.weights else 0.0
        return self.provisioning_s + self.boot_s + loading + self.warmup_s


class Loading:
    """The paths that the weights of a group's replicas come over."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._nodes: dict[int, Link] = {}
        self._store = Link(weights.store_bytes_per_s)

    def done(self, place: int, now: float) -> float:
        """When a replica that begins to load now has its weights; ``place``: its number within the
        group, which says on which node it lies. Calls come in the order of ``now``."""
        weights = self._weights
        first = place * weights.nodes if weights.nodes > 1 else place // weights.per_node
        last = now + weights.least_s
        for node in range(first, first + weights.nodes):
            link = self._nodes.setdefault(node, Link(weights.node_bytes_per_s))
            last = max(last, link.send(weights.node_bytes, now))
            last = max(last, self._store.send(weights.node_bytes, now))
        return last


@dataclass(frozen=True, slots=True)
class Life:
    """Why the replicas of a group come and go.

    Args:
        count: how many there are, unless ``scaling`` says it.
        start: how they start.
        scaling, failures, spot: see the scenario.
    """

    count: int
    start: Start = Start()
    scaling: Autoscaling | None = None
    failures: Failures | None = None
    spot: Spot | None = None

    @property
    def at_start(self) -> int:
        """Replicas that are up at the start."""
        return self.scaling.at_start if self.scaling else self.count

    @property
    def most(self) -> int:
        """Most replicas wanted at once."""
        return self.scaling.most if self.scaling else self.count

    @property
    def numbers(self) -> int:
        """How many numbers the group needs: a replica that drains keeps its own while another one
        starts."""
        drains = self.scaling is not None or (self.spot is not None and self.spot.notice_s > 0.0)
        return 2 * self.most if drains else self.most

    @property
    def changes(self) -> bool:
        """Whether any replica ever comes or goes."""
        return bool(self.scaling or self.spot or (self.failures and self.failures.crash))
