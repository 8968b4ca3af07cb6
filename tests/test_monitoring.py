"""What a live deployment tells Prometheus is what a simulation of the same traffic gives."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families
from test_live_deployment import asked_as

from emulator.metrics import Metrics
from simulator import load_scenario, simulate
from simulator.cluster.answers import sequences_of
from simulator.live import Asked, Ending, LiveDeployment
from simulator.monitoring import FAMILIES
from simulator.results import Result
from simulator.results.record import COMPLETED
from simulator.results.window import end_of_run

SAME = {
    "chat-8b-h100": 300,
    "disaggregated-70b-h100": 150,
    "failover-8b-h100": 600,
    "mixed-pools-8b": 300,
    "pipeline-70b-l40s": 60,
    "sessions-prefix-aware": 200,
    "speculative-eagle-8b-h100": 100,
    "spot-8b-l4": 300,
    "swap-preemption": 100,
    "two-models-one-gpu": 200,
}
"""Shipped scenarios with one of everything, and how many requests are enough."""

Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


def samples(text: str, *, openmetrics: bool = True) -> Samples:
    """By name and labels."""
    parse = openmetrics_families if openmetrics else text_string_to_metric_families
    found: Samples = {}
    for family in parse(text):
        for each in family.samples:
            found.setdefault(each.name, {})[tuple(sorted(each.labels.items()))] = each.value
    return found


def total(found: Samples, name: str, **labels: str) -> float:
    """Sum over the series that have these labels."""
    return sum(
        value for key, value in found.get(name, {}).items() if labels.items() <= dict(key).items()
    )


@dataclass
class Client:
    """Tells the metrics how its request ended, as a server does."""

    metrics: Metrics

    def tokens(self, count: int) -> None:
        pass

    def ended(self, ending: Ending) -> None:
        self.metrics.ended(ending, "stop")
        if ending.outcome == "completed":
            self.metrics.answered(ending.replica, 1, ending.output_tokens)


@cache
def simulated(name: str) -> Result:
    return simulate(load_scenario(name), intervals=False, at_most=SAME[name])


@cache
def told(name: str) -> str:
    """What a live deployment tells at the end of the same traffic."""
    record = simulated(name).record
    live = LiveDeployment(load_scenario(name))
    metrics = Metrics(live)
    sequences = sequences_of(record.requests)
    for index in np.argsort(record.sent_s, kind="stable").tolist():
        sent = float(record.sent_s[index])
        if math.isnan(sent):
            continue
        live.advance(math.nextafter(sent, -math.inf))
        live.send(asked_as(live, record.requests, sequences.make(index)), Client(metrics))
    live.advance(end_of_run(record) + 1e-7)  # live times may differ in their last bits
    return metrics.text("application/openmetrics-text")[0].decode()


@pytest.mark.parametrize("name", SAME)
def test_a_live_deployment_tells_what_the_simulation_says(name: str) -> None:
    result, found = simulated(name), samples(told(name))
    record, times = result.record, result.times
    done = record.outcome == COMPLETED
    close = {"rel": 1e-9, "abs": 1e-6}
    network_s = result.deployment.scenario.deployment.network_ms / 1e3

    def seconds(metric: str) -> float:
        return total(found, f"vllm:{metric}_seconds_sum")

    assert total(found, "vllm:request_success_total", finished_reason="stop") == done.sum()
    assert total(found, "servecast:requests_total", outcome="completed") == done.sum()
    assert total(found, "vllm:prompt_tokens_total") == record.requests.input_tokens[done].sum()
    assert total(found, "vllm:prompt_tokens_cached_total") == record.cached_tokens[done].sum()
    assert total(found, "vllm:num_preemptions_total") == record.preemptions[done].sum()
    output = record.requests.output_tokens[done].sum()
    assert total(found, "vllm:request_generation_tokens_sum") == output
    lost = 0 if record.lives is None else record.lives.lost.tokens.sum()
    assert total(found, "vllm:generation_tokens_total") == output + lost

    begun = np.isfinite(record.first_token_s)
    assert total(found, "vllm:time_to_first_token_seconds_count") == begun.sum()
    away = 2 * network_s * done.sum()
    if not lost:
        ttft_s = np.nansum(times.ttft_ms) / 1e3 - away
        assert seconds("time_to_first_token") == pytest.approx(ttft_s, **close)
    e2e_s = np.nansum(times.e2e_ms) / 1e3 - away
    assert seconds("e2e_request_latency") == pytest.approx(e2e_s, **close)
    tpot_s = np.nansum(times.tpot_ms) / 1e3
    assert seconds("request_time_per_output_token") == pytest.approx(tpot_s, **close)
    queue_s = np.nansum(times.queueing_ms) / 1e3
    assert seconds("request_queue_time") == pytest.approx(queue_s, **close)
    halves = seconds("request_prefill_time") + seconds("request_decode_time")
    assert seconds("request_inference_time") == pytest.approx(halves, **close)

    steps, gaps = record.steps, record.gaps
    count = (steps.steps * steps.gap_tokens).sum() + gaps.count.sum()
    assert total(found, "vllm:inter_token_latency_seconds_count") == count
    progressions = steps.gap_tokens * steps.duration_s
    itl_s = progressions.sum() + (gaps.count * gaps.gap_s).sum()
    assert seconds("inter_token_latency") == pytest.approx(itl_s, **close)
    assert total(found, "vllm:iteration_tokens_total_count") == steps.steps.sum()

    whole = result.summary(intervals=False)
    joules = whole["energy"]["whole_run_kwh"] * 3.6e6
    assert total(found, "servecast:energy_joules_total") == pytest.approx(joules, rel=1e-7)
    usd = whole["cost"]["whole_run_usd"]
    assert total(found, "servecast:cost_usd_total") == pytest.approx(usd, rel=1e-7)


def test_both_formats_say_the_same_to_a_parser_that_others_wrote() -> None:
    live = LiveDeployment(load_scenario("mixed-pools-8b"))
    metrics = Metrics(live, 'a "quoted" 100%\\name', speed=10.0)
    live.send(Asked(500, 20), Client(metrics))
    metrics.responded(200)
    metrics.lateness(0.004)
    live.advance(5.0)
    one, kind_of_one = metrics.text("text/plain")
    two, kind_of_two = metrics.text("application/openmetrics-text; version=1.0.0, text/plain;q=.5")
    assert kind_of_one.startswith("text/plain; version=0.0.4")
    assert kind_of_two.startswith("application/openmetrics-text; version=1.0.0")
    found = samples(one.decode(), openmetrics=False)
    assert found == samples(two.decode())
    assert total(found, "vllm:prompt_tokens_total", model_name='a "quoted" 100%\\name') == 500
    assert total(found, "servecast:http_responses_total", code="200") == 1
    late = found["servecast:emulator_lateness_seconds_bucket"]
    assert [value for _, value in sorted(late.items(), key=lambda e: float(e[0][0][1]))] == [
        0, 0, 0, 0, 1, 1, 1, 1, 1, 1,
    ]  # fmt: skip
    assert total(found, "servecast:speed") == 10.0


def test_every_metric_is_told() -> None:
    plain, drafts = samples(told("chat-8b-h100")), samples(told("speculative-eagle-8b-h100"))
    suffix = {"counter": "_total", "gauge": "", "histogram": "_count"}
    for family in FAMILIES.values():
        name = family.name + suffix[family.kind]
        if name == "servecast:http_responses_total":
            continue  # nobody has asked over HTTP
        assert name in drafts
        assert (name in plain) != name.startswith("vllm:spec_decode")
        for key in drafts[name]:
            assert tuple(sorted(label for label, _ in key)) == tuple(sorted(family.labels))
    accepted = total(drafts, "vllm:spec_decode_num_accepted_tokens_total")
    assert 0 < accepted < total(drafts, "vllm:spec_decode_num_draft_tokens_total")


def test_gauges_are_those_of_the_moment() -> None:
    live = LiveDeployment(load_scenario("chat-8b-h100"))
    metrics = Metrics(live)
    for _ in range(300):
        live.send(Asked(4000, 200), Client(metrics))
    live.advance(2.0)
    found = samples(metrics.text()[0].decode(), openmetrics=False)
    state = live.replicas()[0]
    assert state.running > 0
    assert state.waiting > 0
    assert total(found, "vllm:num_requests_running") == state.running
    assert total(found, "vllm:num_requests_waiting") == state.waiting
    share = state.kv_blocks_used / state.kv_blocks
    assert total(found, "vllm:kv_cache_usage_perc") == pytest.approx(share)
    info = dict(next(iter(found["vllm:cache_config_info"])))
    assert info["num_gpu_blocks"] == str(state.kv_blocks)
    # The first tokens are counted as they come, not when their requests end.
    assert total(found, "vllm:request_success_total") == 0
    assert total(found, "vllm:time_to_first_token_seconds_count") > 0
    watts = total(found, "servecast:power_watts")
    joules = total(found, "servecast:energy_joules_total")
    assert watts == pytest.approx(joules / 2.0)


def test_a_scrape_takes_little_with_64_replicas() -> None:
    """The least of several, so that a busy machine does not matter."""
    scenario = load_scenario("chat-8b-h100", ["deployment.replicas=64"])
    live = LiveDeployment(scenario)
    metrics = Metrics(live)
    took = []
    for turn in range(12):
        for _ in range(64):
            live.send(Asked(200, 20), Client(metrics))
        live.advance(turn + 0.9)
        start = time.perf_counter()
        metrics.text()
        took.append(time.perf_counter() - start)
    assert min(took) < 0.05
