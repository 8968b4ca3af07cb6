"""What is said about a run afterwards adds up to what the clock took."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator.cluster import run_cluster
from simulator.costs.model import StepCostModel
from simulator.costs.protocol import Chunk, local_pairs
from simulator.engines.profile import EngineProfile
from simulator.models.counting import active_parameters, embedding_parameters
from simulator.models.spec import ModelSpec
from simulator.results.record import RunRecord, StepTable
from simulator.scenario.policies import PrefillFirstPolicy, StaticPolicy
from simulator.workload.requests import Requests
from tests.rig import (
    BANDWIDTH,
    DENSE,
    LATENT,
    LINK,
    MODELS,
    MOE,
    PEAK,
    cost_model,
    engine,
    launch_s,
    limits,
    requests,
    rows,
)


def traffic(seed: int = 3, n: int = 60) -> Requests:
    """Bursts of prompts of very different lengths."""
    rng = np.random.default_rng(seed)
    at = np.sort(rng.choice([0.0, 0.3, 0.31, 1.5], n) + rng.random(n) * 0.2)
    return requests(
        *zip(
            at.tolist(),
            rng.integers(1, 2500, n).tolist(),
            rng.integers(1, 400, n).tolist(),
            strict=True,
        )
    )


PROFILES = {
    "bare": engine(),
    "graphs, some host": engine(
        sizes=(1, 2, 4, 8, 16, 32), piecewise=True, launch_us=6,
        step_ms=1, per_seq_us=10, overlap=0.6,
    ),
    "launch-bound": engine(launch_us=40, step_ms=0.5, per_token_us=0.2),
    "host-bound": engine(step_ms=9, per_seq_us=50, per_token_us=1, overlap=0.9),
}  # fmt: skip


def run(cost: StepCostModel, kv_blocks: int = 5000, policy: Any = None, **more: Any) -> RunRecord:
    settings = limits(policy, seqs=32, budget=1024, prefix_caching=False)
    return run_cluster(traffic(), settings, kv_blocks, cost, **more)


def hosts_share(cost: StepCostModel, profile: EngineProfile, spec: ModelSpec, table: StepTable,
                device_s: np.ndarray) -> np.ndarray:  # fmt: skip
    """What a row takes beyond its kernels, by the engine profile's words."""
    host, graphs = profile.host, profile.cuda_graphs
    tokens = table.decode + table.prefill_tokens
    on_host = host.step_ms * 1e-3 + 1e-6 * (
        host.per_seq_us * (table.decode + table.prefill) + host.per_token_us * tokens
    )
    eager = np.full(len(table), not graphs.enabled)
    if graphs.enabled:
        eager = (tokens > graphs.sizes[-1]) | ((table.prefill > 0) & (not graphs.piecewise))
    launches = eager * launch_s(cost, profile)
    floor = np.maximum(launches, host.overlap * on_host)
    idle = np.maximum(floor * table.steps - device_s, 0.0)
    return np.asarray(idle + (1 - host.overlap) * on_host * table.steps)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES.keys())
@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS.keys())
def test_operators_and_host_add_up_to_the_clock(spec: ModelSpec, profile: EngineProfile) -> None:
    """Row by row on a run with leaps, mixed steps and preemptions; what the host is said to take
    is what the engine's profile says, not just the rest."""
    cost = cost_model(
        spec, profile=profile, limit=limits(seqs=32, budget=1024, async_scheduling=True)
    )
    record = run(cost, kv_blocks=450)
    table = record.steps
    assert record.preemptions.sum() > 5
    assert (table.steps > 20).any()
    work = cost.account(table)
    duration = table.duration_s
    parts = {name: part for name, part in work.operator_s.items() if name != "host"}
    device_s = np.sum(list(parts.values()), axis=0)
    assert all((part >= 0).all() for part in parts.values())
    expected = hosts_share(cost, profile, spec, table, device_s)
    np.testing.assert_allclose(device_s + expected, duration, rtol=1e-9)
    np.testing.assert_allclose(work.operator_s["host"], expected, atol=1e-9 * duration.max())
    np.testing.assert_allclose(sum(work.resource_s.values()), duration, rtol=1e-9)


@pytest.mark.parametrize("policy", [PrefillFirstPolicy(), StaticPolicy(batch_size=8)], ids=str)
def test_it_adds_up_under_other_policies(policy: Any) -> None:
    profile = PROFILES["graphs, some host"]
    cost = cost_model(
        DENSE, profile=profile, limit=limits(seqs=32, budget=1024, async_scheduling=True), tp=4
    )
    table = run(cost, policy=policy).steps
    work = cost.account(table)
    device_s = np.sum([s for name, s in work.operator_s.items() if name != "host"], axis=0)
    expected = hosts_share(cost, profile, DENSE, table, device_s)
    np.testing.assert_allclose(device_s + expected, table.duration_s, rtol=1e-9)


