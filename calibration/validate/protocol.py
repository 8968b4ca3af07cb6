"""From a measured point to the scenario that replays how it was measured."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from calibration.validate.formats import Formats, Target, formats
from calibration.validate.point import Origin, Point, Ratio, Whole
from simulator import Scenario
from simulator.engines.profile import release_number
from simulator.errors import UserError
from simulator.scenario.base import Model
from simulator.scenario.policies import Policy
from simulator.yamlio import read_model

FILE = Path(__file__).parent.parent / "datasets" / "protocols.yaml"

REQUESTS_AT_A_RATE = 1000
"""Prompts of an open-loop point that does not say how many were sent."""


class Client(Model):
    """A load generator's habits, for points of one origin, and of one engine if one is named."""

    origin: Origin
    engine: str | None = None
    prompts_per_user: Whole
    range_ratio: Ratio
    random_prompts: bool
    source: str


class Settings(Model):
    """What a server was started with; null: the engine profile's default."""

    memory_fraction: Ratio | None = None
    max_num_seqs: Whole | Literal["users"] | None = None
    max_num_batched_tokens: Whole | Literal["context"] | None = Field(
        None, description="context: the longest prompt and output of the sweep, and 200 more"
    )
    token_budget_holds_prompt: bool = Field(
        False, description="at least a prompt and one token a user, rounded up to 64"
    )
    block_size: Whole | None = None
    kv_cache: str | None = None
    prefix_caching: bool | None = None
    cuda_graphs: bool | Literal["decode_only", "piecewise"] | None = None
    async_scheduling: bool | None = None
    policy: Policy | None = None
    version: str | None = Field(None, description="where the row's own is no release number")


class Server(Model):
    """Settings of the sweep's rows that fit all the conditions."""

    engine: str
    models: tuple[str, ...] = ()
    systems: tuple[str, ...] = ()
    precision: str | None = None
    lengths: str | None = None
    tp_below: Whole | None = None
    users: tuple[Whole, Whole] | None = Field(None, description="fewest and most, both included")
    settings: Settings
    source: str

    def fits(self, point: Point, found: Target) -> bool:
        """Whether it was this server."""
        return (
            found.engine.name == self.engine
            and (not self.models or found.model.name in self.models)
            and (not self.systems or found.hardware.name in self.systems)
            and (self.precision is None or point.precision == self.precision)
            and (self.lengths is None or point.lengths == self.lengths)
            and (self.tp_below is None or point.tp < self.tp_below)
            and (self.users is None or self.users[0] <= (point.concurrency or 0) <= self.users[1])
        )


class Exclusion(Model):
    """Rows of the sweep that ran with something that is not modelled."""

    engine: str
    models: tuple[str, ...]
    systems: tuple[str, ...]
    measured_on: tuple[str, ...]
    reason: str
    source: str

    def holds(self, point: Point, found: Target) -> bool:
        """Whether the row is one of them."""
        return (
            found.engine.name == self.engine
            and found.model.name in self.models
            and found.hardware.name in self.systems
            and point.measured_on in self.measured_on
        )


class Protocols(Model):
    """The file of protocols."""

    clients: Annotated[tuple[Client, ...], Field(min_length=1)]
    excluded: tuple[Exclusion, ...]
    always: Settings
    servers: Annotated[tuple[Server, ...], Field(min_length=1)]


@cache
def protocols() -> Protocols:
    """The protocols that come with the product."""
    return read_model(FILE, Protocols)


def client_of(point: Point, found: Target) -> Client:
    """How the load generator behaved, as far as the row does not say it."""
    return next(
        client
        for client in protocols().clients
        if client.origin == point.origin and client.engine in (None, found.engine.name)
    )


def exclusion(point: Point, found: Target) -> str:
    """Why a row cannot be held against a simulation though it could be simulated; mostly empty."""
    known = protocols().excluded
    return next((entry.reason for entry in known if entry.holds(point, found)), "")


def scenario_of(point: Point, found: Target) -> Scenario:
    """The scenario that replays a point: same deployment, same load, every request counted from
    the burst at the start to the last token.

    Raises:
        UserError: the simulator has no such format.
    """
    chosen = formats(point, found)
    settings = _settings(point, found)
    document: dict[str, object] = {
        "name": "validate",
        "model": point.model,
        "hardware": found.hardware.name if "/" not in point.system else point.system,
        "engine": _engine(point, found, settings),
        "precision": _precision(chosen, settings),
        "parallelism": {"tp": point.tp, "dp": point.attention_dp, "ep": point.moe_ep},
        "deployment": _deployment(point),
        "workload": _workload(point, found),
        "measurement": {"warmup_fraction": 0.0, "include_drain": not point.until_queue_empty},
    }
    try:
        return Scenario.model_validate(document)
    except ValueError as error:  # pydantic's; its message is for developers
        first = str(error).splitlines()
        raise UserError(f"no scenario can say this: {' '.join(first[1:3])}") from None


