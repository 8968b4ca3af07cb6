"""From many deployments to the one to take: sweeps, searches, bounds, explanations.

A search asks for simulations as ``Task``s; a ``Workplace`` has each done once, by whatever backend,
and keeps what came of it.
"""
