"""What binds adds up, waits where it must, and a change does what running it does."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from simulator import Result, load_scenario, simulate
from simulator.cli import cli
from simulator.errors import UserError
from simulator.planner.explanation.binding import operators, resources
from simulator.planner.explanation.changes import changes, phrase
from simulator.planner.explanation.explain import explain, explain_result
from simulator.planner.explanation.sensitivities import (
    FIGURES,
    Effect,
    Sensitivity,
    _effect,
    _sorted,
    sensitivities,
)
from simulator.planner.explanation.waits import PARTS, Waits, waits
from simulator.planner.jobs.backends.local import LocalBackend
from simulator.planner.jobs.doing import do_task
from simulator.planner.jobs.tasks import Task
from simulator.planner.jobs.work import Work
from simulator.results.definitions import value_at
from simulator.results.fleet import parts_of
from simulator.scenario import Scenario
from simulator.scenario.dump import compact
from tests.test_plan_load import chat

EXAMPLES = {
    "chat-8b-h100": ("workload.slice.requests=300",),
    "swap-preemption": ("workload.requests=150",),
    "disaggregated-70b-h100": ("workload.requests=300",),
    "pipeline-70b-l40s": ("workload.requests=100",),
    "static-batching": (),
    "scale-to-zero-70b-h100": (),
    "admission-8b-l40s": ("workload.duration_s=60",),
    "speculative-70b-h200": (),
    "sessions-prefix-aware": ("workload.requests=300",),
    "data-parallel-attention-deepseek-v3-h200": ("workload.requests=200",),
    "best-of-8b-h100": (),
    "failover-8b-h100": ("workload.requests=400",),
    "two-models-one-gpu": (),
}


def ran(scenario: Scenario | str, *sets: str) -> Result:
    found = load_scenario(scenario, sets) if isinstance(scenario, str) else scenario
    return simulate(found, intervals=False)


def split(result: Result) -> Waits:
    return waits(result.record, result.members, result.window)


def mean_ms(parts: dict[str, Any], *names: str) -> float:
    return 1e3 * float(sum(parts[name].mean() for name in names))


# --- what requests wait for ----------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_parts_add_up_to_what_clients_see(name: str) -> None:
    result = ran(name, *EXAMPLES[name])
    found = split(result)
    record = result.record
    for parts, end in ((found.ttft, record.first_token_s), (found.e2e, record.finish_s)):
        whole = np.sum(list(parts.values()), axis=0)
        assert whole == pytest.approx((end - record.sent_s)[found.rows], rel=1e-9, abs=1e-9)
        assert all(part.min() >= -1e-12 for part in parts.values())
    assert sum(found.admission.values()) == pytest.approx(1.0)
    assert min(found.admission.values()) >= 0.0


def test_queueing_is_what_results_call_so() -> None:
    result = ran("mixed-classes-8b-h100", "workload.classes.0.workload.duration_s=60",
                 "workload.classes.1.workload.duration_s=60")  # fmt: skip
    names = ("step_under_way", "sequence_slots", "kv_blocks", "token_budget", "adapter_slots",
             "batch")  # fmt: skip
    queueing = result.summary()["latency"]["queueing_ms"]["mean"]
    assert mean_ms(split(result).ttft, *names) == pytest.approx(queueing, rel=1e-9)


def waits_of(**engine: Any) -> Waits:
    workload = chat(9.0).workload.model_dump()
    scenario = chat(workload=workload, engine={"profile": "vllm", "prefix_caching": False} | engine)
    return split(ran(scenario))


@pytest.mark.parametrize(
    ("engine", "culprit"),
    [
        ({"max_num_seqs": 4}, "sequence_slots"),
        ({"kv_cache_tokens": 6000}, "kv_blocks"),
        ({"max_num_batched_tokens": 128, "max_num_seqs": 64}, "token_budget"),
        ({"policy": {"kind": "static", "batch_size": 8}}, "batch"),
        ({"policy": {"kind": "full_reservation"}, "kv_cache_tokens": 6000}, "kv_blocks"),
    ],
)
def test_the_limit_that_is_tight_is_named(engine: dict[str, Any], culprit: str) -> None:
    """Of a crowd, one limit made tight keeps nearly all of the waiting out, most of the time."""
    found = waits_of(**engine)
    queued = {name: part.mean() for name, part in found.ttft.items() if name in found.admission}
    assert max(queued, key=lambda name: queued[name]) == culprit
    assert queued[culprit] > 0.8 * sum(queued.values())
    assert found.admission[culprit] > 0.5


def test_prompts_that_may_not_be_split_wait_for_the_budget() -> None:
    """A burst of prompts of 1,000 tokens, 1,500 a step: one enters with every step."""
    workload = chat().workload.model_dump() | {
        "arrivals": {"kind": "burst"}, "requests": 16,
        "lengths": {"kind": "independent", "input": {"kind": "fixed", "tokens": 1000},
                    "output": {"kind": "fixed", "tokens": 60}},
    }  # fmt: skip
    engine = {"profile": "vllm", "prefix_caching": False, "max_num_batched_tokens": 1500,
              "max_num_seqs": 64,
              "policy": {"kind": "continuous", "chunked_prefill": False}}  # fmt: skip
    measurement = {"warmup_fraction": 0.0}
    found = split(ran(chat(workload=workload, engine=engine, measurement=measurement)))
    for other in ("kv_blocks", "sequence_slots"):
        assert found.ttft[other].max() < 1e-9
    assert mean_ms(found.ttft, "token_budget") > 5 * mean_ms(found.ttft, "step_under_way")


def test_adapters_keep_others_out() -> None:
    sets = ("workload.requests=600", "engine.lora.max_loras=2")
    found = split(ran("lora-adapters-8b-h100", *sets))
    assert found.ttft["adapter_slots"].mean() > 10 * found.ttft["kv_blocks"].mean()
    assert found.admission["adapter_slots"] > 0.3


def test_pools_on_the_same_devices_wait_for_each_other() -> None:
    found = split(ran("two-models-one-gpu"))
    alone = split(ran(chat(6.0)))
    assert mean_ms(alone.e2e, "stall") == 0.0
    assert mean_ms(found.e2e, "stall") > 0.1 * mean_ms(found.e2e, "decode")
    assert mean_ms(found.e2e, "front_end") < 0.02 * mean_ms(found.e2e, "decode")


def test_one_seat_keeps_out_whoever_comes_while_it_is_taken() -> None:
    """M/G/1: the queue holds somebody for ever larger shares of the time as the load rises."""
    shares = []
    for rate in (0.2, 0.6, 1.5):
        result = ran(chat(rate, engine={"profile": "vllm", "max_num_seqs": 1}))
        found = split(result)
        waiting = result.summary()["scheduling"]["waiting_mean"]
        assert found.admission["sequence_slots"] <= waiting + 1e-9  # at least one of them
        shares.append(found.admission["sequence_slots"])
        assert found.ttft["kv_blocks"].max() < 0.2  # a step at most
    assert shares == sorted(shares)
    assert shares[0] < 0.1 < 0.9 < shares[-1]


def test_alone_there_is_nothing_but_work() -> None:
    workload = chat().workload.model_dump() | {
        "arrivals": {"kind": "closed_loop", "concurrency": 1}, "requests": 20,
    }  # fmt: skip
    result = ran(chat(workload=workload))
    found = split(result)
    only = {name for name, part in found.e2e.items() if part.max() > 1e-9}
    assert only == {"front_end", "prefill", "decode"}
    record, rows = result.record, found.rows
    decode = (record.finish_s - record.first_token_s)[rows]
    assert found.e2e["decode"] == pytest.approx(decode, rel=1e-4)  # tokens are handed out
    assert found.admission == pytest.approx({"arrivals": 1.0} | dict.fromkeys(
        ("sequence_slots", "kv_blocks", "token_budget", "adapter_slots", "batch"), 0.0))  # fmt: skip


def test_network_transfer_and_gateway_are_as_results_have_them() -> None:
    result = ran("disaggregated-70b-h100", "workload.requests=300", "deployment.network_ms=7")
    found = split(result)
    transfer = result.summary()["handover"]["transfer_ms"]["mean"]
    assert mean_ms(found.ttft, "kv_transfer", "decode_blocks") == pytest.approx(transfer, rel=1e-3)
    assert found.ttft["network"] == pytest.approx(np.full(len(found.rows), 0.014), rel=1e-9)
    result = ran("scale-to-zero-70b-h100")
    waited = result.summary()["fleet"]["waited_ms"]
    gateway = split(result).ttft["gateway"]
    assert 1e3 * gateway[gateway > 1e-6].mean() == pytest.approx(waited["mean"], rel=1e-3)


def test_preemption_costs_what_the_gaps_say() -> None:
    """A preempted request's missed steps last as long as the gap between its tokens does beyond a
    step."""
    result = ran("swap-preemption", "engine.preemption={kind: recompute}", "workload.requests=250",
                 "measurement.warmup_fraction=0")  # fmt: skip
    found = split(result)
    preempted = result.record.preemptions[found.rows] > 0
    assert preempted.any()
    assert found.e2e["preemption"][~preempted].max() == 0.0
    gaps = result.record.gaps
    gone = float((gaps.gap_s * gaps.count).sum())
    assert float(found.e2e["preemption"].sum()) == pytest.approx(gone, rel=0.15)


def test_prompts_of_others_stretch_decode_steps() -> None:
    """What the parts say is what the steps of a run without the others' prompts leave out."""
    found = split(ran(chat(4.0)))
    few = split(ran(chat(0.05)))
    assert mean_ms(few.e2e, "prompts") < 0.03 * mean_ms(found.e2e, "prompts")
    assert mean_ms(found.e2e, "prompts") > 0.05 * mean_ms(found.e2e, "decode")