def _deployment(point: Point) -> dict[str, object]:
    router = {"kind": "least_outstanding"}
    if point.prefill is not None and point.decode is not None:
        pools = [
            {"name": role, "role": role, "replicas": part.workers,
             "parallelism": {"tp": part.tp, "ep": part.ep}}
            for role, part in (("prefill", point.prefill), ("decode", point.decode))
        ]  # fmt: skip
        return {"pools": pools, "router": router}
    return {"replicas": point.replicas, "router": router} if point.replicas > 1 else {}


def _settings(point: Point, found: Target) -> Settings:
    """What is known about the server besides the row."""
    always = protocols().always
    if point.origin != "sweep":
        return always
    known = always.model_dump(exclude_unset=True)
    for server in protocols().servers:
        if server.fits(point, found):
            return server.settings.model_copy(update=known)
    return always


def _engine(point: Point, found: Target, settings: Settings) -> dict[str, object]:
    users = settings.max_num_seqs
    tokens = settings.max_num_batched_tokens
    if tokens == "context":
        tokens = int(point.isl + point.osl) + 200
    if settings.token_budget_holds_prompt and point.concurrency is not None:
        needed = int(point.isl) + point.concurrency + 64
        tokens = max(tokens or 1, -(-needed // 64) * 64)
    known: dict[str, object] = {
        "profile": found.engine.name if "/" not in point.engine else point.engine,
        "memory_fraction": settings.memory_fraction,
        "max_num_seqs": point.concurrency if users == "users" else users,
        "max_num_batched_tokens": tokens,
        "block_size": settings.block_size,
        "prefix_caching": settings.prefix_caching,
        "cuda_graphs": settings.cuda_graphs,
        "async_scheduling": settings.async_scheduling,
        "random_prompts": _random_prompts(point, found),
        "policy": settings.policy.model_dump() if settings.policy else None,
        "version": release_of(point) or settings.version,
    }
    stated = {
        key: getattr(point, key)
        for key in (
            "memory_fraction", "max_num_seqs", "max_num_batched_tokens", "max_model_len",
            "kv_cache_tokens", "prefix_caching", "async_scheduling",
        )
    }  # fmt: skip
    merged = known | {key: value for key, value in stated.items() if value is not None}
    return {key: value for key, value in merged.items() if value is not None}


def _random_prompts(point: Point, found: Target) -> bool:
    if point.random_prompts is not None:
        return point.random_prompts
    return point.trace is None and client_of(point, found).random_prompts


def release_of(point: Point) -> str | None:
    """The engine's version, if it is a release number."""
    try:
        release_number(point.version or "")
    except ValueError:
        return None
    return point.version


def _precision(chosen: Formats, settings: Settings) -> dict[str, object]:
    cache_type = chosen.kv_cache or settings.kv_cache
    given = {
        "weights": chosen.weights, "activations": chosen.activations, "kv_cache": cache_type,
    }  # fmt: skip
    return {key: value for key, value in given.items() if value is not None}


def _workload(point: Point, found: Target) -> dict[str, object]:
    if point.trace is not None:
        return {"kind": "trace", "file": trace_name(point), "format": "csv"}
    client = client_of(point, found)
    ratio = client.range_ratio if point.range_ratio is None else point.range_ratio
    lengths = {
        "kind": "independent",
        "input": _length(point.isl, ratio, point.input_cv),
        "output": _length(point.osl, ratio, point.output_cv),
    }
    if point.concurrency is not None:
        count = point.num_prompts or client.prompts_per_user * point.concurrency
        arrivals: dict[str, object] = {"kind": "closed_loop", "concurrency": point.concurrency}
    else:
        count = point.num_prompts or REQUESTS_AT_A_RATE
        arrivals = {"kind": "poisson", "rate_per_s": point.rate_per_s}
    return {"kind": "synthetic", "requests": count, "arrivals": arrivals, "lengths": lengths}


def _length(nominal: float, ratio: float, cv: float | None) -> dict[str, object]:
    """Whole numbers from ratio × nominal to nominal, as random.randint of the load generator; where
    the spread is known, log-normal ones whose mean is the nominal length."""
    if cv is not None:
        return {"kind": "lognormal", "mean": nominal, "cv": cv}
    high = max(1, round(nominal))
    low = max(1, int(high * ratio))
    if low == high:
        return {"kind": "fixed", "tokens": high}
    return {"kind": "uniform", "low": low, "high": high}


def trace_text(point: Point) -> str:
    """A replayed point's requests as the CSV that a scenario reads."""
    assert point.trace is not None, "only replayed points have a trace"
    rows = zip(
        point.trace.arrival_s, point.trace.input_tokens, point.trace.output_tokens, strict=True
    )
    lines = [f"{at!r},{prompt},{output}" for at, prompt, output in rows]
    return "\n".join(["arrival_s,input_tokens,output_tokens", *lines, ""])


def trace_name(point: Point) -> str:
    """The file of a replayed point's requests, named after what is in it."""
    digest = hashlib.sha256(trace_text(point).encode()).hexdigest()[:16]
    return f"requests-{digest}.csv"
