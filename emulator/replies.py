"""Answers under way: each hears of its tokens from the deployment and wakes whoever sends them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from emulator.answers import Answer
from emulator.clock import Clock
from emulator.disturbed import Disturbed
from emulator.errors import ApiError, crashed, rejected
from emulator.faults import RequestFault
from simulator.live import Asked, Ending, Listener


class Choice:
    """One answer (``simulator.live.Listener``).

    Args:
        reply: which it belongs to.
        index: among the reply's.
        answer: what will be said.

    Attributes:
        heard: tokens that have come.
        told: tokens that were sent on.
        ending: how it went, as far as the client may know; None: it is under way.
        real: how it went, where a fault holds back that it is over.
    """

    __slots__ = ("answer", "ending", "heard", "index", "number", "real", "reply", "told")

    def __init__(self, reply: Reply, index: int, answer: Answer) -> None:
        self.reply = reply
        self.index = index
        self.answer = answer
        self.number = -1
        self.heard = 0
        self.told = 0
        self.ending: Ending | None = None
        self.real: Ending | None = None

    def tokens(self, count: int) -> None:
        """See ``Listener``."""
        self.heard += count
        if self.reply.each_token:
            self.reply.wake_in_turn(first=self.heard == count)

    def ended(self, ending: Ending) -> None:
        """See ``Listener``."""
        self.ending = ending
        self.reply.one_ended(self)


class Watched:
    """Hears of an answer whose way to the client is disturbed (``simulator.live.Listener``)."""

    def __init__(self, choice: Choice, disturbed: Disturbed) -> None:
        self._choice = choice
        self._around = disturbed.around(choice)
        self.tokens = self._around.tokens

    def ended(self, ending: Ending) -> None:
        """See ``Listener``."""
        self._choice.real = ending
        self._around.ended(ending)


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
        answers: to each prompt.
        each_token: wake with every token, not with the last answer's end alone.
        on_end: told of each answer's end, once.

    Attributes:
        choices: the answers.
        error: why there will be no more; None: nothing is wrong.
        gone: the client has left.
        cut_off: the connection is to be cut.
    """

    def __init__(
        self, clock: Clock, answers: int, each_token: bool, on_end: Callable[[Told], None]
    ) -> None:
        self.choices: list[Choice] = []
        self.answers = answers
        self.each_token = each_token
        self.error: ApiError | None = None
        self.gone = self.cut_off = False
        self._clock = clock
        self._on_end = on_end
        self._open = 0
        self._news = self._in_turn = False
        self._waiter: asyncio.Future[None] | None = None

    def send(self, requests: list[tuple[Asked, Answer]], fault: RequestFault | None = None) -> None:
        """The requests go to the deployment, all at this moment; ``fault``: what goes wrong with
        the answers on their way back."""
        self.choices = [Choice(self, index, answer) for index, (_, answer) in enumerate(requests)]
        self._open = len(requests)
        listeners: list[Listener] = list(self.choices)
        if fault is not None:
            disturbed = Disturbed(fault, self._clock.deployment, self._cut)
            listeners = [Watched(choice, disturbed) for choice in self.choices]
        sent = [(asked, who) for (asked, _), who in zip(requests, listeners, strict=True)]
        for choice, number in zip(self.choices, self._clock.send(sent), strict=True):
            choice.number = number

    def _cut(self) -> None:
        self.cut_off = True
        self.wake()

    @property
    def over(self) -> bool:
        """Nothing more comes."""
        return self._open == 0

    @property
    def behind(self) -> bool:
        """Tokens have come that were not told."""
        return any(choice.told < choice.heard for choice in self.choices)

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompts that were found in the prefix cache, as far as it is known; of
        several answers to a prompt, what the first one found."""
        endings = (choice.ending for choice in self.choices[:: self.answers])
        return sum(ending.cached_tokens for ending in endings if ending is not None)

    def wake_in_turn(self, *, first: bool = False) -> None:
        """There is something to send, as there may be for many others."""
        if not self._in_turn:
            self._in_turn = True
            self._clock.turns.add(self.wake, first=first)

    def wake(self) -> None:
        """There is something to send at once."""
        self._in_turn = False
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
            self.wake_in_turn()

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
        if self.over or self._clock.over:
            return
        self._clock.catch_up()
        for choice in self.choices:
            if choice.ending is None:
                progress = choice.real or self._clock.deployment.progress_of(choice.number)
                choice.ending = progress
                self._open -= 1
                self._clock.cancel(choice.number)
                self._on_end(Told(choice, progress, "abort"))
