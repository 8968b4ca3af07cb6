"""Which replica a request goes to."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from simulator.scenario.base import Fraction, Model


class RoundRobinRouter(Model):
    """Replicas in turn."""

    kind: Literal["round_robin"] = "round_robin"


class RandomRouter(Model):
    """Any replica, equally likely."""

    kind: Literal["random"] = "random"


class LeastOutstandingRouter(Model):
    """The replica with the fewest requests queued or running; the lowest number on a tie."""

    kind: Literal["least_outstanding"] = "least_outstanding"


class PowerOfTwoRouter(Model):
    """The less loaded of two replicas drawn at random."""

    kind: Literal["power_of_two"] = "power_of_two"


class PrefixAwareRouter(Model):
    """The replica that holds the longest cached prefix of the prompt, if that is at least
    ``min_match`` of it and the replica has at most ``max_imbalance`` requests more than the least
    loaded one; else the least loaded one."""

    kind: Literal["prefix_aware"] = "prefix_aware"
    min_match: Fraction = Field(
        0.3,
        description="share of the prompt that must be cached; a common first line is no reason "
        "to crowd one replica",
    )
    max_imbalance: Annotated[int, Field(ge=0, strict=True)] = Field(
        32, description="requests more than on the least loaded replica"
    )


class SessionAffinityRouter(Model):
    """All turns of a conversation go to the replica of its first turn, unless that has more than
    ``max_imbalance`` requests more than the least loaded one; then to that one from now on."""

    kind: Literal["session_affinity"] = "session_affinity"
    max_imbalance: Annotated[int, Field(ge=0, strict=True)] = Field(
        32, description="requests more than on the least loaded replica"
    )


Router = Annotated[
    RoundRobinRouter
    | RandomRouter
    | LeastOutstandingRouter
    | PowerOfTwoRouter
    | PrefixAwareRouter
    | SessionAffinityRouter,
    Field(discriminator="kind"),
]
