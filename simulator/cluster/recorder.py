"""Writes the columns of a run while the clock runs: appends only, compacted now and then."""

from __future__ import annotations

from array import array
from dataclasses import fields
from struct import Struct

import numpy as np

from simulator.results.moved import KvMoved
from simulator.results.record import (
    COMPLETED,
    LANES_APART,
    UNFINISHED,
    AdapterCounts,
    Gaps,
    Group,
    RunRecord,
    Stages,
    StepTable,
)
from simulator.results.waste import KvWaste
from simulator.workload.requests import Requests

_DERIVED = ("lane", "adapters", "adapter_tokens")
COLUMNS = tuple(field.name for field in fields(StepTable) if field.name not in _DERIVED)
"""Of the step table, in the order of a row."""
_FLOAT_COLUMNS = frozenset(
    (
        "start_s",
        "first_s",
        "slope_s",
        "stall_s",
        "context",
        "local_context",
        "local_growth",
        "prefill_pairs",
        "local_pairs",
        "prefill_context",
        "kv_tokens",
    )
)
_WIDTH = len(COLUMNS)
ROW_BYTES = _WIDTH * 8
"""Of one row in ``Recorder.rows``."""
FLUSH_AT = (1 << 15) * ROW_BYTES
"""Bytes in ``Recorder.rows`` at which whoever appends calls ``flush``."""

pack_row = Struct(f"{_WIDTH}d").pack
"""The values of one row, in the order of the step table's columns, as bytes: three times as fast as
extending an array with them."""
_NAN = float("nan")


