"""A live deployment that is sent what a simulation sent gives every token at the same time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from simulator import load_scenario, simulate
from simulator.cluster.answers import sequences_of
from simulator.live import Asked, Ending, LiveDeployment
from simulator.results.record import COMPLETED, RunRecord
from simulator.scenario.scenario import Scenario
from simulator.serving.kv_cache import KvCache
from simulator.workload.requests import Requests

SAME = {
    "admission-8b-l40s": 600,
    "autoscaling-day-8b-l4": 150,
    "best-of-8b-h100": 400,
    "chat-8b-h100": 600,
    "data-parallel-attention-deepseek-v3-h200": 300,
    "disaggregated-70b-h100": 300,
    "failover-8b-h100": 600,
    "kv-offload": 200,
    "lora-adapters-8b-h100": 400,
    "mixed-pools-8b": 500,
    "orders-two-classes-l40s": 500,
    "pipeline-70b-l40s": 120,
    "scale-to-zero-70b-h100": 60,
    "sessions-prefix-aware": 400,
    "speculative-eagle-8b-h100": 200,
    "spot-8b-l4": 600,
    "static-batching": 300,
    "swap-preemption": 150,
    "two-models-one-gpu": 300,
    "window-gemma-3-27b-h100": 200,
}
"""Shipped scenarios with one of everything, and how many requests are enough."""


@dataclass
class Client:
    """Counts what it hears."""

    deployment: LiveDeployment
    counts: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    ending: Ending | None = None

    def tokens(self, count: int) -> None:
        assert self.ending is None
        self.counts.append(count)
        self.times.append(self.deployment.now_s)

    def ended(self, ending: Ending) -> None:
        assert self.ending is None
        self.ending = ending


def replay(live: LiveDeployment, record: RunRecord) -> dict[int, Client]:
    """Sends what a simulation's clients sent, when they did."""
    requests = record.requests
    sequences = sequences_of(requests)
    clients = {}
    for index in np.argsort(record.sent_s, kind="stable").tolist():
        sent = float(record.sent_s[index])
        if math.isnan(sent):
            continue
        # What arrives at the moment at which a step ends is in time for the next one.
        live.advance(math.nextafter(sent, -math.inf))
        clients[index] = Client(live)
        live.send(asked_as(live, requests, sequences.make(index)), clients[index])
    live.advance(record.end_s + 1000.0)
    return clients


def asked_as(live: LiveDeployment, requests: Requests, sequence) -> Asked:
    """The request of a simulation as a client sends it, its texts by the keys of their blocks."""
    index, keys = sequence.index, None
    if sequence.streams is not None and live.block_size:
        cache = KvCache(live.pools[0].resolved.layout, prefix_caching=True)
        blocks = (sequence.prompt + sequence.output) // live.block_size
        keys = tuple(cache._chain(sequence, blocks))
    return Asked(
        sequence.prompt,
        sequence.output,
        class_id=int(requests.class_id[index]),
        session=int(requests.session[index]),
        adapter=-1 if requests.adapters is None else int(requests.adapters[index]),
        keys=keys,
        follows=sequence.follows,
    )


@pytest.mark.parametrize("name", SAME)
def test_tokens_come_when_the_simulation_says(name: str) -> None:
    scenario = load_scenario(name)
    record = simulate(scenario, intervals=False, at_most=SAME[name]).record
    live = LiveDeployment(scenario)
    clients = replay(live, record)
    assert live.open_requests == 0
    live.check_integrity()
    close = {"abs": 1e-9, "rel": 1e-9}
    for index, client in clients.items():
        ending = client.ending
        assert ending is not None
        completed = record.outcome[index] == COMPLETED
        assert (ending.outcome == "completed") == completed
        if completed:
            assert sum(client.counts) == record.requests.output_tokens[index]
            assert ending.first_token_s == pytest.approx(record.first_token_s[index], **close)
            assert ending.finish_s == pytest.approx(record.finish_s[index], **close)
            assert ending.cached_tokens == record.cached_tokens[index]
            assert client.times[-1] == pytest.approx(ending.finish_s, **close)
            if not record.preemptions[index] and record.lives is None:
                assert client.times[0] == pytest.approx(ending.first_token_s, **close)
    assert sum(record.outcome[i] == COMPLETED for i in clients) > 0.5 * len(clients)


def small() -> Scenario:
    return load_scenario("chat-8b-h100").model_copy(deep=True)


def test_a_client_that_goes_frees_its_blocks() -> None:
    live = LiveDeployment(small())
    clients = [Client(live) for _ in range(20)]
    numbers = [live.send(Asked(900, 400), client) for client in clients]
    live.advance(1.0)
    assert live.replicas()[0].kv_blocks_used >= 20 * (900 // 16)
    assert all(sum(client.counts) > 5 for client in clients)
    heard = [sum(client.counts) for client in clients]
    for number in numbers[:19]:
        live.cancel(number)
    live.advance(1.2)
    state = live.replicas()[0]
    assert (state.running, state.waiting, live.open_requests) == (1, 0, 1)
    assert state.kv_blocks_used <= (900 + 400) // 16 + 1
    assert [sum(client.counts) for client in clients[:19]] == heard[:19]
    assert all(client.ending is None for client in clients[:19])
    live.advance(100.0)
    assert clients[19].ending is not None
    assert sum(clients[19].counts) == 400
    assert live.replicas()[0].kv_blocks_used == 0
    live.check_integrity()


@pytest.mark.parametrize(
    "name", ["chat-8b-h100", "disaggregated-70b-h100", "failover-8b-h100", "pipeline-70b-l40s"]
)
def test_nothing_is_kept_of_requests_that_are_over(name: str) -> None:
    """Half of the clients go, at any time: on the way, in the queue, while they decode."""
    live = LiveDeployment(load_scenario(name))
    rng = np.random.default_rng(5)
    open_numbers: list[int] = []
    for _ in range(6000):
        live.advance(live.now_s + rng.exponential(0.01))
        number = live.send(Asked(int(rng.integers(1, 300)), int(rng.integers(1, 4))), Client(live))
        if rng.random() < 0.5:
            open_numbers.append(number)
        if open_numbers and rng.random() < 0.5:
            live.cancel(open_numbers.pop(int(rng.integers(len(open_numbers)))))
    live.advance(live.now_s + 500.0)
    assert live.open_requests == 0
    live.check_integrity()
    cluster = live._cluster
    cluster._forget()
    rows = sum(len(column) for column in (*cluster.requests._columns, cluster.requests.asked))
    assert rows == 0
    assert not cluster._where
    assert not cluster._coming
    assert not cluster._leaving
    assert sum(cluster.loads) == 0
    if cluster._handover is not None:
        assert not cluster._handover._journeys
