"""Where the figures of a device and of an engine come from: measured, inherited or assumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import expm1
from pathlib import Path
from typing import Any

from simulator.engines import EngineProfile, load_engine
from simulator.engines.profile import Overheads
from simulator.hardware import HardwareProfile, load_hardware
from simulator.hardware.efficiency import Provenance
from simulator.hardware.profile import Figure
from simulator.scenario import Scenario

MEANINGS = {
    "fitted": "fitted to measurements of this device",
    "inherited": "inherited from a device that was measured",
    "prior": "assumed: nobody has measured this device or a relative",
}
"""What the methods of a hardware profile mean."""

FITTED, ASSUMED = "fitted to measurements", "estimates, fitted to no measurement"
"""Of an engine's overheads."""

_INTEGERS = ("int8", "int4")


def origins(scenario: Scenario, base: Path | None = None) -> list[dict[str, Any]]:
    """What stands behind the devices and engines of a scenario.

    Args:
        scenario: any; its profiles are loaded, nothing is simulated.
        base: folder that relative paths start from.

    Returns:
        For each pool (one named "" without pools) ``pool``, ``hardware`` as ``hardware_origins``
        and ``engine`` as ``engine_origins`` tell it.

    Raises:
        UserError: there is no such profile.
    """
    pools = scenario.deployment.pools or ()
    parts = [
        (pool.name, pool.hardware or scenario.hardware, pool.engine or scenario.engine)
        for pool in pools
    ] or [("", scenario.hardware, scenario.engine)]
    found = []
    for name, device, server in parts:
        hardware = load_hardware(device.profile, base)
        engine = load_engine(server.profile, base)
        found.append(
            {
                "pool": name,
                "hardware": hardware_origins(hardware, engine.name),
                "engine": engine_origins(engine, server.version),
            }
        )
    return found


def hardware_origins(profile: HardwareProfile, engine: str = "") -> dict[str, Any]:
    """Where a device's figures come from.

    Args:
        profile: from ``load_hardware``.
        engine: name of an engine profile, whose own kernels count where it has some.

    Returns:
        Plain data. ``kernels`` and ``power``: ``method``, what it ``means``, ``detail``, ``date``
        (ISO), ``engine``, ``data_sha256`` and ``families``: for each ``family`` the median error of
        the rows fitted and of shapes held out (``fitted_pct``, ``held_out_pct``; None: nothing was
        measured), ``low_pct`` and ``high_pct``, between which 80% of the measured times lie,
        percent of the predicted one away from it, and ``own``: a kernel of that engine's own.
        ``own_kernels``: as ``kernels`` without families, for the engine's own, or None.
        ``overheads_measured``: the engine was measured on this machine. ``figures``: peaks, memory,
        links and power with ``what``, ``value``, ``unit``, ``source`` and ``note``. ``prices``:
        ``plan``, ``usd_per_device_hour``, ``cloud``, ``instance``, ``region``, ``as_of``,
        ``source``.
    """
    efficiency = profile.efficiency
    own = efficiency.engines.get(engine)
    seen = efficiency.seen_by(engine).provenance
    mine = set(own.provenance.residual_quantiles) if own else set()
    return {
        "name": profile.name,
        "title": profile.title,
        "kernels": {**_origin(efficiency.provenance), "families": _families(seen, mine)},
        "own_kernels": _origin(own.provenance) if own else None,
        "overheads_measured": own is not None and own.overheads is not None,
        "power": {
            **_origin(profile.power.curve.provenance),
            "families": _families(profile.power.curve.provenance, set()),
        },
        "figures": [
            {
                "what": what,
                "value": figure.value,
                "unit": unit,
                "source": profile.sources[figure.source],
                "note": figure.note,
            }
            for what, unit, figure in _figures(profile)
        ],
        "prices": [
            {**price.model_dump(mode="json"), "source": profile.sources[price.source]}
            for price in profile.prices
        ],
    }


