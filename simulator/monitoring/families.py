"""Every metric that a live server or a simulation exports: name, type, meaning, labels, buckets.

Names, labels and buckets of ``vllm:`` are those of vLLM's V1 engine (``vllm/v1/metrics``, release
0.30), so that what reads a real server reads a simulated one. All others are ``servecast:``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

ENGINE = ("engine", "model_name")
"""Labels of what a replica counts: its number, and the model's name."""

LATENCY = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
TOKEN = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
)  # fmt: skip
ITERATION = (1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0,
             16384.0)  # fmt: skip
ANSWERS = (1.0, 2.0, 5.0, 10.0, 20.0)
PREEMPTIONS = (1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0)
LATENESS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1)

LENGTHS = "lengths"
"""Stands for ``lengths_up_to`` the model's context."""

REASONS = ("stop", "length", "abort", "error")
SOURCES = ("local_compute", "local_cache_hit", "external_kv_transfer")
OUTCOMES = ("completed", "rejected", "failed", "cancelled")


def lengths_up_to(most: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20 … up to ``most``: buckets for numbers of tokens."""
    found: list[float] = []
    scale = 1
    while True:
        for digit in (1, 2, 5):
            if digit * scale > most:
                return tuple(found)
            found.append(float(digit * scale))
        scale *= 10


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Args:
        name: without the suffixes that its type adds (``_total``, ``_bucket`` …).
        kind: its type.
        help: one sentence.
        labels: besides ``le``, in the order in which they are written.
        buckets: upper bounds of a histogram; ``LENGTHS``: those of the model.
        live_only: a simulation does not know it.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ENGINE
    buckets: tuple[float, ...] | str = ()
    live_only: bool = False


def _engine(kind: Kind, name: str, help: str, **more: object) -> Family:
    return Family(f"vllm:{name}", kind, help, **more)  # type: ignore[arg-type]


def _own(kind: Kind, name: str, help: str, *labels: str, **more: object) -> Family:
    return Family(f"servecast:{name}", kind, help, labels, **more)  # type: ignore[arg-type]


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        _engine("gauge", "num_requests_running", "Requests admitted to the running batch."),
        _engine("gauge", "num_requests_waiting", "Requests that wait to be admitted."),
        _engine("gauge", "kv_cache_usage_perc", "Share of the KV blocks in use, 0 to 1."),
        _engine(
            "gauge", "cache_config_info", "The KV cache as labels; always 1.",
            labels=("block_size", "enable_prefix_caching", "engine", "num_gpu_blocks"),
        ),
        _engine("counter", "prefix_cache_queries", "Prompt tokens looked up in the prefix cache."),
        _engine("counter", "prefix_cache_hits", "Prompt tokens found in the prefix cache."),
        _engine("counter", "num_preemptions", "Requests that lost their KV blocks to make room."),
        _engine("counter", "prompt_tokens", "Prompt tokens whose first output token has come."),
        _engine(
            "counter", "prompt_tokens_by_source", "The same by where their KV cache came from.",
            labels=(*ENGINE, "source"),
        ),
        _engine("counter", "prompt_tokens_cached", "Prompt tokens that need not be computed."),
        _engine("counter", "generation_tokens", "Output tokens."),
        _engine(
            "counter", "request_success", "Requests that ended, by reason.",
            labels=("engine", "finished_reason", "model_name"),
        ),
        _engine("counter", "spec_decode_num_drafts", "Drafts that were verified."),
        _engine("counter", "spec_decode_num_draft_tokens", "Tokens of those drafts."),
        _engine("counter", "spec_decode_num_accepted_tokens", "Draft tokens that were accepted."),
        _engine(
            "histogram", "request_prompt_tokens", "Prompt length of requests that ended, tokens.",
            buckets=LENGTHS,
        ),
        _engine(
            "histogram", "request_generation_tokens", "Output of requests that ended, tokens.",
            buckets=LENGTHS,
        ),
        _engine(
            "histogram", "iteration_tokens_total", "Tokens of an engine step.", buckets=ITERATION
        ),
        _engine(
            "histogram", "request_max_num_generation_tokens",
            "Output of the longest answer of requests that ended, tokens.", buckets=LENGTHS,
        ),
        _engine(
            "histogram", "request_params_n", "Answers that requests asked for.", buckets=ANSWERS
        ),
        _engine(
            "histogram", "request_params_max_tokens", "max_tokens that requests gave.",
            buckets=LENGTHS, live_only=True,
        ),
        _engine(
            "histogram", "time_to_first_token_seconds", "From arrival to the first token, s.",
            buckets=FIRST_TOKEN,
        ),
        _engine(
            "histogram", "inter_token_latency_seconds",
            "Gap between two steps that give tokens to the same request, s.", buckets=TOKEN,
        ),
        _engine(
            "histogram", "request_time_per_output_token_seconds",
            "Mean time of a request's tokens after the first, s.", buckets=TOKEN,
        ),
        _engine(
            "histogram", "e2e_request_latency_seconds", "From arrival to the last token, s.",
            buckets=LATENCY,
        ),
        _engine(
            "histogram", "request_queue_time_seconds", "From the queue to the first step, s.",
            buckets=LATENCY,
        ),
        _engine(
            "histogram", "request_inference_time_seconds",
            "From the first step to the last token, s.", buckets=LATENCY,
        ),
        _engine(
            "histogram", "request_prefill_time_seconds",
            "From the first step to the first token, s.", buckets=LATENCY,
        ),
        _engine(
            "histogram", "request_decode_time_seconds", "From the first to the last token, s.",
            buckets=LATENCY,
        ),
        _engine(
            "histogram", "request_prefill_kv_computed_tokens",
            "Prompt tokens of requests that ended which were not cached.", buckets=LENGTHS,
        ),
        _engine(
            "histogram", "request_num_preemptions", "Preemptions of requests that ended.",
            buckets=PREEMPTIONS,
        ),
        _own(
            "gauge", "replica_info", "The pool of each replica; always 1.",
            "engine", "model_name", "pool", "role",
        ),
        _own("gauge", "replicas", "Replicas by state.", "pool", "state"),
        _own("gauge", "devices", "Devices held.", "pool"),
        _own("counter", "requests", "Requests that are over, by outcome.", "outcome"),
        _own(
            "counter", "energy_joules",
            "Energy of all devices held, idle ones included, times PUE, J.", "pool",
        ),
        _own("gauge", "power_watts", "Power of all devices held, times PUE, W.", "pool"),
        _own("counter", "cost_usd", "Price of all devices held, busy or not.", "pool"),
        _own("counter", "busy_seconds", "Replica-seconds in which devices worked.", "pool"),
        _own("counter", "model_flops", "FLOPs of the model, without recomputation.", "pool"),
        _own("counter", "hbm_bytes", "Bytes between memory and chip.", "pool"),
        _own("gauge", "peak_flops", "FLOP/s that all devices held could do.", "pool"),
        _own(
            "gauge", "peak_hbm_bytes_per_second", "Bandwidth of all devices held, byte/s.", "pool"
        ),
        _own("counter", "simulated_seconds", "Simulated time."),
        _own("gauge", "gateway_requests_waiting",
             "Requests at the gateway, as no replica takes any.", live_only=True),
        _own("gauge", "speed", "Simulated seconds that are meant to pass in a second.",
             live_only=True),
        _own("counter", "http_responses", "HTTP responses by status.", "code", live_only=True),
        _own(
            "histogram", "emulator_lateness_seconds",
            "By how much the host sent tokens later than simulated, s of real time.",
            buckets=LATENESS, live_only=True,
        ),
    )
}  # fmt: skip
"""By name, in the order in which they are written."""
