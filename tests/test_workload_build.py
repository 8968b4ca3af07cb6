"""Synthetic traffic, sessions and mixes as columns of requests."""

import hashlib
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.errors import ScenarioError
from simulator.scenario.lengths import (
    EmpiricalLength,
    FixedLength,
    IndependentLengths,
    LogNormalLength,
    NormalLength,
    TraceLengths,
    UniformLength,
)
from simulator.scenario.workload import (
    BurstArrivals,
    ClosedLoopArrivals,
    GammaArrivals,
    MixWorkload,
    PoissonArrivals,
    RampArrivals,
    SessionsWorkload,
    SharedPrefix,
    SyntheticWorkload,
    TraceSlice,
    TraceWorkload,
    TrafficClass,
)
from simulator.workload import build_requests
from simulator.workload.prefixes import block_keys
from simulator.workload.requests import OPEN_LOOP, ROOT

LENGTHS = IndependentLengths(
    input=LogNormalLength(mean=300, cv=1, low=64), output=NormalLength(mean=100, std=20)
)


def synthetic(**changes):
    fields = {"arrivals": PoissonArrivals(rate_per_s=5), "lengths": LENGTHS, "requests": 300}
    return SyntheticWorkload(**(fields | changes))


def sessions(**changes):
    fields = {
        "arrivals": PoissonArrivals(rate_per_s=1),
        "turns": UniformLength(low=1, high=6),
        "user_tokens": UniformLength(low=10, high=80),
        "output_tokens": UniformLength(low=20, high=60),
        "think_time_s": 4.0,
        "requests": 300,
    }
    return SessionsWorkload(**(fields | changes))


def build(workload, seed=1, **kwargs):
    requests = build_requests(workload, np.random.default_rng(seed), **kwargs)
    requests.check_integrity()
    return requests


def digest(requests):
    """Hash of every column, prefixes included."""
    sha = hashlib.sha256()
    columns = [
        "arrival_s",
        "input_tokens",
        "output_tokens",
        "class_id",
        "parent",
        "pool",
        "session",
    ]
    for column in columns:
        sha.update(getattr(requests, column).tobytes())
    if requests.prefixes is not None:
        for column in ("offsets", "stream", "end", "continues"):
            sha.update(getattr(requests.prefixes, column).tobytes())
    return sha.hexdigest()


MIX = MixWorkload(
    classes=(
        TrafficClass(
            name="talk", workload=sessions(system_prompt=SharedPrefix(tokens=33, groups=2))
        ),
        TrafficClass(name="users", workload=synthetic(arrivals=ClosedLoopArrivals(concurrency=4))),
        TrafficClass(name="one-off", workload=synthetic(shared_prefix=SharedPrefix(tokens=64))),
        TrafficClass(name="bot", workload=synthetic(arrivals=ClosedLoopArrivals(concurrency=2))),
        TrafficClass(
            name="replay",
            workload=TraceWorkload(file="mooncake-conversation", slice=TraceSlice(requests=200)),
        ),
    )
)


# --- determinism and common random numbers -------------------------------------------------------

TESTS = Path(__file__).parent
PROGRAM = """
from test_workload_build import MIX, build, digest
print(digest(build(MIX, seed=7)))
"""


def test_same_seed_same_requests_in_any_process():
    printed = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("0", "12345")
    }
    assert printed == {digest(build(MIX, seed=7))}
    assert digest(build(MIX, seed=8)) not in printed


COLUMNS = ("arrival_s", "input_tokens", "output_tokens")
OTHER = {
    "arrivals": (GammaArrivals(rate_per_s=9, cv=4), {"arrival_s"}),
    "lengths": (
        IndependentLengths(input=LENGTHS.input, output=FixedLength(tokens=9)),
        {"output_tokens"},
    ),
    "shared_prefix": (SharedPrefix(tokens=32, groups=5), set()),
}


