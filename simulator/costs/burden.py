"""The least time that work takes of a replica, in whatever batches it is done.

The time of a step is bounded from below by straight lines, so that sums over the steps become sums
over the work, however it was cut into steps:

- what depends on the tokens m of a step is at least α + β·m. A step gives decoding sequences M
  tokens at most, so O of them take at least O/M steps, and u prompt tokens with them

      busy ≥ β · (u + O) + α · O / M;

- attention is at least δ for each decoding sequence and γ for each token of context, and for
  prompts what ``PromptRates`` says;
- logits are at least σ a sampled sequence.

Several lines hold; of those tried, the ones that say most of the traffic as a whole are taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import reduce

import numpy as np

from simulator.costs.least import ROUNDING, LeastSteps, Lines
from simulator.costs.least_requests import Least
from simulator.costs.protocol import Floats
from simulator.costs.stretches import PromptAttention

_SLOPES = 9


@dataclass(frozen=True, slots=True)
class Work:
    """What requests ask of a replica; one column of numbers each, or sums. Shapes (requests,).

    ``new`` prompt tokens are computed, after ``past``; ``pairs`` of query and key within the
    prompt, ``near`` of them in local layers; ``later`` tokens follow the first one, with
    ``context`` tokens to look back at in all, ``near_context`` in local layers.
    """

    new: Floats
    past: Floats
    pairs: Floats
    near: Floats
    later: Floats
    context: Floats
    near_context: Floats

    @staticmethod
    def of(steps: LeastSteps, prompt: Floats, past: Floats, later: Floats) -> Work:
        """The work of requests; ``past``: prompt tokens that need not be computed."""
        new = prompt - past
        span = steps.local_span
        near = near_context = np.zeros(len(new))
        if span:
            near = steps.near_pairs(new, prompt)
            near_context = later if steps.local_is_chunked else _cut_sum(prompt, later, span)
        return Work(
            new, past, new * past + new * (new + 1.0) / 2, near,
            later, later * prompt + later * (later + 1.0) / 2, near_context,
        )  # fmt: skip


def _cut_sum(prompt: Floats, later: Floats, span: int) -> Floats:
    """Sum of min(prompt + j, span) for j from 1 to ``later``."""
    growing = np.clip(span - prompt, 0.0, later)
    total: Floats = growing * prompt + growing * (growing + 1.0) / 2 + (later - growing) * span
    return total


@dataclass(frozen=True, slots=True)
class Burden:
    """Least seconds of a replica for each unit of ``Work``; ``request``: of each request."""

    request: float = 0.0
    new: float = 0.0
    past: float = 0.0
    pairs: float = 0.0
    near: float = 0.0
    later: float = 0.0
    context: float = 0.0
    near_context: float = 0.0

    def first_s(self, work: Work) -> Floats:
        """Up to the first token. Shape (requests,)."""
        total: Floats = (
            self.request + self.new * work.new + self.past * work.past
            + self.pairs * work.pairs + self.near * work.near
        )  # fmt: skip
        return ROUNDING * total

    def later_s(self, work: Work) -> Floats:
        """After it. Shape (requests,)."""
        total: Floats = (
            self.later * work.later + self.context * work.context
            + self.near_context * work.near_context
        )  # fmt: skip
        return ROUNDING * np.maximum(total, 0.0)

    def __add__(self, other: Burden) -> Burden:
        return Burden(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Burden)))

    def scaled(self, factor: float) -> Burden:
        """All of it times a factor."""
        return Burden(*(factor * getattr(self, f.name) for f in fields(Burden)))

    def least(self, other: Burden) -> Burden:
        """What holds where steps are of either kind."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(Burden))
        return Burden(*(min(pair) for pair in pairs))


def burdens(least: Least, prompt: Floats, past: Floats, later: Floats) -> list[tuple[Burden, Work]]:
    """Least seconds of each machine of a replica that works on one step at a time: of its devices,
    or of every kind of stage.

    Args:
        least: the replica.
        prompt, past, later: see ``Work.of``.
    """
    found = []
    for modes in least.machines:
        work = Work.of(modes[0][0], prompt, past, later)
        each = [burden(steps, work, gain) for steps, gain in modes]
        found.append((reduce(Burden.least, each).scaled(1.0 / least.ranks), work))
    return found


def burden(steps: LeastSteps, work: Work, gain: int = 1) -> Burden:
    """Least seconds of the work, of the lines that hold those that say most of all of it.

    Args:
        steps: least times of steps.
        work: of the traffic as a whole.
        gain: most tokens that a step gives a decoding sequence.
    """

    def said(found: Burden) -> float:
        return float((found.first_s(work) + found.later_s(work)).sum())

    attention = [_prompts(steps), _decoding(steps, gain)]
    parts = [max(each, key=said) for each in attention]
    device = max(_tokens(steps, work, gain, held_up=False), key=said) + _logits(steps, gain)
    for part in parts:
        device = device + part
    found = [device, *_tokens(steps, work, gain, held_up=True), _emitted(steps)]
    return max(found, key=said) + _sequences(steps, gain)


