"""From a scenario to the roofline of one of its devices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simulator.errors import UserError
from simulator.rooflines.figures import Roofline

if TYPE_CHECKING:
    from simulator.costs.model import StepCostModel
    from simulator.costs.protocol import StepCost
    from simulator.resolution.pools import ResolvedPool
    from simulator.scenario.scenario import Scenario
    from simulator.workload.requests import Requests

_SWEEP_AT_MOST = 4096
"""Sequences, where the engine allows fewer, up to which a turning batch is shown in the sweep."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What has operators of its own: ``cost`` are those of one device."""

    name: str
    pool: ResolvedPool
    cost: StepCostModel
    note: str = ""


def roofline(
    scenario: Scenario,
    *,
    part: str | None = None,
    batch: int | None = None,
    context: int | None = None,
    prompt_tokens: int | None = None,
    base: Path | None = None,
) -> Roofline:
    """The operators of a prefill and of a decode step on the roofline of a scenario's device
    (Williams et al., CACM 2009), as its cost model sees them; nothing is simulated.

    Args:
        scenario: what to look at.
        part: one of the result's ``parts``, where a deployment has several pools, stages of a
            pipeline, or steps with and without drafts; default: the first one.
        batch: sequences of the decode step; default: as many as the engine, the KV cache and the
            traffic's closed loops allow at once.
        context: tokens that each of them attends to; default: the traffic's mean prompt and half
            of its mean output.
        prompt_tokens: of the prefill step, one prompt's; default: the traffic's mean prompt, or
            the first chunk of it that the engine's token budget allows.
        base: folder that relative paths in the scenario start from; default: the current one.

    Raises:
        UserError: the scenario cannot be simulated, there is no such part, or the engine never
            takes such a step; with the reason.
    """
    import numpy as np

    from simulator.costs.balance import turning_points
    from simulator.resolution.pools import resolve_pools
    from simulator.rooflines.device import Formats, batches_up_to, roofs_of, step_of, sweep_of
    from simulator.rooflines.figures import Turning
    from simulator.rooflines.rows import Step
    from simulator.workload import build_requests

    pools = resolve_pools(scenario, base)
    parts = [each for pool in pools for each in _parts(pool, several=len(pools) > 1)]
    chosen = _chosen(parts, part)
    pool, cost = chosen.pool, chosen.cost
    deployment, limits = pool.deployment, pool.deployment.limits
    rng = np.random.default_rng(scenario.measurement.seed)
    requests = build_requests(scenario.workload, rng, base)

    most_sequences = getattr(limits.policy, "batch_size", None) or limits.max_num_seqs
    most_prompt = _most_prompt(pool)
    context = _within(
        context, requests.context_tokens, limits.max_model_len,
        "context", "engine.max_model_len",
    )  # fmt: skip
    in_cache = _in_cache(pool, context)
    usual = max(1, min(most_sequences, in_cache, _at_once(requests, pool)))
    batch = _within(batch, usual, most_sequences, "batch", _limit_key(limits.policy.kind))
    mean_prompt = max(1, round(float(requests.input_tokens.mean())))
    prompt = _within(
        prompt_tokens, min(mean_prompt, most_prompt), most_prompt,
        "prompt_tokens", "engine.max_num_batched_tokens",
    )  # fmt: skip

    formats, bandwidth = Formats(deployment), deployment.hardware.bandwidth_bytes_per_s
    decodes = pool.role != "prefill"
    found = turning_points(cost, context) if decodes else None
    turning = None if found is None else Turning(*found)
    sweep = None
    if decodes:
        turns = [n for n in found or () if n is not None and 2 * n <= _SWEEP_AT_MOST]
        most = max(most_sequences, *(2 * n for n in turns), batch)
        shown = (batch, most_sequences, in_cache, *turns)
        sweep = sweep_of(cost, batches_up_to(most, *shown), context)
    return Roofline(
        part=chosen.name,
        parts=tuple(each.name for each in parts),
        hardware=deployment.hardware.title,
        model=deployment.model.name,
        precision={
            "weights": deployment.precision.weights,
            "activations": deployment.precision.activations,
            "kv_cache": deployment.precision.kv_cache,
        },
        layout=deployment.layout.words,
        bytes_per_s=bandwidth,
        link_bytes_per_s=deployment.hardware.link_bytes_per_s,
        roofs=roofs_of(cost, formats),
        batch=batch,
        context=context,
        prompt_tokens=prompt,
        most_sequences=most_sequences,
        most_in_cache=in_cache,
        most_prompt_tokens=most_prompt,
        most_context=limits.max_model_len,
        prefill=None if pool.role == "decode" else step_of(
            cost, Step(prompt=prompt), formats, bandwidth
        ),
        decode=step_of(cost, Step(decode=batch, context=context), formats, bandwidth)
        if decodes else None,
        sweep=sweep,
        turning=turning,
        notes=tuple(_notes(
            chosen, batch=batch, context=context, in_cache=in_cache,
            cut=mean_prompt if prompt_tokens is None and mean_prompt > prompt else 0,
            turning=turning is not None or not decodes,
        )),
    )  # fmt: skip


