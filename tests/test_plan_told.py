"""Searches from Python that tell how far they are, and end when nobody wants them any more."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import simulator
from simulator.planner.document import Asked
from simulator.planner.jobs.work import Standing
from tests.plan_support import PLAN, write

PATIENCE_S = 20.0

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")


class Enough(Exception):  # noqa: N818 - no error
    """Somebody has lost interest."""


def workers(of: int | None = None) -> list[int]:
    """Numbers of the processes that simulate for this one, or for another."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes()
                mine = int(stat[1]) == (of or os.getpid()) and stat[0] != "Z"
                if mine and b"jobs.backends.process" in command:
                    found.append(int(entry.name))
    return found


def _busy_s(worker: int) -> float:
    user = (Path("/proc") / str(worker) / "stat").read_text().rpartition(")")[2].split()[11]
    return int(user) / os.sysconf("SC_CLK_TCK")


def _alive(worker: int) -> bool:
    with suppress(OSError):
        return (Path("/proc") / str(worker) / "stat").read_text().rpartition(")")[2][1] != "Z"
    return False


def slow(**changed: Any) -> Asked:
    """A plan each of whose simulations takes many seconds."""
    document = copy.deepcopy(PLAN | changed)
    document["scenario"]["workload"]["requests"] = 40_000
    document["scenario"]["workload"]["arrivals"]["rate_per_s"] = 1
    return simulator.parse_plan(simulator.dump_plan(document))


def test_a_search_tells_its_stages_and_simulations() -> None:
    heard: list[tuple[str, Standing]] = []
    asked = simulator.parse_plan(simulator.dump_plan(PLAN))
    report = simulator.plan(asked, workers=1, told=lambda *what: heard.append(what))
    stages = list(dict.fromkeys(stage for stage, _ in heard))
    assert stages == ["bounds", "searching", "comparing the best"]
    bounds = [standing for stage, standing in heard if stage == "bounds"]
    assert (bounds[-1].done, bounds[-1].total) == (4, 4)
    last = heard[-1][1]
    assert last.done == last.total == last.simulated > 0
    assert last.per_s
    assert not workers()
    # In processes or here, told or not: the same report.
    assert json.dumps(report) == json.dumps(simulator.plan(asked, workers=1))


def test_who_loses_interest_in_the_middle_of_a_simulation_leaves_no_process() -> None:
    began: list[float] = []

    def told(stage: str, standing: Standing) -> None:
        if len(workers()) == 2 and all(_busy_s(worker) > 1.5 for worker in workers()):
            assert not standing.simulated
            began.append(time.monotonic())
            raise Enough

    with pytest.raises(Enough):
        simulator.plan(slow(), workers=2, told=told)
    assert time.monotonic() - began[0] < 2.0
    assert not workers()


def test_a_search_goes_on_from_what_was_kept(tmp_path: Path) -> None:
    asked = simulator.parse_plan(simulator.dump_plan(PLAN))

    def told(_: str, standing: Standing) -> None:
        if standing.simulated >= 3:
            raise Enough

    with pytest.raises(Enough):
        simulator.plan(asked, workers=1, store=tmp_path, told=told)
    heard: list[Standing] = []
    report = simulator.plan(
        asked, workers=1, store=tmp_path, told=lambda _, standing: heard.append(standing)
    )
    assert heard[-1].from_store >= 3
    assert heard[-1].simulated == heard[-1].done - heard[-1].from_store
    # Another objective over the same deployments simulates only what is new.
    other = simulator.parse_plan(simulator.dump_plan(PLAN | {"objective": "devices"}))
    simulator.plan(other, workers=1, store=tmp_path, told=lambda _, s: heard.append(s))
    assert heard[-1].from_store > 0
    assert json.dumps(report) == json.dumps(simulator.plan(asked, workers=1))


def test_a_sweep_and_a_description_can_be_left_as_well() -> None:
    def at_once(*_: object) -> None:
        raise Enough

    asked = simulator.parse_plan(simulator.dump_plan(PLAN))
    with pytest.raises(Enough):
        simulator.sweep(asked, told=at_once)
    with pytest.raises(Enough):
        simulator.describe_plan(asked, told=at_once)


_SEARCH = """
import sys
import simulator
simulator.plan(simulator.load_plan(sys.argv[1]), workers=2, told=lambda *_: None)
"""


def test_workers_go_with_a_process_that_is_killed(tmp_path: Path) -> None:
    path = write(tmp_path, simulator.plan_document(slow()))
    process = subprocess.Popen([sys.executable, "-c", _SEARCH, path])
    try:
        crew = _until(lambda: workers(process.pid))
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    _until(lambda: not any(map(_alive, crew)))


def _until(found: Any) -> Any:
    until = time.monotonic() + PATIENCE_S
    while not (value := found()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return value


# --- documents -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", simulator.plan_names())
def test_a_plan_that_is_written_is_read_as_the_same(name: str) -> None:
    asked = simulator.load_plan(name)
    again = simulator.parse_plan(simulator.dump_plan(asked))
    assert again.scenario == asked.scenario
    assert again.plan.model_copy(update={"scenario": ""}) == asked.plan.model_copy(
        update={"scenario": ""}
    )


def test_a_scenario_is_the_start_of_a_plan() -> None:
    scenario = simulator.load_scenario("chat-8b-h100")
    asked = simulator.parse_plan(simulator.dump_plan(simulator.plan_document(scenario)))
    assert asked.scenario == scenario
    assert asked.plan.space.hardware == "priced"


def test_mistakes_in_a_text_are_told_with_their_line() -> None:
    text = simulator.dump_plan(PLAN | {"constraints": [{"metric": "ttft_ms.p98", "max": 1}]})
    with pytest.raises(simulator.UserError, match=r"mine\.yaml:\d+: constraints.*ttft_ms\.p9"):
        simulator.parse_plan(text, "mine.yaml")


def test_a_deployment_of_a_report_is_a_scenario() -> None:
    asked = simulator.parse_plan(simulator.dump_plan(PLAN))
    report = simulator.plan(asked, workers=1)
    winner = simulator.deployment_scenario(asked, report["winner"])
    assert winner is not None
    assert simulator.dump_scenario(winner) == report["winner"]["scenario"]
    for trial in report["trials"]:
        scenario = simulator.deployment_scenario(asked, trial)
        assert scenario is not None
        assert [scenario.deployment.replicas] == trial["replicas"]
    other = report["winner"] | {"axes": {"hardware": "h200"}}
    assert simulator.deployment_scenario(asked, other) is None


def test_figures_with_limits_are_figures_of_every_trial() -> None:
    limit = {"metric": "ttft_ms.p90", "max": 1000}
    asked = simulator.parse_plan(simulator.dump_plan(PLAN | {"constraints": [limit]}))
    report = simulator.plan(asked, workers=1)
    assert report["trials"][0]["figures"]["latency.ttft_ms.p90"] > 0
    data = simulator.plan_data(report)
    drawn = [data["figures"][chart["y"]]["key"] for chart in data["charts"]]
    assert "latency.ttft_ms.p90" in drawn
    assert simulator.plan_words(report).asked.limits == ["TTFT p90 ≤ 1,000 ms"]
