"""What is accepted: the closed form of Leviathan et al., and the same wherever it is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulator.cluster import run_cluster
from simulator.deployment import Speculation
from simulator.scenario.policies import ContinuousPolicy
from simulator.serving.acceptance import Acceptance, tokens_per_step
from tests.dyadic import DyadicCost
from tests.strategies import Req, make_limits, make_requests


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_expected_tokens_of_a_verification(alpha: float, k: int) -> None:
    """(1 − α^(k+1)) / (1 − α), arXiv:2211.17192, equation 1."""
    wanted = (1 - alpha ** (k + 1)) / (1 - alpha)
    assert tokens_per_step((alpha,) * k) == pytest.approx(wanted)


@pytest.mark.parametrize("chances", [(0.8,) * 4, (0.9, 0.6, 0.3), (0.5,), (1.0, 0.5), (0.0, 0.9)])
def test_draws_have_that_mean_and_distribution(chances: tuple[float, ...]) -> None:
    stream = Acceptance(Speculation(len(chances), chances, 1000, seed=5))
    drawn = np.concatenate([stream.tokens(i, 2000, 2000) for i in range(100)])
    error = 5 * drawn.std() / np.sqrt(len(drawn))
    assert drawn.mean() == pytest.approx(tokens_per_step(chances), abs=error + 1e-12)
    for position, survival in enumerate(np.cumprod(chances), start=1):
        assert (drawn > position).mean() == pytest.approx(survival, abs=0.01)


def test_certain_and_impossible_drafts() -> None:
    assert set(Acceptance(Speculation(3, (1.0,) * 3, 9)).tokens(0, 500, 500)) == {4}
    assert set(Acceptance(Speculation(3, (0.0,) * 3, 9)).tokens(0, 500, 500)) == {1}


def test_a_place_of_an_output_has_its_own_draw() -> None:
    """In whatever order requests come, and from wherever they go on."""
    speculation = Speculation(4, (0.7,) * 4, 1000, seed=11)
    stream = Acceptance(speculation)
    whole = {i: stream.tokens(i, 300, 300) for i in (0, 1, 7)}
    other = Acceptance(speculation)
    for i in (7, 0, 1):
        assert (other.tokens(i, 300, 120) == whole[i][:120]).all()
    assert (other.tokens(1, 300, 300) == whole[1]).all()
    assert (whole[0] != whole[1]).any()
    another = Acceptance(Speculation(4, (0.7,) * 4, 1000, seed=12))
    assert (another.tokens(0, 300, 300) != whole[0]).any()


STEPS = DyadicCost(base=64, sequence=0, context=0, mixed_base=64, token=0, pair=0, chunk=0,
                   sampled=0)  # fmt: skip


def run(reqs: list[Req], speculation: Speculation | None, **more: int) -> np.ndarray:
    """Steps in which each request was decoded, from the times of its first and last token."""
    limits = make_limits(ContinuousPolicy(), seqs=64, budget=2000)
    limits = replace(limits, speculation=speculation)
    record = run_cluster(make_requests(tuple(reqs)), limits, 100_000, STEPS, **more)
    steps: np.ndarray = (record.finish_s - record.first_token_s) / (64 * 2.0**-20)
    return steps


def test_what_is_accepted_does_not_depend_on_the_batch() -> None:
    speculation = Speculation(3, (0.6,) * 3, 1000, seed=3)
    reqs = [Req(0.0, 20, 200) for _ in range(12)]
    crowd = run(reqs, speculation)
    apart = run([Req(1e6 * i, 20, 200) for i in range(12)], speculation)
    assert (crowd == apart).all()
    assert (run(reqs, speculation, replicas=3) == crowd).all()


def test_fewer_steps_by_the_closed_form() -> None:
    alpha, k = 0.75, 4
    reqs = [Req(0.0, 8, 2001) for _ in range(40)]
    assert (run(reqs, None) == 2000).all()
    steps = run(reqs, Speculation(k, (alpha,) * k, 1000, seed=1))
    wanted = (1 - alpha ** (k + 1)) / (1 - alpha)
    assert 2000 / steps.mean() == pytest.approx(wanted, rel=0.01)


def test_too_many_sequences_switch_drafts_off() -> None:
    """Twelve sequences of equal length, drafts up to eleven: nobody ever drafts."""
    reqs = [Req(0.0, 20, 100) for _ in range(12)]
    assert (run(reqs, Speculation(2, (0.9, 0.9), 11, seed=3)) == 99).all()
    assert (run(reqs, Speculation(2, (0.9, 0.9), 12, seed=3)) < 60).all()
