"""Prompts on some replicas, answers on others, and the KV cache's way between them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from simulator.cluster import FrontEndTimes, run_cluster, run_groups
from simulator.cluster.disaggregation import Paths
from simulator.cluster.groups import ReplicaGroup
from simulator.errors import ScenarioError, UserError
from simulator.results import Result
from simulator.results.definitions import DEFINITIONS, value_at
from simulator.results.integrity import violations
from simulator.results.record import OUTCOMES, RunRecord
from simulator.scenario import load_scenario
from simulator.scenario.policies import ContinuousPolicy, FullReservationPolicy, PrefillFirstPolicy
from simulator.scenario.scenario import Scenario
from simulator.serving.kv_cache import KvLayout
from simulator.simulation import simulate
from simulator.workload.requests import Requests
from tests.metronome import Metronome, same
from tests.rig import limits, requests
from tests.sane import check_record
from tests.test_cluster_storm import COSTS, ROUTERS, traffic

NAN = float("nan")
Fields = dict[str, Any]


def paths(
    replicas: int, *, rate: float = 10.0, by_layer: bool = False, latency_s: float = 0.5,
    shared: float | None = None, layers: int = 4,
) -> Paths:  # fmt: skip
    """10 bytes a token."""
    return Paths(
        [rate] * replicas, shared=shared, latency_s=latency_s, by_layer=by_layer, layers=layers,
        bytes_of=lambda tokens, past: 10.0 * tokens,
    )  # fmt: skip


def run(
    asked: Requests, *, senders: int = 1, receivers: int = 1, blocks: int = 1000, seqs: int = 8,
    decode_blocks: int | None = None, way: Paths | None = None, policy: Any = None, **more: Any,
) -> RunRecord:  # fmt: skip
    """Prompts take 2 s, decode steps 1 s, blocks have 4 tokens."""
    setting = limits(policy, seqs=seqs, budget=100, block_size=4, max_model_len=2000)
    layout, theirs = KvLayout(blocks, 4), KvLayout(decode_blocks or blocks, 4)
    groups = [
        ReplicaGroup(senders, setting, layout, Metronome(), name="p", role="prefill"),
        ReplicaGroup(receivers, setting, theirs, Metronome(), name="d", role="decode"),
    ]
    record = run_groups(asked, groups, paths=way or paths(senders + receivers), **more)
    check_record(record, setting, delay_s=more.get("network_s", 0.0))
    assert list(violations(record)) == []
    return record


def test_one_request_takes_prompt_transfer_and_decode_steps() -> None:
    record = run(requests((0.0, 8, 4)))
    # 2 s of prompt, 80 bytes at 10 bytes/s, 0.5 s besides; three steps more.
    same(record.first_token_s, [10.5])
    same(record.finish_s, [13.5])
    assert record.stages is not None
    same(record.stages.prompt_done_s, [2.0])
    same(record.stages.sent_bytes, [80.0])
    np.testing.assert_array_equal(record.gaps.gap_s, [1.0])


def test_layers_go_while_the_others_are_computed() -> None:
    asked = requests((0.0, 8, 4))
    # The path is the bottleneck: 8 s from the start of the prompt.
    same(run(asked, way=paths(2, by_layer=True)).first_token_s, [8.5])
    # The prompt is: only the last of four layers is left when it ends, 20 bytes at 1000 bytes/s.
    fast = run(asked, way=paths(2, by_layer=True, rate=1000.0))
    np.testing.assert_allclose(fast.first_token_s, [2.0 + 0.02 + 0.5])
    whole = run(asked, way=paths(2, rate=1000.0))
    np.testing.assert_allclose(whole.first_token_s, [2.0 + 0.08 + 0.5])


def test_a_path_carries_one_transfer_after_the_other() -> None:
    both = requests((0.0, 8, 4), (0.0, 8, 4))
    # Both prompts end at 2 s. One sender: the second waits for the first, whoever receives.
    for receivers in (1, 2):
        record = run(both, receivers=receivers, way=paths(1 + receivers))
        assert sorted(record.first_token_s.tolist()) == [10.5, 18.5]
    # Two senders and two receivers have paths of their own, unless all share one.
    same(run(both, senders=2, receivers=2, way=paths(4)).first_token_s, [10.5, 10.5])
    shared = run(both, senders=2, receivers=2, way=paths(4, shared=5.0))
    assert sorted(shared.first_token_s.tolist()) == [18.5, 34.5]


def test_blocks_are_taken_before_anything_is_sent() -> None:
    """The decode replica holds one request: the second is sent when the first has ended."""
    record = run(requests((0.0, 8, 4), (0.0, 8, 4)), decode_blocks=3)
    same(record.first_token_s, [10.5, 13.5 + 8.0 + 0.5])
    assert record.stages is not None
    same(record.stages.reserved_s, [2.0, 13.5])


def test_a_prompts_blocks_stay_until_they_are_fetched() -> None:
    """The prefill replica holds one prompt: the second is computed when the first has been sent."""
    record = run(requests((0.0, 8, 4), (0.0, 8, 4)), blocks=3, decode_blocks=100)
    same(record.start_s, [0.0, 10.5])
    same(record.first_token_s, [10.5, 10.5 + 2.0 + 8.5])


def test_an_answer_of_one_token_goes_nowhere() -> None:
    record = run(requests((0.0, 8, 1)))
    same(record.finish_s, [2.0])
    same(record.first_token_s, [2.0])
    assert record.stages is not None
    assert np.isnan(record.stages.landed_s).all()
    same(record.stages.sent_bytes, [0.0])


def test_decoding_is_never_held_up_by_prompts() -> None:
    """A second request's prompt lengthens a gap of the first one together, and not apart."""
    asked = requests((0.0, 8, 20), (5.0, 8, 20))
    apart = run(asked, way=paths(2, rate=1e9, latency_s=0.0))
    # The first gap has the rest of a step of others in it, no more.
    assert apart.gaps.gap_s.max(initial=0.0) <= 2.0
    assert apart.steps.first_s[apart.steps.decode > 0].max() == 1.0
    together = run_cluster(asked, limits(seqs=8, budget=100, block_size=4), 1000, Metronome())
    assert together.finish_s[0] > apart.finish_s[0]


