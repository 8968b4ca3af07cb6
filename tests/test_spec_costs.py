"""What a step with drafts costs, and that what is said about it afterwards adds up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulator.cluster import run_cluster
from simulator.costs.attention import DecodeAttention
from simulator.costs.model import StepCostModel
from simulator.costs.operators import Matmul
from simulator.costs.protocol import Chunk
from simulator.costs.speculative import Drafter, SpeculativeCost
from simulator.deployment import Limits, Speculation
from simulator.engines.profile import EngineProfile
from simulator.models.layout import Layout
from simulator.models.spec import LayerGroup, ModelSpec
from simulator.resolution.speculation import HeadBuilder
from simulator.results.record import RunRecord
from simulator.scenario.policies import ContinuousPolicy, PrefillFirstPolicy
from simulator.serving.acceptance import tokens_per_step
from simulator.workload.requests import Requests
from tests.rig import (
    DENSE,
    FULL,
    GQA,
    IDEAL,
    LATENT,
    MLP,
    WINDOW,
    decode_shape,
    device,
    engine,
    limits,
    model,
    precision,
    requests,
)

SMALL = model(LayerGroup(4, GQA, FULL, MLP))
LOCAL = model(replace(WINDOW.groups[0], count=3), LayerGroup(1, GQA, FULL, MLP))


def speculation(k: int = 3, alpha: float = 0.7, most: int = 1000) -> Speculation:
    return Speculation(k, (alpha,) * k, most, seed=2)


def target(spec: ModelSpec, limit: Limits, profile: EngineProfile, **more: float) -> StepCostModel:
    return StepCostModel(spec, device(), profile, precision(), Layout(), limit, **more)  # type: ignore[arg-type]


def speculative(
    spec: ModelSpec = DENSE,
    draft: ModelSpec | None = SMALL,
    asked: Speculation | None = None,
    profile: EngineProfile | None = None,
    *,
    head: bool = False,
    lookup_s: float = 0.0,
    seqs: int = 64,
    policy: ContinuousPolicy | PrefillFirstPolicy | None = None,
) -> tuple[SpeculativeCost, Limits]:
    asked, profile = asked or speculation(), profile or engine()
    limit = replace(limits(policy, seqs=seqs), speculation=asked)
    gain = tokens_per_step(asked.acceptance)
    drafter = None
    if draft is not None:
        bare = engine(sizes=profile.cuda_graphs.sizes, launch_us=profile.launches.kernel_us)
        more = {"builder": HeadBuilder} if head else {}
        drafter = Drafter(StepCostModel(
            draft, device(), bare, precision(), Layout(), limit, **more,  # type: ignore[arg-type]
        ))  # fmt: skip
    return SpeculativeCost(
        target(spec, limit, profile),
        target(spec, limit, profile, drafts=asked.tokens, gain=gain),
        asked,
        drafter=drafter,
        lookup_s=lookup_s,
    ), limit


# --- verification --------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [DENSE, LATENT], ids=["grouped", "latent"])
@pytest.mark.parametrize("k", [1, 4])
def test_keys_and_values_are_read_once_for_all_tokens(spec: ModelSpec, k: int) -> None:
    """FLOPs are those of k + 1 queries, bytes those of one and k queries more."""
    shape = decode_shape(8, 8 * 1000)
    plain, verify = (target(spec, limits(), engine(), drafts=drafts) for drafts in (0, k))
    for one, many in zip(plain.operators, verify.operators, strict=True):
        before, after = one.demand(shape), many.demand(shape)
        if isinstance(one, DecodeAttention):
            assert after.flops == pytest.approx((k + 1) * before.flops)
            assert after.moved - before.moved == pytest.approx(one.count * 8 * k * one.query_bytes)
        else:
            assert after == before


def test_layers_and_logits_see_every_token() -> None:
    """n (k + 1) tokens in the products, those of the LM head included: a step of 8 sequences with
    3 drafts takes what 32 sequences take, less attention."""
    no_attention = model(replace(DENSE.groups[0], attention=replace(GQA, heads=1, kv_heads=1)))
    limit, profile = limits(), engine(sizes=(8, 32, 40), launch_us=30)
    plain, verify = (target(no_attention, limit, profile, drafts=d) for d in (0, 3))
    assert verify.decode(8, 8, 0, 0)[0] == pytest.approx(plain.decode(32, 32, 0, 0)[0], rel=5e-3)
    # Graphs are for numbers of tokens: nine sequences with 36 tokens are padded to 40.
    assert verify.decode(9, 9, 0, 0)[0] == pytest.approx(verify.decode(10, 10, 0, 0)[0], rel=5e-3)
    assert verify.decode(10, 10, 0, 0)[0] < 0.9 * verify.decode(11, 11, 0, 0)[0]


def test_graphs_may_count_sequences_instead() -> None:
    """As those of SGLang and TensorRT-LLM: eleven sequences are padded to twelve, whatever each
    has to verify."""
    profile = engine(sizes=(8, 12), launch_us=30)
    graphs = profile.cuda_graphs.model_copy(update={"per_sequence": True})
    profile = profile.model_copy(update={"cuda_graphs": graphs})
    verify = target(DENSE, limits(), profile, drafts=3)
    times = [verify.decode(n, 12, 0, 0)[0] for n in (9, 11, 12, 13)]
    assert times[0] == pytest.approx(times[2], rel=0.05)
    assert times[3] > 1.2 * times[2]  # kernel by kernel


def test_nothing_verified_is_the_plain_model() -> None:
    profile = engine(
        sizes=(8, 32), launch_us=5, step_ms=1, per_seq_us=3, per_token_us=1, token_us=2
    )
    plain, none = (target(DENSE, limits(), profile, **more) for more in ({}, {"drafts": 0}))
    assert plain.decode(7, 900, 0, 0) == none.decode(7, 900, 0, 0)
    chunks = [Chunk(100, 20)]
    assert plain.step(7, 900, 0, chunks, 8) == none.step(7, 900, 0, chunks, 8)


def test_no_faster_than_the_roofline() -> None:
    verify = target(DENSE, limits(), engine(), drafts=4)
    ideal = StepCostModel(DENSE, device(IDEAL), engine(), precision(), Layout(), limits(), drafts=4)
    for n in (1, 8, 64):
        assert verify.decode(n, n * 1500, 0, 0)[0] > ideal.decode(n, n * 1500, 0, 0)[0]


# --- drafting ------------------------------------------------------------------------------------


def test_a_step_is_k_passes_of_the_draft_and_the_verification() -> None:
    """Passes grow by a token a sequence each; the middle one stands for all."""
    asked = speculation(k=3)
    cost, limit = speculative(asked=asked)
    draft = StepCostModel(SMALL, device(), engine(), precision(), Layout(), limit)
    verify = target(DENSE, limit, engine(), drafts=3)
    wanted = verify.decode(5, 4000, 0, 0)[0]
    wanted += sum(draft.decode(5, 4000 + 5 * j, 0, 0)[0] for j in range(3))
    assert cost.decode(5, 4000, 0, 0) == (pytest.approx(wanted, rel=1e-12), 0.0, 1)
    chunks = [Chunk(300, 0)]
    mixed = verify.step(5, 4000, 0, chunks, 6) + draft.step(5, 4000, 0, chunks, 6)
    mixed += sum(draft.decode(5, 4000 + 5 * j, 0, 0)[0] for j in (1, 2))
    assert cost.step(5, 4000, 0, chunks, 6) == pytest.approx(mixed, rel=1e-4)  # half a token
    alone = verify.step(0, 0, 0, chunks, 1) + draft.step(0, 0, 0, chunks, 1)
    assert cost.step(0, 0, 0, chunks, 1) == alone


def test_a_step_without_drafts_is_the_targets_alone() -> None:
    cost, limit = speculative(asked=speculation(most=4))
    plain = target(DENSE, limit, engine())
    assert cost.decode(5, 4000, 0, 0)[0] == plain.decode(5, 4000, 0, 0)[0]
    chunks = [Chunk(300, 0)]
    assert cost.step(5, 4000, 0, chunks, 6) == plain.step(5, 4000, 0, chunks, 6)
    assert cost.step(4, 4000, 0, chunks, 5) > 1.1 * plain.step(4, 4000, 0, chunks, 5)


def test_looking_up_costs_the_host_alone() -> None:
    with_, limit = speculative(draft=None, lookup_s=1e-4)
    verify = target(DENSE, limit, engine(), drafts=3)
    assert with_.decode(6, 900, 0, 0)[0] == pytest.approx(verify.decode(6, 900, 0, 0)[0] + 6e-4)


def test_a_head_brings_hidden_states_and_embeddings_together() -> None:
    head = StepCostModel(SMALL, device(), engine(), precision(), Layout(), limits(),
                         builder=HeadBuilder)  # fmt: skip
    found = [op for op in head.operators if isinstance(op, Matmul) and op.name == "projection"]
    assert [(op.n, op.k, op.count) for op in found] == [(4096, 8192, 1)]


# --- the memory-bound limit ----------------------------------------------------------------------


def test_speedup_in_the_memory_bound_limit() -> None:
    """With one sequence a verification takes what a decode step takes, so that tokens come faster
    by (1 − α^(k+1)) / ((1 − α) (k c + 1)), c being the cost of a draft's pass (arXiv:2211.17192,
    theorem 3.8)."""
    k, alpha, context = 4, 0.8, 1000
    asked = speculation(k, alpha)
    limit = replace(limits(), speculation=asked)
    plain = StepCostModel(DENSE, device(IDEAL), engine(), precision(), Layout(), limit)
    small = StepCostModel(SMALL, device(IDEAL), engine(), precision(), Layout(), limit)
    verify = StepCostModel(DENSE, device(IDEAL), engine(), precision(), Layout(), limit, drafts=k)
    cost = SpeculativeCost(plain, verify, asked, drafter=Drafter(small))
    before = plain.decode(1, context, 0, 0)[0]
    c = small.decode(1, context, 0, 0)[0] / before
    speedup = tokens_per_step(asked.acceptance) * before / cost.decode(1, context, 0, 0)[0]
    wanted = (1 - alpha ** (k + 1)) / ((1 - alpha) * (k * c + 1))
    assert wanted > 1.8
    assert speedup == pytest.approx(wanted, rel=0.01)


def test_slower_where_arithmetic_binds() -> None:
    """At so many sequences each token more costs its FLOPs, so that rejected ones are a loss."""
    asked = speculation(4, 0.7)
    cost, limit = speculative(asked=asked, seqs=512)
    plain = target(DENSE, limit, engine())
    gain = tokens_per_step(asked.acceptance)

    def tpot(n: int) -> tuple[float, float]:
        context = 200 * n
        return cost.decode(n, context, 0, 0)[0] / gain, plain.decode(n, context, 0, 0)[0]

    few, many = tpot(1), tpot(500)
    assert few[0] < 0.7 * few[1]
    assert many[0] > 1.2 * many[1]


# --- afterwards ----------------------------------------------------------------------------------


def traffic(n: int = 60) -> Requests:
    rng = np.random.default_rng(3)
    at = np.sort(rng.choice([0.0, 0.3, 0.31, 1.5], n) + rng.random(n) * 0.2)
    sizes = rng.integers(1, 2500, n).tolist(), rng.integers(1, 400, n).tolist()
    return requests(*zip(at.tolist(), *sizes, strict=True))


PROFILES = {
    "bare": engine(),
    "graphs, some host": engine(sizes=(1, 2, 4, 8, 16, 32), piecewise=True, launch_us=6,
                                step_ms=1, per_seq_us=10, overlap=0.6),
    "launch-bound": engine(launch_us=40, step_ms=0.5, per_token_us=0.2),
}  # fmt: skip


@pytest.mark.parametrize("policy", [ContinuousPolicy(), PrefillFirstPolicy()], ids=str)
@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
@pytest.mark.parametrize(
    ("draft", "head", "lookup_s"),
    [(SMALL, False, 0.0), (SMALL, True, 0.0), (LOCAL, False, 0.0), (None, False, 5e-5)],
    ids=["model", "head", "local", "ngram"],
)
def test_operators_and_resources_add_up_to_the_durations(
    policy: ContinuousPolicy, profile: EngineProfile, draft: ModelSpec, head: bool, lookup_s: float
) -> None:
    cost, limit = speculative(
        draft=draft, head=head, lookup_s=lookup_s, asked=speculation(most=20), profile=profile,
        policy=policy,
    )  # fmt: skip
    record = run_cluster(traffic(), limit, 8000, cost)
    steps = record.steps
    assert (steps.decode > 20).any()
    assert ((steps.prefill > 0) & (steps.decode > 0)).any() == (policy.kind == "continuous")
    work = cost.account(steps)
    tolerance = 0.02 if draft is LOCAL else 1e-9  # its prompts: only their sum is on record
    for columns in (work.operator_s, work.resource_s):
        total = sum(columns.values())
        np.testing.assert_allclose(total, steps.duration_s, rtol=tolerance)
        assert all((seconds >= -1e-12).all() for seconds in columns.values())
    drafted = sum(part for name, part in work.operator_s.items() if name.startswith("draft_"))
    assert (drafted[steps.decode > 0] > 0).any()
    assert (work.energy_j >= cost.idle_w * steps.duration_s * (1 - 1e-9)).all()
    assert (work.hbm_bytes <= cost.peak_bytes_per_s * steps.duration_s * 1.001).all()
    assert (work.model_flops <= cost.peak_flops * steps.duration_s).all()
    low, high = cost.residual_range(steps)
    assert 0 < low < 0.5
    assert 0 < high < 0.5


def _run(cost: SpeculativeCost | StepCostModel, limit: Limits) -> RunRecord:
    return run_cluster(traffic(), limit, 8000, cost)


def test_only_delivered_tokens_are_work_of_the_model() -> None:
    """With and without drafts the same tokens pass the same layers once."""
    cost, limit = speculative()
    plain = target(DENSE, replace(limit, speculation=None), engine())
    with_, without = _run(cost, limit), _run(plain, replace(limit, speculation=None))
    flops = cost.account(with_.steps)
    wanted = plain.account(without.steps).model_flops.sum()
    assert flops.model_flops.sum() == pytest.approx(wanted, rel=0.01)
    rejected = 3 * with_.steps.decode.sum() - with_.steps.accepted_tokens.sum()
    share = flops.lost_flops["rejected"].sum() / flops.model_flops.sum()
    passed = (with_.steps.decode + with_.steps.accepted_tokens + with_.steps.prefill_tokens).sum()
    assert share == pytest.approx(rejected / passed, rel=0.1)
    assert flops.lost_flops["drafting"].sum() > 0