def _parts(pool: ResolvedPool, *, several: bool) -> Iterator[_Part]:
    """What of a pool has operators of its own."""
    from simulator.costs.model import StepCostModel
    from simulator.costs.pipeline import PipelineCostModel
    from simulator.costs.speculative import SpeculativeCost

    cost: StepCost = pool.resolved.cost
    before = f"{pool.name}: " if several else ""
    if isinstance(cost, PipelineCostModel):
        for stage, number in enumerate(cost.model_of, 1):
            name = f"{before}stage {stage} of {cost.stages}"
            yield _Part(name, pool, cost.models[number], "Steps are those of one micro-batch.")
    elif isinstance(cost, SpeculativeCost):
        plain, verify = cost.models
        drafting = "Drafting itself comes on top and is not part of the step shown."
        yield _Part(f"{before}steps that verify drafts", pool, verify, drafting)
        yield _Part(f"{before}steps without drafts", pool, plain)
    else:
        assert isinstance(cost, StepCostModel)
        yield _Part(pool.name if several else "every device", pool, cost)


def _chosen(parts: list[_Part], name: str | None) -> _Part:
    if name is None:
        return parts[0]
    for part in parts:
        if part.name == name:
            return part
    raise UserError(
        f"the deployment has no part '{name}'", where="part",
        hint="it has " + ", ".join(f"'{part.name}'" for part in parts),
    )  # fmt: skip


def _within(asked: int | None, usual: int, most: int, what: str, limit: str) -> int:
    """What was asked for, or what is usual.

    Raises:
        UserError: the engine never has so many, or so few.
    """
    value = min(usual, most) if asked is None else asked
    if value < 1:
        raise UserError(f"must be at least 1, not {value:,}", where=what)
    if value > most:
        raise UserError(
            f"{value:,} is more than the {most:,} that the engine allows",
            where=what, hint=f"at most {most:,}, or raise {limit}",
        )  # fmt: skip
    return value


def _limit_key(policy: str) -> str:
    whole = policy in ("static", "dynamic")
    return "engine.policy.batch_size" if whole else "engine.max_num_seqs"


def _most_prompt(pool: ResolvedPool) -> int:
    """Tokens of a prompt that one step may compute."""
    limits = pool.deployment.limits
    if limits.policy.kind in ("static", "dynamic"):
        return limits.max_model_len
    return min(limits.max_num_batched_tokens, limits.max_model_len)


def _in_cache(pool: ResolvedPool, context: int) -> int:
    """Sequences of this context that the KV cache of a lane holds at once."""
    import numpy as np

    from simulator.resolution.pools import group_of
    from simulator.serving.contiguous import run_tokens

    limits, resolved = pool.deployment.limits, pool.resolved
    layout = group_of(pool, resolved.cost, resolved.front_end).lane_layout
    needed = layout.blocks_for(context)
    if layout.reserve:
        one = np.ones(1, dtype=np.int64)
        needed = int(run_tokens(layout.reserve, context * one, one, limits.max_model_len)[0])
    return layout.blocks // max(needed, 1)


def _at_once(requests: Requests, pool: ResolvedPool) -> int:
    """Requests that closed loops keep at a lane at once; where arrivals wait for nobody, any
    number."""
    from simulator.cluster.groups import lanes_of
    from simulator.workload.requests import OPEN_LOOP

    if not len(requests) or (requests.pool == OPEN_LOOP).any():
        return 1 << 30
    lanes = pool.most * lanes_of(pool.resolved.cost)
    return -(-sum(requests.pool_concurrency) // lanes)


def _notes(
    part: _Part, *, batch: int, context: int, in_cache: int, cut: int, turning: bool
) -> Iterator[str]:
    limits = part.pool.deployment.limits
    if part.note:
        yield part.note
    if batch > in_cache and part.pool.role != "prefill":
        yield (
            f"The KV cache holds {in_cache:,} sequences of {context:,} tokens, so a batch of "
            f"{batch:,} never comes about."
        )
    if cut:
        yield (
            f"Prompts have {cut:,} tokens on average, more than a step computes at once; the "
            "prefill step is the first chunk of one."
        )
    if limits.adapters is not None:
        yield "The steps shown use no LoRA adapter."
    if part.pool.deployment.layout.dp > 1:
        yield "All attention ranks have the same batch; the experts see the tokens of all."
    if not turning:
        yield (
            "Where ranks share experts or the context, a turning batch is not told: a device does "
            "not see just the tokens of its own sequences."
        )
