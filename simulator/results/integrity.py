"""Conservation laws that every run must obey, whatever was simulated."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from simulator.results.record import (
    COMPLETED,
    OUTCOMES,
    REJECTED,
    TIMED_OUT,
    UNFINISHED,
    RunRecord,
)

_TICK = 1e-9
"""Relative and absolute slack for sums of times in floating point, seconds."""


def check_integrity(record: RunRecord) -> None:
    """Raises a ValueError that names every law the record breaks, and an example of each."""
    broken = list(violations(record))
    if broken:
        raise ValueError("the record breaks conservation laws: " + "; ".join(broken))


def violations(record: RunRecord) -> Iterator[str]:
    """Every law that the record breaks, as a clause with the first request or row concerned."""
    yield from _outcomes(record)
    yield from _order_of_times(record)
    yield from _tokens(record)
    yield from _steps(record)


def _outcomes(record: RunRecord) -> Iterator[str]:
    outcome, output = record.outcome, record.requests.output_tokens
    known = (outcome >= 0) & (outcome < len(OUTCOMES))
    yield from _all(known, "request {} has an unknown outcome")
    completed = outcome == COMPLETED
    sent = np.isfinite(record.sent_s)
    yield from _all(completed == np.isfinite(record.finish_s), "request {} ended without finishing")
    yield from _all(
        ~completed | (record.generated == output), "request {} completed with tokens missing"
    )
    yield from _all(
        (record.generated >= 0) & (record.generated <= output), "request {} has too many tokens"
    )
    yield from _all(sent | (outcome == UNFINISHED), "request {} ended but was never sent")
    if not record.interrupted:
        yield from _all(~sent | (outcome != UNFINISHED), "request {} was sent and never ended")
    served = (record.replica >= 0) & (record.replica < record.replicas)
    needs = completed | ((outcome == TIMED_OUT) & np.isfinite(record.queued_s))
    yield from _all(~needs | served, "request {} was served by no replica")
    rejected = outcome == REJECTED
    yield from _all(~rejected | (record.generated == 0), "request {} was rejected and has tokens")
    cached = record.cached_tokens
    yield from _all(
        (cached >= 0) & (cached <= record.requests.input_tokens), "request {} has too many hits"
    )
    yield from _all(record.preemptions >= 0, "request {} has negative preemptions")


def _order_of_times(record: RunRecord) -> Iterator[str]:
    names = ("sent", "queued", "started", "first token", "finished")
    columns = (
        record.sent_s, record.queued_s, record.start_s, record.first_token_s, record.finish_s
    )  # fmt: skip
    slack = _TICK * (1 + record.end_s)
    completed = record.outcome == COMPLETED
    resumed = np.zeros(len(completed), dtype=np.bool_)
    if record.lives is not None and record.lives.resumes:
        resumed[record.lives.lost.request] = True
    for (before, early), (after, late) in pairwise(zip(names, columns, strict=True)):
        # An answer that went on elsewhere began before its last replica saw the request.
        free = ~completed | (resumed & (after == "first token"))
        yield from _all(free | (early <= late + slack), f"request {{}}: {after} before {before}")
    yield from _all(
        ~np.isfinite(record.sent_s) | (record.sent_s >= 0), "request {} was sent before the start"
    )


def _tokens(record: RunRecord) -> Iterator[str]:
    steps = record.steps
    came = int(steps.tokens.sum())
    came += int(record.gaps.count.sum())
    landed = 0 if record.stages is None else int(np.isfinite(record.stages.landed_s).sum())
    came += landed
    lost = None if record.lives is None else record.lives.lost
    delivered = int(record.generated.sum())
    thrown_away = 0 if lost is None else int(lost.tokens.sum())
    # What an interrupted run was working on has tokens in the steps and not yet in the requests.
    known = delivered + thrown_away
    if came < known or (came > known and not record.interrupted):
        also = f" and {thrown_away} were thrown away" if thrown_away else ""
        yield f"steps gave {came} output tokens, requests got {delivered}{also}"
    first = int(steps.first_tokens.sum()) + landed
    started = int(np.isfinite(record.first_token_s).sum())
    started += 0 if lost is None else lost.first_tokens
    if first != started:
        yield f"steps gave {first} first tokens, requests got {started}"
    wasted = (steps.wasted_tokens >= 0) & (steps.wasted_tokens <= steps.prefill_tokens)
    yield from _all(wasted, "step row {} wastes more tokens than it computes")
    yield from _prompt_tokens(record)


def _prompt_tokens(record: RunRecord) -> Iterator[str]:
    """Every prompt is computed once, less what the cache held. Only runs in which nobody gave up,
    was preempted or lost its replica obey it exactly: half-computed prompts show in no request."""
    whole = (record.outcome == COMPLETED) | (record.outcome == REJECTED)
    whole |= ~np.isfinite(record.sent_s)
    lost = record.lives is not None and len(record.lives.lost.request) > 0
    if record.interrupted or not whole.all() or record.preemptions.any() or lost:
        return
    needed = record.requests.input_tokens - record.cached_tokens
    wanted = int(needed[record.outcome == COMPLETED].sum())
    steps = record.steps
    computed = int((steps.prefill_tokens - steps.wasted_tokens).sum())
    if computed != wanted:
        yield f"steps computed {computed} prompt tokens, requests needed {wanted}"


def _steps(record: RunRecord) -> Iterator[str]:
    steps = record.steps
    if not len(steps):
        return
    last = steps.first_s + (steps.steps - 1) * steps.slope_s
    yield from _all(steps.steps >= 1, "step row {} stands for no step")
    yield from _all((steps.first_s >= 0) & (last >= 0), "step row {} has a negative duration")
    yield from _all(
        (steps.kv_blocks >= 0) & (steps.kv_blocks <= record.blocks_of(steps.replica)),
        "step row {} uses more KV blocks than there are",
    )
    yield from _all((steps.waiting >= 0) & (steps.running >= 0), "step row {} has a negative queue")
    yield from _all(
        (steps.replica >= 0) & (steps.replica < record.replicas), "step row {} has no replica"
    )
    # Lanes of a replica overlap in time, steps of one lane do not.
    order = np.lexsort((steps.start_s, steps.lane, steps.replica))
    start, end = steps.start_s[order], (steps.start_s + steps.duration_s)[order]
    same = (np.diff(steps.replica[order]) == 0) & (np.diff(steps.lane[order]) == 0)
    slack = _TICK * (1 + record.end_s)
    clear = np.ones(len(order), dtype=np.bool_)
    clear[order[1:]] = ~same | (start[1:] + slack >= end[:-1])
    yield from _all(clear, "step row {} starts before the one before it ended")
    yield from _all(
        steps.start_s + steps.duration_s <= record.end_s + slack, "step row {} ends after the run"
    )


def _all(holds: npt.NDArray[np.bool_], complaint: str) -> Iterator[str]:
    """The complaint with the first index for which the law does not hold, and their number."""
    wrong = np.flatnonzero(~holds)
    if len(wrong):
        more = f" ({len(wrong)} in all)" if len(wrong) > 1 else ""
        yield complaint.format(int(wrong[0])) + more
