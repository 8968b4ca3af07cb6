"""Expert parallelism: who holds which experts, how unevenly they are loaded, what that costs."""

from __future__ import annotations

from dataclasses import replace
from math import pi, sqrt

import numpy as np
import pytest

from simulator.costs.expert_ranks import ExpertRanks, RankExperts, copied, highest_of, packed
from simulator.costs.operators import Experts
from simulator.errors import UserError
from simulator.models import load_model
from simulator.models.counting import tensors, weight_bytes, weight_bytes_per_rank
from simulator.models.layout import Layout
from simulator.models.splits import check_split, tensor_parallel_sizes
from tests.rig import IDEAL, MOE, cost_model, device, shape


def busiest(ranks: ExpertRanks, tokens: float) -> float:
    return float(ranks.busiest(np.array([float(tokens)]))[0])


# --- the busiest rank ----------------------------------------------------------------------------


def test_highest_of_normal_variables() -> None:
    """Known values: 0, 1/sqrt(pi), 3/(2 sqrt(pi)); 1.4236 of eight (Harter, 1961)."""
    found = [highest_of(n) for n in (1, 2, 3, 8)]
    assert found == pytest.approx([0.0, 1 / sqrt(pi), 1.5 / sqrt(pi), 1.4236], abs=1e-4)


