"""How long the dashboard takes: to start, and from a changed knob to figures.

    python benchmarks/what_if.py [--rounds N]

Needs the ``dashboard`` extra. The changes are made to the default scenario without a browser
(Streamlit's own test driver): what a browser adds is the way there and back, and drawing. Beside
each stands what ``simulate()`` and its summary take alone, since machines differ.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from statistics import median

from streamlit.testing.v1 import AppTest

import dashboard
from simulator import load_scenario, simulate

SCENARIO = "chat-8b-h100"
CHANGES = (
    "engine.max_num_seqs={}",
    "engine.max_num_batched_tokens={}",
    "workload.rate_scale=1.{}",
)
"""Every round takes other numbers, so that no answer is known already."""

PATIENCE_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    starts = [start_s() for _ in range(rounds)]
    print(f"start to first answer of the server: {median(starts):.2f} s (of {rounds})")
    app = AppTest.from_file(str(Path(dashboard.__file__).with_name("app.py")))
    app.run(timeout=PATIENCE_S)
    figures_s(app)
    changes = [change.format(4000 + 7 * n) for n in range(rounds) for change in CHANGES]
    first, last, alone = [], [], []
    for change in changes:
        began = time.perf_counter()
        app.sidebar.text_area(key="sets").set_value(change)
        app.run(timeout=PATIENCE_S)
        first.append(figures_s(app, began))
        last.append(end_s(app, began))
        began = time.perf_counter()
        simulate(load_scenario(SCENARIO, change)).summary(intervals=False)
        alone.append(time.perf_counter() - began)
    ratio = median(a / b for a, b in zip(first, alone, strict=True))
    print(f"change to figures: {median(first):.2f} s median, {max(first):.2f} s at most")
    print(f"change to figures with intervals: {median(last):.2f} s median")
    print(
        f"simulate() and summary alone: {median(alone):.2f} s; figures take {ratio:.1f} times that"
    )


def start_s() -> float:
    """From the command to an answer over HTTP."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "simulator", "dashboard", "--no-browser", "--port", str(port)]
    began = time.perf_counter()
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while time.perf_counter() - began < PATIENCE_S:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5):
                    return time.perf_counter() - began
            except urllib.error.URLError:
                time.sleep(0.01)
        raise SystemExit("the server did not answer")
    finally:
        server.terminate()
        server.wait()


def figures_s(app: AppTest, began: float = 0.0) -> float:
    """When there are figures."""
    until = time.perf_counter() + PATIENCE_S
    while not app.metric and time.perf_counter() < until:
        time.sleep(0.02)
        app.run(timeout=PATIENCE_S)
    assert app.metric, [error.value for error in app.error]
    return time.perf_counter() - began


def end_s(app: AppTest, began: float) -> float:
    """When nothing is under way any more."""
    while any(button.label == "Cancel" for button in app.button):
        time.sleep(0.02)
        app.run(timeout=PATIENCE_S)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