@pytest.mark.parametrize("tp", [1, 4])
@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS.keys())
def test_no_row_beats_the_machine(spec: ModelSpec, tp: int) -> None:
    cost = cost_model(spec, profile=PROFILES["graphs, some host"], tp=tp)
    table = run(cost).steps
    work, duration = cost.account(table), table.duration_s
    assert (work.model_flops <= duration * tp * PEAK).all()
    assert (work.link_bytes <= duration * LINK).all()
    assert (work.hbm_bytes <= 1.02 * duration * tp * BANDWIDTH).all()
    assert (work.link_bytes > 0).all() == (tp > 1)
    assert cost.peak_flops == tp * PEAK
    assert cost.peak_bytes_per_s == tp * BANDWIDTH
    idle, most = 100 * tp, 700 * tp
    assert (work.energy_j > idle * duration).all()
    assert (work.energy_j <= most * duration * (1 + 1e-12)).all()


@pytest.mark.parametrize("tp", [1, 4])
@pytest.mark.parametrize("spec", [DENSE, MOE], ids=["dense", "moe"])
def test_model_flops_count_neither_padding_nor_recomputation(spec: ModelSpec, tp: int) -> None:
    """Two for each parameter and useful token, and attention, whatever the engine wastes."""
    profile = engine(sizes=(64, 1024), piecewise=True)
    cost = cost_model(
        spec, profile=profile, limit=limits(seqs=32, budget=1024, async_scheduling=True), tp=tp
    )
    record = run(cost, kv_blocks=450)
    table = record.steps
    assert table.wasted_tokens.sum() > 1000
    asked = record.requests
    prompt, output = asked.input_tokens, asked.output_tokens
    head = embedding_parameters(spec)
    # The last token of an answer is sampled, but never computed.
    last = (prompt + output - 1).astype(float)
    products = 2.0 * (active_parameters(spec) - 2 * head) * last.sum()
    products += 2.0 * head * float(output.sum())
    attention = 4.0 * spec.layers * 32 * 128 * float((last * (last + 1) / 2).sum())
    counted = float(cost.account(table).model_flops.sum())
    assert counted == pytest.approx(products + attention, rel=0.02)


def test_resources_follow_the_regime() -> None:
    """Small batches wait for memory, prompts for arithmetic, eager steps for the host."""
    cost = cost_model(DENSE)
    work = cost.account(rows(cost, (2, 2000, [], 100), (0, 0, [Chunk(2000, 0)], 1)))
    share = {name: part / sum(work.resource_s.values()) for name, part in work.resource_s.items()}
    assert share["memory"][0] > 0.8
    assert share["compute"][1] > 0.7
    eager = cost_model(DENSE, profile=engine(launch_us=100))
    work = eager.account(rows(eager, (2, 2000, [], 100)))
    assert work.resource_s["host"][0] > 0.7 * sum(work.resource_s.values())[0]
    wide = cost_model(DENSE, tp=8)
    work = wide.account(rows(wide, (64, 6400, [], 10)))
    assert work.operator_s["all_reduce"][0] > 0
    assert work.resource_s["network"][0] > 0


def test_a_leap_is_the_sum_of_its_steps() -> None:
    """One row of 400 steps and 400 rows of one step have the same work behind them."""
    for spec, context in ((DENSE, 2000), (LATENT, 900_000)):
        cost = cost_model(spec, profile=PROFILES["graphs, some host"])
        leap = cost.account(rows(cost, (20, context, [], 400)))
        single = cost.account(rows(cost, *((20, context + 20 * i, [], 1) for i in range(400))))
        for name in ("model_flops", "hbm_bytes", "link_bytes"):
            assert getattr(leap, name).sum() == pytest.approx(getattr(single, name).sum())
        # Power bends at the TDP, elsewhere it is straight.
        assert leap.energy_j.sum() == pytest.approx(single.energy_j.sum(), rel=1e-6)
        for name, part in leap.operator_s.items():
            assert part.sum() == pytest.approx(single.operator_s[name].sum()), name


def test_rows_of_a_local_model_hold_the_pairs_of_their_chunks() -> None:
    spec = MODELS["window"]
    cost = cost_model(spec, limit=limits(seqs=32, budget=1024, async_scheduling=True))
    asked = requests((0.0, 3000, 1))
    table = run_cluster(asked, limits(seqs=32, budget=1024), 5000, cost).steps
    assert table.prefill_tokens.tolist() == [1024, 1024, 952]
    assert table.prefill_context.tolist() == [1024, 2048, 3000]
    assert table.prefill_pairs.sum() == 3000 * 3001 / 2
    assert table.local_pairs.tolist() == [
        local_pairs(1024, 0, 512, chunked=False), 1024 * 512, 952 * 512
    ]  # fmt: skip
