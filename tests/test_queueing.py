"""Where queueing theory has a formula, the simulator agrees with it.

The engine is configured until it is the textbook queue: a step takes the same time whatever is in
it, memory never runs out. Seeds are fixed; the tolerance of each test is four standard errors of
its own sample (by batch means), and the standard error must be small for the test to count.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from simulator.cluster import run_cluster
from simulator.results.record import RunRecord
from simulator.scenario.policies import ContinuousPolicy
from simulator.workload.requests import OPEN_LOOP, ROOT, Requests
from tests.dyadic import TICK_S, DyadicCost
from tests.strategies import make_limits

Floats = npt.NDArray[np.float64]

STEP_TICKS = 1000
STEP_S = STEP_TICKS * TICK_S
CONSTANT = DyadicCost(
    base=STEP_TICKS,
    mixed_base=STEP_TICKS,
    sequence=0,
    context=0,
    token=0,
    pair=0,
    chunk=0,
    sampled=0,
)
"""Every step takes STEP_S."""
SHARED = DyadicCost(
    base=0,
    mixed_base=0,
    sequence=STEP_TICKS,
    chunk=STEP_TICKS,
    context=0,
    token=0,
    pair=0,
    sampled=0,
)
"""A step takes STEP_S for each sequence in it: the machine is shared equally."""


def poisson(
    rng: np.random.Generator, rate_per_s: float, outputs: npt.NDArray[np.int64]
) -> Requests:
    """Poisson arrivals of one-token prompts."""
    n = len(outputs)
    ones = np.ones(n, dtype=np.int64)
    return Requests(
        arrival_s=np.cumsum(rng.exponential(1 / rate_per_s, n)),
        input_tokens=ones,
        output_tokens=outputs,
        class_id=0 * ones,
        parent=ROOT * ones,
        pool=OPEN_LOOP * ones,
        session=-ones,
    )


def serve(
    requests: Requests, *, seqs: int, replicas: int = 1, cost: DyadicCost = CONSTANT
) -> RunRecord:
    limits = make_limits(ContinuousPolicy(), seqs=seqs, budget=100_000, block_size=16)
    return run_cluster(requests, limits, 10_000_000, cost, replicas=replicas)


def assert_mean(
    values: Floats, theory: float, *, bias: float = 0.0, precision: float = 0.04
) -> None:
    """The mean of a correlated series, start-up dropped, is the theory's; ``bias`` is by how much
    the simulated system may truly lie above it."""
    kept = values[len(values) // 20 :]
    means = np.array([batch.mean() for batch in np.array_split(kept, 25)])
    error = float(means.std(ddof=1)) / math.sqrt(len(means))
    assert error < precision * theory, f"standard error {error:.3g} of {theory:.3g}"
    assert theory - 4 * error <= means.mean() <= theory + bias + 4 * error


def erlang_c(servers: int, load: float) -> float:
    """Probability of waiting in M/M/c, load in erlangs (Erlang 1917)."""
    blocked = 1.0
    for k in range(1, servers + 1):
        blocked = load * blocked / (k + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def wait_in_mdc(rate_per_s: float, service_s: float, servers: int) -> float:
    """Mean wait in M/D/c: from one moment to the next one a service time later, all who are in
    service leave and a Poisson number comes (Crommelin 1932); the stationary distribution of that
    chain gives the mean queue, Little's law the wait."""
    size = 60 * servers
    mean = rate_per_s * service_s
    log_p = np.arange(size) * math.log(mean) - mean
    log_p -= np.cumsum(np.log(np.maximum(np.arange(size), 1)))
    arrivals = np.exp(log_p)
    chain = np.zeros((size, size))
    for present in range(size):
        left = max(present - servers, 0)
        chain[present, left:] = arrivals[: size - left]
        chain[present, -1] += 1 - chain[present].sum()
    system = np.vstack([chain.T - np.eye(size), np.ones(size)])
    stationary = np.linalg.lstsq(system, np.append(np.zeros(size), 1.0), rcond=None)[0]
    queue = float((np.maximum(np.arange(size) - servers, 0) * stationary).sum())
    return queue / rate_per_s