def _tokens(steps: LeastSteps, work: Work, gain: int, *, held_up: bool) -> Iterator[Burden]:
    """What depends on the tokens of steps alone; ``held_up``: with the least times that the host
    and the links set, on which nothing may be added that hides behind them."""
    parts = steps.parts
    sizes, device = steps.planned_s
    step_s, _, token_s = parts.host_s
    exposed = 1.0 - parts.overlap
    if held_up:
        least = np.maximum(parts.overlap * (step_s + token_s * sizes), parts.least_s)
        if (least <= device).all():
            return
        device = np.maximum(device, least)
    seconds = device + exposed * (step_s + token_s * sizes)
    most = float((seconds / sizes).min())
    slopes = np.linspace(0.0, most, _SLOPES)
    if steps.setting.whole:
        arithmetic = steps.arithmetic_s / parts.ranks
        slopes = np.array([0.0, min(arithmetic, most)])
    starts = np.maximum((seconds - slopes[:, None] * sizes).min(axis=1), 0.0)
    if steps.setting.whole:
        starts[1] = 0.0
    width = 1 + parts.drafts
    sequences = steps.setting.sequences
    decoding = bool(work.later.sum())
    for slope, start in zip(slopes.tolist(), starts.tolist(), strict=True):
        later = slope * width / gain + start / (sequences * gain)
        # Without decoding, it is the budget that says how many steps there are.
        alone = 0.0 if decoding or steps.setting.whole else start / steps.setting.budget
        yield Burden(new=slope + alone, later=later)


def _logits(steps: LeastSteps, gain: int) -> Burden:
    sampled = steps.sampled_s[1:]
    each = float((sampled / np.arange(1, len(sampled) + 1)).min()) if len(sampled) else 0.0
    return Burden(request=each, later=each * (1 + steps.parts.drafts) / gain)


def _emitted(steps: LeastSteps) -> Burden:
    """No step is shorter than its tokens take the front end."""
    each = steps.parts.emit_s if not steps.parts.drafts else 0.0
    return Burden(request=each, later=each)


def _sequences(steps: LeastSteps, gain: int) -> Burden:
    """The host's time for each sequence of a step, as far as nothing hides it."""
    each = (1.0 - steps.parts.overlap) * steps.parts.host_s[1]
    return Burden(request=each, later=each / gain)


def _prompts(steps: LeastSteps) -> Iterator[Burden]:
    full, local = steps.parts.full_prompts, steps.parts.local_prompts
    for line in range(3):
        yield _line(full, line) + _near(local, line)


def _line(prompts: PromptAttention | None, line: int) -> Burden:
    if prompts is None:
        return Burden()
    rates = prompts.rates()
    new, past, read, pair = (
        float(each[line]) for each in (rates.new, rates.past, rates.read, rates.pair)
    )
    return Burden(new=new + read, past=past + read, pairs=pair)


def _near(prompts: PromptAttention | None, line: int) -> Burden:
    """Of what a chunk reads in local layers, only its own tokens count."""
    if prompts is None:
        return Burden()
    rates = prompts.rates()
    new = float(rates.new[line] + rates.read[line])
    return Burden(new=new, near=float(rates.pair[line]))


def _decoding(steps: LeastSteps, gain: int) -> Iterator[Burden]:
    for apart in (False, True):
        found = Burden()
        if steps.full is not None:
            each, token = _slopes(steps.full, apart=apart)
            found += Burden(later=each / gain, context=token / gain)
        if steps.local is not None:
            each, token = _slopes(steps.local, apart=apart)
            found += Burden(later=each / gain, near_context=token / gain)
        if gain > 1:
            # The tokens of a step share what its sequence looks back at from the first of them.
            lost = (gain - 1) * (found.context + found.near_context)
            found = replace(found, later=found.later - lost)
        if steps.setting.preempts:
            found = _or_recomputed(steps, found)
        yield found


def _slopes(lines: Lines, *, apart: bool) -> tuple[float, float]:
    """Least seconds of a decoding sequence, and of a token of its context; with ``apart`` the first
    is what there is without context, otherwise nothing."""
    knots, values, slopes = lines
    sequences = np.arange(1.0, len(values) + 1)[:, None]
    without = values[:, :1] if apart else np.zeros((len(values), 1))
    each = float((without / sequences).min())
    token = float(slopes[:, -1].min())
    if len(knots) > 1:
        rates = (values[:, 1:] - without) / (knots[1:] * sequences)
        token = min(token, float(rates.min()))
    return each, max(token, 0.0)


def _or_recomputed(steps: LeastSteps, found: Burden) -> Burden:
    """The same where a token may come out of a prompt that is computed anew."""
    context = near = 0.0
    if steps.parts.full_prompts is not None:
        rates = steps.parts.full_prompts.rates()
        context = float((rates.read + rates.pair).max())
    return Burden(context=min(found.context, context), near_context=min(found.near_context, near))
