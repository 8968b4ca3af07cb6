"""Files of load generators. Those of guidellm and AIPerf in ``data/clients`` were written by the
clients themselves (``data/clients/make.py``); those of vLLM and inference-perf were written by hand
after their sources, with round numbers."""

from __future__ import annotations

import copy
import gzip
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from simulator import MeasuredRun, UserError, read_measurements
from simulator.cli import cli
from simulator.measured import files
from simulator.measured.trace import lengths_text, trace_text
from simulator.workload.traces import read_trace

CLIENTS = Path(__file__).parent / "data" / "clients"
FILES = (
    "vllm-detailed.json",
    "guidellm-0.8.1.json",
    "guidellm-0.8.1-plain.json",
    "inference-perf-requests.json",
    "inference-perf-stage_0_lifecycle_metrics.json",
    "aiperf-0.13.0/profile_export_aiperf.json",
)


def one(name: str) -> MeasuredRun:
    (run,) = read_measurements(CLIENTS / name)
    return run


def written(folder: Path, document: Any, name: str = "result.json") -> Path:
    file = folder / name
    file.write_text(json.dumps(document))
    return file


def loaded(name: str) -> Any:
    return json.loads((CLIENTS / name).read_text())


# --- vLLM ----------------------------------------------------------------------------------------


def test_vllms_details_give_every_figure() -> None:
    run = one("vllm-detailed.json")
    assert (run.client, run.model) == ("vllm bench serve", "meta-llama/Llama-3.1-8B-Instruct")
    assert (run.completed, run.failed, run.load.kind, run.load.rate_per_s) == (3, 1, "rate", 2.0)
    assert run.records is not None
    assert run.records.arrival_s is not None
    assert run.records.arrival_s.tolist() == [0.0, 0.5, 1.25]
    assert run.records.output_tokens.tolist() == [3, 4, 1]
    assert run.latency["ttft_ms"]["mean"] == pytest.approx(150.0)
    assert run.latency["tpot_ms"]["mean"] == pytest.approx(12.5)  # 30 / 2 and 30 / 3; one has none
    assert run.latency["itl_ms"]["mean"] == pytest.approx(12.0)
    assert run.latency["e2e_ms"]["p50"] == pytest.approx(150.0)
    assert run.output_tokens_per_s == pytest.approx(8 / 1.4)  # from 1000.0 to 1001.25 + 0.15


def test_names_do_not_reach_the_terminal_as_commands(tmp_path: Path) -> None:
    evil = "\x1b[2Jevil\n"
    file = written(tmp_path, loaded("vllm-detailed.json") | {"label": evil, "model_id": evil})
    [run] = read_measurements(file)
    assert (run.name, run.model) == ("\ufffd[2Jevil\ufffd", "\ufffd[2Jevil\ufffd")
    with pytest.raises(UserError) as caught:
        read_measurements(written(tmp_path, {evil: 1}))
    assert str(caught.value).isprintable()


def test_vllms_own_statistics_are_those_of_its_details() -> None:
    document, run = loaded("vllm-detailed.json"), one("vllm-detailed.json")
    for name, key in (("ttft_ms", "ttft"), ("tpot_ms", "tpot"), ("itl_ms", "itl")):
        for statistic, word in (("mean", "mean"), ("p50", "median"), ("p99", "p99")):
            assert run.latency[name][statistic] == pytest.approx(document[f"{word}_{key}_ms"])


def test_a_run_of_vllm_without_details_is_its_statistics() -> None:
    first, second = read_measurements(CLIENTS / "vllm-appended.json")
    assert first.records is None
    assert "--save-detailed" in first.notes[0]
    assert (first.load.kind, first.load.concurrency) == ("closed_loop", 4)
    assert (second.load.concurrency, second.name) == (8, "openai 2")
    assert first.latency["ttft_ms"] == {"mean": 60.0, "p50": 54.0, "p99": 120.0}
    assert first.latency["e2e_ms"] == {}  # the client was not asked for it
    assert first.inputs is not None
    assert first.inputs.mean == 1024.0


