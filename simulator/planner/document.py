"""The plan file: what is asked of a search, and how it is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from simulator.engines import load_engine
from simulator.errors import UnknownNameError, UserError
from simulator.features.paths import leads_somewhere
from simulator.hardware import load_hardware
from simulator.paths import expanded
from simulator.planner.constraints import Constraint
from simulator.planner.objectives import Objective
from simulator.scenario import Scenario
from simulator.scenario.base import Count, Model, NonNegativeFloat, PositiveFloat
from simulator.scenario.confined import check_within
from simulator.scenario.document import anchor_paths
from simulator.scenario.hardware import Hardware
from simulator.scenario.load import MAPPING, load_with_places, resolve_reference
from simulator.scenario.precision import Precision
from simulator.yamlio import Lines, load_yaml, parse_yaml, validation_sentence

if TYPE_CHECKING:
    from simulator.workload.requests import Requests

Counts = Annotated[tuple[Count, ...], Field(min_length=1, max_length=64)]
Plan_ = Literal["on_demand", "reserved", "spot"]


class Range(Model):
    """Every whole number from ``min`` to ``max``, or every ``step``-th."""

    min: Annotated[int, Field(ge=1, le=4096, strict=True)] = Field(1, description="the smallest")
    max: Annotated[int, Field(ge=1, le=4096, strict=True)] = Field(description="the largest")
    step: Count = Field(1, description="from one to the next")

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max})")
        return self

    @property
    def values(self) -> tuple[int, ...]:
        """The numbers."""
        return tuple(range(self.min, self.max + 1, self.step))


class Part(Model):
    """Replicas that compute prompts, or those that go on, where both stand apart."""

    hardware: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="devices; default: those of the other axis"
    )
    tp: Counts | None = Field(None, description="tensor parallelism; default: that of the axis")
    replicas: Counts | Range | None = Field(
        None, description="how many; default: as many as the space's replicas"
    )


class Space(Model):
    """Which deployments there are to choose from: every combination of what the axes list. What no
    axis speaks of is as in the scenario."""

    hardware: Literal["priced"] | Annotated[tuple[str | Hardware, ...], Field(min_length=1)] = (
        Field("priced", description="devices; priced: all profiles with a price in a price plan")
    )
    engine: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="engine profiles; default: the scenario's"
    )
    precision: Annotated[tuple[Precision, ...], Field(min_length=1)] | None = Field(
        None, description="number formats; default: the scenario's"
    )
    tp: Counts | None = Field(
        None, description="tensor parallelism; default: all powers of two up to a node"
    )
    pp: Counts = Field((1,), description="pipeline stages")
    dp: Counts = Field((1,), description="data-parallel attention ranks")
    ep: Counts = Field((1,), description="groups of devices with different experts")
    cp: Counts = Field((1,), description="context parallelism")
    replicas: Counts | Range | None = Field(
        None, description="replicas; default: as many as max_devices allows"
    )
    layouts: Annotated[tuple[Literal["together", "apart"], ...], Field(min_length=1)] = Field(
        ("together",),
        description="together: replicas serve whole requests; apart: some compute prompts, others "
        "go on",
    )
    prefill: Part = Field(Part(), description="replicas for prompts, with apart")
    decode: Part = Field(Part(), description="replicas that go on, with apart")
    price_plans: Annotated[tuple[Plan_, ...], Field(min_length=1)] | None = Field(
        None, description="price plans; default: the scenario's cost.plan"
    )
    max_devices: Annotated[int, Field(ge=1, le=4096, strict=True)] = Field(
        64, description="most devices of a deployment"
    )
    max_power_kw: PositiveFloat | None = Field(
        None, description="most power of all devices at TDP, times PUE"
    )
    set: dict[str, Annotated[tuple[Any, ...], Field(min_length=1, max_length=64)]] = Field(
        {}, description="further keys of the scenario, each with the values to try"
    )

    @field_validator("precision", mode="before")
    @classmethod
    def _by_weights(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            return value
        return [{"weights": item} if isinstance(item, str) else item for item in value]

    @model_validator(mode="after")
    def _apart_or_not(self) -> Space:
        if "apart" not in self.layouts and (self.prefill != Part() or self.decode != Part()):
            raise ValueError("prefill and decode need 'apart' among the layouts")
        return self


class Plan(Model):
    """A search: the traffic and SLO of a scenario, the deployments to choose from, what they must
    hold, and what is best."""

    name: Annotated[str, Field(min_length=1, max_length=80)] = Field(
        "plan", description="how reports and folders call it"
    )
    description: str = Field("", description="what the plan is for; shown in reports")
    scenario: str | dict[str, Any] = Field(
        description="a scenario's file or name, or a scenario itself: traffic, SLO and all that "
        "the space leaves open"
    )
    space: Space = Field(Space.model_validate({}), description="the deployments to choose from")
    constraints: tuple[Constraint, ...] = Field(
        (), description="what must hold; default: the scenario's SLO for every traffic class"
    )
    objective: Objective = Field(
        Objective(metric="cost_per_hour"), description="what is best: a name or a metric"
    )
    headroom: Annotated[NonNegativeFloat, Field(le=10)] = Field(
        0.0, description="share by which traffic may grow: all must hold with so much more"
    )
    spare_replicas: Annotated[int, Field(ge=0, le=64, strict=True)] = Field(
        0, description="replicas, of each pool, that may be missing while all holds"
    )
    max_lost_share: Annotated[float, Field(ge=0, le=1, strict=True)] = Field(
        0.0, description="share of requests that may be rejected, time out or fail"
    )
    judge: Literal["predicted", "pessimistic"] = Field(
        "predicted",
        description="pessimistic: limits must hold at the bad end of the predictions' 80% interval",
    )
    seeds: Annotated[int, Field(ge=1, le=20, strict=True)] = Field(
        5, description="most runs of a deployment whose verdict is close, each with other traffic"
    )
    runners_up: Annotated[int, Field(ge=0, le=20, strict=True)] = Field(
        3, description="further kinds of deployment to find, after the best"
    )

    @field_validator("objective", mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return {"metric": value} if isinstance(value, str) else value

    @field_validator("constraints", mode="after")
    @classmethod
    def _consistent(cls, value: tuple[Constraint, ...]) -> tuple[Constraint, ...]:
        highest = {c.path: c.limit for c in value if c.max is not None}
        for constraint in value:
            most = highest.get(constraint.path)
            if constraint.min is not None and most is not None and constraint.min > most:
                raise ValueError(
                    f"they contradict each other: {constraint.metric} must be at least "
                    f"{constraint.min:g} and at most {most:g}"
                )
        return value


@dataclass(frozen=True)
class Asked:
    """A plan as it was read: its scenario loaded, and where things stand for errors."""

    plan: Plan
    scenario: Scenario
    located: Callable[[UserError], UserError]

    @cached_property
    def requests(self) -> Requests:
        """The traffic of the first seed."""
        import numpy as np

        from simulator.workload import build_requests

        rng = np.random.default_rng(self.scenario.measurement.seed)
        return build_requests(self.scenario.workload, rng)


def is_plan(source: str | Path) -> bool:
    """Whether a file holds a plan rather than a scenario; what cannot be read is neither."""
    if str(source) == "-":
        return False
    data, _ = load_yaml(resolve_reference(str(source), Path()))
    return "scenario" in data


def load_plan(source: str | Path) -> Asked:
    """Reads a plan file and the scenario that it names.

    Args:
        source: a YAML file, or the name of a shipped plan.

    Raises:
        UserError: one sentence with file, line and key for whatever is wrong.
    """
    path = resolve_reference(str(source), Path())
    return _asked(*load_yaml(path), path)


def parse_plan(text: str, name: str = "plan", *, within: Sequence[Path] | None = None) -> Asked:
    """As :func:`load_plan`, from YAML.

    Args:
        text: what a plan file would hold; paths in it start from the working directory.
        name: what errors call it.
        within: of a plan that comes from somebody else, the files and folders that it may name, as
            ``parse_scenario`` has it; None: any.

    Raises:
        UserError: as ``load_plan``.
    """
    return _asked(*parse_yaml(text, Path(name)), Path(name), within)


def _asked(
    data: dict[str, Any], lines: Lines, path: Path, within: Sequence[Path] | None = None
) -> Asked:
    if "scenario" not in data:
        if "model" in data or "include" in data:
            raise UserError(
                "is a scenario, not a plan", where=str(path),
                hint="`simulate run` takes it; a plan names it under the key 'scenario', and "
                "`simulate init --plan` writes one to start from",
            )  # fmt: skip
        raise UserError(
            "is no plan: it has no key 'scenario'", where=str(path),
            hint="name the scenario whose traffic is to be served",
        )  # fmt: skip
    _anchor(data.get("space"), path.parent.resolve())
    if within is not None:
        _confine(data.get("space"), within, ("space",), lambda error: _located(error, path, lines))
    try:
        plan = Plan.model_validate(data)
    except ValidationError as error:
        raise validation_sentence(error, path, lines, Plan) from None
    _check_names(plan.space, lambda error: _located(error, path, lines))
    place = f"{path}:{lines.get(('scenario',), 1)}: scenario"
    scenario = _scenario(plan.scenario, path, place, lines, within)

    def located(error: UserError) -> UserError:
        return _located(error, path, lines)

    return Asked(plan, scenario, located)


def _anchor(space: Any, folder: Path) -> None:
    """Files of profiles count from the plan's own folder."""
    if not isinstance(space, dict):
        return
    for key in ("hardware", "engine"):
        given = space.get(key)
        names: list[Any] = given if isinstance(given, list) else []
        for place, name in enumerate(names):
            if isinstance(name, dict) and isinstance(name.get("profile"), str):
                name["profile"] = _absolute(name["profile"], folder)
            elif isinstance(name, str):
                names[place] = _absolute(name, folder)
    for part in ("prefill", "decode"):
        _anchor(space.get(part), folder)
    axes = space.get("set")
    for key, values in axes.items() if isinstance(axes, dict) else ():
        for place, value in enumerate(values if isinstance(values, list) else ()):
            last = str(key).rpartition(".")[2]
            holder = {last: value}
            anchor_paths(holder, folder)
            values[place] = holder[last]


