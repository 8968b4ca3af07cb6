"""Real runs in a folder, each in a file of its own, so that what was served is never served again.

Only measurements are kept; predictions are computed anew, and every kept run is replayed anew.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from calibration.engine.serve import DoneStep
from calibration.validate.engine.machine import calibrated_pace
from calibration.validate.engine.steps import steps_of, table_of
from simulator import __version__
from simulator.errors import UserError
from simulator.resolve import Resolved
from simulator.workload.requests import Requests

FOLDER = "runs"


class KeptRuns:
    """Steps of runs by key.

    Args:
        folder: made if it is missing.

    Raises:
        UserError: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot be made: {error.strerror}", where=str(folder)) from None

    def find(self, key: str) -> list[DoneStep] | None:
        """The steps of a run; None if there is none or its file is no good."""
        try:
            return steps_of(pd.read_parquet(self._file(key)))
        except (OSError, ValueError, KeyError):
            return None

    def keep(self, key: str, steps: list[DoneStep]) -> None:
        """Writes a run under a temporary name first, so that it is never half there."""
        file = self._file(key)
        part = file.with_suffix(".part")
        try:
            table_of(steps).to_parquet(part, index=False)
            part.replace(file)
        except OSError as error:
            raise UserError(f"cannot be written: {error.strerror}", where=str(file)) from None

    def _file(self, key: str) -> Path:
        return self.folder / f"{key[:24]}.parquet"


def run_key(
    resolved: Resolved,
    requests: Requests,
    machine: dict[str, object],
    *,
    checkpoint: bool,
    turn: int,
) -> str:
    """Hash of all that a real run depends on, hardware profile left out: it decides nothing but the
    limits and the KV cache, which are in.

    Args:
        resolved: the deployment.
        requests: what is served, at its rate.
        machine: see ``description``.
        checkpoint: whether weights are real.
        turn: number of the round.
    """
    deployment = resolved.deployment
    digest = hashlib.sha256()
    for part in (
        __version__, _code_digest(), repr(deployment.model), deployment.scenario.model,
        repr(deployment.limits), repr(deployment.precision), repr(resolved.layout),
        repr(deployment.scenario.measurement.seed), repr(checkpoint), repr(turn),
        repr(calibrated_pace(resolved, str(machine["device"]))),
        repr([machine.get(key) for key in ("device", "kernels", "torch", "triton", "cuda",
                                         "repeats")]),
    ):  # fmt: skip
        digest.update(part.encode() + b"\0")
    prefixes = requests.prefixes
    shared = () if prefixes is None else (prefixes.offsets, prefixes.stream, prefixes.end)
    for column in (
        requests.arrival_s, requests.input_tokens, requests.output_tokens, requests.parent,
        requests.pool, np.array(requests.pool_concurrency), *shared,
    ):  # fmt: skip
        digest.update(np.ascontiguousarray(column).tobytes() + b"\0")
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _code_digest() -> str:
    """Of the programs that plan and compute steps."""
    import calibration.engine
    import calibration.kernels
    import simulator.cluster.clients
    import simulator.serving

    digest = hashlib.sha256()
    files = [Path(str(simulator.cluster.clients.__file__))]
    for package in (calibration.engine, calibration.kernels, simulator.serving):
        files += sorted(Path(str(package.__path__[0])).rglob("*.py"))
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
