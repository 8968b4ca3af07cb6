"""The simulated deployment live: requests come one by one, on a clock that somebody else moves."""

from simulator.live.deployment import LiveDeployment, ReplicaState
from simulator.live.ending import Beginning, Ending
from simulator.live.faults import ReplicaFaults
from simulator.live.schedule import (
    CrashedReplica,
    CutAnswer,
    FaultSchedule,
    RequestError,
    SlowReplica,
    StalledAnswer,
    load_faults,
)
from simulator.live.tokens import Listener
from simulator.workload.growing import Asked

__all__ = [
    "Asked",
    "Beginning",
    "CrashedReplica",
    "CutAnswer",
    "Ending",
    "FaultSchedule",
    "Listener",
    "LiveDeployment",
    "ReplicaFaults",
    "ReplicaState",
    "RequestError",
    "SlowReplica",
    "StalledAnswer",
    "load_faults",
]
