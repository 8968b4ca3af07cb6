"""What a scrape of the live metrics costs, by number of replicas, and what prometheus_client would
take to print the same.

    python -m benchmarks.metrics
"""

from __future__ import annotations

from time import perf_counter

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from emulator.metrics import Metrics
from simulator import load_scenario
from simulator.live import Asked, Ending, LiveDeployment

SCRAPES = 30


class Client:
    """Tells the metrics how its request ended."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics

    def tokens(self, count: int) -> None:
        """Not counted one by one."""

    def ended(self, ending: Ending) -> None:
        """Its last token has come."""
        self.metrics.ended(ending, "stop")
        self.metrics.answered(ending.replica, 1, ending.output_tokens)


class Again:
    """A collector of what was told before."""

    def __init__(self, text: str) -> None:
        self.found = list(text_string_to_metric_families(text))

    def collect(self) -> list[Metric]:
        """The same metrics."""
        return self.found


def main() -> None:
    """Prints a line for each number of replicas."""
    print("replicas   samples   ms a scrape (least, mean)   prometheus_client, ms")
    for replicas in (1, 8, 64):
        live = LiveDeployment(load_scenario("chat-8b-h100", [f"deployment.replicas={replicas}"]))
        metrics = Metrics(live)
        took = []
        text = b""
        for turn in range(SCRAPES):
            for _ in range(4 * replicas):
                live.send(Asked(400, 40), Client(metrics))
            live.advance(float(turn + 1))
            start = perf_counter()
            text, _ = metrics.text()
            took.append(1e3 * (perf_counter() - start))
        samples = sum(not line.startswith("#") for line in text.decode().splitlines())
        again = Again(text.decode())
        start = perf_counter()
        generate_latest(again)  # type: ignore[arg-type]
        other = 1e3 * (perf_counter() - start)
        mean = sum(took) / len(took)
        print(f"{replicas:8,}  {samples:8,}  {min(took):12.2f}  {mean:12.2f}  {other:22.1f}")


if __name__ == "__main__":
    main()
