"""What a load generator measured, held against the prediction of a scenario that serves the same
requests (``simulate measured --against``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from calibration.validate.figure import Figure, Metric, at_path
from calibration.validate.metrics import Errors
from simulator import Scenario, simulate, traffic_of
from simulator.cluster import Progress
from simulator.errors import UserError
from simulator.measured import Lengths, Load, MeasuredRun, Records
from simulator.measured.trace import lengths_text, trace_text
from simulator.results.format import percent
from simulator.scenario.dump import compact
from simulator.workload.requests import Requests

METRICS = (
    *(Metric(f"latency.{name}.{statistic}", f"{title} {statistic}", "ms")
      for name, title in (("ttft_ms", "TTFT"), ("tpot_ms", "TPOT"), ("itl_ms", "ITL"),
                          ("e2e_ms", "E2E"))
      for statistic in ("mean", "p50", "p90", "p99")),
    Metric("throughput.requests_per_s", "Requests", "1/s"),
    Metric("throughput.output_tokens_per_s", "Output tokens", "1/s"),
)  # fmt: skip


_HARDLY = 0.005
"""So small a share of cached prompt tokens changes nothing."""


@dataclass(frozen=True, slots=True)
class Beside:
    """A measured run and its prediction.

    Args:
        run: what was measured.
        scenario: what was simulated.
        replayed: how the run's requests were sent in the simulation; a whole sentence.
        figures: those that were measured, in the order of ``METRICS``.
        completed: how many of them the simulation answered.
    """

    run: MeasuredRun
    scenario: Scenario
    replayed: str
    figures: tuple[Figure, ...]
    completed: int


@dataclass(frozen=True, slots=True)
class _Replay:
    """How a run is replayed: its workload, and its requests where the workload draws others."""

    workload: dict[str, Any]
    said: str
    traffic: Callable[[Scenario], Requests] | None = None


def beside(
    run: MeasuredRun, scenario: Scenario, *, base: Path | None = None,
    progress: Progress | None = None,
) -> Beside:  # fmt: skip
    """Simulates the run's requests on the deployment of a scenario, whose own workload plays no
    part.

    Args:
        run: what was measured.
        scenario: the deployment.
        base: folder that relative paths in the scenario start from.
        progress: as ``simulate`` takes it.

    Raises:
        UserError: the run does not say how its requests were sent, or cannot be simulated.
        KeyboardInterrupt: Ctrl-C ended the simulation early.
    """
    if not run.completed:
        raise UserError("no request was answered, so there is nothing to compare", where=run.file)
    with TemporaryDirectory() as folder:
        way = _replay(run, Path(folder))
        document = compact(scenario) | {
            "workload": way.workload,
            "measurement": {"seed": scenario.measurement.seed, "warmup_fraction": 0.0,
                            "include_drain": True},
        }  # fmt: skip
        replayed = Scenario.model_validate(document)
        traffic = way.traffic
        result = simulate(
            replayed, base=base, progress=progress,
            traffic=None if traffic is None else (lambda: traffic(replayed)),
        )  # fmt: skip
        if result.record.interrupted:
            raise KeyboardInterrupt
        summary = result.summary()
        if summary["uncertainty"] is None:
            raise KeyboardInterrupt
    answered, sent = (
        summary["requests"]["all_by_outcome"]["completed"],
        summary["requests"]["total"],
    )
    said = way.said + _cached(run)
    if answered < sent:
        said += f" The simulation answers {answered:,} of them."
    return Beside(run, replayed, said, _figures(run, summary), answered)


def _cached(run: MeasuredRun) -> str:
    """What the server found in its prefix cache, which nobody can predict from lengths."""
    share = run.records.cached_share if run.records is not None else None
    if share is None or share < _HARDLY:
        return ""
    return (
        f" The server had {percent(share)} of their prompt tokens in its prefix cache; the "
        "prediction computes them all, as the file does not say which prompts share a beginning."
    )


def _figures(run: MeasuredRun, predicted: dict[str, Any]) -> tuple[Figure, ...]:
    measured = run.to_dict()
    intervals = predicted["uncertainty"]["intervals"]
    found = []
    for metric in METRICS:
        value = at_path(measured, metric.path)
        if value is None:
            continue
        bounds = intervals.get(metric.path)
        found.append(
            Figure(
                metric,
                (value,),
                at_path(predicted, metric.path),
                (bounds[0], bounds[1]) if bounds else None,
            )
        )
    return tuple(found)


# --- the same requests ---------------------------------------------------------------------------


def _replay(run: MeasuredRun, folder: Path) -> _Replay:
    """As the client sent its requests, as far as the file says how."""
    load, records = run.load, run.records
    if load.kind == "closed_loop":
        arrivals: dict[str, Any] = {"kind": "closed_loop", "concurrency": load.concurrency}
        said = f"{load.concurrency:,} users who wait for their answers"
    elif records is not None and records.arrival_s is not None:
        file = folder / "trace.csv"
        file.write_text(trace_text(run), encoding="utf-8")
        return _Replay(
            {"kind": "trace", "file": str(file), "format": "csv"},
            f"The {len(records):,} answered requests are replayed as they were sent.",
        )
    elif load.kind == "rate":
        arrivals, gaps = _gaps(load)
        said = f"{gaps} at {load.text}, as the file does not say when each was sent"
    elif load.kind == "burst":
        arrivals, said = {"kind": "burst"}, "all requests at once"
    else:
        raise UserError(
            f"does not say how requests were sent ({load.text})", where=run.file,
            hint="a file with every request, or of one stage, does",
        )  # fmt: skip
    document: dict[str, Any] = {"kind": "synthetic", "arrivals": arrivals}
    if records is not None:
        file = folder / "lengths.csv"
        file.write_text(lengths_text(run), encoding="utf-8")
        document["lengths"] = {"kind": "from_trace", "file": str(file), "format": "sharegpt"}
        document["requests"] = len(records)
        sent = f"The {len(records):,} answered requests, in their order: {said}."
        return _Replay(document, sent, lambda scenario: _in_order(scenario, records))
    document["requests"] = run.completed
    document["lengths"], words = _lengths(run)
    return _Replay(document, f"{run.completed:,} requests {words}: {said}.")


def _gaps(load: Load) -> tuple[dict[str, Any], str]:
    """Arrivals at a rate, drawn as the client drew them; Poisson where the file does not say."""
    rate = {"rate_per_s": load.rate_per_s}
    if load.cv == 0.0:
        return rate | {"kind": "constant"}, "equal gaps"
    if load.cv is None or load.cv == 1.0:
        return rate | {"kind": "poisson"}, "Poisson arrivals"
    return rate | {"kind": "gamma", "cv": load.cv}, f"gaps with a CV of {load.cv:.3g}"


def _in_order(scenario: Scenario, records: Records) -> Requests:
    """The scenario's requests, with recorded lengths in their order instead of drawn ones."""
    drawn = traffic_of(scenario)
    return replace(drawn, input_tokens=records.input_tokens, output_tokens=records.output_tokens)


