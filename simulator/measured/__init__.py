from simulator.measured.reading import read_measurements
from simulator.measured.runs import Load, MeasuredRun, Records

__all__ = ["Load", "MeasuredRun", "Records", "read_measurements"]
