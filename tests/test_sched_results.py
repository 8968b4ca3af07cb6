"""What a result says of each class, of refusals and of fairness; orders where replicas have lanes or
sequences draft."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import ScenarioError, UserError
from simulator.resolution.terms import ClassTerms
from simulator.results import Result
from simulator.results.classes import served_tokens
from simulator.results.integrity import check_integrity
from simulator.results.record import COMPLETED, REJECTED
from simulator.scenario.admission import (
    Admission,
    KvUseRule,
    PredictedTtftRule,
    QueueLengthRule,
)
from simulator.scenario.load import load_scenario
from simulator.scenario.queue import FCFS, DeadlineQueue, ShortestFirstQueue
from simulator.scenario.scenario import Scenario
from simulator.simulation import simulate
from tests.agreement import assert_agree
from tests.dyadic import TICK_S
from tests.dyadic_lanes import DyadicLockstep, DyadicPipeline
from tests.sched_support import CONSTANT, STEP_S, requests, serve
from tests.strategies import CONTINUOUS, Case, cases, examples
from tests.test_spec_exactness import with_drafts


def scenario(**changes: Any) -> Scenario:
    """Two classes, of which the second sends three times the tokens of the first."""

    def traffic(name: str, tokens: int, **more: Any) -> dict[str, Any]:
        lengths = {
            "kind": "independent",
            "input": {"kind": "fixed", "tokens": tokens},
            "output": {"kind": "fixed", "tokens": tokens},
        }
        arrivals = {"kind": "constant", "rate_per_s": 20.0}
        return {
            "name": name,
            "workload": {
                "kind": "synthetic", "requests": 100, "arrivals": arrivals, "lengths": lengths,
            },
            **more,
        }  # fmt: skip

    made: dict[str, Any] = {
        "model": "llama-3.2-1b",
        "hardware": "h100-sxm",
        "engine": {"max_num_seqs": 4},
        "measurement": {"warmup_fraction": 0.0, "include_drain": True},
        "workload": {
            "kind": "mix",
            "classes": [
                traffic("small", 50, slo={"ttft_ms": 200.0}),
                traffic("large", 150, weight=changes.pop("weight", 1.0)),
            ],
        },
    }
    for key, value in changes.items():
        made[key] = made.get(key, {}) | copy.deepcopy(value)
    return Scenario.model_validate(made)


def run(**changes: Any) -> Result:
    result: Result = simulate(scenario(**changes), intervals=False)
    return result


def test_figures_of_each_class_are_those_of_its_requests() -> None:
    rules = [{"kind": "queue_length", "max_waiting": 3}]
    result = run(deployment={"admission": {"rules": rules}})
    summary, record = result.summary(), result.record
    for number, (_, entry) in enumerate(summary["classes"].items()):
        own = record.requests.class_id == number
        assert entry["rejected"] == int((own & (record.outcome == REJECTED)).sum())
        assert entry["completed"] == int((own & (record.outcome == COMPLETED)).sum())
        assert entry["counted"] == entry["rejected"] + entry["completed"]
    assert summary["requests"]["refusals"] == int((record.outcome == REJECTED).sum()) > 20
    small = summary["classes"]["small"]
    assert small["goodput_share"] == summary["slo"]["classes"]["small"]["met_share"]
    assert summary["classes"]["large"]["goodput_share"] is None
    # Refused requests are misses.
    assert small["goodput_share"] <= small["completed"] / small["counted"]
    assert any("refused by admission control" in warning for warning in summary["warnings"])


@pytest.mark.parametrize(("weight", "index"), [(1.0, 16 / 20), (3.0, 1.0), (9.0, 16 / 20)])
def test_fairness_is_jain_s_index(weight: float, index: float) -> None:
    """Tokens 1 : 3. Over weights 1 : 3 both got the same; x = (1, 3) gives 16 / (2 · 10)."""
    result = run(weight=weight)
    assert result.summary()["fairness"]["jain_index"] == pytest.approx(index, rel=1e-12)
    tokens = [served_tokens(result.times, result.window, i) for i in (0, 1)]
    assert tokens == [100 * 100, 100 * 300]


def test_one_class_has_no_fairness() -> None:
    chosen = scenario()
    alone = chosen.workload.classes[0].workload  # type: ignore[union-attr]
    result = simulate(chosen.model_copy(update={"workload": alone}), intervals=False)
    assert result.summary()["fairness"] == {"jain_index": None}
    assert result.summary()["classes"] == {}


def test_speculation_goes_with_orders_that_count_no_tokens() -> None:
    """The others are refused, with what would be right."""
    drafts = {"kind": "ngram", "tokens": 3, "acceptance": 0.5}
    for kind in ("priority", "fair"):
        with pytest.raises(ScenarioError, match="use fcfs, shortest_first or deadline"):
            run(engine={"queue": {"kind": kind}, "speculative": drafts})


TERMS = (ClassTerms(1, 1.0, 500 * TICK_S, 9000 * TICK_S), ClassTerms(0, 2.0, 3000 * TICK_S, None))


@st.composite
def drafting(draw: st.DrawFn) -> Case:
    case = draw(with_drafts(cases(st.sampled_from(CONTINUOUS))))
    queue = draw(st.sampled_from([ShortestFirstQueue(), DeadlineQueue(defer_hopeless=True)]))
    reqs = tuple(replace(req, kind=draw(st.integers(0, 1))) for req in case.reqs)
    return replace(case, reqs=reqs, limits=replace(case.limits, queue=queue), terms=TERMS)


@examples(80)
@given(drafting())
def test_orders_with_drafts_agree_with_the_slow_stepper(case: Case) -> None:
    assert_agree(case)


LANES = [DyadicPipeline((CONSTANT, CONSTANT)), DyadicLockstep(CONSTANT, ranks=3)]


@pytest.mark.parametrize("cost", LANES, ids=lambda cost: type(cost).__name__)
def test_gates_stand_before_replicas_with_lanes_too(cost: Any) -> None:
    """Overload, half of which is refused: nobody waits much longer than allowed, nothing leaks."""
    rng = np.random.default_rng(4)
    n, limit = 900, 200 * STEP_S
    traffic = requests(np.cumsum(rng.exponential(4 * STEP_S, n)), rng.geometric(0.05, n))
    terms = (ClassTerms(ttft_s=limit),)
    most = Admission(rules=(QueueLengthRule(max_waiting=6),))
    few = serve(traffic, FCFS, terms, cost=cost, admission=most)
    assert (few.steps.waiting <= 6).all()
    soon = serve(traffic, FCFS, terms, cost=cost, admission=Admission(rules=(PredictedTtftRule(),)))
    for record in (few, soon):
        check_integrity(record)
        refused = float((record.outcome == REJECTED).mean())
        assert 0.1 < refused < 0.9
        assert record.refusals == int((record.outcome == REJECTED).sum())
    ttft = (soon.first_token_s - soon.sent_s)[soon.outcome == COMPLETED]
    assert float(np.percentile(ttft, 90)) < 2 * limit
    free = serve(traffic, FCFS, terms, cost=cost)
    assert float(np.median(free.first_token_s - free.sent_s)) > 3 * limit
    # More than the blocks of all lanes is never in use: nobody is refused for that.
    roomy = Admission(rules=(KvUseRule(max_use=1.0),))
    assert serve(traffic, FCFS, terms, cost=cost, admission=roomy).refusals == 0
    tight = Admission(rules=(KvUseRule(max_use=2 / 30),))
    assert serve(traffic, FCFS, terms, cost=cost, admission=tight, blocks=30).refusals > 100


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"deployment": {"admission": {"rules": []}}}, "needs at least 1 entry"),
        ({"engine": {"queue": {"kind": "sjf"}}}, "kind: must be one of fcfs, priority, shortest"),
        (
            {"engine": {"queue": {"kind": "fair", "input_weight": 0.0, "output_weight": 0.0}}},
            "nothing is service",
        ),
        (
            {
                "engine": {
                    "queue": {
                        "kind": "shortest_first", "output_weight": 0.0, "prediction_error": 0.1,
                    }
                }
            },
            "no output is predicted",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_named(change: dict[str, Any], complaint: str) -> None:
    document = scenario().model_dump(mode="json")
    for key, value in change.items():
        document[key] = document[key] | value
    with pytest.raises(UserError) as caught:
        load_scenario(document)
    assert complaint in str(caught.value)
