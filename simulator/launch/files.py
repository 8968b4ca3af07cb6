"""The files of a deployment: a script for each pool, its options, a manifest."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulator.engines import load_engine
from simulator.errors import ScenarioError, UserError
from simulator.launch.sglang import write_sglang
from simulator.launch.tensorrt_llm import write_tensorrt_llm
from simulator.launch.vllm import write_vllm
from simulator.launch.written import Writer, Written, left_out
from simulator.resolution.pools import ResolvedPool, resolve_pools
from simulator.scenario.engine import EngineChoice
from simulator.scenario.scenario import Scenario
from simulator.yamlio import dump_yaml

WRITERS: dict[str, Writer] = {
    "vllm": write_vllm,
    "sglang": write_sglang,
    "tensorrt-llm": write_tensorrt_llm,
}
"""Engines whose arguments are known."""


@dataclass(frozen=True, slots=True)
class Server:
    """A pool and the command of its replicas.

    Args:
        pool: resolved.
        name: of its files and, in a cluster, of its objects.
        written: its command.
        told: what nothing in the files expresses, with the reason.
        nodes: machines that one replica takes.
    """

    pool: ResolvedPool
    name: str
    written: Written
    told: Mapping[str, str]
    nodes: int

    @property
    def engine(self) -> str:
        """Name of its engine profile."""
        return self.pool.deployment.engine.name


def servers_of(scenario: Scenario, base: Path | None, engine: str | None) -> list[Server]:
    """Every pool with its command.

    Raises:
        UserError: the scenario does not resolve, its engine's arguments are not known, or the
            engine cannot run it at all.
    """
    if engine is not None:
        scenario = _for_engine(scenario, engine, base)
    servers: list[Server] = []
    for number, pool in enumerate(resolve_pools(scenario, base)):
        deployment = pool.deployment
        writer = WRITERS.get(deployment.engine.name)
        if writer is None:
            raise ScenarioError(
                f"no launch arguments are known for {deployment.engine.title}",
                where="engine.profile",
                hint=f"name the engine to write them for: {', '.join(WRITERS)}",
            )
        if deployment.layout.fsdp > 1:
            raise ScenarioError(
                "no serving engine gathers weights from other replicas layer by layer",
                where="parallelism.fsdp",
                hint="use parallelism.tp or pp to split weights",
            )
        single = not scenario.deployment.pools
        name = "serve" if single else _unique(pool.name, [server.name for server in servers])
        try:
            written = writer(pool, name, base)
        except UserError as error:
            if not single and not error.where.startswith("deployment"):
                error.where = f"deployment.pools.{number}.{error.where}"
            raise
        nodes = -(-deployment.devices_per_replica // deployment.hardware.node.devices)
        if nodes > 1:
            _over_nodes(written, deployment.engine.name, nodes)
        told = left_out(pool, scenario, written)
        servers.append(Server(pool, name, written, told, nodes))
    return servers


def _for_engine(scenario: Scenario, engine: str, base: Path | None) -> Scenario:
    """The scenario with another engine; settings that it names stay, defaults are the engine's."""
    name = load_engine(engine).name

    def other(choice: EngineChoice) -> EngineChoice:
        if load_engine(choice.profile, base).name == name:
            return choice
        return choice.model_copy(update={"profile": name, "version": None})

    pools = tuple(
        pool.model_copy(update={"engine": other(pool.engine)}) if pool.engine else pool
        for pool in scenario.deployment.pools
    )
    return scenario.model_copy(
        update={
            "engine": other(scenario.engine),
            "deployment": scenario.deployment.model_copy(update={"pools": pools}),
        }
    )


def _unique(pool: str, taken: Sequence[str]) -> str:
    """A name of small letters, digits and hyphens, as clusters want it."""
    plain = f"serve-{slug(pool)}"
    number, name = 1, plain
    while name in taken:
        number += 1
        name = f"{plain}-{number}"
    return name


