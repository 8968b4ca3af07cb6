"""Sentences and phrases that the terminal and the HTML report share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simulator.results.format import bounds, duration, money, number, parameters, percent

LATENCIES = (
    ("ttft_ms", "TTFT"),
    ("tpot_ms", "TPOT"),
    ("itl_ms", "ITL"),
    ("e2e_ms", "E2E latency"),
    ("queueing_ms", "Queueing"),
)


def latencies(summary: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Keys and titles of the latencies to show: time to the first token of the answer only where
    there is thinking before it, gaps between steps only where a step may give several tokens."""
    first, tpot, itl, *others = LATENCIES
    thinking = summary.get("answers", {}).get("thinking_tokens")
    speculates = summary["speculation"]["drafted_tokens"] is not None
    return (
        first,
        *([("ttfat_ms", "TTFAT")] if thinking else []),
        tpot,
        itl,
        *([("itl_per_step_ms", "ITL per step")] if speculates else []),
        *others,
    )


def answers_line(summary: dict[str, Any]) -> str:
    """4.00 answers a request · 62.0% thinking · 3.1% cut by max_tokens; empty if nothing is
    special."""
    answers = summary.get("answers", {})
    parts = []
    if (answers.get("per_request") or 1) > 1:
        parts.append(f"{number(answers['per_request'])} a request")
    if answers.get("undelivered_share"):
        parts.append(f"{percent(answers['undelivered_share'])} of the tokens not delivered")
    if answers.get("thinking_share"):
        parts.append(f"{percent(answers['thinking_share'])} of the tokens are thinking")
    if answers.get("truncated_share"):
        parts.append(f"{percent(answers['truncated_share'])} cut by max_tokens")
    if answers.get("without_answer_share"):
        parts.append(f"{percent(answers['without_answer_share'])} nothing but thinking")
    return " · ".join(parts)


def fleet_lines(summary: dict[str, Any]) -> list[str]:
    """How many replicas there were and what their coming and going cost; nothing where all are
    there all the time."""
    fleet = summary["fleet"]
    if not fleet:
        return []
    most = sum(pool["peak_replicas"] for pool in fleet["pools"].values())
    there = (
        f"{number(fleet['replicas_mean'])} held, {number(fleet['up_mean'])} up on average · "
        f"{number(fleet['device_hours'])} device-hours"
    )
    if fleet["saved_share"] and fleet["saved_share"] >= 0.001:
        there += f", {percent(fleet['saved_share'])} fewer than {most} all the time"
    lines = [there]
    events = [
        f"{fleet[key]} {name if fleet[key] == 1 else key}"
        for name, key in (
            ("start", "starts"), ("crash", "crashes"), ("interruption", "interruptions")
        )
        if fleet[key]
    ]  # fmt: skip
    if fleet["start_s"]["n"]:
        events.append(f"{number(fleet['start_s']['mean'])} s a start")
    if events:
        lines.append(" · ".join(events))
    lost = []
    if fleet["waited_requests"]:
        waited = fleet["waited_ms"]
        lost.append(
            f"{number(fleet['waited_requests'])} requests waited for a replica, "
            f"{number(waited['mean'] / 1e3)} s on average"
        )
    if fleet["retried_requests"]:
        lost.append(f"{number(fleet['retried_requests'])} retried")
    if fleet["lost_tokens"]:
        lost.append(f"{number(fleet['lost_tokens'])} tokens thrown away")
    if fleet["failed_requests"]:
        lost.append(f"{number(fleet['failed_requests'])} failed")
    if lost:
        lines.append(" · ".join(lost))
    return lines


def speculation_lines(summary: dict[str, Any]) -> list[str]:
    """Who drafts, what is accepted, what it costs; nothing where nobody speculates."""
    found = summary["speculation"]
    if found["drafted_tokens"] is None:
        return []
    engines = [summary["simulated"]["engine"]]
    engines += [pool["engine"] for pool in summary["simulated"]["pools"].values()]
    who = next(e["speculative"] for e in engines if e["speculative"] is not None)
    name = " ".join(filter(None, (who["kind"].replace("_", " "), who.get("model"))))
    plural = "s" if who["tokens"] > 1 else ""
    lines = [
        f"{name}, {number(who['tokens'])} token{plural} · "
        f"{number(found['tokens_per_verification'])} tokens per verification · "
        f"{percent(found['acceptance_rate'])} of drafts accepted",
        f"drafting takes {percent(found['drafting_time_share'])} of the busy time · rejected "
        f"tokens {percent(found['rejected_flops_share'])} of FLOPs, drafts "
        f"{percent(found['drafting_flops_share'])}",
    ]
    if found["verified_share"] is not None and found["verified_share"] < 1.0:
        lines[1] += f" · {percent(found['verified_share'])} of decodes with drafts"
    return lines


