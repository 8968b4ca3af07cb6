"""Random runs with everything at once: time-outs, rejections, sessions, closed loops, shared text,
tight memory, several replicas, delays. Nothing may get lost."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from simulator.cluster import FrontEndTimes, run_cluster
from simulator.results.record import OUTCOMES
from simulator.scenario.policies import (
    ContinuousPolicy,
    DynamicPolicy,
    FullReservationPolicy,
    Policy,
    PrefillFirstPolicy,
    StaticPolicy,
)
from simulator.scenario.routers import (
    LeastOutstandingRouter,
    PowerOfTwoRouter,
    PrefixAwareRouter,
    RandomRouter,
    RoundRobinRouter,
    Router,
)
from simulator.workload.requests import OPEN_LOOP, ROOT, Requests
from tests.rig import MODELS, cost_model, engine, limits, requests
from tests.sane import check_record

POLICIES: list[Policy] = [
    ContinuousPolicy(),
    ContinuousPolicy(chunked_prefill=False),
    PrefillFirstPolicy(),
    FullReservationPolicy(),
    StaticPolicy(batch_size=4),
    DynamicPolicy(batch_size=4, window_ms=200.0),
]
ROUTERS: list[Router] = [
    RoundRobinRouter(),
    RandomRouter(),
    LeastOutstandingRouter(),
    PowerOfTwoRouter(),
    PrefixAwareRouter(max_imbalance=1),
]
PROFILE = engine(step_ms=3.0, overlap=0.5, sizes=(1, 2, 4, 8))
COSTS = [cost_model(spec, profile=PROFILE) for spec in MODELS.values()]


def traffic(rng: np.random.Generator) -> Requests:
    """Up to forty requests that come at once or over some seconds, alone or one after another."""
    n = int(rng.integers(1, 40))
    prompt, output = rng.integers(1, 400, n), rng.integers(1, 120, n)
    at = np.sort(rng.choice([0.0, 0.5, 1.0], n) + rng.random(n) * rng.choice([0.0, 0.1, 3.0]))
    parent, pool, users = [ROOT] * n, [OPEN_LOOP] * n, ()
    match rng.integers(3):
        case 1:
            pool, users, at = [0] * n, (int(rng.integers(1, 6)),), rng.random(n) * 0.3
        case 2:
            for i in range(1, n):
                if rng.random() < 0.6:
                    parent[i], at[i] = int(rng.integers(i)), rng.random() * 0.2
            roots = np.array([p == ROOT for p in parent])
            at[roots] = np.maximum.accumulate(at[roots])
    texts = None
    if rng.random() < 0.6:
        texts = [text(rng, i, int(tokens)) for i, tokens in enumerate(prompt)]
    return requests(
        *zip(at.tolist(), prompt.tolist(), output.tolist(), strict=True),
        parent=parent, pool=pool, users=users, texts=texts,
        continues=None if texts is None else [
            bool(told) and told[-1][1] == tokens and bool(rng.random() < 0.5)
            for told, tokens in zip(texts, prompt, strict=True)
        ],
    )  # fmt: skip


def text(rng: np.random.Generator, index: int, prompt: int) -> list[tuple[int, int]]:
    """A beginning that others share, and perhaps text of its own."""
    if rng.random() < 0.2:
        return []
    shared = int(rng.integers(1, prompt + 1))
    own = [(100 + index, prompt)] if shared < prompt and rng.random() < 0.7 else []
    return [(int(rng.integers(3)), shared), *own]


def settings(rng: np.random.Generator) -> dict[str, Any]:
    made: dict[str, Any] = {
        "replicas": int(rng.integers(1, 4)),
        "router": ROUTERS[rng.integers(len(ROUTERS))],
        "oversized": "reject",
    }
    if rng.random() < 0.6:
        made["timeout_s"] = float(rng.uniform(0.05, 4.0))
    if rng.random() < 0.5:
        made |= {"network_s": 0.01, "front_end": FrontEndTimes(0.02, 1e-4, 1e-6, 1e-4, 0.005)}
    return made


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_nothing_gets_lost(policy: Policy) -> None:
    seen: Counter[str] = Counter()
    for seed in range(60):
        rng = np.random.default_rng([seed, POLICIES.index(policy)])
        asked, more = traffic(rng), settings(rng)
        sharing = asked.prefixes is not None and policy.kind not in ("static", "dynamic")
        limit = limits(
            policy,
            seqs=int(rng.integers(1, 12)),
            budget=int(rng.choice([32, 100, 600])),
            block_size=int(rng.choice([1, 4, 16])),
            prefix_caching=sharing,
            async_scheduling=seed % 2 == 0,
        )
        longest = int((asked.input_tokens + asked.output_tokens).max())
        blocks = int((longest // limit.block_size + 2) * rng.uniform(0.8, 4))
        cost = COSTS[rng.integers(len(COSTS))]
        record = run_cluster(asked, limit, blocks, cost, seed=seed, **more)
        check_record(record, limit, delay_s=0.1)
        again = run_cluster(asked, limit, blocks, cost, seed=seed, **more)
        np.testing.assert_array_equal(record.finish_s, again.finish_s)
        np.testing.assert_allclose(
            sum(cost.account(record.steps).operator_s.values()), record.steps.duration_s, rtol=1e-9
        )
        seen.update(OUTCOMES[outcome] for outcome in record.outcome.tolist())
        seen["preemptions"] += int(record.preemptions.sum())
        seen["hits"] += int((record.cached_tokens > 0).sum())
    # What the test is about does happen.
    assert min(seen[name] for name in OUTCOMES if name != "failed") > 5  # no replica crashes
    if policy.kind in ("continuous", "prefill_first"):
        assert seen["preemptions"] > 10
    if policy.kind not in ("static", "dynamic"):
        assert seen["hits"] > 20
