from simulator.measured.reading import client_of, read_measurements
from simulator.measured.runs import Lengths, Load, MeasuredRun, Records

__all__ = ["Lengths", "Load", "MeasuredRun", "Records", "client_of", "read_measurements"]
