"""Settings of replicas that come and go, and of requests that have none."""

from __future__ import annotations

from typing import Any

# Traffic that comes for two seconds and again after a pause.
BURSTS: dict[str, Any] = {
    "workload": {
        "kind": "synthetic", "requests": 150,
        "arrivals": {"kind": "gamma", "rate_per_s": 12.0, "cv": 4.0},
        "lengths": {
            "kind": "independent",
            "input": {"kind": "fixed", "tokens": 200},
            "output": {"kind": "uniform", "low": 50, "high": 300},
        },
    },
}  # fmt: skip
FAST: dict[str, Any] = {"interval_s": 0.2, "down_window_s": 0.6, "idle_s": 0.3, "max": 4}


def _scaled(kind: str, **changes: Any) -> dict[str, Any]:
    return {"kind": kind, **FAST, **changes}


def _with(**changes: Any) -> dict[str, Any]:
    return BURSTS | {f"deployment.{name}": value for name, value in changes.items()}


CONCURRENCY = _scaled("concurrency", target=4.0)
PREDICTIVE = _scaled("predictive", requests_per_s=3.0)
HOLT = _scaled("predictive", requests_per_s=3.0, forecast={"kind": "holt"})
SEASONAL = _scaled("predictive", requests_per_s=3.0, forecast={"kind": "seasonal", "period_s": 2.0})
RARELY = CONCURRENCY | {"min": 0, "down_window_s": 0.0, "idle_s": 0.2}
SPARSE: dict[str, Any] = {
    "workload": BURSTS["workload"]
    | {"requests": 20, "arrivals": {"kind": "poisson", "rate_per_s": 0.5}},
    "deployment.cold_start": {"provisioning_s": 0.3},
}
TIMETABLE = {
    "kind": "schedule", "period_s": 6.0,
    "steps": [{"at_s": 0.0, "replicas": 1}, {"at_s": 2.0, "replicas": 3}],
}  # fmt: skip
SCALED = _with(autoscaling=CONCURRENCY)
COLD = {"provisioning_s": 0.3}
DISK = {"weights_from": {"kind": "disk", "gb_per_s": 20.0}}
NETWORK = {"weights_from": {"kind": "network", "gb_per_s": 20.0}}
HOST = {"weights_from": {"kind": "host_memory"}}
CRASHING = {"mtbf_h": 1.0 / 3600.0}
OUTAGE = {"outages": [{"replica": 0, "at_s": 2.0, "for_s": 1.0}]}
SLOW: dict[str, Any] = {"slowdowns": [{"replica": 0, "at_s": 0.5, "for_s": 4.0, "factor": 3.0}]}
TAKEN = {"interruptions_per_hour": 1800.0}
PAIR: dict[str, Any] = BURSTS | {"deployment.replicas": 2}


def _outage(**changes: Any) -> dict[str, Any]:
    return {"outages": [OUTAGE["outages"][0] | changes]}


def _table(replicas: int, at_s: float) -> dict[str, Any]:
    steps = [TIMETABLE["steps"][0], {"at_s": at_s, "replicas": replicas}]
    return {**TIMETABLE, "steps": steps}