# --- what steps are bound by ---------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_shares_of_operators_and_resources_add_up(name: str) -> None:
    result = ran(name, *EXAMPLES[name])
    parts = parts_of(result.members, result.record, result.window)
    found, bound = operators(parts, result.window), resources(parts)
    assert sum(each.share for each in found) == pytest.approx(1.0)
    assert sum(each.share for each in bound) == pytest.approx(1.0)
    for part in parts:  # each operator's time, split by what binds it
        whole = part.accountant.account(part.record.steps).operator_s
        split_s = part.accountant.binding(part.record.steps)  # type: ignore[attr-defined]
        for operator, by in split_s.items():
            assert sum(by.values()) == pytest.approx(float(whole[operator].sum()), rel=1e-6)


def test_a_resource_saves_what_it_binds() -> None:
    result = ran(chat())
    for each in resources(parts_of(result.members, result.record, result.window)):
        assert each.tenth_faster_saves == pytest.approx(each.share / 11)


def test_the_turning_batch_is_that_of_check() -> None:
    checked = json.loads(CliRunner().invoke(cli, ["check", "chat-8b-h100", "--json"]).output)
    (balance,) = explain_result(ran("chat-8b-h100", "workload.slice.requests=300")).balances
    text = json.dumps(checked)
    assert balance.products_from is not None
    assert f'"products": {balance.products_from}' in text


