"""Least times of requests on replicas of every kind: in one piece, in stages, with drafts."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np

from simulator.costs.least import ROUNDING, LeastRun, LeastSteps, Setting
from simulator.costs.lockstep import LockstepCostModel
from simulator.costs.pipeline import PipelineCostModel
from simulator.costs.protocol import Floats, Ints
from simulator.costs.replica import ReplicaCost
from simulator.costs.speculative import SpeculativeCost


class Least(Protocol):
    """Least times of requests on one replica."""

    ranks: int
    """Schedulers whose steps run on different devices at the same time."""

    @property
    def machines(self) -> list[list[tuple[LeastSteps, int]]]:
        """What works on one step at a time: the kinds of steps that it does, and the most tokens
        that one of each kind gives a decoding sequence."""
        ...

    def prompt_s(self, new: Ints, past: Ints) -> Floats:
        """Least seconds of the steps that compute ``new`` tokens after ``past`` of one request.
        Shapes (requests,)."""
        ...

    def decode_s(self, prompt: Ints, tokens: Ints) -> Floats:
        """Least seconds of the steps that give ``tokens`` after the first one. Shapes
        (requests,)."""
        ...


class _OneStage:
    """Of replicas whose steps are those of one model."""

    def __init__(self, steps: LeastSteps, ranks: int = 1) -> None:
        self.steps = steps
        self.ranks = ranks

    @property
    def machines(self) -> list[list[tuple[LeastSteps, int]]]:
        """See ``Least``."""
        return [[(self.steps, 1)]]

    def prompt_s(self, new: Ints, past: Ints) -> Floats:
        """See ``Least``."""
        return np.maximum(*self.steps.prompt_s(new, past))

    def decode_s(self, prompt: Ints, tokens: Ints) -> Floats:
        """See ``Least``."""
        return self.steps.run.seconds(prompt, tokens)


class _Stages:
    """Of replicas in stages, which every step passes one after the other."""

    def __init__(self, cost: PipelineCostModel, setting: Setting) -> None:
        self.kinds = [_OneStage(LeastSteps(model, setting)) for model in cost.models]
        self.stages = [self.kinds[number] for number in cost.model_of]
        self.ranks = 1
        self._lag = sum(cost.lags)
        self._per_token = sum(way.seconds_per_token for way in cost.ways)

    @property
    def machines(self) -> list[list[tuple[LeastSteps, int]]]:
        """See ``Least``."""
        return [[(kind.steps, 1)] for kind in self.kinds]

    def prompt_s(self, new: Ints, past: Ints) -> Floats:
        """See ``Least``."""
        own = sum((stage.prompt_s(new, past) for stage in self.stages), np.zeros(len(new)))
        return own + ROUNDING * (self._lag + self._per_token * new)

    def decode_s(self, prompt: Ints, tokens: Ints) -> Floats:
        """See ``Least``."""
        own = sum((stage.decode_s(prompt, tokens) for stage in self.stages), np.zeros(len(tokens)))
        return own + ROUNDING * (self._lag + self._per_token) * tokens


class _Speculative:
    """Of replicas that speculate: at best, all drafts are accepted that ever are."""

    def __init__(self, cost: SpeculativeCost, setting: Setting, gain: int) -> None:
        plain, verify = cost.models
        self.plain = LeastSteps(plain, setting)
        self.verify = LeastSteps(
            verify, replace(setting, sequences=min(setting.sequences, cost.max_batch))
        )
        self._all_draft = cost.max_batch >= setting.sequences
        each_s = self.verify.steps_s / gain
        if not self._all_draft:
            each_s = np.minimum(each_s, self.plain.steps_s)
        self._run = LeastRun(self.plain.contexts, each_s)
        self._gain = gain
        self.ranks = 1

    @property
    def machines(self) -> list[list[tuple[LeastSteps, int]]]:
        """See ``Least``."""
        kinds = [(self.verify, self._gain)]
        return [kinds if self._all_draft else [*kinds, (self.plain, 1)]]

    def prompt_s(self, new: Ints, past: Ints) -> Floats:
        """See ``Least``."""
        found = [self.verify.prompt_s(new, past)]
        if not self._all_draft:
            found.append(self.plain.prompt_s(new, past))
        first, second = (np.minimum.reduce(list(each)) for each in zip(*found, strict=True))
        longer: Floats = np.maximum(first, second)
        return longer

    def decode_s(self, prompt: Ints, tokens: Ints) -> Floats:
        """See ``Least``. A token costs its share of a step that may have begun ``gain`` - 1 tokens
        earlier."""
        return self._run.seconds(prompt - self._gain + 1, tokens)


def least_of(cost: ReplicaCost, setting: Setting, gain: int = 1) -> Least:
    """Least times of requests on a replica.

    Args:
        cost: of its steps.
        setting: what steps of one of its schedulers can be like.
        gain: most tokens that a step which drafts gives a sequence.
    """
    if isinstance(cost, PipelineCostModel):
        return _Stages(cost, setting)
    if isinstance(cost, SpeculativeCost):
        return _Speculative(cost, setting, gain)
    ranks = cost.ranks if isinstance(cost, LockstepCostModel) else 1
    return _OneStage(LeastSteps(cost, setting), ranks)
