"""Measures this machine with the micro-engine: ceilings, operators, steps (``simulate calibrate``)."""
