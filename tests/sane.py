"""What every run has to satisfy, whatever was simulated."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from simulator.deployment import Limits
from simulator.results.record import COMPLETED, REJECTED, TIMED_OUT, UNFINISHED, RunRecord


def tokens_in_rows(record: RunRecord) -> int:
    """Output tokens that came out of the steps."""
    table = record.steps
    rows = table.tokens
    landed = 0 if record.stages is None else int(np.isfinite(record.stages.landed_s).sum())
    return int(rows.sum() + record.gaps.count.sum()) + landed


def check_record(record: RunRecord, limits: Limits, *, delay_s: float = 0.0) -> None:
    """Raises AssertionError where times run backwards, or requests, tokens or blocks do not add up.

    Args:
        record: of a run that was not interrupted.
        limits: of its engine.
        delay_s: from the end of a step to its tokens at the client.
    """
    done = record.outcome == COMPLETED
    check_requests(record, done)
    check_tokens(record, limits, done)
    table = record.steps
    for name in table.__dataclass_fields__:
        assert np.isfinite(getattr(table, name)).all(), name
    assert (table.first_s > 0).all()
    assert (table.slope_s >= 0).all()
    assert (table.kv_blocks <= record.kv_blocks).all()
    assert (table.running <= limits.max_num_seqs).all()
    assert (table.steps[table.prefill > 0] == 1).all()
    end_s = table.start_s + table.duration_s
    for replica in range(record.replicas):
        rows = table.replica == replica
        assert (np.diff(table.start_s[rows]) > 0).all()
        assert (table.start_s[rows][1:] >= end_s[rows][:-1] - 1e-9).all()
    if len(table):
        assert record.end_s >= end_s.max() - 1e-9
    assert not done.any() or record.finish_s[done].max() <= record.end_s + delay_s + 1e-9


def check_requests(record: RunRecord, done: np.ndarray) -> None:
    """Each request's times are in order, and there as far as it came."""
    n = len(record.requests)
    assert np.isin(record.outcome, (COMPLETED, REJECTED, TIMED_OUT, UNFINISHED)).all()
    stages = [record.sent_s, record.queued_s, record.start_s, record.first_token_s, record.finish_s]
    for earlier, later in pairwise(stages):
        assert not (np.isnan(earlier) & ~np.isnan(later)).any()
        assert not (earlier > later + 1e-12).any()  # sums of times are rounded
    assert all(np.isfinite(stage[done]).all() for stage in stages)
    assert np.isnan(record.finish_s[~done]).all()
    assert (record.generated[done] == record.requests.output_tokens[done]).all()
    assert (record.generated <= record.requests.output_tokens).all()
    assert ((record.generated > 0) <= ~np.isnan(record.first_token_s)).all()
    assert (record.cached_tokens < record.requests.input_tokens).all()
    assert ((record.replica >= 0) == ~np.isnan(record.queued_s)).all()
    assert (record.replica < record.replicas).all()
    assert len(record.preemptions) == n


def check_tokens(record: RunRecord, limits: Limits, done: np.ndarray) -> None:
    """Tokens of the clients are tokens of the steps; and where nothing is shared, each token but
    the last one of a request is computed exactly once apart from what is called waste."""
    table = record.steps
    assert tokens_in_rows(record) == record.generated.sum()
    assert (table.wasted_tokens <= table.prefill_tokens).all()
    assert (table.gap_tokens <= table.decode).all()
    if limits.policy.kind in ("static", "dynamic"):
        return
    prompts = table.prefill_tokens - table.wasted_tokens
    decoded = table.steps * table.decode + table.accepted_tokens
    computed = int(prompts.sum() + decoded.sum())
    requests = record.requests
    needed = int((requests.input_tokens + requests.output_tokens - 1)[done].sum())
    hits = int(record.cached_tokens.sum())
    if done.all():
        if limits.prefix_caching:
            assert needed - hits >= computed > 0
        else:
            assert computed == needed
