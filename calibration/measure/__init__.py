"""Measures this machine with the micro-engine: ceilings, operators, steps."""
