"""What the simulator says about one scenario: the part of it that measurements are held against."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from simulator import Scenario, simulate
from simulator.engines.profile import EngineProfile
from simulator.errors import UserError
from simulator.results.result import Result

Prediction = dict[str, Any]
"""JSON-able: latencies by statistic, throughput, and what the time went into."""

STATISTICS = ("mean", "p50", "p90", "p95", "p99")
QUEUEING = "queueing"
_KEPT = 6


def predict(
    scenario: Scenario,
    base: Path | None = None,
    engine: EngineProfile | None = None,
    *,
    intervals: bool = False,
    alive: Callable[[], None] | None = None,
) -> Prediction:
    """Simulates a scenario, with an engine profile instead of the one it names if there is one;
    with ``intervals``, bounds as well, which takes three times as long. ``alive`` is called now and
    then; what it raises ends the simulation.

    Returns:
        The prediction, or ``{"refused": why}`` where the simulator will not run it.

    Raises:
        KeyboardInterrupt: Ctrl-C ended the run early.
    """
    told = None if alive is None else (lambda *_: alive())
    try:
        result = simulate(scenario, base=base, engine=engine, intervals=intervals, progress=told)
    except UserError as error:
        return {"refused": str(error)}
    if result.record.interrupted:
        raise KeyboardInterrupt
    summary = result.summary()
    latency = summary["latency"]
    use = summary["utilization"]
    prefill, decode = use["steps_with_prompts"], use["decode_only_steps"]
    return {
        **{
            key: {name: latency[key][name] for name in STATISTICS}
            for key in ("ttft_ms", "tpot_ms", "e2e_ms", "itl_ms")
        },
        "intervals": summary["uncertainty"]["intervals"] if intervals else {},
        "queueing_ms_mean": latency["queueing_ms"]["mean"],
        "output_tokens_per_s": summary["throughput"]["output_tokens_per_s"],
        "energy_j_per_output_token": summary["energy"]["joules_per_output_token"],
        "power_w": summary["energy"]["power_w_mean"],
        "load": _load(result),
        "requests": len(result.record.requests),
        "kv_tokens": result.deployment.memory.kv_tokens,
        "avg_batch_size": summary["scheduling"]["running_mean"],
        "batch_size_mean": summary["scheduling"]["batch_size_mean"],
        "preemptions": summary["scheduling"]["preemptions"],
        "steps_with_prompts": _phase(prefill),
        "decode_only_steps": _phase(decode),
    }


def _load(result: Result) -> list[dict[str, float]]:
    """What power depends on, averaged over steps with prompts and over those without, and their
    ``share`` of the window's time; in what is left of it nothing runs."""
    steps, window = result.record.steps, result.window
    inside = (steps.start_s >= window.start_s) & (steps.start_s < window.end_s)
    whole = result.record.replicas * window.duration_s
    found = []
    for phase in (steps.prefill > 0, steps.prefill == 0):
        part = steps.select(inside & phase)
        busy = float(part.duration_s.sum())
        if busy:
            load = result.accountant.account(part).load
            means = {name: float(share @ part.duration_s) / busy for name, share in load.items()}
            found.append({"share": busy / whole, **means})
    return found


def _phase(phase: dict[str, Any]) -> dict[str, Any]:
    shares = sorted(phase["time_by_operator"].items(), key=lambda item: (-item[1], item[0]))
    return {
        "steps": phase["steps"],
        "step_ms_mean": phase["step_ms_mean"],
        "share_of_busy_time": phase["share_of_busy_time"],
        "operators": dict(shares[:_KEPT]),
    }


def dominant(prediction: Prediction, metric: str) -> tuple[str, float]:
    """What most of a predicted figure is made of: an operator's name and its share.

    TTFT: queueing, where that is more than half of it, else the largest operator of the steps with
    prompts; all others: the largest operator of all steps.
    """
    prefill, decode = prediction["steps_with_prompts"], prediction["decode_only_steps"]
    if metric == "ttft_ms":
        total = prediction["ttft_ms"]["mean"]
        waited = prediction["queueing_ms_mean"]
        if total and waited > total / 2:
            return QUEUEING, waited / total
        shares = dict(prefill["operators"])
    else:
        shares = {}
        for phase in (prefill, decode):
            weight = phase["share_of_busy_time"] or 0.0
            for name, share in phase["operators"].items():
                shares[name] = shares.get(name, 0.0) + weight * share
    if not shares:
        return "", 0.0
    name = max(sorted(shares), key=lambda key: shares[key])
    return name, shares[name]


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Hash of the program and of all it ships: another program gives other predictions."""
    import hashlib

    import hardware_profiles
    import simulator

    digest = hashlib.sha256()
    folders = [Path(str(package.__path__[0])) for package in (simulator, hardware_profiles)]
    files = [
        file
        for folder in folders
        for file in sorted(folder.rglob("*"))
        if file.suffix in (".py", ".yaml", ".json") and file.is_file()
    ]
    for file in [*files, Path(__file__)]:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
