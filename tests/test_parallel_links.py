"""Devices over several nodes: who is where, and what hierarchical collectives take."""

from __future__ import annotations

import pytest

from simulator.costs.exchange import AllToAll, NodeCollective
from simulator.costs.links import NETWORK_LATENCY_US, NETWORK_SHARE, Fabric, Group
from simulator.costs.operators import Collective, Operator
from simulator.errors import UserError
from simulator.hardware.efficiency import EXCHANGE_PRIOR
from simulator.hardware.profile import Figure
from simulator.models.layout import Layout
from simulator.models.spec import DenseMlp, GroupedAttention, LayerGroup
from tests.rig import DENSE, FULL, IDEAL, MOE, cost_model, device, model, shape

LINK, NETWORK = 400e9, 50e9
HOP = NETWORK_LATENCY_US * 1e-6


def operators(layout: Layout, *, spec=DENSE, devices: int = 8) -> dict[str, Operator]:
    """By name; of several with the same name the one of the layers."""
    found = cost_model(spec, hardware=device(IDEAL, devices=devices, network=50.0), layout=layout)
    return {op.name: op for op in reversed(found.operators)}


def seconds(op: Operator, tokens: float) -> float:
    return float(op.demand(shape(tokens=tokens, sampled=tokens)).seconds[0])


# --- who is where --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "stride", "per_node", "nodes", "hops"),
    [(8, 1, 8, 1, 0), (16, 1, 8, 2, 1), (64, 1, 8, 8, 3), (4, 2, 4, 1, 0), (8, 2, 4, 2, 1),
     (4, 8, 1, 4, 2), (3, 16, 1, 3, 2), (24, 1, 8, 3, 2)],
)  # fmt: skip
def test_groups(members: int, stride: int, per_node: int, nodes: int, hops: int) -> None:
    group = Fabric(device(network=50.0)).group(members, where="parallelism.tp", stride=stride)
    assert group == Group(members, per_node)
    assert (group.nodes, group.hops) == (nodes, hops)


