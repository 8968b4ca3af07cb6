"""Several answers to a prompt, thinking before answers, and where answers end.

Worked out by hand where a step with prompts takes two seconds and a decode step one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cluster import FrontEndTimes
from simulator.errors import DoesNotFitError
from simulator.results.answers import AnswerTimes, answers_section, times_of, undelivered
from simulator.results.record import COMPLETED, REJECTED, TIMED_OUT, RunRecord
from simulator.results.window import window_of
from simulator.scenario.answers import Samples
from simulator.scenario.measurement import Measurement
from simulator.scenario.policies import PrefillFirstPolicy, StaticPolicy
from simulator.scenario.scenario import Scenario
from simulator.simulation import simulate
from simulator.workload import build_requests
from simulator.workload.answers import Answers, merge_answers
from simulator.workload.mix import merge
from simulator.workload.requests import Requests
from simulator.workload.sampling import spread
from tests.agreement import assert_agree
from tests.metronome import NAN, run, same
from tests.rig import requests
from tests.strategies import CONTINUOUS, Case, batch_policies, cases, examples
from tests.test_spec_exactness import with_drafts


def sampled(asked: Requests, n: int, outputs: list[int], best_of: int | None = None) -> Requests:
    """Every prompt gets several answers of these lengths, prompt by prompt."""
    made = spread(asked, Samples(n=n, best_of=best_of), np.array(outputs), None, "workload")
    made.check_integrity()
    return made


def thinking(asked: Requests, tokens: list[int], *, hidden: bool = False) -> Requests:
    """The first so many output tokens of each request are thinking."""
    n = len(asked)
    answers = replace(Answers.plain(n), thinking=np.array(tokens), hidden=np.full(n, hidden))
    return replace(asked, answers=answers)


def times(record: RunRecord) -> AnswerTimes:
    found = times_of(record)
    assert isinstance(found, AnswerTimes)
    return found


# --- several answers to a prompt -----------------------------------------------------------------


@pytest.mark.parametrize(("prompt", "n"), [(10, 1), (10, 4), (8, 3), (9, 8), (3, 2), (100, 5)])
def test_a_prompt_is_computed_once_and_its_full_blocks_are_held_once(prompt: int, n: int) -> None:
    """As in vLLM v1, whose answers are requests with one prompt: each computes the part of the last
    block that nobody has computed for it, at least one token. Blocks have four tokens."""
    output = 9
    record = run(
        sampled(requests((0.0, prompt, output)), n, [output] * n),
        prefix_caching=True, budget=200, seqs=n,
    )  # fmt: skip
    shared = (prompt - 1) // 4
    tail = prompt - 4 * shared
    assert record.steps.prefill_tokens.sum() == prompt + (n - 1) * tail
    own = -(-(prompt + output - 1) // 4) - prompt // 4
    whole = prompt // 4 + n * own
    # A prompt that ends with a block has its last block once for each answer.
    whole += (n - 1) if prompt % 4 == 0 else 0
    assert record.steps.kv_blocks.max() == whole
    assert (record.outcome == COMPLETED).all()


def test_without_prefix_caching_every_answer_computes_the_prompt() -> None:
    record = run(sampled(requests((0.0, 10, 5)), 3, [5, 5, 5]), seqs=3)
    assert record.steps.prefill_tokens.sum() == 30


def test_a_request_lasts_from_its_first_token_to_the_last_of_any_answer() -> None:
    """All answers get their first token at 2 and one more each second."""
    record = run(sampled(requests((0.0, 4, 4)), 3, [4, 2, 7]), prefix_caching=True)
    same(record.finish_s, [5.0, 3.0, 8.0])
    seen = times(record)
    same(seen.is_request, [True, False, False])
    same(seen.ttft_ms, [2000.0, NAN, NAN])
    same(seen.e2e_ms, [8000.0, NAN, NAN])
    same(seen.tpot_ms, [1000.0, NAN, NAN])
    same(seen.normalized_ms, [8000.0 / 13, NAN, NAN])
    assert times_of(run(requests((0.0, 4, 4)))).ttft_ms[0] == 2000.0


def test_a_best_of_delivers_when_the_last_answer_has_ended() -> None:
    record = run(sampled(requests((0.0, 4, 4)), 1, [4, 2, 7], best_of=3), prefix_caching=True)
    seen = times(record)
    same(seen.ttft_ms, [8000.0, NAN, NAN])
    same(seen.e2e_ms, [8000.0, NAN, NAN])
    same(seen.tpot_ms, [1000.0, NAN, NAN])  # the pace of the answers
    window = window_of(record, Measurement(warmup_fraction=0.0, include_drain=True))
    assert window.requests == 1
    assert undelivered(record, window) == 9
    section = answers_section(record, window, seen)
    assert section["per_request"] == 3
    assert section["undelivered_tokens"] == 9
    assert section["undelivered_share"] == 9 / 13


def test_users_wait_for_the_last_of_their_answers() -> None:
    """One user, two requests of two answers each: the first one ends at 6."""
    asked = requests((0.0, 4, 1), (1.0, 4, 1), pool=[0, 0], users=(1,))
    record = run(sampled(asked, 2, [5, 2, 3, 3]), prefix_caching=True)
    same(record.sent_s, [0.0, 0.0, 7.0, 7.0])
    same(record.finish_s, [6.0, 3.0, 11.0, 11.0])


def test_a_prompt_passes_the_front_end_once_and_goes_to_one_replica() -> None:
    asked = sampled(requests((0.0, 4, 2), (0.0, 4, 2)), 3, [2] * 6)
    ends = FrontEndTimes(request_s=0.5, busy_s=1.0)
    record = run(asked, front_end=ends, replicas=2, prefix_caching=True)
    same(record.queued_s, [1.5, 1.5, 1.5, 1.5, 1.5, 1.5])  # each replica has a front end
    same(record.replica, [0, 0, 0, 1, 1, 1])


def test_a_request_is_rejected_or_late_as_a_whole() -> None:
    asked = sampled(requests((0.0, 4, 2), (0.0, 4, 2)), 2, [2, 3000, 2, 9])
    with pytest.raises(DoesNotFitError):
        run(asked)
    record = run(asked, oversized="reject", timeout_s=5.0)
    same(record.outcome, [REJECTED, REJECTED, COMPLETED, TIMED_OUT])
    same(times(record).outcome[[0, 2]], [REJECTED, TIMED_OUT])
    same(times(record).completed, [False] * 4)


@dataclass(frozen=True)
class Answering(Case):
    """A case whose prompts have several answers."""

    each: int = 1
    outputs: tuple[int, ...] = ()

    @property
    def requests(self) -> Requests:
        return sampled(super().requests, self.each, list(self.outputs))


@st.composite
def answering(draw: st.DrawFn) -> Answering:
    case = draw(cases(st.sampled_from(CONTINUOUS), prefix_caching=draw(st.booleans())))
    each = draw(st.integers(2, 4))
    outputs = []
    for req in case.reqs:
        outputs += [req.output, *(draw(st.integers(1, req.output)) for _ in range(each - 1))]
    found = {name: getattr(case, name) for name in Case.__dataclass_fields__ if name != "delays"}
    return Answering(**found, each=each, outputs=tuple(outputs))


@examples(150)
@given(answering())
def test_several_answers_agree_with_the_slow_stepper(case: Answering) -> None:
    assert_agree(case)


def test_texts_of_prompts_stay_what_they_were() -> None:
    """Answers to one prompt share all of it, those to others what they shared before."""
    asked = requests((0.0, 10, 1), (0.0, 8, 1), (0.0, 8, 1), texts=[[(5, 6)], [(5, 4), (7, 8)], []])
    made = sampled(asked, 2, [1] * 6)
    assert made.prefixes is not None
    rows = [
        list(zip(made.prefixes.stream[a:b].tolist(), made.prefixes.end[a:b].tolist(), strict=True))
        for a, b in zip(made.prefixes.offsets, made.prefixes.offsets[1:], strict=False)
    ]
    assert rows[0::2] == rows[1::2]
    assert rows[0][0] == (5, 6)
    assert rows[0][1][1] == 10
    assert rows[2] == [(5, 4), (7, 8)]
    assert [end for _, end in rows[4]] == [8]
    own = {rows[0][1][0], rows[4][0][0]}
    assert len(own) == 2
    assert not own & {5, 7}


# --- thinking ------------------------------------------------------------------------------------


def test_the_first_token_of_the_answer_is_timed_when_it_comes() -> None:
    """Tokens come at 2, 3, 4 …; the answer begins with token 4, at 5."""
    record = run(thinking(requests((0.0, 4, 10), (0.0, 4, 3)), [3, 3]))
    assert record.answer_s is not None
    same(record.answer_s, [5.0, NAN])  # the other one ends while it thinks
    seen = times(record)
    same(seen.ttft_ms, [2000.0, 2000.0])
    same(seen.ttfat_ms, [5000.0, NAN])
    window = window_of(record, Measurement(warmup_fraction=0.0, include_drain=True))
    section = answers_section(record, window, seen)
    assert section["thinking_tokens"] == 6
    assert section["thinking_share"] == 6 / 13
    assert section["without_answer_share"] == 0.5


def test_hidden_thinking_reaches_no_client() -> None:
    record = run(thinking(requests((0.0, 4, 10)), [3], hidden=True))
    seen = times(record)
    same(seen.ttft_ms, [5000.0])
    same(seen.ttfat_ms, [5000.0])
    same(seen.tpot_ms, [1000.0])
    same(seen.normalized_ms, [11_000.0 / 7])


def test_one_request_thinks_and_another_does_not() -> None:
    record = run(thinking(requests((0.0, 4, 10), (0.0, 4, 10)), [3, 0]))
    same(times(record).ttfat_ms, [5000.0, 2000.0])


@pytest.mark.parametrize("policy", [StaticPolicy(batch_size=2), PrefillFirstPolicy()])
def test_under_other_policies(policy: Any) -> None:
    record = run(thinking(requests((0.0, 4, 10), (0.0, 4, 6)), [3, 5]), policy)
    assert record.answer_s is not None
    same(record.answer_s, [5.0, 7.0])


@dataclass(frozen=True)
class Thinking(Case):
    """A case whose requests think."""

    tokens: tuple[int, ...] = ()

    @property
    def requests(self) -> Requests:
        return thinking(super().requests, list(self.tokens))


@st.composite
def pondering(draw: st.DrawFn, policies: Any) -> Thinking:
    caching, dependent = draw(st.booleans()), draw(st.booleans())
    case = draw(cases(policies, prefix_caching=caching, dependent=dependent))
    tokens = tuple(draw(st.integers(0, req.output)) for req in case.reqs)
    found = {name: getattr(case, name) for name in Case.__dataclass_fields__}
    return Thinking(**found, tokens=tokens)


def answers_agree(case: Thinking) -> None:
    fast, slow = assert_agree(case)
    if fast.answer_s is None:
        assert not any(case.tokens)
        return
    for i, (tokens, req) in enumerate(zip(case.tokens, case.reqs, strict=True)):
        begun = 0 < tokens < req.output and len(slow.token_s[i]) > tokens
        expected = slow.token_s[i][tokens] if begun else NAN
        assert fast.answer_s[i] == expected or (expected != expected), (i, case)


@examples(250)
@given(pondering(st.sampled_from(CONTINUOUS)))
def test_answers_begin_when_the_slow_stepper_says(case: Thinking) -> None:
    answers_agree(case)


@examples(80)
@given(pondering(batch_policies()))
def test_answers_of_static_batches_begin_when_the_slow_stepper_says(case: Thinking) -> None:
    answers_agree(case)


@examples(120)
@given(with_drafts(pondering(st.sampled_from(CONTINUOUS))))
def test_answers_under_speculative_decoding_begin_when_the_slow_stepper_says(
    case: Thinking,
) -> None:
    answers_agree(case)


# --- where answers end ---------------------------------------------------------------------------


def traffic(**more: Any) -> Requests:
    """Answers of 100 tokens unless something ends them."""
    workload = {
        "kind": "synthetic", "requests": 20_000,
        "arrivals": {"kind": "burst"},
        "lengths": {
            "kind": "independent",
            "input": {"kind": "fixed", "tokens": 10},
            "output": {"kind": "fixed", "tokens": 100},
        },
    }  # fmt: skip
    made = Scenario.model_validate(
        {"model": "llama-3.2-1b", "hardware": "h100-sxm", "workload": workload | more}
    )
    return build_requests(made.workload, np.random.default_rng(3))


@pytest.mark.parametrize("p", [0.3, 0.02, 0.001])
def test_stops_are_geometric(p: float) -> None:
    """E[min(G, L)] = (1 − (1 − p)^L) / p."""
    outputs = traffic(stop_per_token=p).output_tokens
    assert outputs.max() <= 100
    assert outputs.mean() == pytest.approx((1 - (1 - p) ** 100) / p, rel=0.03)
    assert (outputs == 100).mean() == pytest.approx((1 - p) ** 99, abs=0.01)


def test_max_tokens_cuts_and_says_so() -> None:
    lengths = traffic()
    assert lengths.answers is None
    assert (lengths.output_tokens == 100).all()
    cut = traffic(max_tokens=60, stop_per_token=0.02)
    assert cut.answers is not None
    assert cut.output_tokens.max() == 60
    share = cut.answers.truncated.mean()
    assert share == pytest.approx(0.98**60, abs=0.01)
    assert (cut.output_tokens[cut.answers.truncated] == 60).all()
    whole = traffic(max_tokens=100)
    assert whole.answers is None


def test_load_generators_ignore_the_end() -> None:
    outputs = traffic(max_tokens=300, ignore_eos=True)
    assert (outputs.output_tokens == 300).all()
    assert outputs.answers is None  # nothing is cut that would have gone on


def test_thinking_comes_on_top_and_has_a_budget() -> None:
    uniform = {"kind": "uniform", "low": 1, "high": 80}
    asked = traffic(reasoning={"tokens": uniform, "max_tokens": 40})
    assert asked.answers is not None
    thought = asked.answers.thinking
    assert (asked.output_tokens == thought + 100).all()
    assert thought.max() == 40
    assert thought.mean() == pytest.approx((40 * 41 / 2 + 40 * 40) / 80, rel=0.02)
    both = traffic(reasoning={"tokens": uniform}, max_tokens=50)
    assert both.answers is not None
    assert both.output_tokens.max() == 50
    assert (both.answers.thinking == np.minimum(asked_thinking(uniform), 50)).all()


def asked_thinking(tokens: dict[str, Any]) -> np.ndarray:
    answers = traffic(reasoning={"tokens": tokens}).answers
    assert answers is not None
    return answers.thinking


def test_what_is_asked_of_answers_leaves_arrivals_and_prompts_alone() -> None:
    plain = traffic(lengths=VARIED)
    thinks = traffic(lengths=VARIED, reasoning={"tokens": {"kind": "fixed", "tokens": 7}})
    assert (thinks.input_tokens == plain.input_tokens).all()
    assert (thinks.output_tokens == plain.output_tokens + 7).all()
    several = traffic(lengths=VARIED, samples={"n": 3})
    assert (several.input_tokens[::3] == plain.input_tokens).all()
    assert (several.output_tokens[::3] == plain.output_tokens).all()
    assert (several.output_tokens[1::3] != plain.output_tokens).any()


VARIED = {
    "kind": "independent",
    "input": {"kind": "uniform", "low": 5, "high": 50},
    "output": {"kind": "uniform", "low": 5, "high": 50},
}


def test_conversations_forget_what_was_thought() -> None:
    """The next prompt holds the answers alone, and finds the prompt before it in the cache."""
    sessions = {
        "kind": "sessions", "requests": 6, "arrivals": {"kind": "burst", "requests": None},
        "turns": {"kind": "fixed", "tokens": 3},
        "user_tokens": {"kind": "fixed", "tokens": 10},
        "output_tokens": {"kind": "fixed", "tokens": 20},
        "reasoning": {"tokens": {"kind": "fixed", "tokens": 50}},
    }  # fmt: skip
    sessions["arrivals"] = {"kind": "burst"}
    made = Scenario.model_validate(
        {"model": "llama-3.2-1b", "hardware": "h100-sxm", "workload": sessions}
    )
    asked = build_requests(made.workload, np.random.default_rng(1))
    asked.check_integrity()
    same(asked.input_tokens, [10, 40, 70, 10, 40, 70])
    same(asked.output_tokens, [70] * 6)
    record = run(asked, prefix_caching=True, blocks=500)
    # Full blocks of four of the prompt before: two of ten tokens, ten of forty.
    same(record.cached_tokens, [0, 8, 40, 0, 8, 40])


# --- together ------------------------------------------------------------------------------------


def test_a_mix_keeps_answers_to_a_prompt_together() -> None:
    first = sampled(requests((0.0, 4, 1), (2.0, 4, 1)), 2, [1, 2, 3, 4])
    second = thinking(requests((1.0, 4, 9), (3.0, 4, 9)), [5, 6])
    third = requests((0.5, 4, 7))
    both = merge([first, second, third], ["a", "b", "c"])
    both.check_integrity()
    assert both.answers is not None
    same(both.arrival_s, [0.0, 0.0, 0.5, 1.0, 2.0, 2.0, 3.0])
    same(both.answers.lead, [0, 0, 2, 3, 4, 4, 6])
    same(both.answers.thinking, [0, 0, 0, 5, 0, 0, 6])
    assert merge_answers([None, None], [1, 2], np.arange(3)) is None
    part = both.first(5)
    part.check_integrity()
    assert len(part) == 6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lead": np.array([0, 0, 2, 0])}, "answers to a prompt stand apart"),
        ({"lead": np.array([0, 2, 2, 3])}, "answers to a prompt stand apart"),
        ({"thinking": np.array([0, 9, 0, 0])}, "more thinking than tokens"),
    ],
)
def test_broken_columns_are_refused(change: dict[str, Any], said: str) -> None:
    asked = sampled(requests((0.0, 4, 1), (2.0, 4, 1)), 2, [1, 2, 3, 4])
    assert asked.answers is not None
    with pytest.raises(ValueError, match=said):
        replace(asked, answers=replace(asked.answers, **change)).check_integrity()


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"samples": {"n": 3, "best_of": 2}}, r"best_of \(2\) is below n \(3\)"),
        ({"ignore_eos": True}, "ignore_eos needs max_tokens"),
        ({"stop_per_token": 1.0}, "less than 1"),
    ],
)
def test_what_cannot_be_is_refused(given_: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        traffic(**given_)


def test_a_whole_run_says_what_its_answers_were() -> None:
    workload = {
        "kind": "synthetic", "requests": 200,
        "arrivals": {"kind": "poisson", "rate_per_s": 5.0},
        "lengths": VARIED,
        "samples": {"n": 2, "best_of": 4},
        "reasoning": {"tokens": {"kind": "uniform", "low": 1, "high": 60}},
        "max_tokens": 80,
    }  # fmt: skip
    result = simulate(
        Scenario.model_validate(
            {"model": "llama-3.2-1b", "hardware": "h100-sxm", "workload": workload}
        )
    )
    summary = result.summary()
    assert not summary["checks"]["violations"]
    assert summary["requests"]["total"] == 200
    assert summary["requests"]["counted"] == 190
    assert summary["answers"]["per_request"] == 4
    assert 0.3 < summary["answers"]["undelivered_share"] < 0.7
    assert summary["latency"]["ttft_ms"]["n"] == 190
    made = summary["requests"]["output_tokens"]
    assert made == int(result.record.generated[40:].sum())
    rate, span = summary["throughput"], summary["run"]["window"]["duration_s"]
    assert rate["requests_per_s"] * span <= 190
    assert rate["output_tokens_per_s"] * span < 0.7 * made
    assert {"answer_to", "delivered", "thinking_tokens", "truncated", "ttfat_ms"} <= set(
        result.requests.columns
    )
    assert "uncertainty" in summary
