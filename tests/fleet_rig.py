"""Groups of replicas that come and go, with steps of fixed length: a step with prompts takes two
seconds and a decode step one, so that every time can be worked out by hand."""

from __future__ import annotations

from typing import Any

from simulator.cluster import run_groups
from simulator.cluster.groups import ReplicaGroup, Serving
from simulator.cluster.starting import Life
from simulator.results.integrity import check_integrity
from simulator.results.lives import STATES, Lives
from simulator.results.record import RunRecord
from simulator.scenario.lifecycle import Gateway, Retry
from simulator.serving.kv_cache import KvLayout
from simulator.workload.requests import Requests
from tests.metronome import Metronome
from tests.rig import limits


def run(
    asked: Requests,
    life: Life,
    *,
    gateway: Gateway | None = None,
    retry: Retry | None = None,
    cost: Metronome | None = None,
    policy: Any = None,
    seqs: int = 8,
    **more: Any,
) -> RunRecord:
    """One group."""
    settings = limits(policy, seqs=seqs, budget=100, block_size=4, max_model_len=2000)
    group = ReplicaGroup(
        life.numbers, settings, KvLayout(1000, 4), cost or Metronome(),
        life=life if life.changes else None,
    )  # fmt: skip
    record = run_groups(asked, (group,), serving=Serving(gateway or Gateway(), retry), **more)
    check_integrity(record)
    return record


def lives_of(record: RunRecord) -> Lives:
    """What the replicas went through."""
    assert record.lives is not None
    return record.lives


def changes(record: RunRecord) -> list[tuple[float, int, str]]:
    """Time, replica and new state of every change."""
    lives = lives_of(record)
    return [
        (at, number, STATES[state])
        for at, number, state in zip(
            lives.at_s.tolist(), lives.replica.tolist(), lives.state.tolist(), strict=True
        )
    ]


def decisions(record: RunRecord) -> list[tuple[float, int]]:
    """Time and number of replicas wanted from then on."""
    lives = lives_of(record)
    return list(zip(lives.decided_s.tolist(), lives.wanted.tolist(), strict=True))
