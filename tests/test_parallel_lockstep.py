"""Steps of data-parallel attention ranks together: limits, the slowest rank, and the account."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from simulator.costs.lockstep import LockstepCostModel, travels
from simulator.costs.operators import Experts
from simulator.costs.protocol import Chunk, LockstepCost, Work
from simulator.models.layout import Layout
from simulator.results.record import StepTable
from simulator.scenario.load import load_scenario
from simulator.simulation import simulate
from tests.rig import DENSE, LATENT, MOE, cost_model, device, engine, limits, precision

IDLE = Work(0, 0, 0, 0, (), 0)


def lockstep(spec=MOE, layout: Layout | None = None, **options: Any) -> LockstepCostModel:
    return LockstepCostModel(
        spec, device(network=50.0), options.pop("profile", None) or engine(), precision(),
        layout or Layout(tp=1, dp=4, ep=4), limits(async_scheduling=True),
    )  # fmt: skip


def decoding(sequences: int, each: int) -> Work:
    return Work(sequences, sequences * each, 0, 0, (), sequences)


def prompt(tokens: int) -> Work:
    return Work(0, 0, 0, 0, (Chunk(tokens, 0),), 1)


def test_it_is_what_the_clock_asks_for() -> None:
    cost: LockstepCost = lockstep()
    assert cost.ranks == 4


@pytest.mark.parametrize("spec", [DENSE, MOE])
def test_one_rank_alone_takes_what_a_replica_of_old_takes(spec) -> None:
    one = lockstep(spec, Layout())
    plain = cost_model(spec, hardware=device())
    for work in (decoding(1, 10), decoding(7, 900), decoding(64, 3000)):
        args = work.sequences, work.context, 0, 0
        assert one.decode_together([work])[0] == pytest.approx(plain.decode(*args)[0], rel=1e-12)
        assert one.decode_together([work])[1:] == plain.decode(*args)[1:]
    for work in (prompt(1), prompt(777), Work(5, 4000, 0, 0, (Chunk(300, 100),), 5)):
        args = work.sequences, work.context, 0, work.chunks, work.sampled
        assert one.together([work]) == pytest.approx(plain.step(*args), rel=1e-12)


def test_ranks_without_experts_take_what_the_slowest_takes() -> None:
    """A dense model has nothing in common: the step is that of the slowest rank."""
    cost, plain = lockstep(DENSE, Layout(dp=4)), cost_model(DENSE, hardware=device())
    works = [decoding(3, 500), decoding(20, 2000), IDLE, decoding(7, 100)]
    assert cost.together(works) == pytest.approx(plain.decode(20, 40_000, 0, 0)[0], rel=1e-12)
    works[3] = prompt(1500)
    slow = plain.step(0, 0, 0, works[3].chunks, 1)
    assert cost.together(works) == pytest.approx(slow, rel=1e-12)


def test_the_order_of_ranks_does_not_matter_and_more_work_takes_longer() -> None:
    cost = lockstep(LATENT)
    works = [decoding(8, 500), decoding(30, 700), prompt(400), IDLE]
    base = cost.together(works)
    assert cost.together(works[::-1]) == base
    assert cost.together([*works[:3], decoding(8, 500)]) >= base
    assert cost.together([*works[:2], prompt(900), IDLE]) > base


def test_an_idle_rank_gets_padding_in_decode_steps_only() -> None:
    cost = lockstep(profile=engine())
    even = [decoding(16, 500)] * 4
    alone = [decoding(16, 500), IDLE, IDLE, IDLE]
    assert cost.together(alone) == cost.together(even)
    assert cost.together([prompt(500), IDLE, IDLE, IDLE]) < cost.together([prompt(500)] * 4)


@pytest.mark.parametrize("spec", [MOE, LATENT])
def test_a_run_of_steps_is_the_sum_of_its_steps(spec) -> None:
    cost = lockstep(spec)
    works = [decoding(12, 90), decoding(9, 700), decoding(1, 3000), IDLE]
    done = 0
    while done < 400:
        now = [work._replace(context=work.context + done * work.sequences) for work in works]
        first, slope, steps = cost.decode_together(now)
        assert steps >= 1
        for ahead in {0, min(steps, 50) // 2, min(steps, 50) - 1}:
            then = [work._replace(context=work.context + ahead * work.sequences) for work in now]
            expected = cost.decode_together(then)[0]
            assert first + ahead * slope == pytest.approx(expected, rel=1e-9)
        done += min(steps, 50)


def test_own_part_and_common_part_make_the_device_time() -> None:
    cost = lockstep()
    works = [decoding(16, 500), decoding(16, 900), IDLE, decoding(3, 100)]
    slowest = max(cost.own(work)[0] for work in works)
    assert cost.own(IDLE) == (0.0, 0.0)
    assert cost.together(works) >= slowest + cost._common_s(16, 64) - 1e-12


# --- the account ---------------------------------------------------------------------------------


def table(rows: list[dict[str, float]]) -> StepTable:
    columns = {}
    for field in fields(StepTable):
        values = [row.get(field.name, 0) for row in rows]
        kind = np.int64 if "Ints" in str(field.type) else np.float64
        columns[field.name] = np.array(values, dtype=kind)
    return StepTable(**columns)


def row(cost: LockstepCostModel, works: list[Work], which: int, start: float) -> dict[str, float]:
    work = works[which]
    new = sum(chunk.new for chunk in work.chunks)
    first = cost.together(works)
    return {
        "start_s": start, "steps": 1, "first_s": first, "decode": work.sequences,
        "stall_s": max(cost.own(other)[0] for other in works) - cost.own(work)[0],
        "context": work.context, "prefill": len(work.chunks), "prefill_tokens": new,
        "prefill_pairs": new * (new + 1) / 2, "prefill_context": new, "sampled": work.sampled,
        "gap_tokens": work.sequences,
    }  # fmt: skip


@pytest.mark.parametrize(
    "works",
    [
        [decoding(16, 500), decoding(8, 900), IDLE, decoding(3, 100)],
        [decoding(16, 500), prompt(700), IDLE, decoding(3, 100)],
        [prompt(700)] * 4,
    ],
)
def test_rows_of_ranks_add_up(works: list[Work]) -> None:
    cost = lockstep(LATENT, Layout(tp=2, dp=4, ep=8))
    busy = [which for which, work in enumerate(works) if work != IDLE]
    rows = [row(cost, works, which, start) for start in (0.0, 5.0) for which in busy]
    steps = table(rows)
    work = cost.account(steps)
    total = np.sum(list(work.operator_s.values()), axis=0)
    assert total == pytest.approx(steps.duration_s, rel=1e-9)
    # Each row stands for its share of all eight devices.
    idle_j = steps.duration_s.sum() / len(busy) * 8 * 100
    assert idle_j <= work.energy_j.sum() <= 7 * idle_j
    # Arithmetic of the tokens at hand, wherever it is done.
    tokens = sum(w.sequences + sum(c.new for c in w.chunks) for w in works)
    linear = sum(
        2 * op.count * op.n * op.k for op in cost.operators if hasattr(op, "n") and not op.sampled
    )
    experts = sum(
        6 * op.count * op.placed.top_k * op.hidden * op.width
        for op in cost.operators
        if isinstance(op, Experts)
    )
    least = 2 * tokens * (2 * linear + experts)  # two steps, two devices a rank
    assert least < work.model_flops.sum() < 1.5 * least


def test_travel_is_part_of_the_account() -> None:
    cost = lockstep(LATENT, Layout(tp=2, dp=4, ep=8))
    works = [decoding(16, 500)] * 4
    work = cost.account(table([row(cost, works, which, 0.0) for which in range(4)]))
    assert {"dispatch", "combine"} <= set(work.operator_s)
    assert sum(map(travels, cost.operators)) == 2
    assert all(work.operator_s["dispatch"] > 0)


def test_answers_to_a_prompt_on_other_ranks_are_queued_after_they_were_sent() -> None:
    """Each rank has a front end, and that of a further answer has not seen the prompt."""
    lengths = {
        "kind": "independent",
        "input": {"kind": "fixed", "tokens": 300},
        "output": {"kind": "fixed", "tokens": 4},
    }
    scenario = load_scenario(
        {
            "model": "mixtral-8x7b", "hardware": "h100-sxm", "engine": "vllm",
            "parallelism": {"dp": 2, "ep": 2},
            "workload": {
                "kind": "synthetic", "requests": 20, "samples": {"n": 2}, "lengths": lengths,
                "arrivals": {"kind": "constant", "rate_per_s": 20.0},
            },
        }
    )  # fmt: skip
    result = simulate(scenario, intervals=False)
    assert (result.record.queued_s > result.record.sent_s).all()
    assert result.summary()["checks"]["violations"] == []
