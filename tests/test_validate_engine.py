"""A scenario for real and predicted: the same plans step by step, what is kept, and the command."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from simulator import Scenario
from simulator.cli import cli
from simulator.errors import UserError
from simulator.resolve import Resolved, resolve
from simulator.results import Result as RunResult
from simulator.scenario.load import load_scenario
from simulator.workload import build_requests
from simulator.workload.requests import Requests

torch = pytest.importorskip("torch")

from calibration.engine.build import Engine, build_engine  # noqa: E402
from calibration.engine.serve import DoneStep  # noqa: E402
from calibration.validate.engine.metrics import METRICS, Figure  # noqa: E402
from calibration.validate.engine.rates import capacity, faster, loads_of, mean_rate  # noqa: E402
from calibration.validate.engine.replay import PlansDifferError, replay  # noqa: E402
from calibration.validate.engine.run import validate_engine  # noqa: E402
from calibration.validate.engine.steps import errors, steps_of, table_of  # noqa: E402

TINY = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 199,
    "max_position_embeddings": 2048,
    "hidden_act": "silu",
    "torch_dtype": "float32",
}
POISSON = {"kind": "poisson", "rate_per_s": 150.0}
LENGTHS = {
    "kind": "independent",
    "input": {"kind": "uniform", "low": 2, "high": 40},
    "output": {"kind": "uniform", "low": 1, "high": 12},
}
OPEN = {"kind": "synthetic", "arrivals": POISSON, "lengths": LENGTHS, "requests": 24}
CLOSED = OPEN | {"arrivals": {"kind": "closed_loop", "concurrency": 3}}
SESSIONS = {
    "kind": "sessions",
    "arrivals": {"kind": "poisson", "rate_per_s": 200.0},
    "turns": {"kind": "uniform", "low": 2, "high": 4},
    "user_tokens": {"kind": "uniform", "low": 3, "high": 30},
    "output_tokens": {"kind": "uniform", "low": 2, "high": 10},
    "system_prompt": {"tokens": 40, "groups": 2},
    "think_time_s": 0.005,
    "requests": 30,
}
LONG = OPEN | {
    "arrivals": {"kind": "burst"},
    "lengths": LENGTHS | {"output": {"kind": "uniform", "low": 20, "high": 40}},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """Tiny products are fastest on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("models") / "tiny.json"
    file.write_text(json.dumps(TINY))
    return str(file)


def document(model: str, workload: dict[str, Any] = OPEN, **engine: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "model": model,
        "hardware": "xeon-6980p-2s",
        "engine": {
            "profile": "micro-engine", "kv_cache_tokens": 2048, "max_num_seqs": 8,
            "max_num_batched_tokens": 48, "max_model_len": 256, **engine,
        },
        "workload": workload,
        "cost": {"usd_per_device_hour": 0.1},
    }  # fmt: skip


def scenario(model: str, workload: dict[str, Any] = OPEN, **engine: Any) -> Scenario:
    return load_scenario(document(model, workload, **engine))


def served(given: Scenario) -> tuple[Resolved, Requests, list[DoneStep]]:
    resolved = resolve(given)
    requests = build_requests(given.workload, np.random.default_rng(given.measurement.seed))
    engine = build_engine(resolved.deployment, resolved.layout, torch.device("cpu"))
    return resolved, requests, engine.serve(requests)[0]