@pytest.mark.parametrize(
    ("hardware", "members", "sentence"),
    [
        (device(link=False), 2,
         "parallelism.tp: Round Device has no link between devices; use tp: 1"),
        (device(), 16,
         "parallelism.tp: tp = 16 does not fit into one node of 8 × Round Device, and its profile "
         "knows of no network between nodes; set hardware.network_gb_per_s, or use fewer devices"),
        (device(network=50.0), 12,
         "parallelism.tp: tp = 12 does not fill nodes of 8 × Round Device evenly; use a multiple "
         "of 8"),
    ],
)  # fmt: skip
def test_devices_that_nothing_joins_are_refused(hardware, members: int, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        Fabric(hardware).group(members, where="parallelism.tp")
    assert str(caught.value) == sentence


def test_groups_across_nodes_are_refused() -> None:
    Fabric(device(network=50.0)).check_fill(4, 64)
    Fabric(device(network=50.0)).check_fill(3, 6)
    with pytest.raises(UserError) as caught:
        Fabric(device(network=50.0)).check_fill(3, 12)
    assert str(caught.value) == (
        "parallelism.tp: tp = 3 leaves groups of a replica's 12 devices across nodes of 8 × Round "
        "Device; use a number that divides 8"
    )
    spec = model(LayerGroup(2, GroupedAttention(24, 24, 64), FULL, DenseMlp(1536)))
    with pytest.raises(UserError, match="across nodes of 8"):
        cost_model(spec, hardware=device(network=50.0), layout=Layout(tp=3, cp=4))


# --- collectives ---------------------------------------------------------------------------------


def test_one_node_is_as_ever() -> None:
    assert type(operators(Layout(8))["all_reduce"]) is Collective
    assert type(operators(Layout(16))["all_reduce"]) is NodeCollective


@pytest.mark.parametrize("tokens", [1, 64, 8192])
def test_an_all_reduce_over_two_nodes_by_hand(tokens: int) -> None:
    """Reduce-scatter and all-gather of 7/8 of the message over the links; an eighth of it is
    summed over two nodes, which moves it once over the network. No latency within the node."""
    message = tokens * 4096 * 2
    within = 2 * message * 7 / 8 / LINK
    between = 2 * message / 8 * 1 / 2 / (NETWORK_SHARE * NETWORK) + 2 * HOP
    found = seconds(operators(Layout(16))["all_reduce"], tokens)
    assert found == pytest.approx(2 * 32 * (within + between))
    work = operators(Layout(16))["all_reduce"].demand(shape(tokens=tokens))
    assert work.seconds[0] == pytest.approx(work.latency_s[0] + work.network_s[0])


def test_an_all_gather_over_two_nodes_by_hand() -> None:
    whole = 100 * 32_000 * 2
    within = whole * 7 / 8 / LINK
    between = whole / 8 / 2 / (NETWORK_SHARE * NETWORK) + HOP
    found = seconds(operators(Layout(16))["all_gather"], 100)
    assert found == pytest.approx(within + between)


def test_nodes_of_one_device_have_the_network_alone() -> None:
    message = 500 * 4096 * 2
    ring = 2 * message * 3 / 4 / (NETWORK_SHARE * NETWORK) + 2 * 2 * HOP
    found = seconds(operators(Layout(4), devices=1)["all_reduce"], 500)
    assert found == pytest.approx(2 * 32 * ring)


def test_the_network_is_what_costs() -> None:
    times = [seconds(operators(Layout(tp))["all_reduce"], 4096) for tp in (8, 16, 32)]
    assert times[1] > 1.3 * times[0]
    assert times[2] > times[1]
    floor = 64 * 2 * 4096 * 4096 * 2 / 8 / 2 / NETWORK
    assert times[1] > floor


# --- tokens on their way to the experts ----------------------------------------------------------


def test_copies_that_travel_by_hand() -> None:
    """64 experts, 4 a token, 16 ranks on 2 nodes: a copy for each expert with the low-latency
    kernel, 7 and 8 of 16 times to another device; one copy for each device and node otherwise."""
    op = operators(Layout(tp=1, dp=16, ep=16), spec=MOE)["dispatch"]
    assert isinstance(op, AllToAll)
    assert op.low_latency.near == pytest.approx(4 * 7 / 16)
    assert op.low_latency.far == pytest.approx(4 * 8 / 16)
    missed = 32 * 31 * 30 * 29 / (64 * 63 * 62 * 61)  # all four on the other node
    assert op.throughput.far == pytest.approx(1 - missed)
    devices = 16 * (1 - 60 * 59 * 58 * 57 / (64 * 63 * 62 * 61))
    assert op.throughput.near == pytest.approx(devices * 7 / 8)


def test_one_node_needs_no_network() -> None:
    found = cost_model(MOE, hardware=device(IDEAL), layout=Layout(tp=2, dp=4, ep=8))
    travelling = [op for op in found.operators if isinstance(op, AllToAll)]
    assert [op.name for op in travelling] == ["dispatch", "combine"]
    for op in travelling:
        assert op.low_latency.far == op.throughput.far == 0.0
        assert op.nodes == 1


@pytest.mark.parametrize("tokens", [1, 100, 256, 257, 8192])
def test_travel_is_never_faster_than_what_it_sends(tokens: int) -> None:
    op = operators(Layout(tp=1, dp=16, ep=16), spec=MOE)["combine"]
    assert isinstance(op, AllToAll)
    size = tokens * 4096 * 2 * 24  # 24 layers
    least = min(
        max(size * route.near / LINK, size * route.far / NETWORK)
        for route in (op.low_latency, op.throughput)
    )
    assert seconds(op, tokens) > least
    assert seconds(op, 2 * tokens) > seconds(op, tokens)


def test_experts_that_everybody_has_a_part_of_need_all_tokens() -> None:
    """Without expert parallelism tokens are gathered from all ranks and results scattered."""
    op = operators(Layout(tp=1, dp=8), spec=MOE)["dispatch"]
    assert isinstance(op, Collective)
    everything = 8 * 1000 * 4096 * 2
    assert seconds(op, 1000) == pytest.approx(24 * everything * 7 / 8 / LINK)


@pytest.mark.parametrize("kind", sorted(EXCHANGE_PRIOR))
@pytest.mark.parametrize(
    ("name", "value"),
    [("bandwidth", 0.01), ("network", 0.01), ("latency_us", 90.0), ("per_doubling_us", 90.0)],
)
def test_every_coefficient_of_the_exchange_matters(kind: str, name: str, value: float) -> None:
    """From 16 ranks on two nodes; few tokens take the kernels for low latency."""
    way = kind.rpartition("-")[2]
    tokens = 64 if kind.startswith("low") else 4096

    def taken(**changed: float) -> float:
        own = EXCHANGE_PRIOR[kind].model_copy(update=changed)  # type: ignore[index]
        found = device(IDEAL | {"exchange": {kind: own.model_dump()}}, network=50.0)
        layout = Layout(tp=1, dp=16, ep=16)
        ops = cost_model(MOE, hardware=found, layout=layout).operators
        return sum(seconds(op, tokens) for op in ops if op.name == way)

    if name == "bandwidth" and kind.startswith("low"):
        value = 0.001
    assert taken(**{name: value}) > 1.02 * taken()


def test_a_profile_may_say_how_long_a_hop_takes() -> None:
    slow = device(IDEAL, network=50.0)
    figure = Figure(value=70.0, source="round")
    slow = slow.model_copy(
        update={"node": slow.node.model_copy(update={"network_latency_us": figure})}
    )
    once, late = (
        cost_model(hardware=hardware, layout=Layout(16)).operators
        for hardware in (device(IDEAL, network=50.0), slow)
    )
    more = sum(seconds(op, 1) for op in late) - sum(seconds(op, 1) for op in once)
    assert more == pytest.approx((65 * 2 + 1) * (70e-6 - HOP))
