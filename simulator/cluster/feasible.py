"""Finds requests that no replica could ever serve, before the clock starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from simulator.cluster.groups import ReplicaGroup
from simulator.deployment import Limits
from simulator.errors import DoesNotFitError
from simulator.scenario.policies import FullReservationPolicy
from simulator.serving.contiguous import run_tokens
from simulator.serving.kv_cache import KvLayout
from simulator.workload.requests import Requests


def check_groups(
    requests: Requests, groups: Sequence[ReplicaGroup], *, oversized: str
) -> npt.NDArray[np.bool_]:
    """Which requests can never fit into some replica that they may come to. Shape (n,).

    Raises:
        DoesNotFitError: as ``check_requests``.
    """
    bad = np.zeros(len(requests), dtype=np.bool_)
    for group in groups:
        among = None
        if group.classes is not None:
            among = np.array([group.serves(name) for name in requests.classes])[requests.class_id]
        seen = requests
        if group.role == "prefill":  # it stores prompts only
            seen = replace(requests, output_tokens=np.ones_like(requests.output_tokens))
        bad |= check_requests(
            seen, group.limits, group.lane_layout,
            oversized=oversized, among=among, holder=group.holder,
        )  # fmt: skip
    return bad


def check_requests(
    requests: Requests,
    limits: Limits,
    layout: KvLayout,
    *,
    oversized: str,
    among: npt.NDArray[np.bool_] | None = None,
    holder: str = "a replica",
) -> npt.NDArray[np.bool_]:
    """Which requests can never fit. Shape (n,).

    Args:
        oversized: ``error`` or ``reject``.
        among: requests that may come to such a replica; default: all.
        holder: what the KV blocks are of, in words.

    Raises:
        DoesNotFitError: there are such requests and ``oversized`` is ``error``; or the limits
            contradict each other.
    """
    check_limits(limits)
    prompt, output = requests.input_tokens, requests.output_tokens
    total = prompt + output
    too_long = total > limits.max_model_len
    # Blocks grow with length, so the largest request that fits decides for all.
    most_tokens = largest_that_fits(layout, int(total.max(initial=2)))
    too_big = total - 1 > most_tokens
    if layout.reserve:
        runs = run_tokens(layout.reserve, prompt, output, limits.max_model_len)
        too_big = runs > layout.blocks
    # A preempted request computes its prompt and its output so far in one step.
    preempts = not (layout.reserve or isinstance(limits.policy, FullReservationPolicy))
    at_once = total - 1 if preempts else prompt
    chunked = getattr(limits.policy, "chunked_prefill", True)
    too_wide = np.zeros_like(too_long) if chunked else at_once > limits.max_num_batched_tokens
    bad: npt.NDArray[np.bool_] = too_long | too_big | too_wide
    if among is not None:
        bad &= among
    if bad.any() and oversized == "error":
        first = int(np.flatnonzero(bad)[0])
        raise DoesNotFitError(
            _why(first, requests, limits, layout, most_tokens, holder,
                 too_long=bool(too_long[first]), too_big=bool(too_big[first])),
            where="workload",
            hint=f"{int(bad.sum())} of {len(bad)} requests cannot be served; shorten them, change "
            "the limit, or set deployment.oversized_requests: reject",
        )  # fmt: skip
    return bad if requests.answers is None else requests.answers.of_requests(bad)


def check_limits(limits: Limits) -> None:
    """Makes sure that all running sequences can decode in one step.

    Raises:
        DoesNotFitError: they cannot.
    """
    if limits.max_num_batched_tokens < limits.decode_tokens:
        if limits.speculation is not None:
            raise DoesNotFitError(
                f"up to {limits.decode_tokens} tokens of decoding sequences, drafts included, do "
                f"not fit into a step of max_num_batched_tokens ({limits.max_num_batched_tokens})",
                where="engine.speculative",
                hint="lower speculative.max_batch, speculative.tokens or max_num_seqs, or raise "
                "max_num_batched_tokens",
            )
        raise DoesNotFitError(
            f"max_num_batched_tokens ({limits.max_num_batched_tokens}) is below max_num_seqs "
            f"({limits.max_num_seqs}), so that not every running sequence could decode a token",
            where="engine",
            hint="raise the first or lower the second",
        )


def largest_that_fits(layout: KvLayout, most: int) -> int:
    """Tokens of the longest sequence, up to ``most``, that the KV cache holds alone."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if layout.blocks_for(middle) <= layout.blocks:
            low = middle
        else:
            high = middle - 1
    return low


def _why(
    index: int,
    requests: Requests,
    limits: Limits,
    layout: KvLayout,
    most_tokens: int,
    holder: str,
    *,
    too_long: bool,
    too_big: bool,
) -> str:
    prompt, output = int(requests.input_tokens[index]), int(requests.output_tokens[index])
    request = f"request {index} has {prompt} prompt + {output} output = {prompt + output} tokens"
    if too_long:
        return f"{request}, more than max_model_len ({limits.max_model_len})"
    if too_big and layout.reserve:
        return (
            f"{request} and reserves more slots by {layout.reserve} than {holder} has "
            f"({layout.blocks})"
        )
    if too_big:
        return (
            f"{request} and needs {layout.blocks_for(prompt + output - 1)} KV blocks of "
            f"{layout.block_size} tokens, but {holder} has {layout.blocks} "
            f"(room for {most_tokens} tokens)"
        )
    return (
        f"{request}, more than max_num_batched_tokens ({limits.max_num_batched_tokens}), "
        "and chunked_prefill is off"
    )
