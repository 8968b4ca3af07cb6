"""Who serves a request."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from simulator.cluster import FrontEndTimes, run_cluster
from simulator.cluster.routers import ROUTERS, Fleet, Route
from simulator.results.record import RunRecord
from simulator.scenario.routers import (
    LeastOutstandingRouter,
    PowerOfTwoRouter,
    PrefixAwareRouter,
    RandomRouter,
    RoundRobinRouter,
    Router,
)
from simulator.serving.kv_cache import KvCache, KvLayout
from simulator.serving.sequence import Sequence
from tests.metronome import Metronome
from tests.rig import limits, requests
from tests.sane import check_record


@dataclass
class Engine:
    """The part of a scheduler that routers see."""

    kv: KvCache


@dataclass(eq=False)
class Server:
    """The part of a replica that routers see."""

    number: int
    scheduler: Engine = field(
        default_factory=lambda: Engine(KvCache(KvLayout(100, 4), prefix_caching=True))
    )

    def cached_blocks(self, sequence: Sequence) -> int:
        return self.scheduler.kv.lookup(sequence)

    def warm(self, stream: int, blocks: int) -> None:
        """Computes the beginning of a text."""
        sequence = Sequence(0, 4 * blocks, 1, ((stream, 4 * blocks),))
        self.scheduler.kv.take(blocks)
        self.scheduler.kv.register(sequence, 4 * blocks)


def loaded(*loads: int) -> Fleet:
    servers: Any = [Server(number) for number in range(len(loads))]
    return Fleet(servers, list(loads))


def warm(fleet: Fleet, number: int, stream: int, blocks: int) -> None:
    server: Any = fleet.replicas[number]
    server.warm(stream, blocks)


def route(settings: Router, fleet: Fleet, seed: int = 0) -> Route:
    return ROUTERS[settings.kind](fleet, settings, np.random.default_rng(seed))


def chosen(router: Route, times: int, sequence: Sequence | None = None) -> list[int]:
    request = sequence or Sequence(0, 10, 10)
    return [router.choose(request).number for _ in range(times)]


def test_round_robin_takes_turns_whatever_the_load() -> None:
    assert chosen(route(RoundRobinRouter(), loaded(9, 0, 5)), 7) == [0, 1, 2, 0, 1, 2, 0]


def test_random_is_even_and_repeats_with_its_seed() -> None:
    draws = chosen(route(RandomRouter(), loaded(0, 0, 9)), 9000)
    assert all(abs(count - 3000) < 200 for count in Counter(draws).values())
    assert draws == chosen(route(RandomRouter(), loaded(0, 0, 9)), 9000)
    assert draws != chosen(route(RandomRouter(), loaded(0, 0, 9), seed=1), 9000)


def test_least_outstanding_takes_the_first_of_equals() -> None:
    assert chosen(route(LeastOutstandingRouter(), loaded(3, 1, 2, 1)), 1) == [1]
    assert chosen(route(LeastOutstandingRouter(), loaded(2, 2, 2)), 1) == [0]
    fleet = loaded(0, 0, 0)
    router = route(LeastOutstandingRouter(), fleet)
    order = []
    for _ in range(6):
        order.append(router.choose(Sequence(0, 1, 1)).number)
        fleet.loads[order[-1]] += 1
    assert order == [0, 1, 2, 0, 1, 2]


def test_power_of_two_never_takes_the_busier() -> None:
    """Of four replicas the busiest is never drawn twice, so it is never chosen; with two, always
    the less busy one."""
    draws = Counter(chosen(route(PowerOfTwoRouter(), loaded(1, 7, 3, 5)), 6000))
    assert draws[1] == 0
    # The idlest wins the half of pairs that it is in, the next a third, the next a sixth.
    for number, share in ((0, 1 / 2), (2, 1 / 3), (3, 1 / 6)):
        assert draws[number] / 6000 == pytest.approx(share, abs=0.03)
    assert set(chosen(route(PowerOfTwoRouter(), loaded(4, 3)), 50)) == {1}
    assert set(chosen(route(PowerOfTwoRouter(), loaded(4)), 5)) == {0}
    equal = Counter(chosen(route(PowerOfTwoRouter(), loaded(2, 2)), 1000))
    assert abs(equal[0] - 500) < 80


def text(stream: int = 1, tokens: int = 41) -> Sequence:
    return Sequence(0, tokens, 1, ((stream, tokens),))


def test_prefix_aware_finds_the_warm_replica() -> None:
    fleet = loaded(0, 2, 1)
    warm(fleet, 1, 1, 5)
    warm(fleet, 2, 2, 5)
    router = route(PrefixAwareRouter(), fleet)
    assert router.choose(text(1)).number == 1
    assert router.choose(text(2)).number == 2
    assert router.choose(text(3)).number == 0
    assert router.choose(Sequence(0, 41, 1)).number == 0


def test_prefix_aware_prefers_the_longer_hit() -> None:
    fleet = loaded(0, 2, 1)
    warm(fleet, 0, 1, 2)
    warm(fleet, 1, 1, 5)
    assert chosen(route(PrefixAwareRouter(), fleet), 1, text(1)) == [1]
    assert chosen(route(PrefixAwareRouter(), fleet), 1, text(1, 9)) == [0]  # two blocks do


def test_prefix_aware_takes_the_least_loaded_of_equally_warm_ones() -> None:
    fleet = loaded(0, 3, 1, 2)
    for number in (1, 2, 3):
        warm(fleet, number, 1, 5)
    assert chosen(route(PrefixAwareRouter(), fleet), 1, text(1)) == [2]
    warm(fleet, 0, 1, 5)
    assert chosen(route(PrefixAwareRouter(), fleet), 1, text(1)) == [0]


@pytest.mark.parametrize(("load", "choice"), [(5, 1), (6, 1), (7, 0), (100, 0)])
def test_prefix_aware_does_not_overload_the_warm_replica(load: int, choice: int) -> None:
    fleet = loaded(2, load, 3)
    warm(fleet, 1, 1, 5)
    assert chosen(route(PrefixAwareRouter(max_imbalance=4), fleet), 1, text(1)) == [choice]


@pytest.mark.parametrize(("share", "choice"), [(0.0, 1), (0.4, 1), (0.48, 1), (0.5, 0), (1.0, 0)])
def test_prefix_aware_wants_a_share_of_the_prompt(share: float, choice: int) -> None:
    """Five blocks of four tokens are warm, of a prompt of 41."""
    fleet = loaded(0, 2, 1)
    warm(fleet, 1, 1, 5)
    assert chosen(route(PrefixAwareRouter(min_match=share), fleet), 1, text(1)) == [choice]


# --- in a cluster --------------------------------------------------------------------------------


def run(router: Router, asked: Any, replicas: int = 3, **more: Any) -> RunRecord:
    settings = limits(block_size=4, prefix_caching=more.pop("prefix_caching", False))
    record = run_cluster(
        asked, settings, 1000, Metronome(), replicas=replicas, router=router, **more
    )
    check_record(record, settings)
    return record


def test_turns_are_taken_in_the_order_of_arrival_at_the_server() -> None:
    """The long prompt reaches its queue last and has had its turn first."""
    asked = requests((0.0, 100, 1), (0.5, 4, 1), (1.0, 4, 1))
    record = run(RoundRobinRouter(), asked, front_end=FrontEndTimes(busy_s_per_token=0.25))
    assert record.replica.tolist() == [0, 1, 2]
    assert record.queued_s.argmax() == 0


def test_load_counts_running_and_queued_requests() -> None:
    """0 is long, 1 short: the third goes to replica 0 only if 1 is still busy."""
    asked = requests((0.0, 4, 50), (0.0, 4, 1), (1.0, 4, 9), (3.5, 4, 1), (3.75, 4, 1))
    record = run(LeastOutstandingRouter(), asked, 2)
    # At 1: one each, the first of equals; at 3.5: two on replica 0, none on 1; at 3.75: 2 and 1.
    assert record.replica.tolist() == [0, 1, 0, 1, 1]


def test_a_conversation_stays_where_its_text_is() -> None:
    asked = requests(
        (0.0, 40, 4), (0.1, 40, 4), (50.0, 40, 1), (90.0, 40, 1),
        texts=[[(1, 40)], [(2, 40)], [(2, 40)], [(1, 40)]],
    )  # fmt: skip
    record = run(PrefixAwareRouter(), asked, prefix_caching=True)
    assert record.replica.tolist() == [0, 1, 1, 0]
    assert record.cached_tokens.tolist() == [0, 0, 36, 36]
    spread = run(RoundRobinRouter(), asked, prefix_caching=True)
    assert spread.replica.tolist() == [0, 1, 2, 0]
    assert spread.cached_tokens.tolist() == [0, 0, 0, 36]


@pytest.mark.parametrize(
    "router",
    [
        RoundRobinRouter(),
        RandomRouter(),
        LeastOutstandingRouter(),
        PowerOfTwoRouter(),
        PrefixAwareRouter(),
    ],
    ids=lambda router: router.kind,
)
def test_the_same_seed_gives_the_same_replicas(router: Router) -> None:
    asked = requests(*[(0.3 * i, 4, 3 + i % 5) for i in range(80)])
    first, second = (run(router, asked, seed=5) for _ in range(2))
    assert first.replica.tolist() == second.replica.tolist()
    assert set(first.replica.tolist()) == {0, 1, 2}
    if router.kind in ("random", "power_of_two"):
        assert run(router, asked, seed=6).replica.tolist() != first.replica.tolist()


def test_every_router_of_a_scenario_exists() -> None:
    assert set(ROUTERS) == {
        "round_robin", "random", "least_outstanding", "power_of_two", "prefix_aware",
        "session_affinity",
    }  # fmt: skip
