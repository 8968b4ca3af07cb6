"""Steps of fixed length, so that every time of a run can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence as List
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.cluster import FrontEndTimes, run_cluster
from simulator.costs.protocol import Chunk
from simulator.results.record import RunRecord
from simulator.workload.requests import Requests
from tests.rig import limits
from tests.sane import check_record

NAN = float("nan")


@dataclass
class Metronome:
    """Steps of fixed length; decode steps grow by ``slope_s`` for every token of context."""

    prompt_s: float = 2.0
    decode_s: float = 1.0
    slope_s: float = 0.0
    local_span: int = 0
    local_is_chunked: bool = False

    def decode(
        self, sequences: int, context: int, local_context: int, local_growth: int
    ) -> tuple[float, float, int]:
        return self.decode_s + self.slope_s * context, self.slope_s * sequences, 1 << 40

    def step(
        self,
        sequences: int,
        context: int,
        local_context: int,
        chunks: List[Chunk],
        sampled: int,
    ) -> float:
        return self.prompt_s


def run(
    asked: Requests,
    policy: Any = None,
    *,
    cost: Metronome | None = None,
    blocks: int = 1000,
    seqs: int = 8,
    budget: int = 100,
    prefix_caching: bool = False,
    async_scheduling: bool = False,
    check: bool = True,
    **more: Any,
) -> RunRecord:
    settings = limits(
        policy, seqs=seqs, budget=budget, block_size=4, prefix_caching=prefix_caching,
        max_model_len=2000, async_scheduling=async_scheduling,
    )  # fmt: skip
    record = run_cluster(asked, settings, blocks, cost or Metronome(), **more)
    if check:
        delay = more.get("network_s", 0.0) + more.get("front_end", FrontEndTimes()).response_s
        check_record(record, settings, delay_s=delay)
    return record


def same(column: np.ndarray, expected: list[float]) -> None:
    np.testing.assert_array_equal(column, np.array(expected))
