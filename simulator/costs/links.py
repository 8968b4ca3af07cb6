"""Which devices of a replica are in one node, and what joins those that are not."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2

from simulator.errors import UserError
from simulator.hardware.profile import HardwareProfile

NETWORK_SHARE = 0.9
"""Of a network's rate that bytes between nodes reach: what low-latency expert exchange does between
2 to 8 nodes of H200 with 400 Gbit/s a device (docs/calibration.md); a prior for all others."""

NETWORK_LATENCY_US = 5.0
"""Time of one hop between nodes where a profile has no figure: what NCCL's tuner assumes for a tree
over a network (its low-latency protocol), and what those measurements show for a doubling of the
nodes."""


@dataclass(frozen=True, slots=True)
class Network:
    """What joins nodes: bytes/s of one device in one direction, and seconds of a hop."""

    bytes_per_s: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class Group:
    """Devices that exchange something: ``members``, ``per_node`` of them in each node."""

    members: int
    per_node: int

    @property
    def nodes(self) -> int:
        """Nodes that they are in."""
        return self.members // self.per_node

    @property
    def hops(self) -> int:
        """Hops between nodes of a tree over all of them."""
        return ceil(log2(self.nodes))


class Fabric:
    """Links and network of a kind of device.

    Attributes:
        network: None where the profile knows of none.
    """

    def __init__(self, hardware: HardwareProfile) -> None:
        self._hardware = hardware
        node = hardware.node
        rate, latency = node.network_gb_per_s_per_device, node.network_latency_us
        self.network: Network | None = None
        if rate:
            hop_us = latency.value if latency else NETWORK_LATENCY_US
            self.network = Network(rate.value * 1e9, hop_us * 1e-6)

    def check_fill(self, tp: int, devices: int) -> None:
        """Makes sure that no tensor-parallel group of a replica lies across the end of a node.

        Raises:
            UserError: some would.
        """
        size = self._hardware.node.devices
        if tp < size < devices and size % tp:
            raise UserError(
                f"tp = {tp} leaves groups of a replica's {devices} devices across nodes of {size} "
                f"× {self._hardware.title}",
                where="parallelism.tp",
                hint=f"use a number that divides {size}",
            )

    def group(self, members: int, *, where: str, stride: int = 1) -> Group:
        """``members`` devices of which each is ``stride`` devices after the last.

        Raises:
            UserError: no link or network joins them, or nodes are not filled evenly; ``where`` is
                the key of the scenario that asks for the group.
        """
        hardware, size = self._hardware, self._hardware.node.devices
        per_node = max(1, min(members, size // stride))
        key = where.rpartition(".")[2]
        apart = per_node < members
        if hardware.link_bytes_per_s is None and (per_node > 1 or (apart and not self.network)):
            raise UserError(
                f"{hardware.title} has no link between devices", where=where, hint=f"use {key}: 1"
            )
        if not apart:
            return Group(members, per_node)
        if self.network is None:
            raise UserError(
                f"{key} = {members} does not fit into one node of {size} × {hardware.title}, and "
                "its profile knows of no network between nodes",
                where=where,
                hint="set hardware.network_gb_per_s, or use fewer devices",
            )
        if members % per_node or (size % stride and stride < size):
            raise UserError(
                f"{key} = {members} does not fill nodes of {size} × {hardware.title} evenly",
                where=where,
                hint=f"use a multiple of {per_node}",
            )
        return Group(members, per_node)
