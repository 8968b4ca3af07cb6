"""Faults on demand: requests that are refused, answers that stall or are cut off, and replicas that
are slow or crash; by a header of the request, or by a schedule.

The header ``X-Servecast-Fault`` has settings, each ``name=value``, separated by ``;``:

    status=429; retry-after=2     an error instead of an answer
    stall-after=10; stall=5       after 10 tokens the next one comes 5 s later; without stall, never
    cut-after=20                  the connection is cut with the 20th token
    slow=0; factor=3; for=60      steps of replica 0 take three times as long for 60 s, from now on
    crash=0; for=30               replica 0 crashes now and is up again after 30 s

Seconds are those of the deployment's clock; those of ``retry-after`` are what the client reads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import inf, isfinite

import numpy as np

from simulator import UserError
from simulator.live import (
    CrashedReplica,
    CutAnswer,
    FaultSchedule,
    LiveDeployment,
    RequestError,
    SlowReplica,
    StalledAnswer,
)

HEADER = "X-Servecast-Fault"
_SHARES = 0x6661756C74
"""Sets the streams of random numbers apart from all others of a seed."""
_EXAMPLE = "for example: status=429; retry-after=2"
_TOGETHER: dict[str, frozenset[str]] = {
    "status": frozenset({"retry-after"}),
    "stall-after": frozenset({"stall", "cut-after"}),
    "cut-after": frozenset({"stall", "stall-after"}),
    "slow": frozenset({"factor", "for"}),
    "crash": frozenset({"for"}),
}
"""What a header is about, and what else it may say then."""
_WHOLE = frozenset({"status", "stall-after", "cut-after", "slow", "crash"})
_LEAST = {"status": 400, "cut-after": 1}


@dataclass(frozen=True, slots=True)
class RequestFault:
    """What goes wrong with one request.

    Args:
        status: of the error that answers it; None: it is answered.
        retry_after_s: what the error's header Retry-After says; None: there is none.
        stall_after_tokens: after so many tokens the next one comes late; None: none does.
        stall_s: so much, with all that came meanwhile; infinite: it never comes.
        cut_after_tokens: the connection is cut with this token; None: it is not.
    """

    status: int | None = None
    retry_after_s: float | None = None
    stall_after_tokens: int | None = None
    stall_s: float = inf
    cut_after_tokens: int | None = None

    @property
    def of_answer(self) -> bool:
        """Whether an answer begins that does not go on as it should."""
        return self.stall_after_tokens is not None or self.cut_after_tokens is not None


class Faults:
    """What goes wrong on a deployment.

    Args:
        schedule: at given times; None: nothing does. The deployment is one of the scenario that
            ``FaultSchedule.applied_to`` makes, so that faults of replicas are part of it.
        deployment: where.
        by_header: requests may ask for faults.
        models: names that clients may use.

    Raises:
        UserError: the schedule names a class or a model that there is not.
        ValueError: the deployment has not the schedule's faults of replicas.
    """

    def __init__(
        self,
        schedule: FaultSchedule | None,
        deployment: LiveDeployment,
        *,
        by_header: bool = True,
        models: Collection[str] | None = None,
    ) -> None:
        self.by_header = by_header
        self._deployment = deployment
        self._class = {name: number for number, name in enumerate(deployment.classes)}
        self._scheduled: list[_Scheduled] = []
        if schedule is None:
            return
        _check_applied(schedule, deployment)
        for place, fault in schedule.of_requests:
            _check_names("classes", fault.classes, deployment.classes, place)
            if models is not None:
                _check_names("models", fault.models, models, place)
            rng = np.random.default_rng([schedule.seed, _SHARES, place])
            self._scheduled.append(_Scheduled(fault, rng))

    def of(
        self,
        headers: Mapping[str, str],
        *,
        model: str = "",
        traffic_class: str = "",
    ) -> RequestFault | None:
        """What goes wrong with a request that comes now; None: nothing. Replicas that its header
        speaks of are slow, or crash, from now on.

        Args:
            headers: of the request; names in any case if the mapping does not care about it.
            model: by the name that the client uses.
            traffic_class: that it belongs to.

        Raises:
            UserError: the header is malformed, asks for what cannot be, or is not allowed.
        """
        asked = headers.get(HEADER)
        if asked is not None:
            if not self.by_header:
                raise UserError(
                    "this server takes no faults by header",
                    where=HEADER,
                    hint="start it with --faults-by-header",
                )
            return self._by_header(asked)
        if not self._scheduled:
            return None
        now = self._deployment.now_s
        happen = [each.fault for each in self._scheduled if each.hits(now, model, traffic_class)]
        return _together(happen) if happen else None

    def _by_header(self, asked: str) -> RequestFault | None:
        given = _settings(asked)
        faults = self._deployment.faults
        if "slow" in given:
            number = int(given["slow"])
            _check_up(number, faults.slow(number, factor=given["factor"], for_s=given["for"]))
            return None
        if "crash" in given:
            number = int(given["crash"])
            _check_up(number, faults.crash(number, for_s=given.get("for")))
            return None
        if "status" in given:
            return RequestFault(int(given["status"]), given.get("retry-after"))
        stall, cut = given.get("stall-after"), given.get("cut-after")
        return RequestFault(
            stall_after_tokens=None if stall is None else int(stall),
            stall_s=given.get("stall", inf),
            cut_after_tokens=None if cut is None else int(cut),
        )


def _check_up(number: int, there: bool) -> None:
    if not there:
        raise UserError(f"replica {number} is not up now", where=HEADER)


# --- the header ----------------------------------------------------------------------------------


def _settings(text: str) -> dict[str, float]:
    """The header's settings, as far as they make sense together."""
    given: dict[str, float] = {}
    for part in text.split(";"):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise _wrong(f"{_short(part)} is not name=value")
        if name in given:
            raise _wrong(f"{name} is given twice")
        given[name] = _value(name, value)
    subject = next((name for name in _TOGETHER if name in given), None)
    if subject is None:
        raise _wrong(f"one of {', '.join(_TOGETHER)} is needed")
    for name in given:
        if name != subject and name not in _TOGETHER[subject]:
            raise _wrong(f"{name} does not go with {subject}")
    if "stall" in given and "stall-after" not in given:
        raise _wrong("stall needs stall-after")
    if subject == "slow" and not {"factor", "for"} <= given.keys():
        raise _wrong("slow needs factor and for")
    return given