def adapters_line(summary: dict[str, Any]) -> str:
    """93.1% in memory · loads of 3.10 ms · 5.20 at once · 8.1% of busy time; empty if there are
    none."""
    found = summary.get("adapters")
    if not found:
        return ""
    parts = [f"{percent(found['hit_rate'])} found in memory"]
    if found["loads"]:
        parts.append(
            f"{number(found['loads'])} load{'' if found['loads'] == 1 else 's'} of "
            f"{number(found['load_ms_mean'])} ms "
            f"({percent(found['load_time_share'])} of step time)"
        )
    parts.append(f"{number(found['distinct_mean'])} in a step on average, "
                 f"{number(found['distinct_max'])} at most")  # fmt: skip
    parts.append(f"products {percent(found['time_share'])} of busy time")
    return " · ".join(parts)


def job_lines(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Name of each batch job and queue, and how it went."""
    lines = []
    for name, job in summary.get("jobs", {}).items():
        parts = [f"{job['completed']:,} of {job['requests']:,} requests"]
        took = job["completion_s"]
        if not job["requests"]:
            pass  # none of them is among the requests that were simulated
        elif job["kind"] == "batch":
            parts.append("not done" if took is None else f"done after {duration(took)}")
        elif took["n"]:
            parts.append(f"answers after {duration(took['p50'])} (median), "
                         f"{duration(took['max'])} (longest)")  # fmt: skip
        if job["met"] is not None:
            verdict = "met" if job["met"] else f"missed ({percent(job['met_share'])} in time)"
            parts.append(f"deadline of {duration(job['deadline_s'])} {verdict}")
        if job["usd"] is not None:
            parts.append(f"{money(job['usd'])} for its share of the tokens")
        lines.append((name if name != "default" else "Job", " · ".join(parts)))
    return lines


def interval_row(summary: dict[str, Any], key: str, names: Sequence[str]) -> list[str] | None:
    """Bounds of a latency's statistics under their columns; None where there are no intervals."""
    section = summary.get("uncertainty")
    known = section["intervals"] if section else {}
    pairs = [known.get(f"latency.{key}.{name}") for name in names]
    if not any(pairs):
        return None
    return [bounds(pair) if pair else "" for pair in pairs]


def interval_title(summary: dict[str, Any]) -> str:
    """What such a row is called."""
    return f"{100 * summary['uncertainty']['level']:.0f}% within"


LIMITS = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}


LOOPS = {
    "open": "open loop",
    "closed": "closed loop",
    "sessions": "open loop of sessions, turns wait",
    "mixed": "open and closed loop",
}


def model_line(summary: dict[str, Any]) -> str:
    """llama-3.1-8b · 8.03 B parameters · weights bf16, KV cache bf16."""
    names = {pool["model"]["name"] for pool in summary["simulated"]["pools"].values()}
    if len(names) > 1:
        return ", ".join(sorted(names))
    model = summary["simulated"]["model"]
    size = f"{parameters(model['parameters'])} parameters"
    if model["active_parameters"] != model["parameters"]:
        size += f" ({parameters(model['active_parameters'])} active)"
    formats = f"weights {model['weights']}"
    if model["activations"] != model["weights"]:
        formats += f", activations {model['activations']}"
    return f"{model['name']} · {size} · {formats}, KV cache {model['kv_cache']}"


def hardware_line(summary: dict[str, Any]) -> str:
    """4 × NVIDIA H100 SXM · 2 replicas of tensor parallelism 2, prefix_aware."""
    hardware = summary["simulated"]["hardware"]
    pools = summary["simulated"]["pools"]
    if pools:
        kinds: dict[str, int] = {}
        for pool in pools.values():
            if pool["shares"]:
                continue
            title = pool["hardware"]["title"]
            kinds[title] = kinds.get(title, 0) + pool["devices"]
        devices = " + ".join(f"{count} × {title}" for title, count in kinds.items())
        return f"{devices} · {len(pools)} pools, router {summary['simulated']['router']}"
    text = f"{hardware['devices']} × {hardware['title']}"
    if hardware["replicas"] > 1:
        text += f" · {hardware['replicas']} replicas, router {summary['simulated']['router']}"
    if hardware["layout"]:
        text += f" · {hardware['layout']}"
    return text


