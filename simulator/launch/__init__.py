"""Deployment files: from a scenario to the commands and manifests that start it, and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simulator.errors import UserError

if TYPE_CHECKING:
    from simulator.scenario.scenario import Scenario

__all__ = ["ReadLaunch", "launch_files", "launch_manifest", "read_launch"]

MANIFEST = "kubernetes.yaml"
"""File name of the manifest."""


def launch_files(
    scenario: Scenario, base: Path | None = None, engine: str | None = None
) -> dict[str, str]:
    """Everything that starts the deployment of a scenario, by file name.

    A script ``serve.sh`` (``serve-POOL.sh`` for each of several pools) holds the engine's
    arguments, with the memory that they take and what they cannot express as comments at its top;
    TensorRT-LLM's options lie beside it. ``kubernetes.yaml`` starts all replicas of all pools; it
    is left out, and a comment says why, where a cluster could not.

    Args:
        scenario: with one of the engines vLLM, SGLang and TensorRT-LLM.
        base: folder that relative paths in it start from; default: the current one.
        engine: another engine to write for, with the scenario's settings and its own defaults.

    Raises:
        UserError: the scenario is wrong or does not fit, or the engine's arguments are not known.
    """
    from simulator.launch.files import engine_files, servers_of
    from simulator.launch.kubernetes import manifest

    servers = servers_of(scenario, base, engine)
    try:
        objects = {MANIFEST: manifest(servers, scenario)}
    except UserError as error:
        objects = {}
        for server in servers:
            server.written.notes.append(f"not expressible: a Kubernetes manifest: {error.what}")
    return engine_files(servers, scenario) | objects


def launch_manifest(scenario: Scenario, base: Path | None = None, engine: str | None = None) -> str:
    """The Kubernetes manifest alone. Arguments as of `launch_files`.

    Raises:
        UserError: as `launch_files`, and where no cluster could start it.
    """
    from simulator.launch.files import servers_of
    from simulator.launch.kubernetes import manifest

    return manifest(servers_of(scenario, base, engine), scenario)


@dataclass(frozen=True, slots=True)
class ReadLaunch:
    """A scenario that was read of launch commands, and what was left out or assumed for it."""

    scenario: Scenario
    notes: tuple[str, ...]


def read_launch(
    text: str,
    *,
    base: Scenario | None = None,
    workload: Scenario | None = None,
    hardware: str | None = None,
    model: str | None = None,
    replicas: int | None = None,
    acceptance: float | None = None,
    lenient: bool = False,
    folder: Path | None = None,
    name: str = "",
) -> ReadLaunch:
    """The deployment that a launch command, a script or a Kubernetes manifest starts.

    Args:
        text: a command line, a shell script, or YAML documents.
        base: a scenario that says everything else: devices, traffic, prices.
        workload: a scenario that says the traffic and its SLO.
        hardware: profile of the devices; default: as the manifest's node labels or ``base`` say.
        model: preset or config.json to take for what is served.
        replicas: how many, where the text does not say.
        acceptance: probability that a drafted token is accepted.
        lenient: arguments that are unknown or cannot be simulated are noted instead of refused.
        folder: where files that a command names lie; default: the current folder.
        name: of the text, in errors.

    Raises:
        UserError: one sentence about what cannot be read or is missing.
    """
    from simulator.launch.assemble import Rest, assemble
    from simulator.launch.commands import files_in, read_command
    from simulator.launch.objects import is_manifest, read_manifest
    from simulator.launch.shell import read_shell

    if is_manifest(text):
        servers = read_manifest(text, name or "manifest", model=model, lenient=lenient)
    else:
        commands = read_shell(text, name)
        if len(commands) != 1:
            found = f"{len(commands)} commands start" if commands else "no command starts"
            raise UserError(
                f"{found} vLLM, SGLang or TensorRT-LLM",
                where=name,
                hint="several servers are read from a Kubernetes manifest" if commands
                else "write `vllm serve MODEL …`, `python -m sglang.launch_server …` or "
                "`trtllm-serve MODEL …`",
            )  # fmt: skip
        servers = [read_command(commands[0], files_in(folder), model=model, lenient=lenient)]
        servers[0].name = servers[0].role
    rest = Rest(base, workload, hardware, replicas, acceptance)
    scenario, notes = assemble(servers, rest)
    return ReadLaunch(scenario, tuple(dict.fromkeys(notes)))
