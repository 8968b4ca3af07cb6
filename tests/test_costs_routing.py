"""Loads of experts: what skewed routing reads and costs, against drawing tokens one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulator.costs import routing
from simulator.costs.operators import Experts
from simulator.workload.requests import Floats
from tests.rig import IDEAL, MOE, cost_model, device, shape


def _load(tokens: float, skew: float, experts: int = 64, top_k: int = 4) -> tuple[Floats, Floats]:
    steps = np.array([tokens])
    load = routing.loads(steps, experts, top_k, np.array([skew]))
    return load, routing.drawn(load, steps)


@pytest.mark.parametrize("tokens", [1, 2, 7, 64, 5000])
@pytest.mark.parametrize("skew", [1.0, 5.0, 50.0, 1000.0])
def test_loads_add_up_and_no_expert_gets_more_than_all(tokens: int, skew: float) -> None:
    load, reached = _load(tokens, skew)
    assert load.mean() * 64 == pytest.approx(4 * tokens, rel=0.01)
    assert load.max() <= tokens
    assert np.all(reached <= np.minimum(load, 1.0) * (1 + 1e-12))
    assert load.max() / load.min() <= skew * (1 + 1e-9)


@pytest.mark.parametrize("skew", [5.0, 50.0])
def test_experts_reached_against_drawing_tokens(skew: float) -> None:
    """Every token goes to each expert with the probability of its popularity."""
    rng = np.random.default_rng(2)
    popularity = skew ** ((np.arange(64) + 0.5) / 64)
    popularity *= 4 / popularity.sum()
    for tokens in (4, 16, 100):
        hits = rng.random((300, tokens, 64)) < popularity
        seen = hits.any(axis=1).sum(axis=1).mean()
        _, reached = _load(tokens, skew)
        assert reached.mean() * 64 == pytest.approx(seen, rel=0.02)


def _flat_then_rising(load: Floats) -> Floats:
    return np.where(load < 1, load, np.maximum(1.0, load / 100))


def test_equal_loads_take_what_the_balanced_table_says() -> None:
    load = np.full((3, routing.POINTS), np.array([[0.25], [20.0], [640.0]]))
    reached = np.minimum(load, 1.0)
    found = routing.seconds(_flat_then_rising, load, reached, tiling=1.0)
    assert found == pytest.approx([0.25, 1.0, 6.4])


def test_unequal_loads_cost_where_time_bends_and_tiles_cost_where_there_are_more() -> None:
    load, reached = _load(1600, 50.0)  # 100 tokens an expert on average
    smooth = routing.seconds(_flat_then_rising, load, reached, 0.0)[0]
    assert smooth == pytest.approx(np.maximum(reached, load / 100).mean(), rel=1e-6)
    assert 1.2 < smooth < 2.0
    tiles = np.ceil(load / 64).mean() / (load.mean() / 64)
    tiled = routing.seconds(_flat_then_rising, load, reached, 0.5)[0]
    assert tiled == pytest.approx(smooth * (1 + 0.5 * (tiles - 1)), rel=0.01)
    few, some = _load(16, 50.0)
    plain, more = (routing.seconds(_flat_then_rising, few, some, t)[0] for t in (0.0, 1.0))
    assert plain == pytest.approx(some.mean(), rel=1e-6)
    assert more == plain  # no expert gets more than the smallest tile holds


def _experts(skew: float) -> Experts:
    operators = cost_model(MOE, hardware=device(IDEAL)).operators
    (found,) = (op for op in operators if isinstance(op, Experts))
    return replace(found, skew=skew)


def test_the_operator_repeats_no_size_and_keeps_the_floors() -> None:
    once = _experts(50.0).demand(shape(tokens=300))
    sizes = np.array([300.0, 0.0, 7.0, 300.0])
    many = _experts(50.0).demand(replace(shape(), tokens=sizes))
    assert many.seconds[[0, 3]] == pytest.approx([once.seconds[0]] * 2)
    assert many.seconds[1] == many.moved[1] == many.flops[1] == 0
    assert np.all(many.seconds >= many.moved / 3000e9 * (1 - 1e-12))
    assert np.all(many.seconds >= many.flops / 1000e12 * (1 - 1e-12))


def test_skewed_routing_reads_fewer_experts_and_computes_the_same() -> None:
    even, skewed = (_experts(skew).demand(shape(tokens=24)) for skew in (1.0, 50.0))
    assert skewed.flops[0] == pytest.approx(even.flops[0])
    assert 0.6 < skewed.moved[0] / even.moved[0] < 0.95
    assert skewed.seconds[0] < even.seconds[0]