CHANGES: list[tuple[str, Any, dict[str, Any]]] = [
    ("deployment.autoscaling", CONCURRENCY, BURSTS),
    *[
        ("deployment.autoscaling", CONCURRENCY | change, SCALED)
        for change in (
            {"target": 8.0}, {"min": 2}, {"max": 2}, {"initial": 3}, {"interval_s": 0.5},
            {"tolerance": 0.9}, {"up_window_s": 1.0}, {"down_window_s": 3.0}, {"cooldown_s": 2.0},
        )
    ],
    ("deployment.autoscaling", RARELY | {"idle_s": 2.0}, SPARSE | {"deployment.autoscaling": RARELY}),
    ("deployment.autoscaling", _scaled("queue", target=4.0), SCALED),
    ("deployment.autoscaling", _scaled("queue", target=1.0),
     _with(autoscaling=_scaled("queue", target=40.0))),
    ("deployment.autoscaling", _scaled("utilization", target=0.9), SCALED),
    ("deployment.autoscaling", _scaled("utilization", target=0.3),
     _with(autoscaling=_scaled("utilization", target=0.9))),
    ("deployment.autoscaling", PREDICTIVE, SCALED),
    ("deployment.autoscaling", PREDICTIVE | {"requests_per_s": 6.0}, _with(autoscaling=PREDICTIVE)),
    ("deployment.autoscaling", PREDICTIVE | {"lead_s": 2.0}, _with(autoscaling=PREDICTIVE)),
    ("deployment.autoscaling", HOLT | {"forecast": {"kind": "holt", "level": 0.1}},
     _with(autoscaling=HOLT)),
    ("deployment.autoscaling", HOLT | {"forecast": {"kind": "holt", "trend": 0.9}},
     _with(autoscaling=HOLT)),
    ("deployment.autoscaling", SEASONAL, _with(autoscaling=HOLT)),
    ("deployment.autoscaling", SEASONAL | {"forecast": {"kind": "seasonal", "period_s": 4.0}},
     _with(autoscaling=SEASONAL)),
    ("deployment.autoscaling", HOLT | {"forecast": {"kind": "perfect"}}, _with(autoscaling=HOLT)),
    ("deployment.autoscaling", TIMETABLE, SCALED),
    ("deployment.autoscaling", TIMETABLE | {"period_s": 3.0}, _with(autoscaling=TIMETABLE)),
    ("deployment.autoscaling", _table(2, 2.0), _with(autoscaling=TIMETABLE)),
    ("deployment.autoscaling", _table(3, 3.0), _with(autoscaling=TIMETABLE)),
    *[
        (f"deployment.cold_start.{name}", 0.3, SCALED)
        for name in ("provisioning_s", "boot_s", "warmup_s")
    ],
    *[
        ("deployment.cold_start.weights_from", start["weights_from"], SCALED)
        for start in (DISK, NETWORK, HOST)
    ],
    ("deployment.cold_start", {"weights_from": {"kind": "disk", "gb_per_s": 2.0}},
     _with(autoscaling=CONCURRENCY, cold_start=DISK)),
    ("deployment.cold_start", {"weights_from": {"kind": "network", "gb_per_s": 2.0}},
     _with(autoscaling=CONCURRENCY, cold_start=NETWORK)),
    ("deployment.cold_start",
     {"weights_from": {"kind": "network", "gb_per_s": 20.0, "store_gb_per_s": 2.0}},
     _with(autoscaling=CONCURRENCY, cold_start=NETWORK)),
    ("deployment.cold_start", {"weights_from": {"kind": "host_memory", "gb_per_s": 2.0}},
     _with(autoscaling=CONCURRENCY, cold_start=HOST)),
    ("deployment.failures", OUTAGE, PAIR),
    ("deployment.failures", _outage(replica=1), PAIR | {"deployment.failures": OUTAGE}),
    ("deployment.failures", _outage(at_s=3.0), PAIR | {"deployment.failures": OUTAGE}),
    ("deployment.failures", _outage(for_s=3.0), PAIR | {"deployment.failures": OUTAGE}),
    ("deployment.failures", OUTAGE | {"detection_s": 0.5}, PAIR | {"deployment.failures": OUTAGE}),
    ("deployment.failures", CRASHING, PAIR),
    ("deployment.failures", CRASHING | {"repair_s": 1.0}, PAIR | {"deployment.failures": CRASHING}),
    ("deployment.failures", SLOW, PAIR),
    *[
        ("deployment.failures", {"slowdowns": [SLOW["slowdowns"][0] | change]},
         PAIR | {"deployment.failures": SLOW})
        for change in ({"replica": 1}, {"at_s": 1.0}, {"for_s": 1.0}, {"factor": 9.0})
    ],
    ("deployment.spot", TAKEN, PAIR),
    ("deployment.spot", {"interruptions_per_hour": 7200.0}, PAIR | {"deployment.spot": TAKEN}),
    ("deployment.spot", TAKEN | {"notice_s": 0.5}, PAIR | {"deployment.spot": TAKEN}),
    ("deployment.spot", TAKEN | {"replacement_s": 1.0}, PAIR | {"deployment.spot": TAKEN}),
    ("deployment.retry", {"limit": 1}, PAIR | {"deployment.failures": CRASHING}),
    ("deployment.retry", {"limit": 1},
     PAIR | {"deployment.failures": {"mtbf_h": 0.3 / 3600.0}, "deployment.retry": {"limit": 5}}),
    ("deployment.retry", {"mode": "resume"},
     PAIR | {"deployment.failures": CRASHING, "deployment.retry": {"mode": "restart"}}),
    ("deployment.gateway.max_concurrency", 2, BURSTS),
    ("deployment.gateway.max_queue", 5, BURSTS | {"deployment.gateway.max_concurrency": 2}),
    *[
        ("deployment.pools", [{"name": "a"}, {"name": "b", name: value}],
         BURSTS | {"deployment.pools": [{"name": "a"}, {"name": "b"}]})
        for name, value in (("autoscaling", CONCURRENCY), ("failures", OUTAGE), ("spot", TAKEN))
    ],
    ("deployment.pools", [{"name": "a", "cold_start": COLD}], _with(
        pools=[{"name": "a"}], autoscaling=CONCURRENCY)),
]  # fmt: skip
