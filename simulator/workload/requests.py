"""The requests of one run, as columns: what every workload turns into and the cluster consumes."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.workload.answers import Answers

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

ROOT = -1
"""``parent`` of a request that waits for no other."""

OPEN_LOOP = -1
"""``pool`` of a request that belongs to no closed loop."""


@dataclass(frozen=True, slots=True)
class PrefixStreams:
    """Which text each prompt is made of, so that equal prefixes are recognized.

    Request ``i`` consists of segments ``offsets[i]:offsets[i + 1]``. Segment ``s`` says that the
    tokens up to (not including) position ``end[s]`` come from the text ``stream[s]``. Two requests
    share the KV block that ends at token ``e`` if both take token ``e - 1`` from the same stream;
    whoever makes streams guarantees that everything before is then the same too (a stream is a
    text, and a text has one beginning). Where ``continues[i]`` is set, the output of request ``i``
    continues its last stream, so that a later turn of the conversation finds it in the cache.
    A prompt longer than its last segment's end goes on with text that nobody shares.

    Shapes: offsets (n + 1,), stream and end (segments,), continues (n,).
    """

    offsets: Ints
    stream: Ints
    end: Ints
    continues: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Requests:
    """``n`` requests in the order in which they are released. Shapes are (n,) unless said.

    Args:
        arrival_s: for a root request outside a closed loop the time it is sent, seconds from the
            start, ascending over such requests; for a request with a parent the pause after the
            parent's last token at the client; for a closed-loop request the think time before it.
        input_tokens: prompt length, at least 1.
        output_tokens: tokens to generate, at least 1.
        class_id: index into ``classes``.
        parent: index of the request this one follows, always smaller than its own, or ROOT.
        pool: index into ``pool_concurrency`` for closed-loop requests, or OPEN_LOOP. The first
            ``pool_concurrency[p]`` requests of pool ``p`` are sent at ``arrival_s`` after the
            start; each completion in the pool releases the pool's next one after its think time.
        session: number of the conversation, for routers with affinity and for reports, or -1.
        classes: names of the traffic classes.
        pool_concurrency: users in each closed loop.
        prefixes: shared text, or None where all prompts are distinct.
        workers: index into ``worker_limits`` of requests that wait outside the server until a
            worker takes them, -1 for others; None if there are no workers. ``arrival_s`` is when
            they come to the queue outside.
        worker_limits: requests at the server at once, of each set of workers.
        adapters: index into ``adapter_ranks`` of each row's LoRA adapter, -1 for none; None if
            nobody asks for one.
        answers: what is special about the answers, or None; where a prompt has several, each is a
            row of its own.
        source: one line for the report: what this traffic is.
    """

    arrival_s: Floats
    input_tokens: Ints
    output_tokens: Ints
    class_id: Ints
    parent: Ints
    pool: Ints
    session: Ints
    classes: tuple[str, ...] = ("default",)
    pool_concurrency: tuple[int, ...] = ()
    prefixes: PrefixStreams | None = None
    answers: Answers | None = None
    workers: Ints | None = None
    worker_limits: tuple[int, ...] = ()
    adapters: Ints | None = None
    adapter_ranks: tuple[int, ...] = ()
    source: str = ""
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def context_tokens(self) -> int:
        """That a decoding sequence attends to halfway through its output, on average, rounded."""
        return round(float((self.input_tokens + self.output_tokens / 2).mean()))

    def first(self, n: int) -> Requests:
        """The first ``n`` rows, or a few more where a request would be torn apart; they wait for
        none of the others."""
        if self.answers is not None:
            n = self.answers.whole(n)
        if n >= len(self):
            return self
        prefixes = self.prefixes
        if prefixes is not None:
            segments = int(prefixes.offsets[n])
            prefixes = PrefixStreams(
                prefixes.offsets[: n + 1], prefixes.stream[:segments], prefixes.end[:segments],
                prefixes.continues[:n],
            )  # fmt: skip
        columns = ("arrival_s", "input_tokens", "output_tokens", "class_id", "parent", "pool",
                   "session")  # fmt: skip
        answers = self.answers.first(n) if self.answers is not None else None
        workers = self.workers[:n] if self.workers is not None else None
        return replace(
            self,
            prefixes=prefixes,
            answers=answers,
            workers=workers,
            adapters=self.adapters[:n] if self.adapters is not None else None,
            **{c: getattr(self, c)[:n] for c in columns},
        )

    def column(self, default: float) -> array[Any]:
        """A new column with a row for each request, for somebody to write; whole numbers if the
        default is one."""
        return array("q" if isinstance(default, int) else "d", [default]) * len(self)

    def rows_of(self, requests: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """All rows of the requests whose rows are flagged. Shape (n,)."""
        return requests if self.answers is None else self.answers.of_requests(requests)

    @property
    def open_loop(self) -> bool:
        """Whether no request waits for another one."""
        return not self.pool_concurrency and bool((self.parent == ROOT).all())

    def check_integrity(self) -> None:
        """Raises a ValueError that says which promise of this contract the columns break."""
        n = len(self)
        columns = (self.input_tokens, self.output_tokens, self.class_id, self.parent, self.pool)
        _require(all(column.shape == (n,) for column in (*columns, self.session)), "shapes differ")
        finite = np.isfinite(self.arrival_s) & (self.arrival_s >= 0)
        _require(bool(finite.all()), "arrival_s is negative or not a number")
        shortest = min(self.input_tokens.min(initial=1), self.output_tokens.min(initial=1))
        _require(shortest >= 1, "a prompt or an answer is empty")
        _require(_inside(self.class_id, 0, len(self.classes)), "class_id has no class")
        _require(_inside(self.pool, OPEN_LOOP, len(self.pool_concurrency)), "pool has no users")
        _require(bool((self.parent < np.arange(n)).all()), "a request precedes its parent")
        _require(_inside(self.parent, ROOT, n), "parent is below ROOT")
        both = (self.parent != ROOT) & (self.pool != OPEN_LOOP)
        _require(not both.any(), "a request of a closed loop has a parent")
        roots = self.arrival_s[(self.parent == ROOT) & (self.pool == OPEN_LOOP)]
        _require(bool((np.diff(roots) >= 0).all()), "arrivals of root requests do not ascend")
        if self.prefixes is not None:
            self._check_prefixes(self.prefixes)
        if self.adapters is not None:
            _require(self.adapters.shape == (n,), "adapters do not match the requests")
            _require(_inside(self.adapters, -1, len(self.adapter_ranks)), "adapters are not there")
        if self.workers is not None:
            _require(self.workers.shape == (n,), "workers do not match the requests")
            _require(_inside(self.workers, -1, len(self.worker_limits)), "workers are not there")
        if self.answers is not None:
            _require(len(self.answers) == n, "answers do not match the requests")
            self.answers.check_integrity(self.output_tokens)

    def _check_prefixes(self, prefixes: PrefixStreams) -> None:
        n, segments = len(self), len(prefixes.end)
        _require(prefixes.offsets.shape == (n + 1,), "offsets do not match the requests")
        _require(prefixes.continues.shape == (n,), "continues does not match the requests")
        _require(prefixes.stream.shape == (segments,), "stream and end differ in length")
        counts = np.diff(prefixes.offsets)
        ends_right = prefixes.offsets[0] == 0 and prefixes.offsets[-1] == segments
        _require(
            bool(ends_right) and bool((counts >= 0).all()), "offsets do not cover the segments"
        )
        start = np.zeros(segments, dtype=np.int64)
        start[1:] = prefixes.end[:-1]
        start[prefixes.offsets[:-1][counts > 0]] = 0
        _require(bool((prefixes.end > start).all()), "a segment is empty")
        limit = np.repeat(self.input_tokens, counts)
        _require(bool((prefixes.end <= limit).all()), "a segment ends behind its prompt")
        covered = np.zeros(n, dtype=np.int64)
        covered[counts > 0] = prefixes.end[prefixes.offsets[1:][counts > 0] - 1]
        whole = covered == self.input_tokens
        _require(bool(whole[prefixes.continues].all()), "an answer continues no stream")


def _inside(numbers: Ints, low: int, end: int) -> bool:
    return bool(((numbers >= low) & (numbers < end)).all())


def _require(holds: bool, complaint: str) -> None:
    if not holds:
        raise ValueError(f"requests are inconsistent: {complaint}")
