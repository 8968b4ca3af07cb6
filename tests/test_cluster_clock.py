"""When things happen: steps, arrivals, windows, time-outs and delays, worked out by hand.

A step with prompts takes two seconds and a decode step one, unless a test says otherwise.
"""

from __future__ import annotations

import pytest

from simulator.cluster import FrontEndTimes
from simulator.scenario.policies import DynamicPolicy, PrefillFirstPolicy, StaticPolicy
from tests.metronome import Metronome, run, same
from tests.rig import requests

# --- delays --------------------------------------------------------------------------------------


def test_front_end_and_network_are_in_the_times_of_the_client() -> None:
    """Sent at 5: 0.25 on the way, 0.5 and ten times 0.125 in the front end; prompt until 9, tokens
    at 9, 10 and 11, each a second and 0.25 later at the client."""
    record = run(
        requests((5.0, 10, 3)),
        network_s=0.25,
        front_end=FrontEndTimes(
            request_s=0.25, busy_s=0.25, busy_s_per_token=0.125, response_s=1.0
        ),
    )
    same(record.sent_s, [5.0])
    same(record.queued_s, [7.0])
    same(record.start_s, [7.0])
    same(record.first_token_s, [10.25])
    same(record.finish_s, [12.25])
    assert record.end_s == 12.25


def test_the_front_end_takes_one_request_at_a_time() -> None:
    """Twelve and a half seconds for the first, then one for the second."""
    record = run(
        requests((0.0, 100, 1), (1.0, 8, 1), (20.0, 8, 1)),
        StaticPolicy(batch_size=1),
        front_end=FrontEndTimes(request_s=0.5, busy_s_per_token=0.125),
    )
    same(record.queued_s, [13.0, 14.0, 21.5])
    same(record.start_s, [13.0, 15.0, 21.5])


def test_the_tokens_of_a_step_leave_when_all_are_handled() -> None:
    """Two prompts end at 2, two tokens come at 3 and, the second request being done, one at 4."""
    record = run(
        requests((0.0, 4, 3), (0.0, 4, 2)), front_end=FrontEndTimes(token_s=0.25, response_s=1.0)
    )
    same(record.first_token_s, [3.5, 3.5])
    same(record.finish_s, [5.25, 4.5])
    assert record.end_s == 5.25


def test_who_gives_up_in_the_front_end_never_reaches_the_queue() -> None:
    record = run(
        requests((0.0, 8, 1), (0.0, 8, 1)),
        timeout_s=3.5,
        front_end=FrontEndTimes(busy_s_per_token=0.125),
    )
    same(record.finish_s, [3.0, float("nan")])
    record = run(
        requests((0.0, 80, 1), (0.0, 8, 1)),
        timeout_s=4.0,
        front_end=FrontEndTimes(busy_s_per_token=0.125),
    )
    same(record.start_s, [float("nan")] * 2)
    assert len(record.steps) == 0


# --- planning ahead ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "joins"),
    [(6.5, 8.0), (7.0, 8.0), (7.0 + 2**-30, 9.0), (2.0, 3.0), (1.0, 3.0), (0.0, 0.0), (60.0, 60.0)],
)
def test_planned_ahead_an_arrival_waits_a_step_longer(at: float, joins: float) -> None:
    """Steps end at 2, 3, 4 …, each planned when the one before starts."""
    record = run(requests((0.0, 4, 50), (at, 4, 1)), async_scheduling=True)
    assert record.start_s[1] == joins


def test_planned_ahead_an_idle_engine_starts_at_once() -> None:
    """The first ends at 3; the second came at 2.5, when nothing was left to plan ahead for."""
    record = run(requests((0.0, 4, 2), (2.5, 4, 1)), async_scheduling=True)
    same(record.start_s, [0.0, 3.0])


# --- steps and arrivals --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "joins"),
    [(6.5, 7.0), (7.0, 7.0), (7.0 + 2**-30, 8.0), (2.0, 2.0), (1.0, 2.0), (0.0, 0.0)],
)
def test_an_arrival_cuts_a_leap_at_the_next_boundary(at: float, joins: float) -> None:
    """Steps end at 2, 3, 4 …; who arrives exactly then is still in time."""
    record = run(requests((0.0, 4, 50), (at, 4, 1)))
    same(record.queued_s, [0.0, at])
    assert record.start_s[1] == joins
    assert record.first_token_s[1] == joins + 2
    # The prompt step takes two seconds in place of one.
    assert record.finish_s[0] == (2 + 49 if joins == 0 else 2 + 49 + 1)


