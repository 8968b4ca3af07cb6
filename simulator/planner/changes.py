"""Changes of a scenario, one at a time: of its deployment, and of its traffic."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from simulator.deployment import ResolvedDeployment
from simulator.errors import UserError
from simulator.hardware import load_hardware, profile_names
from simulator.planner.lengths import longer
from simulator.planner.load_task import check_scalable
from simulator.planner.traffic import scaled
from simulator.resolution.pools import ResolvedPool, resolve_pools
from simulator.scenario import Scenario, load_scenario
from simulator.scenario.dump import compact

Group = Literal["deployment", "traffic"]

MORE, LESS = 1.1, 0.9
"""How traffic is changed."""

NGRAM = "{kind: ngram, tokens: 3, acceptance: 0.4}"
"""Drafts that are assumed where none are made."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change.

    Args:
        key: short name, unique among all.
        group: what is changed.
        title: what reports call it.
        sets: the same as ``--set`` options.
        scenario: with the change; None: impossible.
        problem: why it is impossible, in a phrase.
    """

    key: str
    group: Group
    title: str
    sets: tuple[str, ...]
    scenario: Scenario | None
    problem: str = ""


_PLACE = re.compile(r"^(?:[a-z_]+)(?:[.\[][\w\].]*)*: ")
"""A key of the scenario before a sentence."""

_Asked = tuple[str, Group, str, tuple[str, ...]]


def changes(scenario: Scenario, pools: Sequence[ResolvedPool] | None = None) -> list[Change]:
    """All changes that make sense for a scenario; impossible ones say why."""
    pools = pools or resolve_pools(scenario)
    document = compact(scenario)
    found = []
    for key, group, title, sets in _deployment(scenario, pools):
        found.append(_applied(document, key, group, title, sets))
    return found + list(_traffic(scenario, document))


def _applied(
    document: dict[str, Any], key: str, group: Group, title: str, sets: tuple[str, ...]
) -> Change:
    try:
        changed = load_scenario(document, sets)
        resolve_pools(changed)
    except UserError as error:
        return Change(key, group, title, sets, None, phrase(error))
    return Change(key, group, title, sets, changed)


def phrase(error: UserError | str) -> str:
    """Why something is impossible, without where and hint."""
    text = error.what if isinstance(error, UserError) else error.partition("; ")[0]
    return _PLACE.sub("", text).rstrip(".")


# --- the deployment ------------------------------------------------------------------------------


def _deployment(scenario: Scenario, pools: Sequence[ResolvedPool]) -> Iterator[_Asked]:
    yield from _replicas(scenario, pools)
    yield from _devices(scenario, pools)
    yield from _precision(scenario, pools)
    yield from _limits(scenario, pools)
    yield from _switches(scenario, pools)
    yield from _routing(scenario, pools)


def _replicas(scenario: Scenario, pools: Sequence[ResolvedPool]) -> Iterator[_Asked]:
    deployment = scenario.deployment
    for number, pool in enumerate(pools):
        own = deployment.pools[number] if deployment.pools else None
        if deployment.autoscaling or (own is not None and (own.autoscaling or own.shares)):
            continue
        path = "deployment" if own is None else f"deployment.pools.{number}"
        of = "" if own is None else f" of {pool.name}"
        for step, word in ((1, "one more replica"), (-1, "one replica less")):
            if pool.replicas + step > 0:
                key = f"replicas{step:+d}{of.replace(' of ', ':')}"
                yield (
                    key, "deployment", f"{word}{of} ({pool.replicas + step})",
                    (f"{path}.replicas={pool.replicas + step}",),
                )  # fmt: skip


def _devices(scenario: Scenario, pools: Sequence[ResolvedPool]) -> Iterator[_Asked]:
    tp = pools[0].deployment.layout.tp
    for factor, key in ((2.0, "tp*2"), (0.5, "tp/2")):
        if tp * factor >= 1:
            sets = _each(scenario, pools, "parallelism", "tp", _tp_times(factor))
            yield key, "deployment", f"tensor parallelism {int(tp * factor)}", sets
    replicas = scenario.deployment.replicas
    if not scenario.deployment.pools and not scenario.deployment.autoscaling:
        if replicas % 2 == 0:
            yield (
                "tp*2,replicas/2", "deployment",
                f"tensor parallelism {2 * tp} on {replicas // 2} replicas, the same devices",
                (f"parallelism.tp={2 * tp}", f"deployment.replicas={replicas // 2}"),
            )  # fmt: skip
        if tp % 2 == 0:
            yield (
                "tp/2,replicas*2", "deployment",
                f"tensor parallelism {tp // 2} on {2 * replicas} replicas, the same devices",
                (f"parallelism.tp={tp // 2}", f"deployment.replicas={2 * replicas}"),
            )  # fmt: skip
    yield from _neighbours(scenario, pools)


def _neighbours(scenario: Scenario, pools: Sequence[ResolvedPool]) -> Iterator[_Asked]:
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
        yield f"hardware:{name}", "deployment", title, (f"hardware={name}", *forget)


def _precision(scenario: Scenario, pools: Sequence[ResolvedPool]) -> Iterator[_Asked]:
    now = pools[0].deployment.precision
    for dtype, wider in (("fp8", ("fp32", "bf16", "fp16")),
                         ("int4", ("fp32", "bf16", "fp16", "fp8", "int8"))):  # fmt: skip
        if now.weights in wider:
            sets = _each(scenario, pools, "precision", "weights", _always(dtype))
            yield f"weights:{dtype}", "deployment", f"weights in {dtype}", sets
    if now.kv_cache in ("fp32", "bf16", "fp16"):
        sets = _each(scenario, pools, "precision", "kv_cache", _always("fp8"))
        yield "kv_cache:fp8", "deployment", "KV cache in fp8", sets


def _limits(scenario: Scenario, pools: Sequence[ResolvedPool]) -> Iterator[_Asked]:
    limits = pools[0].deployment.limits
    names = [("max_num_seqs", limits.max_num_seqs)]
    if limits.policy.kind not in ("static", "dynamic"):
        names.append(("max_num_batched_tokens", limits.max_num_batched_tokens))
    for name, value in names:
        for factor in (2.0, 0.5):
            if value * factor < 1:
                continue
            sets = _each(
                scenario, pools, "engine", name,
                _limit_times(name, factor),
            )  # fmt: skip
            yield (
                f"{name}{'*2' if factor > 1 else '/2'}", "deployment",
                f"{name} {int(value * factor):,}", sets,
            )  # fmt: skip


def _switches(scenario: Scenario, pools: Sequence[ResolvedPool]) -> Iterator[_Asked]:
    limits = pools[0].deployment.limits
    for name, title, on in (
        ("prefix_caching", "prefix caching", limits.prefix_caching),
        ("cuda_graphs", "CUDA graphs", bool(limits.cuda_graphs)),
    ):
        word = "false" if on else "true"
        sets = _each(scenario, pools, "engine", name, _always(word))
        yield f"{name}:{word}", "deployment", f"{title} {'off' if on else 'on'}", sets
    chunked = getattr(limits.policy, "chunked_prefill", None)
    if chunked is not None:
        policy = limits.policy.model_dump() | {"chunked_prefill": not chunked}
        text = "{" + ", ".join(f"{k}: {_yaml(v)}" for k, v in policy.items()) + "}"
        sets = _each(scenario, pools, "engine", "policy", _always(text))
        word = "off" if chunked else "on"
        yield f"chunked_prefill:{word}", "deployment", f"chunked prefill {word}", sets
    if limits.speculation is None:
        sets = _each(scenario, pools, "engine", "speculative", _always(NGRAM))
        yield "ngram", "deployment", "n-gram drafts (3 tokens, 40% accepted: assumed)", sets


def _routing(scenario: Scenario, pools: Sequence[ResolvedPool]) -> Iterator[_Asked]:
    replicas = sum(pool.replicas for pool in pools)
    if replicas < 2:
        return
    now = scenario.deployment.router.kind
    wanted = ["least_outstanding" if now != "least_outstanding" else "round_robin"]
    if pools[0].deployment.limits.prefix_caching and now != "prefix_aware":
        wanted.append("prefix_aware")
    for kind in wanted:
        title = f"router {kind.replace('_', ' ')}"
        yield f"router:{kind}", "deployment", title, (f"deployment.router={{kind: {kind}}}",)
    if not scenario.deployment.pools and not scenario.deployment.autoscaling:
        half = replicas // 2
        split = (
            f"[{{name: prefill, role: prefill, replicas: {half}}}, "
            f"{{name: decode, role: decode, replicas: {replicas - half}}}]"
        )
        yield (
            "disaggregated", "deployment", f"prefill and decode apart, {half}:{replicas - half}",
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
    sets = [f"{section}.{field}={_yaml(value(pools[0].deployment))}"]
    for number, (asked, pool) in enumerate(zip(scenario.deployment.pools, pools, strict=False)):
        own = getattr(asked, section)
        if own is not None and field in own.model_fields_set:
            path = f"deployment.pools.{number}.{section}.{field}"
            sets.append(f"{path}={_yaml(value(pool.deployment))}")
    return tuple(sets)


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# --- the traffic ---------------------------------------------------------------------------------


def _traffic(scenario: Scenario, document: dict[str, Any]) -> Iterator[Change]:
    for factor, word in ((MORE, "10% more"), (LESS, "10% less")):
        change = f"{factor - 1:+.0%}"
        try:
            check_scalable(scenario)
            changed = scenario.model_copy(update={"workload": scaled(scenario.workload, factor)})
            yield _changed(document, f"load{change}", f"{word} load", changed)
        except UserError as error:
            yield Change(f"load{change}", "traffic", f"{word} load", (), None, phrase(error))
    for side in ("prompts", "outputs"):
        for factor, word in ((MORE, "longer"), (LESS, "shorter")):
            key, title = f"{side}{factor - 1:+.0%}", f"{side} 10% {word}"
            try:
                changed = longer(scenario, factor, prompts=side == "prompts")
                yield _changed(document, key, title, changed)
            except UserError as error:
                yield Change(key, "traffic", title, (), None, phrase(error))


def _changed(document: dict[str, Any], key: str, title: str, changed: Scenario) -> Change:
    sets = tuple(differences(document, compact(changed)))
    return Change(key, "traffic", title, sets, changed)


def differences(before: Any, after: Any, at: str = "") -> Iterator[str]:
    """``--set`` options that make one document of a scenario from another."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in after:
            below = f"{at}.{key}" if at else str(key)
            yield from differences(before.get(key), after[key], below)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        if after and not isinstance(after[0], dict):
            if before != after:
                yield f"{at}=[{', '.join(map(_yaml, after))}]"
            return
        for i, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, f"{at}.{i}")
    elif before != after:
        yield f"{at}={_yaml(after)}"