def engine_origins(profile: EngineProfile, version: str | None = None) -> dict[str, Any]:
    """Where an engine's figures come from.

    Args:
        profile: from ``load_engine``.
        version: the release that is asked for; None: the profile's own.

    Returns:
        Plain data: ``name``, ``title``, ``version``, ``fitted`` (of that release), ``facts``
        (``fact``, ``source``) and ``overheads``, one for each range of releases: ``releases``,
        ``used`` (the version lies there), ``method`` (``fitted`` or ``prior``), ``means``,
        ``source``, ``constants`` (name with unit to value), ``spread_pct`` (by metric, between
        which 80% of the measured figures lie, percent of the predicted one away from it, with
        constants fitted without the row's group) and ``fit``: None, or what was read and how far
        predictions are off afterwards, see ``ServedFit``.

    Raises:
        ValueError: the version is no release number.
    """
    used = profile.at(version or profile.version).overheads[0]
    ranges, since = [], ""
    for entry in profile.overheads:
        ends = (("from", since), ("before", entry.before))
        words = " ".join(f"{word} {release}" for word, release in ends if release)
        since = entry.before or since
        ranges.append(
            {
                "releases": words or "all",
                "used": entry.model_copy(update={"before": None}) == used,
                "method": "prior" if entry.fit is None else "fitted",
                "means": overheads_words(entry.fit is not None),
                "source": entry.source,
                "constants": _constants(entry),
                "spread_pct": _spread(entry),
                "fit": None if entry.fit is None else entry.fit.model_dump(mode="json"),
            }
        )
    return {
        "name": profile.name,
        "title": profile.title,
        "version": version or profile.version,
        "fitted": used.fit is not None,
        "overheads": ranges,
        "facts": [{"fact": fact, "source": text} for fact, text in profile.sources.items()],
    }


def overheads_words(fitted: bool) -> str:
    """What stands behind an engine's overheads."""
    return FITTED if fitted else ASSUMED


def origin_words(provenance: Mapping[str, Any]) -> str:
    """A provenance in one sentence: method, date, detail and median residuals.

    Args:
        provenance: with ``method``, ``date``, ``detail`` and ``residual_median_pct``.
    """
    text = f"{provenance['method']}, {provenance['date']}: {provenance['detail']}"
    residuals = provenance["residual_median_pct"]
    if residuals:
        text += ". Median residuals: "
        text += ", ".join(f"{name} {value:g}%" for name, value in residuals.items())
    return text


def _origin(provenance: Provenance) -> dict[str, Any]:
    return {
        "method": provenance.method,
        "means": MEANINGS[provenance.method],
        "detail": provenance.detail,
        "date": provenance.date.isoformat(),
        "engine": provenance.engine,
        "data_sha256": provenance.data_sha256,
    }


def _families(provenance: Provenance, own: set[str]) -> list[dict[str, Any]]:
    names = list(provenance.residual_median_pct)
    names += [name for name in provenance.residual_quantiles if name not in names]
    found = []
    for name in names:
        low, _, high = provenance.residual_quantiles.get(name, (None, None, None))
        found.append(
            {
                "family": name,
                "fitted_pct": provenance.residual_median_pct.get(name),
                "held_out_pct": provenance.held_out_median_pct.get(name),
                "low_pct": None if low is None else 100.0 * expm1(low),
                "high_pct": None if high is None else 100.0 * expm1(high),
                "own": name in own,
            }
        )
    return found


def _figures(profile: HardwareProfile) -> Iterator[tuple[str, str, Figure]]:
    for dtype, figure in profile.peak_tflops.items():
        yield f"peak {dtype}", "TOP/s" if dtype in _INTEGERS else "TFLOP/s", figure
    memory, node, power = profile.memory, profile.node, profile.power
    rest = (
        ("2:4 sparse over dense peak", "×", profile.structured_sparsity),
        ("memory", "GiB", memory.capacity_gib),
        ("memory bandwidth", "GB/s", memory.bandwidth_gb_per_s),
        ("last-level cache", "MB", memory.cache_mb),
        (f"link ({profile.link.kind}), one direction", "GB/s", profile.link.gb_per_s_per_direction),
        ("link to the host, one direction", "GB/s", node.host_link_gb_per_s),
        ("network, one direction", "GB/s", node.network_gb_per_s_per_device),
        ("network, one hop", "µs", node.network_latency_us),
        ("TDP", "W", power.tdp_w),
        ("idle power", "W", power.idle_w),
    )
    yield from ((what, unit, figure) for what, unit, figure in rest if figure is not None)


def _constants(entry: Overheads) -> dict[str, float]:
    parts = (entry.host, entry.launches, entry.front_end)
    return {name: value for part in parts for name, value in part.model_dump().items()}


def _spread(entry: Overheads) -> dict[str, tuple[float, float]]:
    found = entry.fit.left_out_spread if entry.fit else {}
    return {key: (100.0 * expm1(low), 100.0 * expm1(high)) for key, (low, high) in found.items()}
