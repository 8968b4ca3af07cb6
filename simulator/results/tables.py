"""Requests and timeline as columns, for DataFrames and files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from simulator.results.lives import STATES, UP
from simulator.results.presence import HELD
from simulator.results.record import OUTCOMES
from simulator.results.slo import has_limits, judge, slo_of_classes

if TYPE_CHECKING:
    from simulator.results.result import Result

Columns = dict[str, npt.NDArray[np.generic]]


def request_columns(result: Result) -> Columns:
    """One row a request; NaN: undefined. ``slo_met`` is there if the scenario gives limits."""
    record, times = result.record, result.times
    requests = record.requests
    columns: Columns = {
        "request": np.arange(len(requests)),
        "class": np.array(requests.classes)[requests.class_id],
        "session": requests.session,
        "replica": record.replica,
        "outcome": np.array(OUTCOMES)[record.outcome],
        "counted": result.window.counted,
        "input_tokens": requests.input_tokens,
        "output_tokens": requests.output_tokens,
        "generated_tokens": record.generated,
        "cached_tokens": record.cached_tokens,
        "preemptions": record.preemptions,
        "sent_s": record.sent_s,
        "queued_s": record.queued_s,
        "start_s": record.start_s,
        "first_token_s": record.first_token_s,
        "finish_s": record.finish_s,
        "queueing_ms": times.queueing_ms,
        "ttft_ms": times.ttft_ms,
        "tpot_ms": times.tpot_ms,
        "e2e_ms": times.e2e_ms,
        "normalized_ms_per_token": times.normalized_ms,
    }
    if requests.answers is not None:
        columns |= {
            "answer_to": requests.answers.lead,
            "delivered": requests.answers.delivered,
            "thinking_tokens": requests.answers.thinking,
            "truncated": requests.answers.truncated,
            "answer_s": times.answer_s,
            "ttfat_ms": times.ttfat_ms,
        }
    if any(has_limits(slo) for slo in slo_of_classes(result.deployment.scenario).values()):
        columns["slo_met"] = judge(result.deployment, times).met
    return columns


def timeline_columns(result: Result) -> Columns:
    """One row a stretch of ``steps`` equal steps of a replica, or of the lane of one that has
    several (then there is a column ``lane``); ``running`` and so on are those at its end,
    ``step_s`` and ``step_growth_s`` the first step's duration and its growth a step."""
    record = result.record
    steps = record.steps
    lane = {} if record.lane is None else {"lane": steps.lane}
    return {
        "replica": steps.replica,
        **lane,
        "start_s": steps.start_s,
        "end_s": steps.start_s + steps.duration_s,
        "steps": steps.steps,
        "step_s": steps.first_s,
        "step_growth_s": steps.slope_s,
        "decode_sequences": steps.decode,
        "prefill_sequences": steps.prefill,
        "prefill_tokens": steps.prefill_tokens,
        "wasted_tokens": steps.wasted_tokens,
        "first_tokens": steps.first_tokens,
        "decode_tokens": steps.steps * steps.gap_tokens + steps.accepted_tokens,
        "running": steps.running,
        "waiting": steps.waiting,
        "kv_blocks": steps.kv_blocks,
        "kv_tokens": steps.kv_tokens,
        "kv_use": steps.kv_blocks / record.blocks_of(steps.replica),
    }


def replicas_columns(result: Result) -> Columns:
    """One row a change of a replica's state, with how many of its pool were held and up after it;
    no row where all are up all the time."""
    record, lives = result.record, result.record.lives
    if lives is None:
        empty = np.zeros(0)
        return {"at_s": empty, "pool": empty, "replica": empty, "state": empty, "held": empty,
                "up": empty}  # fmt: skip
    ends = [group.end for group in record.groups]
    pool = np.searchsorted(ends, lives.replica, side="right")
    held, up = np.zeros(len(pool), np.int64), np.zeros(len(pool), np.int64)
    for number, group in enumerate(record.groups):
        mine = pool == number
        for column, states in ((held, HELD), (up, (UP,))):
            times, values = lives.counts(states, np.inf, range(group.first, group.end))
            column[mine] = values[np.searchsorted(times, lives.at_s[mine], side="right") - 1]
    return {
        "at_s": lives.at_s,
        "pool": np.array([group.name for group in record.groups])[pool],
        "replica": lives.replica,
        "state": np.array(STATES)[lives.state],
        "held": held,
        "up": up,
    }
