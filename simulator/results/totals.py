"""Sums over the steps of a run: all that rates, utilization, energy and cost are computed from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from simulator.results import lanes
from simulator.results.record import Accountant, RunRecord, StepTable, StepWork
from simulator.results.stretches import cut_at, rows
from simulator.results.window import Window
from simulator.workload.requests import Floats, Ints

_CHUNK = 1 << 14
"""Rows priced together: their columns fit into the processor's cache."""

PHASES = ("prefill", "decode")
"""Steps that compute prompt tokens (most of them decode as well), and steps that only decode."""


@dataclass(slots=True)
class PhaseTotals:
    """Seconds that replicas spent in one kind of step, within the window."""

    steps: int = 0
    busy_s: float = 0.0
    operator_s: dict[str, float] = field(default_factory=dict)
    resource_s: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Totals:
    """Sums over all replicas. Times in replica-seconds; a step that runs across an edge of the
    window counts by the share of it that lies inside, its tokens where it ends. Where replicas have
    several lanes, each lane's steps count for themselves, and times are lane-seconds.

    Args:
        phases: time by kind of step.
        model_flops, hbm_bytes, link_bytes, step_energy_j: within the window. ``link_bytes`` are
            those of one device of each replica.
        drafting_flops, rejected_flops: FLOPs of drafts, and those that the model spent on rejected
            ones; within the window.
        output_tokens: tokens that came out within the window.
        prefill_tokens, wasted_tokens: prompt tokens computed, and those that were recomputation or
            padding.
        sequences: sequences that took part in a step, summed over steps.
        running_s, kv_blocks_s, kv_tokens_s: integrals over time of sequences admitted, KV blocks in
            use and tokens stored.
        not_worked_s, not_powered_s, run_not_powered_s: of ``busy_s`` and ``run_busy_s``, what
            ``StepWork.busy_s`` and ``powered_s`` leave out.
        most_running, most_waiting, most_kv_blocks: on any one replica. most_sequences: in a step.
        run_busy_s, run_energy_j, run_running_s: of the whole run; the last one is the integral of
            sequences admitted.
    """

    phases: dict[str, PhaseTotals] = field(
        default_factory=lambda: {name: PhaseTotals() for name in PHASES}
    )
    model_flops: float = 0.0
    hbm_bytes: float = 0.0
    link_bytes: float = 0.0
    step_energy_j: float = 0.0
    drafting_flops: float = 0.0
    rejected_flops: float = 0.0
    output_tokens: int = 0
    prefill_tokens: int = 0
    wasted_tokens: int = 0
    sequences: int = 0
    running_s: float = 0.0
    kv_blocks_s: float = 0.0
    kv_tokens_s: float = 0.0
    not_worked_s: float = 0.0
    not_powered_s: float = 0.0
    run_not_powered_s: float = 0.0
    most_running: int = 0
    most_waiting: int = 0
    most_kv_blocks: int = 0
    most_sequences: int = 0
    run_busy_s: float = 0.0
    run_energy_j: float = 0.0
    run_running_s: float = 0.0

    @property
    def steps(self) -> int:
        """Steps that ended within the window."""
        return sum(phase.steps for phase in self.phases.values())

    @property
    def busy_s(self) -> float:
        """Seconds within the window in which a step ran, of all lanes."""
        return sum(phase.busy_s for phase in self.phases.values())

    @property
    def worked_s(self) -> float:
        """Replica-seconds within the window in which devices worked on a step."""
        return self.busy_s - self.not_worked_s

    @property
    def powered_s(self) -> float:
        """Replica-seconds whose energy ``step_energy_j`` is; otherwise devices idled."""
        return self.busy_s - self.not_powered_s

    @property
    def run_powered_s(self) -> float:
        """The same of the whole run and ``run_energy_j``."""
        return self.run_busy_s - self.run_not_powered_s


def summed(parts: Sequence[Totals]) -> Totals:
    """Sums of sums; maxima are those of any."""
    result = Totals()
    for part in parts:
        for f in fields(Totals):
            if f.name == "phases":
                continue
            mine, other = getattr(result, f.name), getattr(part, f.name)
            most = f.name.startswith("most_")
            setattr(result, f.name, max(mine, other) if most else mine + other)
        for name, phase in part.phases.items():
            into = result.phases[name]
            into.steps += phase.steps
            into.busy_s += phase.busy_s
            for sums, more in (
                (into.operator_s, phase.operator_s), (into.resource_s, phase.resource_s)
            ):  # fmt: skip
                for key, seconds in more.items():
                    sums[key] = sums.get(key, 0.0) + seconds
    return result


def totals(record: RunRecord, accountant: Accountant, window: Window, *, kv_grows: bool) -> Totals:
    """Prices all steps and adds them up, some rows at a time.

    Args:
        kv_grows: KV blocks are taken as tokens come (not reserved on admission), so that a row of
            several steps used fewer on average than at its end.
    """
    result = Totals()
    for start, stop in chunks(record):
        part = rows(record.steps, start, stop)
        part = cut_at(cut_at(part, window.start_s), window.end_s)
        _add(result, part, accountant.account(part), window, kv_grows=kv_grows)
    if record.lane is not None:
        edges = (window.start_s, window.end_s)
        for name, column in (
            ("most_running", record.steps.running),
            ("most_waiting", record.steps.waiting),
            ("most_kv_blocks", record.steps.kv_blocks),
        ):
            setattr(result, name, lanes.most(record.steps, column, *edges))
    inside = window.holds(record.gaps.at_s)
    result.output_tokens += int(record.gaps.count[inside].sum())
    if record.stages is not None:
        result.output_tokens += int(window.holds(record.stages.landed_s).sum())
    return result


