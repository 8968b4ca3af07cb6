"""The emulator's clock: nothing early, nothing skipped, and lateness is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest

from emulator import clock as clock_module
from emulator.clock import Clock
from emulator.turns import AT_ONCE, Turns
from simulator import load_scenario
from simulator.live import Asked, Ending, LiveDeployment


class Heard:
    """When tokens came: by the deployment's clock and by the wall's."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.at: list[tuple[float, float]] = []
        self.ending: Ending | None = None

    def tokens(self, count: int) -> None:
        self.at += [(self.clock.deployment.now_s, self.clock.now_s)] * count

    def ended(self, ending: Ending) -> None:
        self.ending = ending


@pytest.fixture
def late() -> list[float]:
    return []


def run(
    work: Callable[[Clock], Coroutine[Any, Any, None]], late: list[float], speed: float
) -> None:
    async def main() -> None:
        clock = Clock(LiveDeployment(load_scenario("chat-8b-h100")), speed, late.append)
        clock.start()
        try:
            await asyncio.wait_for(work(clock), 30.0)
        finally:
            clock.stop()

    asyncio.run(main())


async def over(heard: Heard) -> None:
    while heard.ending is None:
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("speed", [0.5, 1.0, 20.0])
def test_nothing_comes_early_and_all_of_it_comes(speed: float, late: list[float]) -> None:
    async def work(clock: Clock) -> None:
        heard = Heard(clock)
        clock.catch_up()
        clock.send([(Asked(100, 20), heard)])
        sent = clock.deployment.now_s
        await over(heard)
        assert len(heard.at) == 20
        assert all(due <= wall for due, wall in heard.at)
        assert heard.ending is not None
        assert heard.ending.sent_s == sent
        assert heard.at[0][0] == heard.ending.first_token_s > sent
        assert heard.at[-1][0] == heard.ending.finish_s

    run(work, late, speed)
    assert late
    assert min(late) >= 0.0


def test_requests_come_when_they_were_there(late: list[float]) -> None:
    """However long it took to get round to them, if nothing has happened since."""

    async def work(clock: Clock) -> None:
        began = clock.now_s
        moment = time.monotonic()
        time.sleep(0.05)
        clock.catch_up(moment)
        heard = Heard(clock)
        clock.send([(Asked(100, 1), heard)])
        assert began <= clock.deployment.now_s < began + 0.05
        clock.catch_up(moment - 1.0)  # what has happened stays so
        await over(heard)

    run(work, late, 1.0)


def test_a_host_that_is_too_slow_is_told_and_nothing_is_skipped(
    late: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(clock_module, "LATE_FOR_S", 0.1)

    async def work(clock: Clock) -> None:
        heard = Heard(clock)
        clock.catch_up()
        clock.send([(Asked(100, 90), heard)])
        advance = clock.deployment.advance

        def slowly(until_s: float) -> None:
            time.sleep(0.01)  # more than a step takes
            advance(until_s)

        clock.deployment.advance = slowly  # type: ignore[method-assign]
        await over(heard)
        assert not clock.keeps_up
        times = [due for due, _ in heard.at]
        assert len(times) == 90
        assert times == sorted(times)
        # Steps as long as ever, of which many were told late and together.
        assert max(b - a for a, b in pairwise(times)) < 0.02

    run(work, late, 1.0)
    assert max(late) > 0.1
    assert len(caplog.records) == 1
    assert "cannot keep up" in caplog.text


def test_first_tokens_go_first_and_others_in_turn_with_pauses() -> None:
    async def work() -> None:
        turns, said = Turns(), []
        loop = asyncio.get_running_loop()
        for number in range(3 * AT_ONCE):
            turns.add(lambda number=number: said.append(number))
        turns.add(lambda: said.append("first"), first=True)
        loop.call_soon(said.append, "others")
        await asyncio.sleep(0.05)
        assert said[0] == "first"
        assert [each for each in said if isinstance(each, int)] == list(range(3 * AT_ONCE))
        assert said.index("others") == AT_ONCE

    asyncio.run(work())
