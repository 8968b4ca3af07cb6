"""KV blocks that went below device memory and came back: counted by the clock, then told."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from simulator.workload.requests import Requests


class Carrier(Protocol):
    """A path that counts what it carries."""

    busy_s: float
    sent_bytes: float


@dataclass(frozen=True, slots=True)
class PathUse:
    """The two directions between a place below and the devices.

    Args:
        replica: whose it is, the first one of those that share it.
        name: of the place.
        up, down: towards the device, and away from it.
    """

    replica: int
    name: str
    up: Carrier
    down: Carrier


class KvMoved:
    """KV blocks moved in a run, by place: a tier's name, or ``swap``.

    Attributes:
        up_bytes, down_bytes: of whole blocks, all devices of a replica together.
        found_tokens: prompt tokens that were loaded at first admission, by tier, of each request.
        paths: links that carried them.
    """

    def __init__(self, requests: Requests) -> None:
        self.requests = requests
        self.up_bytes: dict[str, float] = {}
        self.down_bytes: dict[str, float] = {}
        self.found_tokens: dict[str, array[int]] = {}
        self.paths: list[PathUse] = []

    def watch(self, paths: list[PathUse], tiers: list[str]) -> None:
        """Adds links, and the tiers (none: room for swapping) that they lead to."""
        self.paths += paths
        for name in tiers or ["swap"]:
            self.up_bytes.setdefault(name, 0.0)
            self.down_bytes.setdefault(name, 0.0)
        for name in tiers:
            self.found_tokens.setdefault(name, self.requests.column(0))

    def add(self, name: str, up_bytes: float, down_bytes: float) -> None:
        """Counts bytes that moved between a place and the devices."""
        self.up_bytes[name] += up_bytes
        self.down_bytes[name] += down_bytes

    def found(self, index: int, names: list[str], tokens: list[int]) -> None:
        """A request was admitted for the first time and loads these tokens."""
        for name, count in zip(names, tokens, strict=True):
            self.found_tokens[name][index] += count

    def tokens(self, name: str) -> npt.NDArray[np.int64]:
        """Prompt tokens loaded from one tier. Shape (requests,)."""
        return np.frombuffer(self.found_tokens[name], dtype=np.int64)


def moved_section(
    moved: KvMoved | None,
    prompt_tokens: int,
    cached: int,
    counted: npt.NDArray[np.bool_],
    end_s: float,
) -> dict[str, Any]:
    """Keys of the section ``kv_cache``, empty where blocks cannot leave device memory.

    Args:
        moved: of the run.
        prompt_tokens, cached: of the counted requests that started, and how many of them were found
            anywhere.
        counted: those requests. Shape (requests,).
        end_s: length of the run.
    """
    section: dict[str, Any] = {
        "prefix_hit_rate_by_tier": {}, "moved": {}, "link_busy_share": {},
    }  # fmt: skip
    if moved is None:
        return section
    if moved.found_tokens:
        loaded = {name: int(moved.tokens(name)[counted].sum()) for name in moved.found_tokens}
        rates = {"device": cached - sum(loaded.values()), **loaded}
        section["prefix_hit_rate_by_tier"] = {
            name: tokens / prompt_tokens if prompt_tokens else None
            for name, tokens in rates.items()
        }
    section["moved"] = {
        name: {"to_device_gb": moved.up_bytes[name] / 1e9, "from_device_gb": down / 1e9}
        for name, down in moved.down_bytes.items()
    }
    for name in dict.fromkeys(path.name for path in moved.paths):
        paths = [path for path in moved.paths if path.name == name]
        for key, busy in (
            ("to_device", sum(path.up.busy_s for path in paths)),
            ("from_device", sum(path.down.busy_s for path in paths)),
        ):
            share = busy / (len(paths) * end_s) if end_s > 0 else None
            section["link_busy_share"].setdefault(name, {})[key] = share
    return section
