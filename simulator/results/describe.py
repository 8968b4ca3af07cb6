"""What was simulated, as data for every kind of report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simulator.deployment import MemoryBudget, ResolvedDeployment
from simulator.hardware.efficiency import Provenance
from simulator.results.fleet import Member
from simulator.results.record import RunRecord
from simulator.scenario.base import Model
from simulator.workload.requests import OPEN_LOOP, ROOT, Requests


def simulated_section(
    deployment: ResolvedDeployment, members: Sequence[Member], record: RunRecord
) -> dict[str, Any]:
    """Model, hardware, engine, traffic and routing after all defaults. Where there are several
    pools, model, hardware and engine are the first one's, and ``pools`` has those of each."""
    requests = record.requests
    scenario = deployment.scenario
    serving = scenario.deployment
    replicas = sum(group.replicas for group in record.groups)
    first = _machine(members[0].deployment)
    counts = [m.deployment.devices_per_replica * g.replicas
              for m, g in zip(members, record.groups, strict=True)]  # fmt: skip
    own = [n for n, g in zip(counts, record.groups, strict=True) if not g.shares]
    first["hardware"] |= {"devices": sum(own), "replicas": replicas}
    pools = {
        group.name: {
            "role": group.role,
            "replicas": group.replicas,
            "devices": devices,
            "shares": group.shares or None,
            **_machine(member.deployment),
        }
        for member, group, devices in zip(members, record.groups, counts, strict=True)
    }
    return {
        **first,
        "pools": pools if len(pools) > 1 else {},
        "traffic": {
            "source": requests.source,
            "loop": _loop(requests),
            "concurrency": sum(requests.pool_concurrency) or None,
            "classes": list(requests.classes),
            "input_tokens_mean": _mean(requests.input_tokens.sum(), len(requests)),
            "output_tokens_mean": _mean(requests.output_tokens.sum(), len(requests)),
        },
        "router": serving.router.kind if replicas > 1 else None,
        "timeout_s": serving.timeout_s,
        "network_ms": serving.network_ms,
        "seed": scenario.measurement.seed,
    }


def _machine(deployment: ResolvedDeployment) -> dict[str, Any]:
    """Model, hardware, engine and memory of one replica."""
    from simulator.models.counting import active_parameters, kv_bytes_per_token, parameters

    model, hardware, engine = deployment.model, deployment.hardware, deployment.engine
    precision, limits = deployment.precision, deployment.limits
    speculative = deployment.scenario.engine.speculative
    return {
        "model": {
            "name": model.name,
            "parameters": parameters(model),
            "active_parameters": active_parameters(model),
            "layers": model.layers,
            "weights": precision.weights,
            "activations": precision.activations,
            "kv_cache": precision.kv_cache,
            "kv_bytes_per_token": kv_bytes_per_token(model, precision.kv_cache),
            "source": model.source,
        },
        "hardware": {
            "name": hardware.name,
            "title": hardware.title,
            "devices_per_replica": deployment.devices_per_replica,
            "layout": deployment.layout.words,
            "efficiency": _provenance(hardware.efficiency.seen_by(engine.name).provenance),
            "power": _provenance(hardware.power.curve.provenance),
        },
        "engine": {
            "name": engine.name,
            "title": engine.title,
            "version": engine.version,
            "fitted": engine.fitted,
            "policy": _plain(limits.policy),
            "queue": _plain(limits.queue),
            "max_num_seqs": limits.max_num_seqs,
            "max_num_batched_tokens": limits.max_num_batched_tokens,
            "max_model_len": limits.max_model_len,
            "block_tokens": limits.block_size,
            "prefix_caching": limits.prefix_caching,
            "cuda_graphs": limits.cuda_graphs,
            "speculative": None if speculative is None else _plain(speculative),
        },
        "memory_per_device": memory_section(deployment.memory),
    }


def memory_section(memory: MemoryBudget) -> dict[str, Any]:
    """Where the memory of one device goes."""
    return {
        "device_gib": memory.device_gib,
        "weights_gib": memory.weights_gib,
        "beside_gib": memory.beside_gib,
        "activations_gib": memory.activations_gib,
        "reserved_gib": memory.reserved_gib,
        "kv_cache_gib": memory.kv_cache_gib,
        "unused_gib": memory.unused_gib,
        "kv_blocks": memory.kv_blocks,
        "kv_tokens": memory.kv_tokens,
        "rule": memory.rule,
    }


def _loop(requests: Requests) -> str:
    """Whether arrivals wait: ``open`` (none does), ``closed`` (all wait for a user's last answer),
    ``sessions`` (later turns wait), ``mixed``."""
    pooled, follows = requests.pool != OPEN_LOOP, requests.parent != ROOT
    if pooled.any():
        return "closed" if pooled.all() else "mixed"
    return "sessions" if follows.any() else "open"


def _provenance(provenance: Provenance) -> dict[str, Any]:
    return {
        "method": provenance.method,
        "detail": provenance.detail,
        "date": provenance.date.isoformat(),
        "residual_median_pct": dict(provenance.residual_median_pct),
    }


def _plain(model: Model) -> dict[str, Any]:
    return model.model_dump(mode="json")


def _mean(total: float, count: int) -> float | None:
    return float(total) / count if count else None
