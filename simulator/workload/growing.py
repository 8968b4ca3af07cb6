"""Requests that are not known beforehand: they come while the clock runs, and are forgotten when
they are over."""

from __future__ import annotations

from array import array
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from simulator.workload.requests import Requests


class Column(dict[int, Any]):
    """A column that has rows for some requests only; all others have its default.

    It stands where a run of known requests has an array or a list, for single rows.
    """

    def __init__(self, default: float) -> None:
        super().__init__()
        self._default = default

    def __missing__(self, index: int) -> float:
        return self._default

    def tolist(self) -> Column:
        """Itself: its rows are read one by one anyway."""
        return self


@dataclass(frozen=True, slots=True)
class Asked:
    """One request.

    Args:
        input_tokens: prompt length, at least 1.
        output_tokens: tokens to generate, at least 1.
        class_id: index into the classes.
        session: number of the conversation, -1: none.
        adapter: index into the adapters' ranks, -1: none.
        keys: of the full KV blocks of prompt and answer, from the first one on: two requests share
            a block if its key and those of all blocks before are the same. None: nothing is
            shared. Each is a number from 0 on and the place of the block.
        follows: another answer to the prompt of the request right before it.
    """

    input_tokens: int
    output_tokens: int
    class_id: int = 0
    session: int = -1
    adapter: int = -1
    keys: tuple[tuple[int, int], ...] | None = None
    follows: bool = False


class GrowingRequests(Requests):
    """See the module; rows are numbered as they come and no number comes twice.

    Args:
        classes: names of the traffic classes.
        adapter_ranks: see ``Requests``; None: nobody asks for adapters.

    Attributes:
        asked: the requests that are not over, by their number.
    """

    __slots__ = ("_columns", "_next", "asked")

    def __init__(
        self, classes: tuple[str, ...], adapter_ranks: tuple[int, ...] | None = None
    ) -> None:
        def known(default: int) -> Any:
            return Column(default)

        super().__init__(
            arrival_s=np.empty(0),
            input_tokens=np.empty(0, dtype=np.int64),
            output_tokens=np.empty(0, dtype=np.int64),
            class_id=known(0),
            parent=np.empty(0, dtype=np.int64),
            pool=np.empty(0, dtype=np.int64),
            session=known(-1),
            classes=classes,
            adapters=None if adapter_ranks is None else known(-1),
            adapter_ranks=adapter_ranks or (),
        )
        columns = [self.class_id, self.session, self.adapters]
        put = object.__setattr__  # as the frozen dataclass does it
        put(self, "_columns", [each for each in columns if each is not None])
        put(self, "_next", 0)
        put(self, "asked", {})

    asked: dict[int, Asked]
    _columns: list[Any]
    _next: int

    @property
    def open_loop(self) -> bool:
        """Nobody waits for another one, as far as the deployment knows."""
        return True

    def check_integrity(self) -> None:
        """Nothing can be wrong yet."""

    def column(self, default: float) -> array[Any]:
        """See ``Requests.column``; rows are there as soon as they are written."""
        column = Column(default)
        self._columns.append(column)
        return cast("array[Any]", column)

    def add(self, asked: Asked) -> int:
        """A request comes; returns its number."""
        index = self._next
        object.__setattr__(self, "_next", index + 1)
        self.asked[index] = asked
        class_id, session = cast("Any", self.class_id), cast("Any", self.session)
        class_id[index] = asked.class_id
        if asked.session >= 0:
            session[index] = asked.session
        if asked.adapter >= 0:
            cast("Any", self.adapters)[index] = asked.adapter
        return index

    def forget(self, needed: Collection[int]) -> None:
        """Drops the rows of all requests but these."""
        for column in (*self._columns, self.asked):
            for index in [index for index in column if index not in needed]:
                del column[index]
