"""How much of each prompt a prefix cache could hold at best."""

from __future__ import annotations

import numpy as np

from simulator.workload.requests import Ints, Requests


def cacheable(requests: Requests) -> Ints:
    """Leading tokens of each prompt that may have been computed for another request, whatever the
    order of both; at least one token is always computed. Shape (rows,)."""
    found = np.zeros(len(requests), dtype=np.int64)
    prefixes = requests.prefixes
    if prefixes is None or not len(prefixes.end):
        return found
    counts = np.diff(prefixes.offsets)
    row = np.repeat(np.arange(len(requests)), counts)
    owner = row if requests.answers is None else requests.answers.lead[row]
    reach = prefixes.end.copy()
    last = prefixes.offsets[1:][counts > 0] - 1
    goes_on = prefixes.continues[counts > 0]
    reach[last[goes_on]] += requests.output_tokens[counts > 0][goes_on]
    # Of each text the farthest reach of any request, and the farthest of any other one.
    order = np.lexsort((-reach, prefixes.stream))
    stream, holder, far = prefixes.stream[order], owner[order], reach[order]
    begins = np.flatnonzero(np.concatenate([[True], stream[1:] != stream[:-1]]))
    group = np.cumsum(np.concatenate([[False], stream[1:] != stream[:-1]]))
    first, farthest = holder[begins], far[begins]
    others = np.where(holder == first[group], 0, far)
    second = np.maximum.reduceat(others, begins)
    mine = np.where(holder == first[group], second[group], farthest[group])
    shared = np.minimum(prefixes.end[order], mine)
    np.maximum.at(found, row[order], shared)
    return np.minimum(found, requests.input_tokens - 1)
