"""Clients that give up, wait for answers or ask for too much, and a user who interrupts: worked out
by hand.

A step with prompts takes two seconds and a decode step one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator.cluster import FrontEndTimes
from simulator.errors import DoesNotFitError
from simulator.results.record import COMPLETED, REJECTED, TIMED_OUT, UNFINISHED
from simulator.scenario.policies import ContinuousPolicy, PrefillFirstPolicy, StaticPolicy
from simulator.workload.requests import OPEN_LOOP, ROOT, Requests
from tests.metronome import NAN, run, same
from tests.rig import requests
from tests.sane import tokens_in_rows

# --- giving up -----------------------------------------------------------------------------------


def test_a_client_gives_up_in_the_queue() -> None:
    """0 runs until 5, 1 from then on, 2 is still in the queue at 6.5; 1 would be done at 10."""
    asked = requests((0.0, 4, 4), (0.0, 4, 4), (0.0, 4, 1))
    record = run(asked, seqs=1, timeout_s=6.5)
    same(record.outcome, [COMPLETED, TIMED_OUT, TIMED_OUT])
    same(record.start_s, [0.0, 5.0, NAN])
    same(record.generated, [4, 1, 0])  # the engine notices at 7, when the prompt of 1 is done
    same(record.finish_s, [5.0, NAN, NAN])


def test_a_running_request_is_dropped_at_the_next_boundary() -> None:
    """Tokens at 2, 3, 4 …; the client is gone at 5.5, the engine notices at 6."""
    record = run(requests((0.0, 4, 50)), timeout_s=5.5)
    same(record.outcome, [TIMED_OUT])
    same(record.generated, [5])
    same(record.first_token_s, [2.0])
    assert record.end_s == 6.0
    assert tokens_in_rows(record) == 5


def test_a_last_token_before_the_deadline_is_in_time() -> None:
    same(run(requests((0.0, 4, 5)), timeout_s=6.0 + 2**-20).outcome, [COMPLETED])
    same(run(requests((0.0, 4, 5)), timeout_s=6.0 - 2**-20).outcome, [TIMED_OUT])


def test_a_token_on_its_way_at_the_deadline_is_late() -> None:
    """Tokens leave the engine at 2.25 … 6.25 and are at the client half a second later."""
    record = run(
        requests((0.0, 4, 5)),
        timeout_s=6.25,
        network_s=0.25,
        front_end=FrontEndTimes(response_s=0.25),
    )
    same(record.outcome, [TIMED_OUT])
    same(record.finish_s, [NAN])
    same(record.first_token_s, [2.75])
    same(
        run(
            requests((0.0, 4, 5)),
            timeout_s=6.75,
            network_s=0.25,
            front_end=FrontEndTimes(response_s=0.25),
        ).outcome,
        [COMPLETED],
    )


def test_a_partial_prompt_is_dropped_and_makes_room() -> None:
    """Chunks of 8 of 40 tokens; three are done when the engine notices at 6."""
    asked = requests((0.0, 40, 1), (5.5, 4, 1))
    record = run(asked, budget=8, blocks=10, timeout_s=5.0)
    same(record.outcome, [TIMED_OUT, COMPLETED])
    same(record.start_s, [0.0, 6.0])
    same(record.steps.prefill_tokens, [8, 8, 8, 4])
    same(record.first_token_s, [NAN, 8.0])


def test_a_paused_request_is_dropped() -> None:
    """0 has one token at 2 and waits for three chunks of 1; it leaves at 6 with that one."""
    asked = requests((0.0, 4, 50), (1.0, 24, 1))
    record = run(asked, PrefillFirstPolicy(), budget=8, timeout_s=5.5)
    same(record.generated, [1, 1])
    same(
        record.outcome, [TIMED_OUT, TIMED_OUT]
    )  # the token of 1 comes at 8, its client left at 6.5
    record = run(asked, PrefillFirstPolicy(), budget=8, timeout_s=7.5)
    same(record.outcome, [TIMED_OUT, COMPLETED])
    same(record.first_token_s, [2.0, 8.0])
    assert tokens_in_rows(record) == record.generated.sum()


def test_a_preempted_request_gives_up_while_it_waits() -> None:
    asked = requests((0.0, 7, 9), (0.0, 7, 9))
    record = run(asked, blocks=4, timeout_s=8.0)
    same(record.preemptions, [0, 1])
    same(record.outcome, [TIMED_OUT, TIMED_OUT])
    same(record.generated, [7, 2])


def test_a_slot_of_a_static_batch_runs_on_without_its_client() -> None:
    asked = requests((0.0, 4, 9), (0.0, 4, 3), (1.0, 4, 1))
    record = run(asked, StaticPolicy(batch_size=2), timeout_s=4.5)
    same(record.outcome, [TIMED_OUT, COMPLETED, TIMED_OUT])
    same(record.generated, [4, 3, 1])  # the token of 2 comes at 7, its client left at 5.5
    same(record.start_s, [0.0, 0.0, 5.0])


def test_time_outs_do_not_stretch_the_run() -> None:
    record = run(requests((0.0, 4, 2), (1.0, 4, 2)), timeout_s=1000.0)
    assert record.end_s == 5.0
    assert (record.outcome == COMPLETED).all()


# --- what can never fit --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "more", "why"),
    [
        ((1990, 11), {}, "1990 prompt + 11 output = 2001 tokens, more than max_model_len"),
        ((30, 12), {"blocks": 10}, "needs 11 KV blocks of 4 tokens, but a replica has 10"),
        (
            (90, 12),
            {"policy": ContinuousPolicy(chunked_prefill=False)},
            "more than max_num_batched_tokens",
        ),
    ],
)
def test_a_request_that_never_fits(size: tuple[int, int], more: dict[str, Any], why: str) -> None:
    asked = requests((0.0, 4, 2), (0.5, *size), (1.0, 4, 2))
    with pytest.raises(DoesNotFitError, match="request 1 has") as caught:
        run(asked, **more)
    assert why in str(caught.value)
    assert "1 of 3 requests" in caught.value.hint
    record = run(asked, oversized="reject", **more)
    same(record.outcome, [COMPLETED, REJECTED, COMPLETED])
    same(record.sent_s, [0.0, 0.5, 1.0])
    same(record.queued_s, [0.0, NAN, 1.0])
    same(record.generated, [2, 0, 2])


@pytest.mark.parametrize(
    ("size", "more"),
    [
        ((1990, 10), {}),
        ((30, 11), {"blocks": 10}),
        ((90, 11), {"policy": ContinuousPolicy(chunked_prefill=False)}),
    ],
)
def test_the_largest_request_that_fits(size: tuple[int, int], more: dict[str, Any]) -> None:
    same(run(requests((0.0, *size)), **more).outcome, [COMPLETED])


def test_limits_that_contradict_each_other() -> None:
    with pytest.raises(
        DoesNotFitError, match=r"max_num_batched_tokens \(4\) is below max_num_seqs"
    ):
        run(requests((0.0, 1, 1)), budget=4, seqs=8)


# --- requests that wait for others ---------------------------------------------------------------


def closed_loop(n: int, users: int, *, think: float, output: int = 2) -> Requests:
    return requests(*[(think, 4, output)] * n, pool=[0] * n, users=(users,))


def test_users_of_a_closed_loop_think_and_go_on() -> None:
    """Both send at 1, are served at 4 and send again at 5."""
    record = run(closed_loop(4, 2, think=1.0))
    same(record.sent_s, [1.0, 1.0, 5.0, 5.0])
    same(record.finish_s, [4.0, 4.0, 8.0, 8.0])


def test_thinking_begins_when_the_client_has_the_answer() -> None:
    record = run(
        closed_loop(2, 1, think=1.0),
        network_s=0.5,
        front_end=FrontEndTimes(request_s=0.125, response_s=0.25),
    )
    same(record.sent_s, [1.0, 1.0 + 0.5 + 0.125 + 3.0 + 0.75 + 1.0])


def test_never_more_requests_than_users() -> None:
    record = run(closed_loop(30, 3, think=0.0, output=7), seqs=8)
    events = [(t, 1) for t in record.sent_s] + [(t, -1) for t in record.finish_s]
    level = np.cumsum([change for _, change in sorted(events)])
    assert level.max() == 3
    assert (record.outcome == COMPLETED).all()


def test_an_answer_without_delay_is_in_time_for_the_next_step() -> None:
    """0 ends at 3; its user's next request takes part in the step that begins then."""
    asked = requests((0.0, 4, 2), (0.0, 4, 9), (0.0, 4, 1), pool=[0, 0, 0], users=(2,))
    record = run(asked)
    same(record.sent_s, [0.0, 0.0, 3.0])
    same(record.start_s, [0.0, 0.0, 3.0])


