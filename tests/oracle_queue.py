"""The orders of the queue as the oracle sees them: everybody is looked at, every time.

It shares no code with the queues under test but the draws of the predictor.
"""

from __future__ import annotations

import math
from collections import deque

from simulator.cluster.ranks import predicted_output
from simulator.costs.protocol import Chunk, StepCost
from simulator.deployment import Limits
from simulator.resolution.terms import Terms
from simulator.workload.requests import Requests
from tests.oracle_state import OracleRun, Sequence


class NaiveOrder:
    """Sorts the queue of one replica."""

    def __init__(
        self,
        limits: Limits,
        cost: StepCost,
        run: OracleRun,
        requests: Requests,
        terms: Terms,
        response_s: float,
    ) -> None:
        self.limits = limits
        self.cost = cost
        self.run = run
        self.requests = requests
        self.terms = terms
        self.response_s = response_s
        self.kind = limits.queue.kind
        self.predicted = requests.output_tokens.astype(float)
        if limits.queue.kind == "shortest_first":
            self.predicted = predicted_output(requests, limits.queue.prediction_error, 0)
        self.counters = [0.0 for _ in terms]
        self.last_class = -1

    def class_of(self, seq: Sequence) -> int:
        return int(self.requests.class_id[seq.index])

    def arrange(self, waiting: deque[Sequence], now: float) -> deque[Sequence]:
        """The queue, the next one to be admitted first."""
        if self.kind == "fcfs":
            return waiting
        if self.kind == "fair":
            return self.by_turns(waiting)
        keys = {id(seq): (self.key(seq, now), seq.ticket) for seq in waiting}
        return deque(sorted(waiting, key=lambda seq: keys[id(seq)]))

    def key(self, seq: Sequence, now: float) -> tuple[float, ...]:
        queue, terms = self.limits.queue, self.terms[self.class_of(seq)]
        sent = self.run.sent_s[seq.index]
        if queue.kind == "priority":
            return (terms.priority,)
        if queue.kind == "shortest_first":
            work = queue.input_weight * seq.prompt
            work += queue.output_weight * float(self.predicted[seq.index])
            return (work + queue.aging_tokens_per_s * sent,)
        assert queue.kind == "deadline"
        limit = terms.ttft_s if queue.limit == "ttft" else terms.e2e_s
        deadline = math.inf if limit is None else sent + limit
        late = queue.defer_hopeless and not seq.started and self.least_end(seq, now) > deadline
        return (late, deadline)

    def least_end(self, seq: Sequence, now: float) -> float:
        """When its first (or last) token could be with the client, were it alone from now on."""
        batches = self.limits.policy.kind in ("static", "dynamic")
        budget = seq.prompt if batches else self.limits.max_num_batched_tokens
        past = 0
        while past < seq.prompt:
            new = min(budget, seq.prompt - past)
            ends = past + new == seq.prompt
            now += self.cost.step(0, 0, 0, [Chunk(new, past)], int(ends))
            past += new
        if self.limits.queue.limit == "e2e" and seq.output > 1:
            attended, span = seq.prompt + 1, self.cost.local_span
            local = 0
            if span:
                chunked = self.cost.local_is_chunked
                local = (attended - 1) % span + 1 if chunked else min(attended, span)
            now += (seq.output - 1) * self.cost.decode(1, attended, local, 0)[0]
        return now + self.response_s

    # --- fair ------------------------------------------------------------------------------------

    def tokens(self, seq: Sequence, prompt: int, output: int) -> float:
        """What tokens add to the counter of the sequence's class."""
        queue = self.limits.queue
        assert queue.kind == "fair"
        weight = self.terms[self.class_of(seq)].weight
        return (queue.input_weight * prompt + queue.output_weight * output) / weight

    def welcome(self, waiting: deque[Sequence]) -> None:
        """Before a plan: classes of which nobody waited are lifted as their first one comes."""
        if self.kind != "fair":
            return
        known = [seq for seq in waiting if seq.welcomed]
        for seq in sorted((s for s in waiting if not s.welcomed), key=lambda s: s.ticket):
            seq.welcomed = True
            own = self.class_of(seq)
            present = {self.class_of(other) for other in known}
            if own not in present:
                if present:
                    level = min(self.counters[c] for c in present)
                elif self.last_class >= 0:
                    level = self.counters[self.last_class]
                else:
                    level = 0.0
                self.counters[own] = max(self.counters[own], level)
            known.append(seq)

    def by_turns(self, waiting: deque[Sequence]) -> deque[Sequence]:
        left, counters = list(waiting), list(self.counters)
        order: deque[Sequence] = deque()
        while left:
            heads = {}
            for seq in sorted(left, key=lambda s: s.ticket):
                heads.setdefault(self.class_of(seq), seq)
            seq = min(heads.values(), key=lambda s: (counters[self.class_of(s)], s.ticket))
            order.append(seq)
            left.remove(seq)
            if not seq.started:
                counters[self.class_of(seq)] += self.tokens(seq, seq.prompt, 0)
        return order

    def admitted(self, seq: Sequence) -> None:
        if self.kind == "fair":
            self.last_class = self.class_of(seq)
            if not seq.started:
                self.counters[self.last_class] += self.tokens(seq, seq.prompt, 0)

    def emitted(self, seq: Sequence) -> None:
        if self.kind == "fair":
            self.counters[self.class_of(seq)] += self.tokens(seq, 0, 1)