@pytest.mark.parametrize("load", [0.3, 0.7, 0.85])
def test_md1(load: float) -> None:
    """One seat, one token: Pollaczek-Khinchine with constant service."""
    rng = np.random.default_rng(1)
    rate = load / STEP_S
    record = serve(poisson(rng, rate, np.ones(60_000, dtype=np.int64)), seqs=1)
    wait = record.start_s - record.queued_s
    assert_mean(wait, load * STEP_S / (2 * (1 - load)))
    assert_mean((wait > 0).astype(float), load)
    assert np.allclose(record.finish_s - record.start_s, STEP_S, rtol=1e-9, atol=0)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_mg1(load: float) -> None:
    """One seat, geometric outputs: Pollaczek-Khinchine with their second moment."""
    rng = np.random.default_rng(2)
    mean = 10.0
    outputs = rng.geometric(1 / mean, 60_000)
    second_moment = (2 - 1 / mean) * mean**2 * STEP_S**2
    rate = load / (mean * STEP_S)
    record = serve(poisson(rng, rate, outputs), seqs=1)
    assert_mean(
        record.start_s - record.queued_s, rate * second_moment / (2 * (1 - load)), precision=0.06
    )


@pytest.mark.parametrize(("seats", "load"), [(2, 0.7), (4, 0.8), (8, 0.8)])
def test_mmc(seats: int, load: float) -> None:
    """``seats`` sequences at once that do not slow each other down: Erlang C. Outputs of 400 steps
    on average are as good as exponential; a free seat is taken at the next step boundary, which
    adds up to a step."""
    rng = np.random.default_rng(3)
    mean = 400.0
    outputs = rng.geometric(1 / mean, 60_000)
    rate = load * seats / (mean * STEP_S)
    record = serve(poisson(rng, rate, outputs), seqs=seats)
    service = mean * STEP_S
    wait = erlang_c(seats, load * seats) * service / (seats * (1 - load))
    assert_mean(record.start_s - record.queued_s, wait, bias=STEP_S, precision=0.1)
    assert_mean(record.finish_s - record.start_s, service)


@pytest.mark.parametrize(("replicas", "load"), [(2, 0.8), (5, 0.9)])
def test_round_robin_is_a_shared_queue_if_service_is_constant(replicas: int, load: float) -> None:
    """Replicas in turn see Erlang-c arrivals; with constant service E_c/D/1 has the wait of M/D/c,
    because a shared queue also serves in turn."""
    rng = np.random.default_rng(4)
    rate = load * replicas / STEP_S
    record = serve(poisson(rng, rate, np.ones(80_000, dtype=np.int64)), seqs=1, replicas=replicas)
    assert_mean(
        record.start_s - record.queued_s, wait_in_mdc(rate, STEP_S, replicas), precision=0.06
    )


def test_mdc_formula_reduces_to_md1() -> None:
    """The chain that the test above leans on."""
    assert wait_in_mdc(0.7, 1.0, 1) == pytest.approx(0.7 / 0.6, rel=1e-6)
    assert erlang_c(1, 0.6) == pytest.approx(0.6)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)


@pytest.mark.parametrize("spread", ["fixed", "geometric"])
def test_processor_sharing_is_insensitive(spread: str) -> None:
    """Sequences that share the machine equally: the mean response is service / (1 - load),
    whatever the distribution of the outputs (M/G/1 processor sharing)."""
    rng = np.random.default_rng(6)
    mean, load, n = 100, 0.7, 15_000
    outputs = np.full(n, mean) if spread == "fixed" else rng.geometric(1 / mean, n)
    rate = load / (mean * STEP_S)
    record = serve(poisson(rng, rate, outputs.astype(np.int64)), seqs=1000, cost=SHARED)
    response = mean * STEP_S / (1 - load)
    # Joining waits for the end of a step, and a step is one unit for each of those present.
    assert_mean(record.finish_s - record.queued_s, response, bias=5 * STEP_S, precision=0.05)
