"""What the oracle knows of memory below its replicas: lists of keys, and times at which paths are
free. It shares no code with the simulator's tiers and links."""

from __future__ import annotations

from typing import Any

from simulator.serving.below import Below
from tests.oracle_replica import NaiveReplica
from tests.oracle_state import Key, Plan, Sequence


class Pipes:
    """Paths by name, and until when each is busy. Those of a drive are a node's own."""

    def __init__(self, below: Below, node: dict[str, float]) -> None:
        self.below = below
        self.own: dict[str, float] = {}
        self.node = node

    def send(self, name: str, blocks: int, now: float) -> float:
        """When so many blocks, ready now, are there."""
        below = self.below
        if not blocks:
            return now
        whole = blocks * below.block_bytes * below.devices
        if name in ("up", "down"):
            times, took = self.own, whole / below.devices / below.host_bytes_per_s
        else:
            direction, tier = name.split()
            spec = below.tiers[int(tier)]
            rate = spec.read_bytes_per_s if direction == "read" else spec.write_bytes_per_s
            times, took = self.node, whole / rate
        times[name] = max(times.get(name, 0.0), now) + took
        return times[name]


class Cellar:
    """Tiers as plain lists, the block to go next first, and what a step moves."""

    def __init__(self, below: Below, pipes: Pipes) -> None:
        self.below = below
        self.pipes = pipes
        self.tiers: list[list[Key]] = [[] for _ in below.tiers]
        self.host_used = 0
        self.begin_step()

    def begin_step(self) -> None:
        self.read = [0] * len(self.tiers)
        self.written = [0] * len(self.tiers)
        self.swapped_in = self.swapped_out = 0

    def find(self, key: Key) -> int | None:
        return next((t for t, keys in enumerate(self.tiers) if key in keys), None)

    def load(self, keys: list[Key]) -> None:
        """Reads blocks; they stay, as those used last, the beginning of the text very last."""
        for key in reversed(keys):
            tier = self.find(key)
            assert tier is not None
            self.tiers[tier].remove(key)
            self.tiers[tier].append(key)
            self.read[tier] += 1

    def store(self, key: Key) -> None:
        """The device forgets a block: it goes down, and pushes others further down."""
        for tier, keys in enumerate(self.tiers):
            if key in keys:
                keys.remove(key)
                keys.append(key)
                return
            keys.append(key)
            self.written[tier] += 1
            if len(keys) <= self.below.tiers[tier].blocks:
                return
            key = keys.pop(0)

    def arrive(self, now: float) -> float:
        """When all that moves in this step has come to where it goes."""
        send = self.pipes.send
        down = self.swapped_out + (self.written[0] if self.tiers else 0)
        ends = [send("up", sum(self.read) + self.swapped_in, now), send("down", down, now)]
        for tier, spec in enumerate(self.below.tiers):
            if spec.read_bytes_per_s:
                ends.append(send(f"read {tier}", self.read[tier], now))
                ends.append(send(f"write {tier}", self.written[tier], now))
        return max(ends)


