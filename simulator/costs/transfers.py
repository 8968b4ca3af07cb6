"""The ways of hidden states between the stages of a replica."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.costs.links import NETWORK_SHARE, Fabric
from simulator.deployment import ResolvedPrecision
from simulator.engines.profile import EngineProfile
from simulator.errors import UserError
from simulator.hardware.forms import CollectiveEfficiency
from simulator.hardware.profile import HardwareProfile
from simulator.models.counting import element_bytes
from simulator.models.layout import Layout
from simulator.models.spec import ModelSpec

TENSORS = 2
"""What travels from stage to stage: hidden states and the residual stream (vllm, the intermediate
tensors of its model classes)."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """The way from one stage to the next. Each device sends its share of the bytes to one device,
    and those of the next stage put the shares together where they share layers.

    ``seconds_per_token`` keeps the link busy, ``latency_s`` comes on top; ``bytes_per_token``: of
    one device.
    """

    seconds_per_token: float
    latency_s: float
    bytes_per_token: float


def transfers(
    spec: ModelSpec,
    hardware: HardwareProfile,
    engine: EngineProfile,
    precision: ResolvedPrecision,
    layout: Layout,
) -> list[Transfer]:
    """The ways between the stages of a replica, whose devices fill one node after the other.

    Raises:
        UserError: nothing joins devices of a node, or nodes.
    """
    network = Fabric(hardware).network
    per_stage, node = layout.devices // layout.pp, hardware.node.devices
    efficiency = hardware.efficiency.seen_by(engine.name)
    wide = element_bytes(precision.activations) if precision.activations == "fp32" else 2.0
    whole = TENSORS * spec.hidden * wide
    # Devices of one node share layers, so each sends a part and all put the parts together.
    parts = layout.tp if layout.tp <= node else 1
    gather, again_s = 0.0, 0.0
    if parts > 1:
        form, link = efficiency.all_gather or efficiency.collective, hardware.link_bytes_per_s
        assert link is not None
        gather, again_s = _line(form, parts, whole * (parts - 1) / parts, link)
    found = []
    for stage in range(1, layout.pp):
        first = stage * per_stage
        apart = any((d - per_stage) // node != d // node for d in range(first, first + per_stage))
        if apart:
            if network is None:
                raise UserError(
                    f"pp = {layout.pp} stages of {per_stage} devices do not fit into one node of "
                    f"{node} × {hardware.title}, and its profile knows of no network between nodes",
                    where="parallelism.pp",
                    hint="set hardware.network_gb_per_s, or use fewer devices",
                )
            rate = NETWORK_SHARE * network.bytes_per_s
            seconds, latency_s = whole / parts / rate, network.latency_s
        else:
            if hardware.link_bytes_per_s is None:
                raise UserError(
                    f"{hardware.title} has no link between devices",
                    where="parallelism.pp",
                    hint="use pp: 1",
                )
            seconds, latency_s = _line(
                efficiency.collective, 2, whole / parts, hardware.link_bytes_per_s
            )
        sent = whole / parts + whole * (parts - 1) / parts
        found.append(Transfer(seconds + gather, latency_s + again_s, sent))
    return found


def _line(
    form: CollectiveEfficiency, devices: int, traffic: float, link: float
) -> tuple[float, float]:
    """Seconds a token of so many bytes, and latency, of a form without its corrections."""
    latency_s = float(form.seconds(devices, 0.0, link))
    return max(float(form.seconds(devices, traffic, link)) - latency_s, traffic / link), latency_s
