"""``check``, ``init`` and ``schema``: everything about a scenario short of simulating it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.cli.output import echo_json, echo_table
from simulator.errors import UserError

if TYPE_CHECKING:
    from simulator.costs.protocol import StepCost
    from simulator.deployment import ResolvedDeployment
    from simulator.resolution.pools import ResolvedPool
    from simulator.scenario import Scenario
    from simulator.workload.requests import Requests

scenario_argument = click.argument("file", metavar="FILE")
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    help="Replace one value, e.g. --set hardware=h200-sxm --set slo.ttft_ms=300.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else."
)


@contextmanager
def loaded(file: str, overrides: Sequence[str]) -> Iterator[Scenario]:
    """The scenario; errors inside that speak of one of its keys get the key's file and line."""
    from simulator.scenario.load import load_with_places

    scenario, located = load_with_places(file, overrides)
    try:
        yield scenario
    except UserError as error:
        raise located(error) from None


@click.command()
@scenario_argument
@set_option
@json_option
def check(file: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check a scenario: is it right, and does the model fit? Of a plan: how large is the search?

    FILE is a YAML file, the name of a shipped scenario or plan, or - for a scenario on standard
    input.
    """
    from simulator.planner.document import is_plan

    if is_plan(file):
        _check_plan(file, overrides, as_json)
        return
    import numpy as np

    from simulator.cluster.feasible import check_groups
    from simulator.resolution.pools import group_of, resolve_pools
    from simulator.resolution.transfers import paths_of
    from simulator.workload import build_requests

    with loaded(file, overrides) as scenario:
        pools = resolve_pools(scenario)
        paths_of(scenario, pools)
        rng = np.random.default_rng(scenario.measurement.seed)
        requests = build_requests(scenario.workload, rng)
        groups = [group_of(pool, pool.resolved.cost, pool.resolved.front_end) for pool in pools]
        refused = check_groups(requests, groups, oversized=scenario.deployment.oversized_requests)
    if as_json:
        echo_json(_document(scenario, pools, requests, int(refused.sum())))
        return
    click.echo(f"{file} is right.\n")
    for pool in pools:
        if len(pools) > 1:
            shared = f", on the devices of {pool.shares}" if pool.shares else ""
            click.echo(f"Pool {pool.name}, role {pool.role}{shared}:\n")
        rows = [*_deployment_rows(pool), *_balance_rows(pool.resolved.cost, requests)]
        echo_table(["", ""], rows, header=False)
        click.echo()
        echo_table(["memory of a device", "GiB"], _memory_rows(pool.deployment), numbers={"GiB"})
        click.echo("\n".join(_memory_lines(pool.deployment)) + "\n")
    echo_table(["", ""], _traffic_rows(requests, int(refused.sum())), header=False)


def _check_plan(file: str, overrides: tuple[str, ...], as_json: bool) -> None:
    from simulator.planner.document import load_plan
    from simulator.planner.plan import described

    if overrides:
        raise UserError("a plan has no --set", hint="change the plan, or the scenario it names")
    asked = load_plan(file)
    try:
        found = described(asked)
    except UserError as error:
        raise asked.located(error) from None
    if as_json:
        echo_json({"ok": True, **found})
        return
    from simulator.cli.output import console
    from simulator.planner.report.terminal import render_asked

    click.echo(f"{file} is right.\n")
    render_asked(found, console())


def _deployment_rows(pool: ResolvedPool) -> list[list[str]]:
    deployment, life = pool.deployment, pool.life
    limits, precision = deployment.limits, deployment.precision
    each = deployment.devices_per_replica
    most = pool.most
    replicas = str(most)
    if life and life.scaling:
        replicas = f"{life.at_start} at the start, {most} at most,"
    price = deployment.usd_per_device_hour
    return [
        ["model", deployment.model.name],
        ["hardware", f"{most * each} × {deployment.hardware.title}"],
        ["replicas", f"{replicas} of {each} device{'s' if each > 1 else ''} each"],
        *([["cold start", f"{life.start.alone_s:,.1f} s"]] if life and life.start.alone_s else []),
        ["engine", f"{deployment.engine.title} {deployment.engine.version}"],
        ["policy", limits.policy.kind],
        [
            "precision",
            f"weights {precision.weights}, activations {precision.activations}, "
            f"KV cache {precision.kv_cache}",
        ],
        [
            "limits",
            f"{limits.max_num_seqs:,} sequences, {limits.max_num_batched_tokens:,} tokens a step, "
            f"{limits.max_model_len:,} tokens a sequence",
        ],
        [
            "price",
            f"${price:.2f} a device and hour ({deployment.price_note})"
            if price
            else deployment.price_note,
        ],
    ]


def _turning_points(cost: StepCost, requests: Requests) -> dict[str, int | None] | None:
    """Sequences at which decoding turns compute-bound; None where the cost model has no single
    device's operators."""
    from simulator.costs.balance import turning_points

    context = requests.context_tokens
    found = turning_points(cost, context)
    if found is None:
        return None
    return {"context_tokens": context, "products": found[0], "whole_step": found[1]}


def _balance_rows(cost: StepCost, requests: Requests) -> list[list[str]]:
    found = _turning_points(cost, requests)
    if found is None:
        return []

    def at(batch: int | None) -> str:
        return "at no batch" if batch is None else f"from {batch:,} sequences on"

    return [
        [
            "decode",
            f"products are compute-bound {at(found['products'])}, whole steps "
            f"{at(found['whole_step'])} ({found['context_tokens']:,} tokens of context each)",
        ]
    ]


def _memory_rows(deployment: ResolvedDeployment) -> list[list[str]]:
    memory = deployment.memory
    rows = [
        ("device", memory.device_gib),
        ("− weights", memory.weights_gib),
        ("− activations", memory.activations_gib),
        ("− reserved", memory.reserved_gib),
        ("− left unused", memory.unused_gib),
        ("= KV cache", memory.kv_cache_gib),
    ]
    if memory.beside_gib:
        rows.insert(2, ("  (the draft's of them)", memory.beside_gib))
    return [[name, f"{gib:.2f}"] for name, gib in rows]


def _memory_lines(deployment: ResolvedDeployment) -> list[str]:
    memory = deployment.memory
    size = f"The rule: {memory.rule}."
    if not deployment.model.grows and memory.state_blocks:
        return [size, f"A replica keeps the states of {memory.kv_blocks:,} sequences."]
    lines = [
        size,
        f"A replica's cache has {memory.kv_blocks:,} blocks of {deployment.limits.block_size} "
        f"tokens: {memory.kv_tokens:,} tokens.",
    ]
    lanes = max(deployment.layout.pp, deployment.layout.dp)
    if lanes > 1:
        share = memory.kv_blocks // lanes * deployment.limits.block_size
        lines.append(
            f"Its {lanes} lanes have equal shares, so a request can have {share:,} tokens."
        )
    if memory.state_blocks:
        lines.append(f"A sequence takes {memory.state_blocks:,} of them for its recurrent state.")
    return lines


def _traffic_rows(requests: Requests, refused: int) -> list[list[str]]:
    inputs, outputs = requests.input_tokens, requests.output_tokens
    return [
        ["traffic", requests.source],
        ["requests", f"{len(requests):,}"],
        ["input tokens", f"mean {inputs.mean():,.0f}, longest {inputs.max():,}"],
        ["output tokens", f"mean {outputs.mean():,.0f}, longest {outputs.max():,}"],
        *([["rejected", f"{refused:,} that can never fit"]] if refused else []),
        *[["note", note] for note in requests.notes],
    ]


def _document(
    scenario: Scenario, pools: Sequence[ResolvedPool], requests: Requests, refused: int
) -> dict[str, Any]:
    from simulator.scenario.dump import compact

    several = len(pools) > 1
    return {
        "ok": True,
        "scenario": compact(scenario),
        **_machine(pools[0].deployment),
        "devices": sum(
            pool.most * pool.deployment.devices_per_replica for pool in pools if not pool.shares
        ),
        "compute_bound_batch": _turning_points(pools[0].resolved.cost, requests),
        "pools": {
            pool.name: _machine(pool.deployment)
            | {"devices": pool.most * pool.deployment.devices_per_replica}
            for pool in pools
            if several
        },
        "traffic": {
            "source": requests.source,
            "requests": len(requests),
            "requests_that_never_fit": refused,
            "input_tokens_mean": float(requests.input_tokens.mean()),
            "input_tokens_max": int(requests.input_tokens.max()),
            "output_tokens_mean": float(requests.output_tokens.mean()),
            "output_tokens_max": int(requests.output_tokens.max()),
        },
    }


def _machine(deployment: ResolvedDeployment) -> dict[str, Any]:
    from dataclasses import asdict

    limits = deployment.limits
    return {
        "model": deployment.model.name,
        "hardware": deployment.hardware.name,
        "engine": {"name": deployment.engine.name, "version": deployment.engine.version},
        "devices": deployment.devices,
        "limits": {
            "policy": limits.policy.model_dump(),
            "max_num_seqs": limits.max_num_seqs,
            "max_num_batched_tokens": limits.max_num_batched_tokens,
            "max_model_len": limits.max_model_len,
            "block_size": limits.block_size,
            "prefix_caching": limits.prefix_caching,
            "cuda_graphs": limits.cuda_graphs,
        },
        "precision": asdict(deployment.precision),
        "memory": asdict(deployment.memory),
        "usd_per_device_hour": deployment.usd_per_device_hour,
    }


@click.command()
@click.option("--plan", is_flag=True, help="That of a plan instead.")
def schema(plan: bool) -> None:
    """Print the JSON schema of a scenario, or of a plan."""
    if plan:
        from simulator.planner.schema import plan_schema

        echo_json(plan_schema())
        return
    from simulator.scenario.schema import json_schema

    echo_json(json_schema())


@click.command()
@click.argument("name", required=False)
@click.option("--plan", is_flag=True, help="A plan instead of a scenario.")
@click.option("--out", metavar="FILE", help="Where to write it; - prints it.  [default: NAME.yaml]")
def init(name: str | None, plan: bool, out: str | None) -> None:
    """Write a commented scenario, or plan, to start from. Never overwrites a file.

    NAME is its name; my-scenario or my-plan without one.
    """
    name = name or ("my-plan" if plan else "my-scenario")
    if plan:
        from simulator.planner.starter import starter
    else:
        from simulator.scenario.starter import starter

    text = starter(name)
    if out == "-":
        click.echo(text, nl=False)
        return
    path = Path(out or f"{name}.yaml")
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise UserError(
            "already exists and is left as it is", where=str(path), hint="choose another --out"
        ) from None
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(path)) from None
    click.echo(f"Wrote {path}. Next: simulate {'plan' if plan else 'run'} {path}")