def slug(text: str) -> str:
    """``text`` in small letters, digits and single hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


def _over_nodes(written: Written, engine: str, nodes: int) -> None:
    match engine:
        case "vllm":
            written.add("--nnodes", nodes)
            written.add("--node-rank", "$NODE_RANK")
            written.add("--master-addr", "$LEADER_ADDRESS")
        case "sglang":
            written.add("--nnodes", nodes)
            written.add("--node-rank", "$NODE_RANK")
            written.add("--dist-init-addr", "$LEADER_ADDRESS:20000")
        case _:
            written.by_hand.append(f"a replica takes {nodes} nodes: start it under mpirun")
            return
    written.by_hand.append(
        f"a replica takes {nodes} nodes: start it on each, with NODE_RANK from 0 and the address "
        "of the first as LEADER_ADDRESS" + ("; add --headless on all others" * (engine == "vllm"))
    )


def comments(server: Server, scenario: Scenario) -> list[str]:
    """What stands above a pool's command: what it is, its memory, and what it leaves out."""
    pool, deployment = server.pool, server.pool.deployment
    memory, engine = deployment.memory, deployment.engine
    each = deployment.devices_per_replica
    role = f", role {pool.role}" if pool.role != "serve" else ""
    title = scenario.name if pool.name == "default" else f"{scenario.name}, pool {pool.name}{role}"
    lines = [
        f"{title}: {engine.title} {engine.version}, {_replicas(pool)} on {each} × "
        f"{deployment.hardware.title}{' each' if pool.most > 1 else ''}",
        f"memory of a device: {memory.device_gib:.1f} GiB = {memory.weights_gib:.1f} weights + "
        f"{memory.activations_gib:.1f} activations + {memory.reserved_gib:.1f} reserved + "
        f"{memory.kv_cache_gib:.1f} KV cache + {memory.unused_gib:.1f} unused",
        f"KV cache of a replica: {_blocks(memory.kv_blocks, deployment.limits.block_size)}",
    ]
    if server.written.checkpoint.placeholder:
        lines.append(f"no checkpoint is known: put one in for {server.written.checkpoint.model}")
    lines += server.written.notes
    lines += [f"not expressible: {path}: {reason}" for path, reason in server.told.items()]
    # A line break in a name would end the comment, and the shell run what follows.
    return [re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]+", " ", line) for line in lines]


def _blocks(blocks: int, size: int) -> str:
    return f"{blocks:,} blocks of {size} tokens" if size > 1 else f"{blocks:,} tokens"


def _replicas(pool: ResolvedPool) -> str:
    if pool.life and pool.life.scaling:
        scaling = pool.life.scaling
        return f"{getattr(scaling, 'min', 0)} to {scaling.most} replicas"
    return f"{pool.replicas} replica{'s' if pool.replicas > 1 else ''}"


def script(server: Server, scenario: Scenario) -> str:
    """A shell script that becomes one replica of the pool."""
    above = [*comments(server, scenario), *server.written.by_hand]
    lines = ["#!/bin/sh", *(f"# {line}" for line in above)]
    if server.pool.life and server.pool.life.scaling:
        lines.append("# not expressible: deployment.autoscaling: a script starts one replica")
    command = server.written.command
    words = [
        " ".join(_quoted(word) for word in argument)
        for argument in [["exec", *command], *server.written.arguments]
    ]
    return "\n".join(lines) + "\n" + " \\\n  ".join(words) + "\n"


def _quoted(word: str) -> str:
    """As the shell wants it; variables are left to it."""
    return f'"{word}"' if re.fullmatch(r"\$[A-Z_]+(:\d+)?", word) else shlex.quote(word)


def engine_files(servers: Sequence[Server], scenario: Scenario) -> dict[str, str]:
    """Scripts and options by file name."""
    made: dict[str, str] = {}
    for server in servers:
        made[f"{server.name}.sh"] = script(server, scenario)
        if server.written.options:
            name, options = server.written.options
            made[name] = dump_yaml(options, older=True)
    before = disaggregated(servers, {server.name: f"{server.name}:8000" for server in servers})
    if before:
        made["disaggregated.yaml"] = dump_yaml(before, older=True)
    return made


def disaggregated(servers: Sequence[Server], urls: Mapping[str, str]) -> dict[str, Any] | None:
    """Configuration of ``trtllm-serve disaggregated``; None where it is not needed."""
    if not any(s.pool.role != "serve" and s.engine == "tensorrt-llm" for s in servers):
        return None

    def of(role: str) -> dict[str, Any]:
        found = [urls[server.name] for server in servers if server.pool.role == role]
        return {"num_instances": len(found), "urls": found}

    return {
        "hostname": "0.0.0.0",
        "port": 8000,
        "context_servers": of("prefill"),
        "generation_servers": of("decode"),
    }
