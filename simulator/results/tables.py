"""Requests and timeline as columns, for DataFrames and files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

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
