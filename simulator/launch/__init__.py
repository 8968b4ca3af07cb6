"""Deployment files: from a scenario to the commands and manifests that start it, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from simulator.errors import UserError

if TYPE_CHECKING:
    from simulator.scenario.scenario import Scenario

__all__ = ["launch_files", "launch_manifest"]

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
