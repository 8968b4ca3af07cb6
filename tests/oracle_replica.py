"""The oracle's replica: plans and completes one step at a time, sequence by sequence."""

from __future__ import annotations

import math
from collections import deque

from simulator.costs.protocol import Chunk, StepCost
from simulator.deployment import Limits
from simulator.results.record import TIMED_OUT
from simulator.workload.requests import Requests
from tests.oracle_queue import NaiveOrder
from tests.oracle_state import BlockPool, Key, OracleRun, Plan, Sequence, Step


class NaiveReplica:
    """Queue, running sequences and KV blocks of one replica."""

    def __init__(
        self,
        number: int,
        limits: Limits,
        kv_blocks: int,
        cost: StepCost,
        run: OracleRun,
        requests: Requests,
        order: NaiveOrder,
        watermark: int = 0,
    ) -> None:
        self.order = order
        self.tickets = 0
        self.number = number
        self.watermark = watermark
        self.limits = limits
        self.cost = cost
        self.run = run
        self.requests = requests
        self.pool = BlockPool(kv_blocks)
        self.waiting: deque[Sequence] = deque()
        self.unseen: deque[Sequence] = deque()
        """Requests that came while a step ran, where the next one was planned before."""
        self.idle = True
        self.last_start = self.last_end = 0.0
        self.handed_out_s = 0.0
        self.held_steps = 0
        self.running: list[Sequence] = []
        self.plan: Plan | None = None
        self.step_end = math.inf
        self.preempted = 0
        self.batch_steps = 0
        self.last_step: Step | None = None

    def arrive(self, seq: Sequence) -> None:
        """A request reaches the queue."""
        seq.ticket, self.tickets = self.tickets, self.tickets + 1
        if self.idle or not self.limits.async_scheduling:
            self.waiting.append(seq)
        else:
            self.unseen.append(seq)

    # --- text of a sequence ----------------------------------------------------------------------

    def text_key(self, seq: Sequence, block: int) -> Key | None:
        """Key of the sequence's block if its last token belongs to a known text."""
        prefixes = self.requests.prefixes
        if prefixes is None:
            return None
        last_token = (block + 1) * self.limits.block_size - 1
        first, last = int(prefixes.offsets[seq.index]), int(prefixes.offsets[seq.index + 1])
        if last_token >= seq.prompt:
            if first < last and prefixes.continues[seq.index]:
                return ("text", int(prefixes.stream[last - 1]), block)
            return None
        for segment in range(first, last):
            if last_token < prefixes.end[segment]:
                return ("text", int(prefixes.stream[segment]), block)
        return None

    def name_chunk(self, seq: Sequence, new: int) -> None:
        """Register the blocks that a prompt chunk of ``new`` tokens is about to fill."""
        filled = (seq.computed + new) // self.limits.block_size
        if self.limits.prefix_caching:
            for block in range(seq.computed // self.limits.block_size, filled):
                key = self.text_key(seq, block)
                if key is not None:
                    self.pool.name(seq.blocks[block], key)
        seq.named_blocks = filled

    def name_on_leaving(self, seq: Sequence, comes_back: bool) -> None:
        """Register the blocks that decode steps filled; if the sequence comes back, also those
        that belong to no text, for itself."""
        if not self.limits.prefix_caching:
            return
        for block in range(seq.computed // self.limits.block_size):
            key = self.text_key(seq, block)
            if key is None and comes_back:
                self.pool.name(seq.blocks[block], ("own", seq.index, block))
            elif key is not None and block >= seq.named_blocks:
                self.pool.name(seq.blocks[block], key)

    def free_in(self, hits: list[int]) -> int:
        """Free blocks that sharing these would take."""
        return sum(self.pool.references[block] == 0 for block in hits)

    def claim(self, hits: list[int]) -> list[int]:
        """Shares blocks that were found; returns them."""
        for block in hits:
            self.pool.share(block)
        return hits

    def spare(self, one_each: bool = False) -> int:
        """Blocks that an admission leaves free."""
        if not self.running:
            return 0
        return self.watermark + (len(self.running) if one_each else 0)

    def stall(self, duration: float, now: float) -> float:
        """Seconds by which a step that starts now lasts longer because of blocks that move."""
        return 0.0

    def cached_blocks(self, seq: Sequence) -> list[int]:
        """Blocks that hold the beginning of the sequence; one token at least is left to compute."""
        found: list[int] = []
        if not self.limits.prefix_caching:
            return found
        for block in range((seq.prompt + seq.generated - 1) // self.limits.block_size):
            key = self.text_key(seq, block) or ("own", seq.index, block)
            if key not in self.pool.block_with:
                break
            found.append(self.pool.block_with[key])
        return found

    # --- scheduling ------------------------------------------------------------------------------

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.limits.block_size)

    def schedule(self, now: float) -> Plan | None:
        """The next step, or None if there is nothing to do (yet)."""
        self.preempted = 0
        self.now = now
        self.order.welcome(self.waiting)
        self.arrange()
        kind = self.limits.policy.kind
        if kind == "static" or kind == "dynamic":
            plan = self.schedule_batch(now)
        elif kind == "prefill_first":
            plan = self.schedule_prefill_first()
        else:
            plan = self.schedule_continuous()
        return plan if plan.decode or plan.chunks else None

    def arrange(self) -> None:
        self.waiting = self.order.arrange(self.waiting, self.now)

    def schedule_continuous(self) -> Plan:
        plan = Plan()
        self.make_room()
        budget = self.limits.max_num_batched_tokens
        position = 0
        while position < len(self.running) and budget > 0:
            seq = self.running[position]
            new = min(seq.remaining, budget)
            if not self.grow(seq, new, plan):
                break
            self.add(plan, seq, new)
            budget -= new
            position = self.running.index(seq) + 1
        if self.preempted == 0 and not self.hold_back(plan, budget):
            self.admit(plan, budget)
            if plan.chunks:
                self.held_steps = 0
        return plan

    def hold_back(self, plan: Plan, budget: int) -> bool:
        """Whether prompts wait for more to come, one step longer."""
        policy = self.limits.policy
        if policy.kind != "full_reservation" or self.held_steps >= policy.wait_steps:
            return False
        if plan.decode == 0 or plan.chunks:
            return False
        seats = self.limits.max_num_seqs - len(self.running)
        decoding = tokens = self.limits.max_num_batched_tokens - budget
        free = self.pool.free
        for seq in self.waiting:
            hits = self.cached_blocks(seq)
            new = seq.prompt + seq.generated - len(hits) * self.limits.block_size
            if policy.chunked_prefill:
                new = min(new, budget)
            need = self.blocks_for(seq.final_tokens) - len(hits)
            need += self.free_in(hits) + self.spare()
            if seats == 0 or new == 0 or new > budget or need > free:
                break
            free -= need - self.spare()
            seats, budget, tokens = seats - 1, budget - new, tokens + new
            if tokens >= policy.wait_fill * self.limits.max_num_batched_tokens:
                return False
        if tokens == decoding:
            return False
        self.held_steps += 1
        return True

    def schedule_prefill_first(self) -> Plan:
        plan = Plan()
        budget = self.limits.max_num_batched_tokens
        for seq in [seq for seq in self.running if not seq.decoding]:
            new = min(seq.remaining, budget)
            if new == 0 or not self.grow(seq, new, plan):
                break
            self.add(plan, seq, new)
            budget -= new
        if self.preempted == 0:
            self.admit(plan, budget, spare_one_each=True)
        if plan.chunks:
            return plan
        self.make_room()
        position = 0
        while position < len(self.running):
            if not self.grow(self.running[position], 1, plan):
                break
            self.add(plan, self.running[position], 1)
            position += 1
        return plan

    def make_room(self) -> None:
        """With priorities: the worst ones go until all that decode can have their next block."""
        if self.limits.queue.kind != "priority":
            return
        while True:
            decoding = [seq for seq in self.running if seq.decoding]
            need = sum(self.blocks_for(s.computed + 1) - len(s.blocks) for s in decoding)
            if need <= self.pool.free:
                return
            self.preempt(self.worst())

    def worst(self) -> Sequence:
        if self.limits.queue.kind != "priority":
            return self.running[-1]
        return max(self.running, key=lambda seq: (self.order.key(seq, self.now), seq.ticket))

    def grow(self, seq: Sequence, new: int, plan: Plan | None = None) -> bool:
        """Get blocks for ``new`` more tokens, all or none, if need be from the last (or worst)
        sequences, in the plan or not; False if the sequence itself had to go."""
        need = self.blocks_for(seq.computed + new) - len(seq.blocks)
        while need > self.pool.free:
            victim = self.worst()
            self.preempt(victim)
            if victim is seq:
                return False
            if plan is not None and any(victim is planned for planned, _ in plan.work):
                kept = [(other, tokens) for other, tokens in plan.work if other is not victim]
                plan.clear()
                for other, tokens in kept:
                    self.add(plan, other, tokens)
        seq.blocks += [self.pool.take() for _ in range(need)]
        return True

    def preempt(self, victim: Sequence) -> None:
        self.running.remove(victim)
        self.name_on_leaving(victim, comes_back=True)
        self.pool.give_back(victim.blocks)
        victim.blocks = []
        victim.computed = 0
        self.waiting.appendleft(victim)
        self.run.preemptions[victim.index] += 1
        self.preempted += 1

    def admit(self, plan: Plan, budget: int, spare_one_each: bool = False) -> None:
        """Start waiting sequences, in order, while budget, seats and blocks last."""
        policy = self.limits.policy
        whole_prompts = not getattr(policy, "chunked_prefill", True)
        while self.waiting and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            seq = self.waiting[0]
            hits = self.cached_blocks(seq)
            hit = len(hits) * self.limits.block_size
            known = seq.prompt + seq.generated
            new = min(known - hit, budget)
            if whole_prompts and new < known - hit:
                break
            tokens = seq.final_tokens if policy.kind == "full_reservation" else hit + new
            need = self.blocks_for(tokens) - len(hits)
            if need + self.free_in(hits) > self.pool.free - self.spare(spare_one_each):
                break
            self.waiting.popleft()
            self.order.admitted(seq)
            self.arrange()
            self.running.append(seq)
            seq.blocks = self.claim(hits) + [self.pool.take() for _ in range(need)]
            seq.computed = hit
            seq.decoding = False
            if not seq.started:
                self.run.cached_tokens[seq.index] = hit
            self.add(plan, seq, new)
            budget -= new

    def schedule_batch(self, now: float) -> Plan:
        """Static batches: one padded prefill, then decode steps in which every slot costs."""
        if not self.running:
            self.start_batch(now)
            self.batch_steps = 0
        plan = Plan()
        batch = self.running
        if not batch:
            return plan
        longest = max(seq.prompt for seq in batch)
        plan.sampled = len(batch)
        if self.batch_steps == 0:
            plan.chunks = [Chunk(longest, 0) for _ in batch]
            plan.wasted = sum(longest - seq.prompt for seq in batch)
        else:
            attended = longest + self.batch_steps
            plan.decode = len(batch)
            plan.context = len(batch) * attended
            plan.local_context = len(batch) * self.local(attended)
            plan.local_growth = len(batch) * (self.local(attended + 1) - self.local(attended))
        return plan

    def start_batch(self, now: float) -> None:
        if now < self.wake_s():
            return
        prompt = output = each = 0
        while self.waiting and len(self.running) < self.seats:
            seq = self.waiting[0]
            prompt, output = max(prompt, seq.prompt), max(output, seq.output)
            with_it = self.blocks_for(prompt + output - 1)
            if (len(self.running) + 1) * with_it > self.pool.total:
                break
            each = with_it
            self.running.append(self.waiting.popleft())
            self.order.admitted(seq)
            self.arrange()
        for seq in self.running:
            seq.blocks = [self.pool.take() for _ in range(each)]

    @property
    def seats(self) -> int:
        """Sequences of a full batch."""
        policy = self.limits.policy
        assert policy.kind == "static" or policy.kind == "dynamic"
        return min(policy.batch_size, self.limits.max_num_seqs)

    def wake_s(self) -> float:
        """When an idle replica that waits for a fuller batch stops waiting; -inf: it need not."""
        policy = self.limits.policy
        if policy.kind != "dynamic" or len(self.waiting) >= self.seats:
            return -math.inf
        if not self.waiting:
            return math.inf
        return min(seq.queued_s for seq in self.waiting) + policy.window_ms / 1e3

    def next_s(self) -> float:
        """When something happens here if nothing arrives."""
        if self.plan is not None:
            return self.step_end
        return self.wake_s() if self.waiting else math.inf

    def add(self, plan: Plan, seq: Sequence, new: int) -> None:
        """Put ``new`` tokens of a sequence into the step."""
        plan.work.append((seq, new))
        if not seq.decoding:
            self.name_chunk(seq, new)
            plan.chunks.append(Chunk(new, seq.computed))
            plan.wasted += max(0, min(seq.computed + new, seq.highest) - seq.computed)
        else:
            attended = seq.computed + 1
            plan.decode += 1
            plan.context += attended
            plan.local_context += self.local(attended)
            plan.local_growth += self.local(attended + 1) - self.local(attended)
        if new == seq.remaining:
            plan.sampled += 1

    def local(self, attended: int) -> int:
        """How many of ``attended`` tokens a local-attention layer looks at."""
        span = self.cost.local_span
        if span == 0:
            return 0
        return (attended - 1) % span + 1 if self.cost.local_is_chunked else min(attended, span)

    # --- time ------------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Start the next step if there is one."""
        if self.last_step is not None:
            self.last_step.waiting = len(self.waiting) + len(self.unseen)
            self.last_step = None
        while self.unseen and self.unseen[0].queued_s <= self.last_start:
            self.waiting.append(self.unseen.popleft())
        plan = self.schedule(now)
        if plan is None and self.unseen:
            self.waiting.extend(self.unseen)
            self.unseen.clear()
            plan = self.schedule(now)
        self.plan = plan
        self.idle = plan is None
        if plan is None:
            return
        self.last_start = now
        if plan.chunks:
            duration = self.cost.step(
                plan.decode, plan.context, plan.local_context, plan.chunks, plan.sampled
            )
        else:
            duration, _, _ = self.cost.decode(
                plan.decode, plan.context, plan.local_context, plan.local_growth
            )
        stall = self.stall(duration, now)
        duration += stall
        self.step_end = now + duration
        for seq in self.running:
            if not seq.started:
                seq.started = True
                self.run.start_s[seq.index] = now
        self.last_step = Step(
            self.number,
            now,
            duration,
            plan.decode,
            plan.context,
            plan.local_context,
            plan.chunks,
            plan.sampled,
            plan.wasted,
            sum(seq.generated < seq.output for seq in self.running),
            self.pool.total - self.pool.free,
            sum(seq.computed for seq in self.running) + sum(new for _, new in plan.work),
            self.preempted,
            stall,
        )
        self.run.steps.append(self.last_step)

    def complete(self, each_s: float, response_s: float) -> list[Sequence]:
        """End the step; returns the sequences that got their last token."""
        assert self.plan is not None
        plan, self.plan = self.plan, None
        batch = self.limits.policy.kind in ("static", "dynamic")
        tokens = sum(seq.generated < seq.output for seq in self.running) if batch else plan.sampled
        self.handed_out_s = max(self.handed_out_s, self.step_end) + each_s * tokens
        token_s = self.handed_out_s + response_s
        self.last_end, self.step_end = self.step_end, math.inf
        if batch:
            return self.complete_batch(token_s)
        finished: list[Sequence] = []
        for seq, new in plan.work:
            seq.computed += new
            seq.highest = max(seq.highest, seq.computed)
            if seq.remaining == 0:
                self.emit(seq, token_s)
                if seq.generated == seq.output:
                    finished.append(seq)
        for seq in [seq for seq in self.running if seq.generated == seq.output]:
            self.name_on_leaving(seq, comes_back=False)
            self.remove(seq)
        return finished

    def complete_batch(self, token_s: float) -> list[Sequence]:
        alive = [seq for seq in self.running if seq.generated < seq.output]
        for seq in alive:
            self.emit(seq, token_s)
        self.batch_steps += 1
        if all(seq.generated == seq.output for seq in self.running):
            for seq in list(self.running):
                self.remove(seq)
        return [seq for seq in alive if seq.generated == seq.output]

    def emit(self, seq: Sequence, token_s: float) -> None:
        seq.generated += 1
        seq.decoding = True
        self.order.emitted(seq)
        self.run.token_s[seq.index].append(token_s)
        self.run.made_s[seq.index].append(self.last_end)

    def remove(self, seq: Sequence) -> None:
        self.running.remove(seq)
        self.pool.give_back(seq.blocks)
        seq.blocks = []

    def drop_expired(self, now: float, timeout_s: float) -> None:
        """Forget requests whose client has given up. Not for static batches."""
        assert self.limits.policy.kind not in ("static", "dynamic")
        for seq in [seq for seq in self.running if self.run.sent_s[seq.index] + timeout_s <= now]:
            self.run.outcome[seq.index] = TIMED_OUT
            self.name_on_leaving(seq, comes_back=False)
            self.remove(seq)
        for seq in [seq for seq in self.waiting if self.run.sent_s[seq.index] + timeout_s <= now]:
            self.run.outcome[seq.index] = TIMED_OUT
            self.waiting.remove(seq)
        for seq in [seq for seq in self.unseen if self.run.sent_s[seq.index] + timeout_s <= now]:
            self.run.outcome[seq.index] = TIMED_OUT
            self.unseen.remove(seq)
