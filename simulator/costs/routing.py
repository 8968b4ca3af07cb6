"""How the tokens of a step spread over the experts of a layer, and what that costs.

Experts differ in popularity: the logarithm of an expert's share of the tokens is uniform between
the least and the most popular one (a power law with exponent 1), who are a factor ``skew`` apart.
Kernel tables are most exact where every expert gets the same. From there:

- Experts that no token reaches are not read. With D of E reached, a layer takes what one takes in
  which D experts get one token each, times what the loads of those reached cost over one token.
- Their work adds up: a layer takes the mean, over experts, of what it would take if all got what
  that one gets. Time is flat until the weights are read and then rises: unequal loads take longer.
- A kernel's tile is chosen for the mean load, so popular experts need several, each of which reads
  and widens the weights again: ``tiling`` says how much of that is felt.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from simulator.workload.requests import Floats

POINTS = 16
"""Ranks of popularity that stand for all experts."""

TILES = (8.0, 64.0)
"""Rows of the smallest and the largest tile; powers of two in between."""


def loads(tokens: Floats, experts: Floats | float, top_k: Floats | float, skew: Floats) -> Floats:
    """Expected tokens of experts at equidistant ranks of popularity, (steps, ``POINTS``); none gets
    more than all. Each token takes ``top_k`` of ``experts``."""
    ranks = (np.arange(POINTS) + 0.5) / POINTS
    shares = skew[:, None] ** ranks
    shares /= shares.mean(axis=1, keepdims=True)
    return dealt(tokens, tokens * top_k / experts, shares)


def dealt(tokens: Floats, mean: Floats, shares: Floats) -> Floats:
    """Tokens of experts that get ``mean`` on average, by their ``shares`` of popularity over the
    mean, (steps or 1, ``POINTS``); none gets more than all."""
    capped = np.minimum(mean[:, None] * shares, tokens[:, None])
    scaled: Floats = capped * (mean / capped.mean(axis=1))[:, None]
    return np.minimum(scaled, tokens[:, None])


def drawn(load: Floats, tokens: Floats) -> Floats:
    """How likely experts with this expected load are to get any token, drawn one by one."""
    reached: Floats = 1.0 - (1.0 - load / tokens[:, None]) ** tokens[:, None]
    return reached


def seconds(
    balanced: Callable[[Floats], Floats], load: Floats, reached: Floats, tiling: float
) -> Floats:
    """Duration of a layer, (steps,).

    Args:
        balanced: how long it takes if all experts get so many tokens; below one, if that share of
            them gets one token. Takes (steps, any) and gives the same.
        load: tokens of experts, (steps, ``POINTS``).
        reached: how likely these get any, likewise.
        tiling: what further tiles cost, as a share of the first one's time.
    """
    share = reached.mean(axis=1, keepdims=True)
    each = np.maximum(load / reached, 1.0)
    busy = (reached * balanced(each)).mean(axis=1, keepdims=True) / share
    mixed = balanced(share) * busy / balanced(np.ones_like(share))
    taken: Floats = mixed * (1.0 + tiling * (passes(load, reached, each) - 1.0))
    return taken[:, 0]


def passes(load: Floats, reached: Floats, each: Floats) -> Floats:
    """Tiles over those of an equal load, (steps, 1)."""
    share = reached.mean(axis=1, keepdims=True)
    mean = np.maximum(load.mean(axis=1, keepdims=True) / share, 1.0)
    tile = np.clip(2.0 ** np.ceil(np.log2(mean) - 1e-9), *TILES)
    tiles = (reached * np.ceil(each / tile - 1e-9)).mean(axis=1, keepdims=True) / share
    more: Floats = tiles / np.maximum(1.0, mean / tile)
    return more


def work(
    tokens: Floats,
    reached: Floats,
    *,
    top_k: Floats | float,
    hidden: Floats | float,
    width: Floats | float,
    matrices: int,
    weight_bytes: float,
    input_bytes: float,
) -> tuple[Floats, Floats]:
    """Bytes and FLOPs of a layer whose tokens reach so many experts. Weights of an expert are read
    once; a token's inputs are read, and what its ``top_k`` experts hand on is written and read."""
    routed = tokens * top_k
    weights = reached * (hidden * width * matrices * weight_bytes)
    activations = tokens * hidden * input_bytes + routed * hidden * 2.0
    activations = activations + routed * width * (2.0 * (matrices - 1) + input_bytes)
    return weights + activations, 2.0 * routed * hidden * width * matrices
