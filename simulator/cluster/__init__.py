"""Replicas, routing and clients on a simpy clock."""

from simulator.cluster.replica import FrontEndTimes
from simulator.cluster.run import Progress, run_cluster

__all__ = ["FrontEndTimes", "Progress", "run_cluster"]
