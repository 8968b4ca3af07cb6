"""``run``, ``check`` and ``compare``: what they print, what they write, and how they fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import ROOT

from simulator.cli import cli
from simulator.scenario.shipped import scenario_names

SMALL = """\
name: small
model: llama-3.1-8b
hardware: h100-sxm
workload:
  kind: synthetic
  arrivals: {kind: poisson, rate_per_s: 4}
  lengths:
    kind: independent
    input: {kind: fixed, tokens: 256}
    output: {kind: fixed, tokens: 32}
  requests: 40
slo: {ttft_ms: 500, tpot_ms: 30}
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A scenario in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SMALL, encoding="utf-8")
    return "small.yaml"


def simulate(*args: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, args, input=stdin, prog_name="simulate")


def refusal(*args: str) -> str:
    result = simulate(*args)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("Error: ").rstrip("\n")


# --- run -----------------------------------------------------------------------------------------


def test_run_prints_the_answer_and_says_where_the_files_are(small: str) -> None:
    result = simulate("run", small)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    for word in ("TTFT", "TPOT", "ITL", "E2E", "p99", "servecast-results/small-1"):
        assert word in result.stdout
    written = {file.name for file in Path("servecast-results/small-1").iterdir()}
    assert "summary.json" in written
    assert any(name.endswith(".html") for name in written)
    assert simulate("run", small, "--no-report").exit_code == 0
    again = {file.name for file in Path("servecast-results/small-2").iterdir()}
    assert not any(name.endswith(".html") for name in again)


def test_json_is_one_document_and_nothing_else(small: str) -> None:
    result = simulate("run", small, "--json")
    assert result.exit_code == 0
    assert result.stderr == ""
    document = json.loads(result.stdout, parse_constant=pytest.fail)
    assert document
    assert not Path("servecast-results").exists()
    assert simulate("run", small, "--json").stdout == result.stdout


def test_json_with_out_writes_the_same_summary(small: str) -> None:
    result = simulate("run", small, "--json", "--out", "here")
    written = json.loads(Path("here/summary.json").read_text(encoding="utf-8"))
    assert written == json.loads(result.stdout)


def test_a_scenario_from_standard_input(small: str) -> None:
    del small
    piped = simulate("run", "-", "--json", stdin=SMALL)
    assert piped.exit_code == 0
    assert piped.stdout == simulate("run", "small.yaml", "--json").stdout


def test_set_changes_the_result(small: str) -> None:
    slow = simulate("run", small, "--json", "--set", "hardware=l4")
    assert slow.exit_code == 0
    assert slow.stdout != simulate("run", small, "--json").stdout


def test_out_is_never_overwritten(small: str) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    said = "mine: already exists and is left as it is; choose another --out"
    assert refusal("run", small, "--out", "mine") == said
    assert [file.name for file in Path("mine").iterdir()] == ["thesis.txt"]
    Path("empty").mkdir()
    assert simulate("run", small, "--out", "empty").exit_code == 0


def test_out_below_a_file(small: str) -> None:
    said = refusal("run", small, "--out", "small.yaml/x")
    assert said.startswith("small.yaml/x: ")
    Path("servecast-results").write_text("a file in the way")
    assert refusal("run", small).startswith("servecast-results: the folder cannot be made in")


def test_a_full_disk_is_said(small: str) -> None:
    with Path("/dev/full").open("w") as full:
        child = process("run", small, "--json", stdout=full)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 2
    assert err == "Error: cannot be written: No space left on device\n"


