"""What a live deployment tells Prometheus: what vLLM would, and what only a simulation knows."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from simulator.live import Beginning, Ending, LiveDeployment
from simulator.monitoring import (
    LATENESS,
    OPENMETRICS,
    OUTCOMES,
    REASONS,
    TEXT,
    Begun,
    Catalogue,
    Ended,
    Fleet,
    Gauges,
    PendingSteps,
    Presence,
    Snapshot,
    Tally,
    Work,
    take,
)

_POWER_OVER_S = 5.0
"""Simulated seconds over which power is a mean, at least."""
_MOST_REQUESTS, _MOST_STEPS = 1 << 13, 1 << 10
"""What is noted before it is added up together: requests, and rows of steps, few enough for a
scrape to be quick."""

Floats = npt.NDArray[np.float64]


class Metrics:
    """Counts what happens on a deployment; ``text`` says it.

    Steps and first tokens are told by the deployment itself. Whoever serves HTTP tells of the end
    of each request (``ended``, ``answered``), of responses and of the host's lateness. All of it is
    noted down, and added up with numpy when somebody asks or much has come together.

    Args:
        deployment: what is counted, from now on.
        model_names: the label ``model_name``: one for all pools, or by name of the pool; default:
            the names of the pools' models.
        speed: simulated seconds that are meant to pass in a second.
    """

    def __init__(
        self,
        deployment: LiveDeployment,
        model_names: str | Mapping[str, str] | None = None,
        *,
        speed: float = 1.0,
    ) -> None:
        if isinstance(model_names, str):
            model_names = {pool.name: model_names for pool in deployment.pools}
        self.deployment = deployment
        self.fleet = Fleet(deployment.members, deployment.groups, model_names)
        self.speed = speed
        self._tally = Tally(self.fleet)
        self._presence = Presence(self.fleet, changing=deployment.replicas_change)
        self._work = Work(self.fleet)
        self._catalogue = Catalogue(self.fleet)
        self._steps = PendingSteps(self._tally, self._work, _MOST_STEPS)
        self._begun: list[tuple[float, ...]] = []
        self._ended: list[tuple[float, ...]] = []
        self._answered: list[tuple[int, int, int]] = []
        self._late = [0] * (len(LATENESS) + 1)
        self._late_s = 0.0
        self._codes: dict[int, int] = {}
        self._energies: deque[tuple[float, Floats]] = deque(
            [(0.0, np.zeros(len(self.fleet.groups)))]
        )
        roles = [group.role == "decode" for group in deployment.groups]
        self._continues = self.fleet.flags(roles).tolist()
        deployment.on_steps.append(self._steps.note)
        deployment.on_preempted.append(self._tally.preempted)
        deployment.on_begun.append(self._begins)
        deployment.on_changes.append(self._presence.change)

    # --- what happens ----------------------------------------------------------------------------

    def ended(
        self, ending: Ending, finish_reason: str = "stop", *, max_tokens: int | None = None
    ) -> None:
        """A request is over: completed, refused, failed or given up by its client.

        Args:
            ending: what its listener was told, or ``progress_of`` it when it was cancelled.
            finish_reason: ``stop`` or ``length`` as the client reads it.
            max_tokens: what the client allowed; None: it said nothing.
        """
        network_s = self.fleet.network_s
        self._ended.append(
            (
                ending.replica,
                OUTCOMES.index(ending.outcome),
                REASONS.index(finish_reason),
                ending.queued_s,
                ending.start_s,
                ending.first_token_s,
                ending.finish_s,
                ending.e2e_s - 2.0 * network_s,
                ending.prompt_tokens,
                ending.output_tokens,
                ending.cached_tokens,
                ending.preemptions,
                np.nan if max_tokens is None else max_tokens,
            )
        )
        if len(self._ended) > _MOST_REQUESTS:
            self._add_up()

    def answered(self, replica: int, answers: int, longest: int) -> None:
        """All answers to a prompt are complete.

        Args:
            replica: which served them.
            answers: how many there were (``n``).
            longest: tokens of the longest one.
        """
        self._answered.append((replica, answers, longest))

    def responded(self, status: int) -> None:
        """A response to an HTTP request for tokens has been begun, with this status."""
        if status not in self._codes:
            self._catalogue.codes.append(status)
        self._codes[status] = self._codes.get(status, 0) + 1

    def lateness(self, seconds: float) -> None:
        """Tokens were sent so many seconds of real time later than simulated."""
        self._late[bisect_left(LATENESS, seconds)] += 1
        self._late_s += max(0.0, seconds)

    def _begins(self, beginning: Beginning) -> None:
        self._begun.append(
            (
                beginning.replica,
                beginning.prompt_replica,
                beginning.ttft_s - 2.0 * self.fleet.network_s,
                beginning.prompt_tokens,
                beginning.cached_tokens,
                self._continues[beginning.replica],
            )
        )
        if len(self._begun) > _MOST_REQUESTS:
            self._add_up()

    def _add_up(self) -> None:
        self._steps.add_up()
        if self._begun:
            columns = np.array(self._begun, dtype=np.float64).T
            self._begun = []
            whole = columns.astype(np.int64)
            self._tally.begun(Begun(whole[0], whole[1], columns[2], whole[3], whole[4], whole[5]))
        if self._ended:
            columns = np.array(self._ended, dtype=np.float64).T
            self._ended = []
            whole = np.nan_to_num(columns).astype(np.int64)
            back_s = self.fleet.back_s[whole[0]]
            self._tally.ended(
                Ended(
                    engine=whole[0],
                    outcome=whole[1],
                    reason=whole[2],
                    queued_s=columns[3],
                    start_s=columns[4],
                    first_s=columns[5] - back_s,
                    finish_s=columns[6] - back_s,
                    e2e_s=columns[7],
                    prompt=whole[8],
                    output=whole[9],
                    cached=whole[10],
                    preemptions=whole[11],
                    max_tokens=columns[12],
                )
            )
        if self._answered:
            engine, answers, longest = np.array(self._answered, dtype=np.int64).T
            self._answered = []
            self._tally.answered(engine, answers, longest)

    # --- what is told ----------------------------------------------------------------------------

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics as they are now.

        Args:
            accept: the header of that name: OpenMetrics 1.0 where it is asked for, else
                Prometheus 0.0.4.

        Returns:
            The text, and its content type.
        """
        openmetrics = "application/openmetrics-text" in accept
        text = self._catalogue.text(self.snapshot(), openmetrics=openmetrics)
        return text.encode(), OPENMETRICS if openmetrics else TEXT

    def output_tokens(self) -> float:
        """Output tokens that all replicas have given."""
        self.deployment.settle()
        self._add_up()
        return float(self._tally.counters["generation_tokens"].sum())

    def snapshot(self) -> Snapshot:
        """The values behind ``text``."""
        self.deployment.settle()
        self._add_up()
        now_s = self.deployment.now_s
        energy_j = self._work.joules(self._presence.held_s(now_s))
        values = take(
            self._tally, self._presence, self._work, self._gauges(), now_s, energy_j,
            self._power_w(now_s, energy_j),
        )  # fmt: skip
        at_gateway = self.deployment.waiting_at_gateway
        values["servecast:gateway_requests_waiting"] = np.array([[float(at_gateway)]])
        values["servecast:speed"] = np.array([[self.speed]])
        if self._codes:
            counts = [self._codes[code] for code in self._catalogue.codes]
            values["servecast:http_responses"] = np.array(counts, dtype=np.float64)[:, None]
        upto = np.cumsum(self._late)
        values["servecast:emulator_lateness_seconds"] = np.array(
            [[*upto.tolist(), upto[-1], self._late_s]]
        )
        return values

    def _gauges(self) -> Gauges:
        n = self.fleet.engines
        running, waiting = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        kv_share = np.zeros(n)
        for state in self.deployment.replicas():
            running[state.number], waiting[state.number] = state.running, state.waiting
            kv_share[state.number] = state.kv_blocks_used / state.kv_blocks
        return Gauges(running, waiting, kv_share)

    def _power_w(self, now_s: float, energy_j: Floats) -> Floats:
        past = self._energies
        while len(past) > 1 and past[1][0] <= now_s - _POWER_OVER_S:
            past.popleft()
        since_s, before_j = past[0]
        if now_s - past[-1][0] >= _POWER_OVER_S / 5.0:
            past.append((now_s, energy_j))
        if now_s <= since_s:
            return self._work.idle_w(self._presence.held)
        return (energy_j - before_j) / (now_s - since_s)
