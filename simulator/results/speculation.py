"""What speculative decoding brought, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from simulator.results.fleet import Part, added
from simulator.results.record import DRAFT


def speculation_section(parts: Sequence[Part]) -> dict[str, Any]:
    """Drafts of the steps that ended within the window, and what they took; all null where nobody
    speculates."""
    speculating = [part for part in parts if part.deployment.limits.speculation is not None]
    if not speculating:
        return dict.fromkeys(_KEYS)
    decoded = verified = drafted = accepted = 0
    for part in speculating:
        speculation, steps = part.deployment.limits.speculation, part.record.steps
        assert speculation is not None
        ended = part.window.holds(steps.start_s + steps.duration_s)
        drafts = ended & (steps.decode <= speculation.max_batch)
        decoded += int(steps.decode[ended].sum())
        sequences = int(steps.decode[drafts].sum())
        verified += sequences
        drafted += speculation.tokens * sequences
        accepted += int(steps.accepted_tokens[drafts].sum())
    sums = added(speculating)
    busy = sums.busy_s
    drafting_s = sum(
        seconds
        for phase in sums.phases.values()
        for name, seconds in phase.operator_s.items()
        if name.startswith(DRAFT)
    )
    flops = sums.model_flops + sums.drafting_flops + sums.rejected_flops

    def share(part: float, whole: float) -> float | None:
        return float(np.divide(part, whole)) if whole else None

    values = (
        drafted,
        accepted,
        drafted - accepted,
        share(accepted, drafted),
        share(verified + accepted, verified),
        share(verified, decoded),
        share(drafting_s, busy),
        share(sums.drafting_flops, flops),
        share(sums.rejected_flops, flops),
    )
    return dict(zip(_KEYS, values, strict=True))


_KEYS = (
    "drafted_tokens",
    "accepted_tokens",
    "rejected_tokens",
    "acceptance_rate",
    "tokens_per_verification",
    "verified_share",
    "drafting_time_share",
    "drafting_flops_share",
    "rejected_flops_share",
)