def test_older_files_of_vllm_lack_latencies_starts_and_failures(tmp_path: Path) -> None:
    document = loaded("vllm-detailed.json")
    for key in ("latencies", "start_times", "queue_times", "failed"):
        del document[key]
    (run,) = read_measurements(written(tmp_path, document))
    newer = one("vllm-detailed.json")
    assert run.latency["ttft_ms"] == newer.latency["ttft_ms"]
    assert run.failed == 1
    for name, statistic in (("tpot_ms", "mean"), ("e2e_ms", "p99")):
        assert run.latency[name][statistic] == pytest.approx(newer.latency[name][statistic])
    with pytest.raises(UserError, match="does not say when requests were sent"):
        trace_text(run)
    assert lengths_text(run).split() == ["input_tokens,output_tokens", "100,3", "200,4", "50,1"]


# --- the clients' own files ----------------------------------------------------------------------


def test_guidellms_figures_are_its_own() -> None:
    run, metrics = one("guidellm-0.8.1.json"), loaded("guidellm-0.8.1.json")["benchmarks"][0]
    assert (run.client, run.version, run.model) == ("guidellm", "0.8.1", "tiny")
    assert (run.completed, run.failed) == (7, 1)
    assert (run.load.kind, run.load.concurrency) == ("closed_loop", 2)
    own = {key: found["successful"]["mean"] for key, found in metrics["metrics"].items()
           if isinstance(found, dict) and "successful" in found and isinstance(found["successful"], dict)}  # fmt: skip
    assert run.latency["ttft_ms"]["mean"] == pytest.approx(own["time_to_first_token_ms"])
    assert run.records is not None  # its mean counts each request as often as it has gaps
    gaps = run.records.output_tokens - 1
    weighted = float((run.records.tpot_s * gaps).sum() / gaps.sum())
    assert 1e3 * weighted == pytest.approx(own["inter_token_latency_ms"])
    assert run.latency["itl_ms"] == {}
    # Its latency ends with the answer, a moment after the last token.
    assert 0 < own["request_latency"] * 1e3 - run.latency["e2e_ms"]["mean"] < 5
    assert run.outputs is not None
    assert run.outputs.mean == pytest.approx(own["output_token_count"])
    assert run.inputs is not None
    assert run.inputs.mean == pytest.approx(own["prompt_token_count"])


@pytest.mark.parametrize("name", ["guidellm-0.8.1.json", "aiperf-0.13.0", "aiperf-0.13.0-warm"])
def test_no_time_is_below_what_the_server_took(name: str) -> None:
    """The server of ``make.py`` sends the first token after 20 ms, one more every 4 ms."""
    records = one(name).records
    assert records is not None
    floor_s = 0.020 + 0.004 * (records.output_tokens - 1)
    assert (records.ttft_s >= 0.020).all()
    assert (records.e2e_s >= floor_s).all()
    assert (records.e2e_s < 4 * floor_s).all()  # not in another unit either


def test_a_sampled_report_of_guidellm_is_its_statistics(tmp_path: Path) -> None:
    report = loaded("guidellm-0.8.1.json")
    del report["benchmarks"][0]["requests"]["successful"][3:]
    (run,) = read_measurements(written(tmp_path, report))
    found = report["benchmarks"][0]["metrics"]["time_to_first_token_ms"]["successful"]
    assert run.records is None
    assert "3 of 7 answered requests" in run.notes[0]
    assert run.latency["ttft_ms"]["p99"] == found["percentiles"]["p99"]
    assert run.latency["e2e_ms"]["mean"] > run.latency["ttft_ms"]["mean"]
    assert run.latency["itl_ms"] == {"mean": run.latency["tpot_ms"]["mean"]}
    assert "counted as often as it has gaps" in run.definitions[0]