def chunks(record: RunRecord) -> Iterator[tuple[int, int]]:
    """Ranges of rows; lanes that step together stay together."""
    start_s, start = record.steps.start_s, 0
    while start < len(start_s):
        stop = min(start + _CHUNK, len(start_s))
        if record.lane is not None:
            while stop < len(start_s) and start_s[stop] == start_s[stop - 1]:
                stop += 1
        yield start, stop
        start = stop


def _add(
    result: Totals, steps: StepTable, work: StepWork, window: Window, *, kv_grows: bool
) -> None:
    duration = steps.duration_s
    end = steps.start_s + duration
    overlap = np.minimum(end, window.end_s) - np.maximum(steps.start_s, window.start_s)
    overlap = np.maximum(overlap, 0.0)
    share = np.divide(overlap, duration, out=np.zeros_like(overlap), where=duration > 0)
    ended = window.holds(end)
    result.model_flops += _dot(work.model_flops, share)
    result.hbm_bytes += _dot(work.hbm_bytes, share)
    result.link_bytes += _dot(work.link_bytes, share)
    result.step_energy_j += _dot(work.energy_j, share)
    if work.lost_flops:
        result.drafting_flops += _dot(work.lost_flops["drafting"], share)
        result.rejected_flops += _dot(work.lost_flops["rejected"], share)
    result.run_busy_s += float(duration.sum())
    if work.busy_s is not None:
        result.not_worked_s += _dot(duration - work.busy_s, share)
    if work.powered_s is not None:
        result.not_powered_s += _dot(duration - work.powered_s, share)
        result.run_not_powered_s += float((duration - work.powered_s).sum())
    result.run_energy_j += float(work.energy_j.sum())
    result.run_running_s += _dot(duration, steps.running)
    result.output_tokens += int(steps.tokens[ended].sum())
    result.prefill_tokens += int(steps.prefill_tokens[ended].sum())
    result.wasted_tokens += int(steps.wasted_tokens[ended].sum())
    sequences = steps.decode + steps.prefill
    result.sequences += int((sequences * steps.steps)[ended].sum())
    result.running_s += _dot(overlap, steps.running)
    kv_tokens, kv_blocks = _mean_kv(steps, kv_grows=kv_grows)
    result.kv_tokens_s += _dot(overlap, kv_tokens)
    result.kv_blocks_s += _dot(overlap, kv_blocks)
    _raise_maxima(result, steps, sequences, share > 0)
    _add_phases(result, steps, work, overlap, share, ended)


def _mean_kv(steps: StepTable, *, kv_grows: bool) -> tuple[Floats, Floats]:
    """Tokens stored and blocks in use, averaged over the steps of each row. Tokens grow by one a
    step and sequence; blocks, where they are taken as tokens come, in proportion."""
    tokens = steps.kv_tokens - steps.decode * ((steps.steps - 1) / 2)
    if not kv_grows:
        return tokens, steps.kv_blocks.astype(np.float64)
    part = np.divide(tokens, steps.kv_tokens, out=np.ones_like(tokens), where=steps.kv_tokens > 0)
    blocks: Floats = part * steps.kv_blocks
    return tokens, blocks


def _raise_maxima(
    result: Totals,
    steps: StepTable,
    sequences: Ints,
    inside: npt.NDArray[np.bool_],
) -> None:
    result.most_running = max(result.most_running, int(steps.running[inside].max(initial=0)))
    result.most_waiting = max(result.most_waiting, int(steps.waiting[inside].max(initial=0)))
    result.most_kv_blocks = max(result.most_kv_blocks, int(steps.kv_blocks[inside].max(initial=0)))
    result.most_sequences = max(result.most_sequences, int(sequences[inside].max(initial=0)))


def _add_phases(
    result: Totals,
    steps: StepTable,
    work: StepWork,
    overlap: Floats,
    share: Floats,
    ended: npt.NDArray[np.bool_],
) -> None:
    with_prompts = steps.prefill > 0
    for name, chosen in zip(PHASES, (with_prompts, ~with_prompts), strict=True):
        phase = result.phases[name]
        phase.steps += int(steps.steps[chosen & ended].sum())
        phase.busy_s += float(overlap[chosen].sum())
        weight = np.where(chosen, share, 0.0)
        for sums, columns in (
            (phase.operator_s, work.operator_s),
            (phase.resource_s, work.resource_s),
        ):
            for key, seconds in columns.items():
                sums[key] = sums.get(key, 0.0) + _dot(seconds, weight)


def _dot(a: Floats, b: Floats | Ints) -> float:
    """Without BLAS, whose threads would cost more than they bring here, and whose sums would
    depend on how many there are."""
    return float((a * b).sum())
