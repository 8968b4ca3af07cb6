"""Autoscaling as a HorizontalPodAutoscaler, where that does what the scenario says.

A HorizontalPodAutoscaler wants ceil(replicas × metric / target) replicas, and none fewer or more
within a tolerance and its stabilization windows (Kubernetes documentation, "Horizontal Pod
Autoscaling"): the same rule as ``kind: queue`` and ``kind: concurrency``.
"""

from __future__ import annotations

from typing import Any

from simulator.resolution.pools import ResolvedPool
from simulator.scenario.lifecycle import ConcurrencyScaling, QueueScaling

QUERIES = {
    ("vllm", "queue"): "vllm:num_requests_waiting",
    ("vllm", "concurrency"): "vllm:num_requests_running + vllm:num_requests_waiting",
    ("sglang", "queue"): "sglang:num_queue_reqs",
    ("sglang", "concurrency"): "sglang:num_running_reqs + sglang:num_queue_reqs",
}
"""What an engine's metrics have to be asked for, of one pod."""

METRICS = {"queue": "llm_requests_waiting", "concurrency": "llm_requests_in_flight"}
"""Names of these metrics, by kind of scaling."""

_ONE = {"apiVersion": "apps/v1", "kind": "Deployment"}
_SEVERAL = {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet"}
"""What is scaled, by the nodes that one replica takes."""

_SYNC_S, _TOLERANCE, _MOST_WINDOW_S = 15.0, 0.1, 3600.0


def autoscaler(
    pool: ResolvedPool, name: str, engine: str, nodes: int = 1
) -> tuple[dict[str, Any] | None, list[str]]:
    """The object that scales a pool, and comments on what it needs or cannot say."""
    scaling = pool.life.scaling if pool.life else None
    if scaling is None:
        return None, []
    refused = "not expressible: deployment.autoscaling: "
    if not isinstance(scaling, ConcurrencyScaling | QueueScaling):
        return None, [
            f"{refused}a HorizontalPodAutoscaler has no kind {scaling.kind}; the manifest starts "
            f"{scaling.at_start}"
        ]
    query = QUERIES.get((engine, scaling.kind))
    if query is None:
        return None, [f"{refused}the engine has no metric of its queue for {scaling.kind}"]
    if scaling.min == 0:
        return None, [f"{refused}a HorizontalPodAutoscaler does not scale to zero"]
    metric = METRICS[scaling.kind]
    behavior = {
        "scaleUp": {
            "stabilizationWindowSeconds": round(scaling.up_window_s),
            "policies": [{"type": "Pods", "value": scaling.max, "periodSeconds": 15}],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": round(min(scaling.down_window_s, _MOST_WINDOW_S)),
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
        },
    }
    made = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "annotations": {"servecast/metric-query": query}},
        "spec": {
            "scaleTargetRef": (_SEVERAL if nodes > 1 else _ONE) | {"name": name},
            "minReplicas": scaling.min,
            "maxReplicas": scaling.max,
            "metrics": [
                {
                    "type": "Pods",
                    "pods": {
                        "metric": {"name": metric},
                        "target": {"type": "AverageValue", "averageValue": f"{scaling.target:g}"},
                    },
                }
            ],
            "behavior": behavior,
        },
    }
    text = [
        f"the metric {metric} of a pod is {query}, by a rule of an adapter such as Prometheus's"
    ]
    for key, usual, why in (
        ("interval_s", _SYNC_S, "set for the whole cluster"),
        ("tolerance", _TOLERANCE, "set for the whole cluster"),
        ("cooldown_s", 0.0, "an autoscaler has windows instead"),
    ):
        if getattr(scaling, key) != usual:
            text.append(f"not expressible: deployment.autoscaling.{key}: {why}")
    if scaling.down_window_s > _MOST_WINDOW_S:
        text.append("not expressible: deployment.autoscaling.down_window_s: at most 3600")
    return made, text
