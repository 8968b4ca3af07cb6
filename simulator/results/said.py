"""What a summary says of the run as titles and sentences, for every kind of report."""

from __future__ import annotations

from typing import Any

from simulator.results.origins import origin_words, overheads_words
from simulator.results.phrases import (
    counted_line,
    engine_line,
    hardware_line,
    model_line,
    slo_lines,
    traffic_line,
)
from simulator.results.pool_phrases import pool_lines

Summary = dict[str, Any]
Lines = list[tuple[str, str]]


def run_lines(summary: Summary) -> dict[str, Lines]:
    """What was simulated, where its figures come from, and how the SLO went.

    Args:
        summary: of a run.

    Returns:
        ``simulated`` and ``sources``: titles and sentences; ``slo``: the same by class of traffic,
        empty where no limit is given.
    """
    return {
        "simulated": simulated_lines(summary),
        "sources": source_lines(summary),
        "slo": [("SLO", line) for line in slo_lines(summary)],
    }


def simulated_lines(summary: Summary) -> Lines:
    """Model, hardware, engine and traffic after all defaults, and which requests count."""
    return [
        ("Model", model_line(summary)),
        ("Hardware", hardware_line(summary)),
        ("Engine", engine_line(summary)),
        ("Traffic", traffic_line(summary)),
        ("Counted", counted_line(summary)),
        *pool_lines(summary),
    ]


def source_lines(summary: Summary) -> Lines:
    """Where the figures of model, kernels, power and engine come from, pool by pool."""
    simulated = summary["simulated"]
    pools = simulated["pools"]
    lines = [line for name, pool in pools.items() for line in _sources_of(pool, f"{name}: ")]
    return lines or _sources_of(simulated, "")


def _sources_of(machine: Summary, prefix: str) -> Lines:
    hardware, engine = machine["hardware"], machine["engine"]
    fitted = overheads_words(engine["fitted"])
    lines = [
        ("Model", machine["model"]["source"]),
        ("Kernels", origin_words(hardware["efficiency"])),
        ("Power", origin_words(hardware["power"])),
        ("Engine", f"{engine['title']} {engine['version']}: overheads are {fitted}"),
    ]
    return [(prefix + title, text) for title, text in lines]
