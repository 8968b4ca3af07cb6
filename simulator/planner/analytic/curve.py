"""How a replica's pace depends on how many sequences it decodes, from a few steps of its cost
model."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from simulator.cluster.groups import lanes_of
from simulator.costs.protocol import Chunk
from simulator.planner.analytic.alone import AloneTimes
from simulator.scenario.policies import DynamicPolicy, StaticPolicy
from simulator.workload.requests import Floats

_SIZES = 20
_PROMPTS = np.array([0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
"""Quantiles of the prompts at which steps with prompts are priced."""
_WEIGHTS = np.array([0.15, 0.225, 0.25, 0.225, 0.12, 0.03])


class Curve:
    """A replica in a steady state, by the number of sequences that decode. Shapes (sizes,) unless
    said; the first size is 0.

    Args:
        alone: the replica and its traffic.
    """

    def __init__(self, alone: AloneTimes) -> None:
        pool, requests = alone.pool, alone.traffic.requests
        self._cost = pool.resolved.cost
        self._limits = pool.deployment.limits
        self._speculation = self._limits.speculation
        self.lanes = lanes_of(self._cost)
        past = alone.past
        self.prompts: Floats = (requests.input_tokens - past).astype(np.float64)
        self._past = int(past.mean())
        later = (requests.output_tokens - 1).astype(np.float64)
        self.later = float(later.mean())
        """Tokens after the first one, mean."""
        weight = max(float(later.sum()), 1.0)
        looked = later * requests.input_tokens + later * (later + 1) / 2
        self._context = float(looked.sum()) / weight if later.any() else float(self.prompts.mean())
        layout = pool.resolved.layout
        kept = max(1, int(self._context) - self._past)
        room = layout.blocks // max(1, layout.blocks_for(kept))
        self.most = max(1, min(alone.running - self.lanes, room))
        """Sequences that decode at once at the most, as KV memory and limits have it."""
        each = max(1, self.most // self.lanes)
        self._role = pool.role
        if pool.role == "prefill":
            self.later, each = 0.0, 1
        self._sizes = np.unique(np.geomspace(1, each, _SIZES).round().astype(np.int64))
        self.sequences: Floats = np.concatenate([[0.0], self.lanes * self._sizes])
        self._quantiles = np.quantile(self.prompts, _PROMPTS)

    @cached_property
    def _decode_s(self) -> Floats:
        """Step without prompts. Shape (sizes - 1,)."""
        return np.array([self._cost.decode(n, *self._back(n), 0)[0] for n in self._sizes.tolist()])

    def _back(self, sequences: int) -> tuple[int, int]:
        """What so many sequences look back at, in all and in local layers."""
        span = self._cost.local_span
        near = min(self._context, span / 2 if self._cost.local_is_chunked else span)
        return int(sequences * self._context), int(sequences * near)

    @cached_property
    def gap_s(self) -> Floats:
        """Between two tokens of a sequence where no prompts come in between."""
        gain = np.ones(len(self._sizes))
        if self._speculation is not None:
            drafted = 1.0 + float(np.cumprod(self._speculation.acceptance).sum())
            gain = np.where(self._sizes <= self._speculation.max_batch, drafted, 1.0)
        gaps = self._decode_s / gain
        return np.concatenate([gaps[:1], gaps])

    @cached_property
    def _prompt_s(self) -> tuple[Floats, Floats]:
        """Steps that compute a prompt beside the decoding sequences, and by how much longer they
        are than without it; by sizes and quantiles of the prompts."""
        policy = self._limits.policy
        whole = isinstance(policy, StaticPolicy | DynamicPolicy)
        apart = whole or policy.kind == "prefill_first" or self._role == "prefill"
        budget = self._limits.max_num_batched_tokens
        first, extra = (np.zeros((len(self._sizes), len(_PROMPTS))) for _ in range(2))
        if self._role == "decode":
            return first, extra
        for i, sequences in enumerate(self._sizes.tolist()):
            beside = 0 if apart else sequences
            context, near = (0, 0) if apart else self._back(sequences)
            room = int(max(self._quantiles[-1], 1)) if whole else max(1, budget - beside)
            for j, prompt in enumerate(self._quantiles.tolist()):
                left, past, steps = max(1, round(prompt)), self._past, 0
                while left:
                    new = min(left, room)
                    left -= new
                    first[i, j] += self._cost.step(
                        beside, context, near, [Chunk(new, past)], beside + (0 if left else 1)
                    )
                    past, steps = past + new, steps + 1
                unspent = 0.0 if apart else steps * float(self._decode_s[i])
                extra[i, j] = max(first[i, j] - unspent, 0.0)
        return first, extra

    def first_s(self, at: Floats, share: float | None) -> Floats:
        """Steps up to the first token with so many decoding sequences, of a prompt in the middle of
        all, or than which the ``share`` is shorter. Shape as ``at``."""
        first = self._prompt_s[0]
        column = first @ _WEIGHTS
        if share is not None:
            column = np.array([np.interp(share, _PROMPTS, row) for row in first])
        found: Floats = np.interp(at, self.sequences, np.concatenate([column[:1], column]))
        return found

    @cached_property
    def extra_s(self) -> Floats:
        """By how much longer a prompt makes the steps of a lane, mean over the prompts."""
        found = self._prompt_s[1] @ _WEIGHTS / self.lanes
        return np.concatenate([found[:1], found])

    @cached_property
    def extra_squared(self) -> Floats:
        """Mean of the square of the same."""
        found = self._prompt_s[1] ** 2 @ _WEIGHTS / self.lanes
        return np.concatenate([found[:1], found])

    @cached_property
    def rate_per_s(self) -> Floats:
        """Requests/s with which so many sequences decode on average: each stays for its tokens, and
        every request's prompt holds up all others (Little's law, solved for the rate)."""
        stay = self.later * self.gap_s + self.sequences * self.extra_s
        rate: Floats = self.sequences / np.maximum(stay, 1e-12)
        return np.maximum.accumulate(rate)

    @property
    def most_per_s(self) -> float:
        """Requests/s that one replica can serve."""
        return float(self.rate_per_s[-1])

    def at_rate(self, rate_per_s: Floats) -> Floats:
        """Sequences that decode where so many requests come. Shape as given."""
        found: Floats = np.interp(rate_per_s, self.rate_per_s, self.sequences)
        return found

    def with_users(self, users: Floats, away_s: float) -> Floats:
        """Sequences that decode where so many requests are under way or pause for ``away_s``. Shape
        as given."""
        held = self.sequences + self.rate_per_s * away_s
        found: Floats = np.interp(users, held, self.sequences)
        return found
