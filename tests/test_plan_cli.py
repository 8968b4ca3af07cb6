"""``simulate plan`` and ``simulate sweep``: what they print, leave and refuse."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import ROOT

import simulator
from simulator.cli import cli
from simulator.planner.document import Plan, Space, load_plan
from tests.plan_support import CHAT, PLAN, write

Folder = Path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A working folder with a plan and a scenario."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, PLAN)
    write(tmp_path, CHAT, "chat.yaml")
    return tmp_path


def simulate(*args: str) -> Result:
    return CliRunner().invoke(cli, args, prog_name="simulate")


def refusal(*args: str) -> str:
    result = simulate(*args)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("Error: ").rstrip("\n")


def process(*args: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "simulator", *args], cwd=cwd, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
    )  # fmt: skip


# --- what they say and leave ---------------------------------------------------------------------


def test_a_plan_says_what_to_take_and_why(here: Folder) -> None:
    result = simulate("plan", "plan.yaml", "--workers", "1")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    report = json.loads((here / "servecast-results/small-1/plan.json").read_text("utf-8"))
    assert f"Take {report['winner']['label']}" in result.stdout
    names = {path.name for path in (here / "servecast-results/small-1").iterdir()}
    assert names == {
        "plan.html", "plan.json", "deployments.csv", "deployments.parquet", "winner.yaml", "deploy",
    }  # fmt: skip
    for name in names - {"deploy"}:
        assert f"servecast-results/small-1/{name}" in result.stdout
    # What was chosen is a scenario like any other.
    assert simulate("run", "servecast-results/small-1/winner.yaml", "--no-files").exit_code == 0


def test_json_is_one_document_and_nothing_else(here: Folder) -> None:
    for command in (
        ("plan", "plan.yaml"),
        ("plan", "plan.yaml", "--dry-run"),
        ("sweep", "chat.yaml", "--vary", "hardware=l4,l40s"),
        ("sweep", "plan.yaml", "--dry-run"),
    ):
        result = simulate(*command, "--json", "--no-store", "--workers", "1")
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        assert json.loads(result.stdout, parse_constant=pytest.fail)["name"] in ("small", "chat")
    assert not (here / "servecast-results").exists()


def test_a_search_is_the_same_with_any_number_of_workers_and_again(here: Folder) -> None:
    del here
    found = [
        simulate("plan", "plan.yaml", "--json", "--no-store", "--workers", workers).stdout
        for workers in ("1", "2", "1")
    ]
    assert found[0]
    assert found[0] == found[1] == found[2]
    swept = [
        simulate("sweep", "plan.yaml", "--json", "--no-store", "--workers", workers).stdout
        for workers in ("1", "2")
    ]
    assert swept[0]
    assert swept[0] == swept[1]


def test_a_second_run_takes_what_is_kept(here: Folder) -> None:
    first = simulate("plan", "plan.yaml", "--json", "--workers", "1")
    store = here / "servecast-results/outcomes.sqlite"
    with sqlite3.connect(store) as kept:
        rows = kept.execute("SELECT COUNT(*) FROM outcomes").fetchone()[0]
    assert rows >= json.loads(first.stdout)["search"]["simulations"]
    written = store.stat().st_mtime_ns
    assert simulate("plan", "plan.yaml", "--json", "--workers", "1").stdout == first.stdout
    with sqlite3.connect(store) as kept:
        assert kept.execute("SELECT COUNT(*) FROM outcomes").fetchone()[0] == rows
    assert store.stat().st_mtime_ns == written


def test_where_nothing_holds_the_exit_code_says_so(here: Folder) -> None:
    write(here, PLAN | {"constraints": [{"metric": "tpot_ms.p99", "max": 1}]})
    result = simulate("plan", "plan.yaml", "--no-store", "--workers", "1", "--out", "none")
    assert result.exit_code == 3
    assert "No deployment holds." in result.stdout
    report = json.loads((here / "none/plan.json").read_text("utf-8"))
    assert report["winner"] is None
    # Which limit, and by how much.
    said = " ".join(report["reasons"])
    assert "None of 18 deployments holds." in said
    assert "TPOT p99" in said
    assert "times the limit of 1 ms" in said or "%" in said
    assert not (here / "none/winner.yaml").exists()
    assert simulate("plan", "plan.yaml", "--no-store", "--json").exit_code == 3


def test_a_dry_run_simulates_next_to_nothing_and_leaves_nothing(here: Folder) -> None:
    result = simulate("plan", "plan.yaml", "--dry-run", "--workers", "2")
    assert result.exit_code == 0, result.output
    assert "18 deployments of 4 kinds" in result.stdout
    assert "with 2 workers" in result.stdout
    swept = simulate("sweep", "plan.yaml", "--dry-run", "--workers", "1")
    assert "18 simulations" in swept.stdout
    assert "with 1 worker\n" in swept.stdout
    assert sorted(path.name for path in here.iterdir()) == ["chat.yaml", "plan.yaml"]


def test_no_files_leaves_no_files(here: Folder) -> None:
    assert simulate("plan", "plan.yaml", "--no-files", "--no-store").exit_code == 0
    assert sorted(path.name for path in here.iterdir()) == ["chat.yaml", "plan.yaml"]
    assert simulate("plan", "plan.yaml", "--no-files").exit_code == 0
    assert [path.name for path in (here / "servecast-results").iterdir()] == ["outcomes.sqlite"]


def test_a_sweep_simulates_every_combination(here: Folder) -> None:
    result = simulate(
        "sweep", "chat.yaml", "--vary", "hardware=l4,l40s", "--vary", "parallelism.tp=1,2,16",
        "--vary", "engine.policy={kind: static, batch_size: 4},{kind: continuous}",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads((here / "servecast-results/chat-sweep-1/sweep.json").read_text("utf-8"))
    assert len(report["rows"]) == 12
    assert "12, of which 8 ran" in result.stdout
    assert result.stdout.count("tp = 16 does not fit") == 2  # one line for each device
    assert (here / "servecast-results/chat-sweep-1/sweep.html").exists()


def test_metrics_lists_what_a_constraint_may_name() -> None:
    names = simulate("plan", "--metrics").stdout.splitlines()
    assert {"latency.ttft_ms.p99", "cost.usd_per_hour", "slo.goodput_share"} <= set(names)


# --- interruptions -------------------------------------------------------------------------------

LONG = PLAN | {
    "scenario": CHAT | {"workload": CHAT["workload"] | {"requests": 1500}},
    "space": {"hardware": ["l4", "l40s", "a10g", "a40"], "max_devices": 24},
}


def kept(store: Path) -> int:
    """Outcomes in a store that another process writes."""
    if not store.exists():
        return 0
    try:
        with sqlite3.connect(store, timeout=5) as found:
            return int(found.execute("SELECT COUNT(*) FROM outcomes").fetchone()[0])
    except sqlite3.OperationalError:  # not made yet
        return 0


def until_some_are_kept(store: Path, running: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while kept(store) < 3:
        assert running.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < end
        time.sleep(0.01)


def test_kill_9_loses_nothing_that_was_done(here: Folder) -> None:
    write(here, LONG)
    args = ("plan", "plan.yaml", "--json", "--workers", "2")
    store = here / "servecast-results/outcomes.sqlite"
    running = process(*args, cwd=here)
    until_some_are_kept(store, running)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    before = kept(store)
    assert before >= 3
    resumed = simulate(*args)
    assert resumed.exit_code == 0, resumed.output
    total = kept(store)
    assert total > before
    whole = simulate("plan", "plan.yaml", "--json", "--no-store")
    assert resumed.stdout == whole.stdout
    # Nothing that was kept has been done again: the keys are those of one whole run.
    assert simulate(*args).stdout == whole.stdout
    assert kept(store) == total


def test_ctrl_c_says_what_is_kept(here: Folder) -> None:
    write(here, LONG)
    running = process("plan", "plan.yaml", "--workers", "2", cwd=here)
    store = here / "servecast-results/outcomes.sqlite"
    until_some_are_kept(store, running)
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    said = re.fullmatch(
        r"Interrupted: (\d+) simulations are kept in servecast-results; the same command goes on "
        r"from there\.\n",
        err,
    )
    assert said is not None, err
    assert int(said[1]) == kept(store)
    assert kept(store) >= 3


def test_ctrl_c_without_a_store_keeps_nothing(here: Folder) -> None:
    endless = CHAT | {"workload": CHAT["workload"] | {"requests": 200_000}}
    write(here, LONG | {"scenario": endless})
    running = process("plan", "plan.yaml", "--workers", "1", "--no-store", cwd=here)
    time.sleep(4)
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert err.strip() == "Interrupted: nothing was kept."


# --- what is refused -----------------------------------------------------------------------------

SPACE = {"hardware": ["l4"], "tp": [1], "max_devices": 3}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"objctive": "devices"}, "objctive: unknown key; did you mean 'objective'?"),
        ({"space": {"hardwares": ["l4"]}}, "space.hardwares: unknown key; did you mean 'hardware'?"),
        ({"space": {"hardware": 5}}, "space.hardware: must be 'priced' or a list, got 5; write [5]"),
        ({"space": {"hardware": "l4"}}, "space.hardware: must be 'priced' or a list, got 'l4'; write [l4]"),
        ({"space": {"hardware": ["l5"]}}, "space.hardware[0]: unknown hardware profile 'l5'"),
        ({"space": {"hardware": [{"profle": "l4"}]}}, "space.hardware[0].profle: unknown key; did you mean 'profile'?"),
        ({"space": {"engine": ["vlm"]}}, "space.engine[0]: unknown engine profile 'vlm'; did you mean 'vllm'?"),
        ({"space": {"replicas": 3}}, "space.replicas: must be a list or a mapping with min, max, step, got 3; write [3]"),
        ({"space": {"replicas": {"max": "x"}}}, "space.replicas.max: must be a whole number, got 'x'"),
        ({"space": {"replicas": {"min": 5, "max": 3}}}, "space.replicas: min (5) is above max (3)"),
        ({"space": {"replicas": {"mx": 3}}}, "space.replicas.mx: unknown key; did you mean 'max'?"),
        ({"space": {"replicas": [0]}}, "space.replicas[0]: must be greater than or equal to 1, got 0"),
        ({"space": {"tp": 2}}, "space.tp: must be a list, got 2; write [2]"),
        ({"space": {"prefill": {"tp": [2]}}}, "space: prefill and decode need 'apart' among the layouts"),
        ({"space": {"set": {"engine.max_seqs": [4]}}}, "space.set: a scenario has no key 'engine.max_seqs'"),
        ({"space": SPACE | {"set": {"parallelism.tp": [4]}}}, "space.set.parallelism.tp: parallelism.tp has an axis of its own"),
        ({"space": SPACE | {"set": {"engine.policy": ["x"]}}}, "space: no deployment runs: engine.policy: must be"),
        ({"space": {"hardware": ["l4"], "tp": [8], "max_devices": 4}},
         "space: is empty: not even one replica of any kind of deployment is within max_devices 4"),
        ({"space": SPACE | {"max_devices": 1}, "spare_replicas": 1},
         "space: is empty: not even one replica beside 1 that may be missing of any kind of deployment is within max_devices 1"),
        ({"space": SPACE | {"replicas": [7]}}, "space: is empty: no number of replicas that it lists is within max_devices 3"),
        ({"space": SPACE | {"max_power_kw": 0.01}}, "max_devices 3 and max_power_kw 0.01"),
        ({"space": SPACE | {"price_plans": ["reserved"]}}, "no deployment runs: no reserved price known for NVIDIA L4 24 GB"),
        ({"scenario": CHAT | {"model": "llama-3.1-405b"}, "space": SPACE},
         "space: no deployment runs: llama-3.1-405b in bf16 does not fit on 1 × NVIDIA L4 24 GB"),
        ({"constraints": [{"metric": "ttft_ms.p98", "max": 5}]},
         "constraints[0]: there is no metric 'ttft_ms.p98'; did you mean 'ttft_ms.p99'?"),
        ({"constraints": [{"metric": "qqq", "max": 5}]},
         "constraints[0]: there is no metric 'qqq'; `simulate plan --metrics` lists them"),
        ({"constraints": [{"metric": "ttft_ms.p99"}]}, "constraints[0]: give exactly one of max and min"),
        ({"constraints": [{"metric": "slo.goodput_share", "min": 99}]},
         "constraints[0]: slo.goodput_share is a share from 0 to 1, and its limit is 99; for 99% write 0.99"),
        ({"constraints": [{"metric": "ttft_ms.p99", "max": 3}, {"metric": "ttft_ms.p99", "min": 5}]},
         "constraints: they contradict each other: ttft_ms.p99 must be at least 5 and at most 3"),
        ({"constraints": []}, "constraints: nothing must hold: neither constraints nor an slo are given"),
        ({"constraints": [{"metric": "ttft_ms.p99", "max": 5, "traffic_class": "chat"}]},
         "constraints[0].traffic_class: the traffic has no classes; leave it out"),
        ({"objective": "cheapest"}, "objective: there is no objective 'cheapest'; known are cost_per_hour, "),
        ({"objective": {"metric": "devices", "best": "low"}},
         "objective.best: must be one of lowest, highest, got 'low'; did you mean 'lowest'?"),
        ({"judge": "pessimist"}, "judge: must be one of predicted, pessimistic, got 'pessimist'; did you mean"),
        ({"headroom": "20%"}, "headroom: must be a number, got '20%'; write 0.2"),
        ({"constraints": [{"metric": "ttft_ms.p99", "max": "2 s"}]},
         "constraints[0].max: must be a number, got '2 s'; leave the unit away; the metric's name has it, as ttft_ms has milliseconds"),
        ({"objective": "goodput"}, "objective: goodput is what is served within the SLO, and the scenario has none"),
        ({"objective": "carbon_per_request"}, "objective: carbon is not counted, as the scenario does not say what the grid emits"),
        ({"constraints": [{"metric": "slo.goodput_share", "min": 0.9}]}, "constraints[0]: goodput is what is served within the SLO"),
        ({"scenario": CHAT | {"model": "llama-3.1-8bb"}}, "scenario.model: there is no model 'llama-3.1-8bb'; did you mean llama-3.1-8b"),
        ({"space": SPACE | {"set": {"model": ["llama-3.1-8b", "qwen-8b"]}}}, "space.set.model: there is no model 'qwen-8b'; did you mean"),
        ({"space": SPACE | {"set": {"precision.kv_cache": ["fp8"]}}},
         "precision.kv_cache has an axis of its own; list its values at space.precision, as {kv_cache: …}"),
        ({"scenario": "nope.yaml"}, "plan.yaml:3: scenario: no such file: nope.yaml"),
        ({"scenario": "chat-8b-h10"}, "plan.yaml:3: scenario: no file and no shipped scenario is called 'chat-8b-h10'"),
        ({"scenario": "plan.yaml"}, "plan.yaml:3: scenario: plan.yaml is a plan, not a scenario"),
        ({"scenario": 5}, "plan.yaml:3: scenario: must be text or a mapping, got 5"),
        ({"scenario": CHAT | {"hardwar": "l4"}}, "scenario.hardwar: unknown key; did you mean 'hardware'?"),
        ({"scenario": CHAT | {"include": "nope"}}, "plan.yaml:3: scenario: no file and no shipped scenario is called 'nope'"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_plan_is_one_sentence(
    here: Folder, changed: dict[str, Any], said: str
) -> None:
    write(here, PLAN | changed)
    found = refusal("plan", "plan.yaml", "--no-store", "--no-files", "--workers", "1")
    assert said in found
    assert found.startswith("plan.yaml:")
    line = int(found.split(":")[1].split(" ")[0])
    key = next(iter(changed))
    text = (here / "plan.yaml").read_text("utf-8").splitlines()
    assert 0 < line <= len(text)
    first = next(number for number, row in enumerate(text, 1) if row.startswith(f"{key}:"))
    assert line >= first


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("plan", "name a plan file; `simulate list plans` shows shipped ones"),
        ("plan nope.yaml", "nope.yaml: no such file"),
        ("plan chat.yaml", "chat.yaml: is a scenario, not a plan; `simulate run` takes it"),
        ("run plan.yaml", "plan.yaml: is a plan, not a scenario; `simulate plan` and `simulate sweep` take it"),
        ("plan plan.yaml --no-files --out x", "--no-files leaves nothing for --out to do"),
        ("plan plan.yaml --out full", "full: already exists and is left as it is; choose another --out"),
        ("plan plan.yaml --backend cloud", "--backend: there is no backend 'cloud'"),
        ("plan plan.yaml --address host:1", "--address belongs to --backend ray"),
        ("plan plan.yaml --workers 0", "invalid value for '--workers': 0 is not in the range 1<=x<=1024"),
        ("sweep chat.yaml", "nothing varies; give --vary PATH=A,B,… or a plan"),
        ("sweep chat.yaml --vary parallelism.tp", "--vary parallelism.tp: must be a path and values"),
        ("sweep chat.yaml --vary parallelism.tp=", "--vary parallelism.tp=: must be a path and values"),
        ("sweep chat.yaml --vary paralelism.tp=1,2", "--vary paralelism.tp=1: paralelism: unknown key; did you mean 'parallelism'?"),
        ("sweep chat.yaml --vary parallelism.tp=1,x", "--vary parallelism.tp=x: parallelism.tp: must be a whole number, got 'x'"),
        ("sweep chat.yaml --vary hardware=l5", "no combination runs: hardware.profile: unknown hardware profile 'l5'"),
        ("sweep chat.yaml --vary hardware=l4 --vary hardware=l40s", "--vary hardware: two axes have the same path"),
        ("sweep plan.yaml --vary hardware=l4", "--vary: a plan has its axes in its space"),
        ("sweep plan.yaml --set hardware=l4", "--set: a plan has its axes in its space"),
        ("sweep nope.yaml --vary hardware=l4", "nope.yaml: no such file"),
    ],
)  # fmt: skip
def test_a_mistake_on_the_command_line_is_one_sentence(
    here: Folder, command: str, said: str
) -> None:
    (here / "full").mkdir()
    (here / "full/thesis.txt").write_text("years of work")
    assert refusal(*command.split()).startswith(said)
    assert [path.name for path in (here / "full").iterdir()] == ["thesis.txt"]


def test_values_that_fail_with_some_others_are_points_without_figures(here: Folder) -> None:
    """tp 2 is fine but for a node of one device."""
    result = simulate(
        "sweep", "chat.yaml", "--vary", "parallelism.tp=1,2",
        "--vary", "hardware.devices_per_node=1,8", "--json", "--no-store",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [bool(row["problem"]) for row in rows] == [False, False, True, False]
    assert del_none(rows[2]["figures"]) == {}
    assert here.is_dir()


def del_none(figures: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figures.items() if value is not None}


# --- what a plan can ask for ---------------------------------------------------------------------


def winner(here: Folder, **changed: Any) -> dict[str, Any]:
    write(here, PLAN | changed)
    result = simulate("plan", "plan.yaml", "--json", "--no-store", "--workers", "1")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)["winner"]
    return found


def test_the_fewest_devices_are_found(here: Folder) -> None:
    limits = [{"metric": "tpot_ms.p99", "max": 110}]
    cheapest = winner(here, constraints=limits)
    fewest = winner(here, constraints=limits, objective="devices")
    assert fewest["devices"] < cheapest["devices"]
    assert fewest["usd_per_hour"] > cheapest["usd_per_hour"]


def test_headroom_and_spare_replicas_cost_devices(here: Folder) -> None:
    limits = [{"metric": "tpot_ms.p99", "max": 80}]
    space = {"hardware": ["l4"], "tp": [1], "max_devices": 24}
    counts = [
        winner(here, space=space, constraints=limits, **more)["devices"]
        for more in ({}, {"headroom": 1.0}, {"headroom": 1.0, "spare_replicas": 2})
    ]
    assert counts[0] < counts[1]
    assert counts[1] + 2 == counts[2]


def test_price_plans_are_an_axis(here: Folder) -> None:
    space = {"hardware": ["h100-sxm"], "tp": [1], "max_devices": 2}
    both = winner(here, space=space | {"price_plans": ["on_demand", "reserved"]})
    assert both["axes"]["price plan"] == "reserved"
    demand = winner(here, space=space | {"price_plans": ["on_demand"]})
    assert both["usd_per_hour"] < demand["usd_per_hour"]


def test_power_caps_the_deployments(here: Folder) -> None:
    free = winner(here, objective="goodput", scenario=CHAT | {"slo": {"ttft_ms": 2000}})
    space = PLAN["space"] | {"max_power_kw": 0.2}
    capped = winner(
        here, objective="goodput", space=space, scenario=CHAT | {"slo": {"ttft_ms": 2000}}
    )
    assert free["axes"]["hardware"] == "l40s"  # 350 W each
    assert capped["axes"]["hardware"] == "l4"  # 72 W each
    assert capped["devices"] <= 2


# --- plans beside scenarios ----------------------------------------------------------------------


def test_init_writes_a_plan_that_runs(here: Folder) -> None:
    result = simulate("init", "--plan")
    assert result.stdout == "Wrote my-plan.yaml. Next: simulate plan my-plan.yaml\n"
    checked = simulate("check", "my-plan.yaml")
    assert checked.exit_code == 0, checked.output
    assert "my-plan.yaml is right." in checked.stdout
    assert "30 deployments of 6 kinds" in checked.stdout
    text = (here / "my-plan.yaml").read_text("utf-8")
    for key in (*Plan.model_fields, *Space.model_fields):
        assert re.search(rf"(?m)^ *(# )?{key}:", text), key
    assert refusal("init", "--plan").startswith("my-plan.yaml: already exists")
    assert simulate("init", "--plan", "other", "--out", "-").stdout.startswith("# A plan for")


def test_check_says_how_large_the_space_is(here: Folder) -> None:
    found = json.loads(simulate("check", "plan.yaml", "--json").stdout)
    assert found["ok"]
    assert found["space"]["deployments"] == 18
    assert refusal("check", "plan.yaml", "--set", "seeds=1").startswith("a plan has no --set")
    write(here, PLAN | {"objctive": 1})
    assert "did you mean 'objective'?" in refusal("check", "plan.yaml")


def test_schema_of_a_plan_takes_what_the_models_take(here: Folder) -> None:
    del here
    schema = json.loads(simulate("schema", "--plan").stdout)
    assert set(schema["properties"]) == set(Plan.model_fields)
    assert {"type": "string", "minLength": 1} in schema["properties"]["objective"]["anyOf"]
    assert "scenario" in schema["required"]


def test_plans_are_listed_apart_from_scenarios() -> None:
    plans = {row["name"] for row in json.loads(simulate("list", "plans", "--json").stdout)}
    scenarios = {row["name"] for row in json.loads(simulate("list", "scenarios", "--json").stdout)}
    assert "plan-chat-8b" in plans
    assert not plans & scenarios
    for name in plans:
        load_plan(name)
        assert refusal("run", name).endswith("`simulate plan` and `simulate sweep` take it")


def test_python_finds_what_the_command_finds(here: Folder) -> None:
    report = simulator.plan("plan.yaml", workers=1, store="kept")
    command = simulate("plan", "plan.yaml", "--json", "--no-store", "--workers", "1")
    assert report == json.loads(command.stdout)
    assert (here / "kept/outcomes.sqlite").exists()
    asked = simulator.load_plan("plan.yaml")
    assert asked.plan.name == "small"
    assert len(simulator.sweep(asked, workers=1)["rows"]) == 18
    write(here, PLAN | {"constraints": []})
    with pytest.raises(simulator.UserError, match=r"plan.yaml:\d+: constraints: nothing must hold"):
        simulator.plan("plan.yaml", workers=1)


def test_the_page_of_plans_has_an_example_that_runs(here: Folder) -> None:
    text = (ROOT / "docs/planning.md").read_text("utf-8")
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert block is not None
    code = block[1].replace("examples/plan-chat-8b.yaml", "plan.yaml")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=here, text=True, capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "replica" in done.stdout


# --- kinds of deployment -------------------------------------------------------------------------


def both_layouts(here: Folder, **changed: Any) -> dict[str, Any]:
    space = {"hardware": ["l40s"], "tp": [1], "max_devices": 3, "layouts": ["together", "apart"]}
    write(here, PLAN | {"space": space, "max_lost_share": 0.0} | changed)
    result = simulate("plan", "plan.yaml", "--json", "--no-store", "--workers", "1")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_what_moves_between_pools_is_left_out_where_there_are_none(here: Folder) -> None:
    deployment = {"transfer": {"gb_per_s": 50}}
    report = both_layouts(here, scenario=CHAT | {"deployment": deployment})
    assert report["space"]["kinds_that_run"] == 2
    layouts = [entry["pools"] for entry in (report["winner"], *report["runners_up"])]
    assert sorted(layouts) == [[], ["prefill", "decode"]]
    assert not any(trial["problem"] for trial in report["trials"])


def test_a_kind_without_a_network_leaves_the_others(here: Folder) -> None:
    report = both_layouts(here)
    assert report["winner"]["pools"] == []
    assert report["space"]["kinds_that_run"] == 1
    assert "network of NVIDIA L40S 48 GB is not known" in report["space"]["problems"][0]["problem"]


def test_autoscaled_kinds_are_compared_as_they_scale(here: Folder) -> None:
    scaling = {"kind": "utilization", "target": 0.6, "min": 1, "max": 3}
    write(here, PLAN | {"scenario": CHAT | {"deployment": {"autoscaling": scaling}}})
    result = simulate("plan", "plan.yaml", "--no-store", "--out", "scaled")
    assert result.exit_code == 0, result.output
    report = json.loads((here / "scaled/plan.json").read_text("utf-8"))
    assert report["winner"]["replicas"] == []
    assert f"Take {report['winner']['label']}\n" in result.stdout
    mean = report["winner"]["figures"]["cost.usd_per_hour"]["mean"]
    assert f"${mean:.2f} an hour on average" in result.stdout


def test_an_engine_without_known_arguments_says_so(here: Folder) -> None:
    space = {"hardware": ["l40s"], "tp": [1], "max_devices": 2, "engine": ["tgi"]}
    write(here, PLAN | {"space": space})
    assert simulate("plan", "plan.yaml", "--no-store", "--out", "tgi").exit_code == 0
    text = (here / "tgi/deploy/not-written.txt").read_text("utf-8")
    assert text.startswith("No files start this deployment: no launch arguments are known for")


def test_what_is_nearly_as_good_for_less_is_said(here: Folder) -> None:
    """Where all traffic is served by less, more devices serve no more of it."""
    write(here, PLAN | {
        "scenario": CHAT | {"slo": {"ttft_ms": 3000, "tpot_ms": 200}},
        "space": {"hardware": ["l40s"], "tp": [1], "replicas": [1, 4], "max_devices": 4},
        "constraints": [{"metric": "tpot_ms.p99", "max": 200},
                        {"metric": "cost.usd_per_hour", "max": 20}],
        "objective": "goodput",
    })  # fmt: skip
    found = json.loads(simulate("plan", "plan.yaml", "--json", "--workers", "1").stdout)
    dear, cheap = found["winner"], "1 × l40s, tp1: 1 replica"
    said = [sentence for sentence in found["reasons"] if sentence.startswith("Nearly as good")]
    assert len(said) == 1
    assert said[0].startswith(f"Nearly as good for less: {cheap} costs $1.86 an hour")
    printed = simulate("plan", "plan.yaml", "--no-files", "--workers", "1").stdout
    assert re.search(
        r"l40s: \$1\.86 a device and hour, on-demand at AWS, \d{4}-\d\d-\d\d\n", printed
    )
    limit = next(limit for limit in dear["limits"] if limit["path"] == "cost.usd_per_hour")
    assert limit["sure"] is True  # a price is no prediction
    assert dear["sure"] is not None
