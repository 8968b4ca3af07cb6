"""The largest batch and the tokens a step that ``trtllm-bench`` chooses for equal requests."""

from __future__ import annotations

from math import ceil

from calibration.validate.formats import Target
from calibration.validate.point import Point
from calibration.validate.protocol import scenario_of
from simulator.models.counting import kv_bytes_per_rank, weight_bytes
from simulator.models.layout import Layout

_MOST_SEQUENCES = 4096
_MOST_TOKENS = 32768
_GIB = float(1 << 30)


def limited(point: Point, found: Target) -> Point:
    """The point with the limits that the tool sets, unless the row gives them.

    Rule of NVIDIA/TensorRT-LLM, tensorrt_llm/bench/build/tuning.py: as many whole sequences as fit
    in the memory that the weights leave (times the fraction for the cache), at most 4,096, and as
    many tokens as these need a step in the mean, at most 32,768; both rounded up, and of each rank
    where attention is data-parallel.

    Raises:
        UserError: the model cannot be split like this.
    """
    if not point.bench_limits:
        return point
    precision = scenario_of(point, found).precision
    weights, cache = precision.weights or "bf16", precision.kv_cache or "bf16"
    kv = kv_bytes_per_rank(found.model, cache, Layout(point.tp)).total * point.tp
    memory = point.devices * found.hardware.memory.capacity_gib.value * _GIB
    room = (memory - weight_bytes(found.model, weights)) * (point.memory_fraction or 0.9)
    fitting = min(room / (kv * (point.isl + point.osl)) / point.attention_dp, _MOST_SEQUENCES)
    sequences = max(64, _up(fitting, ((256, 32), (1024, 128), (_MOST_SEQUENCES, 256))))
    wanted = min(fitting * (1 + point.isl / point.osl), _MOST_TOKENS)
    tokens = max(2048, _up(wanted, ((4096, 256), (8192, 512), (_MOST_TOKENS, 1024))))
    return point.model_copy(
        update={
            "max_num_seqs": point.max_num_seqs or sequences,
            "max_num_batched_tokens": point.max_num_batched_tokens or tokens,
        }
    )


def _up(value: float, steps: tuple[tuple[int, int], ...]) -> int:
    """Up to the next multiple; values below each limit have their own."""
    unit = next((unit for limit, unit in steps if value < limit), steps[-1][1])
    return unit * ceil(value / unit)