# --- the same plans --------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [False, True], ids=["in turn", "ahead"])
@pytest.mark.parametrize(
    ("workload", "engine"),
    [
        (OPEN, {}),
        (OPEN, {"policy": {"kind": "prefill_first"}}),
        (CLOSED, {}),
        (SESSIONS, {"prefix_caching": True}),
        (LONG, {"kv_cache_tokens": 128, "prefix_caching": False}),
    ],
    ids=["open", "prefill first", "closed", "sessions", "tight"],
)
def test_the_simulator_plans_what_the_engine_ran(
    model: str, workload: dict[str, Any], engine: dict[str, Any], ahead: bool
) -> None:
    given = document(model, workload, **engine)
    if ahead:  # which no profile of a CPU allows, so the device is another one's
        given |= {"hardware": "h100-sxm"}
        given["engine"] |= {"async_scheduling": True, "cuda_graphs": False}
    resolved, requests, steps = served(load_scenario(given))
    assert resolved.deployment.limits.async_scheduling == ahead
    record = replay(requests, resolved, steps)
    result = RunResult(resolved.deployment, record, resolved.cost)
    result.check_integrity()
    assert record.generated.tolist() == requests.output_tokens.tolist()
    assert int(record.steps.steps.sum()) == len(steps)
    assert result.summary()["checks"]["violations"] == []
    if workload is LONG:
        assert record.preemptions.sum() > 0
    if workload is SESSIONS:
        assert record.cached_tokens.sum() > 0
    ends = {round(step.end_s, 6) for step in steps}
    assert {round(at, 6) for at in record.finish_s.tolist()} <= ends


def test_another_plan_is_caught(model: str) -> None:
    resolved, requests, steps = served(scenario(model))
    at = next(i for i, step in enumerate(steps) if i > 5 and step.decode)
    step = steps[at]

    def refused(changed: list[DoneStep]) -> str:
        with pytest.raises(PlansDifferError) as caught:
            replay(requests, resolved, changed)
        assert caught.value.exit_code == 1
        return str(caught.value)

    more = replace(step, context=step.context + 1)
    said = refused([*steps[:at], more, *steps[at + 1 :]])
    assert said.startswith(f"the plans differ at step {at}: the engine ran {step.decode} decoding ")
    assert f"over {step.context + 1} tokens" in said
    assert f"the simulator planned {step.decode} decoding over {step.context} tokens" in said
    assert "the engine was done, the simulator planned" in refused(steps[:-1])
    assert "the simulator planned nothing more" in refused([*steps, steps[-1]])
    late = replace(step, start_s=step.start_s + 1e-3, end_s=step.end_s + 1e-3)
    assert f"at step {at}: the engine starts it at" in refused(
        [*steps[:at], late, *steps[at + 1 :]]
    )


def test_steps_come_back_from_a_table(model: str, tmp_path: Path) -> None:
    resolved, _, steps = served(scenario(model))
    table_of(steps).to_parquet(tmp_path / "t.parquet")
    assert steps_of(pd.read_parquet(tmp_path / "t.parquet")) == steps
    table = table_of(steps, resolved.cost)
    assert set(table["kind"]) <= {"decode only", "with prompts", "prompts only"}
    found = errors(table)
    assert found[-1].kind == "all"
    assert sum(e.share for e in found[:-1]) == pytest.approx(1.0)
    assert sum(e.steps for e in found[:-1]) == len(steps)
    perfect = errors(table.assign(predicted_s=table["measured_s"]))
    assert {(e.median_error_pct, e.bias) for e in perfect} == {(0.0, 1.0)}


# --- rates -----------------------------------------------------------------------------------------

ARRIVALS = [
    POISSON,
    {"kind": "gamma", "rate_per_s": 5.0, "cv": 2.0},
    {"kind": "constant", "rate_per_s": 5.0},
    {"kind": "ramp", "start_per_s": 1.0, "end_per_s": 9.0, "over_s": 4.0},
    {"kind": "diurnal", "rate_per_s": 5.0, "period_s": 10.0, "peak_at_s": 3.0},
]
TRACE = {"kind": "trace", "file": "azure-llm-2023-conv", "slice": {"requests": 30}}


@pytest.mark.parametrize(
    "workload",
    [
        *(OPEN | {"arrivals": arrivals} for arrivals in ARRIVALS),
        *({**OPEN, "arrivals": arrivals, "requests": None, "duration_s": 5.0}
          for arrivals in ARRIVALS[1:]),
        TRACE,
        {"kind": "mix", "classes": [{"name": "a", "workload": OPEN}, {"name": "b", "workload": TRACE}]},
    ],
)  # fmt: skip
def test_faster_sends_the_same_requests_sooner(model: str, workload: dict[str, Any]) -> None:
    given = scenario(model, workload).workload

    def built(workload: Any) -> Requests:
        return build_requests(workload, np.random.default_rng(3))

    before, after = built(given), built(faster(given, 4.0))
    assert np.allclose(after.arrival_s * 4.0, before.arrival_s, rtol=1e-9, atol=1e-9)
    assert after.input_tokens.tolist() == before.input_tokens.tolist()
    assert after.output_tokens.tolist() == before.output_tokens.tolist()
    rates = mean_rate(before), mean_rate(after)
    assert rates[0] is not None
    assert rates[1] == pytest.approx(4.0 * rates[0])


