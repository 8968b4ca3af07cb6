"""The simulated deployment live: requests come one by one, on a clock that somebody else moves."""

from simulator.live.deployment import LiveDeployment, ReplicaState
from simulator.live.ending import Beginning, Ending
from simulator.live.tokens import Listener
from simulator.workload.growing import Asked

__all__ = ["Asked", "Beginning", "Ending", "Listener", "LiveDeployment", "ReplicaState"]