@pytest.mark.parametrize("field", OTHER)
def test_a_changed_distribution_leaves_the_other_draws_alone(field):
    value, affected = OTHER[field]
    before, after = build(synthetic()), build(synthetic(**{field: value}))
    changed = {c for c in COLUMNS if not np.array_equal(getattr(before, c), getattr(after, c))}
    assert changed == affected


def test_a_changed_session_length_leaves_the_session_starts_alone():
    def starts(turns):
        requests = build(sessions(turns=turns))
        return requests.arrival_s[requests.parent == ROOT]

    few, many = starts(FixedLength(tokens=30)), starts(UniformLength(low=1, high=6))
    assert np.array_equal(few, many[: len(few)])


def test_a_further_class_leaves_the_others_alone():
    first = build(MixWorkload(classes=MIX.classes[:2]))
    more = build(MixWorkload(classes=MIX.classes[:3]))
    for k in range(2):
        for column in COLUMNS:
            one = getattr(first, column)[first.class_id == k]
            assert np.array_equal(one, getattr(more, column)[more.class_id == k])


def test_the_given_generator_is_not_drawn_from():
    rng = np.random.default_rng(1)
    build_requests(synthetic(), rng)
    assert rng.random() == np.random.default_rng(1).random()


# --- synthetic -----------------------------------------------------------------------------------


def test_closed_loop_users_start_at_once_and_think_between_requests():
    loop = ClosedLoopArrivals(concurrency=3, think_time_s=2.0, think_distribution="exponential")
    requests = build(synthetic(arrivals=loop, requests=50_000))
    assert requests.pool_concurrency == (3,)
    assert (requests.pool == 0).all()
    assert not requests.open_loop
    assert requests.arrival_s[:3].tolist() == [0, 0, 0]
    assert requests.arrival_s[3:].mean() == pytest.approx(2.0, rel=0.03)
    assert requests.arrival_s[3:].std() == pytest.approx(2.0, rel=0.05)
    fixed = ClosedLoopArrivals(concurrency=3, think_time_s=2.0)
    assert set(build(synthetic(arrivals=fixed)).arrival_s[3:]) == {2.0}


def test_idle_users_of_a_closed_loop_are_noted():
    requests = build(synthetic(arrivals=ClosedLoopArrivals(concurrency=64), requests=10))
    assert requests.notes == ("workload: 10 requests keep at most 10 of the 64 users busy",)


def test_shared_prefix_groups_share_their_blocks_and_nothing_else():
    requests = build(synthetic(shared_prefix=SharedPrefix(tokens=40, groups=3)))
    offsets, stream, index = block_keys(requests.prefixes, 16)
    assert set(np.diff(offsets)) == {2}  # 40 tokens cover two blocks of 16
    assert set(index) == {0, 1}
    assert sorted(set(stream)) == [0, 1, 2]
    assert not requests.prefixes.continues.any()


def test_an_input_shorter_than_the_shared_prefix_names_the_field():
    lengths = IndependentLengths(
        input=EmpiricalLength(tokens=(100, 500)), output=FixedLength(tokens=1)
    )
    with pytest.raises(ScenarioError) as error:
        build(synthetic(lengths=lengths, shared_prefix=SharedPrefix(tokens=200)))
    assert str(error.value).startswith(
        "workload.shared_prefix.tokens: the shared prefix has 200 tokens, but an input of 100 "
        "tokens was drawn; input lengths from workload.lengths include the prefix"
    )


def test_no_request_within_the_duration_is_an_error():
    arrivals = PoissonArrivals(rate_per_s=0.001)
    message = r"^{}.duration_s: no request arrives within 0.5 s; lengthen duration_s"
    with pytest.raises(ScenarioError, match=message.format("workload")):
        build(synthetic(arrivals=arrivals, requests=None, duration_s=0.5))
    with pytest.raises(ScenarioError, match=message.format("workload")):
        build(sessions(arrivals=arrivals, requests=None, duration_s=0.5))
    lull = TrafficClass(
        name="lull", workload=synthetic(arrivals=arrivals, requests=None, duration_s=0.5)
    )
    with pytest.raises(ScenarioError, match=r"^workload.classes.1.workload.duration_s"):
        build(MixWorkload(classes=(MIX.classes[0], lull)))