# --- changes -------------------------------------------------------------------------------------


SMALL = {
    "plain": chat(6.0, 150),
    "replicas": chat(9.0, 150, deployment={"replicas": 2}, parallelism={"tp": 2},
                     hardware="h100-sxm"),
    "pools": load_scenario("disaggregated-70b-h100", ["workload.requests=60"]),
    "classes": load_scenario("mixed-classes-8b-h100"),
    "sessions": load_scenario("sessions-prefix-aware", ["workload.requests=60"]),
    "batches": load_scenario("static-batching"),
    "scaled": load_scenario("scale-to-zero-70b-h100"),
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_every_change_is_its_set_options(name: str) -> None:
    scenario = SMALL[name]
    document = compact(scenario)
    found = changes(scenario)
    assert len({change.key for change in found}) == len(found) > 15
    for change in found:
        if change.scenario is not None:
            assert change.sets, change.key
            assert load_scenario(document, change.sets) == change.scenario, change.key
            assert change.scenario != scenario


def test_a_change_is_what_running_it_says(tmp_path: Any) -> None:
    """The same figures as ``simulate run --set …``, for every change of a small chat."""
    from simulator.scenario import dump_scenario

    scenario = chat(6.0, 120)
    file = tmp_path / "chat.yaml"
    file.write_text(dump_scenario(scenario))
    with Work(LocalBackend(1)) as work:
        tried = sensitivities(scenario, changes(scenario), work, seeds=1)
    possible = [each for each in tried.changes if not each.problem]
    assert len(possible) > 15
    for each in possible[::3]:
        options = [word for text in each.sets for word in ("--set", text)]
        done = CliRunner().invoke(cli, ["run", str(file), "--json", *options])
        summary = json.loads(done.output)
        assert each.effects is not None
        for figure, path in FIGURES.items():
            assert each.effects[figure].value == pytest.approx(value_at(summary, path)), each.key
        assert each.slo_held == summary["slo"]["held"]


def test_ratios_are_of_the_same_traffic() -> None:
    scenario = chat(6.0, 120)
    with Work(LocalBackend(1)) as work:
        tried = sensitivities(scenario, changes(scenario), work, seeds=2)
    assert tried.seeds == 2
    (change,) = [each for each in tried.changes if each.key == "max_num_seqs*2"]
    wanted = []
    for seed in (0, 1):
        at = {"measurement": scenario.measurement.model_copy(update={"seed": seed})}
        before = do_task(Task(scenario.model_copy(update=at))).summary
        after = load_scenario(compact(scenario), change.sets).model_copy(update=at)
        path = FIGURES["ttft_p99"]
        wanted.append(value_at(do_task(Task(after)).summary, path) / value_at(before, path))
    assert change.effects is not None
    assert change.effects["ttft_p99"].ratio == pytest.approx(np.sqrt(wanted[0] * wanted[1]))


def test_the_highest_rate_with_a_change() -> None:
    """As looked for with that change alone; twice the replicas bear about twice the load."""
    from simulator.planner.loads.highest import highest_rate

    scenario = chat(6.0, 200)
    some = [each for each in changes(scenario) if each.key in ("replicas+1", "weights:fp8")]
    with Work(LocalBackend(1)) as work:
        tried = sensitivities(scenario, some, work, seeds=1, highest=True)
        alone = [
            highest_rate(each.scenario, (), work, seeds=1, interval=False)
            for each in some
            if each.scenario is not None
        ]
    by_key = {each.key: each.effects for each in tried.changes}
    for each, found in zip(some, alone, strict=True):
        effects = by_key[each.key]
        assert effects is not None
        assert effects["highest_per_s"].value == pytest.approx(found.rate_per_s, rel=0.06)
    twice = by_key["replicas+1"]
    assert twice is not None
    assert twice["highest_per_s"].ratio == pytest.approx(2.0, rel=0.2)
    assert twice["usd_at_highest"].ratio == pytest.approx(1.0, rel=0.2)
    with Work(LocalBackend(1)) as work, pytest.raises(UserError, match=r"^slo: there is no limit"):
        sensitivities(chat(slo={}), [], work, seeds=1, highest=True)


def test_a_recorded_trace_needs_no_seeds() -> None:
    scenario = load_scenario("chat-8b-h100", ["workload.slice.requests=200"])
    some = [change for change in changes(scenario) if change.key == "weights:fp8"]
    with Work(LocalBackend(1)) as work:
        tried = sensitivities(scenario, some, work)
    assert (tried.seeds, tried.simulations) == (1, 4)


def test_what_chance_may_have_done_is_no_change() -> None:
    assert _effect([100.0, 110.0, 90.0], [101.0, 108.0, 93.0]).sure is False
    assert _effect([100.0, 110.0, 90.0], [120.0, 133.0, 108.0]).sure is True
    assert _effect([100.0], [101.9]).sure is False
    assert _effect([100.0], [97.0]).sure is True
    assert _effect([None], [97.0]) == Effect(97.0, None, sure=False)


def test_what_is_impossible_says_why() -> None:
    scenario = load_scenario("disaggregated-70b-h100", ["workload.requests=60", "parallelism.tp=2",
                             "precision.weights=bf16", "hardware=h100-sxm"])  # fmt: skip
    by_key = {change.key: change for change in changes(scenario)}
    assert by_key["tp/2"].scenario is None
    assert "do not fit" in by_key["tp/2"].problem or "does not fit" in by_key["tp/2"].problem
    assert "\n" not in by_key["tp/2"].problem
    traced = {change.key: change for change in changes(load_scenario("chat-8b-h100"))}
    assert traced["prompts+10%"].problem == "lengths are as the trace has them"
    assert traced["load+10%"].sets == ("workload.rate_scale=1.1",)


def test_changes_follow_what_is_there() -> None:
    def keys(name: str, *sets: str) -> set[str]:
        return {change.key for change in changes(load_scenario(name, sets))}

    assert {"batch_size*2", "policy:continuous"} <= keys("static-batching")
    assert {"autoscaling.min+1", "autoscaling.max+1"} <= keys("scale-to-zero-70b-h100")
    apart = keys("disaggregated-70b-h100")
    assert {"prefill-to-decode", "together", "replicas+1:decode"} <= apart
    assert "decode-to-prefill" not in apart  # there is one
    assert not {key for key in keys("two-models-one-gpu") if key.startswith("replicas")}
    assert "disaggregated" in keys("chat-8b-h100", "deployment.replicas=2")
    assert "disaggregated" not in keys("chat-8b-h100")
    assert "cuda_graphs:true" in keys("chat-8b-h100", "engine.cuda_graphs=false")


def test_reasons_lose_their_place_and_hint() -> None:
    assert phrase("workload: request 3 is too long; shorten it") == "request 3 is too long"
    assert phrase(UserError("is wrong", where="a.b", hint="mend it")) == "is wrong"


def entry(key: str, cost: float, latency: float, held: bool | None, share: float) -> Sensitivity:
    effects = {name: Effect(1.0, 1.0, sure=False) for name in FIGURES}
    effects |= {
        "usd_per_million": Effect(cost, cost, sure=cost != 1.0),
        "ttft_p99": Effect(latency, latency, sure=latency != 1.0),
        "tpot_p99": Effect(latency, latency, sure=latency != 1.0),
        "goodput_share": Effect(share, share / 0.9, sure=True),
    }
    return Sensitivity(key, "deployment", key, (), "", effects, held)


def test_what_helps_depends_on_what_is_missing() -> None:
    dear = entry("dear", 2.0, 0.5, True, 0.999)
    fair = entry("fair", 1.2, 0.8, True, 0.992)
    near = entry("near", 1.0, 0.9, False, 0.95)
    worse = entry("worse", 0.5, 2.0, False, 0.2)
    same = entry("same", 1.0, 1.0, True, 0.9)
    cheap = entry("cheap", 0.7, 1.1, True, 0.99)

    def order(*entries: Sensitivity, goal: Any) -> list[str]:
        return [each.key for each in _sorted(entries, goal) if each.helps]

    assert order(dear, near, fair, worse, goal="hold") == ["fair", "dear", "near"]
    assert order(dear, cheap, worse, same, replace(near, slo_held=True), goal="save") == [
        "cheap", "near",
    ]  # fmt: skip
    assert order(dear, near, same, cheap, goal="speed") == ["cheap", "near"]


# --- the whole -----------------------------------------------------------------------------------


def test_an_explanation_names_what_binds_and_what_helps() -> None:
    with Work(LocalBackend(1)) as work:
        found = explain(chat(9.0, 150, slo={"ttft_ms": 400, "tpot_ms": 60}), work, seeds=1)
    text = " ".join(found.summary)
    most = max(found.e2e.mean_ms, key=lambda name: found.e2e.mean_ms[name])
    assert PARTS[most] in text
    assert "What helps most: " in text
    assert found.changes is not None
    helping = [change for change in found.changes.changes if change.helps]
    assert [change.helps for change in helping] == list(range(1, len(helping) + 1))
    assert helping[0].title in text
    assert sum(found.ttft.shares().values()) == pytest.approx(1.0)
    json.dumps(found.as_dict(), allow_nan=False)


def test_the_slowest_are_slower() -> None:
    found = explain_result(ran(chat(9.0)))
    assert sum(found.ttft.slowest_ms.values()) > 2 * sum(found.ttft.mean_ms.values())
    assert found.changes is None


def test_the_command_prints_one_document_or_tables() -> None:
    sets = ["--set", "workload.slice.requests=200", "--no-store", "--workers", "1"]
    done = CliRunner().invoke(cli, ["explain", "chat-8b-h100", "--quick", "--json", *sets])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["changes"]["seeds"] == 1
    done = CliRunner().invoke(cli, ["explain", "chat-8b-h100", "--no-changes", *sets])
    assert done.exit_code == 0, done.output
    assert "a request's time, ms" in done.output
    assert "one change" not in done.output
    assert max(map(len, done.output.splitlines())) <= 100


def test_nothing_completed_is_nothing_to_explain() -> None:
    result = ran(chat(6.0, 50, deployment={"timeout_s": 0.001}))
    with pytest.raises(UserError, match=r"^no request that counts has completed"):
        explain_result(result)