def test_a_turn_follows_the_answer_before_it() -> None:
    asked = requests((1.0, 4, 2), (5.0, 8, 2), (0.5, 12, 1), parent=[ROOT, 0, 1])
    record = run(asked, network_s=0.25)
    same(record.sent_s, [1.0, 4.5 + 5.0, 9.5 + 3.5 + 0.5])


def test_a_failed_turn_ends_the_session() -> None:
    asked = requests((0.0, 4, 50), (1.0, 8, 2), (1.0, 12, 2), parent=[ROOT, 0, 1])
    record = run(asked, timeout_s=5.0)
    same(record.outcome, [TIMED_OUT, UNFINISHED, UNFINISHED])
    same(record.sent_s, [0.0, NAN, NAN])
    asked = requests((0.0, 1999, 2), (1.0, 8, 2), parent=[ROOT, 0])
    record = run(asked, oversized="reject")
    same(record.outcome, [REJECTED, UNFINISHED])


def test_a_user_whose_request_failed_goes_on() -> None:
    """Gives up at 2.5, thinks a second; the engine drops the request at 3."""
    asked = requests(
        (0.0, 4, 50), (1.0, 4, 1), (1.0, 1999, 2), (1.0, 4, 1), pool=[0] * 4, users=(1,)
    )
    record = run(asked, timeout_s=2.5, oversized="reject", network_s=0.25)
    same(record.outcome, [TIMED_OUT, COMPLETED, REJECTED, COMPLETED])
    same(record.sent_s, [0.0, 3.5, 3.5 + 2.5 + 1.0, 7.0 + 0.5 + 1.0])


