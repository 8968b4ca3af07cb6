"""The paged KV cache: counts of blocks, and an index of blocks that several prompts can share.

The design follows vLLM's block manager (PagedAttention, arXiv:2309.06180; automatic prefix caching
by chained block hashes). Blocks that nobody references wait in one least-recently-used queue; a
block with a key can be found there again until it is taken for something else. Since most blocks
are never shared, runs of blocks without a key are one entry with a count, and as long as the queue
holds no key at all it is only a number.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from simulator.serving.below import Below
from simulator.serving.sequence import Sequence

Key = tuple[int, int]
"""(stream, block): text that ends with a block, named by the stream that its last token is from."""


@dataclass(frozen=True, slots=True)
class KvLayout:
    """How tokens turn into blocks.

    Layers with local attention keep only their span. What they need at most is taken with the
    admission (``local_ratio`` blocks for each block of the span), the rest grows with the context.
    Recurrent layers keep a state of fixed size, which is taken with the admission as well.

    Args:
        blocks: usable blocks of one replica.
        block_size: tokens a block.
        growing: full-attention layers exist, so that every ``block_size`` tokens need a block.
        local_ratio: bytes of the local layers' block over those of the block counted here.
        local_tokens: span of the local layers, tokens.
        state_blocks: bytes of a sequence's recurrent state over those of a block.
        watermark: blocks that an admission leaves free while others run.
        reserve: what a sequence takes as one contiguous run, see ``contiguous.run_tokens``; empty:
            blocks anywhere.
        below: memory below that of the devices, if it is used.
    """

    blocks: int
    block_size: int
    growing: bool = True
    local_ratio: float = 0.0
    local_tokens: int = 0
    state_blocks: float = 0.0
    watermark: int = 0
    reserve: str = ""
    below: Below | None = None

    @property
    def fixed(self) -> bool:
        """Whether sequences take blocks at their admission for good."""
        return self.local_ratio > 0.0 or self.state_blocks > 0.0

    def growing_blocks(self, tokens: int) -> int:
        """Blocks that ``tokens`` stored tokens need in the growing layers."""
        return -(-tokens // self.block_size) if self.growing else 0

    def fixed_blocks(self, most_tokens: int) -> int:
        """Blocks that a sequence of at most ``most_tokens`` needs in the local and recurrent
        layers."""
        if self.local_ratio == 0.0:
            return -int(-self.state_blocks // 1)
        span = -(-min(most_tokens, self.local_tokens + self.block_size) // self.block_size)
        return -int(-(span * self.local_ratio + self.state_blocks) // 1)

    def blocks_for(self, most_tokens: int) -> int:
        """Blocks of a sequence that stores ``most_tokens``."""
        return self.growing_blocks(most_tokens) + self.fixed_blocks(most_tokens)


class KvCache:
    """Blocks of one replica.

    Args:
        layout: sizes.
        prefix_caching: keep keys of full blocks, so that a later prompt can find them.

    Attributes:
        free: blocks that nobody references, cached ones included.
    """

    def __init__(self, layout: KvLayout, *, prefix_caching: bool) -> None:
        self.layout = layout
        self.block_size = layout.block_size
        self.total = layout.blocks
        self.prefix_caching = prefix_caching and layout.growing
        self.free = layout.blocks
        self._references: dict[Key, int] = {}
        # Unreferenced blocks, least recently used first: a key counts 1, an anonymous run (its key
        # is a negative number that never repeats) any number. Unused while no key waits in it.
        self._queue: OrderedDict[Key | int, int] = OrderedDict()
        self._queued_keys = 0
        self._runs = 0

    # --- finding ---------------------------------------------------------------------------------

    def _chain(self, sequence: Sequence, blocks: int) -> list[Key]:
        """Keys of the first ``blocks`` full blocks, fewer where text begins that nobody shares.

        After a preemption that text has keys too, which only the request itself can know, so that
        it may find what it had computed.
        """
        chain = sequence.chain
        if chain is None:
            chain = sequence.chain = []
        size = self.block_size
        if len(chain) < blocks:
            streams = sequence.streams or ()
            prompt = sequence.prompt
            segments = iter(streams)
            stream, end = next(segments, (0, 0))
            for block in range(len(chain), blocks):
                last = (block + 1) * size - 1
                if last < prompt:
                    while last >= end:
                        following = next(segments, None)
                        if following is None:
                            break
                        stream, end = following
                    shared = last < end
                else:
                    shared = sequence.continues
                    if shared:
                        stream = streams[-1][0]
                if shared:
                    chain.append((stream, block))
                elif sequence.preemptions:
                    chain.append((-1 - sequence.index, block))
                else:
                    break
        return chain

    def lookup(self, sequence: Sequence) -> int:
        """Number of leading blocks that are cached. At least one token stays to be computed."""
        if not self.prefix_caching or (sequence.streams is None and sequence.preemptions == 0):
            return 0
        most = (sequence.target - 1) // self.block_size
        references = self._references
        hits = 0
        for key in self._chain(sequence, most):
            if hits == most or key not in references:
                break
            hits += 1
        return hits

    def unreferenced(self, sequence: Sequence, hits: int) -> int:
        """How many of the first ``hits`` cached blocks wait in the queue and so count as free."""
        references = self._references
        return sum(1 for key in self._chain(sequence, hits)[:hits] if references[key] == 0)

    # --- taking and giving back ------------------------------------------------------------------

    def take(self, blocks: int) -> None:
        """Takes free blocks, least recently used first. The caller has checked ``free``."""
        self.free -= blocks
        if self._queued_keys == 0:
            return
        queue = self._queue
        while blocks:
            key, count = queue.popitem(last=False)
            if type(key) is tuple:
                self._forget(key)
                self._queued_keys -= 1
                blocks -= 1
            elif count > blocks:
                queue[key] = count - blocks
                queue.move_to_end(key, last=False)
                blocks = 0
            else:
                blocks -= count
        if self._queued_keys == 0:
            queue.clear()

    def _forget(self, key: Key) -> None:
        """Takes a block's key out of the index, because the block is taken for something else."""
        del self._references[key]

    def share(self, sequence: Sequence, hits: int) -> None:
        """References the first ``hits`` blocks, found by ``lookup``, for an admitted sequence."""
        references = self._references
        keys: list[Key | None] = []
        for key in self._chain(sequence, hits)[:hits]:
            if references[key] == 0:
                del self._queue[key]
                self._queued_keys -= 1
                self.free -= 1
            references[key] += 1
            keys.append(key)
        if self._queued_keys == 0:
            self._queue.clear()
        sequence.keys = keys

    def register(self, sequence: Sequence, tokens: int) -> None:
        """Puts the full blocks below ``tokens`` into the index, as far as their text has a key."""
        if not self.prefix_caching or (sequence.streams is None and sequence.preemptions == 0):
            return
        references = self._references
        keys = sequence.keys
        if keys is None:
            keys = sequence.keys = []
        blocks = tokens // self.block_size
        for key in self._chain(sequence, blocks)[len(keys) : blocks]:
            if key in references:
                keys.append(None)
            else:
                references[key] = 1
                keys.append(key)

    def release(self, sequence: Sequence, blocks: int, tokens: int) -> None:
        """Gives back all ``blocks`` of a sequence with ``tokens`` stored, the last one first."""
        if not self.prefix_caching or (sequence.streams is None and sequence.preemptions == 0):
            if self._queued_keys:
                self._free_anonymous(blocks)
            else:
                self.free += blocks
            return
        self.register(sequence, tokens)
        references = self._references
        keys = sequence.keys or []
        self._free_anonymous(blocks - len(keys))
        for block in range(len(keys) - 1, -1, -1):
            key = keys[block]
            if key is None:
                key = self._chain(sequence, block + 1)[block]
                if key[0] >= 0 or key in references:
                    self._free_anonymous(1)
                    continue
                # Its own older copy of this block is gone by now.
                references[key] = 1
            references[key] -= 1
            if references[key] == 0:
                self._enqueue(key)
        sequence.keys = None

    def release_blocks(self, blocks: int) -> None:
        """Gives back blocks that no sequence's text is bound to."""
        self._free_anonymous(blocks)

    def _enqueue(self, key: Key) -> None:
        if self._queued_keys == 0 and self.free:
            self._append_run(self.free)
        self._queue[key] = 1
        self._queued_keys += 1
        self.free += 1

    def _free_anonymous(self, blocks: int) -> None:
        if blocks <= 0:
            return
        if self._queued_keys:
            queue = self._queue
            last = next(reversed(queue))
            if type(last) is tuple:
                self._append_run(blocks)
            else:
                queue[last] += blocks
        self.free += blocks

    def _append_run(self, blocks: int) -> None:
        self._runs -= 1
        self._queue[self._runs] = blocks

    # --- checks ----------------------------------------------------------------------------------

    @property
    def used(self) -> int:
        """Blocks that running sequences reference."""
        return self.total - self.free

    def check_integrity(self) -> None:
        """Raises AssertionError if the queue and the counts disagree."""
        assert 0 <= self.free <= self.total, f"{self.free} of {self.total} blocks free"
        queued = sum(1 for key in self._queue if type(key) is tuple)
        assert queued == self._queued_keys, "queued keys miscounted"
        assert queued == sum(1 for n in self._references.values() if n == 0), "stray key"
        if self._queued_keys:
            assert sum(self._queue.values()) == self.free, "queue and free count disagree"
