"""Numbers for the blocks that the simulator's paged KV cache only counts."""

from __future__ import annotations

from simulator.serving.kv_cache import Key, KvCache, KvLayout
from simulator.serving.sequence import Sequence


class BlockTables(KvCache):
    """The same cache, decision by decision, which also knows *which* blocks a sequence has.

    Planning works with counts alone, so numbers are dealt out afterwards: ``bind`` gives a planned
    sequence a number for each block it was promised. Blocks with a key keep their number while the
    index knows the key, whoever references them.
    """

    def __init__(self, layout: KvLayout, *, prefix_caching: bool) -> None:
        super().__init__(layout, prefix_caching=prefix_caching)
        assert layout.growing, "every layer keeps every token"
        assert layout.local_ratio == 0.0, "every layer keeps every token"
        self.tables: dict[Sequence, list[int]] = {}
        self._unused = list(range(layout.blocks - 1, -1, -1))
        self._by_key: dict[Key, int] = {}

    def bind(self, sequence: Sequence, tokens: int) -> tuple[int, list[int]]:
        """Numbers for the blocks of the first ``tokens`` tokens, in the order of planning: blocks
        found in the index have theirs.

        Returns:
            How many blocks the sequence had before, and the numbers of the new ones.
        """
        table = self.tables.setdefault(sequence, [])
        keys = sequence.keys or []
        before = len(table)
        for block in range(before, self.layout.growing_blocks(tokens)):
            key = keys[block] if block < len(keys) else None
            number = self._by_key.get(key) if key is not None else None
            table.append(self._unused.pop() if number is None else number)
        for block, key in enumerate(keys[: len(table)]):
            if key is not None:
                self._by_key.setdefault(key, table[block])
        return before, table[before:]

    def _forget(self, key: Key) -> None:
        super()._forget(key)
        self._unused.append(self._by_key.pop(key))

    def release(self, sequence: Sequence, blocks: int, tokens: int) -> None:
        """Gives back all blocks of a sequence; those whose text the index knows keep their number
        for whoever finds them."""
        super().release(sequence, blocks, tokens)
        chain = sequence.chain or []
        for block, number in enumerate(self.tables.pop(sequence, [])):
            key = chain[block] if block < len(chain) else None
            if key is None or key not in self._references:
                self._unused.append(number)
            elif self._by_key.setdefault(key, number) != number:
                self._unused.append(number)  # an equal block was there before

    def check_integrity(self) -> None:
        """Raises AssertionError if counts and numbers disagree."""
        super().check_integrity()
        assert self._by_key.keys() == self._references.keys(), "a key without a number"
        cached = {number for key, number in self._by_key.items() if self._references[key] == 0}
        held = {number for table in self.tables.values() for number in table}
        assert not cached & held, "a cached block is in use"
        assert not (cached | held) & set(self._unused), "an unused block is in use"
        assert len(cached) + len(held) + len(self._unused) == self.total, "a block leaked"
        assert len(self._unused) == len(set(self._unused)), "a block is unused twice"
