"""Operators of a step with other kernels than those that the profile was fitted to.

FlashAttention's rates are shares of the peak that its papers report: the first version 25 to 40% on
A100 and the second 50 to 73% (arXiv:2307.08691), the second 35% on H100 and the third 1.5 to 2
times as fast there (arXiv:2407.08608). Where a paper says a range, its middle is taken.
"""

from __future__ import annotations

from dataclasses import replace

from simulator.costs.attention import DecodeAttention, PrefillAttention
from simulator.costs.operators import Elementwise, Operator
from simulator.errors import ScenarioError
from simulator.hardware.efficiency import Efficiency
from simulator.hardware.forms import DecodeAttentionEfficiency, PrefillAttentionEfficiency
from simulator.hardware.profile import HardwareProfile
from simulator.scenario.kernels import Kernels

_AMPERE = {"flash_1": 0.325, "flash_2": 0.615}
_HOPPER = {"flash_1": 0.175, "flash_2": 0.35, "flash_3": 0.6125}
"""The first version on H100 is not in the papers: half of the second, as on A100."""

FLASH: dict[str, dict[str, float]] = {"ampere": _AMPERE, "ada": _AMPERE, "hopper": _HOPPER}
"""Share of the peak that FlashAttention reaches on prompts, by architecture and version."""

SCORE_PASSES = 4
"""Times that a score of 16 bits passes memory: written by the first product, read and written by
the softmax, read by the second product."""

_UNFUSED: dict[str, tuple[int, float]] = {
    "norm": (9, 42 / 8),
    "qk_norm": (8, 36 / 4),
    "rope_kv_write": (11, 5.0),
    "activation": (2, 10 / 6),
    "shared_activation": (2, 10 / 6),
}
"""Kernels that take the place of a fused one, and how many times its bytes they move, with
transformers/models/llama/modeling_llama.py in 16 bits. Norm: the residual sum moves 6 bytes an
element, widening 6, the square 8, the mean 4, the scaling 8, narrowing 6, the weight 4, where the
fused kernel reads and writes two elements of 2. Rotation, for queries and keys each: cosine 4,
negation of a half 2, joining 4, sine 4, sum 6 where the fused kernel moves 4. Activation: itself 4,
the product 6, where the fused kernel moves 6."""


def with_kernels(
    operators: list[Operator], kernels: Kernels, hardware: HardwareProfile, efficiency: Efficiency
) -> list[Operator]:
    """The same operators as the chosen kernels run them.

    Raises:
        ScenarioError: nobody has published how fast this version is on this device.
    """
    if kernels.attention != "fitted":
        operators = [_attention(op, kernels, hardware, efficiency) for op in operators]
    if not kernels.fusion:
        operators = [_unfused(op) for op in operators]
    return operators


def _attention(
    op: Operator, kernels: Kernels, hardware: HardwareProfile, efficiency: Efficiency
) -> Operator:
    version = kernels.attention
    if version == "unfused":
        return _with_scores(op, efficiency)
    known = FLASH.get(hardware.architecture, {})
    if version not in known:
        can = ", ".join(sorted(known)) or "no version of it"
        raise ScenarioError(
            f"how fast {version} is on {hardware.title} ({hardware.architecture}) is not known",
            where="engine.kernels.attention",
            hint=f"published for this architecture: {can}; fitted and unfused work everywhere",
        )
    if not isinstance(op, PrefillAttention):
        return op
    own = PrefillAttentionEfficiency(
        compute=known[version],
        bandwidth=op.efficiency.bandwidth,
        half_head_dim=0.0,
        overhead_us=op.efficiency.overhead_us,
    )
    return replace(op, efficiency=own)


def _with_scores(op: Operator, efficiency: Efficiency) -> Operator:
    """Two batched products at the rate of others in 16 bits, scale and softmax between them."""
    product, small = efficiency.matmul["bf16"], efficiency.elementwise
    launches = 4
    overhead_us = 2 * product.overhead_us + 2 * small.overhead_us
    scores = SCORE_PASSES * 2.0
    if isinstance(op, PrefillAttention):
        whole = PrefillAttentionEfficiency(
            compute=product.compute,
            bandwidth=small.bandwidth,
            half_head_dim=0.0,
            overhead_us=overhead_us,
        )
        return replace(op, efficiency=whole, pair_bytes=scores * op.heads, launches=launches)
    if isinstance(op, DecodeAttention):
        single = DecodeAttentionEfficiency(
            bandwidth=small.bandwidth,
            compute=product.compute,
            per_unit_us=0.0,
            overhead_us=overhead_us,
        )
        kv_bytes = op.kv_bytes + scores * op.heads
        return replace(op, efficiency=single, kv_bytes=kv_bytes, launches=launches)
    return op


def _unfused(op: Operator) -> Operator:
    if not isinstance(op, Elementwise) or op.name not in _UNFUSED:
        return op
    kernels, times = _UNFUSED[op.name]
    moved = op.bytes_per_token * times / kernels
    return replace(op, count=op.count * kernels, bytes_per_token=moved)
