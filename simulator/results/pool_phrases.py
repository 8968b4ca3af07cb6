"""Pools of a deployment, in words and as rows of a table."""

from __future__ import annotations

from typing import Any

from simulator.results.format import money, number, percent

POOL_COLUMNS = ("pool", "role", "replicas", "devices", "requests", "busy", "MFU", "MBU",
                "KV cache used", "waiting", "USD an hour", "W")  # fmt: skip


def pool_lines(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Each pool's name and what it is; nothing where there is one."""
    used = summary["pools"]
    lines = []
    for name, pool in summary["simulated"]["pools"].items():
        tp = pool["hardware"]["devices_per_replica"]
        size = f"{pool['replicas']} × {tp}" if tp > 1 else f"{pool['replicas']}"
        role = "" if pool["role"] == "serve" else f"{pool['role']} · "
        role += f"with {pool['shares']} on " if pool["shares"] else ""
        busy = used[name]["utilization"]["busy_share"]
        kv = used[name]["kv_cache"]["use_mean"]
        lines.append(
            (name, f"{role}{size} {pool['hardware']['title']} · {pool['model']['name']} · "
             f"{number(used[name]['requests'])} requests · busy {percent(busy)} · "
             f"KV cache {percent(kv)}")
        )  # fmt: skip
    return lines


def pool_rows(summary: dict[str, Any]) -> list[list[str]]:
    """A row a pool, by ``POOL_COLUMNS``; nothing where there is one."""
    rows = []
    for name, pool in summary["pools"].items():
        use, cost = pool["utilization"], pool["cost"]["usd_per_hour"]
        rows.append([
            name, pool["role"], number(pool["replicas"]), number(pool["devices"]),
            number(pool["requests"]), percent(use["busy_share"]), percent(use["mfu"]),
            percent(use["mbu"]), percent(pool["kv_cache"]["use_mean"]),
            number(pool["scheduling"]["waiting_mean"], 2), money(cost),
            number(pool["energy"]["power_w_mean"]),
        ])  # fmt: skip
    return rows


def handover_line(summary: dict[str, Any]) -> str:
    """What the KV cache's way between pools took; empty where it has none."""
    way = summary["handover"]
    if not way:
        return ""
    return (
        f"{number(way['transfer_ms']['mean'])} ms on average, p99 "
        f"{number(way['transfer_ms']['p99'])} ms · {number(way['mb_per_request'])} MB a request · "
        f"busiest path out {percent(way['send_busy_share'])}, in "
        f"{percent(way['receive_busy_share'])}"
    )
