"""Answers under way: each hears of its tokens from the deployment and wakes whoever sends them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from emulator.answers import Answer
from emulator.clock import Clock
from emulator.errors import ApiError, crashed, rejected
from simulator.live import Asked, Ending


class Choice:
    """One answer (``simulator.live.Listener``).

    Args:
        reply: which it belongs to.
        index: among the reply's.
        answer: what will be said.

    Attributes:
        heard: tokens that have come.
        told: tokens that were sent on.
        ending: how it went; None: it is under way.
    """

    __slots__ = ("answer", "ending", "heard", "index", "number", "reply", "told")

    def __init__(self, reply: Reply, index: int, answer: Answer) -> None:
        self.reply = reply
        self.index = index
        self.answer = answer
        self.number = -1
        self.heard = 0
        self.told = 0
        self.ending: Ending | None = None

    def tokens(self, count: int) -> None:
        """See ``Listener``."""
        self.heard += count
        if self.reply.each_token:
            self.reply.wake()

    def ended(self, ending: Ending) -> None:
        """See ``Listener``."""
        self.ending = ending
        self.reply.one_ended(self)


@dataclass(frozen=True, slots=True)
class Told:
    """What a reply tells of its end: the choice and its finish reason (``abort`` where it was
    cancelled)."""

    choice: Choice
    ending: Ending
    finish_reason: str


class Reply:
    """All answers to one request.

    Args:
        clock: of the deployment.
        each_token: wake with every token, not with the last answer's end alone.
        on_end: told of each answer's end, once.

    Attributes:
        choices: the answers.
        error: why there will be no more; None: nothing is wrong.
        gone: the client has left.
    """

    def __init__(self, clock: Clock, each_token: bool, on_end: Callable[[Told], None]) -> None:
        self.choices: list[Choice] = []
        self.each_token = each_token
        self.error: ApiError | None = None
        self.gone = False
        self._clock = clock
        self._on_end = on_end
        self._open = 0
        self._news = False
        self._waiter: asyncio.Future[None] | None = None

    def send(self, requests: list[tuple[Asked, Answer]]) -> None:
        """The requests go to the deployment, all at this moment."""
        self.choices = [Choice(self, index, answer) for index, (_, answer) in enumerate(requests)]
        self._open = len(requests)
        sent = [(asked, choice) for (asked, _), choice in zip(requests, self.choices, strict=True)]
        for choice, number in zip(self.choices, self._clock.send(sent), strict=True):
            choice.number = number

    @property
    def over(self) -> bool:
        """Nothing more comes."""
        return self._open == 0

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompts that were found in the prefix cache, so far as it is known."""
        endings = (choice.ending for choice in self.choices)
        return sum(ending.cached_tokens for ending in endings if ending is not None)

    def wake(self) -> None:
        """There is something to send."""
        waiter, self._waiter = self._waiter, None
        if waiter is None:
            self._news = True
        elif not waiter.done():
            waiter.set_result(None)

    async def news(self) -> None:
        """Returns when there is something new, or was since the last time."""
        if not self._news:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._news = False

    def one_ended(self, choice: Choice) -> None:
        """The deployment is done with one of the answers."""
        assert choice.ending is not None
        self._open -= 1
        outcome = choice.ending.outcome
        self._on_end(Told(choice, choice.ending, choice.answer.finish_reason))
        if outcome != "completed":
            self.fail(rejected() if outcome == "rejected" else crashed())
        elif self._open == 0:
            self.wake()

    def fail(self, error: ApiError) -> None:
        """Nothing more will be sent but this."""
        self.error = self.error or error
        # Within a call of the deployment nothing may be cancelled.
        asyncio.get_running_loop().call_soon(self.cancel)
        self.wake()

    def leave(self) -> None:
        """The client is gone: what it asked for is cancelled."""
        if not self.gone:
            self.gone = True
            self.cancel()
            self.wake()

    def cancel(self) -> None:
        """Takes back all that is open; blocks are free at the next step boundary."""
        if self.over or self._clock.failure is not None:
            return
        self._clock.catch_up()
        for choice in self.choices:
            if choice.ending is None:
                choice.ending = self._clock.deployment.progress_of(choice.number)
                self._open -= 1
                self._clock.cancel(choice.number)
                self._on_end(Told(choice, choice.ending, "abort"))
