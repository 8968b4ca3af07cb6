"""Measured runs as rows that ``simulate validate`` and ``simulate fit --served`` read."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simulator.errors import UserError
from simulator.measured import MeasuredRun
from simulator.measured.trace import replayable
from simulator.scenario import Scenario

_LIMITS = ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "kv_cache_tokens")
_ENGINE = (*_LIMITS, "memory_fraction", "prefix_caching", "async_scheduling", "random_prompts")
_PRECISION = ("weights", "activations", "kv_cache")
_SAID = {
    "hardware": ("profile",),
    "engine": ("profile", "version", *_ENGINE),
    "precision": _PRECISION,
    "parallelism": ("tp", "dp", "ep"),
    "deployment": ("replicas", "router"),
}
"""What a row can say about a deployment; everything else has to be the default."""

_COLUMNS = {"kv_cache_tokens": "kv_tokens_capacity"}
"""What rows of requests call a limit, where they call it otherwise."""

_FIGURES = ("ttft_ms", "tpot_ms", "e2e_ms", "itl_ms")


def dataset_text(runs: Sequence[MeasuredRun], scenario: Scenario) -> str:
    """CSV with a row a run: the scenario's deployment, the run's load, lengths and mean figures.

    Raises:
        UserError: a row cannot say what the deployment is, or how requests were sent.
    """
    deployment = _deployment(scenario, _SAID)
    rows = [deployment | _row(run, i) for i, run in enumerate(runs)]
    if any("measured_on" not in row for row in rows):
        for row in rows:
            row.pop("measured_on", None)
    return _csv(rows)


def _deployment(scenario: Scenario, sayable: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """The cells about the deployment.

    Raises:
        UserError: something about it that a row cannot say is not the default.
    """
    for part, keys in sayable.items():
        given = getattr(scenario, part).model_dump(exclude_defaults=True)
        unsaid = next((key for key in given if key not in keys), None)
        if unsaid is not None:
            raise UserError(
                "cannot be said by a row of a dataset", where=f"{part}.{unsaid}",
                hint="`simulate measured --against` compares with any scenario",
            )  # fmt: skip
    engine, precision, split = scenario.engine, scenario.precision, scenario.parallelism
    replicas = scenario.deployment.replicas
    if not isinstance(replicas, int):
        raise UserError("cannot be said by a row of a dataset", where="deployment.replicas",
                        hint="replace it by a number")  # fmt: skip
    if replicas > 1 and scenario.deployment.router.kind != "least_outstanding":
        raise UserError("cannot be said by a row of a dataset", where="deployment.router",
                        hint="rows are replayed with least_outstanding")  # fmt: skip
    cells = {
        "model": scenario.model,
        "system": scenario.hardware.profile,
        "engine": engine.profile,
        "version": engine.version,
        **{key: getattr(precision, key) for key in _PRECISION},
        "tp": split.tp,
        "attention_dp": split.dp,
        "moe_ep": split.ep,
        "replicas": replicas,
        **{key: getattr(engine, key) for key in _ENGINE},
    }
    return {key: value for key, value in cells.items() if value is not None}


def _row(run: MeasuredRun, i: int) -> dict[str, Any]:
    load = run.load
    if run.inputs is None or run.outputs is None or not run.completed:
        raise UserError("does not say how long prompts and answers were", where=run.file)
    if load.kind == "unknown":
        raise UserError(
            f"does not say how requests were sent ({load.text})", where=run.file,
            hint="--requests writes a row a request instead",
        )  # fmt: skip
    if load.kind == "rate" and load.cv not in (None, 1.0):
        raise UserError(
            "was not loaded with Poisson arrivals, which a row stands for", where=run.file,
            hint="--requests writes a row a request instead",
        )  # fmt: skip
    users = run.completed if load.kind == "burst" else load.concurrency
    statistic = next((key for key in ("mean", "p50") if key in run.latency.get("ttft_ms", {})),
                     "mean")  # fmt: skip
    cells: dict[str, Any] = {
        "id": f"{Path(run.file).name[:120]} {run.name[:60]} {i + 1}",
        "isl": run.inputs.mean,
        "osl": run.outputs.mean,
        "concurrency" if load.kind != "rate" else "rate_per_s": (
            load.rate_per_s if load.kind == "rate" else users
        ),
        "num_prompts": run.completed,
        "range_ratio": 1,
        "input_cv": run.inputs.cv or None,
        "output_cv": run.outputs.cv or None,
        "measured_on": run.measured_on,
        "statistic": statistic,
        **{name: run.latency.get(name, {}).get(statistic) for name in _FIGURES},
        "output_tokens_per_s": run.output_tokens_per_s,
    }
    return {key: value for key, value in cells.items() if value is not None}


def requests_text(runs: Sequence[MeasuredRun], scenario: Scenario) -> str:
    """CSV with a row a request, which is replayed as it was sent.

    Raises:
        UserError: such rows cannot say what the deployment is, or a run has no requests, or no
            times of them.
    """
    sayable = _SAID | {
        "engine": ("profile", "version", *_LIMITS), "precision": ("weights", "kv_cache"),
        "parallelism": ("tp",), "deployment": (),
    }  # fmt: skip
    said = _deployment(scenario, sayable)
    cells = {
        "model": said["model"], "gpu": said["system"], "engine": said["engine"],
        "engine_version": said.get("version"), "weight_dtype": said.get("weights"),
        "kv_dtype": said.get("kv_cache"), "parallelism": f"TP{said['tp']}",
        **{_COLUMNS.get(key, key): said.get(key) for key in _LIMITS},
    }  # fmt: skip
    known = {key: value for key, value in cells.items() if value is not None}
    return _csv([known | row for i, run in enumerate(runs) for row in _requests(run, i)])


def _requests(run: MeasuredRun, i: int) -> list[dict[str, Any]]:
    records = replayable(run)
    if records.arrival_s is None:
        raise UserError("does not say when requests were sent", where=run.file)
    if not np.isfinite(records.ttft_s).all():
        raise UserError("has requests whose first token was not seen on its own", where=run.file,
                        hint="stream answers; --dataset writes a row a run")  # fmt: skip
    first, last = records.arrival_s + records.ttft_s, records.arrival_s + records.e2e_s
    columns = (records.input_tokens, records.output_tokens, records.arrival_s, first, last)
    return [
        {
            "run": f"{Path(run.file).name[:120]} {run.name[:60]} {i + 1}",
            "isl": isl,
            "osl": osl,
            "arrival_s": round(arrival, 6),
            "first_token_s": round(begun, 6),
            "last_token_s": round(ended, 6),
        }
        for isl, osl, arrival, begun, ended in zip(*(c.tolist() for c in columns), strict=True)
    ]


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow(_cell(row.get(name)) for name in names)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.9g}" if isinstance(value, float) else "" if value is None else value
