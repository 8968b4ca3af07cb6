"""Faults on demand: by a header of a request, and by a schedule."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulator.disturbed import Disturbed
from emulator.faults import Faults, RequestFault
from simulator import load_scenario, simulate
from simulator.errors import UserError
from simulator.live import Asked, Ending, FaultSchedule, LiveDeployment, load_faults
from tests.test_live_deployment import Client

EXAMPLES = Path(__file__).parent.parent / "examples"


def deployment(name: str = "chat-8b-h100", **settings: Any) -> LiveDeployment:
    return LiveDeployment(load_scenario(name), **settings)


def by_header(text: str, live: LiveDeployment | None = None) -> RequestFault | None:
    return Faults(None, live or deployment()).of({"X-Servecast-Fault": text})


# --- the header ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("status=429; retry-after=2", RequestFault(429, 2.0)),
        ("status=503", RequestFault(503)),
        (" retry-after=0.5 ;status=500", RequestFault(500, 0.5)),
        ("stall-after=10; stall=5", RequestFault(stall_after_tokens=10, stall_s=5.0)),
        ("stall-after=0", RequestFault(stall_after_tokens=0, stall_s=inf)),
        ("cut-after=20", RequestFault(cut_after_tokens=20)),
        (
            "stall-after=1; stall=0.5; cut-after=9",
            RequestFault(stall_after_tokens=1, stall_s=0.5, cut_after_tokens=9),
        ),
    ],
)
def test_a_header_says_what_goes_wrong(text: str, fault: RequestFault) -> None:
    assert by_header(text) == fault
    assert fault.of_answer == (fault.status is None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not name=value"),
        ("429", "'429' is not name=value"),
        ("status=429;", "'' is not name=value"),
        ("status=4.5", "status is a whole number from 400 to 599"),
        ("status=200", "status is a whole number from 400 to 599"),
        ("status=nan", "status is a whole number"),
        ("status=٤٢٩", "status is a whole number"),
        ("status=429; status=500", "status is given twice"),
        ("status=429; stall=5", "stall does not go with status"),
        ("stall=5", "one of status, stall-after, cut-after, slow, crash is needed"),
        ("cut-after=5; stall=5", "stall needs stall-after"),
        ("cut-after=0", "cut-after is a whole number from 1"),
        ("cut-after=-1", "cut-after is a whole number from 1"),
        ("stall-after=2; stall=-1", "stall is a number above 0"),
        ("stall-after=2; stall=inf", "stall is a number above 0"),
        ("stall-after=2; delay=1", "'delay' is not one of"),
        ("slow=0", "slow needs factor and for"),
        ("slow=0; factor=0.5; for=3", "0.5 makes nothing slow"),
        ("slow=0; factor=1e300; for=3", "1e+300 would be a standstill"),
        ("slow=7; factor=2; for=3", "no replica 7"),
        ("crash=0", "cannot crash"),
        ("x" * 5000, "is not name=value"),
    ],
)
def test_a_malformed_header_is_refused_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(UserError, match=r"^[^\n]+$") as found:
        by_header(text)
    assert message in str(found.value)
    assert len(str(found.value)) < 300


def test_no_header_is_no_fault_and_an_operator_may_allow_none() -> None:
    assert Faults(None, deployment()).of({}) is None
    with pytest.raises(UserError, match="takes no faults by header"):
        Faults(None, deployment(), by_header=False).of({"X-Servecast-Fault": "status=500"})
    assert Faults(None, deployment(), by_header=False).of({}) is None


def test_replicas_are_slow_and_crash_by_header() -> None:
    live = deployment(crashes=True)
    assert by_header("slow=0; factor=2.5; for=10", live) is None
    assert [state.slowness for state in live.replicas()] == [2.5]
    assert by_header("crash=0; for=3", live) is None
    assert live.replicas() == []
    with pytest.raises(UserError, match="replica 0 is not up now"):
        by_header("crash=0", live)
    live.advance(3.5)
    assert [state.slowness for state in live.replicas()] == [1.0]


# --- the schedule --------------------------------------------------------------------------------


def schedule(*faults: dict[str, Any], **more: Any) -> FaultSchedule:
    return FaultSchedule.model_validate({"faults": faults, **more})


def statuses(faults: Faults, live: LiveDeployment, times: list[float], **who: str) -> list[Any]:
    found = []
    for time in times:
        live.advance(time)
        fault = faults.of({}, **who)
        found.append(fault and fault.status)
    return found


def test_faults_happen_at_their_times() -> None:
    live = deployment()
    faults = Faults(
        schedule(
            {"kind": "error", "status": 429, "retry_after_s": 2.0, "at_s": 10.0, "for_s": 5.0},
            {"kind": "error", "status": 503, "at_s": 12.0, "for_s": 8.0},
            {"kind": "stall", "after_tokens": 3, "stall_s": 1.0, "at_s": 18.0},
            {"kind": "cut", "after_tokens": 9, "at_s": 30.0},
        ),
        live,
    )
    times = [0.0, 9.9, 10.0, 14.9, 15.0, 19.9, 20.0]
    assert statuses(faults, live, times) == [None, None, 429, 429, 503, 503, None]
    assert faults.of({}) == RequestFault(stall_after_tokens=3, stall_s=1.0)
    live.advance(30.0)
    assert faults.of({}) == RequestFault(stall_after_tokens=3, stall_s=1.0, cut_after_tokens=9)
    assert faults.of({"X-Servecast-Fault": "status=404"}) == RequestFault(404)


def test_a_share_is_drawn_from_the_seed() -> None:
    live = deployment()

    def drawn(seed: int) -> list[bool]:
        half = schedule({"kind": "error", "status": 500, "share": 0.3}, seed=seed)
        faults = Faults(half, live)
        return [faults.of({}) is not None for _ in range(2000)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert np.mean(drawn(1)) == pytest.approx(0.3, abs=0.04)


def test_classes_and_models_are_told_apart() -> None:
    live = deployment("mixed-classes-8b-h100")
    one, other = live.classes[:2]
    faults = Faults(
        schedule(
            {"kind": "error", "status": 429, "classes": [one]},
            {"kind": "error", "status": 500, "models": ["small"]},
        ),
        live,
        models=["small", "large"],
    )
    assert statuses(faults, live, [0.0], model="large", traffic_class=one) == [429]
    assert statuses(faults, live, [0.0], model="large", traffic_class=other) == [None]
    assert statuses(faults, live, [0.0], model="small", traffic_class=other) == [500]
    for key, name in (("classes", "nobody"), ("models", "huge")):
        with pytest.raises(UserError, match=rf"faults.0.{key}: there is no '{name}'"):
            Faults(schedule({"kind": "error", "status": 500, key: [name]}), live, models=["small"])


FLEET = (
    {"kind": "slow", "replica": 1, "at_s": 2.0, "for_s": 6.0, "factor": 3.0},
    {"kind": "crash", "replica": 0, "at_s": 5.0, "for_s": 4.0},
)


def test_faults_of_replicas_are_those_of_a_scenario() -> None:
    """What the server does is what a simulation of the same scenario has."""
    plan = schedule(*FLEET, detection_s=1.0)
    scenario = plan.applied_to(load_scenario("failover-8b-h100"))
    failures = scenario.deployment.failures
    assert failures is not None
    assert failures.detection_s == 1.0
    assert [each.at_s for each in failures.outages] == [300.0, 5.0]
    record = simulate(scenario, intervals=False, at_most=600).record
    lives = record.lives
    assert lives is not None
    assert 5.0 in lives.at_s
    assert 9.0 in lives.at_s
    slow = (record.steps.replica == 1) & (record.steps.stall_s > 0)
    assert 2.0 <= record.steps.start_s[slow].min() < 2.1
    assert 7.8 < record.steps.start_s[slow].max() < 8.0
    live = LiveDeployment(scenario)
    Faults(plan, live)
    live.advance(6.0)
    assert [state.slowness for state in live.replicas()] == [3.0, 1.0]


def test_a_deployment_without_them_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="not part of the deployment"):
        Faults(schedule(*FLEET), deployment("failover-8b-h100"))


def test_pools_are_named() -> None:
    scenario = load_scenario("mixed-pools-8b")
    first, second = (pool.name for pool in scenario.deployment.pools)
    plan = schedule(FLEET[0] | {"replica": 0, "pool": second})
    pools = plan.applied_to(scenario).deployment.pools
    assert pools[0].failures is None
    assert pools[1].failures is not None
    Faults(plan, LiveDeployment(plan.applied_to(scenario)))
    with pytest.raises(UserError, match=r"faults\.0\.pool: the deployment has several pools"):
        schedule(FLEET[0]).applied_to(scenario)
    with pytest.raises(UserError, match=rf"there is no pool 'x'; one of {first}, {second}"):
        schedule(FLEET[0] | {"pool": "x"}).applied_to(scenario)


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ("[]", "at least 1"),
        ("[{kind: slow, replica: 0, at_s: 1, for_s: 1, factor: 1}]", "greater than 1"),
        ("[{kind: error, status: 200}]", "400"),
        ("[{kind: error, status: 500, share: 1.5}]", "share"),
        ("[{kind: error, status: 500, shares: 0.5}]", "shares"),
        ("[{kind: cut, after_tokens: 0}]", "after_tokens"),
        ("[{kind: boom}]", "kind"),
    ],
)
def test_what_a_schedule_may_say(faults: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "faults.yaml"
    file.write_text(f"faults: {faults}\n")
    with pytest.raises(UserError, match=message) as found:
        load_faults(file)
    assert "faults.yaml" in str(found.value)


def test_replicas_that_there_are_not() -> None:
    with pytest.raises(UserError, match=r"faults.0.replica: there is no replica 1"):
        schedule(FLEET[0]).applied_to(load_scenario("chat-8b-h100"))
    with pytest.raises(UserError, match="no replica crashes by this schedule"):
        schedule({"kind": "cut", "after_tokens": 1}, detection_s=1.0).applied_to(
            load_scenario("chat-8b-h100")
        )
    apart = load_scenario("disaggregated-70b-h100")
    pool = apart.deployment.pools[0].name
    with pytest.raises(UserError, match="serve whole requests"):
        LiveDeployment(schedule(FLEET[1] | {"pool": pool}).applied_to(apart))


# --- answers that are disturbed ------------------------------------------------------------------


class Cut(Client):
    """A client whose connection may be cut."""

    cut_s: float | None = None

    def cut(self) -> None:
        self.cut_s = self.deployment.now_s

    def ended(self, ending: Ending) -> None:
        assert self.cut_s is None
        super().ended(ending)


def heard(fault: RequestFault, tokens: int = 30) -> Cut:
    live = deployment()
    client = Cut(live)
    disturbed = Disturbed(fault, live, client.cut)
    live.send(Asked(100, tokens), disturbed.around(client))
    live.advance(100.0)
    return client


def test_a_stall_holds_back_what_comes_meanwhile() -> None:
    plain = heard(RequestFault())
    client = heard(RequestFault(stall_after_tokens=10, stall_s=0.05))
    assert client.times[:10] == plain.times[:10]
    late = plain.times[10] + 0.05
    meanwhile = sum(time <= late for time in plain.times) - 10
    assert meanwhile > 1
    assert client.times[10 : 10 + meanwhile] == [late] * meanwhile
    assert client.times[10 + meanwhile :] == plain.times[10 + meanwhile :]
    assert sum(client.counts) == 30
    assert client.ending == plain.ending


def test_a_stall_at_the_beginning_is_a_slow_start() -> None:
    plain, client = heard(RequestFault()), heard(RequestFault(stall_after_tokens=0, stall_s=5.0))
    assert set(client.times) == {plain.times[0] + 5.0}
    assert sum(client.counts) == 30
    assert client.ending is not None


def test_a_stall_without_end_tells_nothing_more() -> None:
    client = heard(RequestFault(stall_after_tokens=7))
    assert (sum(client.counts), client.ending) == (7, None)
    whole = heard(RequestFault(stall_after_tokens=30))
    assert (sum(whole.counts), whole.ending is None) == (30, False)


def test_a_cut_comes_with_its_token() -> None:
    plain = heard(RequestFault())
    client = heard(RequestFault(cut_after_tokens=12))
    assert client.times == plain.times[:12]
    assert (sum(client.counts), client.cut_s, client.ending) == (12, plain.times[11], None)
    late = heard(RequestFault(cut_after_tokens=31))
    assert (sum(late.counts), late.cut_s) == (30, None)


def test_a_stalled_answer_is_cut_when_it_goes_on() -> None:
    client = heard(RequestFault(stall_after_tokens=2, stall_s=3.0, cut_after_tokens=5))
    assert sum(client.counts) == 5
    assert client.cut_s is not None
    assert client.cut_s == client.times[2] > 3.0


def test_answers_told_in_bursts_are_counted_by_token() -> None:
    live = deployment("speculative-eagle-8b-h100")
    client = Cut(live)
    disturbed = Disturbed(RequestFault(cut_after_tokens=13), live, client.cut)
    live.send(Asked(100, 60), disturbed.around(client))
    live.advance(100.0)
    assert sum(client.counts) == 13
    assert max(client.counts) > 1


def test_several_answers_share_one_connection() -> None:
    live = deployment("best-of-8b-h100")
    clients = [Cut(live), Cut(live)]
    cuts: list[float] = []
    disturbed = Disturbed(RequestFault(cut_after_tokens=9), live, lambda: cuts.append(live.now_s))
    for client, follows in zip(clients, (False, True), strict=True):
        live.send(Asked(100, 30, follows=follows), disturbed.around(client))
    live.advance(100.0)
    assert sum(sum(client.counts) for client in clients) == 9
    assert len(cuts) == 1


def test_the_shipped_schedule_is_of_a_shipped_fleet() -> None:
    plan = load_faults(EXAMPLES / "faults" / "ten-bad-minutes.yaml")
    live = LiveDeployment(plan.applied_to(load_scenario("failover-8b-h100")))
    faults = Faults(plan, live)
    seen = set()
    for second in range(0, 660, 2):
        live.advance(float(second))
        fault = faults.of({})
        if fault is not None:
            seen.add((fault.status, fault.stall_after_tokens, fault.cut_after_tokens))
        states = [state.slowness for state in live.replicas()]
        assert states.count(3.0) == (60 <= second < 180)
        assert len(states) == 2 if 180 <= second < 240 or 300 <= second < 600 else len(states) == 3
    assert seen == {
        (429, None, None), (503, None, None), (None, 20, None), (None, 0, None), (None, None, 50),
    }  # fmt: skip