def test_the_older_layout_of_guidellm_says_the_same(tmp_path: Path) -> None:
    """As guidellm 0.2 and 0.3 wrote it: no metadata, times in the request itself."""
    report = loaded("guidellm-0.8.1.json")
    del report["metadata"]
    for benchmark in report["benchmarks"]:
        config = benchmark.pop("config")
        benchmark["args"] = {"strategy": config["strategy"]}
        benchmark["worker"] = {"backend_model": config["backend"]["model"]}
        benchmark["run_stats"] = {"start_time": benchmark.pop("start_time")}
        for request in benchmark["requests"]["successful"]:
            times = request.pop("info")["timings"]
            request |= {
                "start_time": times["request_start"],
                "end_time": times["request_end"],
                "first_token_time": times["first_token_iteration"],
                "last_token_time": times["last_token_iteration"],
            }
    (old,) = read_measurements(written(tmp_path, report))
    new = one("guidellm-0.8.1.json")
    assert old.version is None
    assert (old.model, old.load) == (new.model, new.load)
    assert old.latency == new.latency
    assert old.measured_on == new.measured_on


def test_aiperfs_figures_are_its_own() -> None:
    for folder in ("aiperf-0.13.0", "aiperf-0.13.0-warm"):
        run, summary = one(folder), loaded(f"{folder}/profile_export_aiperf.json")
        assert (run.client, run.version, run.model) == ("AIPerf", "0.13.0", "tiny")
        for name, key in (
            ("ttft_ms", "time_to_first_token"), ("tpot_ms", "inter_token_latency"),
            ("itl_ms", "inter_chunk_latency"), ("e2e_ms", "request_latency"),
        ):  # fmt: skip
            for statistic, word in (
                ("mean", "avg"),
                ("p50", "p50"),
                ("p90", "p90"),
                ("p99", "p99"),
            ):
                assert run.latency[name][statistic] == pytest.approx(summary[key][word])
    assert (run.load.rate_per_s, run.load.cv) == (20.0, 1.0)
    assert "2 requests of the warm-up" in run.notes[0]
    assert len(run.records or ()) == 8
    failing = one("aiperf-0.13.0")
    assert (failing.completed, failing.failed) == (7, 1)
    assert (failing.load.kind, failing.load.concurrency) == ("closed_loop", 2)


def test_aiperfs_summary_stands_for_itself_where_it_lies_alone(tmp_path: Path) -> None:
    for name in ("profile_export_aiperf.json", "own_aiperf.json"):
        shutil.copy(CLIENTS / "aiperf-0.13.0" / "profile_export_aiperf.json", tmp_path / name)
    (run,) = read_measurements(tmp_path)
    assert run.records is None
    assert (run.completed, run.failed) == (7, 1)
    assert run.latency["tpot_ms"] == pytest.approx(one("aiperf-0.13.0").latency["tpot_ms"])
    shutil.copy(CLIENTS / "aiperf-0.13.0" / "profile_export.jsonl", tmp_path / "own.jsonl")
    (run,) = read_measurements(tmp_path / "own.jsonl")
    assert run.version == "0.13.0"
    assert run.load.concurrency == 2
    assert read_measurements(tmp_path / "own_aiperf.json")[0].records is not None


def test_inference_perfs_requests_and_its_stage_say_the_same() -> None:
    requests, stage = one("inference-perf-requests.json"), one(FILES[4])
    assert (requests.completed, requests.failed) == (stage.completed, stage.failed) == (3, 1)
    for name in ("ttft_ms", "tpot_ms", "itl_ms"):
        for statistic in ("mean", "p50", "p90", "p99"):
            assert requests.latency[name][statistic] == pytest.approx(
                stage.latency[name][statistic]
            )
    assert requests.records is not None
    assert requests.records.arrival_s is not None
    assert requests.records.arrival_s.tolist() == [0.0, 0.5, 1.0]  # the file has them out of order
    assert requests.records.input_tokens.tolist() == [14, 9, 22]  # the server's count, where it is
    assert stage.load.rate_per_s == 2.0
    assert stage.inputs == requests.inputs.__class__(15.0)


def test_older_requests_of_inference_perf_have_their_times_higher_up(tmp_path: Path) -> None:
    requests = loaded("inference-perf-requests.json")
    for request in requests:
        response = request["info"].pop("response_metrics")
        request["info"] = {"input_tokens": request["info"]["input_tokens"], **(response or {})}
    (run,) = read_measurements(written(tmp_path, requests))
    newer = one("inference-perf-requests.json")
    assert run.latency == newer.latency
    assert run.model == newer.model