def _lengths(run: MeasuredRun) -> tuple[dict[str, Any], str]:
    """Where the file has no more than means, and their spread perhaps."""
    if run.inputs is None or run.outputs is None:
        raise UserError("does not say how long prompts and answers were", where=run.file)
    known = run.inputs.std is not None and run.outputs.std is not None
    words = f"of {run.inputs.mean:,.0f} and {run.outputs.mean:,.0f} tokens" + (
        " in the mean, with the spread that was measured" if known else " each, their means"
    )
    document = {"kind": "independent", "input": _length(run.inputs), "output": _length(run.outputs)}
    return document, words


def _length(lengths: Lengths) -> dict[str, Any]:
    if lengths.cv:
        return {"kind": "lognormal", "mean": lengths.mean, "cv": lengths.cv}
    return {"kind": "fixed", "tokens": max(1, round(lengths.mean))}


# --- several runs --------------------------------------------------------------------------------

IN_ALL_HEAD = ("", "runs", "median error", "mean error", "bias", "inside")


def in_all(found: Sequence[Beside]) -> list[tuple[str, Errors, int, int]]:
    """For each figure: its title, errors over all runs, and how many of how many measurements lie
    within their interval."""
    rows = []
    for metric in METRICS:
        figures = [f for one in found for f in one.figures if f.metric == metric]
        pairs = [(f.real, f.predicted) for f in figures if f.real and f.predicted is not None]
        inside = [f.inside for f in figures if f.inside is not None]
        if pairs:
            rows.append((metric.title, Errors.of(pairs), sum(inside), len(inside)))
    return rows


def document(found: Beside) -> dict[str, Any]:
    """JSON-able: errors are 100 · (predicted / measured − 1)."""
    return {
        "scenario": compact(found.scenario) | {"workload": None},
        "replayed": found.replayed,
        "completed": found.completed,
        "figures": {figure.metric.path: figure.document() for figure in found.figures},
    }


def errors_document(found: Sequence[Beside]) -> dict[str, Any]:
    """JSON-able: of every figure over all runs."""
    return {
        title: errors.as_dict() | {"inside": inside, "with_interval": n}
        for title, errors, inside, n in in_all(found)
    }