def test_lengths_from_a_trace_are_its_rows():
    lengths = TraceLengths(file="azure-llm-2023-conv")
    requests = build(synthetic(lengths=lengths, requests=20_000))
    from simulator.workload.traces import read_trace

    trace = read_trace("azure-llm-2023-conv")
    pairs = set(zip(trace.input_tokens.tolist(), trace.output_tokens.tolist(), strict=True))
    drawn = zip(requests.input_tokens.tolist(), requests.output_tokens.tolist(), strict=True)
    assert set(drawn) <= pairs
    assert requests.input_tokens.mean() == pytest.approx(trace.input_tokens.mean(), rel=0.03)
    assert requests.arrival_s.tolist() == build(synthetic(requests=20_000)).arrival_s.tolist()


def test_the_source_says_what_the_traffic_is():
    ramp = RampArrivals(start_per_s=0, end_per_s=2.5, over_s=60)
    assert build(synthetic(arrivals=ramp)).source == (
        "synthetic: 300 requests, ramp arrivals (start_per_s 0, end_per_s 2.5, over_s 60)"
    )
    assert build(synthetic(arrivals=BurstArrivals())).source.endswith("burst arrivals")


# --- sessions ------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    requests=st.integers(1, 200),
    most_turns=st.integers(1, 12),
    system=st.one_of(st.none(), st.integers(1, 100)),
    groups=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_session_structure(requests, most_turns, system, groups, seed):
    prompt = None if system is None else SharedPrefix(tokens=system, groups=groups)
    turns = UniformLength(low=1, high=most_turns)
    columns = build(sessions(requests=requests, turns=turns, system_prompt=prompt), seed)
    assert len(columns) == requests
    roots = np.flatnonzero(columns.parent == ROOT)
    assert (np.diff(columns.arrival_s[roots]) >= 0).all()
    for i in range(requests):
        parent = columns.parent[i]
        if parent == ROOT:
            message = columns.input_tokens[i] - (system or 0)
        else:
            assert columns.session[parent] == columns.session[i]
            said = columns.input_tokens[parent] + columns.output_tokens[parent]
            message = columns.input_tokens[i] - said
        assert 10 <= message <= 80
    sizes = np.bincount(columns.session)
    assert len(sizes) == len(roots)
    assert 1 <= sizes.min() <= sizes.max() <= most_turns


def test_each_turn_finds_the_whole_conversation_before_it():
    columns = build(sessions(system_prompt=SharedPrefix(tokens=33, groups=2)))
    assert columns.prefixes.continues.all()
    offsets, stream, index = block_keys(columns.prefixes, 16)
    keys = [
        set(zip(stream[a:b].tolist(), index[a:b].tolist(), strict=True))
        for a, b in pairwise(offsets)
    ]
    followers = np.flatnonzero(columns.parent != ROOT)
    assert len(followers) > 100
    for i in followers:
        assert keys[columns.parent[i]] <= keys[i]
    roots = np.flatnonzero(columns.parent == ROOT)
    shared = {frozenset(keys[a] & keys[b]) for a in roots[:20] for b in roots[:20] if a != b}
    # 33 tokens of system prompt fill two blocks of 16; the third belongs to the session.
    assert {len(common) for common in shared} == {0, 2}


def test_sessions_within_a_duration_keep_all_their_turns():
    columns = build(sessions(requests=None, duration_s=100.0, turns=FixedLength(tokens=5)))
    starts = columns.arrival_s[columns.parent == ROOT]
    assert len(columns) == 5 * len(starts)
    assert starts.max() < 100.0


def test_a_session_that_is_cut_short_is_noted():
    columns = build(sessions(requests=7, turns=FixedLength(tokens=5)))
    assert np.bincount(columns.session).tolist() == [5, 2]
    assert columns.notes == ("workload: the last session ends 3 turns early to make the number up",)