@pytest.mark.parametrize(("at", "joins"), [(5.0, 5.75), (5.75, 5.75), (5.8125, 7.5), (3.0, 3.0)])
def test_a_cut_lands_on_the_boundaries_of_growing_steps(at: float, joins: float) -> None:
    """Steps of 1, 1.25, 1.5, 1.75: boundaries at 2, 3, 4.25, 5.75, 7.5."""
    cost = Metronome(decode_s=-0.25, slope_s=0.25)
    record = run(requests((0.0, 4, 50), (at, 4, 1)), cost=cost)
    assert record.start_s[1] == joins


def test_a_leap_is_one_row() -> None:
    record = run(requests((0.0, 4, 50)))
    same(record.steps.steps, [1, 49])
    same(record.steps.start_s, [0.0, 2.0])
    assert record.end_s == 51.0


def test_arrivals_that_cannot_be_admitted_do_not_cut() -> None:
    """One sequence at a time: the first in the queue finds that out, the others wait behind it."""
    record = run(requests((0.0, 4, 50), *[(3.5 + i, 4, 1) for i in range(20)]), seqs=1)
    assert record.steps.steps.tolist()[:3] == [1, 2, 47]
    assert record.start_s[1] == 51.0


def test_requests_of_the_same_moment_share_a_step() -> None:
    record = run(requests((1.0, 4, 1), (1.0, 4, 1), (1.0, 4, 1)))
    same(record.finish_s, [3.0, 3.0, 3.0])
    assert len(record.steps) == 1


# --- batches -------------------------------------------------------------------------------------


def test_the_window_of_dynamic_batches() -> None:
    """Batches of three, two seconds: 0 and 1 start at 2, when 0 has waited long enough, and end at
    5. 2 (from 3.5) waits until 5.5. 3, 4 and 5 wait for its end at 8.5 and start at once, being
    three. 6 comes to an idle engine at 20; the third of its batch at 20.5 starts it."""
    asked = requests(
        (0.0, 4, 2), (1.0, 4, 2), (3.5, 4, 2), (6.0, 4, 2), (6.5, 4, 2), (8.25, 4, 2),
        (20.0, 4, 2), (20.25, 4, 2), (20.5, 4, 2),
    )  # fmt: skip
    record = run(asked, DynamicPolicy(batch_size=3, window_ms=2000.0))
    same(record.start_s, [2.0, 2.0, 5.5, 8.5, 8.5, 8.5, 20.5, 20.5, 20.5])
    same(record.finish_s - record.start_s, [3.0] * 9)


def test_a_window_that_is_over_when_the_engine_gets_idle() -> None:
    asked = requests((0.0, 4, 4), (0.5, 4, 1))
    record = run(asked, DynamicPolicy(batch_size=8, window_ms=500.0))
    same(record.start_s, [0.5, 0.5])
    asked = requests((0.0, 4, 4), (1.0, 4, 1))
    record = run(asked, DynamicPolicy(batch_size=8, window_ms=500.0))
    same(record.start_s, [0.5, 5.5])


def test_a_window_of_zero_takes_what_is_there() -> None:
    asked = requests((0.0, 4, 1), (0.0, 4, 1), (1.0, 4, 1))
    record = run(asked, DynamicPolicy(batch_size=8, window_ms=0.0))
    same(record.start_s, [0.0, 0.0, 2.0])


def test_clients_of_a_static_batch_leave_when_they_have_their_tokens() -> None:
    record = run(requests((0.0, 4, 4), (0.0, 9, 2), (0.0, 1, 1)), StaticPolicy(batch_size=2))
    same(record.finish_s, [5.0, 3.0, 7.0])
    same(record.start_s, [0.0, 0.0, 5.0])
    same(record.steps.decode, [0, 2, 2, 0])
    same(record.steps.gap_tokens, [0, 2, 1, 0])


def test_prefill_first_makes_decoding_wait() -> None:
    """0 has tokens at 2, 3 and, after the prompt of 1 that came at 2.5, at 6."""
    record = run(requests((0.0, 4, 3), (2.5, 4, 2)), PrefillFirstPolicy())
    same(record.first_token_s, [2.0, 5.0])
    same(record.finish_s, [6.0, 6.0])
    gaps = dict(zip(record.gaps.gap_s.tolist(), record.gaps.count.tolist(), strict=True))
    assert gaps == {3.0: 1, 1.0: 1}
