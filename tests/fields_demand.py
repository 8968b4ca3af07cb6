"""Settings of traffic that follows a table over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Fields = dict[str, Any]
DATA = Path(__file__).parent / "data"

TABLE: Fields = {
    "kind": "rates",
    "intervals": [
        {"start_s": 0.0, "rate_per_s": 40.0, "cv": 2.0},
        {"start_s": 1.0, "rate_per_s": 10.0},
        {"start_s": 2.0, "rate_per_s": 30.0},
    ],
    "end_s": 3.0,
    "repeat": True,
}
FILE: Fields = {"kind": "rates", "file": str(DATA / "rates.csv"), "repeat": True}


def _other(**changes: Any) -> Fields:
    first = TABLE["intervals"][0]
    return TABLE | {"intervals": [first | changes, *TABLE["intervals"][1:]]}


def _lengths(**changes: Any) -> Fields:
    return {"kind": "over_time", "file": str(DATA / "lengths.csv"), **changes}


def _with(arrivals: Fields) -> Fields:
    return {"workload.arrivals": arrivals, "workload.shared_prefix": None}


WHOLE: Fields = _with(TABLE | {"start_s": 1.5}) | {"workload.requests": None}
MEANS: Fields = {
    "workload.lengths": _lengths(file=str(DATA / "means.csv"), cv=0.5),
    "workload.shared_prefix": None,
}
QUANTILES: Fields = _with(FILE) | {"workload.lengths": _lengths()}

CHANGES: list[tuple[str, Any, Fields]] = [
    ("workload.arrivals", FILE, {}),
    ("workload.arrivals.file", str(DATA / "rates-later.csv"), _with(FILE)),
    ("workload.arrivals.scale", 2.0, _with(TABLE)),
    ("workload.arrivals.start_s", 1.5, _with(TABLE)),
    ("workload.arrivals.end_s", 2.5, _with(TABLE) | {"workload.requests": 110}),
    ("workload.arrivals.cv", 3.0, _with(TABLE)),
    ("workload.arrivals.repeat", False, WHOLE),
    ("workload.arrivals", TABLE | {"intervals": TABLE["intervals"][:2]}, _with(TABLE)),
    ("workload.arrivals", _other(rate_per_s=20.0), _with(TABLE)),
    ("workload.arrivals", _other(cv=4.0), _with(TABLE)),
    ("workload.arrivals", _other(start_s=0.5), _with(TABLE)),
    ("workload.lengths", _lengths(), {"workload.shared_prefix": None}),
    ("workload.lengths.file", str(DATA / "lengths-later.csv"), QUANTILES),
    ("workload.lengths.end_s", 1.5, QUANTILES),
    ("workload.lengths.cv", 1.0, MEANS),
]  # fmt: skip
