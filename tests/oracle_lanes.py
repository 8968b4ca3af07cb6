"""Slow steppers for replicas with several lanes: pipelines and lockstep ranks.

Every lane is the oracle's plain replica, which plans and completes one step at a time; here are the
machines that steps pass, written down entry by entry, and the common boundary.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence as List
from dataclasses import dataclass, field, replace

from simulator.costs.protocol import Chunk, LockstepCost, PipelineCost, Work
from simulator.deployment import NO_FRONT_END, FrontEndTimes, Limits
from simulator.resolution.terms import ClassTerms, Terms
from simulator.results.record import COMPLETED, TIMED_OUT, UNFINISHED
from simulator.workload.requests import Requests
from tests.oracle import Clients
from tests.oracle_queue import NaiveOrder
from tests.oracle_replica import NaiveReplica
from tests.oracle_state import OracleRun, Sequence


def empty_run(n: int, lanes: int) -> OracleRun:
    return OracleRun(
        sent_s=[math.nan] * n,
        queued_s=[math.nan] * n,
        start_s=[math.nan] * n,
        first_token_s=[math.nan] * n,
        finish_s=[math.nan] * n,
        cached_tokens=[0] * n,
        preemptions=[0] * n,
        replica=[-1] * n,
        outcome=[UNFINISHED] * n,
        token_s=[[] for _ in range(n)],
        made_s=[[] for _ in range(n)],
        steps=[],
        held_blocks=[0] * lanes,
    )


def drop(lane: NaiveReplica, now: float, timeout_s: float) -> int:
    """Lets those go whose clients have given up; returns how many."""
    if timeout_s == math.inf:
        return 0

    def inside() -> int:
        return len(lane.running) + len(lane.waiting) + len(lane.unseen)

    before = inside()
    lane.drop_expired(now, timeout_s)
    return before - inside()


# --- pipelines -----------------------------------------------------------------------------------


@dataclass
class Machines:
    """Every visit of a step to a stage or link, in the order of entering."""

    cost: PipelineCost
    now: float = 0.0
    visits: list[list[tuple[float, float]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.visits = [[] for _ in self.cost.lags]

    @property
    def local_span(self) -> int:
        return self.cost.local_span

    @property
    def local_is_chunked(self) -> bool:
        return self.cost.local_is_chunked

    def pass_through(self, times: List[float]) -> float:
        """A step enters the first stage now; returns how long it stays inside."""
        at = self.now
        for machine, (seconds, lag) in enumerate(zip(times, self.cost.lags, strict=True)):
            log = self.visits[machine]
            enter = max([at] + [left for _, left in log[-1:]])
            log.append((enter, enter + seconds))
            at = enter + seconds + lag
        return at - self.now

    def decode(
        self, sequences: int, context: int, local_context: int, local_growth: int
    ) -> tuple[float, float, int]:
        passage = self.cost.decode_passage(sequences, context, local_context, local_growth)
        return self.pass_through(passage.first), 0.0, 1

    def step(
        self,
        sequences: int,
        context: int,
        local_context: int,
        chunks: List[Chunk],
        sampled: int,
    ) -> float:
        return self.pass_through(
            self.cost.step_passage(sequences, context, local_context, chunks, sampled)
        )


def run_pipeline_oracle(
    requests: Requests,
    limits: Limits,
    kv_blocks: int,
    cost: PipelineCost,
    *,
    terms: Terms | None = None,
    timeout_s: float = math.inf,
    network_s: float = 0.0,
    front_end: FrontEndTimes = NO_FRONT_END,
) -> tuple[OracleRun, Machines]:
    """One replica in stages, every step simulated."""
    count = cost.stages
    run = empty_run(len(requests), count)
    machines = Machines(cost)
    share = replace(
        limits, max_num_seqs=max(1, limits.max_num_seqs // count), async_scheduling=False
    )
    terms = terms or (ClassTerms(),) * len(requests.classes)
    lanes = []
    for i in range(count):
        order = NaiveOrder(limits, cost, run, requests, terms, front_end.response_s + network_s)
        lanes.append(NaiveReplica(i, share, kv_blocks // count, machines, run, requests, order))
    loads = [0] * count
    clients = Clients(requests, run, network_s)
    front: deque[tuple[float, int]] = deque()
    """(time it reaches a queue, request), in the order of arrival."""
    front_free_s = handed_out_s = 0.0
    woken: list[NaiveReplica] = []

    def assign(index: int, now: float) -> None:
        own = min(range(count), key=lambda lane: loads[lane])
        run.replica[index] = own
        loads[own] += 1
        prompt, output = int(requests.input_tokens[index]), int(requests.output_tokens[index])
        lanes[own].arrive(Sequence(index, prompt, output, run.queued_s[index]))
        if lanes[own].plan is None:
            if lanes[own] in woken:
                woken.remove(lanes[own])
            woken.append(lanes[own])

    def arrivals(now: float) -> None:
        nonlocal front_free_s
        while clients.coming and clients.coming[0][0] <= now:
            reached, i = heapq.heappop(clients.coming)
            busy = front_end.busy_s + front_end.busy_s_per_token * int(requests.input_tokens[i])
            front_free_s = max(reached, front_free_s) + busy
            run.queued_s[i] = front_free_s + front_end.request_s
            front.append((run.queued_s[i], i))
        while front and front[0][0] <= now:
            index = front.popleft()[1]
            if run.sent_s[index] + timeout_s < now:
                run.outcome[index], run.replica[index] = TIMED_OUT, 0
            else:
                assign(index, now)

    while True:
        now = min(
            clients.coming[0][0] if clients.coming else math.inf,
            front[0][0] if front else math.inf,
            *(lane.next_s() for lane in lanes),
        )
        if now == math.inf:
            break
        assert now > -math.inf, "an idle lane holds a request that it can never start"
        machines.now = now
        # What arrives at the end of a step is there before that; the lane that ends goes on first,
        # idle ones follow in the order in which their latest requests came to them.
        arrivals(now)
        for lane in lanes:
            if lane.step_end == now:
                lane.handed_out_s = handed_out_s
                ended = lane.complete(front_end.token_s, front_end.response_s + network_s)
                handed_out_s = lane.handed_out_s
                loads[lane.number] -= len(ended)
                for seq in ended:
                    finish = run.token_s[seq.index][-1]
                    if finish > run.sent_s[seq.index] + timeout_s:
                        run.outcome[seq.index] = TIMED_OUT
                        continue
                    run.outcome[seq.index] = COMPLETED
                    run.finish_s[seq.index] = finish
                    clients.hear(seq.index, finish)
                arrivals(now)
                loads[lane.number] -= drop(lane, now, timeout_s)
                lane.begin(now)
        for lane in [*woken, *lanes]:
            if lane.plan is None:
                loads[lane.number] -= drop(lane, now, timeout_s)
                lane.begin(now)
        woken.clear()
        run.end_s = now
    for i, times in enumerate(run.token_s):
        if times:
            run.first_token_s[i] = times[0]
    run.held_blocks = [lane.pool.total - lane.pool.free for lane in lanes]
    return run, machines


# --- lockstep ------------------------------------------------------------------------------------


class Common:
    """What each rank asks is remembered; the answer comes when all have asked."""

    def __init__(self, cost: LockstepCost) -> None:
        self.local_span = cost.local_span
        self.local_is_chunked = cost.local_is_chunked
        self.work = IDLE

    def decode(
        self, sequences: int, context: int, local_context: int, local_growth: int
    ) -> tuple[float, float, int]:
        self.work = Work(sequences, context, local_context, local_growth, (), sequences)
        return 0.0, 0.0, 1

    def step(
        self,
        sequences: int,
        context: int,
        local_context: int,
        chunks: List[Chunk],
        sampled: int,
    ) -> float:
        self.work = Work(sequences, context, local_context, 0, chunks, sampled)
        return 0.0


IDLE = Work(0, 0, 0, 0, (), 0)


def run_lockstep_oracle(
    requests: Requests,
    limits: Limits,
    kv_blocks: int,
    cost: LockstepCost,
    *,
    terms: Terms | None = None,
    timeout_s: float = math.inf,
    network_s: float = 0.0,
    front_end: FrontEndTimes = NO_FRONT_END,
) -> OracleRun:
    """One replica of ranks that step together, every step simulated."""
    count = cost.ranks
    run = empty_run(len(requests), count)
    asked = [Common(cost) for _ in range(count)]
    terms = terms or (ClassTerms(),) * len(requests.classes)
    ranks = []
    for i in range(count):
        order = NaiveOrder(limits, cost, run, requests, terms, front_end.response_s + network_s)
        ranks.append(NaiveReplica(i, limits, kv_blocks // count, asked[i], run, requests, order))
    loads = [0] * count
    clients = Clients(requests, run, network_s)
    front: list[tuple[float, int, int]] = []
    free_s = [0.0] * count
    arrived = 0
    boundary = math.inf
    """When the common step ends; inf: nobody has any."""

    def arrivals(now: float) -> None:
        nonlocal arrived
        while clients.coming and clients.coming[0][0] <= now:
            reached, i = heapq.heappop(clients.coming)
            own = run.replica[i] = min(range(count), key=lambda rank: loads[rank])
            loads[own] += 1
            busy = front_end.busy_s + front_end.busy_s_per_token * int(requests.input_tokens[i])
            free_s[own] = max(reached, free_s[own]) + busy
            run.queued_s[i] = free_s[own] + front_end.request_s
            heapq.heappush(front, (run.queued_s[i], arrived, i))
            arrived += 1
        while front and front[0][0] <= now:
            queued, _, i = heapq.heappop(front)
            prompt, output = int(requests.input_tokens[i]), int(requests.output_tokens[i])
            ranks[run.replica[i]].arrive(Sequence(i, prompt, output, queued))

    while True:
        now = min(
            clients.coming[0][0] if clients.coming else math.inf,
            front[0][0] if front else math.inf,
            boundary,
        )
        if now == math.inf:
            break
        arrivals(now)
        run.end_s = now
        if boundary < math.inf and now < boundary:
            continue
        for rank in ranks:
            if rank.plan is not None:
                ended = rank.complete(front_end.token_s, front_end.response_s + network_s)
                loads[rank.number] -= len(ended)
                for seq in ended:
                    finish = run.token_s[seq.index][-1]
                    if finish > run.sent_s[seq.index] + timeout_s:
                        run.outcome[seq.index] = TIMED_OUT
                        continue
                    run.outcome[seq.index] = COMPLETED
                    run.finish_s[seq.index] = finish
                    clients.hear(seq.index, finish)
                arrivals(now)
        for rank in ranks:
            asked[rank.number].work = IDLE
            loads[rank.number] -= drop(rank, now, timeout_s)
            rank.begin(now)
        busy = [rank for rank in ranks if rank.plan is not None]
        boundary = math.inf
        if busy:
            took = cost.together([one.work for one in asked])
            boundary = now + took
            for rank in busy:
                rank.step_end = boundary
                assert rank.last_step is not None
                rank.last_step.duration_s = took
    for i, times in enumerate(run.token_s):
        if times:
            run.first_token_s[i] = times[0]
    run.held_blocks = [rank.pool.total - rank.pool.free for rank in ranks]
    return run
