"""What a scenario says about replicas that come and go, in figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import inf

from simulator.cluster.starting import Life, Start, Weights
from simulator.costs.memory import GIB
from simulator.deployment import ResolvedDeployment
from simulator.errors import ScenarioError
from simulator.scenario.deployment import Deployment
from simulator.scenario.lifecycle import (
    ColdStart,
    Outage,
    ScheduleScaling,
    Slowdown,
    WeightsFromDisk,
    WeightsFromHostMemory,
    WeightsFromNetwork,
)
from simulator.scenario.policies import (
    DynamicPolicy,
    FullReservationPolicy,
    Policy,
    StaticPolicy,
)
from simulator.scenario.pools import Pool

LONGEST_START_S = 86_400.0
"""A day: decisions go on while a replica starts, and a run would not end."""


def life_of(deployment: ResolvedDeployment) -> Life | None:
    """Why the replicas of a pool come and go; None if all are up all the time.

    Args:
        deployment: the pool's, whose scenario speaks of this pool alone.

    Raises:
        ScenarioError: settings without an effect, or that contradict each other.
    """
    serving = deployment.scenario.deployment
    starts = serving.autoscaling is not None or serving.spot is not None
    failures = serving.failures
    if failures is not None:
        most = serving.autoscaling.most if serving.autoscaling else serving.replicas
        named: dict[str, tuple[Outage | Slowdown, ...]] = {
            "outages": failures.outages,
            "slowdowns": failures.slowdowns,
        }
        for key, times in named.items():
            for place, each in enumerate(times):
                if each.replica >= most:
                    raise ScenarioError(
                        f"there is no replica {each.replica}",
                        where=f"deployment.failures.{key}.{place}.replica",
                        hint=f"numbers go from 0 to {most - 1}",
                    )
        starts = starts or failures.mtbf_h is not None
    if not starts and serving.cold_start != ColdStart():
        raise ScenarioError(
            "no replica ever starts, so that cold_start changes nothing",
            where="deployment.cold_start",
            hint="give autoscaling, spot or failures.mtbf_h, or leave it out",
        )
    life = Life(
        count=serving.replicas,
        start=_start(serving.cold_start, deployment),
        scaling=serving.autoscaling,
        failures=failures,
        spot=serving.spot,
    )
    _check_timetable(life)
    if life.changes and life.start.alone_s > LONGEST_START_S:
        raise ScenarioError(
            f"a start of {life.start.alone_s:,.0f} s is no cold start",
            where="deployment.cold_start",
            hint=f"at most {LONGEST_START_S:,.0f} s, weights included",
        )
    return life if life.changes else None


def _check_timetable(life: Life) -> None:
    """Some replica must have the time to start while any is wanted."""
    table = life.scaling
    if not isinstance(table, ScheduleScaling):
        return
    # Twice, because the last stretch of a period goes on in the next one.
    steps = [
        (at + step.at_s, step.replicas) for at in (0.0, table.period_s) for step in table.steps
    ]
    longest = begun = 0.0
    for (_, count), (until, _) in pairwise([*steps, (2.0 * table.period_s, 0)]):
        if count:
            longest = max(longest, until - begun)
        else:
            begun = until
    if any(count == 0 for _, count in steps) and longest <= life.start.alone_s:
        raise ScenarioError(
            f"replicas are wanted for {longest:g} s at most, and take {life.start.alone_s:g} s to "
            "start, so that none would ever serve",
            where="deployment.autoscaling.steps",
            hint="want them earlier, or make cold_start shorter",
        )


def _start(asked: ColdStart, deployment: ResolvedDeployment) -> Start:
    return Start(asked.provisioning_s, asked.boot_s, asked.warmup_s, _weights(asked, deployment))


def _weights(asked: ColdStart, deployment: ResolvedDeployment) -> Weights | None:
    """Bytes and rates; no device gets its weights faster than over its link to the host."""
    source = asked.weights_from
    if source is None:
        return None
    node = deployment.hardware.node
    devices = deployment.devices_per_replica
    each = deployment.memory.weights_gib * GIB
    link = node.host_link_gb_per_s
    link_bytes_per_s = inf if link is None else link.value * 1e9
    on_node = min(devices, node.devices)
    lies = Weights(
        node_bytes=each * on_node,
        nodes=-(-devices // node.devices),
        per_node=max(1, node.devices // devices),
    )
    if isinstance(source, WeightsFromHostMemory):
        if source.gb_per_s is not None:
            link_bytes_per_s = min(link_bytes_per_s, source.gb_per_s * 1e9)
        if link_bytes_per_s == inf:
            raise ScenarioError(
                f"the profile of {deployment.hardware.title} has no link to the host",
                where="deployment.cold_start.weights_from.gb_per_s",
                hint="give it here",
            )
        return replace(lies, least_s=each / link_bytes_per_s)
    store = inf
    if isinstance(source, WeightsFromNetwork) and source.store_gb_per_s is not None:
        store = source.store_gb_per_s * 1e9
    assert isinstance(source, WeightsFromDisk | WeightsFromNetwork)
    return replace(
        lies,
        node_bytes_per_s=source.gb_per_s * 1e9,
        store_bytes_per_s=store,
        least_s=each / link_bytes_per_s,
    )


def check_serving(
    serving: Deployment, lives: Sequence[Life | None], policies: Sequence[Policy]
) -> None:
    """Refuses settings about requests without a replica that have no effect or no meaning.

    Args:
        serving: of the whole deployment.
        lives: of its pools.
        policies: of their engines.
    """
    crash = any(life and (life.spot or (life.failures and life.failures.crash)) for life in lives)
    if serving.retry is not None:
        if not crash:
            raise ScenarioError(
                "no replica ever crashes, so that retry changes nothing",
                where="deployment.retry",
                hint="give failures or spot, or leave it out",
            )
        whole = [policy.kind for policy in policies if not _goes_on(policy)]
        if serving.retry.mode == "resume" and whole:
            raise ScenarioError(
                f"an answer cannot go on under the policy {whole[0]}, which takes prompts whole",
                where="deployment.retry.mode",
                hint="use restart, or another engine.policy",
            )
    waits = crash or serving.gateway.max_concurrency is not None
    waits = waits or any(life and life.scaling for life in lives)
    if serving.gateway.max_queue is not None and not waits:
        raise ScenarioError(
            "no request ever waits at the gateway, so that max_queue changes nothing",
            where="deployment.gateway.max_queue",
            hint="give gateway.max_concurrency, or leave it out",
        )


def _goes_on(policy: Policy) -> bool:
    """Whether a prompt and the answer so far, longer than any prompt, can be computed anew."""
    if isinstance(policy, FullReservationPolicy):
        return policy.chunked_prefill
    return not isinstance(policy, StaticPolicy | DynamicPolicy)


def of_pool(serving: Deployment, pool: Pool) -> dict[str, object]:
    """What a pool says of its own about lives, over what the deployment says for all."""
    own = {
        "cold_start": pool.cold_start,
        "autoscaling": pool.autoscaling,
        "failures": pool.failures,
        "spot": pool.spot,
    }
    return {key: value for key, value in own.items() if value is not None}