def _confine(
    value: Any,
    within: Sequence[Path],
    at: tuple[str, ...],
    located: Callable[[UserError], UserError],
) -> None:
    """That nothing in a space is a path that leads elsewhere; names count as files of the working
    directory."""
    if isinstance(value, str):
        try:
            check_within(value, within, ".".join(at))
        except UserError as error:
            raise located(error) from None
    items: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, item in items:
        _confine(item, within, (*at, str(key)), located)


def _absolute(name: str, folder: Path) -> str:
    is_file = "/" in name or Path(name).suffix in (".yaml", ".yml")
    return str(folder / expanded(name)) if is_file else name


def _check_names(space: Space, located: Callable[[UserError], UserError]) -> None:
    """That there are profiles of all names, and keys for all further axes."""
    parts = (("space", space), ("space.prefill", space.prefill), ("space.decode", space.decode))
    for where, part in parts:
        names = () if part.hardware == "priced" else part.hardware or ()
        for place, name in enumerate(names):
            profile = name if isinstance(name, str) else name.profile
            _check_name(load_hardware, profile, f"{where}.hardware.{place}", located)
    for key in space.set:
        if not leads_somewhere(".".join(part for part in key.split(".") if not part.isdigit())):
            raise located(
                UserError(
                    f"a scenario has no key '{key}'", where="space.set",
                    hint="docs/scenario.md lists them",
                )
            )  # fmt: skip
    for place, profile in enumerate(space.engine or ()):
        _check_name(load_engine, profile, f"space.engine.{place}", located)


