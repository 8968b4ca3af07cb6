"""What a writer makes of a pool: arguments, files, and what could not be said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulator.launch.checkpoints import Checkpoint
from simulator.resolution.pools import ResolvedPool
from simulator.scenario.dump import compact
from simulator.scenario.scenario import Scenario


@dataclass(slots=True)
class Written:
    """A server's command.

    Args:
        command: the program, as a list of words.
        arguments: its arguments, a list of words each.
        checkpoint: what it serves.
        said: fields of the scenario that arguments express, and their own fields.
        told: fields that no argument expresses, with the reason.
        notes: what else a user has to know.
        by_hand: what whoever starts the script has to do.
        options: name and content of a file of options beside the command; empty: none.
    """

    command: list[str]
    checkpoint: Checkpoint
    arguments: list[list[str]] = field(default_factory=list)
    said: set[str] = field(default_factory=set)
    told: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    by_hand: list[str] = field(default_factory=list)
    options: tuple[str, dict[str, Any]] | None = None

    def add(self, name: str, *values: object, says: str | tuple[str, ...] = ()) -> None:
        """An argument with its values, and the fields that it expresses."""
        self.arguments.append([name, *(str(value) for value in values)])
        self.say(says)

    def say(self, fields: str | tuple[str, ...]) -> None:
        """Fields that need no argument of their own."""
        self.said.update([fields] if isinstance(fields, str) else fields)

    def tell(self, path: str, reason: str) -> None:
        """A field that no argument expresses."""
        self.told[path] = reason


Writer = Callable[[ResolvedPool, str, Path | None], Written]
"""Writes a pool, given the name of its files and the folder that relative paths start from."""

_ELSEWHERE = (
    "engine.profile", "engine.version", "engine.random_prompts", "hardware.profile",
    "hardware.memory_gib",
)  # fmt: skip
"""Said by the choice of the program, its image and the node, or facts about the traffic."""

_REASONS = {
    "engine.speculative": "which drafts are accepted follows from the traffic and the draft",
    "engine.speculative.vocab": "the head's checkpoint has it",
    "engine.speculative.weights": "the head's checkpoint has it",
    "engine.kernels": "kernels to compare with; the engine chooses its own",
    "engine.preemption": "the engine computes preempted sequences anew",
    "hardware": "describes the machines",
    "deployment.router": "a Service spreads connections; other ways need a gateway or router",
    "deployment.cold_start": "describes the machines",
    "deployment.failures": "describes what happens to replicas",
    "deployment.spot": "describes what happens to replicas",
    "deployment.network_ms": "describes the network",
    "deployment.transfer": "the connector moves the KV cache its own way",
    "deployment.timeout_s": "set in the clients",
    "deployment.retry": "set in the clients or the gateway",
    "deployment.gateway": "needs a gateway in front of the servers",
    "deployment.admission": "needs a gateway in front of the servers",
    "deployment.oversized_requests": "the server refuses what is too long",
    "pool.classes": "needs a gateway that tells the classes apart",
    "pool.weight": "needs a gateway that weighs pools",
    "pool.shares": "two servers on one device need time slicing or MPS",
}
"""Why, by the field or what it belongs to."""

_NOT_SERVING = {
    "replicas", "autoscaling", "pools", "name", "role", "model", "hardware", "engine", "precision",
    "parallelism", "usd_per_device_hour", "cold_start", "failures", "spot",
}  # fmt: skip


def left_out(pool: ResolvedPool, scenario: Scenario, written: Written) -> dict[str, str]:
    """Every field that was set and that nothing in the files expresses, with the reason.

    Args:
        pool: resolved.
        scenario: the whole one, for what its pool adds.
        written: what its writer made of it.
    """
    own = pool.deployment.scenario
    paths = [
        path
        for key in ("engine", "precision", "parallelism", "hardware", "deployment")
        for path in _leaves(compact(getattr(own, key)), key)
        if path.split(".")[1] not in ("replicas", "autoscaling", "pools")
    ]
    for asked in scenario.deployment.pools:
        if asked.name == pool.name:
            extra = {k: v for k, v in compact(asked).items() if k not in _NOT_SERVING}
            paths += [f"pool.{key}" for key in extra]
    found = dict(written.told)
    for path in paths:
        if not any(_covers(known, path) for known in (*written.said, *_ELSEWHERE, *found)):
            found[path] = _reason(path)
    return found


def _leaves(value: Any, at: str) -> Iterator[str]:
    """Paths of what is set below ``at``; a choice of a kind is one, but for drafts."""
    whole = isinstance(value, dict) and "kind" in value and at != "engine.speculative"
    if isinstance(value, dict) and not whole:
        for key, item in value.items():
            if key != "kind":
                yield from _leaves(item, f"{at}.{key}")
    else:
        yield at


def _covers(known: str, path: str) -> bool:
    return path == known or path.startswith(f"{known}.")


def _reason(path: str) -> str:
    while path:
        if path in _REASONS:
            return _REASONS[path]
        path = path.rpartition(".")[0]
    return "no argument of the engine says this"
