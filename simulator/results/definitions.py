"""What every figure of a summary means: key, name, unit, definition, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric.

    Args:
        key: path in the summary, parts joined by dots. A key of statistics (``latency.ttft_ms``)
            stands for the mean, percentiles and so on below it.
        label: how reports call it.
        unit: of the value; empty for counts and shares (``%`` in reports).
        text: the definition.
        better: the direction that users wish for, or empty where it depends.
        statistics: which statistics below the key a comparison shows.
    """

    key: str
    label: str
    unit: str
    text: str
    better: Literal["lower", "higher", ""] = ""
    statistics: tuple[str, ...] = ()


_SPREAD = ("mean", "p50", "p90", "p95", "p99")

DEFINITIONS: tuple[Definition, ...] = (
    Definition(
        "latency.ttft_ms", "TTFT", "ms",
        "Time to first token: from sending to the first output token at the client; network, front "
        "end, queue and prefill. Of completed, counted requests.",
        "lower", _SPREAD,
    ),
    Definition(
        "latency.ttfat_ms", "TTFAT", "ms",
        "Time to the first token of the answer: from sending to the first token after the "
        "thinking, recorded when it comes. Equals TTFT where nobody thinks, or in secret.",
        "lower", _SPREAD,
    ),
    Definition(
        "latency.tpot_ms", "TPOT", "ms",
        "Time per output token: (E2E − TTFT) / (output tokens − 1) of one request. Undefined for "
        "one token, which is left out.",
        "lower", _SPREAD,
    ),
    Definition(
        "latency.itl_ms", "ITL", "ms",
        "Inter-token latency: one gap between two consecutive output tokens of a request. Its "
        "distribution is over all gaps of all requests from the start of the window to the end of "
        "the run, exact, so its percentiles are not those of per-request means (TPOT).",
        "lower", _SPREAD,
    ),
    Definition(
        "latency.itl_per_step_ms", "ITL per step", "ms",
        "The same without the gaps of zero between tokens that came out of one step (accepted "
        "drafts): the time between two steps that bring a request tokens. Undefined without "
        "speculative decoding, where it would be ITL.",
        "lower", _SPREAD,
    ),
    Definition(
        "latency.e2e_ms", "E2E latency", "ms",
        "From sending to the last output token at the client.",
        "lower", _SPREAD,
    ),
    Definition(
        "latency.queueing_ms", "Queueing", "ms",
        "From arrival at the replica to the start of the first step that works on the request.",
        "lower", _SPREAD,
    ),
    Definition(
        "latency.normalized_ms_per_token", "Normalized latency", "ms/token",
        "E2E latency / output tokens of one request.",
        "lower", ("mean", "p50", "p99"),
    ),
    Definition(
        "throughput.sent_requests_per_s", "Requests sent", "1/s",
        "Requests sent within the window / its length.",
    ),
    Definition(
        "throughput.requests_per_s", "Request throughput", "1/s",
        "Requests completed within the window / its length.", "higher",
    ),
    Definition(
        "throughput.output_tokens_per_s", "Output throughput", "tokens/s",
        "Output tokens generated within the window / its length.", "higher",
    ),
    Definition(
        "throughput.total_tokens_per_s", "Total throughput", "tokens/s",
        "Output tokens plus the prompts of requests whose first token came within the window / its "
        "length.", "higher",
    ),
    Definition(
        "throughput.output_tokens_per_s_per_device", "Output throughput per device", "tokens/s",
        "Output throughput / devices of the deployment.", "higher",
    ),
    Definition(
        "throughput.total_tokens_per_s_per_device", "Total throughput per device", "tokens/s",
        "Total throughput / devices of the deployment.", "higher",
    ),
    Definition(
        "throughput.output_tokens_per_s_per_user", "Speed for one user", "tokens/s",
        "1000 / TPOT (ms) of a request; p10 and p1 are the slow end.",
        "higher", ("mean", "p50", "p10", "p1"),
    ),
    Definition(
        "slo.goodput_requests_per_s", "Goodput", "1/s",
        "Requests that completed within the window and met every limit of their class / the "
        "window's length.",
        "higher",
    ),
    Definition(
        "slo.goodput_share", "SLO attainment", "%",
        "Share of the counted requests that met every limit of their class. Requests that were "
        "rejected, timed out or did not end count as misses.", "higher",
    ),
    Definition(
        "slo.held", "SLO held", "",
        "Whether in every class with limits the wanted share of requests met all of them.",
    ),
    Definition(
        "slo.classes", "SLO by class", "",
        "For each class the share of counted requests that met each limit, and all of them.",
    ),
    Definition(
        "answers.per_request", "Answers per request", "",
        "Answers that the engine computed for each counted request that completed.",
    ),
    Definition(
        "answers.thinking_share", "Thinking", "%",
        "Share of their tokens that are thinking before an answer.",
    ),
    Definition(
        "answers.truncated_share", "Truncated answers", "%",
        "Share of the answers that max_tokens cut.", "lower",
    ),
    Definition(
        "answers.without_answer_share", "Nothing but thinking", "%",
        "Share of the answers in which max_tokens came before the first token after the thinking.",
        "lower",
    ),
    Definition(
        "answers.undelivered_share", "Undelivered", "%",
        "Share of their tokens that belong to answers which a best-of did not choose. Output "
        "throughput leaves them out, each answer where it ends.", "lower",
    ),
    Definition(
        "requests.refusals", "Refusals", "",
        "How often admission control refused a request in the whole run; a client that tries again "
        "may be refused several times.", "lower",
    ),
    Definition(
        "fairness.jain_index", "Fairness", "",
        "Jain's index of the classes' total tokens/s over their weights: 1 where all got the same, "
        "1 / classes where one got everything. Classes that ask for less than their share lower "
        "it too.", "higher",
    ),
    Definition(
        "kv_cache.use_mean", "KV-cache use", "%",
        "KV blocks in use / usable blocks of a replica, averaged over time and replicas. Cached "
        "blocks that no running request holds do not count.",
    ),
    Definition(
        "kv_cache.use_max", "KV-cache use, most", "%",
        "The same at the fullest moment of any replica.",
    ),
    Definition(
        "kv_cache.stored_over_allocated_tokens", "KV tokens per slot", "",
        "Tokens that running requests have stored / token slots of the blocks in use, over time. "
        "Above 1 where several requests share a prefix's blocks.",
    ),
    Definition(
        "kv_cache.fragmentation", "KV fragmentation", "%",
        "Share of the allocated token slots that hold no token (internal fragmentation and "
        "reservations), over time. Undefined where blocks are shared, or dropped outside a local "
        "span: then they hold more tokens than they have slots for.", "lower",
    ),
    Definition(
        "kv_cache.prefix_hit_rate", "Prefix-cache hit rate", "%",
        "Prompt tokens found in the cache at first admission / prompt tokens of the counted "
        "requests that started.", "higher",
    ),
    Definition(
        "kv_cache.prefix_hit_rate_by_tier", "Prefix hits by tier", "",
        "The same by where they were found: in device memory, or in a tier below it from which "
        "they were loaded. Empty without tiers.",
    ),
    Definition(
        "kv_cache.moved", "KV blocks moved", "GB",
        "For each tier, or for swapping: bytes of KV blocks moved from there to the devices "
        "(`to_device_gb`), and written there from above (`from_device_gb`), in the whole run, "
        "all replicas together. Empty where nothing can move.",
    ),
    Definition(
        "kv_cache.link_busy_share", "KV links busy", "",
        "Share of the whole run in which the link between a device and its host, or the drives of "
        "a node, carried KV blocks in each direction; averaged over replicas or nodes.",
    ),
    Definition(
        "kv_cache.stored_share", "KV slots with a token", "%",
        "Token slots that hold a token / all slots of the KV memory, over time. This and the next "
        "three where sequences have contiguous runs; the rest is free, with nobody waiting for it.",
        "higher",
    ),
    Definition(
        "kv_cache.reserved_share", "KV slots reserved", "%",
        "Slots of runs that will hold a token later / all slots, over time.",
    ),
    Definition(
        "kv_cache.internal_fragmentation", "Internal fragmentation", "%",
        "Slots of runs that will never hold a token / all slots, over time.", "lower",
    ),
    Definition(
        "kv_cache.external_fragmentation", "External fragmentation", "%",
        "Free slots while a request waits for which no hole is large enough / all slots, over "
        "time.", "lower",
    ),
    Definition(
        "scheduling.batch_size_mean", "Batch size", "",
        "Sequences that take part in a step (decoding or with prompt tokens), averaged over steps.",
    ),
    Definition("scheduling.batch_size_max", "Batch size, most", "", "The largest step."),
    Definition(
        "scheduling.step_ms_mean", "Step", "ms", "Duration of a step, averaged over steps."
    ),
    Definition(
        "scheduling.running_mean", "Running", "",
        "Requests admitted on a replica, averaged over time and replicas.",
    ),
    Definition("scheduling.running_max", "Running, most", "", "Most on any replica."),
    Definition(
        "scheduling.waiting_mean", "Waiting", "",
        "Requests queued on a replica that no step has worked on yet, averaged over time and "
        "replicas.", "lower",
    ),
    Definition(
        "scheduling.waiting_max", "Waiting, most", "",
        "Longest queue of any replica at the end of a step, preempted requests included.", "lower",
    ),
    Definition(
        "scheduling.preemptions", "Preemptions", "",
        "How often counted requests lost their KV blocks, to be computed again or, with swapping, "
        "to come back.", "lower",
    ),
    Definition(
        "scheduling.wasted_prefill_share", "Recomputed or padding", "%",
        "Share of the prompt tokens computed within the window that were recomputation after a "
        "preemption, or padding of static batches.", "lower",
    ),
    Definition(
        "utilization.busy_share", "Utilization", "%",
        "Share of the time in which a step runs; of replicas in stages or with data-parallel "
        "attention, in which a device works on one, all devices averaged.",
    ),
    Definition(
        "utilization.bubble_share", "Pipeline bubbles", "%",
        "Share of the time in which a replica has a step under way, but a device waits for other "
        "stages or ranks, all devices averaged; 0 where replicas have neither.", "lower",
    ),
    Definition(
        "utilization.mfu", "MFU", "%",
        "FLOPs of the model (no recomputation, no padding) / (time × peak FLOP/s of the number "
        "format used), idle time included.",
    ),
    Definition(
        "utilization.mbu", "MBU", "%",
        "Bytes that must move between memory and chip / (time × peak bandwidth), idle time "
        "included.",
    ),
    Definition("utilization.mfu_while_busy", "MFU while busy", "%", "The same over busy time."),
    Definition("utilization.mbu_while_busy", "MBU while busy", "%", "The same over busy time."),
    Definition(
        "utilization.link_gb_per_s_per_device_mean", "Link", "GB/s",
        "What each device sends to its peers, averaged over time.",
    ),
    Definition(
        "utilization.link_busy_share", "Waiting for the link", "%",
        "Share of the time that goes to operators bound by the link between devices.", "lower",
    ),
    Definition(
        "utilization.steps_with_prompts", "Steps with prompts", "",
        "Steps that compute prompt tokens, most of them decoding other requests as well: share of "
        "the busy time, and that time by operator and by the resource that binds each operator.",
    ),
    Definition(
        "utilization.decode_only_steps", "Decode-only steps", "", "The same of all other steps."
    ),
    Definition(
        "speculation.drafted_tokens", "Drafted tokens", "",
        "Tokens drafted and verified in steps that ended within the window.",
    ),
    Definition(
        "speculation.accepted_tokens", "Accepted tokens", "",
        "Those of them that were accepted and delivered. What is accepted beyond the end of an "
        "output does not count.",
    ),
    Definition(
        "speculation.rejected_tokens", "Rejected tokens", "",
        "The others, which were computed in vain.", "lower",
    ),
    Definition(
        "speculation.acceptance_rate", "Acceptance rate", "%",
        "Accepted / drafted tokens.", "higher",
    ),
    Definition(
        "speculation.tokens_per_verification", "Tokens per verification", "tokens",
        "Mean acceptance length: tokens that a sequence gets from a step that verifies drafts, the "
        "accepted ones and one of the model's own.", "higher",
    ),
    Definition(
        "speculation.verified_share", "Decodes with drafts", "%",
        "Share of the sequences' decode steps that verified drafts; the others ran in steps with "
        "more sequences than max_batch.",
    ),
    Definition(
        "speculation.drafting_time_share", "Time drafting", "%",
        "Share of the busy time in which drafts were made.", "lower",
    ),
    Definition(
        "speculation.drafting_flops_share", "FLOPs of drafts", "%",
        "FLOPs of drafting / (FLOPs of use + drafting + rejected tokens).", "lower",
    ),
    Definition(
        "speculation.rejected_flops_share", "FLOPs of rejected tokens", "%",
        "FLOPs that the model spent on rejected tokens / the same.", "lower",
    ),
    Definition(
        "handover.transfer_ms", "KV transfer", "ms",
        "Where prompts are computed apart: from the end of a prompt to when its keys and "
        "values had come to the decode replica, with any wait for KV blocks there. Part of TTFT.",
        "lower", _SPREAD,
    ),
    Definition(
        "handover.blocks_wait_ms", "Wait for KV blocks", "ms",
        "From the end of a prompt to the moment when the decode replica had blocks for it; 0 where "
        "it had them before.", "lower", _SPREAD,
    ),
    Definition(
        "handover.mb_per_request", "KV cache sent a request", "MB",
        "Bytes of keys and values on the way, mean of the requests that count.",
    ),
    Definition(
        "handover.send_busy_share", "Busiest path out", "%",
        "Share of the run in which the busiest prefill replica's path carried bytes.", "lower",
    ),
    Definition(
        "handover.receive_busy_share", "Busiest path in", "%",
        "The same of decode replicas.", "lower",
    ),
    Definition(
        "energy.power_w_mean", "Power", "W",
        "All devices, idle time included, times PUE, averaged over the window.",
    ),
    Definition(
        "energy.joules_per_output_token", "Energy per output token", "J",
        "Energy of the window / output tokens in it; idle time and PUE included.", "lower",
    ),
    Definition(
        "energy.joules_per_total_token", "Energy per token", "J",
        "The same over input and output tokens.", "lower",
    ),
    Definition(
        "energy.joules_per_request", "Energy per request", "J",
        "The same over completed requests.", "lower",
    ),
    Definition(
        "energy.whole_run_kwh", "Energy of the run", "kWh", "From its start to its end."
    ),
    Definition(
        "energy.gco2e_per_request", "Carbon per request", "g CO₂e",
        "Energy per request × the grid's intensity.", "lower",
    ),
    Definition(
        "energy.gco2e_per_million_output_tokens", "Carbon per million output tokens", "g CO₂e",
        "Energy per output token × the grid's intensity × 10⁶.", "lower",
    ),
    Definition(
        "cost.usd_per_hour", "Cost per hour", "USD",
        "Price of a device-hour × devices held, busy or not.", "lower",
    ),
    Definition(
        "cost.usd_per_request", "Cost per request", "USD",
        "Cost of the window / requests completed in it.", "lower",
    ),
    Definition(
        "cost.usd_per_million_output_tokens", "Cost per million output tokens", "USD",
        "Cost of the window / output tokens in it × 10⁶.", "lower",
    ),
    Definition(
        "cost.usd_per_million_total_tokens", "Cost per million tokens", "USD",
        "Cost of the window / (input + output tokens in it) × 10⁶.", "lower",
    ),
    Definition(
        "cost.whole_run_usd", "Cost of the run", "USD", "From its start to its end."
    ),
    Definition(
        "fleet.replicas_mean", "Replicas held", "",
        "Where replicas come and go: those whose devices are held, starting, draining and crashed "
        "ones included, averaged over the window.",
    ),
    Definition(
        "fleet.up_mean", "Replicas up", "",
        "Those of them that take requests, averaged over the window.",
    ),
    Definition("fleet.starts", "Starts", "", "Cold starts that ended within the window."),
    Definition(
        "fleet.start_s", "Cold start", "s",
        "From the beginning of a start to the first moment in which the replica takes requests.",
        "lower", ("mean", "max"),
    ),
    Definition(
        "fleet.replicas_started_at_once", "Starts in no time", "",
        "Replicas that were up the moment they were wanted, because no cold start is given.",
    ),
    Definition("fleet.crashes", "Crashes", "", "Of replicas, within the window.", "lower"),
    Definition(
        "fleet.interruptions", "Interruptions", "",
        "Replicas whose spot devices were wanted back, within the window.", "lower",
    ),
    Definition(
        "fleet.device_hours", "Device-hours", "h", "Devices held × time, within the window.",
        "lower",
    ),
    Definition(
        "fleet.peak_device_hours", "Device-hours at the peak", "h",
        "What as many replicas as there may be at most would hold, all the time.",
    ),
    Definition(
        "fleet.peak_usd", "Cost at the peak", "USD", "What those would cost within the window."
    ),
    Definition(
        "fleet.saved_share", "Device-hours saved", "%",
        "1 − device-hours / device-hours at the peak.", "higher",
    ),
    Definition(
        "fleet.waited_requests", "Waited for a replica", "",
        "Counted requests that waited at the gateway because no replica took them.", "lower",
    ),
    Definition(
        "fleet.waited_ms", "Wait for a replica", "ms", "How long those waited. Part of TTFT.",
        "lower", ("mean", "p50", "p99"),
    ),
    Definition(
        "fleet.retried_requests", "Retried", "",
        "Counted requests that were sent to another replica because theirs was gone.", "lower",
    ),
    Definition(
        "fleet.failed_requests", "Failed", "",
        "Counted requests that ended with their replica; SLOs count them as misses.", "lower",
    ),
    Definition(
        "fleet.lost_tokens", "Tokens thrown away", "tokens",
        "Output tokens of counted requests that were generated again after a crash.", "lower",
    ),
    Definition(
        "fleet.pools", "Replicas by pool", "",
        "The same of each pool, and `availability`: the share of the window in which at least so "
        "many replicas were up.",
    ),
)  # fmt: skip

WINDOW = (
    "Requests sent during the warm-up (a share of all requests, in sending order) do not count. "
    "Latencies are those of the other requests that completed, whenever they did. Rates, "
    "utilization, energy and cost are taken over the window from the first counted request to the "
    "last one sent (to the end of the run if the drain is included). Percentiles are interpolated "
    "linearly. “Tokens/s” means output tokens unless “total” is said."
)
"""How the window is cut, for reports."""


def definition_of(key: str) -> Definition:
    """What a figure means; ``latency.ttft_ms.p99`` is a statistic of ``latency.ttft_ms``.

    Raises:
        KeyError: a summary has no such figure.
    """
    above = key.rpartition(".")[0]
    found = next((d for d in DEFINITIONS if d.key in (key, above)), None)
    if found is None:
        raise KeyError(key)
    return found


def value_at(summary: dict[str, Any], key: str) -> Any:
    """The value at a dotted key; None where the summary has no such key."""
    value: Any = summary
    for part in key.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value
