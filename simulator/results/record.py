"""What a run leaves behind: one row a request and one row a stretch of identical steps, as columns.

Everything reported is computed from these columns after the run, so that the clock's inner loop
only appends numbers and memory does not grow with output tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Protocol

import numpy as np
import numpy.typing as npt

from simulator.results.lives import Lives
from simulator.results.moved import KvMoved
from simulator.results.waste import KvWaste
from simulator.scenario.pools import Role
from simulator.workload.requests import Floats, Ints, Requests

COMPLETED, REJECTED, TIMED_OUT, UNFINISHED, FAILED = range(5)
LANES_APART = 1 << 20
"""Where a replica and its lane are one number, it is the replica's plus so much for each lane
before it: more than there are replicas."""

DRAFT = "draft_"
"""Before the names of operators that draft tokens for speculative decoding."""

OUTCOMES = ("completed", "rejected", "timed_out", "unfinished", "failed")


@dataclass(frozen=True, slots=True)
class StepTable:
    """Rows in order of their start on each replica. A row stands for ``steps`` consecutive steps
    with the same requests, of which the i-th (from 0) takes ``first_s + i · slope_s``.

    Args:
        replica: which one.
        start_s: start of the first step.
        steps: how many.
        first_s, slope_s: duration of the first step, growth from step to step; seconds.
        stall_s: seconds of the row in which its devices wait for something that is moved or for
            other devices, part of its duration.
        decode: sequences that decode (one token each in every step).
        context: tokens those sequences attend to in the first step, summed over them (each
            sequence's own new token included); grows by ``decode`` a step.
        local_context: the same, each cut to the span of the local-attention layers.
        local_growth: by how much ``local_context`` grows a step.
        prefill: sequences with prompt tokens in the step (then ``steps`` is 1).
        prefill_tokens: prompt tokens computed, recomputed and padding ones included.
        wasted_tokens: those of them that are recomputation after a preemption, or padding.
        prefill_pairs, local_pairs: (query, key) pairs of the prompt tokens in full-attention and in
            local-attention layers.
        prefill_context: KV tokens that the prompt chunks read (past and new), summed.
        sampled: sequences (or slots) that get logits in every step: decoding ones, and those
            whose prompt (or recomputation) ends in it.
        first_tokens: sequences whose first output token came out of this step.
        gap_tokens: output tokens a step whose predecessor came exactly one step earlier. The
            tokens of a run are ``tokens``, summed, and ``Gaps.count``.
        accepted_tokens: output tokens that came at once with their predecessor, accepted drafts of
            speculative decoding; rows with any stand for one step.
        running: sequences admitted, at the end of the row.
        waiting: sequences queued, at the end of the row.
        kv_blocks: KV blocks in use while the row runs (at its end).
        kv_tokens: tokens stored in them.
        lane: which scheduler of the replica, from 0. Rows of the same lane follow each other,
            those of different lanes overlap.
        adapters: different LoRA adapters in every step.
        adapter_tokens: tokens of every step that use one.
    """

    replica: Ints
    start_s: Floats
    steps: Ints
    first_s: Floats
    slope_s: Floats
    stall_s: Floats
    decode: Ints
    context: Floats
    local_context: Floats
    local_growth: Floats
    prefill: Ints
    prefill_tokens: Ints
    wasted_tokens: Ints
    prefill_pairs: Floats
    local_pairs: Floats
    prefill_context: Floats
    sampled: Ints
    first_tokens: Ints
    gap_tokens: Ints
    accepted_tokens: Ints
    running: Ints
    waiting: Ints
    kv_blocks: Ints
    kv_tokens: Floats
    lane: Ints
    adapters: Ints
    adapter_tokens: Ints

    def __len__(self) -> int:
        return len(self.start_s)

    @property
    def duration_s(self) -> Floats:
        """Time each row takes. Shape (rows,)."""
        return self.steps * self.first_s + self.slope_s * self.steps * (self.steps - 1) / 2

    @property
    def tokens(self) -> Ints:
        """Output tokens of each row, but for those in ``Gaps``. Shape (rows,)."""
        return self.first_tokens + self.steps * self.gap_tokens + self.accepted_tokens

    def select(self, rows: npt.NDArray[np.bool_] | Ints) -> StepTable:
        """The given rows only."""
        return StepTable(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass(frozen=True, slots=True)
class Gaps:
    """Inter-token gaps that no row of the step table implies (after a preemption or a pause of
    decoding): ``count`` tokens came at ``at_s``, ``gap_s`` after their predecessors, on ``replica``
    (None: all on the same one). Shapes (n,).
    """

    at_s: Floats
    gap_s: Floats
    count: Ints
    replica: Ints | None = None

    def of(self, first: int, end: int) -> Gaps:
        """Those of the replicas from ``first`` to before ``end``."""
        if self.replica is None:
            return self
        mine = (self.replica >= first) & (self.replica < end)
        return Gaps(self.at_s[mine], self.gap_s[mine], self.count[mine], self.replica[mine])


@dataclass(frozen=True, slots=True)
class Stages:
    """What else is known of requests whose prompt one replica computes and another one goes on
    with. Shapes are (n,); times NaN: did not happen.

    Args:
        prefill_replica: who computed the prompt, -1 for nobody. ``RunRecord.replica`` is who went
            on, or the same one where the first token was the last.
        prompt_done_s: end of the step that ended the prompt.
        reserved_s: when the decode replica had KV blocks for it.
        landed_s: when its keys and values had come.
        sent_bytes: bytes of those.
        path_busy_s: seconds that each replica's path carried bytes, by its number. Shape
            (replicas,).
    """

    prefill_replica: Ints
    prompt_done_s: Floats
    reserved_s: Floats
    landed_s: Floats
    sent_bytes: Floats
    path_busy_s: Floats


@dataclass(frozen=True, slots=True)
class Group:
    """Replicas of one kind, numbered from ``first`` on: a pool.

    Args:
        count: their numbers.
        kv_blocks: of all ``lanes`` of a replica together.
        most: how many are meant to be there at once, where some numbers are kept for replicas that
            start while others drain; 0: all of them.
        shares: name of the pool on whose devices they run; empty: on their own.
    """

    name: str
    role: Role
    first: int
    count: int
    kv_blocks: int
    block_size: int
    lanes: int = 1
    most: int = 0
    shares: str = ""

    @property
    def devices_of(self) -> str:
        """Name of the pool whose devices its replicas run on."""
        return self.shares or self.name

    @property
    def replicas(self) -> int:
        """How many are meant to be there at once."""
        return self.most or self.count

    @property
    def end(self) -> int:
        """The number after its last replica's."""
        return self.first + self.count


@dataclass(slots=True)
class AdapterCounts:
    """What became of requests with LoRA adapters: ``asked`` admissions, ``loads`` of adapters that
    were not in memory, which steps waited ``load_s`` for. Of the whole run."""

    asked: int = 0
    loads: int = 0
    load_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Columns of one run. Times are simulated seconds; request columns have shape (n,).

    Args:
        requests: what was sent.
        sent_s: when the client sent it (NaN: never, because the run ended before).
        queued_s: when it reached a replica's queue.
        start_s: start of the first step that worked on it.
        first_token_s, finish_s: first and last token at the client (NaN: none).
        generated: output tokens delivered.
        cached_tokens: prompt tokens found in the prefix cache on first admission.
        preemptions: how often it lost its KV blocks.
        replica: who served it, -1 for nobody.
        outcome: index into OUTCOMES.
        kv_blocks: usable KV blocks of a replica (of the largest one).
        block_size: tokens a block (of the largest one).
        groups: the pools; if none is given, all replicas are one, named ``default``.
        held: when replicas' devices were held, as rows of replica, from, until (s); None: all of
            them, all the time.
        preempted: when sequences lost their KV blocks to make room, as rows of time, replica and
            how many; None: not known.
        stages: where prompts are computed apart; None elsewhere.
        lives: what replicas that come and go went through; None: all are up all the time.
        end_s: when the last event happened.
        lane: which lane of the replica served it; None where every replica has one.
        interrupted: the run was stopped; everything up to ``end_s`` is complete.
        reason: why, if it was not the user.
        wall_s: seconds of real time the clock ran.
        answer_s: first token at the client after the thinking (NaN: none, or there was no
            thinking); None if nobody thinks.
        moved: KV blocks that went below device memory and came back; None where they cannot.
        waste: of contiguous KV memory; None where it has blocks.
        adapter_counts: see there; None where the engine serves no adapters.
        refusals: how often admission control refused a request, retries included.
    """

    requests: Requests
    sent_s: Floats
    queued_s: Floats
    start_s: Floats
    first_token_s: Floats
    finish_s: Floats
    generated: Ints
    cached_tokens: Ints
    preemptions: Ints
    replica: Ints
    outcome: Ints
    steps: StepTable
    gaps: Gaps
    replicas: int
    kv_blocks: int
    block_size: int
    end_s: float
    interrupted: bool = False
    reason: str = ""
    wall_s: float = 0.0
    refusals: int = 0
    groups: tuple[Group, ...] = ()
    held: Floats | None = None
    lane: Ints | None = None
    answer_s: Floats | None = None
    adapter_counts: AdapterCounts | None = None
    moved: KvMoved | None = None
    waste: KvWaste | None = None
    preempted: Floats | None = None
    stages: Stages | None = None
    lives: Lives | None = None

    def __post_init__(self) -> None:
        if not self.groups:
            whole = Group("default", "serve", 0, self.replicas, self.kv_blocks, self.block_size)
            object.__setattr__(self, "groups", (whole,))

    def blocks_of(self, replica: Ints) -> Ints:
        """KV blocks of each of these replicas. Shape as given."""
        if len(self.groups) == 1:
            return np.full(np.shape(replica), self.kv_blocks)
        ends = [group.end for group in self.groups]
        blocks = np.array([group.kv_blocks for group in self.groups])
        return blocks[np.searchsorted(ends, replica, side="right")]


@dataclass(frozen=True, slots=True)
class StepWork:
    """What the rows of a step table cost one replica (all its devices). Arrays have shape (rows,).

    Args:
        model_flops: FLOPs of the model itself (no recomputation, no padding).
        hbm_bytes: bytes that must move between memory and chip.
        link_bytes: bytes each device sends over the link.
        energy_j: energy of all the replica's devices while the row runs.
        operator_s: seconds by operator (``qkv_proj``, ``decode_attention``, ``host`` …).
        resource_s: seconds by binding resource: compute, memory, network, host, latency, stall.
        load: what power depends on, by coefficient of the power curve, each from 0 to 1.
        lost_flops: FLOPs that bring no token, by cause: ``drafting`` and ``rejected``.
        busy_s: replica-seconds in which devices work on the row, where it has only some of them or
            waits for others; None: all of its duration.
        powered_s: replica-seconds whose energy ``energy_j`` is; None: as its duration.
    """

    model_flops: Floats
    hbm_bytes: Floats
    link_bytes: Floats
    energy_j: Floats
    operator_s: dict[str, Floats] = field(default_factory=dict)
    resource_s: dict[str, Floats] = field(default_factory=dict)
    load: dict[str, Floats] = field(default_factory=dict)
    lost_flops: dict[str, Floats] = field(default_factory=dict)
    busy_s: Floats | None = None
    powered_s: Floats | None = None


class Accountant(Protocol):
    """Prices rows after the run; implemented by the step cost model."""

    peak_flops: float
    """FLOP/s of all the replica's devices together, in the type its matrix products use."""
    peak_bytes_per_s: float
    """Memory bandwidth of all the replica's devices together."""
    idle_w: float
    """Power of all the replica's devices together when they wait."""

    def account(self, steps: StepTable) -> StepWork:
        """Work behind each row."""
        ...

    def residual_range(self, steps: StepTable) -> tuple[float, float]:
        """How far below and above the prediction the kernels of these rows may lie together:
        the 10 and 90% quantiles of ln(measured / predicted) of each family of kernels, by its share
        of the time, as root of the sum of squares; both not negative."""
        ...