def _value(name: str, text: str) -> float:
    known = {*_TOGETHER, *(other for more in _TOGETHER.values() for other in more)}
    if name not in known:
        raise _wrong(f"{_short(name)} is not one of {', '.join(sorted(known))}")
    try:
        value = float(text) if text.isascii() else inf
    except ValueError:
        value = inf
    if name in _WHOLE:
        least, most = _LEAST.get(name, 0), 599 if name == "status" else 100_000_000
        if not (value.is_integer() and least <= value <= most):
            raise _wrong(f"{name} is a whole number from {least} to {most:,}")
    elif not (isfinite(value) and value >= 0.0 and (value > 0.0 or name == "retry-after")):
        raise _wrong(f"{name} is a number above 0")
    return value


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 40 else f"{text[:40]}…")


def _wrong(what: str) -> UserError:
    return UserError(what, where=HEADER, hint=_EXAMPLE)


# --- the schedule --------------------------------------------------------------------------------


class _Scheduled:
    """A fault of requests in a schedule, and who it happens to."""

    def __init__(
        self, fault: RequestError | StalledAnswer | CutAnswer, rng: np.random.Generator
    ) -> None:
        self.fault = fault
        self._rng = rng
        self._until_s = inf if fault.for_s is None else fault.at_s + fault.for_s

    def hits(self, now: float, model: str, traffic_class: str) -> bool:
        """Whether it happens to a request that comes now; each is drawn once."""
        fault = self.fault
        if not fault.at_s <= now < self._until_s:
            return False
        if fault.classes is not None and traffic_class not in fault.classes:
            return False
        if fault.models is not None and model not in fault.models:
            return False
        return fault.share == 1.0 or float(self._rng.random()) < fault.share


def _together(happen: list[RequestError | StalledAnswer | CutAnswer]) -> RequestFault:
    """Of several faults of a kind the first one counts, and an error before all else."""
    error = next((each for each in happen if isinstance(each, RequestError)), None)
    if error is not None:
        return RequestFault(error.status, error.retry_after_s)
    stall = next((each for each in happen if isinstance(each, StalledAnswer)), None)
    cut = next((each for each in happen if isinstance(each, CutAnswer)), None)
    return RequestFault(
        stall_after_tokens=None if stall is None else stall.after_tokens,
        stall_s=inf if stall is None or stall.stall_s is None else stall.stall_s,
        cut_after_tokens=None if cut is None else cut.after_tokens,
    )


def _check_names(
    key: str, asked: tuple[str, ...] | None, known: Collection[str], place: int
) -> None:
    for name in asked or ():
        if name not in known:
            raise UserError(
                f"there is no {name!r}",
                where=f"faults.{place}.{key}",
                hint=f"known are {', '.join(known)}",
            )


def _check_applied(schedule: FaultSchedule, deployment: LiveDeployment) -> None:
    there = {pool.name: pool.deployment.scenario.deployment.failures for pool in deployment.pools}
    for _, fault in schedule.of_replicas:
        failures = there[fault.pool or deployment.pools[0].name]
        known = failures.model_dump() if failures is not None else {}
        key = "slowdowns" if isinstance(fault, SlowReplica) else "outages"
        assert isinstance(fault, SlowReplica | CrashedReplica)
        if fault.model_dump(exclude={"kind", "pool"}) not in known.get(key, ()):
            raise ValueError("the schedule's faults of replicas are not part of the deployment")