def test_thinking_before_an_answer_is_its_first_token(tmp_path: Path) -> None:
    requests = loaded("inference-perf-requests.json")
    response = requests[0]["info"]["response_metrics"]
    response["reasoning_chunk_times"] = [50.05, 50.06]
    (run,) = read_measurements(written(tmp_path, requests))
    assert run.records is not None
    assert run.records.ttft_s.tolist() == pytest.approx([0.05, 0.1, 0.2])
    response["reasoning_chunk_times"] = response["output_token_times"] = response[
        "chunk_times"
    ] = []
    (run,) = read_measurements(written(tmp_path, requests))
    assert run.records is not None
    assert math.isnan(run.records.ttft_s[0])  # one request came as a whole
    assert run.records.e2e_s[0] == pytest.approx(0.41)


def test_a_run_of_aiperf_that_was_stopped_says_so(tmp_path: Path) -> None:
    summary = loaded("aiperf-0.13.0/profile_export_aiperf.json")
    assert not any("stopped" in note for note in one("aiperf-0.13.0").notes)
    for change in ({"was_cancelled": True}, {"is_complete": False}):
        (run,) = read_measurements(written(tmp_path, summary | change))
        assert run.notes[0] == "the run was stopped before it was done"


def test_what_the_server_had_cached_is_told(tmp_path: Path) -> None:
    requests = loaded("inference-perf-requests.json")
    assert one("inference-perf-requests.json").to_dict()["cached_share_of_prompts"] is None
    usage = requests[0]["info"]["response_metrics"]["server_usage"]
    usage["prompt_tokens_details"] = {"cached_tokens": 7}
    (run,) = read_measurements(written(tmp_path, requests))
    assert run.to_dict()["cached_share_of_prompts"] == 0.5  # of the one request that says it
    report = loaded("guidellm-0.8.1.json")
    for request in report["benchmarks"][0]["requests"]["successful"]:
        request["cached_tokens"] = request["prompt_tokens"]
    (run,) = read_measurements(written(tmp_path, report))
    assert run.to_dict()["cached_share_of_prompts"] == 1.0
    told = simulate(str(tmp_path / "result.json"))
    assert "100.0% of prompt tokens came out of the server's prefix cache" in told.output
    lines = (CLIENTS / "aiperf-0.13.0" / "profile_export.jsonl").read_text().splitlines()
    record = json.loads(lines[0])
    record["metrics"]["usage_prompt_cache_read_tokens"] = {"value": 0, "unit": "tokens"}
    (run,) = read_measurements(written(tmp_path, record, "one.jsonl"))
    assert run.to_dict()["cached_share_of_prompts"] == 0.0


# --- without streaming ---------------------------------------------------------------------------


