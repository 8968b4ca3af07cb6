"""Which adapter each request asks for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simulator.scenario.lora import Adapters
from simulator.workload.requests import Ints, PrefixStreams, Requests


def assigned(requests: Requests, adapters: Adapters, rng: np.random.Generator) -> Requests:
    """Requests with an adapter each, -1 for the plain model. All turns of a session and all answers
    to a prompt have the same one; texts under different adapters are different texts, since their
    keys and values are."""
    n = len(requests)
    speaker = np.arange(n) if requests.answers is None else requests.answers.lead
    in_session = requests.session >= 0
    speaker = np.where(in_session, n + requests.session, speaker)
    names, who = np.unique(speaker, return_inverse=True)
    drawn = rng.random((2, len(names)))
    weights = np.arange(1, adapters.count + 1, dtype=np.float64) ** -adapters.zipf
    cumulative = np.cumsum(weights) / weights.sum()
    chosen = np.searchsorted(cumulative, drawn[0], side="right").clip(max=adapters.count - 1)
    chosen = np.where(drawn[1] < adapters.share, chosen, -1)[who].astype(np.int64)
    return replace(
        requests,
        adapters=chosen,
        adapter_ranks=(adapters.rank,) * adapters.count,
        prefixes=_apart(requests.prefixes, chosen, adapters.count),
    )


def _apart(prefixes: PrefixStreams | None, chosen: Ints, count: int) -> PrefixStreams | None:
    if prefixes is None:
        return None
    owner = np.repeat(chosen, np.diff(prefixes.offsets)) + 1
    both = prefixes.stream * (count + 1) + owner
    return replace(prefixes, stream=np.unique(both, return_inverse=True)[1].astype(np.int64))
