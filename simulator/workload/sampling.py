"""From the lengths that answers would have to those they get: thinking, stops, caps, samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simulator.scenario.answers import Answered, Sampled, Samples
from simulator.workload.answers import Answers
from simulator.workload.arrivals import check_size
from simulator.workload.lengths import draw_lengths
from simulator.workload.randomness import Generators
from simulator.workload.requests import Ints, PrefixStreams, Requests


def shaped(
    workload: Answered, natural: Ints, generators: Generators, where: str, notes: list[str]
) -> tuple[Ints, Answers | None]:
    """Output tokens of each row (thinking and answer), and what is special about them.

    An answer of ``natural`` tokens ends at the first token that completes a stop sequence, which is
    a geometric number; thinking comes before it; ``max_tokens`` cuts both together.

    Shapes: natural and the result (n,). None: nothing is special.
    """
    reasoning, most = workload.reasoning, workload.max_tokens
    n = len(natural)
    thinking = np.zeros(n, dtype=np.int64)
    if reasoning is not None:
        thinking = draw_lengths(
            reasoning.tokens, n, generators.reasoning, where=f"{where}.reasoning.tokens",
            notes=notes,
        )  # fmt: skip
        if reasoning.max_tokens is not None:
            thinking = np.minimum(thinking, reasoning.max_tokens)
    answer = natural
    if workload.ignore_eos:
        assert most is not None, "the model checks it"
        answer = np.full(n, most, dtype=np.int64)
    if workload.stop_per_token is not None:
        stopped = generators.stop.geometric(workload.stop_per_token, n)
        answer = np.minimum(answer, stopped)
    total = thinking + answer
    truncated = np.zeros(n, dtype=np.bool_)
    if most is not None:
        truncated = (total > most) & (not workload.ignore_eos)
        total = np.minimum(total, most)
    if reasoning is None and not truncated.any():
        return total, None
    answers = replace(
        Answers.plain(n),
        thinking=np.minimum(thinking, total),
        hidden=np.full(n, reasoning is not None and reasoning.hidden),
        truncated=truncated,
    )
    return total, answers


def computed_samples(workload: Sampled) -> int:
    """Answers that the engine computes for each prompt."""
    return workload.samples.computed if workload.samples is not None else 1


def spread(
    requests: Requests, samples: Samples | None, outputs: Ints, answers: Answers | None, where: str
) -> Requests:
    """Requests with a row for each answer, which share their whole prompt.

    Args:
        requests: a row a prompt, which waits for no other one but in a closed loop.
        samples: how many answers each has; None for one.
        outputs, answers: of the rows of the result, shape (prompts · samples,).
        where: the workload's key, for messages.
    """
    if samples is None or samples.computed == 1:
        return replace(requests, output_tokens=outputs, answers=answers)
    each = samples.computed
    n = len(requests)
    check_size(n * each, f"{where}.samples")
    index = np.arange(n * each, dtype=np.int64)
    answers = replace(
        answers or Answers.plain(n * each),
        lead=index - index % each,
        delivered=index % each < samples.n,
        at_once=np.full(n * each, each > samples.n),
    )
    return replace(
        requests,
        output_tokens=outputs,
        answers=answers,
        prefixes=_shared_prompts(requests, each),
        source=f"{requests.source}, {each} answers to each",
        arrival_s=np.repeat(requests.arrival_s, each),
        input_tokens=np.repeat(requests.input_tokens, each),
        class_id=np.repeat(requests.class_id, each),
        parent=np.repeat(requests.parent, each),
        pool=np.repeat(requests.pool, each),
        session=np.repeat(requests.session, each),
    )


def _shared_prompts(requests: Requests, each: int) -> PrefixStreams:
    """Texts of the rows: those of their prompts, whose ends become texts of their own so that the
    answers to a prompt find all of it."""
    n = len(requests)
    inputs, own = requests.input_tokens, requests.prefixes
    offsets = own.offsets if own is not None else np.zeros(n + 1, dtype=np.int64)
    stream = own.stream if own is not None else np.zeros(0, dtype=np.int64)
    end = own.end if own is not None else np.zeros(0, dtype=np.int64)
    counts = np.diff(offsets)
    covered = np.zeros(n, dtype=np.int64)
    covered[counts > 0] = end[offsets[1:][counts > 0] - 1]
    tail = covered < inputs
    first_new = int(stream.max(initial=-1)) + 1
    at = offsets[1:][tail]
    stream = np.insert(stream, at, first_new + np.flatnonzero(tail))
    end = np.insert(end, at, inputs[tail])
    starts = offsets[:-1] + np.concatenate([[0], np.cumsum(tail)[:-1]])
    counts = counts + tail
    repeated = np.repeat(counts, each)
    through = np.concatenate([[0], np.cumsum(repeated)]).astype(np.int64)
    take = np.arange(through[-1]) + np.repeat(np.repeat(starts, each) - through[:-1], repeated)
    return PrefixStreams(through, stream[take], end[take], np.zeros(n * each, dtype=np.bool_))
