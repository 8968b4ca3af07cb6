"""How long a request takes at least: alone on an idle replica."""

from __future__ import annotations

from simulator.costs.protocol import Chunk, StepCost
from simulator.deployment import Limits
from simulator.scenario.policies import DynamicPolicy, StaticPolicy


class Alone:
    """Times of single requests, by their lengths; each is worked out once.

    Args:
        cost: duration of a step.
        limits: the token budget.
    """

    def __init__(self, cost: StepCost, limits: Limits) -> None:
        self._cost = cost
        batches = isinstance(limits.policy, StaticPolicy | DynamicPolicy)
        self._budget = limits.max_model_len if batches else limits.max_num_batched_tokens
        self._prefill: dict[int, float] = {}

    def prefill_s(self, prompt: int) -> float:
        """From the start of the first step to the end of the prompt."""
        known = self._prefill.get(prompt)
        if known is not None:
            return known
        total, past = 0.0, 0
        while past < prompt:
            new = min(self._budget, prompt - past)
            ends = past + new == prompt
            total += self._cost.step(0, 0, 0, [Chunk(new, past)], 1 if ends else 0)
            past += new
        self._prefill[prompt] = total
        return total

    def decode_s(self, prompt: int, tokens: int) -> float:
        """At least, for ``tokens`` after the first one: as if the context did not grow."""
        if tokens <= 0:
            return 0.0
        span = self._cost.local_span
        local = 0
        if span:
            local = prompt % span + 1 if self._cost.local_is_chunked else min(prompt + 1, span)
        return tokens * self._cost.decode(1, prompt + 1, local, 0)[0]