@pytest.mark.parametrize(
    ("deadline", "generated"), [(1.0, 0), (5.0, 0), (11.0, 2), (12.0, 3), (100.0, 4)]
)
@pytest.mark.parametrize("by_layer", [False, True])
def test_a_client_may_give_up_anywhere(deadline: float, generated: int, by_layer: bool) -> None:
    """While the prompt is computed, on its way, or decoding: nothing leaks, nothing is counted
    twice. A step that is under way ends first."""
    slow = paths(2, by_layer=by_layer, rate=80 / 10.0 if by_layer else 10.0)
    record = run(requests((0.0, 8, 4)), way=slow, timeout_s=deadline)
    # Layer by layer it lands at 10.5 s as well: 80 bytes at 8 bytes/s from 0 s on.
    assert record.generated.tolist() == [generated]


@pytest.mark.parametrize(
    "policy", [ContinuousPolicy(), FullReservationPolicy(), PrefillFirstPolicy()], ids=str
)
def test_nothing_gets_lost(policy: Any) -> None:
    seen: Counter[str] = Counter()
    for seed in range(80):
        rng = np.random.default_rng([seed, 77])
        asked = traffic(rng)
        limit = limits(
            policy,
            seqs=int(rng.integers(1, 12)), budget=int(rng.choice([32, 100, 600])),
            block_size=int(rng.choice([1, 4, 16])), prefix_caching=asked.prefixes is not None,
            async_scheduling=seed % 2 == 0,
        )  # fmt: skip
        longest = int((asked.input_tokens + asked.output_tokens).max())
        size = [int((longest // limit.block_size + 2) * rng.uniform(0.8, 4)) for _ in range(2)]
        ends = FrontEndTimes(0.02, 1e-4, 1e-6, 1e-4, 0.005) if seed % 3 == 0 else FrontEndTimes()
        first = limits(
            PrefillFirstPolicy() if seed % 5 == 0 else policy, seqs=limit.max_num_seqs,
            budget=limit.max_num_batched_tokens, block_size=limit.block_size,
            prefix_caching=limit.prefix_caching,
        )  # fmt: skip
        cost = COSTS[rng.integers(len(COSTS))]
        groups = [
            ReplicaGroup(int(rng.integers(1, 3)), first, KvLayout(size[0], limit.block_size),
                         cost, ends, "p", "prefill"),
            ReplicaGroup(int(rng.integers(1, 3)), limit, KvLayout(size[1], limit.block_size),
                         cost, ends, "d", "decode"),
        ]  # fmt: skip
        more: Fields = {
            "router": ROUTERS[rng.integers(len(ROUTERS))], "oversized": "reject", "seed": seed,
            "timeout_s": float(rng.uniform(0.05, 4.0)) if rng.random() < 0.6 else None,
            "network_s": 0.01 if seed % 4 == 0 else 0.0,
        }  # fmt: skip
        rate, shared = float(rng.choice([1e3, 1e5, 1e8])), rng.choice([None, 1e4])

        def once(groups: Any = groups, more: Fields = more, rate: float = rate,
                 shared: Any = shared, seed: int = seed, asked: Requests = asked) -> RunRecord:  # fmt: skip
            way = paths(
                sum(g.replicas for g in groups), rate=rate, by_layer=seed % 2 == 0,
                latency_s=0.01, shared=shared,
            )  # fmt: skip
            return run_groups(asked, groups, paths=way, **more)

        record, again = once(), once()
        check_record(record, limit, delay_s=0.1)
        assert list(violations(record)) == []
        np.testing.assert_array_equal(record.finish_s, again.finish_s)
        seen.update(OUTCOMES[outcome] for outcome in record.outcome.tolist())
        seen["preemptions"] += int(record.preemptions.sum())
        seen["hits"] += int((record.cached_tokens > 0).sum())
        assert record.stages is not None
        seen["landed"] += int(np.isfinite(record.stages.landed_s).sum())
    assert min(seen[name] for name in ("completed", "rejected", "timed_out", "landed")) > 5
    if policy.kind == "continuous":
        assert seen["preemptions"] > 10
    assert seen["hits"] > 20


# --- scenarios -----------------------------------------------------------------------------------

POOLS: list[Fields] = [{"name": "p", "role": "prefill"}, {"name": "d", "role": "decode"}]


def scenario(transfer: Fields | None = None, pools: Any = None, **changes: Any) -> Scenario:
    deployment: Fields = {"pools": pools or POOLS}
    if transfer:
        deployment["transfer"] = transfer
    base: Fields = {
        "model": "llama-3.1-8b", "hardware": "h100-sxm",
        "engine": {"profile": "vllm", "prefix_caching": False},
        "deployment": deployment,
        "workload": {
            "kind": "synthetic", "requests": 150,
            "arrivals": {"kind": "poisson", "rate_per_s": 3.0},
            "lengths": {
                "kind": "independent",
                "input": {"kind": "uniform", "low": 1000, "high": 5000},
                "output": {"kind": "uniform", "low": 50, "high": 200},
            },
        },
    }  # fmt: skip
    return Scenario.model_validate(base | changes)


def simulated(*args: Any, **more: Any) -> Result:
    result = simulate(scenario(*args, **more), intervals=False)
    result.check_integrity()
    return result


def test_bytes_are_those_of_the_kv_cache() -> None:
    result = simulated({"mode": "whole"})
    stages = result.record.stages
    assert stages is not None
    per_token = result.summary()["simulated"]["model"]["kv_bytes_per_token"]
    np.testing.assert_allclose(stages.sent_bytes, per_token * result.record.requests.input_tokens)
    # Not faster than the path: 50 GB/s of one H100's network.
    assert (stages.landed_s - stages.prompt_done_s >= stages.sent_bytes / 50e9).all()


def test_layers_on_the_way_shorten_ttft_where_the_path_is_slow() -> None:
    def ttft(mode: str, rate: float) -> float:
        summary = simulated({"mode": mode, "gb_per_s": rate}).summary()
        return float(summary["latency"]["ttft_ms"]["mean"])

    assert ttft("by_layer", 5.0) < 0.9 * ttft("whole", 5.0)
    assert ttft("by_layer", 1e6) == pytest.approx(ttft("whole", 1e6), rel=0.05)


def test_a_pools_own_figures_are_its_own() -> None:
    summary = simulated().summary()
    prefill, decode = summary["pools"]["p"], summary["pools"]["d"]
    assert prefill["scheduling"]["prefill_tokens_computed"] > 0
    assert decode["scheduling"]["prefill_tokens_computed"] == 0
    assert prefill["utilization"]["mfu"] > 5 * decode["utilization"]["mfu"]
    law = summary["checks"]["littles_law"]
    assert law["l"] == pytest.approx(law["lambda_w"], rel=0.03)
    assert summary["checks"]["violations"] == []
    for definition in DEFINITIONS:
        if definition.key.startswith("handover."):
            assert value_at(summary, definition.key) is not None, definition.key
    assert summary["handover"]["transfer_ms"]["n"] == summary["requests"]["counted"]


def test_decode_side_caches_save_bytes() -> None:
    """A conversation's next turn: what the decode replica stored of it need not come again."""
    sessions = {
        "kind": "sessions", "requests": 60,
        "arrivals": {"kind": "poisson", "rate_per_s": 1.0},
        "turns": {"kind": "fixed", "tokens": 6},
        "user_tokens": {"kind": "fixed", "tokens": 500},
        "output_tokens": {"kind": "fixed", "tokens": 100},
    }  # fmt: skip

    def sent(caching: bool) -> float:
        engine = {"profile": "vllm", "prefix_caching": caching}
        record = simulated({"mode": "whole"}, workload=sessions, engine=engine).record
        assert record.stages is not None
        return float(record.stages.sent_bytes.sum())

    assert sent(True) < 0.5 * sent(False)


@pytest.mark.parametrize(
    ("fields", "where", "message"),
    [
        ({"pools": [POOLS[0], POOLS[1] | {"model": "llama-3.2-1b"}]},
         "deployment.pools.1.model", "cannot go on with the KV cache"),
        ({"pools": [POOLS[0], POOLS[1] | {"precision": {"kv_cache": "fp8"}}]},
         "deployment.pools.1.precision.kv_cache", "cannot be taken over"),
        ({"pools": [POOLS[0], POOLS[1] | {"engine": {"policy": {"kind": "static", "batch_size": 4}}}]},
         "deployment.pools.1.engine.policy", "cannot run the policy"),
        ({"pools": [p | {"hardware": "rtx-4090"} for p in POOLS]},
         "deployment.transfer.gb_per_s", "is not known"),
        ({"transfer": {"gb_per_s": 1.0}, "pools": [{"name": "a"}]},
         "deployment.transfer", "nothing is transferred"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(fields: Fields, where: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message) as caught:
        simulate(scenario(**fields))
    assert caught.value.where == where


def test_a_path_of_no_bandwidth_is_refused() -> None:
    with pytest.raises((UserError, ValueError), match="greater than 0"):
        scenario({"gb_per_s": 0.0})


THINKING: Fields = {
    "kind": "synthetic", "requests": 60,
    "arrivals": {"kind": "poisson", "rate_per_s": 3.0},
    "lengths": {
        "kind": "independent",
        "input": {"kind": "fixed", "tokens": 500},
        "output": {"kind": "fixed", "tokens": 50},
    },
    "reasoning": {"tokens": {"kind": "uniform", "low": 50, "high": 300}},
}  # fmt: skip


def test_the_answer_begins_after_the_thinking_here_too() -> None:
    times = simulated(workload=THINKING).times
    waited = times.ttfat_ms - times.ttft_ms
    thinking = 1e-3 * waited / (1e-3 * times.tpot_ms)
    assert (thinking > 45).all()
    assert (thinking < 310).all()


def test_several_answers_to_a_prompt_are_refused() -> None:
    with pytest.raises(ScenarioError, match="several answers"):
        simulate(scenario(workload=THINKING | {"samples": {"n": 2}}))


def test_preemptions_on_both_replicas_count() -> None:
    tight = ["engine.kv_cache_tokens=32000", "deployment.oversized_requests=reject"]
    scenario = load_scenario("disaggregated-70b-h100", tight)
    record = simulate(scenario, intervals=False, at_most=400).record
    assert record.preempted is not None
    assert record.preemptions.sum() == record.preempted[:, 2].sum() > 500
