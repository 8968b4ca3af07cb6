"""Which requests were good enough, and whether enough of them were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.deployment import ResolvedDeployment
from simulator.results.latency import RequestTimes
from simulator.results.window import Window
from simulator.scenario.scenario import Scenario
from simulator.scenario.workload import MixWorkload, Slo

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Which requests meet each limit of their class, and all of them. Shapes (n,).

    A request that did not complete misses every limit; a request of one token has no TPOT and
    meets any limit on it; where a class has no such limit, the request counts as meeting it.
    """

    met: Flags
    ttft: Flags
    tpot: Flags
    e2e: Flags


def slo_of_classes(scenario: Scenario) -> dict[str, Slo]:
    """The SLO that holds for each traffic class, by its name."""
    workload = scenario.workload
    if not isinstance(workload, MixWorkload):
        return {"default": scenario.slo}
    return {c.name: c.slo or scenario.slo for c in workload.classes}


def has_limits(slo: Slo) -> bool:
    """Whether the SLO asks for anything."""
    return any(limit is not None for limit in (slo.ttft_ms, slo.tpot_ms, slo.e2e_ms))


def judge(deployment: ResolvedDeployment, times: RequestTimes) -> Verdicts:
    """Compares every request with the SLO of its class."""
    requests = times.record.requests
    slos = _by_index(deployment, requests.classes)
    no_tpot = times.completed & np.isnan(times.tpot_ms)

    def meets(values: npt.NDArray[np.float64], limits: list[float | None]) -> Flags:
        limit = np.array([np.inf if x is None else x for x in limits])[requests.class_id]
        return times.completed & (values <= limit)

    ttft = meets(times.ttft_ms, [slo.ttft_ms for slo in slos])
    tpot = meets(times.tpot_ms, [slo.tpot_ms for slo in slos]) | no_tpot
    e2e = meets(times.e2e_ms, [slo.e2e_ms for slo in slos])
    return Verdicts(ttft & tpot & e2e, ttft, tpot, e2e)


def slo_section(
    deployment: ResolvedDeployment, times: RequestTimes, window: Window
) -> dict[str, Any]:
    """Goodput and attainment, over all classes and for each.

    ``held`` is true if every class with limits reaches its attainment.
    """
    classes = times.record.requests.classes
    slos = _by_index(deployment, classes)
    verdicts = judge(deployment, times)
    class_id = times.record.requests.class_id
    good = int((verdicts.met & window.holds(times.finish_s)).sum())
    share = _share(verdicts.met & window.counted, window.requests)
    per_class = {
        name: _attainment(slo, verdicts, window.counted & (class_id == i))
        for i, (name, slo) in enumerate(zip(classes, slos, strict=True))
    }
    limited = [entry for entry in per_class.values() if entry["held"] is not None]
    if not any(has_limits(slo) for slo in slos):
        return {
            "limits_given": False,
            "held": None,
            "goodput_requests_per_s": None,
            "goodput_share": None,
            "classes": per_class,
        }
    return {
        "limits_given": True,
        "held": all(entry["held"] for entry in limited) if limited else None,
        "goodput_requests_per_s": good / window.duration_s if window.duration_s > 0 else None,
        "goodput_share": share,
        "classes": per_class,
    }


def _attainment(slo: Slo, verdicts: Verdicts, counted: Flags) -> dict[str, Any]:
    n = int(counted.sum())
    limits = {}
    for name, limit, met in (
        ("ttft", slo.ttft_ms, verdicts.ttft),
        ("tpot", slo.tpot_ms, verdicts.tpot),
        ("e2e", slo.e2e_ms, verdicts.e2e),
    ):
        if limit is not None:
            limits[name] = {"limit_ms": limit, "met_share": _share(met & counted, n)}
    share = _share(verdicts.met & counted, n)
    held = None if share is None or not limits else share >= slo.attainment
    return {
        "requests": n,
        "attainment_wanted": slo.attainment,
        "met_share": share if limits else None,
        "held": held,
        "limits": limits,
    }


def _share(flags: Flags, n: int) -> float | None:
    return int(flags.sum()) / n if n else None


def _by_index(deployment: ResolvedDeployment, classes: tuple[str, ...]) -> list[Slo]:
    slos = slo_of_classes(deployment.scenario)
    return [slos.get(name, deployment.scenario.slo) for name in classes]
