from __future__ import annotations

import io

import pytest
from rich.console import Console

from simulator.results import Result, compare
from simulator.results.format import duration, milliseconds, money, number, parameters, percent
from simulator.results.terminal import render, render_comparison
from tests.results_support import evenly_sent, result


def text_of(draw, width=98):
    out = io.StringIO()
    draw(Console(file=out, width=width, no_color=True, highlight=False))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert max(len(line) for line in lines) < 100
    return "\n".join(lines)


@pytest.mark.parametrize("width", [80, 98, 250])
def test_everything_asked_for_is_there(width):
    got = result(slo={"ttft_ms": 1150})
    text = text_of(lambda console: render(got, console, ["out/report.html"]), width)
    flat = " ".join(text.split())
    for expected in (
        "by-hand", "llama-3.1-8b · 8.03 B parameters · weights bf16, KV cache bf16",
        "1 × NVIDIA H100 SXM", "continuous batching", "prefix caching off", "by hand",
        "open loop", "2 of 2 requests count", "p50 p90 p95 p99", "TTFT 1,150", "ITL 500 250",
        "0.851 requests/s", "missed by TTFT (50.0% of requests, 99.0% wanted)",
        "TTFT ≤ 1,150 ms: 50.0%", "0 preemptions", "MFU", "decode-only steps are bound by memory",
        "$3.60 an hour", "J per output token", "CO₂e", "out/report.html",
        "Only 2 requests that count completed",
    ):  # fmt: skip
        assert expected in flat, expected


def test_markup_in_names_is_text():
    text = text_of(lambda console: render(result(name="[bold]x[/nope]"), console))
    assert text.startswith("[bold]x[/nope]")


def test_overload_is_shouted():
    got = result(evenly_sent(100, service_s=2.0), measurement={"warmup_fraction": 0.0})
    text = text_of(lambda console: render(got, console))
    assert "! Overloaded: 50 requests were waiting" in " ".join(text.split())


def test_a_saved_result_looks_the_same(tmp_path):
    got = result()
    got.save(tmp_path, ["json"])
    saved = Result.load(tmp_path)
    assert text_of(lambda c: render(saved, c)) == text_of(lambda c: render(got, c))


def test_comparison():
    rows = compare(result(), result(cost={"usd_per_device_hour": 7.2}))
    text = text_of(lambda console: render_comparison(rows, console, ("cheap", "dear " * 20)))
    [line] = [line for line in text.splitlines() if line.startswith("Cost per hour")]
    assert line.split() == ["Cost", "per", "hour", "$3.60", "$7.20", "+$3.60", "2.00", "worse"]
    [line] = [line for line in text.splitlines() if line.startswith("TTFT p50")]
    assert line.split()[-1] == "1.00"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0.0, "0"), (0.000012345, "1.23e-05"), (0.012345, "0.0123"),
        (1.2345, "1.23"), (12.345, "12.3"), (123.45, "123"), (1234.5, "1,234"), (99.96, "100"),
        (-12.345, "-12.3"), (7, "7"), (1234567, "1,234,567"), (9.999, "10.0"),
    ],
)  # fmt: skip
def test_numbers(value, text):
    assert number(value) == text


def test_other_formats():
    assert [percent(x) for x in (None, 0.0, 0.0001, 0.5, 0.99999, 1.0)] == [
        "–", "0.0%", "<0.1%", "50.0%", ">99.9%", "100.0%",
    ]  # fmt: skip
    assert [money(x) for x in (None, 0.000365, 2.5, 1234.5)] == [
        "–", "$0.000365", "$2.50", "$1,234.50",
    ]  # fmt: skip
    assert [milliseconds(x) for x in (None, 0.0, 0.001, 0.5)] == ["–", "0", "<0.01", "0.500"]
    assert [duration(x) for x in (0.5, 12.34, 59.99, 250.0, 7500.0)] == [
        "0.5 s", "12.3 s", "1 min 0 s", "4 min 10 s", "2 h 5 min",
    ]  # fmt: skip
    assert [parameters(x) for x in (8.03e9, 6.71e11, 1.03e12, 494e6)] == [
        "8.03 B", "671 B", "1.03 T", "494 M",
    ]  # fmt: skip


def test_a_number_is_never_cut() -> None:
    """Where the width is too small for all statistics, whole columns are left out."""
    import re

    from simulator.results.terminal import _latencies

    summary = result().summary()
    for key in ("ttft_ms", "e2e_ms"):
        for name in summary["latency"][key]:
            summary["latency"][key][name] = 98_765_432.0
    summary["uncertainty"] = {
        "level": 0.8,
        "intervals": {
            f"latency.{key}.{name}": [12_345_678.0, 98_765_432.0]
            for key in ("ttft_ms", "e2e_ms")
            for name in ("mean", "p50", "p90", "p95", "p99")
        },
    }
    for width in (60, 80, 98, 200):
        console = Console(width=width, file=io.StringIO(), legacy_windows=False)
        console.print(_latencies(summary, width))
        text = console.file.getvalue()  # type: ignore[attr-defined]
        row = next(line for line in text.splitlines() if line.startswith("TTFT"))
        assert set(re.findall(r"[\d,]+", row)) == {"98,765,432"}
        assert "max" in text.splitlines()[0]