def test_the_answer_is_printed_even_if_the_files_fail(
    small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("simulator.results.Result.save", full)
    result = simulate("run", small, "--out", "x")
    assert result.exit_code == 2
    assert "TTFT" in result.stdout
    assert result.stderr == "Error: x: cannot be written: No space left on device\n"


def test_only_the_formats_asked_for(small: str) -> None:
    from simulator.results import FORMATS

    for name in FORMATS:
        assert simulate("run", small, "--format", name, "--out", f"only-{name}").exit_code == 0
        assert list(Path(f"only-{name}").iterdir())
    everything = simulate("run", small, "--out", "all")
    assert everything.exit_code == 0
    parts = {f.name for name in FORMATS for f in Path(f"only-{name}").iterdir()}
    assert {f.name for f in Path("all").iterdir()} <= parts
    said = refusal("run", small, "--format", "jsn")
    assert said.startswith("--format jsn: must be one of ")
    assert said.endswith("did you mean 'json'?")


def test_no_files(small: str) -> None:
    assert simulate("run", small, "--no-files").exit_code == 0
    assert not Path("servecast-results").exists()
    refusal("run", small, "--no-files", "--out", "x")


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("override", "start"),
    [
        ("model=llama-3.1-9b", "--set model=llama-3.1-9b: model: there is no model 'llama-3.1-9b'; did you mean"),
        ("hardware=h1000", "--set hardware=h1000: hardware.profile: unknown hardware profile 'h1000'"),
        ("engine=vlm", "--set engine=vlm: engine.profile: unknown engine profile 'vlm'; did you mean 'vllm'?"),
        ("workload.requests=0", "--set workload.requests=0: workload.requests: must be"),
        ("workload.arrivals.rate_per_s=.nan", "--set workload.arrivals.rate_per_s=.nan: workload.arrivals.rate_per_s: must be a finite number"),
        ("workload={kind: trace, file: none.csv}", "there is no trace"),
        ("engine.max_model_len=1000000", "--set engine.max_model_len=1000000: engine.max_model_len: max_model_len 1000000 is beyond the context of"),
        ("engine.max_model_len=200", "small.yaml:4: workload: request 0 has 256 prompt + 32 output = 288 tokens, more than max_model_len (200)"),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_sentence(small: str, command: str, override: str, start: str) -> None:
    assert refusal(command, small, "--set", override).startswith(start)
    assert not Path("servecast-results").exists()


def test_a_model_that_does_not_fit_says_what_would(small: str) -> None:
    said = refusal("run", small, "--set", "model=llama-3.1-70b")
    assert "GiB" in said
    assert "tp" in said


def test_a_bad_trace_row_is_named(small: str) -> None:
    Path("t.csv").write_text("arrival_s,input_tokens,output_tokens\n0,10,5\n1,-3,5\n")
    said = refusal("run", small, "--set", "workload={kind: trace, file: t.csv}")
    assert "t.csv:3" in said


# --- check ---------------------------------------------------------------------------------------


def test_check_shows_the_memory_arithmetic(small: str) -> None:
    result = simulate("check", small)
    assert result.exit_code == 0
    assert "small.yaml is right." in result.stdout
    document = json.loads(simulate("check", small, "--json").stdout)
    memory = document["memory"]
    parts = ("weights_gib", "activations_gib", "reserved_gib", "unused_gib", "kv_cache_gib")
    assert sum(memory[part] for part in parts) == pytest.approx(memory["device_gib"], rel=1e-6)
    assert f"{memory['kv_tokens']:,} tokens" in result.stdout
    assert document["traffic"]["requests"] == 40


@pytest.mark.parametrize("name", scenario_names())
def test_every_example_is_right_and_fits(name: str) -> None:
    result = simulate("check", name, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["traffic"]["requests_that_never_fit"] == 0


SMALL_EXAMPLES = ("chat-8b-h100", "closed-loop-8b-h100", "static-batching", "mixed-classes-8b-h100")


@pytest.mark.parametrize("name", SMALL_EXAMPLES)
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = simulate("run", str(ROOT / "examples" / f"{name}.yaml"), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)


# --- compare -------------------------------------------------------------------------------------


def test_compare_saved_results_and_scenarios(small: str) -> None:
    simulate("run", small, "--out", "first", "--format", "json")
    document = json.loads(
        simulate("compare", "first", small, "--set", "hardware=l4", "--json").stdout
    )
    rows = {row["key"]: row for row in document["metrics"]}
    tpot = rows["latency.tpot_ms.p50"]
    assert tpot["ratio"] > 2  # an L4 has an eleventh of the bandwidth
    summary = json.loads(Path("first/summary.json").read_text(encoding="utf-8"))
    assert tpot["a"] == summary["latency"]["tpot_ms"]["p50"]
    table = simulate("compare", "first", small, "--set", "hardware=l4").stdout
    assert "worse" in table
    assert "Batch size" not in table
    assert "Batch size" in simulate("compare", "first", small, "--all").stdout


def test_compare_of_equals_differs_in_nothing(small: str) -> None:
    document = json.loads(simulate("compare", small, small, "--json").stdout)
    assert document["metrics"]
    assert all(row["difference"] == 0 for row in document["metrics"])


@pytest.mark.parametrize(
    ("a", "said"),
    [
        ("none.yaml", "none.yaml: no such file"),
        ("none.json", "none.json: there is no summary.json; give a folder that `simulate run` wrote"),
        ("empty", "empty: there is no summary.json; give a folder that `simulate run` wrote"),
        ("other.json", "other.json: is not the summary of a run; simulate the scenario again"),
    ],
)  # fmt: skip
def test_compare_refuses(small: str, a: str, said: str) -> None:
    Path("empty").mkdir()
    Path("other.json").write_text("{}")
    assert refusal("compare", a, small) == said


def test_compare_cannot_change_what_was_saved(small: str) -> None:
    simulate("run", small, "--out", "first", "--format", "json")
    said = "--set changes scenarios, but A and B are results"
    assert refusal("compare", "first", "first", "--set", "name=x") == said


# --- as a process --------------------------------------------------------------------------------


def process(*args: str, stdout: Any = subprocess.PIPE) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "simulator", *args],
        stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def test_no_traceback_reaches_the_terminal(small: str) -> None:
    del small
    child = process("run", "none.yaml")
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (2, "", "Error: none.yaml: no such file\n")


def test_the_same_scenario_gives_the_same_bytes_in_any_process(small: str) -> None:
    outputs = set()
    for seed in ("1", "2"):
        child = subprocess.run(
            [sys.executable, "-m", "simulator", "run", small, "--json"],
            capture_output=True, timeout=60, check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
        )  # fmt: skip
        outputs.add(child.stdout)
    assert len(outputs) == 1


def test_a_closed_pipe_is_no_error() -> None:
    with process("list", "models") as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == ""
        assert child.wait(timeout=60) == 141


INTERRUPTED = """
import os, signal
from simulator.cli import main, output

def press_ctrl_c(self, done, total, clock_s):
    if done >= 4000:
        os.kill(os.getpid(), signal.SIGINT)

output.ProgressBar.__call__ = press_ctrl_c
main()
"""


def test_ctrl_c_keeps_what_was_simulated(small: str) -> None:
    args = ["run", small, "--set", "workload.requests=20000", "--out", "kept", "--format", "json"]
    child = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *args],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert child.returncode == 130, child.stderr
    assert child.stderr.startswith("Interrupted after 4,000 of 20,000 requests and ")
    assert child.stderr.endswith("what was simulated is in kept.\n")
    summary = json.loads(Path("kept/summary.json").read_text(encoding="utf-8"))
    assert summary["run"]["interrupted"] is True
    assert summary["requests"]["all_by_outcome"]["completed"] == 4000
    assert "TTFT" in child.stdout


def test_ctrl_c_before_the_simulation_says_that_nothing_was_kept(small: str) -> None:
    code = (
        "import os, signal; from simulator.cli import folder\n"
        "folder.check_free = lambda out: os.kill(os.getpid(), signal.SIGINT)\n"
        "from simulator.cli import main; main()"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, "run", small, "--out", "kept"],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert child.returncode == 130
    assert child.stdout == ""
    assert child.stderr.strip() == "Interrupted: nothing was kept."
    assert not Path("kept").exists()


@pytest.mark.parametrize(("redirection", "code"), [(">&-", 0), ("2>&-", 0), (">&- 2>&-", 0)])
def test_closed_streams_end_no_run(small: str, redirection: str, code: int) -> None:
    command = f"{sys.executable} -m simulator run {small} --no-files {redirection}"
    done = subprocess.run(
        ["sh", "-c", command], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True
    )
    assert (done.returncode, done.stderr) == (code, b"")


def test_an_encoding_without_the_signs_ends_no_run(small: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "simulator", "run", small, "--no-files"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"1 ? NVIDIA" in done.stdout


def test_lines_in_a_pipe_end_without_blanks(small: str) -> None:
    printed = simulate("run", small, "--no-files").output
    assert not [line for line in printed.splitlines() if line != line.rstrip()]
