"""Columns about the answers: several to a prompt, thinking before them, where they end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Answers:
    """What is special about each answer. A row is one answer; those to the same prompt stand next
    to each other, and the first of them stands for the request. Shapes are (n,).

    Args:
        lead: row of the first answer to the same prompt, its own for most.
        delivered: the client gets it; those that are not are the lesser ones of a best-of.
        at_once: nothing is delivered before the last answer to the prompt has ended.
        thinking: tokens of thinking among the row's output tokens, which come first.
        hidden: the client does not get those.
        truncated: the answer was cut by the most tokens allowed.
    """

    lead: Ints
    delivered: Flags
    at_once: Flags
    thinking: Ints
    hidden: Flags
    truncated: Flags

    def __len__(self) -> int:
        return len(self.lead)

    @staticmethod
    def plain(n: int) -> Answers:
        """Of ``n`` answers nothing is special."""
        no = np.zeros(n, dtype=np.bool_)
        index = np.arange(n, dtype=np.int64)
        return Answers(index, ~no, no, np.zeros(n, dtype=np.int64), no, no)

    @property
    def leads(self) -> Flags:
        """Which rows stand for a request."""
        flags: Flags = self.lead == np.arange(len(self))
        return flags

    @property
    def several(self) -> bool:
        """Whether some prompt has more than one answer."""
        return not bool(self.leads.all())

    @property
    def think(self) -> bool:
        """Whether there is any thinking."""
        return bool(self.thinking.any())

    def whole(self, n: int) -> int:
        """The least number of rows from ``n`` on that tears no request apart."""
        while n < len(self) and self.lead[n] != n:
            n += 1
        return n

    def first(self, n: int) -> Answers:
        """The first ``n`` rows."""
        return Answers(*(getattr(self, f.name)[:n] for f in fields(Answers)))

    def of_requests(self, flags: Flags) -> Flags:
        """Of each row: whether the flag is set in any row of its request. Shape (n,)."""
        any_of = np.zeros(len(self), dtype=np.bool_)
        any_of[self.lead[flags]] = True
        return any_of[self.lead]

    def check_integrity(self, output_tokens: Ints) -> None:
        """Raises a ValueError if a row contradicts another one."""
        index = np.arange(len(self))
        leads = self.lead == index
        same = np.concatenate([[True], self.lead[1:] == self.lead[:-1]])
        if not ((self.lead <= index).all() and (leads | same).all() and leads[self.lead].all()):
            raise ValueError("requests are inconsistent: answers to a prompt stand apart")
        if not ((self.thinking >= 0) & (self.thinking <= output_tokens)).all():
            raise ValueError("requests are inconsistent: more thinking than tokens")


def merge_answers(
    parts: Sequence[Answers | None], sizes: Sequence[int], order: Ints
) -> Answers | None:
    """Answers of several workloads after their requests were put one behind the other and then into
    ``order`` (the old place of each new one), which keeps the answers to a prompt together."""
    if all(part is None for part in parts):
        return None
    full = [part or Answers.plain(size) for part, size in zip(parts, sizes, strict=True)]
    offsets = np.cumsum([0, *sizes])
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    shifted = [part.lead + start for part, start in zip(full, offsets, strict=False)]
    columns = {
        f.name: np.concatenate([getattr(part, f.name) for part in full])[order]
        for f in fields(Answers)
        if f.name != "lead"
    }
    return Answers(lead=place[np.concatenate(shifted)[order]], **columns)
