"""The answers that clients get: how many tokens, what they say, and where they end."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from struct import Struct
from typing import NamedTuple

import numpy as np

from emulator.filler import Filler
from emulator.tokens import Tokenizer
from simulator.errors import ScenarioError
from simulator.workload.requests import Requests

_DRAWS = Struct(">QQQ")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client says of the answer.

    Args:
        max_tokens: most tokens, thinking included; None: not said.
        min_tokens: fewest tokens; stop sequences before them do not count.
        ignore_eos: the answer goes on as long as it may.
        stop: sequences that end the answer, none of them empty.
        seed: the same request with the same seed gets the same answer; None: any.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Length:
    """How long an answer is.

    Args:
        tokens: all of them, at least 1.
        thinking: of these, the first ones, which think.
        hidden: the client does not get those.
        finish_reason: ``stop``, or ``length`` if it would have been longer.
    """

    tokens: int
    thinking: int
    hidden: bool
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer.

    Args:
        tokens: of its text, thinking first.
        pieces: the text of each token; none is empty, but those that a stop sequence takes away.
        finish_reason: ``stop`` or ``length``.
        thinking: the first so many pieces are thinking.
        hidden: the client does not get those.
        stop_reason: the stop sequence that ended it, if one did.
    """

    tokens: list[int]
    pieces: list[str]
    finish_reason: str
    thinking: int = 0
    hidden: bool = False
    stop_reason: str | None = None

    @property
    def thought(self) -> str:
        """What it says while thinking."""
        return "".join(self.pieces[: self.thinking])

    @property
    def text(self) -> str:
        """What it says."""
        return "".join(self.pieces[self.thinking :])


class Chance(NamedTuple):
    """What is left to chance in an answer, as random numbers below 2⁶⁴."""

    length: int
    thought: int
    text: int


class Lengths:
    """Lengths of answers, as those of the scenario's own traffic are.

    Args:
        traffic: the requests that the scenario's workload would send.
        seed: of the scenario; answers without a seed of their own depend on it and on how many
            there were before.

    Raises:
        ScenarioError: the workload has no request of some class.
    """

    def __init__(self, traffic: Requests, seed: int) -> None:
        self._seed = seed
        self._asked = 0
        self._tokens, self._answers = traffic.output_tokens, traffic.answers
        self._rows = [np.flatnonzero(traffic.class_id == c) for c in range(len(traffic.classes))]
        for name, rows in zip(traffic.classes, self._rows, strict=True):
            if not len(rows):
                raise ScenarioError(
                    f"has no request of class {name}, whose answers could be as long",
                    where="workload",
                    hint="give it more requests or a longer duration_s",
                )

    def chances(self, prompt: Sequence[int], seed: int | None, answers: int) -> list[Chance]:
        """What chance decides about each answer to a prompt."""
        if seed is None:
            self._asked += 1
            source = blake2b(b"%d, %d" % (self._seed, self._asked), digest_size=16)
        else:
            source = blake2b(b"%d: %d: " % (self._seed, seed), digest_size=16)
            source.update(array("q", prompt).tobytes())
        root = source.digest()
        return [
            Chance(*_DRAWS.unpack(blake2b(root + b"%d" % place, digest_size=24).digest()))
            for place in range(answers)
        ]

    def draw(self, wanted: Wanted, class_id: int, room: int, chance: int) -> Length:
        """The length of an answer.

        Args:
            wanted: what the client says.
            class_id: traffic class of the request.
            room: tokens that fit behind the prompt, at least 1.
            chance: a random number below 2⁶⁴.
        """
        rows, answers = self._rows[class_id], self._answers
        row = rows[chance % len(rows)]
        natural, thinking, hidden = int(self._tokens[row]), 0, False
        if answers is not None:
            thinking, hidden = int(answers.thinking[row]), bool(answers.hidden[row])
        most = room if wanted.max_tokens is None else min(wanted.max_tokens, room)
        length = max(natural, wanted.min_tokens)
        if wanted.ignore_eos or length > most:
            return Length(most, min(thinking, most), hidden, "length")
        return Length(length, thinking, hidden, "stop")


class Answers:
    """Makes answers.

    Args:
        lengths: how long they are.
        tokenizer: of the prompts; what answers say is cut into its tokens.

    Raises:
        UserError: the tokenizer has no words for answers.
    """

    def __init__(self, lengths: Lengths, tokenizer: Tokenizer) -> None:
        self._lengths = lengths
        self._filler = Filler(tokenizer)

    def to(
        self,
        prompt: Sequence[int],
        wanted: Wanted,
        *,
        room: int,
        class_id: int = 0,
        answers: int = 1,
        chat: bool = True,
    ) -> list[Answer]:
        """Answers to a prompt.

        Args:
            prompt: its tokens.
            wanted: what the client says of each answer.
            room: tokens that fit behind the prompt, at least 1.
            class_id: traffic class of the request.
            answers: how many; they differ, from their first word on where they are few.
            chat: the answer is a text of its own; otherwise it goes on from the prompt's, so that
                it begins with a space.
        """
        chances = self._lengths.chances(prompt, wanted.seed, answers)
        begin = chances[0].text >> 32
        return [
            self._make(wanted, class_id, room, chance, begin + place, behind=not chat)
            for place, chance in enumerate(chances)
        ]

    def _make(
        self, wanted: Wanted, class_id: int, room: int, chance: Chance, begin: int, *, behind: bool
    ) -> Answer:
        length = self._lengths.draw(wanted, class_id, room, chance.length)
        write, thinking = self._filler.write, length.thinking
        pieces, tokens = write(length.tokens - thinking, begin, chance.text, behind=behind)
        if thinking:
            thought, thoughts = write(thinking, begin + 1, chance.thought, behind=False)
            pieces, tokens = thought + pieces, thoughts + tokens
        answer = Answer(tokens, pieces, length.finish_reason, thinking, length.hidden)
        return stopped(answer, wanted) if wanted.stop else answer


def stopped(answer: Answer, wanted: Wanted) -> Answer:
    """The answer up to the token that completes a stop sequence, whose text is left out; the first
    one completed counts, and of several completed by the same token the one that begins first."""
    text = "".join(answer.pieces)
    ends = list(accumulate(map(len, answer.pieces)))
    least = ends[wanted.min_tokens - 1] if wanted.min_tokens else 0
    found: list[tuple[int, int, str]] = []
    for stop in wanted.stop:
        # The first place where it ends behind the tokens that do not count.
        begin = text.find(stop, max(0, least - len(stop) + 1))
        if begin >= 0:
            found.append((bisect_left(ends, begin + len(stop)), begin, stop))
    if not found:
        return answer
    last, begin, stop = min(found)
    pieces = answer.pieces[: last + 1]
    at = bisect_left(ends, begin + 1)
    pieces[at] = pieces[at][: len(pieces[at]) - (ends[at] - begin)]
    pieces[at + 1 :] = [""] * (last - at)
    return Answer(
        answer.tokens[: last + 1],
        pieces,
        "stop",
        min(answer.thinking, last + 1),
        answer.hidden,
        stop,
    )