def drawn(experts: int, top_k: int, ranks: int, skew: float, tokens: int, tries: int) -> float:
    """Mean of the largest number of assignments over the mean one: experts laid out by chance,
    every token takes ``top_k`` different ones, popular ones more often."""
    rng = np.random.default_rng(4)
    popularity = skew ** ((np.arange(experts) + 0.5) / experts)
    most = 0.0
    for _ in range(tries):
        luck = np.log(rng.permutation(popularity)) + rng.gumbel(size=(tokens, experts))
        taken = np.argpartition(-luck, top_k - 1, axis=1)[:, :top_k]
        most += np.bincount((taken // (experts // ranks)).ravel(), minlength=ranks).max()
    return most / tries / (tokens * top_k / ranks)


@pytest.mark.parametrize(
    ("experts", "top_k", "ranks", "skew", "tokens"),
    [
        (256, 8, 8, 1.0, 1), (256, 8, 8, 1.0, 8), (256, 8, 8, 10.0, 64), (256, 8, 8, 10.0, 500),
        (256, 8, 64, 10.0, 16), (256, 8, 64, 10.0, 250), (128, 8, 4, 10.0, 32),
        (64, 6, 8, 1.0, 32), (8, 2, 4, 10.0, 64), (16, 1, 16, 50.0, 100), (8, 2, 8, 10.0, 4),
    ],
)  # fmt: skip
def test_the_busiest_rank_against_drawing_tokens(
    experts: int, top_k: int, ranks: int, skew: float, tokens: int
) -> None:
    expected = drawn(experts, top_k, ranks, skew, tokens, tries=200)
    found = busiest(ExpertRanks(experts, top_k, ranks, skew), tokens)
    assert found == pytest.approx(expected, rel=0.12)


def test_limits_of_the_busiest_rank() -> None:
    even = ExpertRanks(256, 8, 8, 1.0)
    assert busiest(even, 1e9) == pytest.approx(1.0, abs=1e-3)
    assert busiest(ExpertRanks(256, 8, 1, 50.0), 3) == 1.0
    # All of one token's only expert lie on one rank.
    assert busiest(ExpertRanks(16, 1, 16, 1.0), 1) == 16.0
    # One expert a rank: the most popular one, however many tokens.
    alone = ExpertRanks(64, 4, 64, 10.0)
    popularity = 10.0 ** ((np.arange(64) + 0.5) / 64)
    assert busiest(alone, 1e9) == pytest.approx(popularity.max() / popularity.mean(), rel=1e-3)
    sizes = np.array([1.0, 8.0, 64.0, 1e3, 1e5])
    falling = ExpertRanks(256, 8, 16, 10.0).busiest(sizes)
    assert np.all(np.diff(falling) < 0)
    assert np.all(falling >= 1.0)


def test_redundant_copies_even_the_ranks_out() -> None:
    plain = ExpertRanks(256, 8, 32, 50.0)
    placed, more = (ExpertRanks(256, 8, 32, 50.0, redundant) for redundant in (0, 32))
    # 2 to the 30 tokens: what chance adds is gone.
    ratios = [busiest(ranks, 2.0**30) for ranks in (plain, placed, more)]
    assert ratios[0] > 1.5 > 1.1 > ratios[1] > ratios[2] >= 1.0
    assert (plain.local, placed.local, more.local) == (8, 8, 9)


def test_copies_share_evenly_and_nothing_is_lost() -> None:
    popularity = np.array([0.5, 0.3, 0.15, 0.05])
    shares = copied(popularity, 2)
    assert sorted(shares) == pytest.approx([0.05, 0.15, 0.15, 0.15, 0.25, 0.25])
    assert packed(shares, 2).sum() == pytest.approx(1.0)
    assert packed(shares, 2).tolist() == pytest.approx([0.5, 0.5], abs=0.1)
    assert packed(np.array([0.4, 0.3, 0.2, 0.1]), 2).tolist() == pytest.approx([0.5, 0.5])


def test_how_many_ranks_a_token_reaches() -> None:
    assert ExpertRanks(8, 1, 4, 1.0).reach == pytest.approx(1.0)
    assert ExpertRanks(8, 8, 4, 1.0).reach == pytest.approx(4.0)
    # Two of four experts on two ranks: the second one lies apart with 2 chances in 3.
    assert ExpertRanks(4, 2, 2, 1.0).reach == pytest.approx(1 + 2 / 3)


# --- the operator --------------------------------------------------------------------------------


def experts_on(layout: Layout, skew: float = 1.0) -> Experts:
    spec = replace(MOE, groups=tuple(_skewed(group, skew) for group in MOE.groups))
    operators = cost_model(spec, hardware=device(IDEAL), layout=layout).operators
    (found,) = (op for op in operators if isinstance(op, Experts))
    return found


def _skewed(group, skew: float):
    return replace(group, mlp=replace(group.mlp, skew=skew))


def test_one_rank_has_the_operator_of_old() -> None:
    assert type(experts_on(Layout(tp=8))) is Experts
    assert type(experts_on(Layout(tp=8, ep=8))) is RankExperts


@pytest.mark.parametrize("ep", [2, 4, 8])
@pytest.mark.parametrize("tokens", [1, 50, 4000])
def test_ranks_share_the_arithmetic(ep: int, tokens: int) -> None:
    whole = experts_on(Layout(tp=8)).demand(shape(tokens=tokens))
    part = experts_on(Layout(tp=8, ep=ep)).demand(shape(tokens=tokens))
    assert part.flops[0] == pytest.approx(whole.flops[0], rel=1e-6)
    assert part.seconds[0] >= part.moved[0] / 3000e9
    assert part.seconds[0] >= part.flops[0] / 1000e12


def test_balanced_ranks_with_many_tokens_take_what_width_shards_take() -> None:
    """Compute-bound and balanced, both splits do the same work in the same time."""
    whole = experts_on(Layout(tp=8)).demand(shape(tokens=500_000)).seconds[0]
    spread = experts_on(Layout(dp=8, ep=8)).demand(shape(tokens=500_000)).seconds[0]
    assert spread == pytest.approx(whole, rel=0.03)
    skewed = experts_on(Layout(dp=8, ep=8), skew=50.0).demand(shape(tokens=500_000)).seconds[0]
    assert skewed > 1.2 * spread


def test_ranks_that_hold_all_tokens_pass_over_what_lies_elsewhere() -> None:
    """Without data-parallel attention: 4 results of 4096 numbers, 7 of 8 on other ranks."""
    step = shape(tokens=1000)
    own = experts_on(Layout(dp=8, ep=8)).demand(step).seconds[0]
    more = experts_on(Layout(tp=8, ep=8)).demand(step).seconds[0] - own
    assert more == pytest.approx(24 * 1000 * 4 * 4096 * 2 * 7 / 8 / 3000e9)


def test_the_busiest_rank_sets_the_pace_of_compute_bound_steps() -> None:
    placed = ExpertRanks(64, 4, 8, 50.0)
    skewed = experts_on(Layout(dp=8, ep=8), skew=50.0).demand(shape(tokens=500_000)).seconds[0]
    even = experts_on(Layout(dp=8, ep=8)).demand(shape(tokens=500_000)).seconds[0]
    assert skewed / even == pytest.approx(busiest(placed, 500_000), rel=0.03)


# --- memory --------------------------------------------------------------------------------------


def test_experts_per_device_by_hand() -> None:
    """DeepSeek-V3: 58 layers of 256 experts, three matrices of 7168 × 2048, fp8."""
    spec = load_model("deepseek-v3")
    expert = 58 * 3 * 7168 * 2048
    rest = weight_bytes_per_rank(spec, "fp8", Layout(tp=8)) - expert * 256 / 8
    for layout, held in (
        (Layout(tp=8, ep=8), 32),
        (Layout(tp=8, ep=2), 128 / 4),
        (Layout(tp=8, ep=8, redundant=32), 36),
        (Layout(tp=1, dp=32, ep=32), 8),
        (Layout(tp=1, dp=32, ep=32, redundant=32), 9),
    ):
        if layout.tp == 1:
            rest = weight_bytes(spec, "fp8") - expert * 256
        found = weight_bytes_per_rank(spec, "fp8", layout)
        assert found == pytest.approx(rest + expert * held, rel=1e-12)


def test_the_fullest_rank_counts_where_experts_do_not_divide() -> None:
    spec = load_model("qwen3-30b-a3b")  # 128 experts
    experts = [tensor for tensor in tensors(spec) if tensor.experts]
    held = sum(tensor.parameters_per_rank(Layout(tp=6, ep=6)) for tensor in experts)
    assert held * 128 == 22 * sum(tensor.parameters * tensor.copies for tensor in experts)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "layout", "sentence"),
    [
        ("llama-3.1-8b", Layout(tp=2, ep=2),
         "parallelism.ep: llama-3.1-8b has no experts that could lie on different devices; leave "
         "ep out"),
        ("qwen3-30b-a3b", Layout(tp=8, ep=3),
         "parallelism.ep: ep = 3 does not divide the 8 devices of tensor and data parallelism; ep "
         "may be 1, 2, 4, 8"),
        ("mixtral-8x7b", Layout(tp=16, ep=16),
         "parallelism.ep: mixtral-8x7b has 8 experts, fewer than ep = 16; at most 8"),
        ("qwen3-30b-a3b", Layout(tp=8, redundant=8),
         "parallelism.redundant_experts: copies of experts lie on other ranks, and with ep = 1 "
         "there are none; set parallelism.ep, or leave it out"),
        ("qwen3-30b-a3b", Layout(tp=8, ep=8, redundant=3),
         "parallelism.redundant_experts: 128 experts and 3 copies do not lie evenly on 8 ranks, "
         "each at most once; 8 would"),
        ("qwen3-30b-a3b", Layout(tp=2, ep=2, redundant=300),
         "parallelism.redundant_experts: 128 experts and 300 copies do not lie evenly on 2 ranks, "
         "each at most once; 128 would"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(model: str, layout: Layout, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        check_split(load_model(model), layout)
    assert str(caught.value) == sentence


def test_experts_allow_more_devices_than_their_width() -> None:
    """Width 768 does not divide by 32 devices evenly times 16, but whole experts lie anywhere."""
    spec = load_model("qwen3-30b-a3b")
    assert 32 in tensor_parallel_sizes(spec)
    narrow = replace(
        spec,
        groups=tuple(
            replace(group, mlp=replace(group.mlp, intermediate=12)) for group in spec.groups
        ),
    )
    assert tensor_parallel_sizes(narrow) == [1, 2, 4]
    assert tensor_parallel_sizes(narrow, Layout(ep=8)) == [8, 16, 32]
