"""A number under which one replica after the other lives, and the requests that are there."""

from __future__ import annotations

from simulator.cluster.replica import Replica
from simulator.results.lives import OFF
from simulator.serving.sequence import Sequence


class Attempt:
    """A request on its way to its last token, on one replica after the other.

    Attributes:
        sequence: its progress on the present one.
        slot, replica: where it is; None at the gateway.
        crash: what ended the present attempt; None as long as nothing did.
        since_s: when it began to wait at the gateway.
        left_s: when a crash took it from its replica.
        retries: how often it was sent elsewhere.
        gone: its client gave up.
    """

    __slots__ = ("crash", "gone", "left_s", "replica", "retries", "sequence", "since_s", "slot")

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.slot: Slot | None = None
        self.replica: Replica | None = None
        self.crash: Crash | None = None
        self.since_s = self.left_s = 0.0
        self.retries = 0
        self.gone = False


class Crash:
    """A replica has crashed; ``lost`` are the requests that wait until somebody notices."""

    __slots__ = ("lost", "noticed", "replica")

    def __init__(self, replica: Replica | None, *, noticed: bool) -> None:
        self.replica = replica
        self.noticed = noticed
        self.lost: list[Attempt] = []


class Slot:
    """A number, and what lives under it.

    Attributes:
        number: among all replicas.
        state: index into STATES.
        epoch: changes with the state, so that timers of an earlier one are not heard.
        life: counts the replicas that lived here.
        replica: that is up, or drains.
        routable: new requests may be sent here, as far as the gateway knows.
        live: requests here, by their index.
        leaving: requests that a crash ended and that leave with the step under way.
        crash: that nobody has noticed yet.
        ready: a replica could rise as soon as the one before it is gone.
    """

    __slots__ = (
        "crash", "epoch", "leaving", "life", "listed", "live", "number", "ready", "replica",
        "routable", "state",
    )  # fmt: skip

    def __init__(self, number: int) -> None:
        self.number = number
        self.state = OFF
        self.epoch = self.life = self.leaving = 0
        self.replica: Replica | None = None
        self.routable = self.listed = self.ready = False
        self.live: dict[int, Attempt] = {}
        self.crash: Crash | None = None
