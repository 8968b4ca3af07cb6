"""The HTML report: one file that needs nothing else, neither a network nor a server."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

from simulator.results import parts
from simulator.results.definitions import DEFINITIONS, WINDOW
from simulator.results.figures import BINS, RATE_BINS, distributions, over_time
from simulator.results.format import (
    NOTHING,
    duration,
    milliseconds,
    money,
    number,
    percent,
    with_unit,
)
from simulator.results.page import in_script, style
from simulator.results.phrases import (
    adapters_line,
    answers_line,
    fleet_lines,
    interval_row,
    interval_title,
    job_lines,
    latencies,
    slo_lines,
    speculation_lines,
)
from simulator.results.pool_phrases import POOL_COLUMNS, handover_line, pool_rows
from simulator.results.said import simulated_lines, source_lines
from simulator.results.window import end_of_run

if TYPE_CHECKING:
    from simulator.results.result import Result

Summary = dict[str, Any]

_RESOURCES = {
    "compute": ("compute", 0), "memory": ("memory bandwidth", 1), "network": ("link", 2),
    "host": ("host", 3), "latency": ("launches and latencies", 5),
    "stall": ("waiting for transfers, other devices or a slow replica", 4),
}  # fmt: skip


def report(result: Result) -> str:
    """The whole page."""
    from plotly.offline import get_plotlyjs

    summary = result.summary()
    template = files("simulator.results").joinpath("report.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(f"{summary['name']} · servecast"),
        body=_body(result, summary),
        style=style(),
        figures=in_script(distributions(result) | over_time(result)),
        plotly=get_plotlyjs(),
    )


def _body(result: Result, summary: Summary) -> str:
    return "\n".join(
        (
            _header(summary),
            parts.tiles(_tiles(summary)),
            _latency(summary),
            _slo(summary),
            _distributions(),
            _pools(summary),
            _special(summary),
            _replicas(summary),
            _timeline(result),
            _where_time_goes(summary),
            _speculation(summary),
            _memory(summary),
            _bill(summary),
            _definitions(),
            _provenance(summary),
            _scenario(summary),
            f"<footer>servecast {escape(summary['product']['version'])} · simulated, not "
            "measured</footer>",
        )
    )


def _section(title: str, *content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(content)}</section>"


def _header(summary: Summary) -> str:
    lines = simulated_lines(summary)
    return (
        f"<header><h1>{escape(summary['name'])}</h1>"
        f'<p class="lead">{escape(summary["description"])}</p>{parts.facts(lines)}'
        f"{parts.notes(summary['warnings'], 'warning')}{parts.notes(summary['notes'], 'note')}"
        "</header>"
    )


def _tiles(summary: Summary) -> list[tuple[str, str, str, str]]:
    latency, rate, slo = summary["latency"], summary["throughput"], summary["slo"]
    kv, use, cost = summary["kv_cache"], summary["utilization"], summary["cost"]
    power, queue = summary["energy"], summary["scheduling"]
    good = {True: "good", False: "bad", None: ""}[slo["held"]]
    verdict = {True: "SLO held", False: "SLO missed", None: "no SLO given"}[slo["held"]]
    attained = percent(slo["goodput_share"]) if slo["limits_given"] else NOTHING
    user = rate["output_tokens_per_s_per_user"]

    def timed(key: str) -> tuple[str, str]:
        return f"{number(latency[key]['p50'])} ms", f"median · p99 {number(latency[key]['p99'])} ms"

    return [
        ("TTFT", *timed("ttft_ms"), ""),
        ("TPOT", *timed("tpot_ms"), ""),
        ("ITL", *timed("itl_ms"), ""),
        ("E2E latency", *timed("e2e_ms"), ""),
        ("Goodput", attained, verdict, good),
        ("Requests", f"{number(rate['requests_per_s'])} /s",
         f"{number(rate['sent_requests_per_s'])} /s sent", ""),
        ("Output tokens", f"{number(rate['output_tokens_per_s'])} /s",
         f"{number(rate['output_tokens_per_s_per_device'])} per device · "
         f"{number(user['p50'])} per user", ""),
        ("KV cache", percent(kv["use_mean"]),
         f"most {percent(kv['use_max'])} · {number(queue['preemptions'])} preemptions", ""),
        ("Batch", number(queue["batch_size_mean"]),
         f"most {number(queue['batch_size_max'])} · "
         f"{number(queue['waiting_mean'], 2)} waiting", ""),
        ("MBU", percent(use["mbu"]), f"MFU {percent(use['mfu'])} · busy "
         f"{percent(use['busy_share'])}", ""),
        ("Cost", money(cost["usd_per_million_output_tokens"]),
         f"per million output tokens · {money(cost['usd_per_hour'])} an hour", ""),
        ("Energy", f"{number(power['joules_per_output_token'])} J",
         f"per output token · {number(power['power_w_mean'])} W", ""),
    ]  # fmt: skip


def _latency(summary: Summary) -> str:
    names = ("mean", "p50", "p90", "p95", "p99", "max", "min", "std")
    keys = (*latencies(summary), ("normalized_ms_per_token", "E2E per token"))
    rows = []
    for key, title in keys:
        rows.append((title, *(milliseconds(summary["latency"][key][name]) for name in names)))
        within = interval_row(summary, key, names)
        if within is not None:
            rows.append((interval_title(summary), *within))
    content = [parts.table(("ms", *names), rows)]
    if summary["classes"]:
        head = ("class", "requests", "rejected", "SLO met", "TTFT p50", "TTFT p99", "TPOT p50",
                "TPOT p99", "E2E p50", "E2E p99")  # fmt: skip
        classes = [
            (name, number(entry["counted"]), number(entry["rejected"]),
             percent(entry["goodput_share"]), *(
                milliseconds(entry[key][p]) for key in ("ttft_ms", "tpot_ms", "e2e_ms")
                for p in ("p50", "p99")
            ))
            for name, entry in summary["classes"].items()
        ]  # fmt: skip
        content.append("<h3>By class, ms</h3>" + parts.table(head, classes))
    return _section("Latency", *content)


def _slo(summary: Summary) -> str:
    lines = slo_lines(summary)
    if not lines:
        return ""
    rate = f"{number(summary['slo']['goodput_requests_per_s'])} requests/s are good enough."
    return _section("Service-level objective", parts.notes(lines, "slo"), f"<p>{rate}</p>")


def _pools(summary: Summary) -> str:
    rows = pool_rows(summary)
    if not rows:
        return ""
    handed = handover_line(summary)
    way = parts.facts([("KV transfer", handed)]) if handed else ""
    return _section("Pools", parts.table(POOL_COLUMNS, rows), way)


def _special(summary: Summary) -> str:
    """Answers, adapters and jobs, where there are any."""
    told = [
        (name, line)
        for name, line in (
            ("Answers", answers_line(summary)),
            ("Adapters", adapters_line(summary)),
            *job_lines(summary),
        )
        if line
    ]
    return _section("Answers, adapters, jobs", parts.facts(told)) if told else ""


def _distributions() -> str:
    charts = (
        ("ttft", "TTFT"), ("tpot", "TPOT"), ("itl", "ITL"), ("e2e", "E2E latency")
    )  # fmt: skip
    return _section(
        "Distributions",
        '<p class="small">Share of requests (ITL: of output tokens) with at most that much. '
        "Dashed: limits of the SLO.</p>",
        f'<div class="two">{"".join(parts.chart(*chart) for chart in charts)}</div>',
    )


def _replicas(summary: Summary) -> str:
    fleet = summary["fleet"]
    if not fleet:
        return ""
    head = ("pool", "held", "most", "up", "starts", "crashes", "interruptions", "device-hours")
    rows = [
        (name, number(pool["replicas_mean"]), number(pool["replicas_max"]),
         number(pool["up_mean"]), number(pool["starts"]), number(pool["crashes"]),
         number(pool["interruptions"]), number(pool["device_hours"]))
        for name, pool in fleet["pools"].items()
    ]  # fmt: skip
    up = [
        (f"{name}, at least {least} up", percent(share))
        for name, pool in fleet["pools"].items()
        for least, share in pool["availability"].items()
    ]
    return _section(
        "Replicas",
        parts.notes(fleet_lines(summary), "note"),
        parts.table(head, rows),
        parts.table(("share of the time", ""), up[:24]),
        parts.chart("replicas", "Replicas held and up"),
    )


def _timeline(result: Result) -> str:
    record, window = result.record, result.window
    many = "" if record.replicas == 1 else ", over replicas too"
    each = "replica" if record.lane is None else "lane of a replica"
    length = max(end_of_run(record), 1e-9)
    seconds, coarse = duration(length / BINS), duration(length / RATE_BINS)
    text = (
        f"Each point stands for {seconds}. Lines are means over that time{many}; bands reach from "
        f"the lowest to the highest value of any {each} within it, so no peak is lost. Requests/s "
        f"are counted over {coarse} each. Grey: "
        "before and after the window in which rates are taken"
        f" ({window.start_s:,.1f} s to {window.end_s:,.1f} s)."
    )
    charts = (
        ("load", "Running and waiting"), ("kv", "KV-cache use"), ("tokens", "Tokens"),
        ("requests", "Requests sent and completed"),
    )  # fmt: skip
    return _section(
        "Over time",
        f'<p class="small">{escape(text)}</p>',
        f'<div class="two">{"".join(parts.chart(*chart) for chart in charts)}</div>',
    )


def _where_time_goes(summary: Summary) -> str:
    use = summary["utilization"]
    columns = []
    for title, key in (
        ("Steps with prompts", "steps_with_prompts"),
        ("Decode-only steps", "decode_only_steps"),
    ):
        phase = use[key]
        if not phase["steps"]:
            continue
        text = (
            f"{number(phase['steps'])} steps, {number(phase['step_ms_mean'])} ms on average, "
            f"{percent(phase['share_of_busy_time'])} of the busy time"
        )
        resources = [
            (*_named(name, share), _RESOURCES.get(name, (name, 4))[1])
            for name, share in phase["time_by_resource"].items()
        ]
        columns.append(
            f'<div><h3>{title}</h3><p class="small">{text}</p>{parts.stack(resources)}'
            f"<h3>By operator</h3>{parts.bars(phase['time_by_operator'])}</div>"
        )
    verdict = use["verdict"][:1].upper() + use["verdict"][1:]
    return _section(
        "Where the time goes",
        f"<p>{escape(verdict)}.</p>",
        f'<div class="two">{"".join(columns)}</div>',
    )


def _speculation(summary: Summary) -> str:
    lines = speculation_lines(summary)
    if not lines:
        return ""
    rows = [
        (d.label, with_unit(_leaf(summary, d.key), d.unit))
        for d in DEFINITIONS
        if d.key.startswith("speculation.") and _leaf(summary, d.key) is not None
    ]
    return _section("Speculative decoding", parts.notes(lines, "slo"), parts.table(("", ""), rows))


def _named(name: str, share: float) -> tuple[str, float, str]:
    return _RESOURCES.get(name, (name, 4))[0], share, percent(share)


def _memory(summary: Summary) -> str:
    pools = summary["simulated"]["pools"]
    shown = [_memory_of(pool["memory_per_device"], f"{name}: ") for name, pool in pools.items()]
    shown = shown or [_memory_of(summary["simulated"]["memory_per_device"], "")]
    return _section("Memory of a device", *shown)


def _memory_of(memory: Summary, prefix: str) -> str:
    pieces = [
        (title, memory[f"{key}_gib"], f"{memory[f'{key}_gib']:.1f} GiB", colour)
        for title, key, colour in (
            ("weights", "weights", 0), ("KV cache", "kv_cache", 2),
            ("activations", "activations", 1), ("reserved", "reserved", 3), ("unused", "unused", 5),
        )
    ]  # fmt: skip
    text = (
        f"{prefix}{memory['device_gib']:.1f} GiB a device; {number(memory['kv_blocks'])} KV blocks "
        f"hold {number(memory['kv_tokens'])} tokens on each replica ({memory['rule']})."
    )
    return f'{parts.stack(pieces)}<p class="small">{escape(text)}</p>'


def _bill(summary: Summary) -> str:
    cost, power = summary["cost"], summary["energy"]
    rows = [
        (d.label, with_unit(_leaf(summary, d.key), d.unit))
        for d in DEFINITIONS
        if d.key.startswith(("cost.", "energy.")) and _leaf(summary, d.key) is not None
    ]
    text = f"Price: {cost['price_note']}. PUE {power['pue']:g}."
    if power["idle_share"] is not None:
        text += f" {percent(power['idle_share'])} of the window's energy is drawn while idle."
    return _section(
        "Cost and energy",
        parts.table(("", ""), rows),
        f'<p class="small">{escape(text)}</p>',
    )


def _leaf(summary: Summary, key: str) -> float | None:
    section, name = key.split(".")
    value: float | None = summary[section][name]
    return value


def _definitions() -> str:
    entries = "".join(
        f"<dt>{escape(d.label)}{f' ({escape(d.unit)})' if d.unit else ''}</dt>"
        f"<dd>{escape(d.text)}</dd>"
        for d in DEFINITIONS
    )
    return (
        f"<section><details><summary>Definitions</summary><p>{escape(WINDOW)}</p>"
        f'<dl class="definitions">{entries}</dl></details></section>'
    )


def _provenance(summary: Summary) -> str:
    lines = [*source_lines(summary), ("Seed", str(summary["simulated"]["seed"]))]
    return _section("Where the figures come from", parts.facts(lines))


def _scenario(summary: Summary) -> str:
    text = json.dumps(summary["scenario"], indent=2, ensure_ascii=False)
    return (
        "<section><details><summary>Scenario</summary>"
        f"<pre>{escape(text)}</pre></details></section>"
    )
