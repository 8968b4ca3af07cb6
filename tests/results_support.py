"""Records made by hand, and an accountant whose prices are easy to compute in one's head."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np

from simulator.deployment import ResolvedDeployment
from simulator.engines.profile import FrontEnd
from simulator.resolve import resolve
from simulator.results import Result
from simulator.results.record import Gaps, RunRecord, StepTable, StepWork
from simulator.scenario.scenario import Scenario
from simulator.workload.requests import OPEN_LOOP, ROOT, Requests

RESPONSE_S = 0.1
NAN = float("nan")


class FakeAccountant:
    """100 W and 10 FLOP a busy second, 40 W idle; 30 FLOP/s and 400 bytes/s are the peaks; prompt
    steps are bound by compute, 3/4 of their time in matmul; others by memory."""

    peak_flops = 30.0
    peak_bytes_per_s = 400.0
    idle_w = 40.0

    def account(self, steps: StepTable) -> StepWork:
        busy = steps.duration_s
        prompts = steps.prefill > 0
        return StepWork(
            model_flops=10.0 * busy,
            hbm_bytes=100.0 * busy,
            link_bytes=1e9 * busy,
            energy_j=100.0 * busy,
            operator_s={"matmul": np.where(prompts, 0.75, 0.25) * busy,
                        "attention": np.where(prompts, 0.25, 0.75) * busy},
            resource_s={"compute": np.where(prompts, busy, 0.0),
                        "memory": np.where(prompts, 0.0, busy)},
        )  # fmt: skip


def scenario(**changes: Any) -> Scenario:
    base: dict[str, Any] = {
        "name": "by-hand",
        "model": "llama-3.1-8b",
        "hardware": "h100-sxm",
        "engine": {"profile": "vllm", "prefix_caching": False},
        "workload": {
            "kind": "synthetic",
            "arrivals": {"kind": "poisson", "rate_per_s": 1.0},
            "lengths": {
                "kind": "independent",
                "input": {"kind": "fixed", "tokens": 10},
                "output": {"kind": "fixed", "tokens": 3},
            },
            "requests": 2,
        },
        "measurement": {"warmup_fraction": 0.0, "include_drain": True},
        "cost": {"usd_per_device_hour": 3.6},
        "energy": {"pue": 1.5, "grid_gco2e_per_kwh": 360.0},
    }
    return Scenario.model_validate(base | changes)


def deployment(**changes: Any) -> ResolvedDeployment:
    """Its front end takes RESPONSE_S on the way back and nothing else."""
    resolved = resolve(scenario(**changes)).deployment
    front_end = FrontEnd(request_ms=0.0, response_ms=1e3 * RESPONSE_S)
    overheads = resolved.engine.overheads[-1].model_copy(update={"front_end": front_end})
    engine = resolved.engine.model_copy(update={"overheads": (overheads,)})
    return replace(resolved, engine=engine)


def step_table(*rows: dict[str, Any]) -> StepTable:
    """Columns that a row leaves out are 0 (steps: 1)."""
    floats = ("start_s", "first_s", "slope_s", "stall_s", "context", "local_context", "local_growth",
              "prefill_pairs", "local_pairs", "prefill_context", "kv_tokens")  # fmt: skip
    columns = {}
    for f in fields(StepTable):
        values = [row.get(f.name, 1 if f.name == "steps" else 0) for row in rows]
        columns[f.name] = np.array(values, dtype=float if f.name in floats else np.int64)
    return StepTable(**columns)


def requests(inputs: list[int], outputs: list[int], **changes: Any) -> Requests:
    n = len(inputs)
    columns: dict[str, Any] = {
        "arrival_s": np.zeros(n),
        "input_tokens": np.array(inputs, dtype=np.int64),
        "output_tokens": np.array(outputs, dtype=np.int64),
        "class_id": np.zeros(n, dtype=np.int64),
        "parent": np.full(n, ROOT, dtype=np.int64),
        "pool": np.full(n, OPEN_LOOP, dtype=np.int64),
        "session": np.full(n, -1, dtype=np.int64),
        "source": "by hand",
    }
    return Requests(**(columns | changes))


def two_requests(**changes: Any) -> RunRecord:
    """Request 0 (10 in, 3 out) and request 1 (20 in, 2 out) on one replica:

    step 1 from 0.5 to 1.0 s: prompt of 0; step 2 from 1.0 to 2.0 s: decodes 0, prompt of 1;
    step 3 from 2.0 to 2.25 s: decodes both. Nothing happens before 0.5 s.
    """
    steps = step_table(
        {"start_s": 0.5, "first_s": 0.5, "prefill": 1, "prefill_tokens": 10, "first_tokens": 1,
         "running": 1, "waiting": 1, "kv_blocks": 1, "kv_tokens": 10},
        {"start_s": 1.0, "first_s": 1.0, "decode": 1, "context": 11, "prefill": 1,
         "prefill_tokens": 20, "first_tokens": 1, "gap_tokens": 1, "running": 2, "kv_blocks": 3,
         "kv_tokens": 31},
        {"start_s": 2.0, "first_s": 0.25, "decode": 2, "context": 33, "gap_tokens": 2,
         "running": 2, "kv_blocks": 4, "kv_tokens": 33},
    )  # fmt: skip
    columns: dict[str, Any] = {
        "requests": requests([10, 20], [3, 2]),
        "sent_s": np.array([0.0, 0.9]),
        "queued_s": np.array([0.1, 0.9]),
        "start_s": np.array([0.5, 1.0]),
        "first_token_s": np.array([1.1, 2.1]),
        "finish_s": np.array([2.35, 2.35]),
        "generated": np.array([3, 2]),
        "cached_tokens": np.array([0, 0]),
        "preemptions": np.array([0, 0]),
        "replica": np.array([0, 0]),
        "outcome": np.array([0, 0]),
        "steps": steps,
        "gaps": Gaps(np.empty(0), np.empty(0), np.empty(0, dtype=np.int64)),
        "replicas": 1,
        "kv_blocks": 10,
        "block_size": 16,
        "end_s": 2.25,
    }
    return RunRecord(**(columns | changes))


def result(record: RunRecord | None = None, **changes: Any) -> Result:
    return Result(deployment(**changes), record or two_requests(), FakeAccountant())


def evenly_sent(n: int, *, gap_s: float = 1.0, service_s: float = 0.5) -> RunRecord:
    """``n`` requests (4 in, 1 out), one every ``gap_s``, each served alone in one step."""
    sent = gap_s * np.arange(n)
    start = np.empty(n)
    free = 0.0
    for i in range(n):
        start[i] = max(sent[i], free)
        free = start[i] + service_s
    steps = step_table(
        *(
            {"start_s": s, "first_s": service_s, "prefill": 1, "prefill_tokens": 4,
             "first_tokens": 1, "running": 1, "kv_blocks": 1, "kv_tokens": 4}
            for s in start
        )
    )  # fmt: skip
    done = start + service_s + RESPONSE_S
    return two_requests(
        requests=requests([4] * n, [1] * n), sent_s=sent, queued_s=sent, start_s=start,
        first_token_s=done, finish_s=done, generated=np.ones(n, dtype=np.int64),
        cached_tokens=np.zeros(n, dtype=np.int64), preemptions=np.zeros(n, dtype=np.int64),
        replica=np.zeros(n, dtype=np.int64), outcome=np.zeros(n, dtype=np.int64), steps=steps,
        end_s=float(start[-1] + service_s),
    )  # fmt: skip
