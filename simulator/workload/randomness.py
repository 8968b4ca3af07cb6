"""One random generator for each thing that is drawn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Generators(NamedTuple):
    """Independent generators, one a purpose, so that a change of one distribution leaves the draws
    of all others as they were (common random numbers): two scenarios that differ only in their
    output lengths see the same arrivals and the same prompts."""

    arrivals: np.random.Generator
    input: np.random.Generator
    output: np.random.Generator
    prefix: np.random.Generator
    pause: np.random.Generator
    turns: np.random.Generator
    reasoning: np.random.Generator
    stop: np.random.Generator
    samples: np.random.Generator


def spawn_generators(rng: np.random.Generator) -> Generators:
    """Children of ``rng``. A new purpose goes to the end, which leaves the earlier ones as is."""
    return Generators(*rng.spawn(len(Generators._fields)))
