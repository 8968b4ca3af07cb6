"""Contiguous KV memory: holes by hand, against a plain map of slots, and as published."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cluster import run_cluster
from simulator.errors import UserError
from simulator.resolve import resolve
from simulator.results.record import COMPLETED
from simulator.scenario.policies import ContinuousPolicy, FullReservationPolicy, PrefillFirstPolicy
from simulator.scenario.scenario import Scenario
from simulator.serving.contiguous import ContiguousKvCache, run_tokens
from simulator.serving.kv_cache import KvLayout
from simulator.serving.sequence import Sequence
from simulator.simulation import simulate
from tests.agreement import run_fast
from tests.strategies import Case, Req, cases, examples, make_limits
from tests.test_exactness_oracle import UNIT
from tests.test_matrix_fields import BASE, nested

from tests.fields_kv import RUNS  # isort: skip


def place(kv: ContiguousKvCache, index: int, length: int) -> Sequence:
    sequence = Sequence(index, length, 1)
    kv.place(sequence, length)
    kv.take(length)
    kv.check_integrity()
    return sequence


def test_the_first_hole_that_is_large_enough() -> None:
    kv = ContiguousKvCache(KvLayout(100, 1, reserve="exact"))
    a, b, c = (place(kv, i, 30) for i in range(3))
    kv.release(a, 30, 0)
    kv.release(c, 30, 0)
    # Free: 0–30 and 60–100. 70 slots in all, and none of 41 together.
    assert kv.free == 70
    assert kv.fits(40)
    assert not kv.fits(41)
    place(kv, 3, 31)
    assert kv.fits(30)
    kv.release(b, 30, 0)
    assert kv.fits(60)
    kv.check_integrity()


@examples(100)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 20)), max_size=60))
def test_as_a_map_of_slots_would(moves: list[tuple[bool, int]]) -> None:
    kv = ContiguousKvCache(KvLayout(64, 1, reserve="exact"))
    slots: list[int] = [-1] * 64
    running: list[tuple[Sequence, int]] = []
    for number, (ends, length) in enumerate(moves):
        if ends and running:
            sequence, size = running.pop(length % len(running))
            kv.release(sequence, size, 0)
            slots = [-1 if owner == sequence.index else owner for owner in slots]
            continue
        at = next((i for i in range(65 - length) if set(slots[i : i + length]) == {-1}), None)
        assert kv.fits(length) == (at is not None)
        if at is not None:
            running.append((place(kv, number, length), length))
            slots[at : at + length] = [number] * length
            assert kv._runs_of[running[-1][0]] == (at, length)
    assert kv.free == slots.count(-1)


def test_what_is_reserved() -> None:
    prompt, output = np.array([10, 10, 10, 10]), np.array([1, 25, 32, 2000])
    assert run_tokens("exact", prompt, output, 2048).tolist() == [10, 34, 41, 2009]
    assert run_tokens("power_of_two", prompt, output, 2048).tolist() == [11, 42, 42, 2048]
    assert run_tokens("max_model_len", prompt, output, 2048).tolist() == [2048] * 4


@examples(100)
@given(
    cases(
        st.sampled_from(
            [ContinuousPolicy(), PrefillFirstPolicy(), FullReservationPolicy(wait_steps=3)]
        )
    ),
    st.sampled_from(["exact", "power_of_two", "max_model_len"]),
)
def test_nothing_is_lost(case: Case, reserve: str) -> None:
    """Every request ends, nothing is preempted, and no slot leaks (checked when the run ends)."""
    longest = max(req.prompt + req.output for req in case.reqs)
    limits = case.limits
    limits = type(limits)(
        **{name: getattr(limits, name) for name in limits.__dataclass_fields__}
        | {"block_size": 1, "max_model_len": longest, "kv_reserve": reserve}
    )
    layout = KvLayout(2 * longest, 1, reserve=reserve)
    record = run_cluster(case.requests, limits, 0, case.cost, layout=layout, **case.delays)
    assert (record.outcome == COMPLETED).all()
    assert not record.preemptions.any()
    assert (record.steps.kv_tokens <= record.steps.kv_blocks).all()
    assert record.waste is not None
    if reserve == "exact":
        rows = np.frombuffer(record.waste._rows).reshape(-1, 4)
        assert not rows[:, 2].any()


def test_with_room_for_all_it_is_full_reservation() -> None:
    """Where memory never runs out, how it is laid out changes no time."""
    reqs = BASE | {"engine.policy": {"kind": "full_reservation"}, "engine.prefix_caching": False}
    runs = {"engine.kv_allocation": {"kind": "contiguous", "reserve": "exact"}}
    runs |= {"engine.prefix_caching": None}
    paged, run = (
        simulate(Scenario.model_validate(nested(fields))).record for fields in (reqs, reqs | runs)
    )
    assert paged.finish_s.tolist() == run.finish_s.tolist()


# --- as published --------------------------------------------------------------------------------

CHAT = {
    "model": "llama-2-13b",
    "hardware.profile": "a100-sxm-40gb",
    "engine.max_model_len": 2048,
    "engine.prefix_caching": False,
    "engine.max_num_seqs": None,
    "engine.max_num_batched_tokens": None,
    "workload": {
        "kind": "synthetic",
        "requests": 300,
        "arrivals": {"kind": "burst"},
        "lengths": {
            "kind": "independent",
            "input": {"kind": "lognormal", "mean": 161, "cv": 1.2, "high": 1024},
            "output": {"kind": "lognormal", "mean": 338, "cv": 0.8, "high": 1024},
        },
    },
}
"""Mean lengths of ShareGPT as arXiv:2309.06180 gives them, beyond saturation."""


def test_waste_is_of_the_published_size() -> None:
    """Figure 2 of arXiv:2309.06180: tokens fill 20.4, 26.8 and 38.2% of the KV memory when runs are
    as long as the longest sequence, a power of two, or exact, and 96.3% of blocks."""
    stored, inside, outside = {}, {}, {}
    for reserve in ("max_model_len", "power_of_two", "exact"):
        runs = {"engine.kv_allocation": {"kind": "contiguous", "reserve": reserve}}
        runs |= {"engine.prefix_caching": None}
        kv = simulate(
            Scenario.model_validate(nested(BASE | CHAT | runs)), intervals=False
        ).summary()["kv_cache"]
        stored[reserve] = kv["stored_share"]
        inside[reserve] = kv["internal_fragmentation"]
        outside[reserve] = kv["external_fragmentation"]
        parts = (
            "stored_share",
            "reserved_share",
            "internal_fragmentation",
            "external_fragmentation",
        )
        assert sum(kv[part] for part in parts) <= 1 + 1e-9
    assert 0.1 < stored["max_model_len"] < 0.3
    assert stored["max_model_len"] < stored["power_of_two"] < stored["exact"] < 0.6
    assert inside["max_model_len"] > 0.5
    assert inside["max_model_len"] > inside["power_of_two"] > inside["exact"] == 0
    assert min(outside.values()) > 0.05
    paged = simulate(Scenario.model_validate(nested(BASE | CHAT)), intervals=False).summary()
    assert paged["kv_cache"]["stored_over_allocated_tokens"] > 0.95


@pytest.mark.parametrize(
    ("fields", "where", "why"),
    [
        ({"engine.block_size": 16}, "engine.block_size", "no blocks"),
        ({"engine.prefix_caching": True}, "engine.prefix_caching", "cannot be shared"),
        (
            {"engine.policy": {"kind": "static", "batch_size": 4}},
            "engine.policy",
            "padded run for each slot",
        ),
        ({"engine.max_model_len": 100_000}, "engine.max_model_len", "reserves max_model_len"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict, where: str, why: str) -> None:
    runs = BASE | RUNS | {"engine.kv_allocation": {"kind": "contiguous"}} | fields
    if "policy" in where:
        runs |= {"engine.max_num_batched_tokens": None}
    with pytest.raises(UserError, match=why) as error:
        resolve(Scenario.model_validate(nested(runs)))
    assert error.value.where == where


# --- the watermark -------------------------------------------------------------------------------


def test_a_watermark_is_left_free_by_admissions_while_others_run() -> None:
    """Ten blocks. The first request has 8; with a watermark of 2 the second, of 2, waits for its
    end, and with 6 the third, of 3, waits for the end of the second as well."""
    limits = make_limits(ContinuousPolicy(), block_size=1)
    reqs = (Req(0, 8, 1), Req(0, 2, 3), Req(5, 3, 1))
    for watermark, starts in ((0, [0, 0, 10]), (2, [0, 10, 10]), (6, [0, 10, 40])):
        record = run_fast(Case(reqs, limits, 10, UNIT, watermark=watermark))
        assert (record.start_s / UNIT.step(0, 0, 0, [], 0) * 10).tolist() == starts