def test_without_streaming_there_is_no_ttft(tmp_path: Path) -> None:
    plain = one("guidellm-0.8.1-plain.json")
    assert plain.latency["ttft_ms"] == plain.latency["tpot_ms"] == {}
    assert plain.latency["e2e_ms"]["mean"] > 20
    assert "not streamed" in plain.definitions[0]
    lines = (CLIENTS / "aiperf-0.13.0" / "profile_export.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        for key in ("time_to_first_token", "inter_token_latency", "inter_chunk_latency"):
            record["metrics"].pop(key, None)
    file = tmp_path / "requests.jsonl"
    file.write_text("\n".join(json.dumps(record) for record in records))
    (run,) = read_measurements(file)
    assert run.latency["ttft_ms"] == run.latency["itl_ms"] == {}
    assert run.latency["e2e_ms"]
    assert (run.version, run.load.kind) == (None, "unknown")  # no summary beside it


# --- traces --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vllm-detailed.json", "aiperf-0.13.0", "guidellm-0.8.1.json"])
def test_a_trace_holds_the_requests_as_they_were_sent(name: str, tmp_path: Path) -> None:
    run = one(name)
    records = run.records
    assert records is not None
    assert records.arrival_s is not None
    file = tmp_path / "trace.csv"
    file.write_text(trace_text(run))
    trace = read_trace(str(file))
    assert trace.arrival_s is not None
    assert (np.diff(trace.arrival_s) >= 0).all()
    assert np.abs(trace.arrival_s - records.arrival_s).max() <= 1e-6
    assert (trace.input_tokens == records.input_tokens).all()
    assert (trace.output_tokens == records.output_tokens).all()


def test_conversations_become_sessions(tmp_path: Path) -> None:
    requests = loaded("inference-perf-requests.json")
    for request, name in zip(requests, ("a", "b", "a", "a"), strict=True):
        request["session_id"] = name
    (run,) = read_measurements(written(tmp_path, requests))
    assert run.records is not None
    assert run.records.session.tolist() == [0, 0, -1]
    file = tmp_path / "trace.csv"
    file.write_text(trace_text(run))
    assert read_trace(str(file)).session.tolist() == [0, 0, -1]


def test_a_run_without_requests_makes_no_trace() -> None:
    with pytest.raises(UserError, match="has no single requests: the file has no details"):
        trace_text(read_measurements(CLIENTS / "vllm-appended.json")[0])


# --- mistakes ------------------------------------------------------------------------------------


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        document = loaded(name)
        change(document)
        return written(folder, document)

    return write


def text(content: str | bytes, name: str = "result.json") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        file = folder / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return write


VLLM, GUIDELLM, AIPERF = FILES[0], FILES[1], "aiperf-0.13.0/profile_export_aiperf.json"

MISTAKES: list[tuple[Callable[[Path], Path], str]] = [
    (lambda folder: folder / "nothing.json", "cannot be read: No such file"),
    (lambda folder: folder, "is a folder without a result of a known client"),
    (text(""), "is empty"),
    (text("{"), r"is not JSON: .* \(line 1, column 2\); expected the JSON of `vllm bench serve"),
    (text("ttft,tpot\n1,2\n"), "is not JSON"),
    (text(b"\xff\xfe{}"), "is not UTF-8 text"),
    (text(b"\x1f\x8b\x08\x00short", "result.json.gz"), "is not a whole gzip file"),
    (text("[" * 100_000), "is nested too deeply"),
    (text("[" + "9" * 5000 + "]"), "holds a number that is too long"),
    (text("{}"), "is no result of a known client: it is empty"),
    (text('{"a": 1, "b": 2}'), "its keys are 'a', 'b'; expected the JSON of"),
    (text("[]"), "it is a list of other things than requests"),
    (text("7"), "it is neither an object nor a list"),
    (changed(VLLM, lambda d: d.update(total_input_sequences=3)), "is a run of embeddings"),
    (changed(VLLM, lambda d: d.pop("duration")), "has no 'duration'"),
    (changed(VLLM, lambda d: d.update(duration="1")), "duration: must be a number, got '1'"),
    (changed(VLLM, lambda d: d.update(duration=math.nan)), "must be a finite number, got nan"),
    (changed(VLLM, lambda d: d.update(duration=10**400)), "must be a finite number, got 1000"),
    (changed(VLLM, lambda d: d.update(completed=2.5)), "must be a whole number"),
    (changed(VLLM, lambda d: d.update(completed=True)), "must be a number, got True"),
    (changed(VLLM, lambda d: d["ttfts"].pop()), "ttfts: has 3 entries, 'input_lens' 4"),
    (changed(VLLM, lambda d: d["itls"].pop()), "itls: has 3 entries"),
    (changed(VLLM, lambda d: d["errors"].pop()), "errors: has 3 entries"),
    (changed(VLLM, lambda d: d.update(completed=9)), "errors: has 4 entries, and 'completed' is 9"),
    (changed(VLLM, lambda d: d["itls"][1].append(-1)), r"itls\[1\]\[3\]: must be at least 0, got -1"),
    (changed(VLLM, lambda d: d.update(itls=[1, 2, 3, 4])), r"itls\[0\]: must be a list, got 1"),
    (changed(VLLM, lambda d: d["input_lens"].__setitem__(0, 1e12)), r"input_lens\[0\]: must be a whole"),
    (changed(VLLM, lambda d: d["ttfts"].__setitem__(0, 9.0)), "request 0: its first token came after"),
    (changed(GUIDELLM, lambda d: d["metadata"].update(version=3)),
     "metadata.version: is a report of guidellm in layout 3, which is not known; known are 1 and 2"),
    (changed(GUIDELLM, lambda d: d.update(benchmarks=[])), "holds no run"),
    (changed(GUIDELLM, lambda d: d["benchmarks"][0].pop("metrics")),
     r"benchmarks\[0\]: has no 'metrics'; the file may be of another version"),
    (changed(GUIDELLM, lambda d: d["benchmarks"][0]["config"].pop("strategy")), "has no 'config.strategy'"),
    (changed(GUIDELLM, lambda d: d["benchmarks"][0]["requests"]["successful"][2]["info"]["timings"]
             .update(last_token_iteration=1.0)), r"successful\[2\]: its times are out of order"),
    (changed(AIPERF, lambda d: d["request_latency"].update(unit="days")),
     "request_latency.unit: must be a unit of time, got 'days'"),
    (changed(AIPERF, lambda d: d.pop("request_count")), "no request was answered"),
    (changed(FILES[3], lambda d: d[0]["info"]["response_metrics"]["output_token_times"].reverse()),
     "its times do not ascend"),
    (changed(FILES[4], lambda d: d["successes"].pop("latency")), "has no latencies"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "sentence"), MISTAKES)
def test_mistakes_are_one_sentence(
    make: Callable[[Path], Path], sentence: str, tmp_path: Path
) -> None:
    file = make(tmp_path)
    with pytest.raises(UserError, match=sentence) as caught:
        read_measurements(file)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_file_that_is_too_large_is_not_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 1000)
    file = tmp_path / "bomb.json.gz"
    file.write_bytes(gzip.compress(b" " * 100_000))
    with pytest.raises(UserError, match="is larger than"):
        read_measurements(file)


