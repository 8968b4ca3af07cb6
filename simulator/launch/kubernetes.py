"""A Kubernetes manifest: a Deployment and a Service for each pool, and what scales it.

Objects are those of Kubernetes 1.30 and later (apps/v1, v1, autoscaling/v2); replicas over several
nodes are those of LeaderWorkerSet (leaderworkerset.x-k8s.io/v1).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from simulator.errors import ScenarioError
from simulator.launch.files import Server, comments, disaggregated, slug
from simulator.launch.products import resource_of, selector_of
from simulator.launch.scaling import autoscaler
from simulator.scenario.scenario import Scenario
from simulator.yamlio import dump_yaml

PORT = 8000
POOL = "servecast/pool"
"""Annotation with a pool's own name, which labels may have to change."""

_IMAGES = {
    ("vllm", "NVIDIA"): "vllm/vllm-openai:v{version}",
    ("vllm", "AMD"): "vllm/vllm-openai-rocm:v{version}",
    ("sglang", "NVIDIA"): "lmsysorg/sglang:v{version}",
    ("tensorrt-llm", "NVIDIA"): "nvcr.io/nvidia/tensorrt-llm/release:{version}",
}
_PATCH = {"vllm": ".0", "sglang": ".9", "tensorrt-llm": ".0"}
"""The release of a series whose image is taken where a profile names the series alone."""

_START_S = 1800.0
"""Time that servers have to start in, at least: weights of hundreds of gigabytes over a network."""


def manifest(servers: Sequence[Server], scenario: Scenario) -> str:
    """All objects as YAML documents.

    Raises:
        ScenarioError: clusters have no such devices, or the engine cannot spread a replica over
            nodes there.
    """
    names = _names(servers, scenario)
    made: list[tuple[list[str], list[dict[str, Any]]]] = []
    for server in servers:
        text, objects = comments(server, scenario), _objects(server, names[server.name])
        scaler, reasons = autoscaler(server.pool, names[server.name], server.engine, server.nodes)
        text += reasons
        if _image(server).startswith("<"):
            text.append(f"no image is known: put one in for {_image(server)}")
        made.append((text, objects + ([scaler] if scaler else [])))
    before = disaggregated(servers, {name: f"{whole}:{PORT}" for name, whole in names.items()})
    if before is not None:
        made.append(
            (["`trtllm-serve disaggregated -c disaggregated.yaml` reads this"],
             [_config(f"{slug(scenario.name)[:40]}-disaggregated", "disaggregated.yaml", before)])
        )  # fmt: skip
    return "".join(
        "".join(f"# {line}\n" for line in text) + "".join(_document(one) for one in objects)
        for text, objects in made
    )


def _document(content: dict[str, Any]) -> str:
    """One YAML document, without anchors for what stands in it twice."""
    return f"---\n{dump_yaml(json.loads(json.dumps(content)), older=True)}"


def _names(servers: Sequence[Server], scenario: Scenario) -> dict[str, str]:
    """Names of the pools' objects: of the scenario, and of the pool where there are several."""
    whole = slug(scenario.name)[:30].strip("-")
    if not whole[0].isalpha():
        whole = f"x-{whole}"
    found: dict[str, str] = {}
    for server in servers:
        part = server.name.removeprefix("serve").strip("-")
        found[server.name] = f"{whole}-{part}"[:50].strip("-") if part else whole
        if list(found.values()).count(found[server.name]) > 1:
            found[server.name] += f"-{len(found)}"
    return found


def _objects(server: Server, name: str) -> list[dict[str, Any]]:
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/component": server.pool.role}
    pod = _pod(server, name)
    meta = {"name": name, "labels": labels, "annotations": {POOL: server.pool.name}}
    life = server.pool.life
    replicas = life.at_start if life and life.scaling else server.pool.replicas
    selected = labels
    if server.nodes > 1:
        workload = _leader_and_workers(server, pod, meta, labels, replicas)
        selected = labels | {"leaderworkerset.sigs.k8s.io/worker-index": "0"}
    else:
        workload = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "selector": selected,
            "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
        },
    }
    options = server.written.options
    config = [_config(f"{name}-options", *options)] if options else []
    return [*config, workload, service]


def _config(name: str, file: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {file: dump_yaml(dict(content), older=True)},
    }


