"""Changes of a deployment, one at a time, as ``--set`` options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from simulator.deployment import ResolvedDeployment
from simulator.hardware import load_hardware, profile_names
from simulator.resolution.pools import ResolvedPool
from simulator.scenario import Scenario
from simulator.scenario.lifecycle import ScheduleScaling
from simulator.scenario.policies import DynamicPolicy, StaticPolicy

Lever = tuple[str, str, tuple[str, ...]]
"""Key, title and options."""

NGRAM = "{kind: ngram, tokens: 3, acceptance: 0.4}"
"""Drafts that are assumed where none are made."""


def levers(scenario: Scenario, pools: Sequence[ResolvedPool]) -> Iterator[Lever]:
    """Changes of the deployment that make sense for a scenario, whether they are possible or not.

    Args:
        scenario: before the change.
        pools: what it resolves to.
    """
    yield from _replicas(scenario, pools)
    yield from _scaling(scenario)
    yield from _split(scenario, pools)
    yield from _devices(scenario, pools)
    yield from _precision(scenario, pools)
    yield from _limits(scenario, pools)
    yield from _switches(scenario, pools)
    yield from _routing(scenario, pools)


def _replicas(scenario: Scenario, pools: Sequence[ResolvedPool]) -> Iterator[Lever]:
    deployment = scenario.deployment
    for number, pool in enumerate(pools):
        own = deployment.pools[number] if deployment.pools else None
        shared = pool.shares or any(other.shares == pool.name for other in pools)
        if deployment.autoscaling or shared or (own is not None and own.autoscaling):
            continue
        path = "deployment" if own is None else f"deployment.pools.{number}"
        of = "" if own is None else f" of {pool.name}"
        for step, word in ((1, "one more replica"), (-1, "one replica less")):
            if pool.replicas + step > 0:
                key = f"replicas{step:+d}{of.replace(' of ', ':')}"
                yield (
                    key, f"{word}{of} ({pool.replicas + step})",
                    (f"{path}.replicas={pool.replicas + step}",),
                )  # fmt: skip


def _scaling(scenario: Scenario) -> Iterator[Lever]:
    """The fewest replicas that stay up, and the most there may be."""
    scaling = scenario.deployment.autoscaling
    if scaling is None or isinstance(scaling, ScheduleScaling):
        return
    least, most = scaling.min, scaling.max
    if least < most:
        yield (
            "autoscaling.min+1", f"at least {least + 1} replicas instead of {least}",
            (f"deployment.autoscaling.min={least + 1}",),
        )  # fmt: skip
    yield (
        "autoscaling.max+1", f"at most {most + 1} replicas instead of {most}",
        (f"deployment.autoscaling.max={most + 1}",),
    )  # fmt: skip


def _split(scenario: Scenario, pools: Sequence[ResolvedPool]) -> Iterator[Lever]:
    """Another ratio of prefill to decode replicas with the same devices, or no pools at all."""
    roles: dict[str, int] = {pool.role: number for number, pool in enumerate(pools)}
    alike = {(p.deployment.devices_per_replica, p.deployment.hardware.name) for p in pools}
    if set(roles) != {"prefill", "decode"} or len(pools) != 2 or len(alike) != 1:
        return
    if any(pool.life is not None for pool in pools):
        return
    counts = {role: pools[number].replicas for role, number in roles.items()}
    for more, less in (("prefill", "decode"), ("decode", "prefill")):
        if counts[less] < 2:
            continue
        changed = counts | {more: counts[more] + 1, less: counts[less] - 1}
        yield (
            f"{less}-to-{more}",
            f"prefill and decode {changed['prefill']}:{changed['decode']}, the same devices",
            tuple(f"deployment.pools.{roles[r]}.replicas={changed[r]}" for r in (more, less)),
        )  # fmt: skip
    whole = sum(counts.values())
    yield (
        "together", f"{whole} replicas for whole requests, the same devices",
        ("deployment.pools=[]", f"deployment.replicas={whole}"),
    )  # fmt: skip


def _devices(scenario: Scenario, pools: Sequence[ResolvedPool]) -> Iterator[Lever]:
    tp = pools[0].deployment.layout.tp
    for factor, key in ((2.0, "tp*2"), (0.5, "tp/2")):
        if tp * factor >= 1:
            sets = _each(scenario, pools, "parallelism", "tp", _tp_times(factor))
            yield key, f"tensor parallelism {int(tp * factor)}", sets
    replicas = scenario.deployment.replicas
    if not scenario.deployment.pools and not scenario.deployment.autoscaling:
        if replicas % 2 == 0:
            yield (
                "tp*2,replicas/2",
                f"tensor parallelism {2 * tp} on {replicas // 2} replicas, the same devices",
                (f"parallelism.tp={2 * tp}", f"deployment.replicas={replicas // 2}"),
            )  # fmt: skip
        if tp % 2 == 0:
            yield (
                "tp/2,replicas*2",
                f"tensor parallelism {tp // 2} on {2 * replicas} replicas, the same devices",
                (f"parallelism.tp={tp // 2}", f"deployment.replicas={2 * replicas}"),
            )  # fmt: skip
    yield from _neighbours(scenario, pools)


def _neighbours(scenario: Scenario, pools: Sequence[ResolvedPool]) -> Iterator[Lever]:
    """The next cheaper and the next dearer device of the same kind, by the list of prices."""
    if any(pool.hardware is not None for pool in scenario.deployment.pools):
        return
    here = pools[0].deployment.hardware
    plan = pools[0].deployment.scenario.cost.plan
    prices: dict[str, float] = {}
    for name in profile_names():
        profile = load_hardware(name)
        asked = [price.usd_per_device_hour for price in profile.prices if price.plan == plan]
        if asked and profile.kind == here.kind:
            prices[profile.name] = min(asked)
    own = prices.get(here.name, pools[0].deployment.usd_per_device_hour)
    if own is None:
        return
    others = sorted((price, name) for name, price in prices.items() if name != here.name)
    cheaper = [name for price, name in others if price <= own][-1:]
    dearer = [name for price, name in others if price > own][:1]
    forget = (
        ("cost.usd_per_device_hour=null",) if scenario.cost.usd_per_device_hour is not None else ()
    )
    for name in (*cheaper, *dearer):
        title = f"{load_hardware(name).title} (${prices[name]:,.2f}/h)"
        yield f"hardware:{name}", title, (f"hardware={name}", *forget)


def _precision(scenario: Scenario, pools: Sequence[ResolvedPool]) -> Iterator[Lever]:
    now = pools[0].deployment.precision
    for dtype, wider in (("fp8", ("fp32", "bf16", "fp16")),
                         ("int4", ("fp32", "bf16", "fp16", "fp8", "int8"))):  # fmt: skip
        if now.weights in wider:
            sets = _each(scenario, pools, "precision", "weights", _always(dtype))
            yield f"weights:{dtype}", f"weights in {dtype}, quality aside", sets
    if now.kv_cache in ("fp32", "bf16", "fp16"):
        sets = _each(scenario, pools, "precision", "kv_cache", _always("fp8"))
        yield "kv_cache:fp8", "KV cache in fp8, quality aside", sets


def _limits(scenario: Scenario, pools: Sequence[ResolvedPool]) -> Iterator[Lever]:
    limits = pools[0].deployment.limits
    batches = isinstance(limits.policy, StaticPolicy | DynamicPolicy)
    if isinstance(limits.policy, StaticPolicy | DynamicPolicy):
        yield from _batch_sizes(scenario, pools, limits.policy)
    if limits.policy.kind != "continuous":
        sets = _each(scenario, pools, "engine", "policy", _always("{kind: continuous}"))
        yield "policy:continuous", "continuous batching", sets
    names = ["max_num_seqs"] if batches else ["max_num_seqs", "max_num_batched_tokens"]
    for name in names:
        value = getattr(limits, name)
        for factor in (2.0, 0.5):
            if value * factor < 1:
                continue
            sets = _each(scenario, pools, "engine", name, _limit_times(name, factor))
            yield (
                f"{name}{'*2' if factor > 1 else '/2'}",
                f"{name} {int(value * factor):,}", sets,
            )  # fmt: skip


def _batch_sizes(
    scenario: Scenario, pools: Sequence[ResolvedPool], policy: StaticPolicy | DynamicPolicy
) -> Iterator[Lever]:
    for size, key in ((2 * policy.batch_size, "*2"), (policy.batch_size // 2, "/2")):
        if size:
            text = _mapping(policy.model_dump() | {"batch_size": size})
            sets = _each(scenario, pools, "engine", "policy", _always(text))
            yield f"batch_size{key}", f"batches of {size:,}", sets


def _switches(scenario: Scenario, pools: Sequence[ResolvedPool]) -> Iterator[Lever]:
    limits = pools[0].deployment.limits
    for name, title, on in (
        ("prefix_caching", "prefix caching", limits.prefix_caching),
        ("cuda_graphs", "CUDA graphs", bool(limits.cuda_graphs)),
    ):
        word = "false" if on else "true"
        sets = _each(scenario, pools, "engine", name, _always(word))
        yield f"{name}:{word}", f"{title} {'off' if on else 'on'}", sets
    chunked = getattr(limits.policy, "chunked_prefill", None)
    if chunked is not None:
        text = _mapping(limits.policy.model_dump() | {"chunked_prefill": not chunked})
        sets = _each(scenario, pools, "engine", "policy", _always(text))
        word = "off" if chunked else "on"
        yield f"chunked_prefill:{word}", f"chunked prefill {word}", sets
    if limits.speculation is None:
        sets = _each(scenario, pools, "engine", "speculative", _always(NGRAM))
        yield "ngram", "n-gram drafts (3 tokens, 40% accepted: assumed)", sets


def _routing(scenario: Scenario, pools: Sequence[ResolvedPool]) -> Iterator[Lever]:
    replicas = sum(pool.replicas for pool in pools)
    if replicas < 2:
        return
    now = scenario.deployment.router.kind
    wanted = ["least_outstanding" if now != "least_outstanding" else "round_robin"]
    if pools[0].deployment.limits.prefix_caching and now != "prefix_aware":
        wanted.append("prefix_aware")
    for kind in wanted:
        title = f"router {kind.replace('_', ' ')}"
        yield f"router:{kind}", title, (f"deployment.router={{kind: {kind}}}",)
    if not scenario.deployment.pools and not scenario.deployment.autoscaling:
        half = replicas // 2
        split = (
            f"[{{name: prefill, role: prefill, replicas: {half}}}, "
            f"{{name: decode, role: decode, replicas: {replicas - half}}}]"
        )
        yield (
            "disaggregated", f"prefill and decode apart, {half}:{replicas - half}",
            ("deployment.replicas=1", f"deployment.pools={split}"),
        )  # fmt: skip


_Value = Callable[[ResolvedDeployment], object]


def _always(value: object) -> _Value:
    return lambda _: value


def _tp_times(factor: float) -> _Value:
    return lambda deployment: int(deployment.layout.tp * factor)


def _limit_times(name: str, factor: float) -> _Value:
    return lambda deployment: max(1, int(getattr(deployment.limits, name) * factor))


def _each(
    scenario: Scenario,
    pools: Sequence[ResolvedPool],
    section: str,
    field: str,
    value: _Value,
) -> tuple[str, ...]:
    """Sets a field for the whole scenario, and anew in every pool that has its own."""
    sets = [f"{section}.{field}={yaml_of(value(pools[0].deployment))}"]
    for number, (asked, pool) in enumerate(zip(scenario.deployment.pools, pools, strict=False)):
        own = getattr(asked, section)
        if own is not None and field in own.model_fields_set:
            path = f"deployment.pools.{number}.{section}.{field}"
            sets.append(f"{path}={yaml_of(value(pool.deployment))}")
    return tuple(sets)


def _mapping(values: dict[str, object]) -> str:
    return "{" + ", ".join(f"{key}: {yaml_of(value)}" for key, value in values.items()) + "}"


def yaml_of(value: object) -> str:
    """A value as an option has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
