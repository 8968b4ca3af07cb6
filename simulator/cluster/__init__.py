"""Replicas, routing and clients on a simpy clock."""

from simulator.cluster.run import Progress, run_cluster, run_groups
from simulator.deployment import FrontEndTimes

__all__ = ["FrontEndTimes", "Progress", "run_cluster", "run_groups"]
