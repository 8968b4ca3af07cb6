"""From launch commands to a scenario, with what they cannot say taken from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from simulator.engines import load_engine
from simulator.errors import UserError
from simulator.hardware import load_hardware
from simulator.launch.cache import most_tokens
from simulator.launch.found import Found
from simulator.resolution.pools import ResolvedPool, resolve_pools
from simulator.scenario.dump import compact
from simulator.scenario.load import load_scenario
from simulator.scenario.scenario import Scenario

_KEPT = ("random_prompts", "kernels", "kv_watermark", "kv_loading")
"""Settings of an engine that no argument says; they stay as the scenario below has them."""

_DRAFTED = ("acceptance", "max_batch", "vocab", "weights", "lookup_us", "precision")


@dataclass(frozen=True, slots=True)
class Rest:
    """What launch commands do not say.

    Args:
        base: everything else.
        workload: the traffic and its SLO.
        hardware: profile of the devices.
        replicas: how many, where the files do not say.
        acceptance: probability that a drafted token is accepted.
    """

    base: Scenario | None = None
    workload: Scenario | None = None
    hardware: str | None = None
    replicas: int | None = None
    acceptance: float | None = None


def assemble(servers: list[Found], rest: Rest) -> tuple[Scenario, list[str]]:
    """The scenario, and notes.

    Raises:
        UserError: hardware or traffic are said nowhere, or the deployment cannot be.
    """
    notes = [note for server in servers for note in server.notes]
    base = compact(rest.base) if rest.base else {}
    traffic = rest.workload or rest.base
    if traffic is None:
        raise UserError(
            "launch commands say nothing about the traffic",
            hint="give --workload or --base with a scenario (a file or a shipped name)",
        )
    kept: tuple[str, ...] = ("name", "description", "cost", "energy", "measurement")
    if servers[0].model.name != base.get("model"):
        kept = kept[2:]  # what it was called would be wrong
    data: dict[str, Any] = {key: base[key] for key in kept if key in base}
    for key in ("workload", "slo"):
        value = compact(getattr(traffic, key))
        if value:
            data[key] = value
    first = servers[0]
    data["model"] = first.model.name
    data["hardware"] = _hardware(first, rest, notes)
    deployment = base.get("deployment", {})
    below = {pool["name"]: pool for pool in deployment.pop("pools", ())}
    _check_roles(servers)
    gone = [name for name in below if name not in {server.name for server in servers}]
    if gone:
        notes.append(f"pools of the base are left out: {', '.join(gone)}")
    if len(servers) == 1 and first.name not in below:
        data |= _parts(first, base.get("engine", {}), rest)
        data["deployment"] = _alone(first, deployment, rest, notes)
    else:
        data["engine"] = {"profile": first.engine}
        deployment.pop("replicas", None)
        _without_scaling(deployment, "pools have replicas of their own", notes)
        for server in servers:
            deployment |= server.fields_below("deployment")
        pools = [
            _pool(server, data, base.get("engine", {}), below, rest, notes) for server in servers
        ]
        data["deployment"] = deployment | {"pools": pools}
    return _with_cache(data, servers), notes


def _check_roles(servers: list[Found]) -> None:
    roles = {server.role for server in servers}
    for role, other in (("prefill", "decode"), ("decode", "prefill")):
        if role in roles and other not in roles:
            raise UserError(
                f"a server with the role {role} needs one with the role {other}",
                hint="import the manifest that starts both",
            )


def _alone(
    found: Found, deployment: dict[str, Any], rest: Rest, notes: list[str]
) -> dict[str, Any]:
    made = dict(deployment)
    if found.autoscaling is not None:
        made.pop("replicas", None)
        made["autoscaling"] = _scaling(found.autoscaling, made.get("autoscaling"))
    elif rest.replicas is not None or found.replicas is not None:
        made["replicas"] = _count(found, rest, notes)
        _without_scaling(made, f"{made['replicas']} replicas are started", notes)
    return made | found.fields_below("deployment")


def _without_scaling(deployment: dict[str, Any], why: str, notes: list[str]) -> None:
    """Leaves out what scales replicas, and how they start where nothing else starts any."""
    if deployment.pop("autoscaling", None):
        notes.append(f"the base's autoscaling is left out: {why}")
        starts = "spot" in deployment or "mtbf_h" in deployment.get("failures", {})
        if not starts and deployment.pop("cold_start", None):
            notes.append("the base's cold_start is left out: no replica starts later")


def _count(found: Found, rest: Rest, notes: list[str]) -> int:
    replicas = found.replicas if rest.replicas is None else rest.replicas
    if not replicas:
        notes.append(f"{found.name}: no replica is started; taken as 1")
    return replicas or 1


def _scaling(read: dict[str, Any], below: dict[str, Any] | None) -> dict[str, Any]:
    """What the file says of scaling over what the scenario says of the same kind."""
    same = below if below and below.get("kind") == read["kind"] else {}
    return same | read


def _hardware(found: Found, rest: Rest, notes: list[str]) -> Any:
    if rest.hardware is not None:
        if found.hardware and load_hardware(rest.hardware).name != found.hardware:
            notes.append(f"the nodes' labels name {found.hardware}; --hardware goes before them")
        return rest.hardware
    known = rest.base.hardware if rest.base else None
    if found.hardware is None and known is None:
        raise UserError(
            "launch commands do not say what they run on",
            hint="give --hardware with a profile (`simulate list hardware`) or --base with a "
            "scenario",
        )
    if known and found.hardware in (None, load_hardware(known.profile).name):
        return compact(known)
    return found.hardware


def _parts(found: Found, below: dict[str, Any], rest: Rest) -> dict[str, Any]:
    """``engine``, ``precision`` and ``parallelism``."""
    profile = below.get("profile", "vllm")
    same = load_engine(profile).name == found.engine
    engine: dict[str, Any] = {"profile": profile if same else found.engine}
    if found.version and not _covers(load_engine(engine["profile"]).version, found.version):
        engine["version"] = found.version
    elif same and not found.version and "version" in below:
        engine["version"] = below["version"]
    for key in _KEPT:
        if key in below and (key, found.engine) != ("kv_watermark", "vllm"):
            engine[key] = below[key]
    engine |= found.fields_below("engine")
    if "kv_offload" not in engine and found.hicache_gb is None:
        engine.pop("kv_loading", None)
    if found.hicache_gb is not None:
        gib = found.hicache_gb * 1e9 * found.devices_needed / (1 << 30)
        engine["kv_offload"] = [{"kind": "host", "gib": gib}]
    if "speculative" in engine:
        engine["speculative"] = _drafts(engine["speculative"], below.get("speculative"), rest)
    made = {"engine": engine}
    for key in ("precision", "parallelism"):
        if found.fields_below(key):
            made[key] = found.fields_below(key)
    return made


def _covers(series: str, release: str) -> bool:
    """Whether a release belongs to the series that a profile speaks of."""
    return release == series or release.startswith(f"{series}.")


def _drafts(read: dict[str, Any], below: dict[str, Any] | None, rest: Rest) -> dict[str, Any]:
    same = below if below and below.get("kind") == read["kind"] else {}
    made = {key: same[key] for key in _DRAFTED if key in same} | read
    if rest.acceptance is not None:
        made["acceptance"] = rest.acceptance
    if "acceptance" not in made:
        raise UserError(
            "how many drafts are accepted is no argument",
            where="engine.speculative",
            hint="give --acceptance with the probability of a drafted token, or --base with a "
            "scenario that has it",
        )
    return made


def _pool(
    found: Found,
    data: dict[str, Any],
    engine: dict[str, Any],
    below: dict[str, dict[str, Any]],
    rest: Rest,
    notes: list[str],
) -> dict[str, Any]:
    known = below.get(found.name, {})
    merged = engine | known.get("engine", {})
    parts = _parts(found, merged, rest)
    made: dict[str, Any] = {"name": found.name}
    if found.role != "serve":
        made["role"] = found.role
    if found.model.name != data["model"]:
        made["model"] = found.model.name
    own = dict(known).get("hardware") if rest.hardware is None else None
    hardware = own if own and found.hardware is None else _hardware(found, rest, notes)
    if hardware != data["hardware"]:
        made["hardware"] = hardware
    if found.autoscaling is not None:
        made["autoscaling"] = _scaling(found.autoscaling, known.get("autoscaling"))
    else:
        made["replicas"] = _count(found, rest, notes)
    if found.autoscaling is None:
        known = dict(known)
        _without_scaling(known, f"the manifest starts the replicas of {found.name}", notes)
    extra = {
        key: value for key, value in known.items()
        if key not in (*made, "role", "model", "hardware", "engine", "precision", "parallelism",
                       "replicas", "autoscaling")
    }  # fmt: skip
    return made | parts | extra


def _with_cache(data: dict[str, Any], servers: list[Found]) -> Scenario:
    """The scenario with the KV caches that commands give the size of."""
    scenario = load_scenario(data)
    pools = resolve_pools(scenario)
    if all(server.kv is None for server in servers):
        return scenario
    listed = data["deployment"].get("pools")
    for number, (server, pool) in enumerate(zip(servers, pools, strict=True)):
        if server.kv is not None:
            holder = listed[number] if listed else data
            holder["engine"]["kv_cache_tokens"] = _tokens(server, pool)
    scenario = load_scenario(data)
    resolve_pools(scenario)
    return scenario


def _tokens(server: Found, pool: ResolvedPool) -> int:
    """Tokens of the replica's KV cache, as a scenario has them."""
    assert server.kv is not None
    unit, amount = server.kv
    deployment = pool.deployment
    ranks = deployment.layout.dp
    if unit == "tokens":
        return amount * ranks
    blocks = amount
    if unit == "bytes":  # whole bytes may be a part of one short of the last block
        blocks = int((amount + 1) / deployment.memory.block_bytes)
    tokens = most_tokens(pool.resolved.layout, blocks)
    if not tokens:
        raise UserError("the KV cache has no room for a token", where=f"its {amount} {unit}")
    return ranks * tokens
