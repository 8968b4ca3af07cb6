"""Metrics of a deployment, the same from a live server and from a simulation."""

from simulator.monitoring.exposition import OPENMETRICS, TEXT
from simulator.monitoring.families import FAMILIES, LATENESS, OUTCOMES, REASONS, Family
from simulator.monitoring.fleet import Fleet
from simulator.monitoring.meters import Presence, Work
from simulator.monitoring.pending import PendingSteps
from simulator.monitoring.snapshot import Catalogue, Gauges, Snapshot, take
from simulator.monitoring.tally import Begun, Ended, Tally

__all__ = [
    "FAMILIES",
    "LATENESS",
    "OPENMETRICS",
    "OUTCOMES",
    "REASONS",
    "TEXT",
    "Begun",
    "Catalogue",
    "Ended",
    "Family",
    "Fleet",
    "Gauges",
    "PendingSteps",
    "Presence",
    "Snapshot",
    "Tally",
    "Work",
    "take",
]
