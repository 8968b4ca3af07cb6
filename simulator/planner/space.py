"""From axes to deployments: every kind of deployment that a space holds, and its sizes."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from simulator.errors import ScenarioError, UserError
from simulator.hardware import load_hardware, profile_names
from simulator.planner.document import Asked, Part, Plan, Range, Space
from simulator.planner.traffic import scaled
from simulator.scenario import Scenario
from simulator.scenario.dump import compact
from simulator.scenario.precision import Precision
from simulator.sentences import validation_sentence

MOST_KINDS = 20_000
"""Combinations of axes; more are a mistake."""

Counts = tuple[int, ...]
"""Replicas of each pool; empty where the scenario's autoscaling says how many there are."""


@dataclass(frozen=True)
class Kind:
    """A deployment but for the number of its replicas.

    Args:
        index: its place in the space.
        axes: what each axis that varies says, in words.
        data: the scenario as plain data, without replicas.
        pools: names of the pools; empty where all replicas are alike.
    """

    index: int
    axes: Mapping[str, str]
    data: Mapping[str, Any]
    pools: tuple[str, ...] = ()

    def sized(self, counts: Counts) -> dict[str, Any]:
        """The scenario's data with so many replicas."""
        data = copy.deepcopy(dict(self.data))
        deployment = data.setdefault("deployment", {})
        if self.pools:
            for pool, count in zip(deployment["pools"], counts, strict=True):
                pool["replicas"] = count
        elif counts:
            (deployment["replicas"],) = counts
        return data

    def scenario(self, counts: Counts, *, load: float = 1.0, seed: int | None = None) -> Scenario:
        """The scenario with so many replicas, ``load`` times the traffic, and another seed.

        Raises:
            UserError: it contradicts itself.
        """
        data = self.sized(counts)
        try:
            scenario = Scenario.model_validate(data)
        except ValidationError as error:
            raise validation_sentence(error, "space", {}, Scenario) from None
        changes: dict[str, Any] = {}
        if load != 1.0:
            changes["workload"] = scaled(scenario.workload, load)
        if seed is not None:
            changes["measurement"] = scenario.measurement.model_copy(update={"seed": seed})
        return scenario.model_copy(update=changes) if changes else scenario

    @property
    def autoscaled(self) -> bool:
        """Replicas come and go; there is no number of them."""
        return bool(self.data.get("deployment", {}).get("autoscaling"))

    def __str__(self) -> str:
        return ", ".join(self.axes.values()) or "as the scenario says"


def kinds(asked: Asked) -> list[Kind]:
    """Every combination of the axes.

    Raises:
        UserError: an axis contradicts the scenario, or there is no combination or too many.
    """
    plan, base = asked.plan, asked.scenario
    _check(plan, base)
    data = compact(base)
    axes = [(name, _distinct(values)) for name, values in _axes(plan.space, base)]
    total = 1
    for _, values in axes:
        total *= len(values)
    if total > MOST_KINDS:
        raise UserError(
            f"holds {total:,} combinations before replicas are counted",
            where="space",
            hint=f"list fewer values; at most {MOST_KINDS:,} are searched",
        )
    found: list[Kind] = []
    varied = {name for name, values in axes if len(values) > 1}
    for combination in itertools.product(*(values for _, values in axes)):
        chosen = dict(zip((name for name, _ in axes), combination, strict=True))
        found += _of(chosen, data, plan.space, varied)
    return [replace(kind, index=index) for index, kind in enumerate(_once(found))]


def _once(kinds: Sequence[Kind]) -> Iterator[Kind]:
    """Each kind once: where both pools have an axis of their own, the space's says nothing."""
    seen: set[str] = set()
    for kind in kinds:
        if kind.pools:
            key = json.dumps(kind.data, sort_keys=True)
            if key in seen:
                continue
            seen.add(key)
        yield kind


