"""The next token of each sequence: the largest logit, or a draw from their softmax.

A draw is the argmax of the logits with Gumbel noise added, which needs neither the softmax's sum
nor a sorted order. A first launch finds the best of each tile of the vocabulary, so that a few rows
fill a chip too, and a second one the best of the tiles.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from calibration.kernels.gpu.specialization import Specialization

_PART = 1024
"""Columns that take one of the four numbers of a Philox round each; a tile is four parts."""


def sample(logits: Tensor, temperature: float, seed: int, step: Tensor) -> Tensor:
    """See ``Kernels.sample``."""
    rows, vocabulary = logits.shape
    tiles = triton.cdiv(vocabulary, 4 * _PART)
    scores = torch.empty((rows, tiles), dtype=torch.float32, device=logits.device)
    columns = torch.empty((rows, tiles), dtype=torch.int32, device=logits.device)
    chosen = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows:
        greedy = temperature == 0.0
        _best_of_tile[(rows, tiles)](
            logits, scores, columns, step, seed, 1.0 if greedy else 1.0 / temperature,
            logits.stride(0), vocabulary, greedy=greedy, part=_PART, num_warps=4,
        )  # fmt: skip
        _best_of_tiles[(rows,)](
            scores, columns, chosen, tiles, vocabulary,
            block=triton.next_power_of_2(tiles), num_warps=1,
        )  # fmt: skip
    return chosen


def specializations() -> Iterator[Specialization]:
    """Greedy and drawn, of float32 and bfloat16 logits."""
    for greedy in (False, True):
        for logits in ("*fp32", "*bf16"):
            pointers = {"logits": logits, "scores": "*fp32", "columns": "*i32", "step": "*i64"}
            scalars = {"seed": "i32", "inverse": "fp32", "stride": "i32", "vocabulary": "i32"}
            yield Specialization(
                f"sample {'greedy' if greedy else 'drawn'} {logits}",
                _best_of_tile,
                pointers | scalars,
                {"greedy": greedy, "part": _PART},
                multiples_of_16=("stride", "vocabulary"),
            )
    pointers = {"scores": "*fp32", "columns": "*i32", "chosen": "*i64"}
    yield Specialization(
        "sample merge",
        _best_of_tiles,
        pointers | {"tiles": "i32", "vocabulary": "i32"},
        {"block": 64},
        num_warps=1,
    )


@triton.jit
def _exponential(word):
    """A positive, exponentially distributed number from 32 random bits, exact for small ones too:
    they are the ones that win."""
    # 31 bits, the middle of each of their intervals, so that it is neither 0 nor 1.
    uniform = ((word >> 1).to(tl.float32) + 0.5) * (1.0 / 2147483648.0)
    uniform = tl.minimum(uniform, 0.99999994)
    near = uniform * (1.0 + uniform * (0.5 + uniform * (1.0 / 3.0)))
    return tl.where(uniform < 1e-2, near, -tl.log(1.0 - uniform))


@triton.jit
def _noisy(
    row,
    columns,
    word,
    inverse,
    vocabulary,
    greedy: tl.constexpr,
):
    """Scores of columns, -inf outside of the vocabulary."""
    score = tl.load(row + columns, mask=columns < vocabulary, other=-float("inf")).to(tl.float32)
    if not greedy:
        score = score * inverse - tl.log(_exponential(word))
    return score


@triton.jit(do_not_specialize=["seed"])
def _best_of_tile(
    logits,
    scores,
    columns,
    step,
    seed,
    inverse,
    stride,
    vocabulary,
    greedy: tl.constexpr,
    part: tl.constexpr,
):
    """A tile of one row a program."""
    row = tl.program_id(0)
    tile = tl.program_id(1)
    lane = tl.arange(0, part)
    start = logits + row.to(tl.int64) * stride
    column = tile * 4 * part + lane
    # The counter has words of its own for column, row and step, so that no two draws share one.
    now = tl.load(step)
    none = lane * 0
    low = (now & 0x7FFFFFFF).to(tl.int32)
    high = (now >> 31).to(tl.int32)
    if greedy:
        a, b, c, d = none, none, none, none
    else:
        a, b, c, d = tl.philox(seed, tile * part + lane, none + row, none + low, none + high)
    score = _noisy(start, column, a, inverse, vocabulary, greedy)
    other = _noisy(start, column + part, b, inverse, vocabulary, greedy)
    where = tl.where(other > score, column + part, column)
    score = tl.maximum(score, other)
    other = _noisy(start, column + 2 * part, c, inverse, vocabulary, greedy)
    where = tl.where(other > score, column + 2 * part, where)
    score = tl.maximum(score, other)
    other = _noisy(start, column + 3 * part, d, inverse, vocabulary, greedy)
    where = tl.where(other > score, column + 3 * part, where)
    score = tl.maximum(score, other)
    best = tl.max(score, axis=0)
    first = tl.min(tl.where(score == best, where, vocabulary - 1), axis=0)
    tiles = tl.num_programs(1)
    tl.store(scores + row * tiles + tile, best)
    tl.store(columns + row * tiles + tile, first)


@triton.jit
def _best_of_tiles(
    scores,
    columns,
    chosen,
    tiles,
    vocabulary,
    block: tl.constexpr,
):
    """One row a program."""
    row = tl.program_id(0)
    tile = tl.arange(0, block)
    inside = tile < tiles
    score = tl.load(scores + row * tiles + tile, mask=inside, other=-float("inf"))
    column = tl.load(columns + row * tiles + tile, mask=inside, other=vocabulary)
    best = tl.max(score, axis=0)
    # A row of NaN has no best: its draw must be a token all the same, not a stray address.
    first = tl.min(tl.where(score == best, column, vocabulary - 1), axis=0)
    tl.store(chosen + row, first.to(tl.int64))