def test_two_pools_do_not_mix() -> None:
    asked = requests(
        (0.0, 4, 2), (0.0, 4, 6), (0.0, 4, 2), (0.0, 4, 6), pool=[0, 1, 0, 1], users=(1, 1)
    )
    record = run(asked)
    assert record.sent_s[2] == record.finish_s[0]
    assert record.sent_s[3] == record.finish_s[1]
    assert (asked.pool != OPEN_LOOP).all()


# --- interruption --------------------------------------------------------------------------------


def test_ctrl_c_keeps_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    import simulator.cluster.run

    monkeypatch.setattr(simulator.cluster.run, "_PROGRESS_EVERY", 10)

    def stop(done: int, total: int, clock_s: float) -> None:
        if done >= 30:
            raise KeyboardInterrupt

    asked = requests(*[(0.25 * i, 4, 1 + i % 7) for i in range(100)])
    record = run(asked, check=False, progress=stop, seqs=4)
    assert record.interrupted
    done = record.outcome == COMPLETED
    assert 30 <= done.sum() < 40
    assert (record.outcome[~done] == UNFINISHED).all()
    assert (record.generated[done] == asked.output_tokens[done]).all()
    assert record.finish_s[done].max() <= record.end_s
    assert tokens_in_rows(record) == record.generated.sum()
    whole = run(asked, seqs=4)
    same(record.finish_s[done], whole.finish_s[done].tolist())
    assert not whole.interrupted


def test_ctrl_c_at_the_last_report_keeps_everything() -> None:
    def stop(done: int, total: int, clock_s: float) -> None:
        raise KeyboardInterrupt

    record = run(requests((0.0, 4, 2)), check=False, progress=stop)
    same(record.outcome, [COMPLETED])
    assert record.end_s == 3.0


def test_progress_counts_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    import simulator.cluster.run

    monkeypatch.setattr(simulator.cluster.run, "_PROGRESS_EVERY", 7)
    seen: list[tuple[int, int, float]] = []
    asked = requests(*[(float(i), 4, 2) for i in range(20)])
    record = run(asked, progress=lambda *now: seen.append(now))
    assert [done for done, _, _ in seen] == [7, 14, 20]
    assert {total for _, total, _ in seen} == {20}
    assert [clock for _, _, clock in seen] == sorted(clock for _, _, clock in seen)
    assert seen[-1][2] >= record.end_s


def test_two_runs_are_the_same_and_do_not_know_of_each_other() -> None:
    asked = requests(*[(0.3 * i, 4 + i % 9, 1 + i % 7) for i in range(60)])
    first = run(asked, blocks=9, seqs=4)
    run(closed_loop(9, 2, think=0.0))
    second = run(asked, blocks=9, seqs=4)
    for name in ("sent_s", "start_s", "first_token_s", "finish_s", "preemptions"):
        same(getattr(first, name), getattr(second, name).tolist())
    assert first.preemptions.sum() > 0
