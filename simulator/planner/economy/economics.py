"""What serving costs in other ways of paying for it, and where two of them cost the same.

Formulas with units, and where they come from, stand in docs/economics.md. Everything here is per
device or per replica and closed-form; ``break_even`` takes the figures from a run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from simulator.scenario.base import Fraction, Model, NonNegativeFloat, PositiveFloat

HOURS_PER_YEAR = 8766.0
HOURS_PER_MONTH = HOURS_PER_YEAR / 12.0

# --- what is given -------------------------------------------------------------------------------


class Renting(Model):
    """Prices of rented devices; those that are not given come from the hardware profile."""

    on_demand_usd_per_device_hour: PositiveFloat | None = Field(
        None, description="paid for the hours in which a device is held"
    )
    reserved_usd_per_device_hour: PositiveFloat | None = Field(
        None, description="paid for every hour of the term, used or not"
    )
    spot_usd_per_device_hour: PositiveFloat | None = Field(
        None, description="paid for the hours held, until the owner takes the device back"
    )


class Owning(Model):
    """What own devices cost. Nothing but the resale has a default."""

    device_usd: PositiveFloat = Field(description="purchase price of one device")
    server_factor: Annotated[float, Field(ge=1, le=20, strict=True)] = Field(
        description="price of everything bought (servers, network, racks) over the devices' price"
    )
    lifetime_years: Annotated[float, Field(gt=0, le=50, strict=True)] = Field(
        description="how long it is used"
    )
    interest_per_year: Annotated[float, Field(ge=0, lt=1, strict=True)] = Field(
        description="cost of the capital, as a share"
    )
    resale_share: Fraction = Field(0.0, description="of the price, that it brings at the end")
    power_usd_per_kwh: NonNegativeFloat = Field(description="price of energy")
    pue: Annotated[float, Field(ge=1, le=5, strict=True)] = Field(
        description="the building's power over the machines'"
    )
    server_power_w_per_device: NonNegativeFloat = Field(
        description="power of processors, fans and network, for each device"
    )
    hosting_usd_per_kw_month: NonNegativeFloat = Field(
        description="rent of room and cooling, for each kW of devices (TDP) and servers"
    )
    staff_share_per_year: Annotated[float, Field(ge=0, le=10, strict=True)] = Field(
        description="people and repairs, as a share of the purchase price"
    )

    @property
    def purchase_usd_per_device(self) -> float:
        """The device and its part of everything around it."""
        return self.device_usd * self.server_factor

    @property
    def capital_usd_per_device_year(self) -> float:
        """Annuity of the purchase price, less that of the resale."""
        rate, years = self.interest_per_year, self.lifetime_years
        share = capital_recovery(rate, years) - self.resale_share * sinking_fund(rate, years)
        return self.purchase_usd_per_device * share

    def fixed_usd_per_device_hour(self, tdp_w: float) -> float:
        """Capital, staff and hosting, used or not."""
        staff = self.staff_share_per_year * self.purchase_usd_per_device
        kilowatts = (tdp_w + self.server_power_w_per_device) / 1e3
        hosting = 12.0 * self.hosting_usd_per_kw_month * kilowatts
        return (self.capital_usd_per_device_year + staff + hosting) / HOURS_PER_YEAR

    def energy_usd_per_device_hour(self, device_w: float) -> float:
        """Energy of a device that draws ``device_w`` on average, with its part of the server."""
        kilowatts = (device_w + self.server_power_w_per_device) * self.pue / 1e3
        return kilowatts * self.power_usd_per_kwh


class Api(Model):
    """What a provider asks for the same tokens."""

    usd_per_million_input_tokens: NonNegativeFloat = Field(description="price of prompts")
    usd_per_million_cached_input_tokens: NonNegativeFloat | None = Field(
        None, description="price of prompt tokens found in a cache; default: the price of prompts"
    )
    usd_per_million_output_tokens: NonNegativeFloat = Field(description="price of answers")

    def usd(self, input_tokens: float, cached_tokens: float, output_tokens: float) -> float:
        """Of so many tokens; ``cached_tokens`` are part of ``input_tokens``."""
        cached = self.usd_per_million_cached_input_tokens
        cached = self.usd_per_million_input_tokens if cached is None else cached
        return (
            (input_tokens - cached_tokens) * self.usd_per_million_input_tokens
            + cached_tokens * cached
            + output_tokens * self.usd_per_million_output_tokens
        ) / 1e6


class Economics(Model):
    """What ``simulate break-even`` compares a run with."""

    renting: Renting = Field(Renting(), description="other prices than the hardware profile's")
    owning: Owning | None = Field(None, description="own devices, to compare with rented ones")
    api: Api | None = Field(None, description="a provider's prices, to compare with own serving")
    spare_replicas: Annotated[int, Field(ge=0, le=4096, strict=True)] = Field(
        0, description="replicas that are paid beyond those that the traffic needs"
    )
    capacity_requests_per_s_per_replica: PositiveFloat | None = Field(
        None,
        description="most requests that one replica serves within its SLO, as a mean over this "
        "traffic; default: what it served in the run",
    )


# --- capital -------------------------------------------------------------------------------------


def capital_recovery(interest_per_year: float, years: float) -> float:
    """Share of a loan that is paid every year: i / (1 - (1 + i)^-n), and 1 / n without interest."""
    if interest_per_year * years < 1e-9:
        return 1.0 / years
    return interest_per_year / -math.expm1(-years * math.log1p(interest_per_year))


def sinking_fund(interest_per_year: float, years: float) -> float:
    """Yearly amount that grows to 1 by the end: i / ((1 + i)^n - 1), and 1 / n without interest."""
    if interest_per_year * years < 1e-9:
        return 1.0 / years
    return interest_per_year / math.expm1(years * math.log1p(interest_per_year))


# --- reserved, on demand, spot -------------------------------------------------------------------


def reserved_share(reserved_usd: float, on_demand_usd: float) -> float | None:
    """Share of the time in use above which a reserved device costs less than one on demand; None:
    it never does."""
    share = reserved_usd / on_demand_usd
    return share if share < 1.0 else None


@dataclass(frozen=True, slots=True)
class Mixture:
    """The cheapest split of replicas into reserved ones and others on demand.

    Args:
        reserved: replicas that are reserved; the others are on demand while they are held.
        usd_per_hour, all_on_demand_usd_per_hour, all_reserved_usd_per_hour: of all devices; the
            last one with as many replicas as are held at once at the most.
    """

    reserved: int
    usd_per_hour: float
    all_on_demand_usd_per_hour: float
    all_reserved_usd_per_hour: float


def cheapest_mixture(
    held_shares: Sequence[float], reserved_usd: float, on_demand_usd: float
) -> Mixture:
    """Reserves the k-th replica if it is held for more of the time than the break-even share.

    Args:
        held_shares: share of the time in which at least 1, 2, … replicas are held; falling.
        reserved_usd, on_demand_usd: of one replica, an hour.
    """
    demand = [share * on_demand_usd for share in held_shares]
    return Mixture(
        reserved=sum(usd > reserved_usd for usd in demand),
        usd_per_hour=sum(min(usd, reserved_usd) for usd in demand),
        all_on_demand_usd_per_hour=sum(demand),
        all_reserved_usd_per_hour=len(demand) * reserved_usd,
    )


def spot_interruptions_per_hour(
    spot_usd: float, on_demand_usd: float, start_h: float
) -> float | None:
    """Interruptions of a replica an hour above which spot costs more than on demand.

    Each is followed by a start of ``start_h`` hours that is paid and serves nobody, so that an hour
    of service costs spot · (1 + interruptions · start_h). None: there is no such number.
    """
    if start_h <= 0.0:
        return None
    return max(0.0, on_demand_usd / spot_usd - 1.0) / start_h


# --- own devices ---------------------------------------------------------------------------------


def owning_share(
    fixed_usd: float, idle_usd: float, busy_usd: float, rent_usd: float
) -> float | None:
    """Share of the time in use above which an own device costs less than one rented by the hour.

    Args:
        fixed_usd: of an own device, every hour.
        idle_usd, busy_usd: its energy in an hour without and with use.
        rent_usd: of a rented one, an hour in use.
    """
    saved = rent_usd - (busy_usd - idle_usd)
    if saved <= 0.0:
        return None
    share = (fixed_usd + idle_usd) / saved
    return share if share < 1.0 else None


def payback_months(purchase_usd: float, running_usd: float, rent_usd: float) -> float | None:
    """Months until a purchase is paid by the rent that it saves, without interest.

    Args:
        purchase_usd: paid at the beginning.
        running_usd: energy, hosting and staff, a month.
        rent_usd: a month.
    """
    saved = rent_usd - running_usd
    return purchase_usd / saved if saved > 0.0 else None


# --- an API --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Volume:
    """Where own serving costs as much as an API. Volumes in requests a day.

    Args:
        one_replica: volume for which the API costs as much as one replica.
        utilization: the same over a replica's capacity; at 1 and above own serving never pays.
        first, first_replicas: least volume for which it pays, and the replicas that it needs then
            (without spare ones); None: never.
        always: volume from which it pays at every volume, however many replicas are needed.
    """

    one_replica: float
    utilization: float
    first: float | None
    first_replicas: int | None
    always: float | None


def api_volume(
    replica_usd_per_day: float, api_usd_per_request: float, capacity_per_day: float, spare: int = 0
) -> Volume:
    """The break-even with replicas that come one by one.

    V requests a day need R = ceil(V / C) replicas and cost (R + s)·c; the API costs V·p. So R
    replicas pay from (R + s)·c/p on, if that is within R·C; and there is no gap behind R replicas
    if the next one pays at R·C already.
    """
    if api_usd_per_request <= 0.0:
        return Volume(math.inf, math.inf, None, None, None)
    alone = replica_usd_per_day / api_usd_per_request
    left = capacity_per_day - alone
    if left <= 0.0:
        return Volume(alone, alone / capacity_per_day, None, None, None)
    replicas = max(1, _up(spare * alone / left))
    from_there = max(replicas, _up((1 + spare) * alone / left))
    return Volume(
        one_replica=alone,
        utilization=alone / capacity_per_day,
        first=(replicas + spare) * alone,
        first_replicas=replicas,
        always=(from_there + spare) * alone,
    )


def _up(number: float) -> int:
    """Rounded up, but not because of round-off."""
    return math.ceil(number * (1.0 - 1e-12))