def _check_name(
    load: Callable[[str], object], name: str, where: str, located: Callable[[UserError], UserError]
) -> None:
    try:
        load(name)
    except UnknownNameError as error:
        raise located(UserError(error.what, where=where, hint=error.hint)) from None


def _scenario(
    given: str | dict[str, Any],
    path: Path,
    place: str,
    lines: Lines,
    within: Sequence[Path] | None,
) -> Scenario:
    """The scenario that a plan names or holds."""
    if isinstance(given, str):
        file = resolve_reference(given, path.parent, place)
        if within is not None:
            check_within(file, within, place)
        if not file.exists():
            raise UserError(f"no such file: {given}", where=place)
        if is_plan(file):
            raise UserError(f"{given} is a plan, not a scenario", where=place)
        return load_with_places(file, within=within)[0]
    try:
        return load_with_places(given, folder=path.parent.resolve(), within=within)[0]
    except UserError as error:
        if not error.where.startswith(MAPPING):  # a file that it includes or names
            raise
        if not re.match(r"[\w.\[\]]+: ", error.what):
            raise type(error)(error.what, where=place, hint=error.hint) from None
        keys = tuple(_keys(error.what.partition(":")[0]))
        line = next(
            (lines[("scenario", *keys[:n])] for n in range(len(keys), -1, -1)
             if ("scenario", *keys[:n]) in lines), 1,
        )  # fmt: skip
        raise type(error)(
            f"scenario.{error.what}", where=f"{path}:{line}", hint=error.hint
        ) from None


def _located(error: UserError, path: Path, lines: Lines) -> UserError:
    """The error with the file and line of the key of the plan that it speaks of, if it does."""
    keys = tuple(_keys(error.where))
    if not keys or keys[0] not in Plan.model_fields:
        return error
    dotted = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)[1:]
    line = next((lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in lines), None)
    file = str(path) if line is None else f"{path}:{line}"
    return type(error)(error.what, where=f"{file}: {dotted}", hint=error.hint)


def _keys(dotted: str) -> list[str | int]:
    """``constraints.0.metric`` and ``constraints[0].metric`` in parts."""
    parts = dotted.replace("[", ".").replace("]", "").split(".")
    return [int(part) if part.isdigit() else part for part in parts if part]
