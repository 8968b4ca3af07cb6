"""Settings of speculative decoding: path, another value, what else is set."""

from __future__ import annotations

from typing import Any

_BIG: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "parallelism.tp": 2,
    "workload": {
        "kind": "synthetic",
        "requests": 25,
        "arrivals": {"kind": "poisson", "rate_per_s": 10.0},
        "lengths": {
            "kind": "independent",
            "input": {"kind": "uniform", "low": 150, "high": 500},
            "output": {"kind": "uniform", "low": 1, "high": 150},
        },
    },
}
_PATH = "engine.speculative"
_DRAFT = {"kind": "draft_model", "model": "llama-3.2-1b", "tokens": 3, "acceptance": 0.7}
_EAGLE = {"kind": "eagle", "tokens": 3, "acceptance": 0.7}
_NGRAM = {"kind": "ngram", "tokens": 3, "acceptance": 0.7}
_MTP = {"kind": "mtp", "tokens": 1, "acceptance": 0.8}
_DEEPSEEK = _BIG | {
    "model": "deepseek-v3",
    "hardware.profile": "h200-sxm",
    "parallelism.tp": 8,
    "workload": _BIG["workload"] | {"requests": 8},
}


def _on(mapping: dict[str, Any]) -> dict[str, Any]:
    return _BIG | {_PATH: mapping}


CHANGES: list[tuple[str, Any, dict[str, Any]]] = [
    (_PATH, _DRAFT, _BIG),
    (_PATH, _DRAFT | {"tokens": 2}, _on(_DRAFT)),
    (_PATH, _DRAFT | {"acceptance": 0.6}, _on(_DRAFT)),
    (_PATH, _DRAFT | {"acceptance": [0.7, 0.6, 0.5]}, _on(_DRAFT)),
    (_PATH, _DRAFT | {"max_batch": 2}, _on(_DRAFT)),
    (_PATH, _DRAFT | {"model": "llama-3.2-3b"}, _on(_DRAFT)),
    (_PATH, _DRAFT | {"draft_tp": 1}, _on(_DRAFT)),
    (_PATH, _DRAFT | {"precision": {"weights": "fp8"}}, _on(_DRAFT)),
    (_PATH, _DRAFT | {"precision": {"weights": "fp8", "activations": "bf16"}},
     _on(_DRAFT | {"precision": {"weights": "fp8"}})),
    (_PATH, _DRAFT | {"precision": {"kv_cache": "fp8"}}, _on(_DRAFT)),
    (_PATH, _EAGLE, _BIG),
    (_PATH, _EAGLE | {"tokens": 5}, _on(_EAGLE)),
    (_PATH, _EAGLE | {"acceptance": 0.9}, _on(_EAGLE)),
    (_PATH, _EAGLE | {"max_batch": 1}, _on(_EAGLE)),
    (_PATH, _EAGLE | {"vocab": 32000}, _on(_EAGLE)),
    (_PATH, _EAGLE | {"weights": "fp8"}, _on(_EAGLE)),
    (_PATH, _NGRAM, _BIG),
    (_PATH, _NGRAM | {"tokens": 5}, _on(_NGRAM)),
    (_PATH, _NGRAM | {"acceptance": 0.1}, _on(_NGRAM)),
    (_PATH, _NGRAM | {"max_batch": 1}, _on(_NGRAM)),
    (_PATH, _NGRAM | {"lookup_us": 500.0}, _on(_NGRAM)),
    (_PATH, _MTP, _DEEPSEEK),
    (_PATH, _MTP | {"tokens": 2}, _DEEPSEEK | {_PATH: _MTP}),
    (_PATH, _MTP | {"acceptance": 0.5}, _DEEPSEEK | {_PATH: _MTP}),
    (_PATH, _MTP | {"max_batch": 1}, _DEEPSEEK | {_PATH: _MTP}),
]  # fmt: skip
