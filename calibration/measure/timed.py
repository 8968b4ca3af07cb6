"""Kernels that say how long each call took, for devices on which a call computes at once."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from calibration.engine.model import Model
from calibration.engine.weights import DenseBlock
from calibration.kernels import Kernels

_NAMES = {
    "rms_norm": "norm",
    "add_rms_norm": "norm",
    "qk_norm": "qk_norm",
    "rope_kv_write": "rope_kv_write",
    "decode_attention": "decode_attention",
    "prefill_attention": "prefill_attention",
    "silu_mul": "activation",
    "route": "router_topk",
    "experts": "experts",
    "sample": "sampling",
}
"""Operators of the cost model by the kernel that does their work; products go by their weights."""


class TimedKernels:
    """A set of kernels, each call of which is timed."""

    def __init__(self, kernels: Kernels, model: Model) -> None:
        self._kernels = kernels
        self._products = product_names(model)
        self._seconds: dict[str, float] = defaultdict(float)
        self._calls: dict[str, int] = defaultdict(int)

    @property
    def spent(self) -> dict[str, float]:
        """By operator, seconds of a call on average since the last ``clear``, of this thread's
        computing time."""
        return {name: seconds / self._calls[name] for name, seconds in self._seconds.items()}

    def clear(self) -> None:
        """Forgets all calls."""
        self._seconds.clear()
        self._calls.clear()

    def __getattr__(self, method: str) -> Callable[..., Any]:
        call = getattr(self._kernels, method)
        timed = self._timed(call, _NAMES.get(method, ""))
        setattr(self, method, timed)
        return timed

    def _timed(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        clock, seconds, calls, products = (
            time.thread_time, self._seconds, self._calls, self._products,
        )  # fmt: skip

        def timed(*args: Any, **options: Any) -> Any:
            start = clock()
            result = call(*args, **options)
            ended = clock()
            operator = name or products[id(args[1])]
            seconds[operator] += ended - start
            calls[operator] += 1
            return result

        return timed

    def embed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The model's own look-up of embeddings, timed."""
        return self._timed(call, "embedding")


def product_names(model: Model) -> dict[int, str]:
    """Operators of the cost model by the identity of the weights that they multiply with."""
    names = {id(model.weights.lm_head): "lm_head"}
    for layer in model.weights.layers:
        names |= {id(layer.qkv): "qkv_proj", id(layer.out): "o_proj"}
        block = layer.mlp
        if isinstance(block, DenseBlock):
            names |= {id(block.gate_up): "up_proj", id(block.down): "down_proj"}
            continue
        names[id(block.router)] = "router"
        if block.shared is not None:
            names[id(block.shared.gate_up)] = "shared_up_proj"
            names[id(block.shared.down)] = "shared_down_proj"
        if block.shared_gate is not None:
            names[id(block.shared_gate)] = "shared_gate"
    return names