class TieredReplica(NaiveReplica):
    """The oracle's replica with tiers. A block that was found is its number on the device, or its
    key where it has to be loaded."""

    cellar: Cellar

    def tidy(self) -> None:
        """Puts away what the device forgot, in that order."""
        for key in self.pool.forgotten:
            self.cellar.store(key)
        self.pool.forgotten.clear()

    def known_key(self, seq: Sequence, block: int) -> Key | None:
        """The block's key; text that only the sequence knows has one after a preemption."""
        own = ("own", seq.index, block) if self.run.preemptions[seq.index] else None
        return self.text_key(seq, block) or own

    def name_chunk(self, seq: Sequence, new: int) -> None:
        size = self.limits.block_size
        filled = (seq.computed + new) // size
        for block in range(seq.computed // size, filled):
            key = self.known_key(seq, block)
            if key is not None:
                self.pool.name(seq.blocks[block], key)
        seq.named_blocks = filled

    def name_on_leaving(self, seq: Sequence, comes_back: bool) -> None:
        for block in range(seq.computed // self.limits.block_size):
            key = self.text_key(seq, block)
            if key is not None:
                if block >= seq.named_blocks:
                    self.pool.name(seq.blocks[block], key)
            elif comes_back or self.run.preemptions[seq.index]:
                self.pool.name(seq.blocks[block], ("own", seq.index, block))

    def cached_blocks(self, seq: Sequence) -> list[int]:
        self.tidy()
        found: list[Any] = []
        for block in range((seq.prompt + seq.generated - 1) // self.limits.block_size):
            key = self.text_key(seq, block) or ("own", seq.index, block)
            if key in self.pool.block_with:
                found.append(self.pool.block_with[key])
            elif self.cellar.find(key) is not None:
                found.append(key)
            else:
                break
        to_load = [hit for hit in found if isinstance(hit, tuple)]
        if 0 < len(to_load) < self.cellar.below.min_blocks:
            found = found[: found.index(to_load[0])]
        return found

    def free_in(self, hits: list[int]) -> int:
        return sum(isinstance(h, tuple) or self.pool.references[h] == 0 for h in hits)

    def claim(self, hits: list[int]) -> list[int]:
        for hit in hits:
            if not isinstance(hit, tuple):
                self.pool.share(hit)
        self.tidy()
        self.cellar.load([hit for hit in hits if isinstance(hit, tuple)])
        blocks = []
        for hit in hits:
            blocks.append(self.pool.take() if isinstance(hit, tuple) else hit)
        for hit, block in zip(hits, blocks, strict=True):
            if isinstance(hit, tuple):
                self.pool.name(block, hit)
        return blocks

    def stall(self, duration: float, now: float) -> float:
        self.tidy()
        took = self.cellar.arrive(now) - now
        self.cellar.begin_step()
        return max(0.0, took - duration) if self.cellar.below.overlap else took


class SwappingReplica(NaiveReplica):
    """The oracle's replica whose preempted sequences wait in host memory. Those that are away stand
    at the front of the queue."""

    cellar: Cellar

    def away(self) -> list[Sequence]:
        return [seq for seq in self.waiting if seq.away is not None]

    def preempt(self, victim: Sequence) -> None:
        blocks, tokens, decoding = len(victim.blocks), victim.computed, victim.decoding
        super().preempt(victim)
        if 0 < blocks <= self.cellar.below.swap_blocks - self.cellar.host_used:
            victim.away = (tokens, decoding)
            self.cellar.host_used += blocks
            self.cellar.swapped_out += blocks
        else:
            self.waiting.remove(victim)
            self.waiting.insert(len(self.away()), victim)

    def bring(self, plan: Plan, budget: int, one_each: bool, decoding: bool) -> int:
        """Lets the first of those who are away run again, if it decodes (or not) as asked; returns
        how many tokens it computes."""
        seq = self.waiting[0] if self.waiting else None
        if seq is None or seq.away is None or seq.away[1] != decoding or budget < 1:
            return 0
        tokens = seq.away[0]
        new = min(seq.prompt + seq.generated - tokens, budget)
        need = self.blocks_for(tokens + new)
        if len(self.running) == self.limits.max_num_seqs:
            return 0
        if need > self.pool.free - self.spare(one_each):
            return 0
        self.waiting.popleft()
        self.running.append(seq)
        seq.away = None
        back = self.blocks_for(tokens)
        self.cellar.host_used -= back
        self.cellar.swapped_in += back
        seq.blocks = [self.pool.take() for _ in range(need)]
        seq.computed, seq.decoding, seq.named_blocks = 0, decoding, 0
        if self.limits.prefix_caching:
            for block in range(tokens // self.limits.block_size):
                key = self.text_key(seq, block) or ("own", seq.index, block)
                self.pool.name(seq.blocks[block], key)
        seq.computed = tokens
        seq.named_blocks = tokens // self.limits.block_size
        self.add(plan, seq, new)
        return new

    def admit(self, plan: Plan, budget: int, spare_one_each: bool = False) -> None:
        if not spare_one_each:
            while used := self.bring(plan, budget, False, decoding=True):
                budget -= used
        budget -= self.bring(plan, budget, spare_one_each, decoding=False)
        if not self.away():
            super().admit(plan, budget, spare_one_each)

    def schedule_prefill_first(self) -> Plan:
        plan = super().schedule_prefill_first()
        if not plan.chunks and not self.preempted:
            while self.bring(plan, self.limits.max_num_batched_tokens - plan.decode, True, True):
                pass
        return plan

    def stall(self, duration: float, now: float) -> float:
        took = self.cellar.arrive(now) - now
        self.cellar.begin_step()
        return took

    def drop_expired(self, now: float, timeout_s: float) -> None:
        super().drop_expired(now, timeout_s)
        held = [self.blocks_for(seq.away[0]) for seq in self.waiting if seq.away is not None]
        self.cellar.host_used = sum(held)


def make_below(
    nodes: dict[int, dict[str, float]],
    plain: type[NaiveReplica],
    below: Below | None,
    number: int,
    *args: Any,
) -> NaiveReplica:
    """A replica with what lies below it, if anything does; ``nodes`` are the drives' paths."""
    if below is None:
        return plain(number, *args)
    with_it = TieredReplica if below.tiers else SwappingReplica
    kind = with_it if plain is NaiveReplica else type("Both", (with_it, plain), {})
    replica: Any = kind(number, *args)
    node = nodes.setdefault(number // below.replicas_per_node, {})
    replica.cellar = Cellar(below, Pipes(below, node))
    made: NaiveReplica = replica
    return made