def _leader_and_workers(
    server: Server,
    pod: dict[str, Any],
    meta: dict[str, Any],
    labels: dict[str, str],
    replicas: int,
) -> dict[str, Any]:
    if server.engine == "tensorrt-llm":
        raise ScenarioError(
            f"a replica of {server.nodes} nodes of TensorRT-LLM is started by mpirun, which a "
            "manifest cannot say",
            where="parallelism",
            hint="use at most the devices of a node, or another engine",
        )
    container = pod["containers"][0]
    follower = {key: value for key, value in container.items() if not key.endswith("Probe")}
    if server.engine == "vllm":
        follower["args"] = [*container["args"], "--headless"]
    template = {"metadata": {"labels": labels}}
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": meta,
        "spec": {
            "replicas": replicas,
            "leaderWorkerTemplate": {
                "size": server.nodes,
                "leaderTemplate": template | {"spec": pod},
                "workerTemplate": template | {"spec": pod | {"containers": [follower]}},
            },
        },
    }


def _pod(server: Server, name: str) -> dict[str, Any]:
    deployment = server.pool.deployment
    hardware = deployment.hardware
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}]
    volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    if server.written.options:
        mounts.append({"name": "options", "mountPath": "/etc/servecast"})
        volumes.append({"name": "options", "configMap": {"name": f"{name}-options"}})
    container: dict[str, Any] = {
        "name": "server",
        "image": _image(server),
        "command": server.written.command,
        "args": _arguments(server),
        "env": [
            {
                "name": "HF_TOKEN",
                "valueFrom": {
                    "secretKeyRef": {"name": "hf-token", "key": "token", "optional": True}
                },
            }
        ],
        "ports": [{"name": "http", "containerPort": PORT}],
        **_probes(server),
        "volumeMounts": mounts,
    }
    pod: dict[str, Any] = {"containers": [container], "volumes": volumes}
    if hardware.kind == "cpu":
        return pod
    resource = resource_of(hardware.vendor)
    if resource is None:
        raise ScenarioError(
            f"Kubernetes has no device plugin for {hardware.title}",
            where="hardware.profile",
            hint="the launch arguments alone start it",
        )
    each = -(-deployment.devices_per_replica // server.nodes)
    container["resources"] = {"limits": {resource: str(each)}, "requests": {resource: str(each)}}
    pod["tolerations"] = [{"key": resource, "operator": "Exists", "effect": "NoSchedule"}]
    selector = selector_of(hardware.name)
    return {"nodeSelector": selector, **pod} if selector else pod


def _arguments(server: Server) -> list[str]:
    """The command's arguments; one value goes behind an equals sign."""
    made = []
    folder = "/etc/servecast/" if server.written.options else ""
    for name, *values in server.written.arguments:
        words = [_variable(value) for value in values]
        if name == "--extra_llm_api_options":
            words = [folder + words[0]]
        made += [f"{name}={words[0]}"] if len(words) == 1 else [name, *words]
    return [*made, "--host=0.0.0.0", f"--port={PORT}"]


def _variable(word: str) -> str:
    """What LeaderWorkerSet calls a node's place and the first one's address."""
    return word.replace("$NODE_RANK", "$(LWS_WORKER_INDEX)").replace(
        "$LEADER_ADDRESS", "$(LWS_LEADER_ADDRESS)"
    )


def _probes(server: Server) -> dict[str, Any]:
    """The start-up probe waits three times as long as a cold start takes, and at least half an
    hour."""
    life = server.pool.life
    start_s = max(_START_S, 3 * life.start.alone_s if life else 0.0)
    health = {"httpGet": {"path": "/health", "port": "http"}}
    return {
        "startupProbe": health | {"periodSeconds": 10, "failureThreshold": -int(-start_s // 10)},
        "readinessProbe": health | {"periodSeconds": 5, "failureThreshold": 3},
        "livenessProbe": health
        | {"periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 6},
    }


def _image(server: Server) -> str:
    deployment = server.pool.deployment
    engine, vendor = server.engine, deployment.hardware.vendor
    pattern = _IMAGES.get((engine, vendor))
    if pattern is None:
        return f"<image of {deployment.engine.title} for {deployment.hardware.title}>"
    version = deployment.engine.version
    return pattern.format(version=version + (_PATCH[engine] if version.count(".") < 2 else ""))
