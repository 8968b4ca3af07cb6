"""What goes on, in a line, for whoever watches the terminal."""

from __future__ import annotations

from time import strftime

from emulator.service import Service


class Progress:
    """Requests under way and rates since the last line; rates are a simulated second's.

    Args:
        service: that serves.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._since_s = service.deployment.now_s
        self._tokens, self._over = self._counted()

    def line(self) -> str | None:
        """What goes on now; None: nothing, and nothing went on since the last line."""
        service, deployment = self._service, self._service.deployment
        tokens, over = self._counted()
        new_tokens, new_over = tokens - self._tokens, over - self._over
        seconds, since_s = deployment.now_s - self._since_s, self._since_s
        self._tokens, self._over, self._since_s = tokens, over, deployment.now_s
        if not (service.open_replies or new_tokens or new_over) or deployment.now_s <= since_s:
            return None
        replicas = deployment.replicas()
        running = sum(replica.running for replica in replicas)
        waiting = deployment.open_requests - running
        share = max((r.kv_blocks_used / r.kv_blocks for r in replicas), default=0.0)
        up = f"{len(replicas)} replica{'s' if len(replicas) != 1 else ''} up"
        late = "" if service.clock.keeps_up else " · late: this machine cannot keep up"
        return (
            f"{strftime('%H:%M:%S')}   {running:,} running, {waiting:,} waiting"
            f" · {new_over / seconds:,.1f} requests/s, {new_tokens / seconds:,.0f} tokens/s"
            f" · KV cache {share:.0%} · {up}{late}"
        )

    def _counted(self) -> tuple[float, int]:
        """Output tokens, and requests that are over."""
        counts = self._service.counts
        over = counts.served + counts.cancelled + counts.refused + counts.failed
        return self._service.metrics.output_tokens(), over
