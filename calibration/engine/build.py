"""From a scenario to an engine that runs it: the same model, limits and KV blocks as predicted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from calibration.engine.blocks import BlockTables
from calibration.engine.clock import Clock, ThreadClock, WallClock
from calibration.engine.decoder import Runnable, load_runnable
from calibration.engine.executor import Executor
from calibration.engine.follow import Leader, Line, follow
from calibration.engine.model import Model
from calibration.engine.ranks import Alone, Ranks
from calibration.engine.serve import DoneStep, Server
from calibration.engine.texts import Texts
from calibration.engine.weights import (
    Checkpoint,
    Narrow,
    RandomSource,
    Source,
    build_weights,
    checkpoint_folder,
)
from calibration.kernels import DEFAULT, Kernels, choose
from simulator.cluster.feasible import check_requests
from simulator.deployment import Limits, ResolvedDeployment, ResolvedPrecision
from simulator.errors import UserError
from simulator.serving.inflight import InFlightScheduler
from simulator.serving.kv_cache import KvLayout
from simulator.serving.policies import POLICIES
from simulator.workload.requests import Requests

NAME = "micro-engine"

_TORCH = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.float8_e4m3fn,
}


@dataclass(frozen=True, slots=True)
class Formats:
    """Number formats as torch and the kernels know them."""

    activations: torch.dtype
    narrow: Narrow
    kv_cache: torch.dtype

    @classmethod
    def of(cls, precision: ResolvedPrecision) -> Formats:
        """Of a deployment.

        Raises:
            UserError: the engine has no kernels for it, with what it has.
        """
        weights, activations = precision.weights, precision.activations
        wide = _TORCH.get(activations if activations != "fp8" else "bf16")
        plain = weights == activations and weights in ("fp32", "bf16", "fp16")
        narrow: Narrow = None
        if not plain:
            narrow = {("int8", "bf16"): "int8", ("fp8", "fp8"): "fp8"}.get((weights, activations))
            if narrow is None:
                raise UserError(
                    f"the micro-engine has no products of {activations} with weights in {weights}",
                    where="precision",
                    hint="it has fp32, bf16, fp16, weights: int8 with activations: bf16, and fp8",
                )
        if precision.kv_cache not in _TORCH or wide is None:
            raise UserError(
                f"the micro-engine has no KV cache in {precision.kv_cache}",
                where="precision.kv_cache",
                hint=f"it has {', '.join(_TORCH)}",
            )
        return cls(wide, narrow, _TORCH[precision.kv_cache])


class Engine:
    """A model on a device, ready to serve.

    Args:
        decoder: the model.
        limits: of the scheduler.
        layout: KV blocks of one replica.
        formats: number formats.
        device: where it runs.
        source: weights; random ones by default.
        ranks: who shares the model; rank 0 serves, the others ``follow`` until it is closed.
        kernels: what computes.
        temperature, seed: of sampling; the seed is that of random weights too.

    Raises:
        UserError: the policy forms padded batches, or weights are missing.
    """

    def __init__(
        self,
        decoder: Runnable,
        limits: Limits,
        layout: KvLayout,
        formats: Formats,
        device: torch.device,
        *,
        source: Source | None = None,
        ranks: Ranks | None = None,
        kernels: Kernels | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        if POLICIES[limits.policy.kind] is not POLICIES["continuous"]:
            raise UserError(
                f"the micro-engine has no padded batches, as {limits.policy.kind} needs",
                where="engine.policy",
                hint="use continuous, prefill_first or full_reservation",
            )
        if limits.queue.kind != "fcfs":
            raise UserError(
                f"the micro-engine serves first come, first served, not {limits.queue.kind}",
                where="engine.queue",
                hint="leave it out",
            )
        ranks = ranks or Alone()
        self.decoder, self.limits, self.layout, self.device = decoder, limits, layout, device
        self.seed = seed
        source = source or RandomSource(seed, formats.activations, device)
        weights = build_weights(decoder, source, formats.narrow, ranks.rank, ranks.size)
        attention, size = decoder.attention, limits.block_size
        shape = (layout.blocks, size, -(-attention.kv_heads // ranks.size), attention.head_dim)
        kv = [
            (torch.zeros(shape, dtype=formats.kv_cache, device=device),
             torch.zeros(shape, dtype=formats.kv_cache, device=device))
            for _ in decoder.layers
        ]  # fmt: skip
        kernels = kernels or choose(DEFAULT if device.type == "cuda" else "torch")
        self.model = Model(decoder, weights, kernels, ranks, kv, limits.max_model_len)
        self._line = Line(device) if ranks.size > 1 else None
        leads = self._line is not None and ranks.rank == 0
        make = partial(Leader, line=self._line) if leads else Executor
        self.executor: Executor = make(
            self.model,
            seats=limits.max_num_seqs,
            width=-(-limits.max_model_len // size),
            block_size=size,
            temperature=temperature,
            seed=seed,
            graph_sizes=_graph_sizes(limits),
        )

    def follow(self) -> None:
        """On all ranks but 0: runs what rank 0 serves, until it is closed."""
        assert self._line is not None, "nobody to follow"
        assert self.model.ranks.rank, "rank 0 leads"
        follow(self.executor, self._line)

    def close(self) -> None:
        """On rank 0: lets the other ranks go, if there are any."""
        if isinstance(self.executor, Leader):
            self.executor.stop()

    def serve(
        self,
        requests: Requests,
        clock: Clock | None = None,
        *,
        prompts: dict[int, list[int]] | None = None,
        repeats: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[list[DoneStep], Texts]:
        """Serves all requests, from an empty cache; with several ranks on rank 0 alone.

        Args:
            requests: what clients send.
            clock: real time on GPUs, this thread's computing time on CPUs.
            prompts: tokens of prompts, by request; made up otherwise.
            repeats: see ``Server``.
            progress: called now and then with requests ended and requests in all.

        Returns:
            The steps in order, and the texts with their answers.

        Raises:
            DoesNotFitError: a request can never be served.
        """
        assert repeats == 1 or self._line is None, "the other ranks would not forget a step"
        requests.check_integrity()
        check_requests(requests, self.limits, self.layout, oversized="error")
        limits = self.limits
        kv = BlockTables(self.layout, prefix_caching=limits.prefix_caching)
        spans = [layer.span.tokens for layer in self.decoder.layers]
        scheduler = POLICIES[limits.policy.kind](kv, limits, max(spans), False, (), "serve")
        assert isinstance(scheduler, InFlightScheduler)
        texts = Texts(requests, self.decoder.spec.vocab, self.seed, prompts)
        texts.prepare()
        self.executor.restart()
        on_gpu = self.device.type == "cuda"
        server = Server(
            self.executor, scheduler, kv, requests, texts,
            clock or (WallClock() if on_gpu else ThreadClock()),
            plans_ahead=limits.async_scheduling,
            repeats=repeats,
            progress=progress,
        )  # fmt: skip
        return server.serve(), texts


def build_engine(
    deployment: ResolvedDeployment,
    layout: KvLayout,
    device: torch.device,
    *,
    base: Path | None = None,
    checkpoint: bool = False,
    ranks: Ranks | None = None,
) -> Engine:
    """The engine of a resolved scenario.

    Args:
        deployment, layout: see ``simulator.resolve``.
        device: where it runs.
        base: folder that the model's path starts from.
        checkpoint: read the weights that lie beside the model's config.json.
        ranks: as many as the scenario's ``tp``, of which this process is one.

    Raises:
        UserError: something in the scenario that the engine does not do.
    """
    scenario = deployment.scenario
    if deployment.engine.name != NAME:
        raise UserError(
            f"runs the micro-engine, not {deployment.engine.title}",
            where="engine.profile",
            hint=f"set engine.profile: {NAME}",
        )
    for where, wrong in {
        "deployment.replicas": scenario.deployment.replicas > 1,
        "deployment.pools": bool(scenario.deployment.pools),
        "deployment.timeout_s": scenario.deployment.timeout_s is not None,
        "deployment.network_ms": scenario.deployment.network_ms > 0,
        "parallelism.tp": scenario.parallelism.tp != (ranks.size if ranks else 1),
    }.items():
        if wrong:
            raise UserError("the micro-engine runs one replica on one device, with clients that "
                            "wait, and no network", where=where, hint="leave it out")  # fmt: skip
    asked = scenario.engine
    for where, wrong in {
        "engine.kv_offload": bool(asked.kv_offload),
        "engine.preemption": asked.preemption.kind != "recompute",
        "engine.kv_allocation": asked.kv_allocation.kind != "paged",
    }.items():
        if wrong:
            raise UserError(
                "the micro-engine keeps KV blocks in device memory alone and computes what it "
                "forgets anew", where=where, hint="leave it out",
            )  # fmt: skip
    graphs = deployment.limits.cuda_graphs
    if graphs == "piecewise":
        raise UserError(
            "the micro-engine has graphs for whole steps only",
            where="engine.cuda_graphs",
            hint="use true, decode_only or false",
        )
    decoder = load_runnable(scenario.model, base)
    formats = Formats.of(deployment.precision)
    source = None
    if checkpoint:
        source = Checkpoint(checkpoint_folder(decoder), formats.activations, device)
    seed = scenario.measurement.seed
    return Engine(
        decoder, deployment.limits, layout, formats, device, source=source, ranks=ranks, seed=seed
    )


def _graph_sizes(limits: Limits) -> tuple[int, ...]:
    from simulator.engines import load_engine

    return load_engine(NAME).cuda_graphs.sizes if limits.cuda_graphs else ()
