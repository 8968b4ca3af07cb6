"""The step-by-step simulator that the fast one must agree with, and that it is timed against.

Written for reading, not for speed: every step is simulated, every running sequence is looked at in
every step, every KV block has a number and sits in a list, every token has its own timestamp. It
shares no code with the scheduler under test; both follow the same rules (docs: how the simulator
works). Times are seconds.
"""

from __future__ import annotations

import heapq
import math
from collections import deque

from simulator.cluster import FrontEndTimes
from simulator.costs.protocol import StepCost
from simulator.deployment import Limits
from simulator.resolution.terms import ClassTerms, Terms
from simulator.results.record import COMPLETED, TIMED_OUT, UNFINISHED
from simulator.serving.below import Below
from simulator.workload.requests import OPEN_LOOP, ROOT, Requests
from tests.oracle_below import make_below
from tests.oracle_queue import NaiveOrder
from tests.oracle_replica import NaiveReplica
from tests.oracle_speculative import SpeculativeReplica
from tests.oracle_state import OracleRun, Sequence, Step

__all__ = ["OracleRun", "Step", "run_oracle"]


class Clients:
    """Who sends what when."""

    def __init__(self, requests: Requests, run: OracleRun, network_s: float) -> None:
        self.requests = requests
        self.run = run
        self.network_s = network_s
        self.coming: list[tuple[float, int]] = []
        """Heap of (time it reaches a server, request)."""
        self.in_pool: list[deque[int]] = [deque() for _ in requests.pool_concurrency]
        self.children: dict[int, list[int]] = {}
        for i in range(len(requests)):
            if requests.pool[i] != OPEN_LOOP:
                self.in_pool[requests.pool[i]].append(i)
            elif requests.parent[i] != ROOT:
                self.children.setdefault(int(requests.parent[i]), []).append(i)
            else:
                self.send(i, 0.0)
        for pool, users in enumerate(requests.pool_concurrency):
            for _ in range(min(users, len(self.in_pool[pool]))):
                self.send(self.in_pool[pool].popleft(), 0.0)

    def send(self, i: int, after_s: float) -> None:
        sent = after_s + float(self.requests.arrival_s[i])
        self.run.sent_s[i] = sent
        heapq.heappush(self.coming, (sent + self.network_s, i))

    def hear(self, i: int, finish_s: float) -> None:
        """The last token of a request arrived: send what waited for it."""
        for child in self.children.get(i, []):
            self.send(child, finish_s)
        pool = int(self.requests.pool[i])
        if pool != OPEN_LOOP and self.in_pool[pool]:
            self.send(self.in_pool[pool].popleft(), finish_s)


def run_oracle(
    requests: Requests,
    limits: Limits,
    kv_blocks: int,
    cost: StepCost,
    *,
    replicas: int = 1,
    terms: Terms | None = None,
    timeout_s: float | None = None,
    network_s: float = 0.0,
    front_end: FrontEndTimes = FrontEndTimes(),  # noqa: B008 - a tuple
    watermark: int = 0,
    below: Below | None = None,
) -> OracleRun:
    """Simulate every step. Requests go to the replicas in turn, in the order in which they reach
    a server; those that reach it at the same instant, in the order of their numbers.

    All requests must fit (``ceil((prompt + output - 1) / block_size) <= kv_blocks``); time-outs
    are for open-loop traffic under policies other than static batches.
    """
    n = len(requests)
    run = OracleRun(
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
        held_blocks=[0] * replicas,
    )
    clients = Clients(requests, run, network_s)
    terms = terms or (ClassTerms(),) * len(requests.classes)
    make = NaiveReplica if limits.speculation is None else SpeculativeReplica
    nodes: dict[int, dict[str, float]] = {}
    fleet = []
    for r in range(replicas):
        order = NaiveOrder(limits, cost, run, requests, terms, front_end.response_s + network_s)
        fleet.append(
            make_below(nodes, make, below, r, limits, kv_blocks, cost, run, requests, order,
                       watermark)
        )  # fmt: skip
    routed = 0
    free_s = [0.0] * replicas
    in_front: list[tuple[float, int, int]] = []
    """Heap of (time it reaches a queue, order of arrival, request)."""
    while True:
        now = min(
            clients.coming[0][0] if clients.coming else math.inf,
            in_front[0][0] if in_front else math.inf,
            *(replica.next_s() for replica in fleet),
        )
        assert now > -math.inf, "an idle replica holds a request that it can never start"
        if now == math.inf:
            break
        for replica in fleet:
            if replica.step_end == now:
                for seq in replica.complete(front_end.token_s, front_end.response_s + network_s):
                    finish = run.token_s[seq.index][-1]
                    if timeout_s is not None and finish > run.sent_s[seq.index] + timeout_s:
                        run.outcome[seq.index] = TIMED_OUT
                        continue
                    run.outcome[seq.index] = COMPLETED
                    run.finish_s[seq.index] = finish
                    clients.hear(seq.index, finish)
        while clients.coming and clients.coming[0][0] <= now:
            reached, i = heapq.heappop(clients.coming)
            own = run.replica[i] = routed % replicas
            busy = front_end.busy_s + front_end.busy_s_per_token * int(requests.input_tokens[i])
            free_s[own] = max(reached, free_s[own]) + busy
            run.queued_s[i] = free_s[own] + front_end.request_s
            heapq.heappush(in_front, (run.queued_s[i], routed, i))
            routed += 1
        while in_front and in_front[0][0] <= now:
            queued, _, i = heapq.heappop(in_front)
            if timeout_s is not None and run.sent_s[i] + timeout_s < now:
                run.outcome[i] = TIMED_OUT
                continue
            prompt, output = int(requests.input_tokens[i]), int(requests.output_tokens[i])
            fleet[run.replica[i]].arrive(Sequence(i, prompt, output, queued))
        for replica in fleet:
            if replica.plan is None:
                if timeout_s is not None:
                    replica.drop_expired(now, timeout_s)
                replica.begin(now)
        run.end_s = now
    for i, times in enumerate(run.token_s):
        if times:
            run.first_token_s[i] = times[0]
    run.held_blocks = [replica.pool.total - replica.pool.free for replica in fleet]
    return run
