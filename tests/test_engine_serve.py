"""The engine as a server: which steps it runs, what it hands out, and what the simulator makes of
the same durations."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.scenario.policies import ContinuousPolicy, FullReservationPolicy, PrefillFirstPolicy
from simulator.workload.requests import Requests
from tests.strategies import examples

from tests.engine_support import (  # isort: skip
    LLAMA,
    drawn,
    engine,
    greedy,
    limits,
    most_blocks,
    one_thread,  # noqa: F401
    plain_logits,
    pooled,
    replayed,
    sharing,
    some_requests,
    talks,
    workloads,
    written,
)

from calibration.engine import build

POLICIES = [
    ContinuousPolicy(),
    PrefillFirstPolicy(),
    FullReservationPolicy(),
    FullReservationPolicy(wait_steps=3, wait_fill=0.7),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("window"), LLAMA, model_type="mistral", sliding_window=7)


def check(run, requests: Requests, limit, blocks: int, span: int = 0):
    """Conservation, the simulator's agreement, and greedy answers; returns the simulator's record."""
    steps, texts = run.serve(requests)
    prompts, outputs = requests.input_tokens.tolist(), requests.output_tokens.tolist()
    assert [len(answer) for answer in texts.answers] == outputs
    assert all(0 <= token < run.decoder.spec.vocab for answer in texts.answers for token in answer)
    assert all(a.end_s <= b.start_s for a, b in pairwise(steps))
    assert all(step.end_s >= step.start_s for step in steps)
    assert sum(step.sampled for step in steps) == sum(outputs)
    for step in steps:
        tokens = step.decode + sum(chunk.new for chunk in step.chunks)
        assert 0 < tokens <= limit.max_num_batched_tokens
        assert step.decode + len(step.chunks) <= limit.max_num_seqs
    record = replayed(steps, requests, limit, blocks, span)
    # Every token but an answer's last is computed once, found in the cache, or computed again.
    computed = sum(step.decode + sum(chunk.new for chunk in step.chunks) for step in steps)
    again = int(record.steps.wasted_tokens.sum())
    stored = sum(prompts) + sum(outputs) - len(outputs) - int(record.cached_tokens.sum())
    if requests.prefixes is None or not record.preemptions.any():
        assert computed - again == stored
    for index, (prompt, answer) in enumerate(zip(prompts, texts.answers, strict=True)):
        whole = texts.slice(index, 0, prompt + len(answer)).tolist()
        assert whole[prompt:] == answer
        for child in (requests.parent == index).nonzero()[0].tolist():
            if requests.prefixes is not None:  # a turn begins with all that was said before it
                assert texts.slice(child, 0, len(whole)).tolist() == whole
        assert greedy(plain_logits(run.model, whole), prompt, answer), f"request {index}"
    return record


# --- what a run consists of ------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize(
    "policy", POLICIES, ids=lambda policy: f"{policy.kind}-{getattr(policy, 'wait_steps', 0)}"
)
def test_open_loop(tiny, policy, ahead) -> None:
    limit = limits(policy, budget=24, block_size=4, ahead=ahead)
    check(engine(tiny, limit), drawn(1), limit, 200)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("users", [(1,), (3,), (2, 2)])
def test_closed_loop(tiny, users, ahead) -> None:
    limit = limits(seqs=4, budget=32, ahead=ahead)
    check(engine(tiny, limit), pooled(2, users=users), limit, 200)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("policy", POLICIES[:3], ids=lambda policy: policy.kind)
def test_tight_blocks_preempt(tiny, policy, ahead) -> None:
    requests = drawn(3, prompt=12, output=30, gap=0.0)
    limit = limits(policy, budget=24, block_size=4, prefix_caching=False, ahead=ahead)
    blocks = most_blocks(requests, 4) + 2
    record = check(engine(tiny, limit, blocks), requests, limit, blocks)
    if policy.kind != "full_reservation":
        assert record.preemptions.sum() >= 3


@pytest.mark.parametrize("ahead", [False, True])
def test_a_preempted_request_finds_what_it_had(tiny, ahead) -> None:
    requests = sharing(4, output=30, gap=0.0)
    limit = limits(budget=24, block_size=4, ahead=ahead)
    blocks = most_blocks(requests, 4) + 6
    record = check(engine(tiny, limit, blocks), requests, limit, blocks)
    assert record.preemptions.sum() > 3
    assert record.cached_tokens.sum() > 0


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_shared_beginnings_are_found(tiny, block_size, ahead) -> None:
    requests = sharing(5)
    limit = limits(block_size=block_size, ahead=ahead)
    record = check(engine(tiny, limit), requests, limit, 200)
    assert record.cached_tokens.sum() >= 5 * (17 // block_size * block_size)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("tight", [False, True])
def test_conversations_continue_their_answers(tiny, tight, ahead) -> None:
    requests = talks(6, sessions=4)
    limit = limits(budget=32, ahead=ahead)
    blocks = most_blocks(requests, 4) + (3 if tight else 200)
    record = check(engine(tiny, limit, blocks), requests, limit, blocks)
    if not tight:
        children = requests.parent >= 0
        said = (requests.input_tokens + requests.output_tokens - 1)[requests.parent[children]]
        assert (record.cached_tokens[children] == said // 4 * 4).all()


def test_two_users_whose_turns_end_together_keep_their_order(tiny) -> None:
    """Both next turns come without a pause; the first one's has the higher number."""
    requests = some_requests(
        [(6, 3), (6, 3), (9, 2), (5, 2), (3, 3), (2, 2)], parent=[-1, -1, 1, 0, 2, 3]
    )
    for ahead in (False, True):
        limit = limits(seqs=2, budget=20, ahead=ahead)
        check(engine(tiny, limit), requests, limit, 200)


