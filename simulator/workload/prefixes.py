"""Which text prompts share, and what that means in KV blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.workload.requests import Ints, PrefixStreams


def shared_prefix(group: Ints, tokens: int) -> PrefixStreams:
    """Prompts whose first ``tokens`` tokens are the text of their group; the rest is their own.

    Shapes: group (n,), one stream a group.
    """
    n = len(group)
    return PrefixStreams(
        offsets=np.arange(n + 1, dtype=np.int64),
        stream=group.astype(np.int64),
        end=np.full(n, tokens, dtype=np.int64),
        continues=np.zeros(n, dtype=np.bool_),
    )


def conversations(
    session: Ints,
    input_tokens: Ints,
    system_group: Ints | None,
    system_tokens: int,
    *,
    continues: bool = True,
) -> PrefixStreams:
    """Turns that continue their session's text, behind a system prompt where there is one; with
    ``continues`` their answers do so where they stand, without it later turns repeat parts of them.

    Shapes: session, input_tokens and system_group (n,).
    """
    n = len(session)
    flags = np.full(n, continues, dtype=np.bool_)
    if system_group is None:
        return PrefixStreams(np.arange(n + 1, dtype=np.int64), session, input_tokens, flags)
    groups = int(system_group.max(initial=-1)) + 1
    stream = np.column_stack([system_group, groups + session]).ravel()
    end = np.column_stack([np.full(n, system_tokens, dtype=np.int64), input_tokens]).ravel()
    return PrefixStreams(2 * np.arange(n + 1, dtype=np.int64), stream, end, flags)


def hashed_blocks(
    offsets: Ints, hash_ids: Ints, input_tokens: Ints, block_tokens: int
) -> PrefixStreams:
    """Prompts given as chains of block hashes: one stream a hash, ``block_tokens`` tokens each.

    A chained hash stands for its block and everything before it, which is what a stream promises.
    Where a file's ids are not chained (one id at two places or behind two predecessors) each id is
    renamed by its whole history, so that equal streams still mean equal prefixes.

    Shapes: offsets (n + 1,), hash_ids (blocks,), input_tokens (n,).
    """
    counts = np.diff(offsets)
    position = np.arange(len(hash_ids)) - np.repeat(offsets[:-1], counts)
    if _chained(hash_ids, position):
        stream = np.unique(hash_ids, return_inverse=True)[1].astype(np.int64)
    else:
        stream = _renamed_by_history(hash_ids, position)
    end = np.minimum((position + 1) * block_tokens, np.repeat(input_tokens, counts))
    return PrefixStreams(offsets, stream, end, np.zeros(len(counts), dtype=np.bool_))


def _chained(hash_ids: Ints, position: Ints) -> bool:
    before = np.full_like(hash_ids, -1)
    before[1:] = hash_ids[:-1]
    before[position == 0] = -1
    order = np.argsort(hash_ids, kind="stable")
    ids, position, before = hash_ids[order], position[order], before[order]
    same = ids[1:] == ids[:-1]
    alike = (position[1:] == position[:-1]) & (before[1:] == before[:-1])
    return bool(alike[same].all())


def _renamed_by_history(hash_ids: Ints, position: Ints) -> Ints:
    names: dict[tuple[int, int], int] = {}
    renamed = np.empty_like(hash_ids)
    history = -1
    for i, (hash_id, place) in enumerate(zip(hash_ids.tolist(), position.tolist(), strict=True)):
        key = (history if place else -1, hash_id)
        history = renamed[i] = names.setdefault(key, len(names))
    return renamed


def block_keys(prefixes: PrefixStreams, block_tokens: int) -> tuple[Ints, Ints, Ints]:
    """Keys of the full blocks of all prompts, as a prefix cache with such blocks sees them.

    Block j ends at token (j + 1) block_tokens; its key is (stream of its last token, j).

    Returns:
        offsets (n + 1,), stream (blocks,), index (blocks,): request i has the blocks
        ``offsets[i]:offsets[i + 1]``, in order.
    """
    start = np.zeros_like(prefixes.end)
    start[1:] = prefixes.end[:-1]
    start[prefixes.offsets[:-1][np.diff(prefixes.offsets) > 0]] = 0
    first = start // block_tokens
    counts = prefixes.end // block_tokens - first
    through = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    index = np.arange(through[-1]) + np.repeat(first - through[:-1], counts)
    return through[prefixes.offsets], np.repeat(prefixes.stream, counts), index


def merge_prefixes(
    parts: Sequence[PrefixStreams | None], sizes: Sequence[int], order: Ints
) -> PrefixStreams | None:
    """Streams of several workloads after their requests were put one behind the other and then
    into ``order`` (the old place of each new one). No text is shared between workloads."""
    if all(part is None for part in parts):
        return None
    counts, streams, ends, continues = [], [], [], []
    next_stream = 0
    for part, size in zip(parts, sizes, strict=True):
        if part is None:
            counts.append(np.zeros(size, dtype=np.int64))
            continues.append(np.zeros(size, dtype=np.bool_))
            continue
        counts.append(np.diff(part.offsets))
        continues.append(part.continues)
        streams.append(part.stream + next_stream)
        ends.append(part.end)
        next_stream += int(part.stream.max(initial=-1)) + 1
    count = np.concatenate(counts)
    old_start = (np.cumsum(count) - count)[order]
    offsets = np.concatenate([[0], np.cumsum(count[order])]).astype(np.int64)
    take = np.arange(offsets[-1]) + np.repeat(old_start - offsets[:-1], count[order])
    return PrefixStreams(
        offsets,
        np.concatenate(streams)[take],
        np.concatenate(ends)[take],
        np.concatenate(continues)[order],
    )