# --- mix -----------------------------------------------------------------------------------------


def test_mix_keeps_every_class_whole():
    mixed = build(MIX)
    assert mixed.classes == ("talk", "users", "one-off", "bot", "replay")
    assert mixed.pool_concurrency == (4, 2)
    alone = [
        build_requests(traffic.workload, child)
        for traffic, child in zip(MIX.classes, np.random.default_rng(1).spawn(5), strict=True)
    ]
    for k, part in enumerate(alone):
        mine = np.flatnonzero(mixed.class_id == k)
        for column in COLUMNS:
            assert np.array_equal(getattr(mixed, column)[mine], getattr(part, column))
        parent = mixed.parent[mine]
        renamed = np.where(parent == ROOT, ROOT, np.searchsorted(mine, parent))
        assert np.array_equal(renamed, part.parent)
    assert set(mixed.pool[mixed.class_id == 1]) == {0}
    assert set(mixed.pool[mixed.class_id == 3]) == {1}
    assert set(mixed.pool[mixed.class_id == 2]) == {OPEN_LOOP}


def test_mix_shares_text_within_a_class_only():
    mixed = build(MIX)
    offsets, stream, index = block_keys(mixed.prefixes, 16)
    owner = np.repeat(mixed.class_id, np.diff(offsets))
    classes_of_stream = {}
    for one, class_id in zip(stream.tolist(), owner.tolist(), strict=True):
        classes_of_stream.setdefault(one, set()).add(class_id)
    assert {len(classes) for classes in classes_of_stream.values()} == {1}
    children = np.random.default_rng(1).spawn(5)
    for k in (0, 2, 4):
        part = build_requests(MIX.classes[k].workload, children[k])
        own_offsets, own_stream, own_index = block_keys(part.prefixes, 16)
        assert np.array_equal(index[owner == k], own_index)
        # The same blocks, under other names.
        pairs = set(zip(stream[owner == k].tolist(), own_stream.tolist(), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
        assert own_offsets[-1] == (owner == k).sum()


def test_mix_without_shared_text_has_no_prefixes():
    classes = tuple(TrafficClass(name=name, workload=synthetic()) for name in "ab")
    assert build(MixWorkload(classes=classes)).prefixes is None


def test_sessions_of_two_classes_stay_apart():
    classes = tuple(TrafficClass(name=name, workload=sessions()) for name in "ab")
    mixed = build(MixWorkload(classes=classes))
    a, b = (set(mixed.session[mixed.class_id == k]) for k in range(2))
    assert not a & b


# --- the contract itself -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "value", "complaint"),
    [
        ("arrival_s", np.array([0.0, 2.0, 1.0]), "do not ascend"),
        ("arrival_s", np.array([0.0, np.nan, 1.0]), "not a number"),
        ("input_tokens", np.array([1, 0, 1]), "is empty"),
        ("parent", np.array([ROOT, 1, ROOT]), "precedes its parent"),
        ("pool", np.array([OPEN_LOOP, 0, OPEN_LOOP]), "pool has no users"),
        ("class_id", np.array([0, 1, 0]), "class_id has no class"),
        ("session", np.array([-1]), "shapes differ"),
    ],
)
def test_broken_columns_are_refused(column, value, complaint):
    from dataclasses import replace

    good = build(synthetic(requests=3))
    with pytest.raises(ValueError, match=complaint):
        replace(good, **{column: value}).check_integrity()


def test_arrivals_that_the_clock_cannot_resolve_are_refused() -> None:
    late = SyntheticWorkload(
        requests=10,
        arrivals=PoissonArrivals(rate_per_s=1e-12),
        lengths=IndependentLengths(input=FixedLength(tokens=9), output=FixedLength(tokens=9)),
    )
    with pytest.raises(ScenarioError, match="31 years"):
        build_requests(late, np.random.default_rng(0))
