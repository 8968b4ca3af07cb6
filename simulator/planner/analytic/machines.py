"""What works on one thing at a time in a deployment, and how long requests need it at least."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from simulator.costs.burden import burdens
from simulator.planner.analytic.alone import AloneTimes
from simulator.workload.requests import Floats


@dataclass(frozen=True)
class Machine:
    """The devices of a replica, one kind of its stages, or its front end.

    Args:
        pool: number of the pool whose replicas have one each.
        first_s: seconds of each request up to its first token. Shape (requests,).
        whole_s: seconds of all of it.
        token_s: seconds of any output token after the first of an answer.
        at_first: most requests on a replica that have their first token and have not ended; None
            where no such number is known.
        under_way: most requests that a replica has begun and not ended; None where it is not known.
    """

    pool: int
    first_s: Floats
    whole_s: Floats
    token_s: float
    at_first: int | None
    under_way: int | None


def machines_of(alone: AloneTimes, pool: int) -> Iterator[Machine]:
    """Those of a pool, by its role."""
    traffic, role = alone.traffic, alone.pool.role
    requests, starts = traffic.requests, traffic.places
    prompt = requests.input_tokens.astype(np.float64)
    past = alone.past.astype(np.float64)
    later = (requests.output_tokens - 1).astype(np.float64)
    if requests.answers is not None:  # further answers to a prompt share it
        past = np.where(requests.answers.leads, past, prompt)
    if role == "prefill":
        later = 0.0 * later
    if role == "decode":
        past = prompt
    ordered = alone.in_order
    for each, work in burdens(alone.least, prompt, past, later):
        first, rest = each.first_s(work), each.later_s(work)
        if role == "decode":
            first = 0.0 * first
        token_s = max(each.later + each.context * (float(prompt.min()) + 1.0), 0.0)
        # What a prefill replica has done says nothing about when the answer ends.
        begun = alone.running if ordered and role != "prefill" else None
        yield Machine(
            pool, first[starts], np.add.reduceat(first + rest, starts),
            token_s if role != "prefill" else 0.0,
            alone.decoding if ordered and role == "serve" else None, begun,
        )  # fmt: skip
    front = alone.pool.resolved.front_end
    if role != "decode" and (front.busy_s or front.busy_s_per_token):
        busy = (front.busy_s + front.busy_s_per_token * prompt[starts]) / alone.least.ranks
        yield Machine(pool, busy, busy, 0.0, None, None)
