"""The command: resumed after a kill, the same on any number of processes, one JSON document."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from calibration.validate import read_dataset, validate
from calibration.validate.metrics import document
from calibration.validate.store import NAME, Store
from calibration.validate.tables import csv_text
from simulator import Scenario, simulate
from simulator.errors import UserError
from tests.test_validate_schema import HEADER, ROW, SAMPLE, write

LIMIT = 24
COMMAND = [sys.executable, "-m", "simulator", "validate"]


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": root}
    return subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, env=environment, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip


def keys(folder: Path) -> list[str]:
    lines = (folder / NAME).read_text().splitlines()
    return [json.loads(line)["key"] for line in lines]


def test_killed_and_resumed(tmp_path: Path) -> None:
    whole = validate(read_dataset(SAMPLE), tmp_path / "whole", processes=1, limit=LIMIT)
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [*COMMAND, str(SAMPLE), "--out", str(folder), "--json", "--processes", "1", "--limit", str(LIMIT)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=subprocess.DEVNULL, cwd=tmp_path,
    )  # fmt: skip
    store = folder / NAME
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if store.exists() and store.read_bytes().count(b"\n") >= 3:
            break
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    with store.open("ab") as file:  # and in the middle of a line at that
        file.write(b'{"key": "half a li')
    before = keys_of_whole_lines(store)
    assert 3 <= len(before) < whole.computed
    answer = command(
        str(SAMPLE), "--out", str(folder), "--json", "--limit", str(LIMIT), cwd=tmp_path
    )
    assert answer.returncode == 0, answer.stderr
    after = keys(folder)
    assert after[: len(before)] == before
    assert len(after) == len(set(after)) == whole.computed
    assert json.loads(answer.stdout) == document(whole.comparisons, whole.skipped)
    again = validate(read_dataset(SAMPLE), folder, limit=LIMIT)
    assert again.computed == 0
    assert csv_text(again.comparisons) == csv_text(whole.comparisons)


def keys_of_whole_lines(store: Path) -> list[str]:
    lines = store.read_bytes().split(b"\n")[:-1]
    return [json.loads(line)["key"] for line in lines]


def test_the_same_on_any_number_of_processes(tmp_path: Path) -> None:
    dataset = read_dataset(SAMPLE)
    one = validate(dataset, tmp_path / "one", limit=12, processes=1)
    two = validate(dataset, tmp_path / "two", limit=12, processes=2)
    assert one.computed == two.computed == 12
    assert csv_text(one.comparisons) == csv_text(two.comparisons)
    assert one.comparisons == two.comparisons


def test_the_command(tmp_path: Path) -> None:
    answer = command(
        str(SAMPLE), "--where", "system=h200_sxm", "--where", "engine=vllm", "--html", "page.html",
        "--csv", "rows.csv", "--markdown", "tables.md", cwd=tmp_path,
    )  # fmt: skip
    assert (answer.returncode, answer.stderr) == (0, "")
    rows = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert {(row["system"], row["engine"]) for row in rows} == {("h200_sxm", "vllm")}
    assert f"{len(rows)} points simulated" in answer.stdout
    assert "Median error by model" in answer.stdout
    assert "TTFT" in (tmp_path / "tables.md").read_text()
    assert "<h1>Validation</h1>" in (tmp_path / "page.html").read_text()
    kept = tmp_path / "servecast-results" / f"validate-{SAMPLE.stem}"
    assert len(keys(kept)) == len(rows)


def test_splits_and_limits(tmp_path: Path) -> None:
    dataset = read_dataset(SAMPLE)
    fit = validate(dataset, tmp_path, split="fit", limit=4)
    assert [c.half for c in fit.comparisons] == ["fit"] * 4
    assert fit.skipped == ()
    for where, count in ((("tp", "8"), 2), (("model", "gpt-oss-120b"), 2)):
        found = validate(dataset, tmp_path, where=[where], limit=count)
        assert len(found.comparisons) == count
    with pytest.raises(UserError, match="there is no field 'colour'"):
        validate(dataset, tmp_path, where=[("colour", "red")])


def test_a_row_with_speculative_decoding_is_left_out(tmp_path: Path) -> None:
    dataset = read_dataset(SAMPLE)
    found = validate(dataset, tmp_path, where=[("version", "1.2.0rc6.post3")])
    assert found.comparisons == ()
    assert [row.reason for row in found.skipped] == [
        "speculative decoding (MTP) with an acceptance that nobody published"
    ]


def test_rows_that_the_simulator_refuses_are_listed(tmp_path: Path) -> None:
    rows = [
        ROW,
        ROW.replace("llama-3.1-8b", "llama-3.1-405b"),
        ROW.replace("llama-3.1-8b", "llama-9"),
        ROW.replace("h100", "z9000"),
    ]
    file = write(tmp_path, HEADER, *rows)
    found = validate(read_dataset(file), tmp_path / "out", processes=1)
    assert [c.point.id for c in found.comparisons] == ["line 2"]
    reasons = {row.id: row.reason for row in found.skipped}
    assert "the simulator refuses it" in reasons["line 3"]
    assert "does not fit" in reasons["line 3"]
    assert "llama-9" in reasons["line 4"]
    assert "z9000" in reasons["line 5"]


def test_measurements_of_the_simulator_itself_have_no_error(tmp_path: Path) -> None:
    """Request by request: a simulated run written down as a measurement is predicted exactly."""
    scenario = Scenario.model_validate(
        {
            "model": "llama-3.1-8b", "hardware": "h100-sxm",
            "engine": {"profile": "vllm", "prefix_caching": False, "max_num_seqs": 6},
            "workload": {
                "kind": "synthetic", "requests": 40,
                "arrivals": {"kind": "poisson", "rate_per_s": 20.0},
                "lengths": {"kind": "independent", "input": {"kind": "uniform", "low": 10, "high": 900},
                            "output": {"kind": "uniform", "low": 1, "high": 60}},
            },
        }
    )  # fmt: skip
    record = simulate(scenario).record
    lines = ["run,model,gpu,engine,isl,osl,arrival_s,first_token_s,last_token_s,request_id"]
    for i in range(len(record.requests)):
        lines.append(
            f"r1,llama-3.1-8b,H100,vLLM,{record.requests.input_tokens[i]},"
            f"{record.requests.output_tokens[i]},{record.sent_s[i]},{record.first_token_s[i]},"
            f"{record.finish_s[i]},{i}"
        )
    write(tmp_path, *lines)
    (tmp_path / "summary.csv").write_text("run,max_num_seqs,max_model_len\nr1,6,\n")
    dataset = read_dataset(tmp_path / "mine.csv")
    assert dataset.points[0].max_num_seqs == 6
    (found,) = validate(dataset, tmp_path / "out").comparisons
    for metric in ("ttft_ms", "tpot_ms", "e2e_ms"):
        for statistic in ("mean", "p50", "p90", "p99"):
            measured, predicted = found.pair(metric, statistic) or (0.0, 1.0)
            assert predicted == pytest.approx(measured, rel=1e-9)
    assert found.error_pct("output_tokens_per_s") == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first_token_s": "0.5"}, "first_token_s: must be a number of at least 1, got '0.5'"),
        ({"osl": ""}, "osl: must be a number of at least 1, got ''"),
    ],
)
def test_wrong_times_of_requests(tmp_path: Path, change: dict[str, str], message: str) -> None:
    cells = {
        "run": "r", "model": "llama-3.1-8b", "gpu": "h100", "engine": "vllm", "isl": "5",
        "osl": "3", "arrival_s": "1", "first_token_s": "2", "last_token_s": "3",
    } | change  # fmt: skip
    file = write(tmp_path, ",".join(cells), ",".join(cells.values()))
    with pytest.raises(UserError, match=r"mine\.csv:2, " + message):
        read_dataset(file)


def test_requests_in_another_parallelism_are_skipped(tmp_path: Path) -> None:
    header = "run,model,gpu,engine,isl,osl,arrival_s,first_token_s,last_token_s,parallelism"
    row = "llama-3.1-8b,h100,vllm,5,3,1,2,3"
    file = write(tmp_path, header, f"r,{row},TP2-EP2", f"s,{row},TP2-EP1-DP1")
    dataset = read_dataset(file)
    assert [(p.id, p.tp) for p in dataset.points] == [("s", 2)]
    assert dataset.skipped[0].reason == "parallelism 'TP2-EP2' is not modelled yet"


def test_the_store(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.add("a", {"x": 1})
        with pytest.raises(UserError, match="another run is writing there"):
            Store(tmp_path)
    with Store(tmp_path) as store:
        assert store.found == {"a": {"x": 1}}
    (tmp_path / NAME).write_text("something else\n")
    with pytest.raises(UserError, match="is not a file of predictions"):
        Store(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Store(tmp_path / "file")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.csv",), "Error: none.csv: cannot be read: No such file or directory"),
        ((str(SAMPLE), "--where", "tp"), "Error: --where tp: must be FIELD=VALUE; as in tp=8"),
        ((str(SAMPLE), "--limit", "1", "--html", "no/page.html"), "Error: no/page.html: cannot be written"),
    ],
)  # fmt: skip
def test_mistakes_on_the_command_line(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    answer = command(*arguments, cwd=tmp_path)
    assert answer.returncode == 2
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr


def test_keys_depend_on_profiles(tmp_path: Path) -> None:
    """A user's own hardware file that has changed is simulated anew."""
    from importlib.resources import files

    text = files("hardware_profiles").joinpath("h100-sxm.yaml").read_text(encoding="utf-8")
    own = tmp_path / "mine.yaml"
    own.write_text(text, encoding="utf-8")
    file = write(tmp_path, HEADER, ROW.replace("h100", "mine.yaml"))
    first = run_once(file, tmp_path)
    assert first["computed"] == 1
    own.write_text(text + "\n# a comment changes nothing\n", encoding="utf-8")
    assert run_once(file, tmp_path) == first | {"computed": 0}
    slower = re.sub(r"(bandwidth_gb_per_s: \{value: )[0-9.]+", r"\g<1>1000", text)
    assert slower != text
    own.write_text(slower, encoding="utf-8")
    second = run_once(file, tmp_path)
    assert second["computed"] == 1
    assert second["tpot"] > first["tpot"]


def run_once(file: Path, folder: Path) -> dict[str, Any]:
    found = validate(read_dataset(file), folder / "out", processes=1)
    return {"computed": found.computed, "tpot": (found.comparisons[0].pair("tpot_ms") or (0, 0))[1]}
