"""Whatever clients, replicas and the clock do: every request ends once or is cancelled, nobody hears
a token twice or after the end, and nothing is left behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator import load_scenario
from simulator.live import Asked, Ending, LiveDeployment
from simulator.scenario.scenario import Scenario

LENGTHS = {
    "kind": "independent",
    "input": {"kind": "uniform", "low": 50, "high": 800},
    "output": {"kind": "uniform", "low": 2, "high": 250},
}
FAST = {"interval_s": 0.3, "down_window_s": 0.6, "idle_s": 0.4}
CRASHING = {"mtbf_h": 2.0 / 3600, "repair_s": 0.2, "detection_s": 0.1}


def asked(**parts: Any) -> Scenario:
    """Llama-3.2-3B on H100, with what is told; traffic of two classes."""

    def traffic(name: str, **more: Any) -> dict[str, Any]:
        workload = {
            "kind": "synthetic", "requests": 100, "lengths": LENGTHS,
            "arrivals": {"kind": "poisson", "rate_per_s": 10.0},
        }  # fmt: skip
        return {"name": name, "workload": workload, "slo": {"ttft_ms": 100.0}, **more}

    both = [traffic("chat", priority=0, weight=2.0), traffic("batch", priority=5)]
    return Scenario.model_validate(
        {
            "name": "storm", "model": "llama-3.2-3b", "hardware": "h100-sxm",
            "workload": {"kind": "mix", "classes": both}, **parts,
        }
    )  # fmt: skip


def fleet(**deployment: Any) -> Scenario:
    return asked(
        deployment={"router": {"kind": "least_outstanding"}, **deployment},
        engine={"kv_cache_tokens": 20_000, "prefix_caching": True, "max_num_seqs": 16},
    )


KINDS: dict[str, tuple[Scenario, bool]] = {
    "plain": (asked(engine={"kv_cache_tokens": 8000, "prefix_caching": True}), False),
    "crashes on demand": (asked(engine={"kv_cache_tokens": 8000}), True),
    "restart": (
        fleet(replicas=3, failures=CRASHING, retry={"mode": "restart", "limit": 2}), True
    ),
    "resume": (
        fleet(replicas=3, failures=CRASHING, retry={"mode": "resume", "limit": 9}), True
    ),
    "from zero": (
        fleet(
            autoscaling={"kind": "concurrency", "target": 4.0, "min": 0, "max": 3, **FAST},
            cold_start={"provisioning_s": 0.3, "warmup_s": 0.2},
            gateway={"max_queue": 20},
        ),
        True,
    ),
    "spot": (
        fleet(
            replicas=3, retry={"mode": "restart"}, gateway={"max_concurrency": 4},
            spot={"interruptions_per_hour": 1800.0, "notice_s": 0.3, "replacement_s": 0.1},
        ),
        False,
    ),
    "admission": (
        asked(
            deployment={
                "replicas": 2,
                "router": {"kind": "power_of_two"},
                "admission": {
                    "rules": [
                        {"kind": "queue_length", "max_waiting": 6}, {"kind": "predicted_ttft"},
                        {"kind": "kv_use", "max_use": 0.9},
                        {"kind": "rate_limit", "requests_per_s": 15.0, "burst": 5},
                    ]
                },
            },
            engine={"kv_cache_tokens": 8000},
        ),
        True,
    ),
    "fair": (asked(engine={"queue": {"kind": "fair"}, "max_num_seqs": 8}), True),
    "priority": (asked(engine={"queue": {"kind": "priority"}, "max_num_seqs": 8}), False),
    "deadlines": (asked(engine={"queue": {"kind": "deadline"}, "max_num_seqs": 8}), False),
    "swap": (asked(engine={"kv_cache_tokens": 4000, "preemption": {"kind": "swap", "host_gib": 2.0}}), True),
    "tiers": (
        asked(
            engine={
                "kv_cache_tokens": 4000, "prefix_caching": True,
                "kv_offload": [{"kind": "host", "gib": 2.0}],
            }
        ),
        True,
    ),
    "stages": (
        asked(parallelism={"pp": 2}, deployment={"replicas": 2}, engine={"kv_cache_tokens": 9000}),
        True,
    ),
    "drafts": (
        asked(
            engine={
                "speculative": {"kind": "ngram", "tokens": 4, "acceptance": 0.6},
                "kv_cache_tokens": 6000,
            }
        ),
        True,
    ),
    "static": (asked(engine={"policy": {"kind": "static", "batch_size": 4}}), True),
    "reserving": (
        asked(engine={"policy": {"kind": "full_reservation"}, "kv_cache_tokens": 5000}), True
    ),
    "contiguous": (
        asked(
            engine={
                "policy": {"kind": "full_reservation"}, "prefix_caching": False,
                "kv_cache_tokens": 9000,
                "kv_allocation": {"kind": "contiguous", "reserve": "power_of_two"},
            }
        ),
        True,
    ),
    "ranks": (load_scenario("data-parallel-attention-deepseek-v3-h200"), True),
    "adapters": (load_scenario("lora-adapters-8b-h100"), True),
    "apart": (load_scenario("disaggregated-70b-h100"), False),
    "by layer": (
        load_scenario("disaggregated-70b-h100", ["deployment.transfer.mode=by_layer"]), False
    ),
    "shared devices": (load_scenario("two-models-one-gpu"), True),
    "affinity": (
        load_scenario("sessions-prefix-aware", ["deployment.router={kind: session_affinity}"]),
        True,
    ),
    "thinking": (load_scenario("reasoning-32b-h100"), False),
}  # fmt: skip


class Client:
    """Sees to it that what it hears makes sense."""

    def __init__(self, live: LiveDeployment, output: int) -> None:
        self.live = live
        self.output = output
        self.heard = 0
        self.last_s = live.now_s
        self.ending: Ending | None = None
        self.cancelled = False

    def tokens(self, count: int) -> None:
        self._still_there()
        assert count > 0
        self.heard += count
        assert self.heard <= self.output

    def ended(self, ending: Ending) -> None:
        self._still_there()
        self.ending = ending
        assert ending.outcome in ("completed", "rejected", "failed")
        if ending.outcome == "completed":
            assert self.heard == self.output
            assert ending.sent_s <= ending.first_token_s <= ending.finish_s
            assert ending.finish_s == pytest.approx(self.live.now_s, abs=1e-9)
        if ending.outcome == "rejected":
            assert self.heard == 0

    def _still_there(self) -> None:
        assert self.ending is None
        assert not self.cancelled
        assert self.live.now_s >= self.last_s
        self.last_s = self.live.now_s


class Storm:
    """Random clients, faults and steps of the clock."""

    def __init__(self, scenario: Scenario, crashes: bool, seed: int) -> None:
        self.live = LiveDeployment(scenario, crashes=crashes)
        self.crashes = crashes
        self.rng = np.random.default_rng([seed, 77])
        self.open: list[tuple[int, Client]] = []
        self.clients: list[Client] = []
        self.adapters = len(self.live.traffic.adapter_ranks) or 0
        self.numbers = len(self.live._cluster.loads)

    def send(self) -> None:
        rng, live = self.rng, self.live
        output = int(rng.integers(1, 80))
        prompt = int(rng.integers(1, 900))
        keys = None
        if live.block_size and rng.random() < 0.8:
            # A text of one of three kinds, shared up to some block.
            kind, own = int(rng.integers(3)), int(rng.integers(1 << 30))
            blocks, shared = (prompt + output) // live.block_size, int(rng.integers(40))
            keys = tuple((kind if i < shared else own, i) for i in range(blocks))
        one = Asked(
            prompt, output,
            class_id=int(rng.integers(len(live.classes))),
            session=int(rng.integers(-1, 6)),
            adapter=int(rng.integers(-1, self.adapters)) if self.adapters else -1,
            keys=keys,
        )  # fmt: skip
        several = int(rng.integers(1, 4)) if live.several_answers and rng.random() < 0.2 else 1
        for number in range(several):
            follower = Asked(
                prompt, output, one.class_id, one.session, one.adapter, keys, number > 0
            )
            client = Client(live, output)
            self.open.append((live.send(follower, client), client))
            self.clients.append(client)

    def cancel(self) -> None:
        self.open = [entry for entry in self.open if entry[1].ending is None]
        if self.open:
            number, client = self.open.pop(int(self.rng.integers(len(self.open))))
            self.live.cancel(number)
            client.cancelled = client.ending is None

    def strike(self) -> None:
        replica, for_s = int(self.rng.integers(self.numbers)), float(self.rng.uniform(0.1, 2.0))
        if self.crashes and self.rng.random() < 0.4:
            self.live.faults.crash(replica, for_s=for_s)
        else:
            self.live.faults.slow(replica, factor=float(self.rng.uniform(1.1, 6.0)), for_s=for_s)

    def wait(self) -> None:
        kind = self.rng.random()
        live = self.live
        if kind < 0.4 and live.next_s < live.now_s + 10.0:
            live.advance(live.next_s)  # to the very moment at which something happens
        elif kind < 0.95:
            live.advance(live.now_s + self.rng.exponential(0.05))
        else:
            live.advance(live.now_s + self.rng.exponential(2.0))

    def run(self, steps: int) -> None:
        does = (self.send, self.cancel, self.strike, self.wait)
        for _ in range(steps):
            does[int(self.rng.choice(4, p=(0.35, 0.12, 0.03, 0.5)))]()
        self.live.advance(self.live.now_s + 3000.0)

    def check(self) -> None:
        live, cluster = self.live, self.live._cluster
        for client in self.clients:
            assert client.cancelled == (client.ending is None)
        assert live.open_requests == 0
        live.check_integrity()
        assert not any(cluster.loads)
        cluster._forget()
        rows = sum(len(column) for column in (*cluster.requests._columns, cluster.requests.asked))
        assert rows == 0
        for kept in ("_where", "_coming", "_leaving", "_attempts"):
            assert not getattr(cluster, kept, None), kept
        if cluster._handover is not None:
            assert not cluster._handover._journeys
        for state in live.replicas():
            assert (state.running, state.waiting, state.kv_blocks_used) == (0, 0, 0), state


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost_or_told_twice(kind: str) -> None:
    scenario, crashes = KINDS[kind]
    storm = Storm(scenario, crashes, seed=3)
    storm.run(700)
    storm.check()
    outcomes = {client.ending.outcome for client in storm.clients if client.ending is not None}
    assert "completed" in outcomes
