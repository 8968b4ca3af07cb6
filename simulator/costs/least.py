"""Least times: what no step, and no request, of a replica can be faster than, whatever else runs.

Kernels' corrections make times jagged: 65 tokens may take less than 64, and attention less with two
sequences than with one. So nothing here asks the cost model for one step and hopes that others
take longer; every figure is the least over all steps that could be meant:

- of what depends on tokens alone, the least over all larger numbers of tokens;
- of decoding, the least over all numbers of sequences beside the one in question;
- of prompts, the least over all ways to cut them into chunks: a chunk of m tokens takes at least
  T(m), so u tokens take at least u · min over m ≤ u of T(m)/m;
- of prompts' attention, straight lines that hold whatever shares the step (``PromptRates``).

Sums of these are bounds of sums. All are cut by a billionth for round-off.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from simulator.costs.model import StepCostModel
from simulator.costs.operators import Experts, Matmul
from simulator.costs.parts import CostParts
from simulator.costs.protocol import Floats, Ints
from simulator.costs.rows import table, table_shape, total
from simulator.costs.stretches import DecodeTable

ROUNDING = 1.0 - 1e-9
_CONTEXTS = 40
"""Contexts at which the least decode step is worked out; between them that of the shorter one."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What steps can be like.

    Args:
        budget: most tokens that a scheduler plans for a step.
        sequences: most sequences of a scheduler that decode at once.
        shortest, longest: prompt, and prompt with its answer, of any request.
        preempts: whether a sequence may lose its blocks and compute its tokens anew, so that a step
            with a prompt chunk gives it one of its later tokens.
        whole: prompts are computed in one step each, beyond any budget.
    """

    budget: int
    sequences: int
    shortest: int
    longest: int
    preempts: bool
    whole: bool


class Lines(NamedTuple):
    """Attention of 1, 2, … decoding sequences: straight lines from each of ``knots`` tokens a
    sequence on. Shapes of the others (sequences, knots): seconds there, and for a token more."""

    knots: Floats
    values: Floats
    slopes: Floats


class LeastSteps:
    """Least times on one cost model, in one stage of a replica.

    Args:
        cost: of the steps.
        setting: what steps can be like.
    """

    def __init__(self, cost: StepCostModel, setting: Setting) -> None:
        self.parts: CostParts = cost.parts()
        self.setting = setting
        self.local_span = cost.local_span
        self.local_is_chunked = cost.local_is_chunked

    # --- what depends on tokens alone ------------------------------------------------------------

    @cached_property
    def tokens_s(self) -> Floats:
        """Device seconds of steps with so many tokens or more. Shape (most tokens + 1,)."""
        parts, most = self.parts, self._most_tokens
        seconds = parts.tokens_s
        if most >= len(seconds):
            seconds = table(parts.token_ops, most + 1)
        known = np.array(seconds[: most + 1])
        if self.setting.whole:
            known[-1] = min(known[-1], self._plain_s(float(most)))
        return _least_from(known)

    @property
    def _most_tokens(self) -> int:
        """Of one rank in one step, padding included."""
        planned = -(-self.setting.budget // self.parts.ranks)
        return max(planned, self.parts.largest_graph)

    def _plain_s(self, tokens: float) -> float:
        """What memory and arithmetic take at their peaks, which never falls with more tokens."""
        shape = table_shape(tokens=np.array([tokens]))
        total = 0.0
        for op in self.parts.token_ops:
            if isinstance(op, Matmul | Experts):
                demand = op.demand(shape)
                memory = demand.moved[0] / op.device.bandwidth
                total += float(max(memory, demand.flops[0] / op.peak))
        return total

    @cached_property
    def arithmetic_s(self) -> float:
        """Of one token more, at the peak."""
        shape = table_shape(tokens=np.ones(1))
        products = [op for op in self.parts.token_ops if isinstance(op, Matmul | Experts)]
        return sum(float(op.demand(shape).flops[0]) / op.peak for op in products)

    @cached_property
    def sampled_s(self) -> Floats:
        """Device seconds for so many sampled sequences or more. Shape (most + 1,)."""
        parts = self.parts
        most = self.setting.sequences * (1 + parts.drafts)
        if most < len(parts.sampled_s):
            return _least_from(np.array(parts.sampled_s[: most + 1]))
        sampled = np.ceil(np.arange(most + 1) / parts.ranks)
        return _least_from(total(parts.sampled_ops, table_shape(sampled=sampled), most + 1))

    @cached_property
    def planned_s(self) -> tuple[Ints, Floats]:
        """Numbers of tokens that a step may plan, and the least device seconds of each."""
        sizes = np.arange(1, self._chunk + 1)
        return sizes, self._tokens_at(sizes)

    def _tokens_at(self, tokens: Ints) -> Floats:
        found = self.tokens_s
        at: Floats = found[np.minimum(-(-tokens // self.parts.ranks), len(found) - 1)]
        return at

    # --- prompts ---------------------------------------------------------------------------------

    def prompt_s(self, new: Ints, past: Ints) -> tuple[Floats, Floats]:
        """Least seconds of the steps that compute ``new`` tokens after ``past`` of one request, in
        any chunks: with attention, and with the least times of launches. Shapes (requests,)."""
        plain, floored = self._rates
        read = (new + past).astype(np.float64)
        fresh = new.astype(np.float64)
        attention = self.attention_s(fresh, read)
        most = np.minimum(new, len(plain) - 1)
        ends_s = self.sampled_s[1] if len(self.sampled_s) > 1 else 0.0
        host = self.parts.host_s
        begins_s = (1.0 - self.parts.overlap) * (host[0] + host[1])
        first = np.maximum(fresh * plain[most], self._once_s) + attention + ends_s
        second = np.maximum(fresh * floored[most], self._floor(np.ones(1, dtype=np.int64))[0])
        return ROUNDING * (first + begins_s), ROUNDING * (second + begins_s)

    @cached_property
    def _once_s(self) -> float:
        return float(self.tokens_s[1]) if len(self.tokens_s) > 1 else 0.0

    @cached_property
    def _rates(self) -> tuple[Floats, Floats]:
        """Least seconds a token of chunks with up to so many tokens: of the device, and where
        launches and the host hold steps up. Both include the host's time for tokens."""
        sizes, device = self.planned_s
        token_s = (1.0 - self.parts.overlap) * self.parts.host_s[2]
        floored = np.maximum(device, self._floor(sizes))
        found = []
        for seconds in (device, floored):
            rate = np.minimum.accumulate(seconds / sizes)
            if self.setting.whole:  # beyond the table
                rate[-1] = min(rate[-1], self.arithmetic_s / self.parts.ranks)
            found.append(np.concatenate([rate[:1], rate]) + token_s)
        return found[0], found[1]

    @property
    def _chunk(self) -> int:
        """Most tokens of a chunk that the table knows."""
        return min(self.setting.budget, self._most_tokens * self.parts.ranks)

    def _floor(self, tokens: Ints) -> Floats:
        """Least device seconds of steps with prompts and so many tokens or more."""
        parts = self.parts
        step_s, seq_s, token_s = parts.host_s
        within = (tokens <= parts.largest_graph * parts.ranks) & parts.mixed_graphs
        launch = np.where(within, min(parts.piece_s, parts.launch_s), parts.launch_s)
        hidden = parts.overlap * (step_s + seq_s + token_s * tokens)
        floor: Floats = np.maximum(np.maximum(launch, hidden), parts.least_s)
        return floor

    def attention_s(self, new: Floats, read: Floats) -> Floats:
        """Of ``new`` tokens that end at ``read``, least. Shapes (requests,)."""
        past = read - new
        total = np.zeros(len(new))
        if self.parts.full_prompts is not None:
            pairs = new * past + new * (new + 1.0) / 2
            total += self.parts.full_prompts.rates().seconds(new, read, pairs)
        if self.parts.local_prompts is not None:
            near = new + np.minimum(past, self.local_span)
            total += self.parts.local_prompts.rates().seconds(new, near, self.near_pairs(new, read))
        return total

    def near_pairs(self, new: Floats, read: Floats) -> Floats:
        """(query, key) pairs within the local span."""

        def up_to(tokens: Floats) -> Floats:
            span = self.local_span
            if self.local_is_chunked:
                whole, rest = np.divmod(tokens, span)
                pairs: Floats = whole * (span * (span + 1) / 2) + rest * (rest + 1) / 2
                return pairs
            short = np.minimum(tokens, span)
            return np.asarray(short * (short + 1) / 2 + (tokens - short) * span)

        return up_to(read) - up_to(read - new)

    # --- decoding --------------------------------------------------------------------------------

    @cached_property
    def contexts(self) -> Ints:
        """At which the least decode step is known."""
        low, high = self.setting.shortest + 1, max(self.setting.longest, self.setting.shortest + 2)
        return np.unique(np.geomspace(low, high, _CONTEXTS).astype(np.int64))

    @cached_property
    def steps_s(self) -> Floats:
        """Least seconds of a step that gives a token to a sequence with each of ``contexts``."""
        parts, drafts = self.parts, self.parts.drafts
        sequences = np.arange(1, self.setting.sequences + 1)
        tokens = sequences * (1 + drafts)
        device = self._tokens_at(tokens) + self.sampled_s[tokens]
        step_s, seq_s, token_s = parts.host_s
        on_host = step_s + seq_s * sequences + token_s * tokens
        floor = np.maximum(parts.overlap * on_host, parts.least_s)
        floor = np.maximum(floor, parts.emit_s * sequences)
        host = (1.0 - parts.overlap) * on_host
        # Steps whose tokens alone take longer than one sequence by itself are never the least.
        own = self.contexts[-1:]
        alone = max(device[0] + self._looking_back(sequences[:1], own)[0, 0], floor[0]) + host[0]
        some = slice(0, int(np.searchsorted(device + host, alone, side="right")) or 1)
        took = device[some] + self._looking_back(sequences[some], self.contexts)
        steps: Floats = (np.maximum(took, floor[some]) + host[some]).min(axis=1)
        if self.setting.preempts:
            steps = np.minimum(steps, self._recomputed_s())
        return ROUNDING * np.maximum.accumulate(steps)

    @cached_property
    def full(self) -> Lines | None:
        """Attention of decoding sequences in layers that see everything; None without any."""
        return self._lines(self.parts.full)

    @cached_property
    def local(self) -> Lines | None:
        """The same of layers that see what is near."""
        return self._lines(self.parts.local)

    def _lines(self, table: DecodeTable | None) -> Lines | None:
        if table is None:
            return None
        return Lines(np.asarray(table.knots), *table.lines(self.setting.sequences))

    def _looking_back(self, sequences: Ints, contexts: Ints) -> Floats:
        """Attention of ``sequences`` of which one has a context and the others the least. Shape
        (contexts, sequences)."""
        others = self.setting.shortest + 1
        ahead = self.parts.drafts * sequences
        own = contexts[:, None]
        total = np.zeros((len(contexts), len(sequences)))
        if self.full is not None:
            total += _at(self.full, sequences, own + (sequences - 1) * others + ahead)
        if self.local is not None:
            chunked, span = self.local_is_chunked, self.local_span
            own = np.ones_like(own) if chunked else np.minimum(own, span)
            near = 1 if chunked else min(others, span)
            total += _at(self.local, sequences, own + (sequences - 1) * near + ahead)
        return total

    def _recomputed_s(self) -> Floats:
        """The same where the step computes tokens anew, at least one of them."""
        context = self.contexts.astype(np.float64)
        total = np.full(len(context), self._once_s)
        total += self.sampled_s[1] if len(self.sampled_s) > 1 else 0.0
        if self.parts.full_prompts is not None:
            rates = self.parts.full_prompts.rates()
            total += (rates.read[:, None] * context + rates.pair[:, None] * context).max(axis=0)
        step_s, seq_s, token_s = self.parts.host_s
        return total + (1.0 - self.parts.overlap) * (step_s + seq_s + token_s)

    @cached_property
    def run(self) -> LeastRun:
        """Of steps one after the other."""
        return LeastRun(self.contexts, self.steps_s)


