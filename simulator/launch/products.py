"""Names that Kubernetes clusters have for devices."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from simulator.yamlio import parse_yaml

_INSTANCE = "node.kubernetes.io/instance-type"


@cache
def _table() -> dict[str, Any]:
    file = files("simulator.launch") / "products.yaml"
    return parse_yaml(file.read_text("utf-8"), Path("products.yaml"))[0]


def resource_of(vendor: str) -> str | None:
    """The extended resource of a vendor's devices; None if there is no device plugin."""
    found: str | None = _table()["resources"].get(vendor)
    return found


def resources() -> frozenset[str]:
    """Extended resources of all vendors."""
    return frozenset(_table()["resources"].values())


def selector_of(hardware: str) -> dict[str, str]:
    """The node label of a hardware profile's devices; empty if none is known."""
    labels: dict[str, list[str]] = _table()["labels"].get(hardware, {})
    return next(({key: values[0]} for key, values in labels.items()), {})


def hardware_of(labels: Mapping[str, str]) -> str | None:
    """The hardware profile that node labels name; None if they name none that is known."""
    for hardware, known in _table()["labels"].items():
        if any(labels.get(key) in values for key, values in known.items()):
            return str(hardware)
    instance = labels.get(_INSTANCE, "")
    for beginning, hardware in _table()["instances"].items():
        if instance.startswith(beginning):
            return str(hardware)
    return None


def names_hardware(label: str) -> bool:
    """Whether values of a node label say which device a node has."""
    return label == _INSTANCE or any(label in known for known in _table()["labels"].values())
