"""Several classes of traffic in one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from simulator.scenario.workload import MixWorkload
from simulator.workload.answers import merge_answers
from simulator.workload.arrivals import check_size
from simulator.workload.prefixes import merge_prefixes
from simulator.workload.requests import OPEN_LOOP, ROOT, Floats, Ints, Requests


def build_mix(
    workload: MixWorkload,
    rng: np.random.Generator,
    base: Path | None = None,
    where: str = "workload",
) -> Requests:
    """Requests of all classes. Each class draws from its own generator, in the order of the list:
    a class put at the end leaves the traffic of the others as it was.

    Raises:
        ScenarioError, TraceError: what the workload of a class raises, naming the class's key.
    """
    from simulator.workload import build_one

    children = rng.spawn(len(workload.classes))
    parts = [
        build_one(traffic.workload, child, base, f"{where}.classes.{i}.workload")
        for i, (traffic, child) in enumerate(zip(workload.classes, children, strict=True))
    ]
    check_size(sum(len(part) for part in parts), f"{where}.classes")
    return merge(parts, [traffic.name for traffic in workload.classes])


def merge(parts: Sequence[Requests], names: Sequence[str]) -> Requests:
    """One set of requests out of several, part k as class ``names[k]``.

    Open-loop requests are ordered by arrival; those that follow another one stay behind it, next
    to their root; closed-loop requests keep their order and come first, as their users start at
    once. Classes that a trace brought along are folded into the class of the mix.
    """
    sizes = [len(part) for part in parts]
    offset = np.cumsum([0, *sizes])
    released = np.concatenate([_release_order(part) for part in parts])
    order = np.argsort(released, kind="stable").astype(np.int64)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))

    parent = np.concatenate([_shifted(p.parent, o) for p, o in zip(parts, offset, strict=False)])
    parent[parent != ROOT] = place[parent[parent != ROOT]]
    pools = np.cumsum([0, *(len(part.pool_concurrency) for part in parts)])
    pool = np.concatenate([_shifted(p.pool, o) for p, o in zip(parts, pools, strict=False)])
    sessions = np.cumsum([0, *(int(part.session.max(initial=-1)) + 1 for part in parts)])
    session = np.concatenate(
        [_shifted(p.session, o) for p, o in zip(parts, sessions, strict=False)]
    )
    notes = [
        f"class {name}: the trace's own classes ({', '.join(part.classes)}) count as {name}"
        for part, name in zip(parts, names, strict=True)
        if len(part.classes) > 1
    ]
    return Requests(
        arrival_s=np.concatenate([part.arrival_s for part in parts])[order],
        input_tokens=np.concatenate([part.input_tokens for part in parts])[order],
        output_tokens=np.concatenate([part.output_tokens for part in parts])[order],
        class_id=np.repeat(np.arange(len(parts), dtype=np.int64), sizes)[order],
        parent=parent[order],
        pool=pool[order],
        session=session[order],
        classes=tuple(names),
        pool_concurrency=tuple(c for part in parts for c in part.pool_concurrency),
        prefixes=merge_prefixes([part.prefixes for part in parts], sizes, order),
        workers=_indices(parts, order, "workers", "worker_limits"),
        adapters=_indices(parts, order, "adapters", "adapter_ranks"),
        adapter_ranks=tuple(rank for part in parts for rank in part.adapter_ranks),
        worker_limits=tuple(most for part in parts for most in part.worker_limits),
        answers=merge_answers([part.answers for part in parts], sizes, order),
        source="mix: "
        + "; ".join(f"{name}: {part.source}" for part, name in zip(parts, names, strict=True)),
        notes=(*notes, *(note for part in parts for note in part.notes)),
    )


def _indices(parts: Sequence[Requests], order: Ints, column: str, things: str) -> Ints | None:
    """A column that some parts have, of indices into what each brings along."""
    own: list[Ints | None] = [getattr(part, column) for part in parts]
    if all(numbers is None for numbers in own):
        return None
    starts = np.cumsum([0, *(len(getattr(part, things)) for part in parts)])
    found = [
        np.full(len(part), -1) if numbers is None else _shifted(numbers, start)
        for part, numbers, start in zip(parts, own, starts, strict=False)
    ]
    return np.concatenate(found)[order]


def _shifted(numbers: Ints, offset: int) -> Ints:
    """Numbers moved past those of earlier parts; -1 (none) stays."""
    return np.where(numbers < 0, numbers, numbers + offset)


def _release_order(part: Requests) -> Floats:
    """Sort key: the arrival of the request that everything before this one hangs from."""
    index = np.arange(len(part), dtype=np.int64)
    root = np.where(part.parent == ROOT, index, part.parent)
    while not np.array_equal(root, up := root[root]):  # doubles the distance in each round
        root = up
    return np.where(part.pool[root] == OPEN_LOOP, part.arrival_s[root], 0.0)
