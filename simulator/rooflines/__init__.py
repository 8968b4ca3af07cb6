from simulator.rooflines.figures import BatchSweep, Roof, Roofline, RooflineStep, StepOperator
from simulator.rooflines.find import roofline

__all__ = ["BatchSweep", "Roof", "Roofline", "RooflineStep", "StepOperator", "roofline"]
