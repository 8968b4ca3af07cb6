"""What the metrics of a deployment need to know of its replicas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from simulator.deployment import ResolvedDeployment
from simulator.monitoring.families import lengths_up_to
from simulator.results.fleet import Member, response_s
from simulator.results.record import Group
from simulator.workload.requests import Floats, Ints


class Fleet:
    """Replicas and pools, by number.

    Args:
        members: the pools.
        groups: their replicas, in the same order.
        model_names: the label ``model_name`` of each pool; default: the names of the models.

    Attributes:
        engines: numbers that replicas may have.
        pool_of: each replica's pool. Shape (engines,).
        back_s: from the end of a step to its tokens at the client. Shape (engines,).
        network_s: the client's distance, one way, which a server does not see.
        lengths: buckets for numbers of tokens, up to the longest context of any pool.
    """

    def __init__(
        self,
        members: Sequence[Member],
        groups: Sequence[Group],
        model_names: Mapping[str, str] | None = None,
    ) -> None:
        self.members = list(members)
        self.groups = list(groups)
        self.engines = groups[-1].end
        counts = [group.count for group in groups]
        self.pool_of: Ints = np.repeat(np.arange(len(groups)), counts)
        self.back_s: Floats = np.repeat([response_s(m.deployment) for m in members], counts)
        self.network_s = self.deployment.scenario.deployment.network_ms / 1e3
        self.lengths = lengths_up_to(max(m.deployment.limits.max_model_len for m in members))
        names = model_names or {}
        self._models: list[str] = [
            names.get(group.name, member.deployment.model.name)
            for member, group in zip(members, groups, strict=True)
        ]

    @property
    def deployment(self) -> ResolvedDeployment:
        """That of the first pool."""
        return self.members[0].deployment

    def model_of(self, engine: int) -> str:
        """The label ``model_name`` of a replica."""
        return self._models[int(self.pool_of[engine])]

    def flags(self, of_pool: Sequence[bool]) -> np.ndarray:
        """By replica what is given by pool. Shape (engines,)."""
        return np.array(of_pool, dtype=np.bool_)[self.pool_of]
