"""A load test against the emulator, beside the simulation of the requests that came.

    python -m benchmarks.emulator.load_test [--client guidellm] [--scenario load-test-8b-l4]

Starts ``simulate serve``, lets a client that others wrote send the scenario's own traffic in real
time, and simulates exactly what came. guidellm comes with the ``test`` extra; AIPerf needs an
environment of its own, so give its ``--executable``.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.emulator.agreement import Line, compared, predicted_times
from benchmarks.emulator.clients import CLIENTS, Traffic, make_tokenizer, replay
from benchmarks.emulator.served import served
from simulator import load_scenario, simulate

SCENARIO = "load-test-8b-l4"

WARM_UP, WARM_UP_S = 4, 2.0
"""Requests before those that count, and when those begin: with their first requests clients open
connections and load code."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A load test that is over.

    Args:
        lines: measured beside predicted.
        requests: that counted.
        sent, seen: their output tokens as they were asked for, and as the client counted them.
    """

    lines: list[Line]
    requests: int
    sent: int
    seen: int

    @property
    def agrees(self) -> bool:
        """Whether every figure does."""
        return all(line.agrees for line in self.lines)


def planned(scenario: str, overrides: list[str]) -> Traffic:
    """What the scenario's workload sends, after a warm-up."""
    record = simulate(load_scenario(scenario, overrides)).record
    at_s = WARM_UP_S + record.sent_s - record.sent_s.min()
    return Traffic(
        np.concatenate([np.linspace(0.0, WARM_UP_S / 2, WARM_UP), at_s]),
        np.concatenate([np.full(WARM_UP, 32), record.requests.input_tokens]),
        np.concatenate([np.full(WARM_UP, 4), record.requests.output_tokens]),
    )


def load_test(
    scenario: str,
    overrides: list[str],
    folder: Path,
    client: str = "guidellm",
    executable: str | None = None,
) -> Outcome:
    """Serves a scenario, sends its traffic and compares. All files stay in ``folder``."""
    traffic = planned(scenario, overrides)
    docs = Path(__file__).parents[2] / "docs"
    text = "\n".join(page.read_text() for page in sorted(docs.glob("*.md")))
    tokenizer = make_tokenizer(folder / "tokenizer", text)
    came = folder / "came.jsonl"
    arguments = [scenario, "--tokenizer", str(tokenizer / "tokenizer.json"), "--record", str(came)]
    for override in overrides:
        arguments += ["--set", override]
    with served(arguments, folder / "server.log") as server:
        measured = replay(client, server.url, traffic, tokenizer, folder, executable)
    predicted = predicted_times(scenario, overrides, came)
    count = slice(WARM_UP, len(traffic))
    lines = compared(
        {"ttft_ms": 1e3 * measured.ttft_s[count], "tpot_ms": 1e3 * measured.tpot_s[count]},
        {name: times[count] for name, times in predicted.items()},
    )
    return Outcome(
        lines,
        len(traffic) - WARM_UP,
        int(traffic.output_tokens[count].sum()),
        int(measured.output_tokens[count].sum()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--client", choices=sorted(CLIENTS), default="guidellm")
    parser.add_argument("--executable", help="of the client; default: the one beside this Python")
    parser.add_argument("--scenario", default=SCENARIO)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--keep", type=Path, help="folder for all files; default: none is kept")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        outcome = load_test(
            asked.scenario, asked.overrides, folder.resolve(), asked.client, asked.executable
        )
    print(f"{asked.scenario}: {outcome.requests} requests by {asked.client}")
    print(f"output tokens: {outcome.sent:,} asked for, {outcome.seen:,} counted by the client")
    print("ms           measured   predicted       off")
    for line in outcome.lines:
        name = f"{line.metric.removesuffix('_ms').upper()} {line.statistic}"
        share = 100 * line.off_ms / line.predicted
        print(f"{name:10s}{line.measured:11.1f}{line.predicted:12.1f}{share:+9.1f}%")


if __name__ == "__main__":
    main()
