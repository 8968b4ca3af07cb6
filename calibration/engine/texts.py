"""Token numbers for requests that the simulator knows by their lengths and shared texts alone."""

from __future__ import annotations

import numpy as np

from calibration.engine.step import Ints
from simulator.workload.requests import Requests

_OWN = np.uint64(1 << 62)
"""Texts that nobody shares, one a request, are numbered from here on."""


class Texts:
    """Prompts and answers. Equal texts get equal tokens and different ones different ones.

    A token is a hash of its text and its position, so that nothing has to be stored; answers that a
    later turn continues are kept.

    Args:
        requests: whose texts.
        vocab: tokens there are.
        seed: another one gives other texts.
        prompts: the tokens themselves where a caller has them, by request.
    """

    def __init__(
        self,
        requests: Requests,
        vocab: int,
        seed: int,
        prompts: dict[int, list[int]] | None = None,
    ) -> None:
        self.requests, self.vocab, self.seed = requests, vocab, seed
        self.answers: list[list[int]] = [[] for _ in range(len(requests))]
        self._prompts = {
            index: np.asarray(tokens, dtype=np.int64) for index, tokens in (prompts or {}).items()
        }
        self._told: dict[int, list[tuple[int, list[int]]]] = {}
        self._input = requests.input_tokens.tolist()

    def prepare(self) -> None:
        """Makes all prompts that do not depend on an answer, so that serving need not."""
        prefixes = self.requests.prefixes
        continued: set[int] = set()
        for index in range(len(self.requests)):
            streams: list[int] = []
            if prefixes is not None:
                low, high = prefixes.offsets[index : index + 2].tolist()
                streams = prefixes.stream[low:high].tolist()
            if index not in self._prompts and continued.isdisjoint(streams):
                self._prompts[index] = self._make(index)
            if prefixes is not None and prefixes.continues[index]:
                continued.add(streams[-1])

    def slice(self, index: int, first: int, end: int) -> Ints:
        """Tokens ``first`` to ``end`` of prompt and answer."""
        prompt = self._prompts.get(index)
        if prompt is None:
            prompt = self._prompts[index] = self._make(index)
        if end <= len(prompt):
            return prompt[first:end]
        answer = np.asarray(self.answers[index], dtype=np.int64)
        return np.concatenate((prompt, answer))[first:end]

    def ended(self, index: int) -> None:
        """The answer is complete; whoever continues it will find it."""
        prefixes = self.requests.prefixes
        if prefixes is not None and prefixes.continues[index]:
            stream = int(prefixes.stream[prefixes.offsets[index + 1] - 1])
            self._told.setdefault(stream, []).append((self._input[index], self.answers[index]))

    def _make(self, index: int) -> Ints:
        length = self._input[index]
        tokens = np.empty(length, dtype=np.int64)
        done = 0
        prefixes = self.requests.prefixes
        if prefixes is not None:
            low, high = int(prefixes.offsets[index]), int(prefixes.offsets[index + 1])
            for stream, end in zip(
                prefixes.stream[low:high].tolist(), prefixes.end[low:high].tolist(), strict=True
            ):
                tokens[done:end] = self._hashed(np.uint64(stream), done, end)
                for start, answer in self._told.get(stream, ()):
                    here = max(start, done), min(start + len(answer), end)
                    if here[0] < here[1]:
                        tokens[slice(*here)] = answer[here[0] - start : here[1] - start]
                done = end
        tokens[done:] = self._hashed(_OWN + np.uint64(index), done, length)
        return tokens

    def _hashed(self, text: np.uint64, first: int, end: int) -> Ints:
        at = np.arange(first, end, dtype=np.uint64)
        mixed = _mix(at + _mix(np.full(1, text) + _mix(np.full(1, self.seed, dtype=np.uint64))))
        hashed: Ints = (mixed % np.uint64(self.vocab)).astype(np.int64)
        return hashed


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer (Steele et al., OOPSLA 2014): every bit depends on every other."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