class Recorder:
    """Columns of requests, steps and gaps; see ``RunRecord`` for what they mean.

    Attributes:
        refusals: how often admission control refused a request.
        in_order: rows are appended as their last steps end; if not, they are sorted in the end.
        rows: rows of the step table that are not compacted yet, each made by ``pack_row``, with
            the number of the lane in place of the replica's.
        replica: who serves a request; the number of the lane as well.
        answer_s: when answers begin at their clients; None if no request thinks before it answers.
        adapter_rows: for each of the rows, if any, its ``adapters`` and ``adapter_tokens``.
        adapter_counts: what became of requests with adapters; None if there are none.
        preempted: when how many sequences lost their KV blocks, as time, number of the lane, count.
        moved: where replicas say which KV blocks they move; None if none does.
        waste: where they say what their contiguous KV memory wastes; None if they have blocks.
    """

    def __init__(self, requests: Requests) -> None:
        self.requests = requests
        column = requests.column
        self.sent_s: array[float] = column(_NAN)
        self.queued_s: array[float] = column(_NAN)
        self.start_s: array[float] = column(_NAN)
        self.first_token_s: array[float] = column(_NAN)
        self.finish_s: array[float] = column(_NAN)
        self.generated: array[int] = column(0)
        self.cached: array[int] = column(0)
        self.preemptions: array[int] = column(0)
        self.replica: array[int] = column(-1)
        self.outcome: array[int] = column(UNFINISHED)
        thinks = requests.answers is not None and requests.answers.think
        self.answer_s: array[float] | None = column(_NAN) if thinks else None
        self.refusals = 0
        self.in_order = True
        self.gaps = array("d")
        self.rows = bytearray()
        self.moved: KvMoved | None = None
        self.waste: KvWaste | None = None
        self.adapter_rows = bytearray()
        self.adapter_counts: AdapterCounts | None = None
        self.preempted = array("d")
        self._chunks: list[list[np.ndarray]] = []

    def gap(self, replica: int, at_s: float, gap_s: float, count: int) -> None:
        """Appends ``count`` equal inter-token gaps that no step row of a replica implies."""
        self.gaps.extend((at_s, gap_s, count, replica))

    def flush(self) -> None:
        """Compacts the rows appended so far."""
        table = np.frombuffer(self.rows, dtype=np.float64).reshape(-1, _WIDTH)
        self._chunks.append(
            [
                table[:, i].copy() if name in _FLOAT_COLUMNS else table[:, i].astype(np.int64)
                for i, name in enumerate(COLUMNS)
            ]
        )
        del table
        del self.rows[:]

    def take_steps(self, *, lanes: bool) -> StepTable:
        """The rows appended since they were last taken. ``lanes``: replicas have several."""
        self.flush()
        columns: dict[str, np.ndarray] = {}
        for i in range(_WIDTH - 1, -1, -1):
            columns[COLUMNS[i]] = np.concatenate([chunk.pop() for chunk in self._chunks])
        self._chunks = []
        if not self.in_order and columns["replica"].any():
            order = np.lexsort((columns["start_s"], _ends(columns)))
            columns = {name: column[order] for name, column in columns.items()}
        adapters = np.zeros((len(columns["steps"]), 2), dtype=np.int64)
        if self.adapter_rows:
            adapters = np.frombuffer(bytes(self.adapter_rows)).reshape(-1, 2).astype(np.int64)
            del self.adapter_rows[:]
        columns["adapters"], columns["adapter_tokens"] = adapters[:, 0], adapters[:, 1]
        columns["lane"] = np.zeros_like(columns["replica"])
        if lanes:
            columns["lane"], columns["replica"] = np.divmod(columns["replica"], LANES_APART)
        return StepTable(**columns)

    def take_gaps(self) -> Gaps:
        """The gaps noted since they were last taken."""
        table = np.frombuffer(self.gaps, dtype=np.float64).reshape(-1, 4)
        gaps = Gaps(
            table[:, 0].copy(),
            table[:, 1].copy(),
            table[:, 2].astype(np.int64),
            table[:, 3].astype(np.int64) % LANES_APART,
        )
        self.gaps = array("d")
        return gaps

    def take_preempted(self) -> np.ndarray:
        """The preemptions noted since they were last taken, as rows of time, replica, count."""
        rows = np.array(self.preempted).reshape(-1, 3)
        rows[:, 1] %= LANES_APART
        self.preempted = array("d")
        return rows

    def record(
        self,
        *,
        groups: tuple[Group, ...],
        held: np.ndarray | None,
        stages: Stages | None,
        end_s: float,
        interrupted: bool,
        reason: str,
        wall_s: float,
    ) -> RunRecord:
        """Everything recorded so far."""
        lanes = any(group.lanes > 1 for group in groups)
        steps = self.take_steps(lanes=lanes)
        finish_s = np.frombuffer(self.finish_s, dtype=np.float64)
        completed = ~np.isnan(finish_s)
        generated = np.frombuffer(self.generated, dtype=np.int64)
        outcome = np.frombuffer(self.outcome, dtype=np.int64)
        replica, lane = np.frombuffer(self.replica, dtype=np.int64), None
        if lanes:
            lane = np.maximum(replica, 0) // LANES_APART
            replica = np.where(replica < 0, replica, replica % LANES_APART)
        answer_s = None if self.answer_s is None else np.frombuffer(self.answer_s, dtype=np.float64)
        return RunRecord(
            requests=self.requests,
            sent_s=np.frombuffer(self.sent_s, dtype=np.float64),
            queued_s=np.frombuffer(self.queued_s, dtype=np.float64),
            start_s=np.frombuffer(self.start_s, dtype=np.float64),
            first_token_s=np.frombuffer(self.first_token_s, dtype=np.float64),
            finish_s=finish_s,
            generated=np.where(completed, self.requests.output_tokens, generated),
            cached_tokens=np.frombuffer(self.cached, dtype=np.int64),
            preemptions=np.frombuffer(self.preemptions, dtype=np.int64),
            replica=replica,
            lane=lane,
            outcome=np.where(completed, COMPLETED, outcome),
            steps=steps,
            gaps=self.take_gaps(),
            preempted=self.take_preempted(),
            replicas=sum(group.count for group in groups),
            kv_blocks=max(group.kv_blocks for group in groups),
            block_size=max(group.block_size for group in groups),
            groups=groups,
            held=held,
            stages=stages,
            end_s=end_s,
            interrupted=interrupted,
            reason=reason,
            refusals=self.refusals,
            wall_s=wall_s,
            answer_s=answer_s,
            adapter_counts=self.adapter_counts,
            moved=self.moved,
            waste=self.waste,
        )


def _ends(columns: dict[str, np.ndarray]) -> np.ndarray:
    """When the last step of each row ends. Shape (rows,)."""
    steps, slope = columns["steps"], columns["slope_s"]
    ends: np.ndarray = columns["start_s"] + (
        steps * columns["first_s"] + slope * (steps * (steps - 1) / 2)
    )
    return ends
