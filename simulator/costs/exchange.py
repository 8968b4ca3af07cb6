"""What devices of a replica send each other: collectives over nodes, and tokens to their experts.

Collectives within a node are ``simulator.costs.operators.Collective``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

import numpy as np

from simulator.costs.expert_ranks import ranks_reached
from simulator.costs.links import NETWORK_SHARE, Group, Network
from simulator.costs.operators import Demand, Device, Shape, present, scaled
from simulator.hardware.efficiency import Efficiency
from simulator.hardware.forms import AllToAllEfficiency, CollectiveEfficiency
from simulator.models.layout import Layout
from simulator.models.spec import MoeMlp
from simulator.workload.requests import Floats

LOW_LATENCY_TOKENS = 256
"""Tokens of a device up to which the low-latency kernels take part: the most that their tables
hold, and twice the buffers that engines set up by default."""


@dataclass(frozen=True, slots=True)
class NodeCollective:
    """``count`` all-reduces or all-gathers over the devices of several nodes, in three stages:
    reduce-scatter within each node, all-reduce of each device's part with its peers in the other
    nodes, all-gather within each node (Thakur et al., 2005, for each stage; the hierarchy is that
    of NCCL's trees over nodes). An all-gather leaves the first stage out. Stages do not overlap.
    """

    name: str
    count: int
    bytes_per_token: float
    group: Group
    all_reduce: bool
    efficiency: CollectiveEfficiency
    device: Device
    network: Network
    sampled: bool = False

    @property
    def kernels(self) -> int:
        """One a layer."""
        return self.count

    def demand(self, shape: Shape) -> Demand:
        """Time and work for each step."""
        m = shape.sampled if self.sampled else shape.tokens
        some = present(m)
        group, message = self.group, m * self.bytes_per_token
        passes = 2 if self.all_reduce else 1
        near = message * (group.per_node - 1) / group.per_node
        far = passes * message / group.per_node * (group.nodes - 1) / group.nodes
        latency = passes * group.hops * self.network.latency_s * some
        rate = NETWORK_SHARE * self.network.bytes_per_s
        if group.per_node > 1:
            assert self.device.link is not None
            # On the way to the network devices share what they share on the way to each other.
            e = self.efficiency
            rate = min(rate, e.bandwidth * self.device.link / (group.per_node - 1) ** e.contention)
            nothing = _within(e, group.per_node, 0.0 * near, self.device.link)
            stages = passes * _within(e, group.per_node, near, self.device.link) * some
            seconds = latency + far / rate + stages
            latency = latency + passes * nothing * some
        else:
            seconds = latency + far / rate
        return scaled(
            self.count, seconds, 0.0 * near, 2.0 * message, passes * near + far,
            network=seconds - latency, latency=latency,
        )  # fmt: skip


def _within(efficiency: CollectiveEfficiency, devices: int, traffic: Floats, link: float) -> Floats:
    factor = efficiency.factor(devices=devices, traffic=traffic)
    return efficiency.seconds(devices, traffic, link, factor)


@dataclass(frozen=True, slots=True)
class Route:
    """How one kind of all-to-all kernel sends a token: copies to other devices of the node, copies
    to other nodes, and coefficients."""

    near: float
    far: float
    efficiency: AllToAllEfficiency


def routes(
    mlp: MoeMlp, layout: Layout, group: Group, efficiency: Efficiency, *, dispatch: bool
) -> tuple[Route, Route]:
    """Of the low-latency kernels and of those for many tokens, on the way there or back."""
    width, members, near = layout.expert_tp, group.members, group.per_node
    copies = mlp.top_k * width
    fast = Route(
        copies * (near - 1) / members, copies * (members - near) / members,
        efficiency.exchange_for("low-latency-dispatch" if dispatch else "low-latency-combine"),
    )  # fmt: skip
    devices = width * ranks_reached(mlp.experts, mlp.top_k, layout.ep)
    nodes = ranks_reached(mlp.experts, mlp.top_k, group.nodes)
    wide = Route(
        devices * (near - 1) / near, nodes * (group.nodes - 1) / group.nodes,
        efficiency.exchange_for("throughput-dispatch" if dispatch else "throughput-combine"),
    )  # fmt: skip
    return fast, wide


@dataclass(frozen=True, slots=True)
class AllToAll:
    """Tokens on their way to the experts (``dispatch``) or back (``combine``) in ``count`` layers.

    ``shape.tokens`` are those of the rank that has most; its ``senders`` devices send a part each.
    The low-latency kernels send a copy for every expert, the others one for every device or node
    that holds one (DeepEP); each step takes the faster kernel that it may.
    """

    name: str
    count: int
    bytes_per_token: float
    senders: int
    nodes: int
    low_latency: Route
    throughput: Route
    device: Device
    network: Network | None

    @property
    def kernels(self) -> int:
        """One a layer."""
        return self.count

    @property
    def efficiency(self) -> AllToAllEfficiency:
        """Coefficients of the kernels for many tokens."""
        return self.throughput.efficiency

    def demand(self, shape: Shape) -> Demand:
        """Time and work for each step."""
        m = np.ceil(shape.tokens / self.senders)
        some = present(m)
        size = m * self.bytes_per_token
        few = m <= LOW_LATENCY_TOKENS
        fast, wide = self._seconds(self.low_latency, size), self._seconds(self.throughput, size)
        low = few & (fast < wide)
        seconds = np.where(low, fast, wide) * some
        near, far = (
            size * np.where(low, getattr(self.low_latency, end), getattr(self.throughput, end))
            for end in ("near", "far")
        )
        nothing = 0.0 * size
        latency = np.where(
            low, self._seconds(self.low_latency, nothing), self._seconds(self.throughput, nothing)
        )
        return scaled(
            self.count, seconds, nothing, near + far, near + far,
            network=seconds - latency * some, latency=latency * some,
        )  # fmt: skip

    def _seconds(self, route: Route, size: Floats) -> Floats:
        network = self.network
        return route.efficiency.seconds(
            size * route.near, size * route.far, log2(self.nodes), self.device.link or 1.0,
            network.bytes_per_s if network else 1.0,
        )  # fmt: skip