class LeastRun:
    """Least seconds of the steps that give a sequence its tokens, by its context.

    Args:
        contexts: ascending.
        steps_s: of a token at each of them, and up to the next one. Shape (contexts,).
    """

    def __init__(self, contexts: Ints, steps_s: Floats) -> None:
        self._contexts = contexts
        self._steps_s = steps_s
        self._sums = np.concatenate([[0.0], np.cumsum(steps_s[:-1] * np.diff(contexts))])

    def seconds(self, prompt: Ints, tokens: Ints) -> Floats:
        """Of ``tokens`` after a prompt and the first token. Shapes (requests,)."""
        return self._up_to(prompt + 1 + tokens) - self._up_to(prompt + 1)

    def _up_to(self, context: Ints) -> Floats:
        ends, steps_s = self._contexts, self._steps_s
        inside: Floats = np.interp(context, ends, self._sums)
        inside += steps_s[0] * np.minimum(context - ends[0], 0)
        inside += steps_s[-1] * np.maximum(context - ends[-1], 0)
        return inside


def _least_from(seconds: Floats) -> Floats:
    """Of each place, the least from there on."""
    found: Floats = np.minimum.accumulate(seconds[::-1])[::-1]
    return found


def _at(lines: Lines, sequences: Ints, context: Ints) -> Floats:
    """Seconds for so many sequences with so much context in all; shapes (sequences,) and
    (contexts, sequences)."""
    knots, values, slopes = lines
    each = context / sequences
    place = np.clip(np.searchsorted(knots, each, side="right") - 1, 0, len(knots) - 1)
    row = sequences - 1
    found: Floats = values[row, place] + slopes[row, place] * (context - knots[place] * sequences)
    return found
