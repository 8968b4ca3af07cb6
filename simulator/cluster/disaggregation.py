"""Prompts computed by some replicas, the rest by others, and the way of the KV cache between them.

A request gets a replica of each kind when it comes. The first computes its prompt and its first
token; the second takes KV blocks for the prompt; when both are done, or layer by layer while the
prompt is computed, the keys and values are sent. The client gets the first token when they have
come, because the second replica is who speaks to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from simpy import Environment

from simulator.cluster.admission import Gate
from simulator.cluster.link import Link
from simulator.cluster.recorder import Recorder
from simulator.cluster.replica import Replica
from simulator.cluster.wake import NORMAL, Wake
from simulator.results.record import Stages
from simulator.serving.handover import DecodeScheduler, PrefillScheduler
from simulator.serving.scheduler import Plan
from simulator.serving.sequence import Sequence
from simulator.workload.requests import Requests

_NAN = float("nan")


class Paths:
    """Ways of bytes between replicas.

    Args:
        rates: bytes/s of each replica's own path, by its number.
        shared: bytes/s of a path that all transfers take as well; None: there is none.
        latency_s: time of a transfer besides its bytes.
        by_layer: layers are sent as they are computed.
        layers: of the model.
        bytes_of: bytes of the keys and values of so many tokens after so many others.
    """

    def __init__(
        self,
        rates: list[float],
        *,
        shared: float | None,
        latency_s: float,
        by_layer: bool,
        layers: int,
        bytes_of: Callable[[int, int], float],
    ) -> None:
        self.by_layer = by_layer
        self.layers = layers
        self.latency_s = latency_s
        self.bytes_of = bytes_of
        self.ends = [Link(rate) for rate in rates]
        self.shared = None if shared is None else Link(shared)

    def send(self, size: float, sender: int, receiver: int, now: float) -> float:
        """When bytes that are ready now have come."""
        arrived = max(self.ends[sender].send(size, now), self.ends[receiver].send(size, now))
        if self.shared is not None:
            arrived = max(arrived, self.shared.send(size, now))
        return arrived

    def alone_s(self, size: float, sender: int, receiver: int) -> float:
        """How long bytes take where nothing else is on the way."""
        rates = [self.ends[sender].bytes_per_s, self.ends[receiver].bytes_per_s]
        if self.shared is not None:
            rates.append(self.shared.bytes_per_s)
        return size / min(rates)


class Journey:
    """One request on its way from a prefill to a decode replica."""

    __slots__ = ("answer", "arrived_s", "decode", "expected", "gone", "handover", "prefill",
                 "prompt", "prompt_done", "reserved", "sent_tokens", "under_way")  # fmt: skip

    def __init__(
        self,
        handover: Handover,
        prompt: Sequence,
        answer: Sequence,
        prefill: PrefillReplica,
        decode: DecodeReplica,
    ) -> None:
        self.handover = handover
        self.prompt = prompt
        self.answer = answer
        self.prefill = prefill
        self.decode = decode
        self.arrived_s = 0.0
        self.sent_tokens = 0
        self.expected = self.prompt_done = self.reserved = self.under_way = self.gone = False

    def expire(self, sequence: Sequence, deadline: float) -> None:
        """The client gives up now; see ``Replica.expire``."""
        self.gone = True
        if not self.prompt_done:
            self.prefill.expire(self.prompt, deadline)
        elif not self.under_way and not self.landed:
            self.prefill.fetched(self.prompt)
        if self.expected:
            self.decode.expire(self.answer, deadline)
        else:
            self.decode.loads[self.decode.number] -= 1

    @property
    def landed(self) -> bool:
        """Whether the keys and values have come."""
        return self.answer.generated > 0


class Handover:
    """Leads requests from prefill to decode replicas.

    Args:
        env: the clock.
        recorder: where columns go.
        paths: between the replicas.
        choose_prefill, choose_decode: routing.
        make: makes the sequence of a request.
        replicas: all of the deployment.
        requests: the traffic.
    """

    def __init__(
        self,
        env: Environment,
        recorder: Recorder,
        paths: Paths,
        choose_prefill: Callable[[Sequence], Replica],
        choose_decode: Callable[[Sequence], Replica],
        make: Callable[[int], Sequence],
        replicas: Iterable[Replica],
        requests: Requests,
    ) -> None:
        self._env = env
        self._recorder = recorder
        self.paths = paths
        self._choose_prefill = choose_prefill
        self._choose_decode = choose_decode
        self._make = make
        self._journeys: dict[Sequence, Journey] = {}
        for replica in replicas:
            assert isinstance(replica, PrefillReplica | DecodeReplica)
            replica.handover = self
        self.prefill_replica = requests.column(-1)
        self.prompt_done_s = requests.column(_NAN)
        self.reserved_s = requests.column(_NAN)
        self.landed_s = requests.column(_NAN)
        self.sent_bytes = requests.column(0.0)

    def deliver(self, index: int, gate: Gate | None) -> tuple[Sequence, Replica | Journey, bool]:
        """A request reaches the server.

        Args:
            index: of the request.
            gate: who may refuse it, as it would the prompt's replica.

        Returns:
            Its sequence, who is told if its client gives up, and whether it was admitted.
        """
        answer = self._make(index)
        prefill = self._choose_prefill(answer)
        assert isinstance(prefill, PrefillReplica)
        if gate is not None and not gate.admits(answer, prefill, float(self._env.now)):
            return answer, prefill, False
        self.prefill_replica[index] = prefill.number
        if answer.output == 1:
            # The first token is the last one: nobody goes on.
            prefill.receive(answer)
            return answer, prefill, True
        decode = self._choose_decode(answer)
        assert isinstance(decode, DecodeReplica)
        prompt = self._make(index)
        prompt.output, prompt.continues, prompt.answer_at = 1, False, 0
        journey = Journey(self, prompt, answer, prefill, decode)
        self._journeys[prompt] = self._journeys[answer] = journey
        decode.loads[decode.number] += 1
        prefill.receive(prompt)
        if self.paths.by_layer:
            self._expect(journey)
        return answer, journey, True

    # --- what replicas tell ----------------------------------------------------------------------

    def leads(self, sequence: Sequence) -> bool:
        """Whether somebody else goes on with this prompt."""
        return sequence in self._journeys

    def computing(self, plan: Plan, now: float) -> None:
        """A step with prompt chunks begins: their layers are sent as they come."""
        paths = self.paths
        for sequence, chunk in zip(plan.prefill, plan.chunks, strict=True):
            journey = self._journeys.get(sequence)
            if journey is None or journey.gone:
                continue
            # What the prefix cache held goes with the first chunk; what was sent before the blocks
            # were lost is there already.
            end = chunk.past + chunk.new
            if end > journey.sent_tokens:
                new = end - journey.sent_tokens
                self._send(journey, paths.bytes_of(new, journey.sent_tokens), now)
                journey.sent_tokens = end

    def _send(self, journey: Journey, size: float, now: float) -> None:
        sender, receiver = journey.prefill.number, journey.decode.number
        journey.arrived_s = self.paths.send(size, sender, receiver, now)
        self.sent_bytes[journey.answer.index] += size

    def prompt_ended(self, sequence: Sequence, now: float) -> None:
        """A prefill replica has computed a prompt that somebody else goes on with."""
        journey = self._journeys[sequence]
        journey.prompt_done = True
        if journey.gone:
            journey.prefill.fetched(sequence)
            return
        self.prompt_done_s[sequence.index] = now
        if self.paths.by_layer:
            # The last layer's part cannot be on its way before the step ends.
            size = self.paths.bytes_of(sequence.prompt, 0) / self.paths.layers
            ends = journey.prefill.number, journey.decode.number
            journey.arrived_s = max(journey.arrived_s, now + self.paths.alone_s(size, *ends))
        else:
            self._expect(journey)
        self._fetch(journey, now)

    def _expect(self, journey: Journey) -> None:
        journey.expected = True
        journey.decode.expect(journey.answer)

    def reserved(self, sequence: Sequence, now: float) -> None:
        """A decode replica has KV blocks for a prompt."""
        journey = self._journeys[sequence]
        journey.reserved = True
        self.reserved_s[sequence.index] = now
        self._fetch(journey, now)

    def _fetch(self, journey: Journey, now: float) -> None:
        """Fetches the keys and values if they are there and have a place to go to."""
        if not (journey.prompt_done and journey.reserved) or journey.gone:
            return
        journey.under_way = True
        if not self.paths.by_layer:
            cached = max(journey.answer.cached, 0)
            size = self.paths.bytes_of(journey.answer.prompt - cached, cached)
            self._send(journey, size, now)
        delay = max(journey.arrived_s - now, 0.0) + self.paths.latency_s
        Wake(self._env, lambda _: self._arrive(journey), NORMAL).after(delay)

    def _arrive(self, journey: Journey) -> None:
        journey.under_way = False
        journey.prefill.fetched(journey.prompt)
        del self._journeys[journey.prompt], self._journeys[journey.answer]
        if journey.gone:
            return
        self.landed_s[journey.answer.index] = float(self._env.now)
        journey.decode.land(journey.answer)

    def departed(self, sequence: Sequence) -> None:
        """A prompt whose client gave up has left its replica before it was computed."""
        journey = self._journeys.get(sequence)
        if journey is not None and journey.gone and sequence is journey.prompt:
            del self._journeys[journey.prompt], self._journeys[journey.answer]

    def forget_gone(self) -> None:
        """Drops journeys that ended because their clients gave up, between two events."""
        for sequence, journey in list(self._journeys.items()):
            if journey.gone and journey.prompt_done and not journey.under_way:
                del self._journeys[sequence]

    def stages(self) -> Stages:
        """The columns that only such deployments have."""
        return Stages(
            prefill_replica=np.frombuffer(self.prefill_replica, dtype=np.int64),
            prompt_done_s=np.frombuffer(self.prompt_done_s, dtype=np.float64),
            reserved_s=np.frombuffer(self.reserved_s, dtype=np.float64),
            landed_s=np.frombuffer(self.landed_s, dtype=np.float64),
            sent_bytes=np.frombuffer(self.sent_bytes, dtype=np.float64),
            path_busy_s=np.array([link.busy_s for link in self.paths.ends]),
        )


class PrefillReplica(Replica):
    """Computes prompts; the first tokens go with the KV cache, not to the clients."""

    scheduler: PrefillScheduler

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.handover: Handover

    def fetched(self, sequence: Sequence) -> None:
        """The blocks of a prompt are no longer needed."""
        self.scheduler.fetched(sequence)
        if self._plan is None and self.scheduler.waiting:
            self._wake(0.0)

    def _begin(self, now: float) -> None:
        super()._begin(now)
        plan = self._plan
        if plan is not None and self.handover.paths.by_layer:
            self.handover.computing(plan, now)

    def _tokens_of_prompts(self, plan: Plan, now: float, at: float) -> int:
        first_token_s = self.recorder.first_token_s
        first_tokens = 0
        for sequence in plan.prefill[: plan.ending]:
            if not self.handover.leads(sequence):
                first_token_s[sequence.index] = at
                first_tokens += 1
        return first_tokens

    def _leave(self, ended: list[Sequence], at: float) -> None:
        now = float(self.env.now)
        whole = []
        for sequence in ended:
            if self.handover.leads(sequence):
                self.loads[self.number] -= 1
                self.recorder.preemptions[sequence.index] += sequence.preemptions
                self.handover.prompt_ended(sequence, now)
            else:
                self.scheduler.fetched(sequence)
                whole.append(sequence)
        if whole:
            super()._leave(whole, at)

    def _drop_expired(self) -> None:
        # A prompt that was done with the step that ends now is the handover's business.
        self._expired = [
            (sequence, deadline)
            for sequence, deadline in self._expired
            if not (sequence.generated and self.handover.leads(sequence))
        ]
        super()._drop_expired()


class DecodeReplica(Replica):
    """Goes on with prompts that were computed elsewhere."""

    scheduler: DecodeScheduler

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.handover: Handover

    def expect(self, sequence: Sequence) -> None:
        """A prompt that is computed elsewhere will come; its load counts already."""
        crowded = self.scheduler.crowded
        self.scheduler.expect(sequence)
        self.recorder.replica[sequence.index] = self.number
        if not crowded:
            self._soon()

    def land(self, sequence: Sequence) -> None:
        """The keys and values have come: the client gets its first token."""
        now = float(self.env.now)
        sequence.last_token_s = now
        self.recorder.first_token_s[sequence.index] = now + self.response_s
        self.scheduler.land(sequence)
        if self.answers is not None:
            self.answers.landed(sequence, now + self.response_s)
        self._soon()

    def _soon(self) -> None:
        """Looks at what has changed as soon as the step under way ends."""
        if self._plan is None:
            self._wake(0.0)
        elif self._steps > 1:
            self._cut()

    def _leave(self, ended: list[Sequence], at: float) -> None:
        """What their prompts lost on the other replica counts as well."""
        preemptions = self.recorder.preemptions
        before = [(s.index, preemptions[s.index]) for s in ended if s.preemptions]
        super()._leave(ended, at)
        for index, count in before:
            preemptions[index] += count

    def _schedule(self, now: float) -> Plan | None:
        scheduler = self.scheduler
        if self.answers is not None:
            for sequence in scheduler.landed:
                self.answers.joins(sequence)
        plan = super()._schedule(now)
        if scheduler.reserved:
            reserved, scheduler.reserved = scheduler.reserved, []
            for sequence in reserved:
                self.handover.reserved(sequence, now)
        if scheduler.joined and plan is not None:
            self._remember(plan, scheduler.joined, now)
            scheduler.joined = []
        return plan

    def _remember(self, plan: Plan, joined: list[Sequence], now: float) -> None:
        """The first gap of those that join runs from their first token on, which came when their
        keys and values did."""
        others = plan.decode + len(plan.interrupted) - len(joined)
        paused = self._paused
        assert not paused, "a decode replica never pauses"
        if others:
            paused[now] = others
        for sequence in joined:
            last = sequence.last_token_s
            paused[last] = paused.get(last, 0) + 1
