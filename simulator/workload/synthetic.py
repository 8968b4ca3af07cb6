"""Traffic drawn from distributions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simulator.errors import ScenarioError
from simulator.scenario.lengths import (
    IndependentLengths,
    LengthsOverTime,
    TraceLengths,
)
from simulator.scenario.rates import RatesArrivals
from simulator.scenario.workload import (
    Arrivals,
    ClosedLoopArrivals,
    SharedPrefix,
    SyntheticWorkload,
)
from simulator.workload.arrivals import arrival_times, check_size
from simulator.workload.lengths import draw_lengths
from simulator.workload.prefixes import shared_prefix
from simulator.workload.randomness import Generators, spawn_generators
from simulator.workload.requests import OPEN_LOOP, ROOT, Floats, Ints, PrefixStreams, Requests
from simulator.workload.sampling import computed_samples, shaped, spread


def build_synthetic(
    workload: SyntheticWorkload,
    rng: np.random.Generator,
    base: Path | None = None,
    where: str = "workload",
) -> Requests:
    """Requests of a synthetic workload; ``where`` is its key in the scenario, for messages.

    Raises:
        ScenarioError: no request arrives, an input is shorter than the shared prefix, or a
            truncated distribution has nothing left.
        TraceError: the file that lengths come from cannot be read.
    """
    generators = spawn_generators(rng)
    notes: list[str] = []
    arrivals = workload.arrivals
    if isinstance(arrivals, ClosedLoopArrivals):
        arrival_s = _think_times(arrivals, workload.requests or 0, generators.pause, where, notes)
        pools: tuple[int, ...] = (arrivals.concurrency,)
    else:
        arrival_s = arrival_times(
            arrivals,
            generators.arrivals,
            requests=workload.requests,
            duration_s=workload.duration_s,
            where=where,
            base=base,
        )
        pools = ()
    n = len(arrival_s)
    if n == 0:
        raise no_requests(workload.duration_s, where)
    if isinstance(workload.lengths, LengthsOverTime):
        from simulator.workload.over_time import read_over_time

        table = read_over_time(workload.lengths, base, f"{where}.lengths")
        rows = table.rows(_table_time(arrivals, arrival_s))
        inputs = table.input.draw(rows, generators.input)
        outputs = table.output.draw(rows, generators.output)
    else:
        inputs, outputs = draw_pairs(
            workload.lengths, n, generators, base, f"{where}.lengths", notes
        )
    prefixes = None
    if workload.shared_prefix is not None:
        prefixes = _shared(workload.shared_prefix, inputs, generators.prefix, where)
    natural = _of_samples(workload, outputs, arrival_s, generators, base, where, notes)
    shaped_tokens, answers = shaped(workload, natural, generators, where, notes)
    requests = Requests(
        arrival_s=arrival_s,
        input_tokens=inputs,
        output_tokens=outputs,
        class_id=np.zeros(n, dtype=np.int64),
        parent=np.full(n, ROOT, dtype=np.int64),
        pool=np.full(n, 0 if pools else OPEN_LOOP, dtype=np.int64),
        session=np.full(n, -1, dtype=np.int64),
        pool_concurrency=pools,
        prefixes=prefixes,
        source=f"synthetic: {n:,} request{'s' if n != 1 else ''}, {describe_arrivals(arrivals)}",
        notes=tuple(notes),
    )
    return spread(requests, workload.samples, shaped_tokens, answers, where)


def _of_samples(
    workload: SyntheticWorkload,
    outputs: Ints,
    arrival_s: Floats,
    generators: Generators,
    base: Path | None,
    where: str,
    notes: list[str],
) -> Ints:
    """Lengths of all answers to each prompt, prompt by prompt: the first as drawn, others from the
    same distribution; those of a trace's row are all of its length. Shape (n · samples,)."""
    each, lengths = computed_samples(workload), workload.lengths
    if each == 1 or isinstance(lengths, TraceLengths):
        return np.repeat(outputs, each)
    if isinstance(lengths, LengthsOverTime):
        from simulator.workload.over_time import read_over_time

        table = read_over_time(lengths, base, f"{where}.lengths")
        rows = table.rows(_table_time(workload.arrivals, arrival_s))
        more = table.output.draw(np.repeat(rows, each - 1), generators.samples)
    else:
        more = draw_lengths(
            lengths.output, len(outputs) * (each - 1), generators.samples,
            where=f"{where}.lengths.output", notes=notes,
        )  # fmt: skip
    return np.column_stack([outputs, more.reshape(len(outputs), each - 1)]).ravel()


