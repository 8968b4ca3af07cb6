"""What a scenario takes away from its model: parts by pruning, half of the weights by sparsity."""

from __future__ import annotations

from dataclasses import replace

from simulator.errors import ScenarioError
from simulator.hardware.profile import HardwareProfile
from simulator.models.pruning import Kept, prune
from simulator.models.spec import ModelSpec, MoeMlp
from simulator.scenario.precision import Dtype, Precision

_SPARSE = ("bf16", "fp16", "fp8", "int8", "int4")
"""Types that kernels for 2:4 sparse weights exist in: cuSPARSELt's and CUTLASS's, and for 4 bits
with 16-bit products Sparse-Marlin's (arXiv:2408.11743)."""


def pruned(spec: ModelSpec, precision: Precision) -> ModelSpec:
    """The model after ``precision.pruned``.

    Raises:
        ScenarioError: see `prune`.
    """
    if precision.pruned is None:
        return spec
    return prune(spec, Kept(**precision.pruned.model_dump()), "precision.pruned")


def sparse(
    spec: ModelSpec, precision: Precision, weights: Dtype, hardware: HardwareProfile
) -> ModelSpec:
    """The model after ``precision.sparsity``, with weights in ``weights``.

    Raises:
        ScenarioError: the device has no units for sparse weights, or no kernels exist for the
            type or for experts.
    """
    wanted = spec.sparse if precision.sparsity is None else precision.sparsity == "2:4"
    if wanted == spec.sparse and not wanted:
        return spec
    if wanted:
        _check(spec, weights, hardware)
    return replace(spec, sparse=wanted)


def _check(spec: ModelSpec, weights: Dtype, hardware: HardwareProfile) -> None:
    where, dense = "precision.sparsity", "sparsity: none keeps the weights dense"
    if hardware.structured_sparsity is None:
        raise ScenarioError(
            f"{hardware.title} has no units for 2:4 sparse weights", where=where, hint=dense
        )
    if weights not in _SPARSE:
        raise ScenarioError(
            f"there are no kernels for 2:4 sparse weights in {weights}",
            where=where,
            hint=f"weights may be {', '.join(_SPARSE)}; {dense}",
        )
    if any(isinstance(group.mlp, MoeMlp) for group in spec.groups):
        raise ScenarioError(
            f"there are no kernels for 2:4 sparse experts, as {spec.name} would need",
            where=where,
            hint=f"take a dense model; {dense}",
        )
