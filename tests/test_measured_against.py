"""Measured runs held against predictions, and as rows of datasets.

A file is made of a simulated run, so that the prediction of the same requests has to be exact.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import ROOT

import simulator
from calibration.validate import read_dataset, validate
from calibration.validate.clients import METRICS, beside, errors_document, in_all
from calibration.validate.written import dataset_text, requests_text
from simulator import MeasuredRun, Result, Scenario, UserError, read_measurements
from simulator.cli import cli
from simulator.measured import Load

EXAMPLE = ROOT / "examples" / "measurements" / "llama-8b-rtx-pro-6000.json"
CLIENTS = ROOT / "tests" / "data" / "clients"


def scenario(**workload: Any) -> Scenario:
    document = {
        "name": "small",
        "model": "llama-3.1-8b",
        "hardware": "h100-sxm",
        "deployment": {"network_ms": 2},
        "workload": {
            "kind": "synthetic",
            "requests": 60,
            "lengths": {
                "kind": "independent",
                "input": {"kind": "lognormal", "mean": 500, "cv": 1},
                "output": {"kind": "uniform", "low": 1, "high": 60},
            },
            **workload,
        },
    }
    return simulator.load_scenario(document)


def as_vllm_writes_it(result: Result, **settings: Any) -> dict[str, Any]:
    """A simulated run as `vllm bench serve` would have seen it."""
    record = result.record
    assert (record.generated == record.requests.output_tokens).all()
    first = record.first_token_s - record.sent_s
    last = record.finish_s - record.sent_s
    gaps = [
        np.diff(np.linspace(a, b, n)).tolist() if n > 1 else []
        for a, b, n in zip(first, last, record.generated, strict=True)
    ]
    n, duration = len(first), float(record.finish_s.max())
    return {
        "model_id": "llama", "backend": "vllm", "num_prompts": n, "completed": n, "failed": 0,
        "duration": duration, "request_throughput": n / duration,
        "output_throughput": float(record.generated.sum()) / duration,
        "total_input_tokens": int(record.requests.input_tokens.sum()),
        "total_output_tokens": int(record.generated.sum()),
        "input_lens": record.requests.input_tokens.tolist(),
        "output_lens": record.generated.tolist(),
        "ttfts": first.tolist(), "itls": gaps, "latencies": last.tolist(),
        "start_times": (record.sent_s + 77.0).tolist(), "errors": [""] * n,
        "request_rate": "inf", "max_concurrency": None, **settings,
    }  # fmt: skip


def run_of(folder: Path, document: dict[str, Any], name: str = "bench.json") -> MeasuredRun:
    file = folder / name
    file.write_text(json.dumps(document))
    (run,) = read_measurements(file)
    return run


# --- the prediction ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrivals", "settings", "said"),
    [
        (
            {"kind": "poisson", "rate_per_s": 8.0},
            {"request_rate": 8.0},
            "The 60 answered requests are replayed as they were sent.",
        ),
        (
            {"kind": "closed_loop", "concurrency": 7},
            {"max_concurrency": 7},
            "The 60 answered requests, in their order: 7 users who wait for their answers.",
        ),
    ],
)
def test_what_was_simulated_is_predicted_without_error(
    arrivals: dict[str, Any], settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    served = scenario(arrivals=arrivals)
    run = run_of(tmp_path, as_vllm_writes_it(simulator.simulate(served), **settings))
    other = scenario(arrivals={"kind": "burst"})  # its own traffic plays no part
    found = beside(run, other)
    assert found.replayed == said
    assert found.completed == 60
    figures = {figure.metric.title: figure for figure in found.figures}
    assert len(figures) == len(METRICS)
    for title, figure in figures.items():
        if "ITL" not in title:  # the file above has gaps of equal length
            assert figure.error_pct == pytest.approx(0, abs=0.01), title
            assert figure.inside in (True, None)


def test_without_times_requests_come_at_the_rate(tmp_path: Path) -> None:
    result = simulator.simulate(scenario(arrivals={"kind": "poisson", "rate_per_s": 8.0}))
    document = as_vllm_writes_it(result, request_rate=8.0)
    del document["start_times"]
    found = beside(run_of(tmp_path, document), scenario(arrivals={"kind": "burst"}))
    assert "Poisson arrivals at 8.00 requests/s" in found.replayed
    errors = {figure.metric.title: figure.error_pct for figure in found.figures}
    assert errors["TPOT p50"] == pytest.approx(0, abs=15)
    for burstiness, workload, said in (
        (4.0, {"kind": "gamma", "rate_per_s": 8.0, "cv": 0.5}, "gaps with a CV of 0.5 at 8.00"),
        ("Infinity", {"kind": "constant", "rate_per_s": 8.0}, "equal gaps at 8.00"),
    ):
        document["burstiness"] = float(burstiness)
        run = run_of(tmp_path, document)
        found = beside(run, scenario(arrivals={"kind": "burst"}))
        assert found.scenario.model_dump()["workload"]["arrivals"] == workload
        assert said in found.replayed
        with pytest.raises(UserError, match="was not loaded with Poisson arrivals"):
            dataset_text([run], simulator.load_scenario("measured-8b-rtx-pro-6000"))
    del document["request_rate"]
    found = beside(run_of(tmp_path, document), scenario(arrivals={"kind": "burst"}))
    assert found.replayed.endswith("all requests at once.")


def test_statistics_alone_are_replayed_by_their_means() -> None:
    first, second = read_measurements(CLIENTS / "vllm-appended.json")
    served = scenario(arrivals={"kind": "burst"})
    both = [beside(first, served), beside(second, served)]
    assert both[0].replayed == (
        "40 requests of 1,024 and 256 tokens each, their means: 4 users who wait for their answers."
    )
    direct = scenario(
        requests=40,
        arrivals={"kind": "closed_loop", "concurrency": 8},
        lengths={
            "kind": "independent",
            "input": {"kind": "fixed", "tokens": 1024},
            "output": {"kind": "fixed", "tokens": 256},
        },
    )
    direct = direct.model_copy(update={"measurement": both[0].scenario.measurement})
    latency = simulator.simulate(direct).summary()["latency"]
    figures = {figure.metric.path: figure for figure in both[1].figures}
    assert "latency.e2e_ms.mean" not in figures  # nothing to compare with
    figure = figures["latency.tpot_ms.mean"]
    assert figure.predicted == latency["tpot_ms"]["mean"]
    assert figure.error_pct == pytest.approx(100 * (latency["tpot_ms"]["mean"] / 9.0 - 1))
    rows = {title: (errors, inside, n) for title, errors, inside, n in in_all(both)}
    errors, inside, n = rows["TPOT mean"]
    assert (errors.n, n) == (2, 2)
    assert inside == sum(
        bool({f.metric.title: f for f in b.figures}["TPOT mean"].inside) for b in both
    )
    assert errors_document(both)["TPOT mean"]["bias_ratio"] == errors.bias_ratio


def test_a_spread_that_is_known_is_replayed(tmp_path: Path) -> None:
    summary = json.loads((CLIENTS / "aiperf-0.13.0" / "profile_export_aiperf.json").read_text())
    found = beside(run_of(tmp_path, summary), scenario(arrivals={"kind": "burst"}))
    assert "with the spread that was measured: 2 users" in found.replayed
    lengths = found.scenario.model_dump()["workload"]["lengths"]
    assert lengths["output"]["kind"] == "lognormal"
    assert lengths["output"]["mean"] == summary["output_sequence_length"]["avg"]


def test_requests_that_the_deployment_refuses_are_told(tmp_path: Path) -> None:
    result = simulator.simulate(scenario(arrivals={"kind": "poisson", "rate_per_s": 8.0}))
    run = run_of(tmp_path, as_vllm_writes_it(result, request_rate=8.0))
    longest = int((result.record.requests.input_tokens + result.record.generated).max())
    small = simulator.load_scenario(
        {
            "model": "llama-3.1-8b", "hardware": "h100-sxm",
            "engine": {"profile": "vllm", "max_model_len": longest - 1},
            "deployment": {"oversized_requests": "reject"},
            "workload": {"kind": "synthetic", "requests": 1, "arrivals": {"kind": "burst"},
                         "lengths": {"kind": "from_trace", "file": "sharegpt-lengths"}},
        }
    )  # fmt: skip
    found = beside(run, small)
    assert found.completed == 59
    assert found.replayed.endswith("The simulation answers 59 of them.")


def test_a_prefix_cache_that_the_prediction_does_not_know_is_told(tmp_path: Path) -> None:
    report = json.loads((CLIENTS / "guidellm-0.8.1.json").read_text())
    for share, said in ((0, ""), (1, "The server had 100.0% of their prompt tokens in its prefix")):
        for request in report["benchmarks"][0]["requests"]["successful"]:
            request["cached_tokens"] = share * request["prompt_tokens"]
        found = beside(run_of(tmp_path, report), scenario(arrivals={"kind": "burst"}))
        assert said in found.replayed
        assert ("prefix cache" in found.replayed) == bool(share)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    served = scenario(arrivals={"kind": "burst"})
    run = read_measurements(CLIENTS / "vllm-appended.json")[0]
    with pytest.raises(UserError, match="no request was answered"):
        beside(replace(run, completed=0), served)
    with pytest.raises(UserError, match=r"does not say how requests were sent \(a ramp\)"):
        beside(replace(run, load=Load("unknown", words="a ramp")), served)
    with pytest.raises(UserError, match="does not say how long prompts and answers were"):
        beside(replace(run, inputs=None), served)


# --- a public measurement ------------------------------------------------------------------------


def test_the_example_is_within_its_interval() -> None:
    (run,) = read_measurements(EXAMPLE)
    assert (run.completed, run.measured_on) == (300, "2026-04-25")
    found = beside(run, simulator.load_scenario("measured-8b-rtx-pro-6000"))
    for figure in found.figures:
        assert figure.inside in (True, None), figure.metric.title
        assert abs(figure.error_pct or 0.0) < 8, figure.metric.title


def test_the_emulator_gives_what_is_predicted_but_for_the_sockets() -> None:
    """The file holds what one version of the profiles predicted: where a new fit moves predictions
    by more than this, measure it again."""
    (run,) = read_measurements(EXAMPLE.with_name("emulator-guidellm.json.gz"))
    found = beside(run, simulator.load_scenario("chat-8b-h100"))
    for figure in found.figures:
        limit = 25 if figure.metric.title.startswith("TTFT") else 5
        assert figure.error_pct == pytest.approx(0, abs=limit), figure.metric.title


# --- rows of datasets ----------------------------------------------------------------------------


def test_a_row_a_run_is_what_validate_reads(tmp_path: Path) -> None:
    deployment = simulator.load_scenario("measured-8b-rtx-pro-6000")
    runs = [*read_measurements(EXAMPLE), *read_measurements(CLIENTS / "vllm-appended.json")]
    file = tmp_path / "rows.csv"
    file.write_text(dataset_text(runs, deployment))
    dataset = read_dataset(file)
    assert not dataset.skipped
    assert not dataset.ignored
    first, second, third = dataset.points
    assert (first.model, first.system, first.engine, first.version) == (
        "llama-3.1-8b", "rtx-pro-6000-blackwell", "vllm", "0.19.0",
    )  # fmt: skip
    assert (first.rate_per_s, first.concurrency, first.num_prompts) == (10.0, None, 300)
    assert (second.concurrency, third.concurrency) == (4, 8)
    assert (first.max_num_seqs, first.max_num_batched_tokens) == (128, 2048)
    assert first.isl == pytest.approx(857.4633, abs=1e-3)
    assert first.input_cv == pytest.approx(0.615, abs=1e-3)
    assert first.measured.tpot_ms["mean"] == pytest.approx(32.458, abs=1e-3)
    assert second.measured.ttft_ms == {"mean": 60.0}
    assert {p.origin for p in dataset.points} == {"own"}
    found = validate(replace(dataset, points=(second,)), tmp_path / "kept")
    compared = beside(runs[1], deployment)
    predicted = {f.metric.path: f.predicted for f in compared.figures}
    (row,) = found.comparisons
    assert row.pair("tpot_ms") == pytest.approx((8.0, predicted["latency.tpot_ms.mean"]), rel=1e-3)


def test_a_row_a_request_is_replayed_as_it_was_sent(tmp_path: Path) -> None:
    (run,) = read_measurements(EXAMPLE)
    file = tmp_path / "requests.csv"
    file.write_text(requests_text([run], simulator.load_scenario("measured-8b-rtx-pro-6000")))
    (point,) = read_dataset(file).points
    assert point.trace is not None
    assert run.records is not None
    assert list(point.trace.input_tokens) == run.records.input_tokens.tolist()
    assert np.abs(np.array(point.trace.arrival_s) - run.records.arrival_s).max() < 2e-6
    assert (point.max_num_seqs, point.max_num_batched_tokens, point.tp) == (128, 2048, 1)
    for name in ("ttft_ms", "tpot_ms", "e2e_ms"):
        for statistic in ("mean", "p50", "p99"):
            assert getattr(point.measured, name)[statistic] == pytest.approx(
                run.latency[name][statistic], rel=1e-4
            )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("parallelism.pp=2", r"parallelism.pp: cannot be said by a row of a dataset"),
        ("hardware.memory_gib=40", r"hardware.memory_gib: cannot be said"),
        ("deployment.replicas=2", r"deployment.(router|replicas): cannot be said"),
        ("deployment.network_ms=5", r"deployment.network_ms: cannot be said"),
    ],
)
def test_a_deployment_that_a_row_cannot_say_is_refused(change: str, sentence: str) -> None:
    (run,) = read_measurements(EXAMPLE)
    served = simulator.load_scenario("measured-8b-rtx-pro-6000", [change])
    with pytest.raises(UserError, match=sentence):
        dataset_text([run], served)
    with pytest.raises(UserError, match=sentence):
        requests_text([run], served)


def test_replicas_behind_the_router_of_rows_can_be_said() -> None:
    (run,) = read_measurements(EXAMPLE)
    changes = ["deployment.replicas=2", "deployment.router.kind=least_outstanding"]
    served = simulator.load_scenario("measured-8b-rtx-pro-6000", changes)
    assert ",replicas," in dataset_text([run], served).split("\n")[0]


def test_rows_need_a_load_and_requests_their_times() -> None:
    deployment = simulator.load_scenario("measured-8b-rtx-pro-6000")
    summary = read_measurements(CLIENTS / "vllm-appended.json")[0]
    with pytest.raises(UserError, match="has no single requests"):
        requests_text([summary], deployment)
    with pytest.raises(UserError, match="does not say how requests were sent"):
        dataset_text([replace(summary, load=Load("unknown"))], deployment)
    (plain,) = read_measurements(CLIENTS / "guidellm-0.8.1-plain.json")
    with pytest.raises(UserError, match="whose first token was not seen on its own"):
        requests_text([plain], deployment)


# --- the command ---------------------------------------------------------------------------------


def simulate(*arguments: str) -> Any:
    return CliRunner().invoke(cli, ["measured", *arguments])


def test_the_command_compares_and_writes(tmp_path: Path) -> None:
    rows, requests = tmp_path / "rows.csv", tmp_path / "requests.csv"
    told = simulate(
        str(EXAMPLE), "--against", "measured-8b-rtx-pro-6000", "--set", "engine.max_num_seqs=64",
        "--dataset", str(rows), "--requests", str(requests),
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    assert "Measured, and predicted by measured-8b-rtx-pro-6000" in told.output
    assert "The 300 answered requests are replayed as they were sent." in told.output
    assert read_dataset(rows).points[0].max_num_seqs == 64
    assert len(read_dataset(requests).points[0].trace.arrival_s) == 300  # type: ignore[union-attr]


def test_the_commands_document_holds_errors_of_all_runs() -> None:
    told = simulate(
        str(CLIENTS / "vllm-appended.json"), "--against", "measured-8b-rtx-pro-6000", "--json"
    )
    document = json.loads(told.stdout)
    figures = [run["prediction"]["figures"]["latency.ttft_ms.mean"] for run in document["runs"]]
    assert [figure["measured"] for figure in figures] == [60.0, 90.0]
    for figure in figures:
        error = 100 * (figure["predicted"] / figure["measured"] - 1)
        assert figure["error_pct"] == pytest.approx(error)
    errors = document["errors"]["TTFT mean"]
    assert errors["n"] == 2
    assert errors["median_ape_pct"] == pytest.approx(
        np.median([abs(figure["error_pct"]) for figure in figures])
    )


def test_the_other_commands_point_to_this_one() -> None:
    told = CliRunner().invoke(cli, ["trace", str(EXAMPLE)])
    assert told.exit_code == 2
    assert "is no trace, but what vllm bench serve measured; `simulate measured" in told.output
    told = CliRunner().invoke(cli, ["validate", str(EXAMPLE)])
    assert told.exit_code == 2
    assert "is no CSV; `simulate measured FILE --against SCENARIO`" in told.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--dataset", "rows.csv"), "--dataset: needs --against SCENARIO"),
        (("--requests", "rows.csv"), "--requests: needs --against SCENARIO"),
        (("--set", "hardware=h100-sxm"), "--set: needs --against SCENARIO"),
        (("--against", "no-such-scenario"), "no-such-scenario"),
        (("--trace", "a.csv", "--dataset", "a.csv", "--against", "chat-8b-h100"),
         "a.csv: would be written twice"),
        (("--trace", "/no/such/folder/a.csv"), "cannot be written: No such file"),
    ],
)  # fmt: skip
def test_mistakes_of_the_command(arguments: tuple[str, ...], sentence: str) -> None:
    told = simulate(str(EXAMPLE), *arguments)
    assert told.exit_code == 2
    assert sentence in told.output
    assert "Traceback" not in told.output
