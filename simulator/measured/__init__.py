from simulator.measured.reading import read_measurements
from simulator.measured.runs import Lengths, Load, MeasuredRun, Records

__all__ = ["Lengths", "Load", "MeasuredRun", "Records", "read_measurements"]