def test_a_window_is_seen_by_the_scheduler_too(window) -> None:
    requests = drawn(7, prompt=20)
    for block_size, ahead in ((1, False), (4, True)):
        limit = limits(budget=13, block_size=block_size, ahead=ahead)
        record = check(engine(window, limit), requests, limit, 200, span=7)
        assert (record.steps.local_context < record.steps.context).any()


def test_one_token_prompts_and_answers(tiny) -> None:
    requests = some_requests([(1, 1), (1, 1), (1, 5), (4, 1), (5, 1)])
    limit = limits(seqs=3, budget=3, block_size=4)
    check(engine(tiny, limit, 2), requests, limit, 2)


def test_no_requests_no_steps(tiny) -> None:
    steps, texts = engine(tiny).serve(some_requests([]))
    assert (steps, texts.answers) == ([], [])


def test_an_engine_serves_again(tiny) -> None:
    """Nothing of the first run is left in the second."""
    run = engine(tiny, limits(ahead=True))
    first, again = (run.serve(sharing(5))[1].answers for _ in range(2))
    assert first == again


@pytest.mark.parametrize("ahead", [False, True])
def test_nothing_is_held_at_the_end(tiny, monkeypatch, ahead) -> None:
    servers = []

    class Kept(build.Server):
        def __init__(self, *args, **options) -> None:
            super().__init__(*args, **options)
            servers.append(self)

    monkeypatch.setattr(build, "Server", Kept)
    requests = talks(9, sessions=6, pause=0.0)
    limit = limits(seqs=3, budget=16, ahead=ahead)
    engine(tiny, limit, most_blocks(requests, 4) + 2).serve(requests)
    (server,) = servers
    assert sorted(server._free_seats) == [0, 1, 2]
    assert not server._seats
    assert not server._arrivals
    assert server.kv.used == 0
    assert not server.kv.tables
    server.kv.check_integrity()


def test_progress_counts_to_the_end(tiny) -> None:
    told = []
    engine(tiny).serve(drawn(1), progress=lambda over, of: told.append((over, of)))
    assert told[-1] == (12, 12)
    assert [over for over, _ in told] == sorted(over for over, _ in told)


def test_prompts_of_the_callers(tiny) -> None:
    requests = some_requests([(5, 4), (7, 3)])
    run = engine(tiny)
    _, texts = run.serve(requests, prompts={0: [3, 1, 4, 1, 5]})
    assert texts.slice(0, 0, 5).tolist() == [3, 1, 4, 1, 5]
    whole = [3, 1, 4, 1, 5, *texts.answers[0]]
    assert greedy(plain_logits(run.model, whole), 5, texts.answers[0])


@st.composite
def runs(draw: st.DrawFn):
    requests = draw(workloads())
    policy = draw(st.sampled_from([*POLICIES, ContinuousPolicy(chunked_prefill=False)]))
    block_size = draw(st.sampled_from([1, 3, 16]))
    longest = int((requests.input_tokens + requests.output_tokens).max())
    seqs = draw(st.sampled_from([1, 2, 5]))
    whole = not getattr(policy, "chunked_prefill", True)
    budget = longest + 5 if whole else draw(st.sampled_from([5, 11, 200]))
    limit = limits(
        policy,
        seqs=min(seqs, budget),
        budget=budget,
        longest=longest + draw(st.sampled_from([0, 40])),
        block_size=block_size,
        prefix_caching=draw(st.booleans()),
        ahead=draw(st.booleans()),
    )
    return requests, limit, most_blocks(requests, block_size) + draw(st.sampled_from([0, 1, 3, 50]))


@examples(40)
@given(runs(), st.booleans())
def test_any_run(tiny, window, case, sliding) -> None:
    requests, limit, blocks = case
    run = engine(window if sliding else tiny, limit, blocks)
    check(run, requests, limit, blocks, 7 if sliding else 0)