def test_rates_are_multiples_of_the_predicted_capacity(model: str) -> None:
    given = scenario(model)
    resolved = resolve(given)
    loads, limit = loads_of(given, resolved, (0.5, 2.0))
    assert limit == capacity(resolved, loads[0].requests)  # whatever the arrivals
    assert [load.rate_per_s for load in loads] == [0.5 * limit, 2.0 * limit]
    for load in loads:
        assert mean_rate(load.requests) == pytest.approx(load.rate_per_s)
    for workload in (CLOSED, SESSIONS, LONG):
        alone = scenario(model, workload)
        (load,), none = loads_of(alone, resolve(alone), None)
        assert (load.scenario, load.multiple, none) == (alone, None, None)
        with pytest.raises(UserError, match="no rate to multiply"):
            loads_of(alone, resolve(alone), (0.5,))


def test_medians_over_rounds_and_errors() -> None:
    figure = Figure(METRICS[0], (10.0, 30.0, 20.0), 25.0, (15.0, 22.0))
    assert (figure.real, figure.error_pct, figure.inside) == (20.0, 25.0, True)
    nothing = Figure(METRICS[0], (None,), 25.0, (15.0, 22.0))
    assert (nothing.real, nothing.error_pct, nothing.inside) == (None, None, None)


# --- the command -------------------------------------------------------------------------------------


def simulate(*args: str) -> Result:
    return CliRunner().invoke(cli, args, prog_name="simulate")


def refusal(*args: str) -> str:
    result = simulate("validate", *args)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    return result.stderr.removeprefix("Error: ").rstrip("\n")


