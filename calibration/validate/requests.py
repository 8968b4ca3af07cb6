"""Per-request measurements: a row a request, with its times, of one or several runs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from calibration.validate.loads import ways
from calibration.validate.measured import Dataset, Skipped, checked
from calibration.validate.point import Point, Trace
from calibration.validate.rows import Row, name_of, read_rows
from simulator.errors import UserError

_NEEDED = (
    "model", "gpu", "engine", "isl", "osl", "arrival_s", "first_token_s", "last_token_s",
)  # fmt: skip
_LIMITS = {
    "max_num_seqs": "max_num_seqs",
    "max_num_batched_tokens": "max_num_batched_tokens",
    "max_model_len": "max_model_len",
    "kv_tokens_capacity": "kv_cache_tokens",
}
_STATISTICS = ("mean", "p50", "p90", "p95", "p99")


class _Request(NamedTuple):
    arrival_s: float
    first_token_s: float
    last_token_s: float
    isl: int
    osl: int


def read_requests(file: Path, columns: list[str], rows: list[Row]) -> Dataset:
    """One point for each ``run``: its requests are replayed as they arrived.

    TTFT and E2E count from ``arrival_s``, so tokenization and queueing are in them, as they are in
    a simulated request's times.

    Raises:
        UserError: a column is missing or a time is wrong; with its line.
    """
    for name in _NEEDED:
        if name not in columns:
            raise UserError(f"has no column '{name}'", where=f"{file}:1")
    limits = _limits(file.parent / "summary.csv")
    runs: dict[str, list[Row]] = {}
    for row in rows:
        runs.setdefault(row.cells.get("run", name_of(file)), []).append(row)
    points: list[Point] = []
    skipped: list[Skipped] = []
    for run, members in runs.items():
        tensor = _tensor_parallel(members[0].cells)
        if tensor is None:
            parallelism = members[0].cells["parallelism"]
            skipped.append(Skipped(run, f"parallelism '{parallelism}' is not modelled yet"))
        else:
            own = limits.get(run, {}) | _numbers(members[0].cells)
            points.append(_run(file, run, members, own, tensor))
    known = {*_NEEDED, "run", "parallelism", "n_gpus", "engine_version", "weight_dtype",
             "kv_dtype", "request_id", *_LIMITS}  # fmt: skip
    derived = {"queued_s", "scheduled_s", "ttft_from_queued_ms", "tpot_ms", "e2e_from_queued_ms",
               "load_kind", "load"}  # fmt: skip
    ignored = tuple(name for name in columns if name not in known | derived)
    return Dataset(name_of(file), tuple(points), tuple(skipped), ignored)


def _run(file: Path, run: str, rows: list[Row], limits: dict[str, int], tp: int) -> Point:
    requests = sorted(_request(file, row) for row in rows)
    first = requests[0].arrival_s
    cells = rows[0].cells
    document: dict[str, object] = {
        "id": run,
        "model": cells["model"],
        "system": cells["gpu"],
        "engine": cells["engine"],
        "version": cells.get("engine_version"),
        "weights": _dtype(cells.get("weight_dtype")),
        "kv_cache": _dtype(cells.get("kv_dtype")),
        "isl": float(np.mean([r.isl for r in requests])),
        "osl": float(np.mean([r.osl for r in requests])),
        "tp": tp,
        "num_prompts": len(requests),
        "measured": _figures(requests),
        "trace": Trace(
            arrival_s=tuple(r.arrival_s - first for r in requests),
            input_tokens=tuple(r.isl for r in requests),
            output_tokens=tuple(r.osl for r in requests),
        ),
        **limits,
    }
    return checked(file, rows[0].line, document)


def _figures(requests: list[_Request]) -> dict[str, object]:
    table = np.array(requests, dtype=np.float64)
    arrival, first, last, _, osl = table.T
    several = osl > 1
    return {
        "ttft_ms": _statistics((first - arrival) * 1e3),
        "tpot_ms": _statistics(((last - first)[several] / (osl[several] - 1)) * 1e3),
        "e2e_ms": _statistics((last - arrival) * 1e3),
        "output_tokens_per_s": float(osl.sum() / (last.max() - arrival.min())),
    }


def _statistics(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    found = [float(values.mean()), *np.percentile(values, (50, 90, 95, 99)).tolist()]
    return dict(zip(_STATISTICS, found, strict=True))


def _request(file: Path, row: Row) -> _Request:
    def number(name: str, least: float) -> float:
        text = row.cells.get(name, "")
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value < 1e12:
            raise UserError(
                f"must be a number of at least {least:g}, got '{text}'",
                where=f"{file}:{row.line}, {name}",
            )
        return value

    arrival = number("arrival_s", 0.0)
    first = number("first_token_s", arrival)
    last = number("last_token_s", first)
    return _Request(arrival, first, last, int(number("isl", 1)), int(number("osl", 1)))


def _tensor_parallel(cells: dict[str, str]) -> int | None:
    """Devices that share every layer; None for any other parallelism."""
    found = ways(cells.get("parallelism", "TP1"))
    if found is None or any(number > 1 for name, number in found.items() if name != "tp"):
        return None
    return found.get("tp", 1)


def _dtype(text: str | None) -> str | None:
    """``bf16 (auto)`` is bf16."""
    return text.split()[0] if text else None


def _limits(summary: Path) -> dict[str, dict[str, int]]:
    """The engine's limits of each run, from the summary beside the requests, if there is one."""
    if not summary.is_file():
        return {}
    found: dict[str, dict[str, int]] = {}
    _, rows = read_rows(summary)
    for row in rows:
        found[row.cells.get("run", "")] = _numbers(row.cells)
    return found


def _numbers(cells: dict[str, str]) -> dict[str, int]:
    """The limits among some cells."""
    given = {key: cells.get(name, "").removesuffix(".0") for name, key in _LIMITS.items()}
    return {key: int(text) for key, text in given.items() if text.isdigit()}
