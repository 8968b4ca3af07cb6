"""Settings of the traffic, and of its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Fields = dict[str, Any]
Change = tuple[str, Any, Fields]

TRACE = Path(__file__).parent / "data" / "dozen.csv"


def _with(path: str, base: Fields, *changes: tuple[str, Any]) -> list[Change]:
    """Changes of single keys of a mapping that stands at ``path``."""
    return [(f"{path}.{key}", value, {path: base}) for key, value in changes]


def _arrivals(base: Fields, *changes: tuple[str, Any]) -> list[Change]:
    return _with("workload.arrivals", base, *changes)


def _output(base: Fields, *changes: tuple[str, Any]) -> list[Change]:
    return _with("workload.lengths.output", base, *changes)


REPLAY: Fields = {"workload": {"kind": "trace", "file": str(TRACE)}}
FROM: Fields = {"workload.lengths": {"kind": "from_trace", "file": str(TRACE)}}
SESSIONS: Fields = {
    "workload": {
        "kind": "sessions", "requests": 40,
        "arrivals": {"kind": "poisson", "rate_per_s": 10.0},
        "turns": {"kind": "uniform", "low": 1, "high": 5},
        "user_tokens": {"kind": "uniform", "low": 20, "high": 150},
        "output_tokens": {"kind": "uniform", "low": 5, "high": 60},
        "system_prompt": {"tokens": 300, "groups": 2}, "think_time_s": 0.2,
    },
}  # fmt: skip
TIMED: Fields = {"workload.requests": None, "workload.duration_s": 2.0}
THINKS: Fields = {"workload.reasoning": {"tokens": {"kind": "uniform", "low": 20, "high": 90}}}
ENDLESS: Fields = {"workload.max_tokens": 120}


def _class(name: str, **more: Any) -> Fields:
    return {
        "name": name,
        "workload": {
            "kind": "synthetic", "requests": 30,
            "arrivals": {"kind": "poisson", "rate_per_s": 10.0},
            "lengths": {
                "kind": "independent",
                "input": {"kind": "fixed", "tokens": 200},
                "output": {"kind": "fixed", "tokens": 20},
            },
        },
        **more,
    }  # fmt: skip


LENGTHS: Fields = {
    "kind": "independent",
    "input": {"kind": "fixed", "tokens": 150},
    "output": {"kind": "fixed", "tokens": 30},
}
_LONG: Fields = {
    "kind": "independent",
    "input": {"kind": "uniform", "low": 100, "high": 400},
    "output": {"kind": "uniform", "low": 10, "high": 90},
}
JOB: Fields = {
    "workload": {"kind": "batch", "requests": 40, "max_in_flight": 3, "lengths": _LONG},
}
ASYNC: Fields = {
    "workload": {
        "kind": "queue", "requests": 40, "max_in_flight": 2, "lengths": _LONG,
        "arrivals": {"kind": "poisson", "rate_per_s": 20.0},
    },
}  # fmt: skip
MIX: Fields = {"workload": {"kind": "mix", "classes": [_class("a"), _class("b")]}}

ROOM: Fields = {"engine.lora": {"max_loras": 3}}
FINE: Fields = ROOM | {"workload.adapters": {"count": 8}}


def _adapted(base: Fields) -> list[Change]:
    """Adapters in another kind of traffic."""
    return [("workload.adapters", {"count": 8}, base | ROOM)]


CHANGES: list[Change] = [
    # Adapters
    ("engine.lora", ROOM["engine.lora"] | {"max_rank": 64}, {}),
    ("engine.lora.max_loras", 1, FINE),
    ("engine.lora.max_rank", 64, FINE),
    ("engine.lora.targets", ["qkv"], FINE),
    *_adapted({}),
    *_adapted(REPLAY),
    *_adapted(SESSIONS),
    *_adapted(JOB),
    *_adapted(ASYNC),
    ("workload.adapters.count", 2, FINE),
    ("workload.adapters.rank", 4, FINE),
    ("workload.adapters.zipf", 2.0, FINE),
    ("workload.adapters.share", 0.3, FINE),
    # Synthetic traffic
    ("workload.duration_s", 1.0, TIMED),
    ("workload.requests", 50, {}),
    ("workload.arrivals", {"kind": "burst"}, {}),
    *_arrivals({"kind": "poisson", "rate_per_s": 25.0}, ("rate_per_s", 20.0)),
    *_arrivals({"kind": "gamma", "rate_per_s": 25.0, "cv": 2.0}, ("rate_per_s", 20.0), ("cv", 3.0)),
    *_arrivals({"kind": "constant", "rate_per_s": 25.0}, ("rate_per_s", 20.0)),
    *_arrivals(
        {"kind": "ramp", "start_per_s": 5.0, "end_per_s": 40.0, "over_s": 2.0},
        ("start_per_s", 15.0), ("end_per_s", 60.0), ("over_s", 1.0),
    ),
    *_arrivals(
        {"kind": "diurnal", "rate_per_s": 25.0, "period_s": 2.0, "peak_at_s": 0.5},
        ("rate_per_s", 20.0), ("peak_to_mean", 1.9), ("period_s", 3.0), ("peak_at_s", 1.0),
    ),
    *_arrivals(
        {"kind": "closed_loop", "concurrency": 4, "think_time_s": 0.1},
        ("concurrency", 6), ("think_time_s", 0.3), ("think_distribution", "exponential"),
    ),
    ("workload.shared_prefix", None, {}),
    ("workload.shared_prefix.tokens", 50, {}),
    ("workload.shared_prefix.groups", 1, {}),
    ("workload.lengths", FROM["workload.lengths"], {"workload.shared_prefix": None}),
    ("workload.lengths.file", "sharegpt-lengths", FROM | {"workload.shared_prefix": None}),
    ("workload.lengths.input", {"kind": "fixed", "tokens": 300}, {}),
    *_output({"kind": "fixed", "tokens": 30}, ("tokens", 40)),
    *_output({"kind": "uniform", "low": 1, "high": 150}, ("low", 50), ("high", 100)),
    *_output(
        {"kind": "normal", "mean": 60.0, "std": 20.0, "low": 20, "high": 100},
        ("mean", 50.0), ("std", 10.0), ("low", 40), ("high", 80),
    ),
    *_output(
        {"kind": "lognormal", "mean": 60.0, "cv": 0.8, "low": 10, "high": 150},
        ("mean", 50.0), ("cv", 0.4), ("low", 30), ("high", 100),
    ),
    *_output(
        {"kind": "empirical", "tokens": [20, 90], "weights": [1.0, 1.0]},
        ("tokens", [20, 60]), ("weights", [9.0, 1.0]),
    ),
    # Answers
    ("workload.samples", {"n": 2}, {}),
    ("workload.samples.n", 3, {"workload.samples": {"n": 2}}),
    ("workload.samples.best_of", 3, {"workload.samples": {"n": 2}}),
    ("workload.reasoning", THINKS["workload.reasoning"], {}),
    ("workload.reasoning.tokens", {"kind": "fixed", "tokens": 20}, THINKS),
    ("workload.reasoning.max_tokens", 40, THINKS),
    ("workload.reasoning.hidden", True, THINKS),
    ("workload.max_tokens", 60, {}),
    ("workload.stop_per_token", 0.03, {}),
    ("workload.ignore_eos", True, ENDLESS),
    # Traces
    ("workload.file", "azure-llm-2023-conv", REPLAY | {"workload.slice": {"requests": 12}}),
    ("workload.slice.start_s", 0.3, REPLAY),
    ("workload.slice.duration_s", 0.3, REPLAY),
    ("workload.slice.requests", 5, REPLAY),
    ("workload.rate_scale", 3.0, REPLAY),
    ("workload.samples", {"n": 2}, REPLAY),
    ("workload.reasoning", THINKS["workload.reasoning"], REPLAY),
    ("workload.max_tokens", 10, REPLAY),
    ("workload.stop_per_token", 0.1, REPLAY),
    ("workload.ignore_eos", True, REPLAY | ENDLESS),
    # Sessions
    ("workload.duration_s", 1.0, SESSIONS | TIMED),
    ("workload.requests", 30, SESSIONS),
    ("workload.arrivals.rate_per_s", 4.0, SESSIONS),
    ("workload.turns", {"kind": "fixed", "tokens": 4}, SESSIONS),
    ("workload.user_tokens", {"kind": "fixed", "tokens": 90}, SESSIONS),
    ("workload.output_tokens", {"kind": "fixed", "tokens": 9}, SESSIONS),
    ("workload.system_prompt", None, SESSIONS),
    ("workload.think_time_s", 0.9, SESSIONS),
    ("workload.think_distribution", "fixed", SESSIONS),
    ("workload.reasoning", THINKS["workload.reasoning"], SESSIONS),
    ("workload.max_tokens", 20, SESSIONS),
    ("workload.stop_per_token", 0.05, SESSIONS),
    ("workload.ignore_eos", True, SESSIONS | ENDLESS),
    # Jobs
    ("workload.requests", 30, JOB),
    ("workload.submit_at_s", 2.0, JOB),
    ("workload.deadline_s", 1.0, JOB),
    ("workload.max_in_flight", 6, JOB),
    ("workload.lengths", LENGTHS, JOB),
    ("workload.shared_prefix", {"tokens": 96}, JOB),
    ("workload.reasoning", THINKS["workload.reasoning"], JOB),
    ("workload.max_tokens", 20, JOB),
    ("workload.stop_per_token", 0.05, JOB),
    ("workload.ignore_eos", True, JOB | ENDLESS),
    ("workload.requests", 30, ASYNC),
    ("workload.duration_s", 1.0, ASYNC | TIMED),
    ("workload.arrivals.rate_per_s", 5.0, ASYNC),
    ("workload.deadline_s", 1.0, ASYNC),
    ("workload.max_in_flight", 6, ASYNC),
    ("workload.lengths", LENGTHS, ASYNC),
    ("workload.shared_prefix", {"tokens": 96}, ASYNC),
    ("workload.reasoning", THINKS["workload.reasoning"], ASYNC),
    ("workload.max_tokens", 20, ASYNC),
    ("workload.stop_per_token", 0.05, ASYNC),
    ("workload.ignore_eos", True, ASYNC | ENDLESS),
    # Classes
    ("workload.classes", [_class("a")], MIX),
    ("workload.classes", [_class("a"), _class("c")], MIX),
    ("workload.classes", [_class("a"), _class("b") | {"workload": REPLAY["workload"]}], MIX),
    ("workload.classes", [_class("a"), _class("b", slo={"e2e_ms": 90.0})], MIX),
]  # fmt: skip

SAME: dict[tuple[str, str], str] = {
    ("TraceWorkload", "format"): "says how to read a file that is read rightly without it",
    ("TraceLengths", "format"): "as above",
}
"""Fields of the traffic that change no result by themselves, and why."""
