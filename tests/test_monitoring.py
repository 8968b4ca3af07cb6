"""What a live deployment tells Prometheus is what a simulation of the same traffic gives."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from click.testing import Result as Invoked
from emulator_rig import TEXT, request, served
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families
from test_live_deployment import asked_as

from emulator.metrics import Metrics
from simulator import load_scenario, simulate
from simulator.cli import cli
from simulator.cluster.answers import sequences_of
from simulator.errors import UserError
from simulator.live import Asked, Ending, LiveDeployment
from simulator.monitoring import FAMILIES
from simulator.results import Result
from simulator.results.lives import DRAINING, RECLAIMED, UP
from simulator.results.record import COMPLETED
from simulator.results.window import end_of_run
from simulator.scenario.scenario import Scenario

CRASH = "deployment.failures.outages=[{replica: 0, at_s: 4, for_s: 5}]"
SAME: dict[str, tuple[str, int, list[str]]] = {
    "autoscaled": ("scale-to-zero-70b-h100", 25, []),
    "begun anew": ("failover-8b-h100", 400, [CRASH, "deployment.retry.mode=restart"]),
    "chat": ("chat-8b-h100", 150, ["deployment.network_ms=20"]),
    "disaggregated": ("disaggregated-70b-h100", 120, []),
    "failed over": ("failover-8b-h100", 400, [CRASH]),
    "pipeline": ("pipeline-70b-l40s", 60, []),
    "preempted": ("swap-preemption", 100, []),
    "sessions": ("sessions-prefix-aware", 120, []),
    "shared devices": ("two-models-one-gpu", 120, []),
    "speculative": ("speculative-eagle-8b-h100", 60, []),
    "two pools": ("mixed-pools-8b", 150, []),
}
"""Shipped scenarios with one of everything, how many requests are enough, and what is set."""

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


LIVE_ONLY = {
    "servecast:gateway_requests_waiting",
    "servecast:speed",
    *(f"vllm:request_params_max_tokens_{part}" for part in ("bucket", "count", "sum")),
    *(f"servecast:emulator_lateness_seconds_{part}" for part in ("bucket", "count", "sum")),
}


def documents(text: Iterable[str]) -> Iterator[tuple[float, str]]:
    """An export as one document for each of its times, without timestamps.

    The parser keeps one point of each histogram, so that it cannot read all of them at once.
    """
    heads: list[str] = []
    lines: dict[float, list[str]] = {}
    told: dict[float, int] = {}
    for line in "".join(text).splitlines():
        if line.startswith("# "):
            heads.append(line)
            continue
        sample, _, stamp = line.rpartition(" ")
        mine = lines.setdefault(float(stamp), [])
        if told.get(float(stamp), 0) < len(heads):
            mine += heads[-2:]
            told[float(stamp)] = len(heads)
        mine.append(sample)
    assert heads[-1] == "# EOF"
    for stamp in sorted(lines):
        yield stamp, "\n".join([*lines[stamp], "# EOF\n"])


def ends(text: Iterable[str]) -> Samples:
    """The last values of an export."""
    *_, (_, last) = documents(text)
    return samples(last)


def instants(result: Result, step_s: float) -> Iterator[tuple[float, Samples]]:
    """The values of an export at each of its times but the last one, which is rounded."""
    found = list(documents(result.openmetrics(step_s, 0.0)))
    for at_s, document in found[:-1]:
        yield at_s, samples(document)


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


def scenario_of(name: str) -> Scenario:
    file, _, overrides = SAME[name]
    return load_scenario(file, overrides)


@cache
def simulated(name: str) -> Result:
    return simulate(scenario_of(name), intervals=False, at_most=SAME[name][1])


@cache
def told(name: str) -> str:
    """What a live deployment tells at the end of the same traffic."""
    record = simulated(name).record
    live = LiveDeployment(scenario_of(name))
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
    if name == "failed over":  # answers that go on elsewhere have no time of the whole there
        assert total(found, "vllm:request_inference_time_seconds_count") < done.sum()
    else:
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


@pytest.mark.parametrize("name", SAME)
def test_an_exported_simulation_ends_with_what_a_live_deployment_tells(name: str) -> None:
    exported = ends(simulated(name).openmetrics(start=1.7e9))
    live = samples(told(name))
    assert exported.keys() == live.keys() - LIVE_ONLY
    for metric, series in exported.items():
        assert series.keys() == live[metric].keys()
        if metric != "servecast:power_watts":  # a mean over another time
            for key, value in series.items():
                assert value == pytest.approx(live[metric][key], rel=1e-7, abs=1e-6), (metric, key)


def test_an_exported_simulation_goes_through_what_a_live_deployment_does() -> None:
    """At every second, not only in the end: everything but what a stretch of steps hides."""
    name = "disaggregated"
    record = simulated(name).record
    live = LiveDeployment(scenario_of(name))
    metrics = Metrics(live)
    sequences, sent = sequences_of(record.requests), np.argsort(record.sent_s, kind="stable")
    waiting = [(float(record.sent_s[index]), index) for index in sent[::-1].tolist()]
    for at_s, there in instants(simulated(name), 7.0):
        while waiting and waiting[-1][0] <= at_s:
            sent_s, index = waiting.pop()
            live.advance(math.nextafter(sent_s, -math.inf))
            live.send(asked_as(live, record.requests, sequences.make(index)), Client(metrics))
        live.advance(at_s)
        now = samples(metrics.text()[0].decode(), openmetrics=False)
        for metric in (
            "vllm:generation_tokens_total", "vllm:prompt_tokens_total",
            "vllm:time_to_first_token_seconds_sum", "vllm:e2e_request_latency_seconds_count",
            "vllm:inter_token_latency_seconds_sum", "vllm:iteration_tokens_total_bucket",
            "servecast:requests_total", "servecast:model_flops_total",
            "servecast:energy_joules_total", "servecast:cost_usd_total",
        ):  # fmt: skip
            assert there[metric] == pytest.approx(now[metric], rel=1e-6, abs=1e-6), (metric, at_s)
        both = "vllm:num_requests_running", "vllm:num_requests_waiting"
        assert sum(total(there, each) for each in both) == pytest.approx(
            sum(total(now, each) for each in both), abs=8
        )
        share = there["vllm:kv_cache_usage_perc"]
        assert share == pytest.approx(now["vllm:kv_cache_usage_perc"], abs=0.01)


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("chat-8b-h100", 9000),
        ("data-parallel-attention-deepseek-v3-h200", 60_000),
        ("orders-two-classes-l40s", 9000),
        ("speculative-eagle-8b-h100", 6000),
    ],
)
def test_preemptions_are_told_when_they_happen(name: str, tokens: int) -> None:
    scenario = load_scenario(name, [f"engine.kv_cache_tokens={tokens}"])
    record = simulate(scenario, intervals=False, at_most=300).record
    assert record.preempted is not None
    at_s, _, count = record.preempted.T
    assert count.sum() == record.preemptions.sum() > 0
    assert (np.diff(at_s) >= 0).all()
    assert at_s[-1] < record.end_s


def test_an_export_counts_answers_and_what_cut_them() -> None:
    """Eight answers to each prompt, none longer than 150 tokens."""
    scenario = load_scenario("best-of-8b-h100", ["workload.max_tokens=150"])
    result = simulate(scenario, intervals=False, at_most=25)
    record, found = result.record, ends(result.openmetrics(start=0.0))
    answers = record.requests.answers
    assert answers is not None
    cut, prompts = int(answers.truncated.sum()), int(answers.leads.sum())
    assert 0 < cut < len(record.outcome)
    assert total(found, "vllm:request_success_total", finished_reason="length") == cut
    left = len(record.outcome) - cut
    assert total(found, "vllm:request_success_total", finished_reason="stop") == left
    assert total(found, "vllm:request_params_n_count") == prompts
    assert total(found, "vllm:request_params_n_sum") == len(record.outcome) == 8 * prompts
    longest = record.requests.output_tokens.reshape(-1, 8).max(axis=1).sum()
    assert total(found, "vllm:request_max_num_generation_tokens_sum") == longest


def test_an_export_of_a_run_that_was_stopped_counts_what_was_done() -> None:
    def enough(now_s: float) -> str:
        return "enough" if now_s > 10.0 else ""

    result = simulate(
        load_scenario("chat-8b-h100"), intervals=False, watch=lambda _: enough, at_most=300
    )
    record, found = result.record, ends(result.openmetrics(start=0.0))
    done = record.outcome == COMPLETED
    assert record.interrupted
    assert 0 < done.sum() < len(done)
    assert total(found, "vllm:request_success_total") == done.sum()
    begun = np.isfinite(record.first_token_s)
    assert total(found, "vllm:time_to_first_token_seconds_count") == begun.sum() > done.sum()
    assert total(found, "vllm:num_requests_running") > 0


def test_replicas_that_come_and_go_are_told_by_state() -> None:
    result = simulated("autoscaled")
    lives = result.record.lives
    assert lives is not None
    found = list(instants(result, 300.0))
    for at_s, there in found:
        now = {
            int(n): s
            for at, n, s in zip(lives.at_s, lives.replica, lives.state, strict=True)
            if at <= at_s
        }
        up = sum(state == UP for state in now.values())
        assert total(there, "servecast:replicas", state="up") == up
        serving = {n for n, s in now.items() if s in (UP, DRAINING, RECLAIMED)}
        assert {dict(key)["engine"] for key in there.get("vllm:num_requests_running", {})} == {
            str(n) for n in serving
        }
    counts = {total(there, "servecast:devices") for _, there in found}
    assert len(counts) > 1


def test_an_export_is_in_the_order_that_prometheus_asks_for() -> None:
    """Each series without a break, ascending in time; the same bytes every time."""
    result = simulated("chat")
    text = "".join(result.openmetrics(5.0, datetime(2026, 11, 22, tzinfo=UTC)))
    assert text == "".join(result.openmetrics(5.0, 1795305600.0))
    assert text.endswith("\n# EOF\n")
    seen: dict[str, float] = {}
    last = ""
    for line in text.splitlines()[:-1]:
        if line.startswith("#"):
            continue
        series, _, stamp = line.rsplit(" ", 2)
        family = (
            series.split("{")[0].removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
        )
        if series in seen:
            assert float(stamp) > seen[series]
            assert family == last
        seen[series] = float(stamp)
        last = family
    assert (
        min(seen.values())
        == max(seen.values())
        == pytest.approx(1795305600.0 + end_of_run(result.record), abs=1e-3)
    )


def test_too_much_text_is_refused_before_it_is_made() -> None:
    result = simulated("autoscaled")
    with pytest.raises(UserError, match="more than 10,000,000 samples") as refused:
        result.openmetrics(0.001)
    enough = float(re.search(r"a step of ([\d.]+) s", refused.value.hint)[1])
    result.openmetrics(enough)
    with pytest.raises(UserError, match="more than 10,000,000 samples"):
        result.openmetrics(0.5 * enough)
    with pytest.raises(UserError, match="at least a millisecond"):
        result.openmetrics(0.0)
    with pytest.raises(UserError, match="between 1970 and 5138"):
        result.openmetrics(15.0, -1.0)


def test_run_writes_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.om"
    wanted = ["run", "chat-8b-h100", "--set", "workload.slice.duration_s=40", "--no-files"]

    def run(*more: str) -> Invoked:
        return CliRunner().invoke(cli, [*wanted, *more])

    done = run("--openmetrics", str(file), "--metrics-start", "2026-11-22T00:00:00Z")
    assert done.exit_code == 0
    assert "run.om" in done.output
    found = ends([file.read_text()])
    assert total(found, "servecast:requests_total", outcome="completed") > 20
    assert list(tmp_path.iterdir()) == [file]
    for options, said in (
        (["--metrics-step", "5"], "there is no file for the metrics; add --openmetrics FILE"),
        (["--openmetrics", str(file), "--metrics-start", "soon"], "neither a date nor Unix time"),
        (["--openmetrics", str(file), "--metrics-step", "0"], "a millisecond or more"),
        (["--openmetrics", str(tmp_path)], "is a folder, not a file"),
        (["--openmetrics", str(tmp_path / "no" / "x")], "there is no folder"),
        (["--openmetrics", str(file), "--metrics-step", "0.001"], "more than 10,000,000 samples"),
    ):
        refused = run(*options)
        assert refused.exit_code == 2
        assert said in " ".join(refused.output.split())
    assert list(tmp_path.iterdir()) == [file]


def test_every_metric_is_told() -> None:
    plain, drafts = samples(told("chat")), samples(told("speculative"))
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


def test_a_scrape_of_an_idle_server_is_of_now() -> None:
    """Time passes, and devices cost, where nobody asks for anything."""
    with served(speed=1000.0) as rig:
        found = []
        for _ in range(2):
            answer = rig.get("/metrics", {"Accept": "application/openmetrics-text"})
            assert answer.headers["content-type"].startswith("application/openmetrics-text")
            found.append(samples(answer.body.decode()))
            time.sleep(0.01)
        for name in (
            "servecast:simulated_seconds_total",
            "servecast:cost_usd_total",
            "servecast:energy_joules_total",
        ):
            assert total(found[1], name) > total(found[0], name)
        assert total(found[1], "servecast:speed") == 1000.0


def test_a_server_counts_what_its_clients_got() -> None:
    """Two answers to a prompt, one cut by max_tokens, one whose client goes."""
    with served(speed=1.0) as rig:

        def now() -> Samples:
            return samples(rig.get("/metrics").body.decode(), openmetrics=False)

        base = {"prompt": [1] * 40, "ignore_eos": True}
        assert rig.post(TEXT, {**base, "max_tokens": 5, "n": 2}).status == 200
        assert rig.post(TEXT, {**base, "max_tokens": -1}).status == 400
        with rig.connect() as connection:
            body = {**base, "max_tokens": 2000, "stream": True}
            connection.sendall(request(TEXT, body))
            assert connection.recv(1 << 16)
        rig.until(lambda: rig.service.deployment.open_requests == 0)
        found = now()
        assert total(found, "servecast:requests_total", outcome="completed") == 2
        assert total(found, "servecast:requests_total", outcome="cancelled") == 1
        assert total(found, "vllm:request_success_total", finished_reason="length") == 2
        assert total(found, "vllm:request_params_n_sum") == 2
        assert total(found, "vllm:request_params_n_count") == 1
        assert total(found, "vllm:request_params_max_tokens_sum") == 10
        assert total(found, "vllm:request_generation_tokens_sum") == 10
        assert total(found, "vllm:generation_tokens_total") > 10
        assert total(found, "vllm:time_to_first_token_seconds_count") == 3
        assert total(found, "servecast:http_responses_total", code="200") == 2
        assert total(found, "servecast:http_responses_total", code="400") == 1
        assert total(found, "servecast:emulator_lateness_seconds_count") > 5


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