def sizes(kind: Kind, space: Space, devices: Counts) -> list[Counts]:
    """The numbers of replicas to choose from, the fewest devices first.

    Args:
        kind: of deployment.
        space: it belongs to.
        devices: that a replica of each pool has.
    """
    if kind.autoscaled:
        return [()]
    parts = [space.prefill, space.decode] if kind.pools else [Part()]
    ranges = [
        _numbers(part.replicas or space.replicas, space.max_devices // each)
        for part, each in zip(parts, devices, strict=True)
    ]
    found = [
        counts
        for counts in itertools.product(*ranges)
        if sum(n * each for n, each in zip(counts, devices, strict=True)) <= space.max_devices
    ]
    return sorted(
        found, key=lambda c: (sum(n * each for n, each in zip(c, devices, strict=True)), c)
    )


def _numbers(asked: Counts | Range | None, most: int) -> Counts:
    if asked is None:
        return tuple(range(1, most + 1))
    return asked.values if isinstance(asked, Range) else tuple(sorted(set(asked)))


# --- axes ----------------------------------------------------------------------------------------

_AXES = {
    "hardware": "hardware",
    "engine.profile": "engine",
    "precision": "precision",
    "parallelism.tp": "tp",
    "parallelism.pp": "pp",
    "parallelism.dp": "dp",
    "parallelism.ep": "ep",
    "parallelism.cp": "cp",
    "deployment.replicas": "replicas",
    "deployment.pools": "layouts",
    "cost.plan": "price_plans",
}
"""Keys that have an axis of their own."""

_NAMES = (
    "hardware", "price plan", "engine", "precision", "layout", "tp", "pp", "dp", "ep", "cp",
)  # fmt: skip
"""What the axes are called; all others are keys of the scenario (``set``)."""


_SAME = ("workload", "slo", "measurement")
"""Keys of the scenario that say what is asked of all deployments alike."""


def _check(plan: Plan, base: Scenario) -> None:
    space = plan.space
    for key in space.set:
        if key.partition(".")[0] in _SAME:
            raise UserError(
                f"{key} is what all deployments are compared by, and no property of one",
                where=f"space.set.{key}",
                hint="change it in the scenario; `simulate sweep SCENARIO --vary` compares several",
            )
        for taken, axis in _AXES.items():
            if key == taken or key.startswith(f"{taken}.") or taken.startswith(f"{key}."):
                entry = f", as {{{key.rpartition('.')[2]}: …}}" if axis == "precision" else ""
                raise UserError(
                    f"{key} has an axis of its own", where=f"space.set.{key}",
                    hint=f"list its values at space.{axis}{entry if key != taken else ''}",
                )  # fmt: skip
    scales = base.deployment.autoscaling is not None
    if scales and space.replicas is not None and "deployment.autoscaling" not in space.set:
        raise UserError(
            "there is no number of replicas to choose where the scenario's autoscaling does",
            where="space.replicas",
            hint="leave it out, or leave deployment.autoscaling out of the scenario",
        )
    if base.deployment.pools:
        raise UserError(
            "the scenario has pools already, so that there are no replicas to choose",
            where="scenario",
            hint="leave deployment.pools out; layouts: [together, apart] tries both",
        )
    if base.cost.usd_per_device_hour is not None and (
        space.hardware == "priced" or len(space.hardware) > 1 or space.price_plans
    ):
        raise UserError(
            "the scenario's cost.usd_per_device_hour would price all devices alike",
            where="space.hardware",
            hint="leave it out, so that the profiles' prices count, or list one device",
        )


def _axes(space: Space, base: Scenario) -> Iterator[tuple[str, list[Any]]]:
    plans = list(space.price_plans or (base.cost.plan,))
    if space.hardware == "priced":
        devices: list[Any] = [
            {"profile": name}
            for name in profile_names()
            if any(price.plan in plans for price in load_hardware(name).prices)
        ]
        if not devices:
            raise UserError(
                f"no profile has a price in the plan {' or '.join(plans)}",
                where="space.hardware",
                hint="list devices, and give cost.usd_per_device_hour or profiles with prices",
            )
    else:
        devices = [
            {"profile": item} if isinstance(item, str) else compact(item) for item in space.hardware
        ]
    yield "hardware", devices
    yield "price plan", plans
    yield "engine", list(space.engine or (base.engine.profile,))
    yield "precision", [compact(p) for p in space.precision or (base.precision,)]
    yield "layout", list(space.layouts)
    for name in ("tp", "pp", "dp", "ep", "cp"):
        values = getattr(space, name)
        yield name, list(values) if values is not None else [None]
    for key, values in space.set.items():
        yield key, list(values)


def _distinct(values: Sequence[Any]) -> list[Any]:
    """The values without those that stand there already."""
    return list({json.dumps(value, sort_keys=True): value for value in values}.values())


def _of(
    chosen: Mapping[str, Any], base: Mapping[str, Any], space: Space, varied: set[str]
) -> list[Kind]:
    """The kinds of one combination: several where an axis is left open."""
    hardware = load_hardware(chosen["hardware"]["profile"])
    plan = chosen["price plan"]
    priced = any(price.plan == plan for price in hardware.prices)
    if space.hardware == "priced" and not priced:
        return []
    found: list[Kind] = []
    for tp in [chosen["tp"]] if chosen["tp"] is not None else _up_to_a_node(hardware.node.devices):
        own = {**chosen, "tp": tp}
        for parts in _parts(own, space):
            own = _settled(own, parts)
            data = _data(own, base, parts)
            if not parts and "apart" in space.layouts:  # what moves between pools is theirs
                data["deployment"].pop("transfer", None)
            words = _words(own, parts, varied)
            pools = tuple(name for name, _ in parts)
            found.append(Kind(len(found), words, data, pools))
    return found


def _up_to_a_node(devices: int) -> list[int]:
    return [1 << power for power in range(devices.bit_length()) if 1 << power <= devices]


def _parts(chosen: Mapping[str, Any], space: Space) -> list[tuple[tuple[str, dict[str, Any]], ...]]:
    """The pools, by name, each with what it overrides: none where all replicas are alike."""
    if chosen["layout"] == "together":
        return [()]
    options = []
    for name, part in (("prefill", space.prefill), ("decode", space.decode)):
        devices = [None, *()] if part.hardware is None else list(part.hardware)
        widths = [None] if part.tp is None else list(part.tp)
        options.append([(name, _overrides(d, tp)) for d in devices for tp in widths])
    return list(itertools.product(*options))


def _settled(
    chosen: Mapping[str, Any], parts: Sequence[tuple[str, Mapping[str, Any]]]
) -> dict[str, Any]:
    """The same, where all pools override an axis with what the first of them has."""
    settled = dict(chosen)
    pools = [overrides for _, overrides in parts]
    if pools and all("hardware" in own for own in pools) and len(chosen["hardware"]) == 1:
        settled["hardware"] = pools[0]["hardware"]
    if pools and all("parallelism" in own for own in pools):
        settled["tp"] = pools[0]["parallelism"]["tp"]
    return settled


def _overrides(hardware: str | None, tp: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if hardware is not None:
        found["hardware"] = {"profile": hardware}
    if tp is not None:
        found["parallelism"] = {"tp": tp}
    return found


def _data(
    chosen: Mapping[str, Any],
    base: Mapping[str, Any],
    parts: tuple[tuple[str, dict[str, Any]], ...],
) -> dict[str, Any]:
    data = copy.deepcopy(dict(base))
    for key, value in chosen.items():
        if key not in _NAMES:
            put(data, key, copy.deepcopy(value))
    data["hardware"] = dict(chosen["hardware"])
    data["precision"] = dict(chosen["precision"])
    engine = data.setdefault("engine", {})
    if engine.get("profile", None) != chosen["engine"] and "engine.version" not in chosen:
        engine.pop("version", None)
    engine["profile"] = chosen["engine"]
    data.setdefault("cost", {})["plan"] = chosen["price plan"]
    widths = data.setdefault("parallelism", {})
    widths.update({name: chosen[name] for name in ("tp", "pp", "dp", "ep", "cp")})
    deployment = data.setdefault("deployment", {})
    deployment.pop("replicas", None)
    if not any(deployment.get(name) for name in ("autoscaling", "failures", "spot")):
        deployment.pop("cold_start", None)  # nothing starts while it runs
    if parts:
        deployment["pools"] = [
            {"name": name, "role": name, **copy.deepcopy(overrides)} for name, overrides in parts
        ]
    return data


def put(data: dict[str, Any], path: str, value: Any) -> None:
    """Sets the value at a dotted path, making mappings on the way.

    Raises:
        ScenarioError: the path leads through something that has no keys.
    """
    *above, last = path.split(".")
    holder: Any = data
    for position, key in enumerate(above):
        if isinstance(holder, list) and key.isdigit() and int(key) < len(holder):
            holder = holder[int(key)]
            continue
        if not isinstance(holder, dict):
            raise ScenarioError(
                f"{'.'.join(above[:position])} has no key '{key}'", where=f"space.set.{path}"
            )
        if holder.get(key) is None:
            holder[key] = {}
        holder = holder[key]
    if isinstance(holder, list) and last.isdigit() and int(last) < len(holder):
        holder[int(last)] = value
    elif isinstance(holder, dict):
        holder[last] = value
    else:
        raise ScenarioError(f"{'.'.join(above)} has no key '{last}'", where=f"space.set.{path}")


# --- words ---------------------------------------------------------------------------------------


def _words(
    chosen: Mapping[str, Any],
    parts: tuple[tuple[str, dict[str, Any]], ...],
    varied: set[str],
) -> dict[str, str]:
    """What distinguishes a kind: its devices always, other axes where they vary."""
    own = chosen["hardware"]["profile"]
    devices = [overrides.get("hardware", {}).get("profile", own) for _, overrides in parts]
    words = {"hardware": " + ".join(dict.fromkeys(devices)) or own, "tp": f"tp{chosen['tp']}"}
    for name in ("pp", "dp", "ep", "cp"):
        if chosen[name] != 1:
            words[name] = f"{name}{chosen[name]}"
    if "engine" in varied:
        words["engine"] = chosen["engine"]
    if "precision" in varied:
        words["precision"] = precision_words(chosen["precision"])
    if "price plan" in varied:
        words["price plan"] = chosen["price plan"].replace("_", "-")
    if parts:
        words["layout"] = "prefill and decode apart"
        for name, overrides in parts:
            device = overrides.get("hardware", {}).get("profile", "")
            width = overrides.get("parallelism", {}).get("tp")
            text = " ".join(filter(None, (device, f"tp{width}" if width else "")))
            if text:
                words[name] = f"{name} {text}"
    for key in chosen:
        if key not in _NAMES and key in varied:
            words[key] = f"{key.rpartition('.')[2]} {value_words(chosen[key])}"
    return words


def precision_words(precision: Mapping[str, Any]) -> str:
    """``fp8``, ``fp8, KV cache fp8``."""
    known = Precision.model_validate(precision)
    words: list[str] = [known.weights or "native weights"]
    words += [f"KV cache {known.kv_cache}"] if known.kv_cache else []
    words += [f"activations {known.activations}"] if known.activations else []
    others = {k: v for k, v in precision.items() if k not in ("weights", "kv_cache", "activations")}
    words += [f"{key} {value_words(value)}" for key, value in others.items()]
    return ", ".join(words)


def value_words(value: Any) -> str:
    """A value of an axis, short."""
    if isinstance(value, Mapping):
        kind = [str(value["kind"])] if "kind" in value else []
        rest = [f"{key} {value_words(item)}" for key, item in value.items() if key != "kind"]
        return " ".join([*kind, *rest]) or "default"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
