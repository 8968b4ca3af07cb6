"""Who writes when much is to be written at one instant."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

AT_ONCE = 32
"""So many answers are written between two looks at the sockets."""


class Turns:
    """A step gives a token to every running answer, and writing them all takes a while. First
    tokens go first, and requests that come meanwhile are read meanwhile: otherwise both would be
    late by as much as a step's writing takes.
    """

    def __init__(self) -> None:
        self._first: deque[Callable[[], object]] = deque()
        self._others: deque[Callable[[], object]] = deque()
        self._running = False

    def add(self, write: Callable[[], object], *, first: bool = False) -> None:
        """Something is to be called, behind all others of its kind."""
        (self._first if first else self._others).append(write)
        if not self._running:
            self._running = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        first, others = self._first, self._others
        for _ in range(AT_ONCE):
            if first:
                first.popleft()()
            elif others:
                others.popleft()()
            else:
                self._running = False
                return
        asyncio.get_running_loop().call_soon(self._run)
