"""The oracle's replica with speculative decoding: drafts are accepted or rejected one by one."""

from __future__ import annotations

import numpy as np

from tests.oracle_replica import NaiveReplica
from tests.oracle_state import Plan, Sequence


class SpeculativeReplica(NaiveReplica):
    """Decoding sequences compute their last token and all drafts, and keep what is accepted."""

    def accepted(self, seq: Sequence) -> int:
        """Drafts accepted at the place where the sequence stands."""
        speculation = self.limits.speculation
        assert speculation is not None
        bits = np.random.PCG64([speculation.seed, 0x6163636570])
        bits.advance(seq.index * 2**40 + seq.generated)
        drawn = np.random.Generator(bits).random()
        accepted, alive = 0, 1.0
        for probability in speculation.acceptance:
            alive *= probability
            if drawn >= alive:
                break
            accepted += 1
        return accepted

    def width(self, decoding: int) -> int:
        """Tokens that each of so many decoding sequences computes."""
        speculation = self.limits.speculation
        assert speculation is not None
        return speculation.tokens + 1 if decoding <= speculation.max_batch else 1

    def add_decodes(self, plan: Plan) -> int:
        """Put the decoding sequences into the step; returns the tokens they take of the budget."""
        while True:
            decoding = [seq for seq in self.running if seq.decoding]
            width = self.width(len(decoding))
            for seq in decoding:
                if seq in self.running and not self.grow(
                    seq, min(width, seq.output - seq.generated)
                ):
                    break
            decoding = [seq for seq in self.running if seq.decoding]
            if self.width(len(decoding)) == width:
                break
        for seq in decoding:
            attended = seq.computed + 1
            plan.decode += 1
            plan.context += attended
            plan.local_context += self.local(attended)
            plan.sampled += 1
            gain = 1 if width == 1 else 1 + self.accepted(seq)
            plan.work.append((seq, min(gain, seq.output - seq.generated)))
        return width * len(decoding)

    def schedule_continuous(self) -> Plan:
        plan = Plan()
        budget = self.limits.max_num_batched_tokens - self.add_decodes(plan)
        for seq in [seq for seq in self.running if not seq.decoding]:
            new = min(seq.remaining, budget)
            if new == 0 or not self.grow(seq, new):
                break
            self.add(plan, seq, new)
            budget -= new
        if self.preempted == 0 and not self.hold_back(plan, budget):
            self.admit(plan, budget)
            if plan.chunks:
                self.held_steps = 0
        return plan

    def schedule_prefill_first(self) -> Plan:
        plan = Plan()
        budget = self.limits.max_num_batched_tokens
        for seq in [seq for seq in self.running if not seq.decoding]:
            new = min(seq.remaining, budget)
            if new == 0 or not self.grow(seq, new):
                break
            self.add(plan, seq, new)
            budget -= new
        if self.preempted == 0:
            self.admit(plan, budget, spare_one_each=True)
        if not plan.chunks:
            self.add_decodes(plan)
        return plan

    def complete(self, each_s: float, response_s: float) -> list[Sequence]:
        assert self.plan is not None
        plan, self.plan = self.plan, None
        decoding = [seq.decoding for seq, _ in plan.work]
        tokens = plan.sampled - plan.decode
        tokens += sum(gain for (_, gain), is_ in zip(plan.work, decoding, strict=True) if is_)
        self.handed_out_s = max(self.handed_out_s, self.step_end) + each_s * tokens
        token_s = self.handed_out_s + response_s
        self.last_end, self.step_end = self.step_end, float("inf")
        for (seq, new), was_decoding in zip(plan.work, decoding, strict=True):
            seq.computed += new
            seq.highest = max(seq.highest, seq.computed)
            if was_decoding:
                for _ in range(new):
                    self.emit(seq, token_s)
            elif seq.remaining == 0:
                self.emit(seq, token_s)
        finished = [seq for seq, _ in plan.work if seq.generated == seq.output]
        for seq in [seq for seq in self.running if seq.generated == seq.output]:
            self.name_on_leaving(seq, comes_back=False)
            self.remove(seq)
        return finished
