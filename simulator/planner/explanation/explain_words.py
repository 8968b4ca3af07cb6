"""An explanation in sentences."""

from __future__ import annotations

from typing import Any

from simulator.planner.explanation.waits import PARTS
from simulator.results.definitions import value_at
from simulator.results.format import milliseconds, number, percent

Report = dict[str, Any]

BOUND = {
    "compute": "arithmetic",
    "memory": "memory bandwidth",
    "network": "the link between devices",
    "host": "the host's work between steps",
    "latency": "kernel launches and latencies",
    "stall": "waiting for transfers, other devices or a slow replica",
}
"""What binds, after “bound by”."""

ADMISSION = {
    "sequence_slots": "sequence slots (max_num_seqs)",
    "kv_blocks": "KV blocks",
    "token_budget": "the token budget (max_num_batched_tokens)",
    "adapter_slots": "adapter slots (max_loras)",
    "batch": "batches that are under way or fill",
    "arrivals": "nothing, as nobody waits",
}
"""Who keeps waiting requests out."""


def sentences(found: Report, summary: Report) -> tuple[str, ...]:
    """What binds, in three sentences, and what helps most in one or two.

    Args:
        found: ``Explanation.as_dict``.
        summary: of the run.
    """
    said = [_latency(found, summary), _steps(found), _admission(found)]
    if found["changes"] is not None:
        said += [_slo(found["changes"], summary), _helps(found["changes"])]
    return tuple(text for text in said if text)


def _latency(found: Report, summary: Report) -> str:
    return (
        f"A request takes {milliseconds(value_at(summary, 'latency.e2e_ms.mean'))} ms on average: "
        f"{_parts(found['e2e']['shares'])}. Of its TTFT of "
        f"{milliseconds(value_at(summary, 'latency.ttft_ms.mean'))} ms, "
        f"{_parts(found['ttft']['shares'])}."
    )


def _parts(shares: dict[str, float]) -> str:
    largest = sorted(shares.items(), key=lambda item: -item[1])[:3]
    return _listed([f"{percent(share, 0)} {PARTS[name]}" for name, share in largest
                    if share >= 0.05])  # fmt: skip


def _steps(found: Report) -> str:
    first, *others = found["resources"]
    text = f"Steps are bound by {BOUND[first['name']]} {percent(first['share'], 0)} of their time"
    if others and others[0]["share"] >= 0.1:
        text += f" and by {BOUND[others[0]['name']]} {percent(others[0]['share'], 0)}"
    names = [f"{each['name']} ({percent(each['share'], 0)})" for each in found["operators"][:2]]
    text += f"; {_listed(names)} take most of it."
    for balance in found["balances"]:
        turns = balance["steps_from"] or balance["products_from"]
        if balance["batch_mean"] is None or not balance["known"]:
            continue
        of = f" of pool {balance['pool']}" if len(found["balances"]) > 1 else ""
        batch = number(balance["batch_mean"])
        if turns is None:
            text += f" Decoding{of} runs {batch} sequences a step and is memory-bound at any batch."
        else:
            what = "whole steps" if balance["steps_from"] else "its matrix products"
            text += (
                f" Decoding{of} runs {batch} sequences a step; {what} would turn compute-bound at "
                f"{turns:,}."
            )
    return text


def _admission(found: Report) -> str:
    shares = found["admission"]
    kept = {name: share for name, share in shares.items() if name != "arrivals" and share >= 0.005}
    if not kept:
        return "Who comes is admitted at once: the arrivals limit the batch."
    worst = sorted(kept.items(), key=lambda item: -item[1])
    listed = _listed([f"{ADMISSION[name]} {percent(share, 0)} of the time"
                      for name, share in worst])  # fmt: skip
    return f"Waiting requests are kept out by {listed}."


def _slo(tried: Report, summary: Report) -> str:
    if tried["goal"] == "speed":
        return ""
    share = percent(tried["base"]["goodput_share"])
    held = tried["slo_held"]
    verdict = "held" if held else "missed" if held is False else "held by some traffic only"
    return f"The SLO is {verdict}: {share} of the requests are within it."


def _helps(tried: Report) -> str:
    helping = [change for change in tried["changes"] if change["helps"]][:2]
    if not helping:
        return {
            "hold": "No single change of the deployment brings the SLO nearer.",
            "save": "No single change of the deployment holds it for less or makes it faster.",
            "speed": "No single change of the deployment makes it faster for its cost.",
        }[tried["goal"]]
    words = [f"{change['title']} ({effects(change, tried['goal'])})" for change in helping]
    return f"What helps most: {'; then '.join(words)}."


def effects(change: Report, goal: str) -> str:
    """What a change does, in a few words."""
    names = {
        "ttft_p99": "TTFT p99",
        "tpot_p99": "TPOT p99",
        "usd_per_million": "cost a token",
        "highest_per_s": "highest rate",
        "usd_at_highest": "cost a token then",
    }
    words = []
    for name, title in names.items():
        effect = change["effects"].get(name)
        if effect is not None and effect["ratio"] is not None and effect["sure"]:
            words.append(f"{title} {signed(effect['ratio'])}")
    if goal == "hold":
        share = change["effects"]["goodput_share"]["value"]
        held = "SLO held" if change["slo_held"] else f"{percent(share)} within the SLO"
        words.insert(0, held)
    elif goal == "save":
        words.insert(0, "SLO still held")
    return ", ".join(words) or "nothing else changes"


def signed(ratio: float) -> str:
    """A ratio as a change in percent, or as a multiple where that is more telling."""
    if ratio >= 2.0:
        return f"× {number(ratio)}"
    change = 100.0 * (ratio - 1.0)
    digits = 0 if abs(change) >= 9.95 else 1
    return f"{'+' if change > 0 else '−'}{abs(change):.{digits}f}%"


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1] if words else "")))