def engine_line(summary: dict[str, Any]) -> str:
    """Engine, version and limits: vLLM 0.25 · continuous batching · at most 1,024 sequences."""
    engine = summary["simulated"]["engine"]
    parts = [f"{engine['title']} {engine['version']}", policy_phrase(engine["policy"])]
    if engine.get("queue", {"kind": "fcfs"})["kind"] != "fcfs":
        parts.append(queue_phrase(engine["queue"]))
    parts.append(
        f"at most {number(engine['max_num_seqs'])} sequences, "
        f"{number(engine['max_num_batched_tokens'])} tokens a step"
    )
    parts.append(f"prefix caching {'on' if engine['prefix_caching'] else 'off'}")
    return " · ".join(parts)


def policy_phrase(policy: dict[str, Any]) -> str:
    """A policy in words."""
    match policy["kind"]:
        case "continuous":
            chunked = "" if policy["chunked_prefill"] else " without chunked prefill"
            return f"continuous batching{chunked}"
        case "prefill_first":
            return "prefill first"
        case "full_reservation":
            return "continuous batching with full reservation"
        case "static":
            return f"static batches of {policy['batch_size']}"
        case "dynamic":
            return f"batches of {policy['batch_size']} within {policy['window_ms']:g} ms"
    return str(policy["kind"]).replace("_", " ")


def queue_phrase(queue: dict[str, Any]) -> str:
    """An order of the queue in words."""
    match queue["kind"]:
        case "priority":
            return "by priority"
        case "shortest_first":
            return "shortest first" + (", aging" if queue["aging_tokens_per_s"] else "")
        case "deadline":
            late = ", hopeless ones last" if queue["defer_hopeless"] else ""
            return f"earliest {LIMITS[queue['limit']]} deadline first{late}"
        case "fair":
            return "fair between classes"
    return str(queue["kind"]).replace("_", " ")


def traffic_line(summary: dict[str, Any]) -> str:
    """What was sent, on average how long, open or closed loop."""
    traffic = summary["simulated"]["traffic"]
    parts = [traffic["source"]] if traffic["source"] else []
    parts.append(
        f"mean {number(traffic['input_tokens_mean'])} tokens in, "
        f"{number(traffic['output_tokens_mean'])} out"
    )
    parts.append(LOOPS[traffic["loop"]])
    if traffic["concurrency"]:
        parts[-1] += f", {number(traffic['concurrency'])} users"
    return " · ".join(parts)


def counted_line(summary: dict[str, Any]) -> str:
    """How many requests count, and in which time."""
    requests, window = summary["requests"], summary["run"]["window"]
    ends = requests["counted_by_outcome"]
    bad = ", ".join(
        f"{number(ends[name])} {name.replace('_', ' ')}"
        for name in ("rejected", "timed_out", "failed", "unfinished")
        if ends[name]
    )
    text = f"{number(requests['counted'])} of {number(requests['sent'])} requests count"
    cut = requests["cut_by_warmup"]
    text += f" ({number(cut)} cut as warm-up)" if cut else " (no warm-up cut)"
    drain = "drain included" if window["includes_drain"] else "drain cut"
    text += f"; {number(ends['completed'])} completed" + (f", {bad}" if bad else "")
    return text + f"; rates over {duration(window['duration_s'])}, {drain}"


def slo_lines(summary: dict[str, Any]) -> list[str]:
    """For each class with limits: held or not, and by which limit it was missed."""
    lines = []
    for name, entry in summary["slo"]["classes"].items():
        if entry["limits"]:
            title = "" if len(summary["slo"]["classes"]) == 1 else f"{name}: "
            lines.append(title + _slo_phrase(entry))
    return lines


def _slo_phrase(entry: dict[str, Any]) -> str:
    if entry["held"] is None:
        return "no request counts"
    wanted = entry["attainment_wanted"]
    met = f"{percent(entry['met_share'])} of requests, {percent(wanted)} wanted"
    limits = [
        f"{LIMITS[key]} ≤ {limit['limit_ms']:,g} ms: {percent(limit['met_share'])}"
        for key, limit in entry["limits"].items()
    ]
    missed = [LIMITS[key] for key, limit in entry["limits"].items() if limit["met_share"] < wanted]
    if entry["held"]:
        verdict = "held"
    elif missed:
        verdict = "missed by " + " and ".join(missed)
    else:
        verdict = "missed, by no limit alone"
    return f"{verdict} ({met}) · " + " · ".join(limits)
