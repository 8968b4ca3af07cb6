"""Operators on a CPU, where they stand: inside whole steps, each call timed.

A kernel alone in a loop finds its weights in the cache, which a step with other layers in between
has emptied; so every operator is timed in the steps it is part of. One thread, its own computing
time, rounds over all steps in turn, and of each the median: what others do on the machine comes and
goes within seconds, and is part of the machine as engines find it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator

from calibration.engine.build import Engine
from calibration.engine.clock import Pace
from calibration.measure.rows import Row
from calibration.measure.stage import Shape, packed
from calibration.measure.timed import TimedKernels

SEQUENCES, LONGEST, BUDGET, KV_TOKENS = 64, 2048, 512, 32768

_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_CONTEXTS = (16, 64, 256, 1024)
_PROMPTS = (2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)
_LATER = ((16, 64), (16, 512), (64, 64), (64, 512), (256, 256), (256, 1024))
_SEVERAL = ((2, 16), (4, 16), (4, 64), (8, 32), (3, 150))
_MIXED = ((1, 64, 32), (2, 256, 16), (4, 128, 64), (8, 64, 200), (16, 128, 128), (24, 256, 400))


def shapes() -> Iterator[Shape]:
    """Steps that decode, that compute prompts, and that do both."""
    for batch in _BATCHES:
        for context in _CONTEXTS:
            if batch * context <= KV_TOKENS // 2:
                yield Shape([context] * batch)
    for new in _PROMPTS:
        yield Shape(chunks=[(new, 0)])
    for new, past in _LATER:
        yield Shape(chunks=[(new, past)])
    for number, new in _SEVERAL:
        yield Shape(chunks=[(new, 0)] * number)
    for batch, context, new in _MIXED:
        yield Shape([context] * batch, [(new, 0)])


def operator_rows(
    engine: Engine,
    rounds: int,
    labels: dict[str, str],
    pace: Pace,
    progress: Callable[[int, int], None],
) -> Iterator[Row]:
    """Seconds of each operator in each step, one kernel of it.

    Args:
        engine: on the CPU.
        rounds: over all steps.
        labels: model and number formats of the rows.
        pace: seconds are told at its reference.
        progress: called with steps done and steps in all.
    """
    model = engine.model
    timed = TimedKernels(model.kernels, model)
    plain_kernels, plain_embed = model.kernels, model.embed
    model.kernels, model.embed = timed, timed.embed(plain_embed)  # type: ignore[method-assign]
    every = [(shape, packed(engine, shape)) for shape in shapes()]
    seconds: list[dict[str, list[float]]] = [defaultdict(list) for _ in every]
    try:
        for round_number in range(rounds + 1):
            for place, (_, step) in enumerate(every):
                timed.clear()
                pace.probe()
                start = time.thread_time()
                engine.executor.run(step).wait()
                whole = time.thread_time() - start
                if round_number:  # the first one warms up
                    for name, spent in timed.spent.items():
                        seconds[place][name].append(spent * pace.factor)
                    seconds[place]["executor"].append(whole * pace.factor)
                progress(round_number * len(every) + place + 1, (rounds + 1) * len(every))
    finally:
        model.kernels, model.embed = plain_kernels, plain_embed  # type: ignore[method-assign]
    for (shape, _), found in zip(every, seconds, strict=True):
        for name, values in found.items():
            yield shape.row("operator", name, values, rows=shape.tokens, **labels)
