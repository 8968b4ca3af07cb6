"""What a live deployment keeps does not grow with the requests that it has served."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from array import array
from typing import Any

import numpy as np
import pytest

from simulator.live import Asked, Ending, LiveDeployment
from tests.test_live_storm import KINDS

LOADS = {
    "plain": 60.0, "admission": 60.0, "contiguous": 60.0, "tiers": 40.0, "from zero": 40.0,
    "spot": 30.0, "adapters": 20.0, "apart": 20.0, "affinity": 20.0,
}  # fmt: skip
"""Requests a second for kinds with structures of their own."""

OURS = ("simulator.cluster", "simulator.live", "simulator.serving", "simulator.results.waste")
ROUND = 1100
"""Requests a round; after each round all that nobody needs is dropped."""


class Deaf:
    def tokens(self, count: int) -> None: ...

    def ended(self, ending: Ending) -> None: ...


def serve(live: LiveDeployment, rng: np.random.Generator, rate: float) -> None:
    """One round; one client in ten wants very much and goes soon."""
    deaf, going = Deaf(), []
    adapters = len(live.traffic.adapter_ranks)
    for number in range(ROUND):
        live.advance(live.now_s + rng.exponential(1.0 / rate))
        prompt, output = int(rng.integers(1, 100)), int(rng.integers(1, 5))
        if goes := rng.random() < 0.1:
            output = 900
        keys = None
        if live.block_size:
            own, blocks = int(rng.integers(1 << 40)), (prompt + output) // live.block_size
            keys = tuple((7 if i < 3 else own, i) for i in range(blocks))
        asked = Asked(
            prompt, output, class_id=number % len(live.classes), session=number % 500,
            adapter=number % adapters if adapters else -1, keys=keys,
        )  # fmt: skip
        sent = live.send(asked, deaf)
        if goes:
            going.append(sent)
        if len(going) > 3:
            live.cancel(going.pop(0))
    for sent in going:
        live.cancel(sent)
    live.advance(live.now_s + 20.0)
    assert live.open_requests == 0
    live._cluster._forget()
    live.settle()


def kept(live: LiveDeployment) -> int:
    """Entries of the containers that hold something of requests, sessions or replicas."""
    seen: set[int] = set()
    total = 0
    todo: list[Any] = [live._cluster]
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, type) or callable(one):
            continue
        seen.add(id(one))
        module = type(one).__module__
        if isinstance(one, array):
            total += len(one)
        elif isinstance(one, dict):
            total += len(one)
            todo += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset) or type(one).__name__ == "deque":
            total += len(one)
            todo += list(one)
        elif module.startswith(OURS):
            names = [n for kind in type(one).__mro__ for n in getattr(kind, "__slots__", ())]
            todo += [getattr(one, name, None) for name in names]
            todo += list(getattr(one, "__dict__", {}).values())
    return total


@pytest.mark.parametrize("kind", LOADS)
def test_rounds_leave_nothing_behind(kind: str) -> None:
    scenario, crashes = KINDS[kind]
    small = scenario.engine.model_copy(update={"kv_cache_tokens": 3000})
    if kind != "apart":
        scenario = scenario.model_copy(update={"engine": small})
    live = LiveDeployment(scenario, crashes=crashes)
    rng = np.random.default_rng(1)
    for _ in range(2):  # caches fill
        serve(live, rng, LOADS[kind])
    before = kept(live)
    for _ in range(3):
        serve(live, rng, LOADS[kind])
        if crashes:
            live.faults.crash(0, for_s=1.0)
            live.advance(live.now_s + 5.0)
    assert kept(live) < before + 300, "3,300 requests left something behind"


def test_memory_is_flat_over_many_requests() -> None:
    scenario, _ = KINDS["plain"]
    live = LiveDeployment(scenario)
    rng = np.random.default_rng(1)
    tracemalloc.start()
    try:
        for _ in range(6):
            serve(live, rng, 100.0)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(4):
            serve(live, rng, 100.0)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    # Dictionaries grow in leaps; the rows of a request would be more than a kilobyte.
    assert grown < 4 * ROUND * 100


@pytest.mark.parametrize("kind", ["plain", "drafts"])
def test_who_goes_early_is_not_kept_until_its_end_would_have_come(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that lasts, and many beside it that would last longer, and go."""
    monkeypatch.setattr("simulator.live.cluster._FORGET_EVERY", 50)
    scenario, _ = KINDS[kind]
    live = LiveDeployment(scenario)
    live.send(Asked(10, 5500), Deaf())
    replica: Any = live._cluster.replicas[0]
    for _ in range(300):
        number = live.send(Asked(5, 5900), Deaf())
        live.advance(live.now_s + 0.02)
        live.cancel(number)
    assert live.open_requests == 1
    live.advance(live.now_s + 0.05)
    decoding = replica.scheduler.decoding
    assert decoding.count == 1
    table = getattr(decoding, "table", None)
    assert len(decoding.ends) + (len(table._ends) if table else 0) < 60


def test_replicas_that_are_gone_are_not_kept_for_their_conversations() -> None:
    scenario, _ = KINDS["affinity"]
    live = LiveDeployment(scenario, crashes=True)
    for session in range(8):
        live.send(Asked(100, 5, session=session), Deaf())
    live.advance(1.0)
    gone = weakref.ref(live._cluster.replicas[0])
    live.faults.crash(0, for_s=1.0)
    live.advance(3.0)
    assert len(live.replicas()) == 4
    gc.collect()
    assert gone() is None
