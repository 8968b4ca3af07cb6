"""Corrections: interpolated factors, and a clock that still equals the sum of its operators."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from simulator.costs.protocol import Chunk
from simulator.hardware.corrections import Grid
from simulator.hardware.forms import MatmulEfficiency
from simulator.models.spec import ModelSpec
from tests.rig import BANDWIDTH, MODELS, PEAK, REAL, cost_model, decode_shape, device, shape, total

ON_MODELS = pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS.keys())


def test_logarithms_are_interpolated_over_logarithms() -> None:
    grid = Grid.model_validate({"axes": {"m": [4, 64], "k": [1, 2]}, "percent": "0 0\n300 300"})
    assert np.exp(grid.log_factor({"m": 16, "k": 1.5})) == pytest.approx(2.0)
    at = grid.log_factor({"m": np.array([0.0, 1.0, 4.0, 64.0, 1e9]), "k": 1.0})
    np.testing.assert_allclose(np.exp(at), [1, 1, 1, 4, 4])
    assert np.exp(grid.log_factor({"m": np.inf, "k": np.inf})) == pytest.approx(4.0)


def test_factors_of_several_grids_multiply() -> None:
    grids = (
        {"axes": {"m": (1, 2)}, "percent": (100, 100)},
        {"axes": {"n": (1, 2)}, "percent": "50 50"},
    )
    form = MatmulEfficiency.model_validate(
        {"compute": 1, "bandwidth": 1, "overhead_us": 1, "sharpness": 1, "corrections": grids}
    )
    assert form.factor(m=1, n=1, k=1) == pytest.approx(3.0)
    assert form.knots("m") == (1, 2)
    assert form.knots("k") == ()


@pytest.mark.parametrize(
    ("grid", "sentence"),
    [
        ({"axes": {"m": [2, 1]}, "percent": "1 2"}, "axes.m needs two or more knots in ascending"),
        ({"axes": {"m": [1]}, "percent": "1"}, "axes.m needs two or more knots"),
        ({"axes": {"m": [1, 2]}, "percent": "1 2 3"}, "percent needs 2 numbers for these axes, not"),
        ({"axes": {"m": [1, 2]}, "percent": "1 b"}, "percent must be numbers"),
        ({"axes": {"m": [1, 2]}, "percent": "1 -100"}, "must lie between -99 and"),
        ({"axes": {"size": [1, 2]}, "percent": "1 2"}, "'size' is none of m, n, k"),
    ],
)  # fmt: skip
def test_what_is_no_grid_is_a_sentence(grid: dict[str, Any], sentence: str) -> None:
    form = {"compute": 1, "bandwidth": 1, "overhead_us": 1, "sharpness": 1, "corrections": [grid]}
    with pytest.raises(ValidationError, match=sentence):
        MatmulEfficiency.model_validate(form)


def _corrected(scale: float = 1.0) -> dict[str, Any]:
    """REAL with uneven corrections everywhere."""
    real = copy.deepcopy(REAL)
    rng = np.random.default_rng(0)

    def grid(**axes: list[float]) -> dict[str, Any]:
        size = int(np.prod([len(knots) for knots in axes.values()]))
        percent = scale * rng.uniform(-30, 40, size)
        return {"axes": axes, "percent": tuple(percent.tolist())}

    for entry in real["matmul"].values():
        entry["corrections"] = [grid(m=[1, 64, 512], n=[512, 4096], k=[512, 4096])]
    for entry in real["grouped_matmul"].values():
        entry["corrections"] = [grid(tokens_per_expert=[0.1, 4, 64], width=[512, 2048])]
    for entry in real["prefill_attention"].values():
        entry["corrections"] = [
            grid(reach=[16, 256, 2048], queries=[512, 8192, 131072]),
            grid(queries=[512, 131072], head_dim=[64, 128]),
            grid(reach=[16, 2048], sharing=[1, 8]),
        ]
    for entry in real["decode_attention"].values():
        entry["corrections"] = [
            grid(units=[1, 32, 512], tokens=[16, 256, 1024, 16384]),
            grid(tokens=[16, 512, 16384], head_dim=[64, 128]),
        ]
    return real


@ON_MODELS
@pytest.mark.parametrize("sequences", [1, 9, 64, 300])
def test_a_decode_line_is_every_step_it_claims(spec: ModelSpec, sequences: int) -> None:
    cost = cost_model(spec, hardware=device(_corrected()))
    context = near = sequences
    stretches = 0
    while context < 20_000 * sequences:
        growth = sequences if near < 1000 * sequences else 0
        first, slope, steps = cost.decode(sequences, context, near, growth)
        steps = min(steps, 5000)
        assert steps >= 1
        assert slope >= 0
        for i in sorted({0, 1, steps // 2, steps - 1}):
            at = decode_shape(sequences, context + i * sequences, near + i * growth)
            assert first + i * slope == pytest.approx(total(cost.operators, at), rel=1e-9)
        context, near = context + steps * sequences, near + steps * growth
        stretches += 1
    assert stretches < 30


@ON_MODELS
@pytest.mark.parametrize(
    ("sequences", "chunks"),
    [
        (0, [Chunk(300, 0)]), (0, [Chunk(512, 4096)]), (20, [Chunk(1000, 0)]), (0, [Chunk(1, 40)]),
        (50, [Chunk(9, 0), Chunk(900, 2000)]), (3, [Chunk(2000, 30_000)]),
    ],
)  # fmt: skip
def test_a_mixed_step_is_the_sum_of_its_operators(
    spec: ModelSpec, sequences: int, chunks: list[Chunk]
) -> None:
    for scale in (1.0, 2.4):
        cost = cost_model(spec, hardware=device(_corrected(scale)))
        context, near = sequences * 900, sequences * 400
        span = cost.local_span
        table = {
            "tokens": sequences + sum(c.new for c in chunks),
            "sampled": sequences + 1,
            "decode": sequences,
            "context": context,
            "local_context": near,
            "prefill": sum(c.new for c in chunks),
            "chunks": len(chunks),
            "read": sum(c.new + c.past for c in chunks),
            "pairs": sum(c.new * c.past + c.new * (c.new + 1) // 2 for c in chunks),
        }
        table["local_read"] = min(table["read"], table["prefill"] + len(chunks) * span)
        from simulator.costs.protocol import local_pairs

        table["local_pairs"] = span and sum(
            local_pairs(c.new, c.past, span, chunked=cost.local_is_chunked) for c in chunks
        )
        took = cost.step(sequences, context, near, chunks, sequences + 1)
        assert took == pytest.approx(total(cost.operators, shape(**table)), rel=1e-9)


@ON_MODELS
def test_no_correction_breaks_the_roofline(spec: ModelSpec) -> None:
    fast = _corrected()
    for family in ("matmul", "grouped_matmul", "prefill_attention", "decode_attention"):
        for entry in fast[family].values():
            for grid in entry["corrections"]:
                grid["percent"] = tuple(-98.0 for _ in grid["percent"])
    cost = cost_model(spec, hardware=device(fast))
    for step in (decode_shape(1, 5), decode_shape(40, 9e6, 4000), decode_shape(256, 3e5, 1e5)):
        for operator in cost.operators:
            demand = operator.demand(step)
            took = float(demand.seconds[0]) * (1 + 1e-12)
            assert took >= demand.moved[0] / BANDWIDTH
            assert took >= demand.flops[0] / PEAK
    first, slope, _ = cost.decode(40, 9_000_000, 4000, 0)
    moved = total(cost.operators, decode_shape(40, 9e6, 4000), "moved")
    assert first >= moved / BANDWIDTH
    more = total(cost.operators, decode_shape(40, 9e6 + 40, 4000), "moved") - moved
    assert slope >= more / BANDWIDTH * (1 - 1e-9)
