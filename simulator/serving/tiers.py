"""Tiers below the device's prefix cache: they take the blocks that it has no room for."""

from __future__ import annotations

from collections import OrderedDict

from simulator.serving.below import Moves, TierSpec
from simulator.serving.kv_cache import Key, KvCache, KvLayout
from simulator.serving.sequence import Sequence


class Tier:
    """Keys of the blocks in one tier, least recently used first."""

    def __init__(self, spec: TierSpec) -> None:
        self.name = spec.name
        self.blocks = spec.blocks
        self.keys: OrderedDict[Key, None] = OrderedDict()

    def renew(self, key: Key) -> bool:
        """Makes a block the most recently used one; False if it is not here."""
        if key not in self.keys:
            return False
        self.keys.move_to_end(key)
        return True

    def put(self, key: Key) -> Key | None:
        """Takes in a block that is not here; returns the one that has to leave for it."""
        self.keys[key] = None
        return self.keys.popitem(last=False)[0] if len(self.keys) > self.blocks else None


class TieredKvCache(KvCache):
    """A prefix cache whose forgotten blocks go to the first tier, from there to the next one, and
    fall out of the last.

    A block that is loaded stays in its tier as well, so that it need not be written again: when the
    device forgets it once more, only its turn to leave is renewed. A prompt's chain of blocks goes
    on through the tiers: it ends at the first block that is nowhere.
    """

    def __init__(self, layout: KvLayout, *, prefix_caching: bool) -> None:
        super().__init__(layout, prefix_caching=prefix_caching)
        below = layout.below
        assert self.prefix_caching, "only blocks with a key can be found again"
        assert below is not None, "there is no tier"
        self.min_blocks = below.min_blocks
        self.tiers = [Tier(spec) for spec in below.tiers]
        # A replica has few tiers and moves many blocks, one at a time.
        self._nearest = self.tiers[0].keys
        self._room = self.tiers[0].blocks
        self._further = self.tiers[1].keys if len(self.tiers) > 1 else {}
        self._moves = Moves(len(self.tiers))
        self._moved = False

    def drain(self) -> Moves | None:
        """What has moved since the last call; None: nothing."""
        if not self._moved:
            return None
        moves, self._moves = self._moves, Moves(len(self.tiers))
        self._moved = False
        return moves

    def queued_before_a_key(self) -> int:
        """Free blocks that can be taken before one with a key."""
        if not self._queued_keys:
            return self.free
        key, count = next(iter(self._queue.items()))
        return 0 if type(key) is tuple else count

    # --- finding ---------------------------------------------------------------------------------

    def lookup(self, sequence: Sequence) -> int:
        """Number of leading blocks on the device or in a tier; only those on the device where the
        tiers have too few to be worth loading. At least one token stays to be computed."""
        if sequence.streams is None and sequence.preemptions == 0:
            return 0
        most = (sequence.target - 1) // self.block_size
        references, nearest, further = self._references, self._nearest, self._further
        hits = there = below = 0
        for key in self._chain(sequence, most):
            if hits == most:
                break
            if key not in references:
                if key not in nearest and key not in further:
                    break
                below += 1
            elif not below:
                there += 1
            hits += 1
        return hits if below >= self.min_blocks else there

    def unreferenced(self, sequence: Sequence, hits: int) -> int:
        """How many free blocks the first ``hits`` cached ones take up: those that wait in the
        queue, and room for those to load."""
        references = self._references
        chain = self._chain(sequence, hits)[:hits]
        return sum(1 for key in chain if references.get(key, 0) == 0)

    # --- moving ----------------------------------------------------------------------------------

    def share(self, sequence: Sequence, hits: int) -> None:
        """References the first ``hits`` blocks for an admitted sequence; loads those that are not
        on the device."""
        chain = self._chain(sequence, hits)[:hits]
        references = self._references
        missing = [key for key in chain if key not in references]
        if not missing:
            super().share(sequence, hits)
            return
        for key in chain:
            if key in references:
                self._reference(key)
        nearest, found = self._nearest, [0] * len(self.tiers)
        # From the end, so that the beginning of a text is forgotten last.
        for key in reversed(missing):
            if key in nearest:
                nearest.move_to_end(key)
                found[0] += 1
            else:
                self.tiers[1].renew(key)
                found[1] += 1
        moves = self._moves
        moves.loaded = [old + new for old, new in zip(moves.loaded, found, strict=True)]
        moves.hits.append((sequence, found))
        self._moved = True
        self.take(len(missing))
        for key in missing:
            references[key] = 1
        sequence.keys = list(chain)

    def _reference(self, key: Key) -> None:
        references = self._references
        if references[key] == 0:
            del self._queue[key]
            self._queued_keys -= 1
            self.free -= 1
            if self._queued_keys == 0:
                self._queue.clear()
        references[key] += 1

    def _forget(self, key: Key) -> None:
        del self._references[key]
        nearest = self._nearest
        if key in nearest:
            nearest.move_to_end(key)
            return
        nearest[key] = None
        self._moves.stored[0] += 1
        self._moved = True
        if len(nearest) > self._room:
            self._fall(nearest.popitem(last=False)[0])

    def _fall(self, key: Key) -> None:
        """A block leaves the nearest tier."""
        for number, tier in enumerate(self.tiers[1:], 1):
            if tier.renew(key):
                return
            self._moves.stored[number] += 1
            falling = tier.put(key)
            if falling is None:
                return
            key = falling

    def check_integrity(self) -> None:
        """Raises AssertionError if counts disagree or a tier holds more than it has room for."""
        super().check_integrity()
        for tier in self.tiers:
            assert len(tier.keys) <= tier.blocks, f"{tier.name} overflows"