@pytest.fixture
def file(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(json.dumps(document(model)), encoding="utf-8")
    return "tiny.yaml"


def test_the_command(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("validate", "--engine", file, "--rates", "0.2,1", "--rounds", "2", "--device", "cpu")
    first = simulate(*command, "--html", "page.html", "--markdown", "tables.md")
    assert (first.exit_code, first.stderr) == (0, "")
    for said in ("0.2 × capacity", "1 × capacity", "medians over 2 rounds", "TTFT p99, ms",
                 "Step times, of all rates", "decode only"):  # fmt: skip
        assert said in first.stdout
    text = Path("tables.md").read_text(encoding="utf-8")
    assert "| TPOT p50, ms |" in text
    assert "| decode only |" in text
    html = Path("page.html").read_text(encoding="utf-8")
    for name in ("rate-ttft", "rate-tpot", "scatter", "by-batch", "by-context", "timeline",
                 "cdf-ttft_ms", "cdf-tpot_ms"):  # fmt: skip
        assert f'id="{name}"' in html
        assert f'"{name}": {{"traces"' in html
    folder = Path("servecast-results/validate-engine-tiny")
    assert len(list((folder / "runs").glob("*.parquet"))) == 4
    steps = pd.read_parquet(folder / "steps.parquet")
    assert set(steps["round"]) == {0, 1}
    assert {"multiple", "kind", "predicted_s", "decode", "context", "sampled"} <= set(steps)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("served again")

    monkeypatch.setattr(Engine, "serve", never)
    again = simulate(*command, "--json")
    assert again.exit_code == 0, again.output
    found = json.loads(again.stdout)
    assert found == json.loads((folder / "engine.json").read_text(encoding="utf-8"))
    assert [load["multiple"] for load in found["loads"]] == [0.2, 1.0]
    assert found["machine"]["kind"] == "cpu"
    ttft = found["loads"][0]["metrics"]["latency.ttft_ms.p50"]
    assert min(ttft["rounds"]) <= ttft["measured"] <= max(ttft["rounds"])
    assert ttft["inside"] == (ttft["interval"][0] <= ttft["measured"] <= ttft["interval"][1])
    assert [step["kind"] for step in found["steps"]][-1] == "all"
    assert sum(load["steps_measured"] for load in found["loads"]) == len(steps)


def test_interrupted_and_resumed(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serve, calls = Engine.serve, []

    def interrupted(self: Engine, *args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:  # the first call is the rehearsal
            raise KeyboardInterrupt
        return serve(self, *args, **options)

    monkeypatch.setattr(Engine, "serve", interrupted)
    command = ("validate", "--engine", file, "--rates", "0.2,1", "--rounds", "1", "--device", "cpu")
    stopped = simulate(*command, "--out", "kept")
    assert stopped.exit_code == 130
    assert "finished runs are in kept; the same command goes on from there" in stopped.stderr
    assert len(list(Path("kept/runs").iterdir())) == 1
    calls[:] = [1] * 10
    assert simulate(*command, "--out", "kept").exit_code == 0
    assert len(calls) == 12  # a rehearsal and the missing run


def test_the_prediction_knows_nothing_of_the_run(model: str, tmp_path: Path) -> None:
    from simulator import simulate

    outcome = validate_engine(scenario(model, CLOSED), tmp_path, device="cpu", rounds=1)
    (load,) = outcome.loads
    summary = simulate(scenario(model, CLOSED)).summary()
    predicted = {figure.metric.path: figure.predicted for figure in load.figures}
    assert predicted["latency.ttft_ms.p99"] == summary["latency"]["ttft_ms"]["p99"]
    assert predicted["utilization.busy_share"] == summary["utilization"]["busy_share"]
    assert outcome.capacity_per_s is None
    assert outcome.served == 1


def test_what_the_engine_does_not_do_is_said(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ("--engine", file, "--device", "cpu")
    assert "runs the micro-engine, not vLLM" in refusal(*run, "--set", "engine.profile=vllm")
    assert "deployment.replicas: the micro-engine runs one replica" in refusal(
        *run, "--set", "deployment.replicas=2"
    )
    assert "no such file" in refusal("--engine", "nowhere.yaml").lower()
    monkeypatch.setattr("os.sysconf", lambda _: 1000)  # a megabyte
    said = refusal(*run, "--set", "engine.kv_cache_tokens=90000")
    assert "engine.kv_cache_tokens: weights and KV cache take" in said
    assert "this machine has 0.0" in said


def test_wrong_command_lines(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal() == "give a DATASET, or --engine SCENARIO"
    assert refusal("data.csv", "--engine", file).startswith("give either a DATASET or --engine")
    for option in (["--split", "all"], ["--where", "tp=8"], ["--limit", "3"], ["--csv", "a.csv"],
                   ["--processes", "2"]):  # fmt: skip
        assert refusal("--engine", file, *option) == (
            f"{option[0]}: is for a DATASET, not for --engine"
        )
    for option in (["--device", "cpu"], ["--rates", "1"], ["--rounds", "2"], ["--checkpoint"],
                   ["--set", "a=b"]):  # fmt: skip
        assert refusal("data.csv", *option) == f"{option[0]}: is for --engine, not for a DATASET"
    for text in ("fast", "0", "-1,1", "1,,2", "nan", "1e9"):
        assert "must be numbers above 0 and up to 100" in refusal("--engine", file, "--rates", text)
    if not torch.cuda.is_available():
        assert "PyTorch finds no CUDA device" in refusal("--engine", file, "--device", "cuda")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert refusal("--engine", file) == (
        "--engine: the micro-engine runs on PyTorch, which is not installed; "
        "pip install 'servecast[calibration]'"
    )


def test_a_prediction_for_another_kind_of_device_is_marked(model: str, tmp_path: Path) -> None:
    from calibration.validate.engine.tables import warnings

    given = document(model, CLOSED | {"requests": 4}) | {"hardware": "h100-sxm"}
    outcome = validate_engine(load_scenario(given), tmp_path, device="cpu", rounds=1)
    assert "only the plans can be compared" in warnings(outcome)[0]
