"""What the oracle keeps: sequences, KV blocks, the plan of a step, and the record of a run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from simulator.costs.protocol import Chunk

Key = tuple[str, int, int]
"""What a block holds: ("text", stream, block number), or ("own", request, block number)."""


@dataclass(slots=True, eq=False)
class Sequence:
    """One request at a replica."""

    index: int
    prompt: int
    output: int
    queued_s: float
    computed: int = 0
    generated: int = 0
    blocks: list[int] = field(default_factory=list)
    highest: int = 0
    """Most tokens ever computed: computing them again is waste."""
    named_blocks: int = 0
    """Full blocks that were offered to the prefix cache already."""
    decoding: bool = False
    """Whether it has caught up since its admission: from then on one token a step."""
    started: bool = False
    ticket: int = 0
    """Ascending in order of arrival at the queue."""
    welcomed: bool = False
    """Whether a plan has seen it."""
    away: tuple[int, bool] | None = None
    """Swapped out: blocks in host memory, and whether it goes on decoding."""

    @property
    def remaining(self) -> int:
        """Tokens that are known but not computed yet."""
        return self.prompt + self.generated - self.computed

    @property
    def final_tokens(self) -> int:
        """KV tokens when it finishes: the last token is never computed."""
        return self.prompt + self.output - 1


@dataclass(slots=True)
class Step:
    """One step: what it computed and when."""

    replica: int
    start_s: float
    duration_s: float
    decode: int
    context: int
    local_context: int
    chunks: list[Chunk]
    sampled: int
    wasted: int
    running: int
    """Sequences admitted and not finished while the step runs."""
    used_blocks: int
    """Blocks that they hold."""
    stored_tokens: int
    """Tokens that they have in KV when the step ends (of a static batch: 0)."""
    preempted: int
    """Sequences preempted by the schedule() before the step."""
    stall_s: float = 0.0
    """Part of the duration in which it waits for blocks that move."""
    waiting: int = 0
    """Sequences queued when the step has ended, those that arrive at that instant included."""


@dataclass(slots=True)
class Plan:
    """What schedule() decided: tokens for each sequence, and what the cost model sees of them."""

    work: list[tuple[Sequence, int]] = field(default_factory=list)
    decode: int = 0
    context: int = 0
    local_context: int = 0
    local_growth: int = 0
    chunks: list[Chunk] = field(default_factory=list)
    sampled: int = 0
    wasted: int = 0

    def clear(self) -> None:
        """Forget everything."""
        self.work, self.chunks = [], []
        self.decode = self.context = self.local_context = self.local_growth = 0
        self.sampled = self.wasted = 0


@dataclass(slots=True)
class OracleRun:
    """What happened. Lists have one entry a request; times are NaN where there is none."""

    sent_s: list[float]
    queued_s: list[float]
    start_s: list[float]
    first_token_s: list[float]
    finish_s: list[float]
    cached_tokens: list[int]
    preemptions: list[int]
    replica: list[int]
    outcome: list[int]
    token_s: list[list[float]]
    """When each token reached the client."""
    made_s: list[list[float]]
    """When the step that made it ended."""
    steps: list[Step]
    held_blocks: list[int]
    """Blocks still held at the end, by replica."""
    end_s: float = 0.0

    @property
    def generated(self) -> list[int]:
        """Output tokens of each request."""
        return [len(times) for times in self.token_s]

    def gaps(self) -> Iterator[float]:
        """Every inter-token gap."""
        for times in self.made_s:
            for i in range(1, len(times)):
                yield times[i] - times[i - 1]


class BlockPool:
    """KV blocks by number. Blocks that nobody references wait in one queue, least recently used
    first; a block keeps its key there until it is taken for something else."""

    def __init__(self, blocks: int) -> None:
        self.total = blocks
        self.queue: OrderedDict[int, None] = OrderedDict.fromkeys(range(blocks))
        self.references = [0] * blocks
        self.key_of: dict[int, Key] = {}
        self.block_with: dict[Key, int] = {}
        self.forgotten: list[Key] = []
        """Keys of blocks taken for something else, until somebody empties the list."""

    @property
    def free(self) -> int:
        return len(self.queue)

    def take(self) -> int:
        """A block for new content."""
        block, _ = self.queue.popitem(last=False)
        if block in self.key_of:
            key = self.key_of.pop(block)
            del self.block_with[key]
            self.forgotten.append(key)
        assert self.references[block] == 0
        self.references[block] = 1
        return block

    def share(self, block: int) -> None:
        """One more sequence uses the block."""
        if self.references[block] == 0:
            del self.queue[block]
        self.references[block] += 1

    def name(self, block: int, key: Key) -> None:
        """Let later sequences find the block, unless another block with that content is known."""
        if key not in self.block_with and block not in self.key_of:
            self.block_with[key] = block
            self.key_of[block] = key

    def give_back(self, blocks: list[int]) -> None:
        """A sequence stops using its blocks; its last one is reused first."""
        for block in reversed(blocks):
            self.references[block] -= 1
            assert self.references[block] >= 0
            if self.references[block] == 0:
                self.queue[block] = None
