"""How a request on a live deployment began and went."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan, nan

from simulator.cluster.recorder import Recorder
from simulator.results.record import COMPLETED, FAILED, LANES_APART, REJECTED, UNFINISHED

OUTCOMES = {COMPLETED: "completed", REJECTED: "rejected", FAILED: "failed", UNFINISHED: "cancelled"}


@dataclass(frozen=True, slots=True)
class Beginning:
    """A request's first token has come.

    Args:
        number: of the request.
        ttft_s: from sending to when its client hears of the token.
        replica: whose token it is.
        prompt_replica: which one computed the prompt.
        prompt_tokens, cached_tokens: length of the prompt, and what the prefix cache had of it.
    """

    number: int
    ttft_s: float
    replica: int
    prompt_replica: int
    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Ending:
    """Times are seconds of the deployment's clock, NaN for what never happened.

    Args:
        outcome: ``completed``; ``rejected`` by admission control or a full gateway; ``failed``
            because its replica crashed; ``cancelled``.
        sent_s: the client sent it.
        queued_s: it reached a replica's queue.
        start_s: work on it began.
        first_token_s, finish_s: its first and last token reached the client.
        prompt_tokens, output_tokens: its lengths; of one that is not completed, what it would
            have got.
        cached_tokens: of the prompt, found in the prefix cache.
        preemptions: how often it lost its KV blocks.
        replica: which one served it last, -1: none.
    """

    outcome: str
    sent_s: float
    queued_s: float
    start_s: float
    first_token_s: float
    finish_s: float
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    preemptions: int
    replica: int

    @property
    def ttft_s(self) -> float:
        """From sending to the first token."""
        return self.first_token_s - self.sent_s

    @property
    def e2e_s(self) -> float:
        """From sending to the last token."""
        return self.finish_s - self.sent_s

    @property
    def tpot_s(self) -> float:
        """Mean time of an output token after the first; NaN if there is only one."""
        if self.output_tokens < 2:
            return nan
        return (self.finish_s - self.first_token_s) / (self.output_tokens - 1)


def ending_of(recorder: Recorder, index: int, prompt_tokens: int, output_tokens: int) -> Ending:
    """What the recorder knows of a request."""
    finish_s = recorder.finish_s[index]
    outcome = recorder.outcome[index] if isnan(finish_s) else COMPLETED
    replica = recorder.replica[index]
    return Ending(
        outcome=OUTCOMES[outcome],
        sent_s=recorder.sent_s[index],
        queued_s=recorder.queued_s[index],
        start_s=recorder.start_s[index],
        first_token_s=recorder.first_token_s[index],
        finish_s=finish_s,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        cached_tokens=max(0, recorder.cached[index]),
        preemptions=recorder.preemptions[index],
        replica=replica if replica < 0 else replica % LANES_APART,
    )
