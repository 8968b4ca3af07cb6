"""Answers that stall on their way to the client, or are cut off."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from emulator.faults import RequestFault
from simulator.live import Ending, Listener, LiveDeployment


class Disturbed:
    """The answers to one request, as its fault lets them come; tokens are counted over all of them.

    Args:
        fault: with a stall, a cut, or both.
        deployment: whose clock says when a stall is over.
        cut: cuts the connection.
    """

    def __init__(
        self, fault: RequestFault, deployment: LiveDeployment, cut: Callable[[], None]
    ) -> None:
        self._deployment = deployment
        self._cut = cut
        self._stall_at = fault.stall_after_tokens
        self._stall_s = fault.stall_s
        self._cut_at = fault.cut_after_tokens
        self._told = 0
        self._over = False
        # What happens while it stalls, in order; None: it does not.
        self._held: list[Callable[[], None]] | None = None

    def around(self, listener: Listener) -> Listener:
        """Who hears of an answer in place of its listener."""
        return _Around(self, listener)

    def tokens(self, tell: Callable[[int], None], count: int) -> None:
        """So many tokens of an answer have come; ``tell`` is who would hear of them."""
        if self._held is not None:
            self._held.append(lambda: self.tokens(tell, count))
            return
        if self._over:
            return
        if self._stall_at is not None and self._told + count > self._stall_at:
            before = self._stall_at - self._told
            self._stall_at = None
            self._pass(tell, before)
            self._stall()
            self.tokens(tell, count - before)
        else:
            self._pass(tell, count)

    def ended(self, tell: Callable[[], None]) -> None:
        """An answer is over."""
        if self._held is not None:
            self._held.append(lambda: self.ended(tell))
        elif not self._over:
            tell()

    def _pass(self, tell: Callable[[int], None], count: int) -> None:
        cut = self._cut_at is not None and self._told + count >= self._cut_at
        if cut:
            assert self._cut_at is not None
            count = self._cut_at - self._told
        self._told += count
        if count:
            tell(count)
        if cut:
            self._over = True
            self._cut()

    def _stall(self) -> None:
        if self._over:
            return
        self._held = []
        if self._stall_s < inf:
            self._deployment.at(self._deployment.now_s + self._stall_s, self._go_on)

    def _go_on(self) -> None:
        held, self._held = self._held or [], None
        for happen in held:
            happen()


class _Around:
    def __init__(self, disturbed: Disturbed, listener: Listener) -> None:
        self._disturbed = disturbed
        self._listener = listener

    def tokens(self, count: int) -> None:
        self._disturbed.tokens(self._listener.tokens, count)

    def ended(self, ending: Ending) -> None:
        self._disturbed.ended(lambda: self._listener.ended(ending))