def _table_time(arrivals: Arrivals, arrival_s: Floats) -> Floats:
    """Times of the table that arrivals follow, if they follow one."""
    return arrival_s + arrivals.start_s if isinstance(arrivals, RatesArrivals) else arrival_s


def draw_pairs(
    lengths: IndependentLengths | TraceLengths,
    n: int,
    generators: Generators,
    base: Path | None,
    where: str,
    notes: list[str],
) -> tuple[Ints, Ints]:
    """Input and output lengths, each (n,): independent draws, or rows of a trace drawn with
    replacement, which keeps what input and output have to do with each other."""
    if isinstance(lengths, IndependentLengths):
        inputs = draw_lengths(
            lengths.input, n, generators.input, where=f"{where}.input", notes=notes
        )
        outputs = draw_lengths(
            lengths.output, n, generators.output, where=f"{where}.output", notes=notes
        )
        return inputs, outputs
    from simulator.workload.traces import read_trace

    trace = read_trace(lengths.file, lengths.format, base=base)
    notes.extend(trace.notes)
    row = generators.input.integers(len(trace), size=n)
    return trace.input_tokens[row], trace.output_tokens[row]


def _think_times(
    arrivals: ClosedLoopArrivals,
    n: int,
    rng: np.random.Generator,
    where: str,
    notes: list[str],
) -> Floats:
    """Pauses before each request; the first one of each user is sent at once."""
    check_size(n, f"{where}.requests")
    if n < arrivals.concurrency:
        notes.append(
            f"{where}: {n} requests keep at most {n} of the {arrivals.concurrency} users busy"
        )
    think_s = pauses(arrivals.think_time_s, arrivals.think_distribution, n, rng)
    think_s[: arrivals.concurrency] = 0.0
    return think_s


def pauses(mean_s: float, distribution: str, n: int, rng: np.random.Generator) -> Floats:
    """``n`` fixed or exponential pauses of the given mean, seconds."""
    if distribution == "exponential":
        return mean_s * rng.standard_exponential(n)
    return np.full(n, mean_s)


def draw_groups(shared: SharedPrefix, n: int, rng: np.random.Generator) -> Ints:
    """Which of the shared texts each of ``n`` prompts begins with, all equally likely."""
    return rng.integers(shared.groups, size=n, dtype=np.int64)


def _shared(
    shared: SharedPrefix, inputs: Ints, rng: np.random.Generator, where: str
) -> PrefixStreams:
    shortest = int(inputs.min())
    if shortest < shared.tokens:
        raise ScenarioError(
            f"the shared prefix has {shared.tokens} tokens, but an input of {shortest} tokens "
            "was drawn",
            where=f"{where}.shared_prefix.tokens",
            hint=f"input lengths from {where}.lengths include the prefix: raise their low limit "
            "or shorten the prefix",
        )
    return shared_prefix(draw_groups(shared, len(inputs), rng), shared.tokens)


def no_requests(duration_s: float | None, where: str) -> ScenarioError:
    """The error for a workload in whose duration nothing happened to arrive."""
    if duration_s is None:
        return ScenarioError(
            "no request happens to arrive before the table of rates ends",
            where=f"{where}.arrivals",
            hint="raise scale",
        )
    return ScenarioError(
        f"no request arrives within {duration_s:g} s",
        where=f"{where}.duration_s",
        hint="lengthen duration_s, raise the rate, or give requests instead",
    )


def describe_arrivals(arrivals: Arrivals) -> str:
    """The arrival process in words, from its own fields."""
    if isinstance(arrivals, RatesArrivals):
        table = arrivals.file or f"{len(arrivals.intervals)} intervals"
        scaled = f", {arrivals.scale:g} times" if arrivals.scale != 1 else ""
        return f"arrivals by the rates of {table}{scaled}"
    given = [
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in arrivals.model_dump(exclude={"kind"}).items()
    ]
    kind = arrivals.kind.replace("_", " ")
    return f"{kind} arrivals ({', '.join(given)})" if given else f"{kind} arrivals"
