"""A run seen pool by pool: who ran what, for how long, and the sums over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from simulator.deployment import ResolvedDeployment
from simulator.results.record import Accountant, Group, RunRecord
from simulator.results.totals import Totals, summed, totals
from simulator.results.window import Window, end_of_run
from simulator.scenario.pools import Role

_GROWING = ("continuous", "prefill_first")


@dataclass(frozen=True, slots=True)
class Member:
    """One pool of a run: what its replicas are, and who prices their steps."""

    deployment: ResolvedDeployment
    accountant: Accountant


@dataclass(frozen=True, slots=True)
class Part:
    """What one pool did.

    Args:
        name, role: of the pool.
        deployment, accountant: see ``Member``.
        record: of its replicas' steps and the requests that they served; the columns of other
            requests are NaN.
        window: the run's, with the requests that count here.
        sums: over its steps.
        held_s: replica-seconds within the window in which its devices were held; of devices that
            several pools share, its share.
        run_held_s: the same of the whole run.
        sharing: pools on its devices.
    """

    name: str
    role: Role
    deployment: ResolvedDeployment
    accountant: Accountant
    record: RunRecord
    window: Window
    sums: Totals
    held_s: float
    run_held_s: float
    sharing: int = 1

    @property
    def whole(self) -> Part:
        """The part with all the time in which its devices were held, not its share of it."""
        if self.sharing == 1:
            return self
        n = self.sharing
        return replace(self, held_s=n * self.held_s, run_held_s=n * self.run_held_s, sharing=1)

    @property
    def devices_of(self) -> str:
        """The pool whose devices these are."""
        return self.record.groups[0].devices_of

    @property
    def counted_rows(self) -> npt.NDArray[np.bool_]:
        """All rows of the requests that count. Shape (n,)."""
        return self.record.requests.rows_of(self.window.counted)

    @property
    def replicas(self) -> int:
        """How many are meant to be there at once."""
        return sum(group.replicas for group in self.record.groups)

    @property
    def devices_per_replica(self) -> int:
        """Devices that one replica occupies."""
        return self.deployment.devices_per_replica

    @property
    def lanes(self) -> int:
        """Schedulers of one replica."""
        return self.record.groups[0].lanes


def response_s(deployment: ResolvedDeployment) -> float:
    """From the end of a step to its tokens at the client."""
    network_ms = deployment.scenario.deployment.network_ms
    return (deployment.engine.front_end.response_ms + network_ms) / 1e3


def kv_grows(deployment: ResolvedDeployment) -> bool:
    """Whether KV blocks are taken as tokens come, not reserved on admission."""
    limits = deployment.limits
    return limits.policy.kind in _GROWING and not limits.kv_reserve


def parts_of(members: Sequence[Member], record: RunRecord, window: Window) -> list[Part]:
    """One part a group of the record, priced."""
    whole = end_of_run(record)
    parts = []
    owners = [group.devices_of for group in record.groups]
    for member, group in zip(members, record.groups, strict=True):
        own = (
            record
            if len(record.groups) == 1
            else seen_by(record, group, response_s(member.deployment))
        )
        sharing = owners.count(group.devices_of)
        parts.append(
            Part(
                name=group.name,
                role=group.role,
                deployment=member.deployment,
                accountant=member.accountant,
                record=own,
                window=_counting(window, own, whole=own is record),
                sums=totals(own, member.accountant, window, kv_grows=kv_grows(member.deployment)),
                held_s=held_s(record, group, window.start_s, window.end_s) / sharing,
                run_held_s=held_s(record, group, 0.0, whole) / sharing,
                sharing=sharing,
            )
        )
    return parts


def held_s(record: RunRecord, group: Group, start_s: float, end_s: float) -> float:
    """Replica-seconds between two times in which the group's devices were held: all the time, or
    as ``record.held`` says."""
    if record.held is None:
        return max(0.0, end_s - start_s) * group.count
    mine = record.held[(record.held[:, 0] >= group.first) & (record.held[:, 0] < group.end)]
    return float(
        np.maximum(0.0, np.minimum(mine[:, 2], end_s) - np.maximum(mine[:, 1], start_s)).sum()
    )


def seen_by(record: RunRecord, group: Group, back_s: float) -> RunRecord:
    """The record of one group: its steps, and the times of the requests that it served, as it saw
    them. ``back_s``: from the end of a step to its tokens at the client."""
    rows = (record.steps.replica >= group.first) & (record.steps.replica < group.end)
    queued_s, start_s = record.queued_s, record.start_s
    first_s, finish_s = record.first_token_s, record.finish_s
    cached, preemptions, stages = record.cached_tokens, record.preemptions, record.stages
    replica = record.replica
    if stages is not None and group.role == "prefill":
        replica = stages.prefill_replica
        # What ends for this pool with the prompt ends with no token at a client.
        handed = np.isfinite(stages.prompt_done_s)
        first_s = np.where(handed, np.nan, first_s)
        finish_s = np.where(handed, stages.prompt_done_s + back_s, finish_s)
        preemptions, stages = np.zeros_like(preemptions), None
    elif stages is not None:
        landed = np.isfinite(stages.landed_s)
        replica = np.where(landed, replica, -1)
        queued_s, start_s = stages.prompt_done_s, stages.landed_s
        cached = np.zeros_like(cached)
    served = (replica >= group.first) & (replica < group.end)

    def own(times: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.where(served, times, np.nan)

    return replace(
        record,
        queued_s=own(queued_s),
        start_s=own(start_s),
        first_token_s=own(first_s),
        finish_s=own(finish_s),
        cached_tokens=np.where(served, cached, 0),
        preemptions=np.where(served, preemptions, 0),
        replica=np.where(served, replica, -1),
        steps=record.steps.select(np.flatnonzero(rows)),
        gaps=record.gaps.of(group.first, group.end),
        groups=(group,),
        replicas=group.count,
        kv_blocks=group.kv_blocks,
        block_size=group.block_size,
        stages=stages,
    )


def _counting(window: Window, record: RunRecord, *, whole: bool) -> Window:
    if whole:
        return window
    return replace(window, counted=window.counted & np.isfinite(record.queued_s))


def added(parts: Sequence[Part]) -> Totals:
    """The sums of all parts."""
    return parts[0].sums if len(parts) == 1 else summed([part.sums for part in parts])
