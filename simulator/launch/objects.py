"""From a Kubernetes manifest to the launch commands in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from simulator.errors import UserError
from simulator.launch.commands import read_command
from simulator.launch.found import Found, number, whole, words
from simulator.launch.products import hardware_of, names_hardware, resources
from simulator.launch.scaling import METRICS
from simulator.launch.shell import Command, find_commands, substituted
from simulator.yamlio import MAX_BYTES, parse_yaml

MAX_DOCUMENTS = 500
POOL = "servecast/pool"

_WORKLOADS = ("Deployment", "StatefulSet", "ReplicaSet", "Pod", "LeaderWorkerSet")


def is_manifest(text: str) -> bool:
    """Whether ``text`` is YAML of Kubernetes rather than a script."""
    return bool(re.search(r"^apiVersion\s*:", text, re.MULTILINE))


def read_manifest(
    text: str, where: str = "manifest", *, model: str | None = None, lenient: bool = False
) -> list[Found]:
    """Every server that the manifest starts.

    Raises:
        UserError: it is no YAML, too large, starts no known server, or one that cannot be read.
    """
    documents = list(_documents(text, where))
    texts: dict[str, str] = {}
    for document in documents:
        if document.get("kind") == "ConfigMap":
            texts |= {k: v for k, v in _mapping(document, "data").items() if isinstance(v, str)}

    def file_of(name: str) -> dict[str, Any] | None:
        content = texts.get(name.rpartition("/")[2])
        return None if content is None else parse_yaml(content, Path(name))[0]

    servers = []
    for document in documents:
        if document.get("kind") not in _WORKLOADS:
            continue
        for command, pod, container in _commands(document):
            name = _name(document)
            try:
                found = read_command(command, file_of, model=model, lenient=lenient)
                _place(found, document, pod, container)
            except UserError as error:
                error.where = ": ".join(part for part in (where, name, error.where) if part)
                raise
            servers.append(found)
    if not servers:
        raise UserError(
            "no container starts vLLM, SGLang or TensorRT-LLM", where=where,
            hint=f"their commands are looked for in {', '.join(_WORKLOADS)}",
        )  # fmt: skip
    _scale(servers, documents, where, lenient=lenient)
    return servers


def _documents(text: str, where: str) -> Iterator[dict[str, Any]]:
    if len(text) > MAX_BYTES:
        raise UserError(f"holds more than {MAX_BYTES // 1_000_000} MB", where=where)
    line, count = 1, 0
    for part in re.split(r"^---(?=\s|$)", text, flags=re.MULTILINE):
        rest = re.sub(r"^\.\.\.\s*$", "", part, flags=re.MULTILINE)
        if re.sub(r"^\s*(?:#.*)?$", "", rest, flags=re.MULTILINE).strip():
            count += 1
            if count > MAX_DOCUMENTS:
                raise UserError(f"holds more than {MAX_DOCUMENTS} documents", where=where)
            # Empty lines in front keep the lines in errors those of the whole file.
            data = parse_yaml("\n" * (line - 1) + rest, Path(where))[0]
            if data.get("kind") == "List" and isinstance(data.get("items"), list):
                yield from (item for item in data["items"] if isinstance(item, dict))
            else:
                yield data
        line += part.count("\n")


def _mapping(holder: Any, *keys: str) -> dict[str, Any]:
    """What stands below keys; empty where nothing does."""
    for key in keys:
        holder = holder.get(key) if isinstance(holder, dict) else None
    return holder if isinstance(holder, dict) else {}


def _items(holder: Any, key: str) -> list[dict[str, Any]]:
    """The mappings in the list below a key; none where there is no list."""
    found = holder.get(key) if isinstance(holder, dict) else None
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _name(document: Mapping[str, Any]) -> str:
    meta = _mapping(document, "metadata")
    return str(_mapping(meta, "annotations").get(POOL) or meta.get("name") or "server")


def _commands(
    document: Mapping[str, Any],
) -> Iterator[tuple[Command, dict[str, Any], dict[str, Any]]]:
    """Launch commands with their pods and containers."""
    if document["kind"] == "Pod":
        pod = _mapping(document, "spec")
    elif document["kind"] == "LeaderWorkerSet":
        template = _mapping(document, "spec", "leaderWorkerTemplate")
        pod = _mapping(template, "leaderTemplate", "spec") or _mapping(
            template, "workerTemplate", "spec"
        )
    else:
        pod = _mapping(document, "spec", "template", "spec")
    for container in _items(pod, "containers"):
        image = str(container.get("image", ""))
        env = {str(item.get("name")): item.get("value") for item in _items(container, "env")}
        values = {name: value for name, value in env.items() if isinstance(value, str)}
        given = [word for key in ("command", "args") for word in words(container.get(key), key)]
        said = [substituted(word, values) for word in given]
        found = find_commands(said, image)
        if not found and not container.get("command"):
            found = find_commands([image, *said], image)
        for command in found:
            yield replace(command, variables=(*command.variables, *env)), pod, container


def _place(
    found: Found, document: Mapping[str, Any], pod: dict[str, Any], container: dict[str, Any]
) -> None:
    """Adds what a manifest says besides the command."""
    found.name = _name(document)
    replicas = _mapping(document, "spec").get("replicas", 1)
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        raise UserError(f"replicas must be a whole number, got {replicas!r}")
    found.replicas = replicas
    size = _mapping(document, "spec", "leaderWorkerTemplate").get("size", 1)
    limits = _mapping(container, "resources", "limits") or _mapping(
        container, "resources", "requests"
    )
    for resource in resources() & set(limits):
        asked = str(limits[resource])
        if not asked.isdecimal():
            raise UserError(f"must be a whole number, got '{asked}'", where=resource)
        found.devices = int(asked) * (whole(size, "leaderWorkerTemplate.size") or 1)
    labels = {str(k): str(v) for k, v in _mapping(pod, "nodeSelector").items()}
    labels |= _affinity(pod)
    found.hardware = hardware_of(labels)
    unknown = [f"{k}={v}" for k, v in labels.items() if names_hardware(k)]
    if unknown and found.hardware is None:
        found.notes.append(f"no device is known for the node label {unknown[0]}")
    if found.both_roles:
        found.role = "prefill" if "prefill" in found.name else "decode"
        if found.role not in found.name:
            raise UserError(
                "kv_both says neither prefill nor decode",
                where="--kv-transfer-config",
                hint="use kv_producer and kv_consumer, or the role in the object's name",
            )
    needed = found.devices_needed
    if found.devices is not None and found.devices < needed:
        raise UserError(
            f"the command needs {needed} devices, and its pod asks for {found.devices}",
            hint="ask for as many",
        )
    if found.devices is not None and found.devices > needed:
        found.notes.append(
            f"{found.name}: the pod asks for {found.devices} devices and its command uses {needed}"
        )


def _affinity(pod: dict[str, Any]) -> dict[str, str]:
    """Node labels that the pod requires with one value each."""
    required = _mapping(
        pod, "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"
    )
    labels: dict[str, str] = {}
    rules = [_items(term, "matchExpressions") for term in _items(required, "nodeSelectorTerms")]
    for rule in (rule for each in rules for rule in each):
        values = rule.get("values")
        if isinstance(values, list) and len(values) == 1 and rule.get("operator") == "In":
            labels[str(rule.get("key"))] = str(values[0])
    return labels


def _scale(
    servers: list[Found], documents: list[dict[str, Any]], where: str, *, lenient: bool
) -> None:
    for document in documents:
        if document.get("kind") != "HorizontalPodAutoscaler":
            continue
        spec = _mapping(document, "spec")
        target = str(_mapping(spec, "scaleTargetRef").get("name"))
        names = {
            str(_mapping(one, "metadata").get("name")): _name(one)
            for one in documents
            if one.get("kind") in _WORKLOADS
        }
        server = next((s for s in servers if s.name == names.get(target)), None)
        if server is None:
            continue
        scaling = _scaling(spec)
        if scaling is not None:
            server.autoscaling = scaling | {"initial": server.replicas}
            server.replicas = None
        elif lenient:
            server.notes.append(f"ignored, although it cannot be simulated: autoscaler of {target}")
        else:
            raise UserError(
                f"the metric that scales {target} is neither of waiting requests nor of those in "
                "flight",
                where=where,
                hint=f"name it {' or '.join(METRICS.values())}, or use --lenient to keep replicas",
            )


def _scaling(spec: dict[str, Any]) -> dict[str, Any] | None:
    """A scenario's autoscaling; None where the metric is not one of requests."""
    metrics = _items(spec, "metrics")
    pods = _mapping(metrics[0], "pods") if len(metrics) == 1 else {}
    name = str(_mapping(pods, "metric").get("name"))
    kinds = {
        "queue": r"requests?_waiting|queue_reqs",
        "concurrency": r"in_flight|concurren",
    }
    kind = next((kind for kind, words in kinds.items() if re.search(words, name)), None)
    value = re.fullmatch(r"(\d+(?:\.\d+)?)(m?)", str(_mapping(pods, "target").get("averageValue")))
    if kind is None or value is None:
        return None
    made: dict[str, Any] = {
        "kind": kind,
        "target": float(value[1]) / (1000 if value[2] else 1),
        "min": spec.get("minReplicas", 1),
        "max": spec.get("maxReplicas"),
    }
    for key, part in (("up_window_s", "scaleUp"), ("down_window_s", "scaleDown")):
        window = _mapping(spec, "behavior", part).get("stabilizationWindowSeconds")
        if window is not None:
            made[key] = number(window, f"behavior.{part}")
    return made