ODD = (None, "x", math.nan, math.inf, -1, 0, [], {}, True, 10**400, 1e300, [None], {"a": 1})


def leaves(value: Any) -> list[tuple[Any, Any]]:
    """Every place of a document: what holds it, and its key."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in items:
        found.append((value, key))
        if isinstance(inner, dict | list):
            found += leaves(inner)
    return found


@pytest.mark.parametrize("name", FILES)
def test_no_value_in_no_place_ends_in_a_traceback(name: str, tmp_path: Path) -> None:
    draw = random.Random(name)
    original = loaded(name)
    refused = 0
    for _ in range(250):
        document = copy.deepcopy(original)
        holder, key = draw.choice(leaves(document))
        holder[key] = draw.choice(ODD)
        try:
            read_measurements(written(tmp_path, document))
        except UserError:
            refused += 1
    assert refused > 5  # most places are not read


# --- the command ---------------------------------------------------------------------------------


def simulate(*arguments: str) -> Any:
    return CliRunner().invoke(cli, ["measured", *arguments])


def test_the_command_tells_and_writes_a_trace(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    told = simulate(str(CLIENTS / "guidellm-0.8.1.json"), "--trace", str(trace))
    assert told.exit_code == 0
    assert "concurrent 1: guidellm 0.8.1" in told.output
    assert "7 answered, 1 failed" in told.output
    assert "TTFT" in told.output
    assert trace.read_text().startswith("arrival_s,input_tokens,output_tokens\n0.000000,")


def test_the_commands_document(tmp_path: Path) -> None:
    both = [str(CLIENTS / name) for name in ("vllm-appended.json", "vllm-detailed.json")]
    document = json.loads(simulate(*both, "--json").stdout)
    assert [run["completed"] for run in document["runs"]] == [40, 40, 3]
    assert document["runs"][2]["latency"]["ttft_ms"]["mean"] == pytest.approx(150.0)
    (third,) = json.loads(simulate(*both, "--run", "3", "--json").stdout)["runs"]
    assert third == document["runs"][2]
    assert simulate(*both, "--run", "4").exit_code == 2
    several = simulate(*both, "--trace", str(tmp_path / "trace.csv"))
    assert several.exit_code == 2
    assert "--run chooses one" in several.output
