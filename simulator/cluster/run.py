"""Runs requests through replicas on a simpy clock and records what happens."""

from __future__ import annotations

import gc
import math
import signal
from collections.abc import Callable, Iterator
from collections.abc import Sequence as List
from contextlib import contextmanager
from functools import partial
from time import perf_counter

import numpy as np
from simpy import Environment, Event

from simulator.cluster.adapters import adapter_maker, check_adapters
from simulator.cluster.admission import Gate, Traffic
from simulator.cluster.alone import Alone
from simulator.cluster.answers import dependents_of, kept_together, sequences_of, watch_answers
from simulator.cluster.disaggregation import Handover, Journey, Paths
from simulator.cluster.feasible import check_groups
from simulator.cluster.groups import ReplicaGroup, Serving
from simulator.cluster.kinds import make_replica
from simulator.cluster.moving import replica_maker
from simulator.cluster.ranks import Sent, make_rank
from simulator.cluster.recorder import Recorder
from simulator.cluster.replica import Replica
from simulator.cluster.routing import Routing
from simulator.cluster.slowness import Slowdowns
from simulator.cluster.turns import Turns, sharing_maker
from simulator.cluster.wake import LAST, NORMAL, Wake
from simulator.cluster.watch import LEAST_APART, LOOKS, EndedEarlyError, Look, Watch, Watched
from simulator.cluster.workers import Workers
from simulator.costs.protocol import StepCost
from simulator.deployment import NO_FRONT_END, FrontEndTimes, Limits
from simulator.errors import ScenarioError
from simulator.resolution.terms import ClassTerms, Terms
from simulator.results.record import REJECTED, TIMED_OUT, UNFINISHED, Group, RunRecord
from simulator.scenario.admission import Admission
from simulator.scenario.policies import DynamicPolicy
from simulator.scenario.pools import Role
from simulator.scenario.routers import RoundRobinRouter, Router
from simulator.serving.kv_cache import KvLayout
from simulator.serving.sequence import Sequence
from simulator.workload.requests import OPEN_LOOP, ROOT, Requests

Progress = Callable[[int, int, float], None]
"""Called now and then with requests ended, requests in all, and the simulated time in seconds."""

_PROGRESS_EVERY = 2000


def run_cluster(
    requests: Requests,
    limits: Limits,
    kv_blocks: int,
    cost: StepCost,
    *,
    layout: KvLayout | None = None,
    replicas: int = 1,
    router: Router = RoundRobinRouter(),  # noqa: B008 - frozen
    seed: int = 0,
    terms: Terms | None = None,
    admission: Admission | None = None,
    timeout_s: float | None = None,
    network_s: float = 0.0,
    front_end: FrontEndTimes = NO_FRONT_END,
    oversized: str = "error",
    progress: Progress | None = None,
) -> RunRecord:
    """Simulates until every request has ended.

    Args:
        requests: the traffic.
        limits: policy and limits of every replica.
        kv_blocks: usable KV blocks of a replica (ignored if ``layout`` is given).
        cost: duration of a step.
        layout: KV blocks where layers with local attention need fewer.
        replicas: how many there are.
        router: who serves a request.
        seed: of the random numbers of the router and of predictions.
        terms: of the traffic classes; default: all alike, without limits.
        admission: who is refused; None: nobody.
        timeout_s: a client gives up this long after sending.
        network_s: one-way delay between client and server.
        front_end: what lies between the network and the queue of every replica.
        oversized: ``error`` or ``reject``: what becomes of a request that can never fit.
        progress: see ``Progress``.

    Returns:
        The record. After KeyboardInterrupt it holds what happened until then and says so.

    Raises:
        DoesNotFitError: a request can never be served, and ``oversized`` is ``error``.
        ValueError: the columns of ``requests`` contradict each other.
    """
    if layout is None:
        layout = KvLayout(kv_blocks, limits.block_size)
    group = ReplicaGroup(replicas, limits, layout, cost, front_end)
    return run_groups(
        requests, (group,),
        router=router, seed=seed, terms=terms, admission=admission,
        timeout_s=timeout_s, network_s=network_s,
        oversized=oversized, progress=progress,
    )  # fmt: skip


def run_groups(
    requests: Requests,
    groups: List[ReplicaGroup],
    *,
    router: Router = RoundRobinRouter(),  # noqa: B008 - frozen
    seed: int = 0,
    terms: Terms | None = None,
    admission: Admission | None = None,
    timeout_s: float | None = None,
    network_s: float = 0.0,
    oversized: str = "error",
    serving: Serving = Serving(),  # noqa: B008 - frozen
    progress: Progress | None = None,
    paths: Paths | None = None,
    watch: Watch | None = None,
) -> RunRecord:
    """As ``run_cluster``, with replicas of several kinds; they are numbered group by group.

    Every traffic class is served by some group of each role. ``serving``: what becomes of requests
    that have no replica, where replicas come and go. ``paths``: from those that compute prompts to
    those that go on; None where all serve whole requests. ``watch``: may end the run early.
    """
    requests.check_integrity()
    for group in groups:
        check_adapters(requests, group)
    if requests.worker_limits and timeout_s is not None:
        raise ScenarioError(
            "clients of batch and queue traffic do not give up, their requests wait outside",
            where="deployment.timeout_s",
            hint="leave it out; deadline_s of the class says what counts as late",
        )
    if paths is not None and requests.answers is not None and requests.answers.several:
        raise ScenarioError(
            "several answers to a prompt cannot go to a decode pool",
            where="workload",
            hint="leave out samples, or the pools with the roles prefill and decode",
        )
    rejected = check_groups(requests, groups, oversized=oversized)
    make: Callable[..., Cluster] = Cluster
    if serving.holds([group.life for group in groups]):
        from simulator.cluster.changing import ChangingCluster

        make = partial(ChangingCluster, serving)
    cluster = make(
        requests, groups, rejected,
        router=router, seed=seed, terms=terms or (ClassTerms(),) * len(requests.classes),
        admission=admission, timeout_s=timeout_s, network_s=network_s, progress=progress,
        paths=paths, watch=watch,
    )  # fmt: skip
    return cluster.run()


class Cluster:
    """The clock, the replicas and the clients."""

    changing = False
    """Replicas come and go."""

    def __init__(
        self,
        requests: Requests,
        groups: List[ReplicaGroup],
        rejected: np.ndarray,
        *,
        router: Router,
        seed: int,
        terms: Terms,
        admission: Admission | None,
        timeout_s: float | None,
        network_s: float,
        progress: Progress | None,
        paths: Paths | None,
        watch: Watch | None,
    ) -> None:
        self.env = Environment()
        self.requests = requests
        self.recorder = Recorder(requests)
        self._look = None
        if watch is not None:
            sure = not (self.changing or admission or timeout_s is not None or rejected.any())
            self._look = watch(
                Watched(requests, self.recorder, timeout_s, sure=sure, moves=self.changing)
            )
        self._looks_apart = max(LEAST_APART, len(requests) // LOOKS)
        self.groups = groups
        self._terms = terms
        self._seed = seed
        self.timeout_s = timeout_s
        self.network_s = network_s
        self.progress = progress
        self.ended_count = 0
        self._last_s = 0.0
        self._dependents = dependents_of(requests)
        self._workers = Workers(requests) if requests.worker_limits else None
        self.loads = [0] * sum(group.replicas for group in groups)
        self.replicas: list[Replica] = []
        self._turns = {
            group.shares: [Turns() for _ in range(group.replicas)]
            for group in groups
            if group.shares
        }
        for group in groups:
            self._populate(group)
        rng = np.random.default_rng([seed, 0x726F757465])
        self._sequences = sequences_of(requests)
        traffic = Traffic(requests, terms, self.recorder.sent_s)
        self._gate = None if admission is None else Gate(admission, traffic, seed)
        self._handover: Handover | None = None
        self._slowdowns = Slowdowns(self.env)

        def routing(*roles: Role) -> Routing:
            return Routing(
                groups, self.replicas, self.loads, router, rng, requests, roles,
                changing=self.changing,
            )  # fmt: skip

        if paths is None:
            self._routing = routing("serve")
            self._choose = kept_together(
                self._routing.chooser(), requests, self.replicas, self.recorder.replica
            )
        else:
            self._handover = Handover(
                self.env, self.recorder, paths,
                routing("prefill").chooser(), routing("decode").chooser(),
                self._sequences.make, self.replicas, requests,
            )  # fmt: skip
        self._rejected: list[bool] | None = rejected.tolist() if rejected.any() else None
        self._response_s = groups[0].front_end.response_s + network_s
        special = (self._workers, self._rejected, self._handover, self._gate, timeout_s)
        self._plain = not self.changing and all(each is None for each in special)

    def _populate(self, group: ReplicaGroup) -> None:
        """The replicas of one kind, numbered after those there are."""
        first = len(self.replicas)
        make = self._maker(group, first)
        self.replicas += [make(number) for number in range(first, first + group.replicas)]

    def _maker(self, group: ReplicaGroup, first: int) -> Callable[[int], Replica]:
        """What makes a replica of one kind; their numbers begin with ``first``."""
        policy, limits, cost = group.limits.policy, group.limits, group.cost
        window_s = policy.window_ms / 1000 if isinstance(policy, DynamicPolicy) else 0.0
        waits = self._dependents or self._workers
        listening = self.changing or bool(
            waits or self.progress or self.timeout_s or self._look is not None
        )
        response_s = group.front_end.response_s + self.network_s
        weights = tuple(each.weight for each in self._terms)
        alone = Alone(cost, limits)
        sent = Sent(self.requests, self._terms, self.recorder.sent_s, self._seed, alone, response_s)
        rank = make_rank(limits.queue, sent)
        make = replica_maker(group.layout, first, group.replicas, self.recorder)
        if limits.adapters is not None and self.requests.adapters is not None:
            make = adapter_maker(limits.adapters, self.requests, self.recorder)
        turns = self._turns.get(group.shares or group.name)
        if turns is not None:
            make = sharing_maker(turns, first)

        def made(number: int) -> Replica:
            replica = make_replica(
                make(number), number, self.env, limits, group.layout, cost, self.recorder,
                self.loads,
                role=group.role,
                front_end=group.front_end,
                response_s=response_s,
                window_s=window_s,
                alone=alone,
                rank=rank,
                weights=weights,
                ended=self._ended if listening else None,
            )  # fmt: skip
            self._watch_tokens(replica)
            return replica

        return made

    def _watch_tokens(self, replica: Replica) -> None:
        """Sees to it that what clients hear before the last token is noted."""
        watch_answers(replica, self.recorder)

    def _departed(self, sequence: Sequence) -> None:
        """A request has left its replica without its last token, as far as replicas tell."""

    def _open(self) -> None:
        """What there is to do before the clients begin."""
        first = 0
        for group in self.groups:
            for each in group.slowdowns:
                self._slow_at(each.at_s, first + each.replica, each.factor, each.for_s)
            first += group.replicas

    def _slow_at(self, at_s: float, number: int, factor: float, for_s: float) -> None:
        def begin(_: Event) -> None:
            self.slow(number, factor, for_s)

        self.env.timeout(at_s).callbacks.append(begin)

    def slow(self, number: int, factor: float, for_s: float) -> bool:
        """Lets a replica be slow from now on, if it is up; says whether it was."""
        replica = self._replica(number)
        if replica is not None:
            self._slowdowns.begin(replica, factor, for_s)
        return replica is not None

    @property
    def waiting_at_gateway(self) -> int:
        """Requests that no replica has taken yet: none where all are up all the time."""
        return 0

    @property
    def apart(self) -> bool:
        """Whether prompts and answers have replicas of their own."""
        return self._handover is not None

    def slowness_of(self, replica: Replica) -> float:
        """How many times as long its steps take now as they would."""
        return self._slowdowns.factor_of(replica)

    def _replica(self, number: int) -> Replica | None:
        """The replica with a number; None if it is not up."""
        return self.replicas[number]

    # --- clients ---------------------------------------------------------------------------------

    def _open_loop(self) -> None:
        """Sends the requests that wait for no other one, each at its own time."""
        requests = self.requests
        roots = np.flatnonzero((requests.parent == ROOT) & (requests.pool == OPEN_LOOP))
        sent = requests.arrival_s[roots]
        order = np.argsort(sent, kind="stable")
        self._feed(iter(zip(roots[order].tolist(), sent[order].tolist(), strict=True)))

    def _feed(self, queue: Iterator[tuple[int, float]]) -> None:
        """Delivers requests one by one; only the next one is on the clock's agenda."""
        env = self.env
        deliver = self._deliver
        network_s = self.network_s
        first = next(queue, None)
        if first is None:
            return
        index, sent = first

        def arrive(_: Event) -> None:
            nonlocal index, sent
            deliver(index, sent)
            for index, sent in queue:  # noqa: B007 - takes one
                delay = sent + network_s - env.now
                event.after(delay if delay > 0.0 else 0.0)
                return

        event = Wake(env, arrive, NORMAL)
        event.after(sent + network_s)

    def _send_later(self, index: int, sent: float, *, at_boundary: bool = False) -> None:
        """Sends a request that waited for another one; ``at_boundary``: a step has just ended, and
        what arrives at that very moment is still in time for the plan of the next one."""
        delay = sent + self.network_s - self.env.now
        if at_boundary and delay <= 0.0:
            self._deliver(index, sent)
            return
        event = self.env.timeout(max(0.0, delay))
        event.callbacks.append(lambda _: self._deliver(index, sent))

    def _deliver(self, index: int, sent: float) -> None:
        """A request reaches the server."""
        self.recorder.sent_s[index] = sent
        if self._plain:
            sequence = self._sequences.make(index)
            self._choose(sequence).receive(sequence)
        elif self._workers is None or self._workers.take(index):
            self._offer(index)

    def _offer(self, index: int) -> None:
        """A request reaches the server, for the first time or again after a refusal."""
        if self._rejected is not None and self._rejected[index]:
            self.recorder.outcome[index] = REJECTED
            self._last_s = self.env.now
            self._after(index, self.env.now + self._response_s, served=False)
            return
        if self._handover is None:
            self._place(self._sequences.make(index))
            return
        sequence, replica, admitted = self._handover.deliver(index, self._gate)
        if not admitted:
            assert self._gate is not None
            self._refuse(index, self._gate)
        elif self.timeout_s is not None:
            self._watch(sequence, replica, self.recorder.sent_s[index] + self.timeout_s)

    def _place(self, sequence: Sequence) -> None:
        """A request goes to a replica, unless admission control refuses it."""
        index = sequence.index
        replica = self._choose(sequence)
        if self._gate is not None and not self._gate.admits(sequence, replica, self.env.now):
            self._refuse(index, self._gate)
            return
        replica.receive(sequence)
        if self.timeout_s is not None:
            self._watch(sequence, replica, self.recorder.sent_s[index] + self.timeout_s)

    def _refuse(self, index: int, gate: Gate) -> None:
        """Admission control refuses a request; its client sends it again, or gives up."""
        self.recorder.refusals += 1
        heard = self.env.now + self.network_s
        pause = gate.comes_again_after(index)
        sent = self.recorder.sent_s[index]
        patient = self.timeout_s is None or (
            pause is not None and heard + pause < sent + self.timeout_s
        )
        if pause is not None and patient:
            again = self.env.timeout(2 * self.network_s + pause)
            again.callbacks.append(lambda _: self._offer(index))
            return
        self.recorder.outcome[index] = REJECTED
        self._last_s = max(self._last_s, self.env.now)
        self._after(index, heard, served=False)

    def _expire(self, sequence: Sequence, told: Replica | Journey | None, deadline: float) -> None:
        """A client gives up; ``told``: where its request was sent."""
        assert told is not None
        told.expire(sequence, deadline)

    def _watch(self, sequence: Sequence, told: Replica | Journey | None, deadline: float) -> None:
        """The client gives up at its deadline if the last token is not there by then."""

        def warn(_: Event) -> None:
            index = sequence.index
            if self.recorder.outcome[index] != UNFINISHED:
                return
            if math.isnan(self.recorder.finish_s[index]):
                self._expire(sequence, told, deadline)
                # A step that ends at this very moment may still bring the last token.
                Wake(self.env, give_up, LAST).after(0.0)

        def give_up(_: Event) -> None:
            index = sequence.index
            if not self.recorder.finish_s[index] <= deadline:
                self._time_out(index, deadline)

        delay = deadline - self.env.now
        self.env.timeout(delay if delay > 0.0 else 0.0).callbacks.append(warn)

    def _time_out(self, index: int, deadline: float) -> None:
        self.recorder.outcome[index] = TIMED_OUT
        self._last_s = max(self._last_s, self.env.now)
        self._after(index, deadline, served=False)

    def _ended(self, sequences: list[Sequence]) -> None:
        """The last tokens of sequences have left their replica."""
        recorder = self.recorder
        for sequence in sequences:
            index = sequence.index
            if recorder.outcome[index] == TIMED_OUT:
                continue
            at = recorder.finish_s[index]
            if self.timeout_s is not None and at > recorder.sent_s[index] + self.timeout_s:
                # The token is on its way when the client gives up.
                recorder.finish_s[index] = float("nan")
                recorder.generated[index] = sequence.generated
                self._time_out(index, recorder.sent_s[index] + self.timeout_s)
            else:
                self._after(index, at, served=True)

    def _after(self, index: int, at: float, *, served: bool) -> None:
        """A request is over for its client at ``at``."""
        self.ended_count += 1
        if self.progress is not None and self.ended_count % _PROGRESS_EVERY == 0:
            self.progress(self.ended_count, len(self.requests), self.env.now)
        if self._look is not None and self.ended_count % self._looks_apart == 0:
            self._look_at(self._look)
        if self._workers is not None:
            self._work_on(self._workers.released_by(index), at)
        if self._dependents is None:
            return
        for child, pause in self._dependents.released_by(index, served=served):
            self._send_later(child, at + pause, at_boundary=served)

    def _look_at(self, look: Look) -> None:
        """Ends the run, between two events, if whoever looks at it has a reason."""
        reason = look(float(self.env.now))

        def end(_: Event) -> None:
            raise EndedEarlyError(reason)

        if reason:
            Wake(self.env, end).after(0.0)

    def _work_on(self, index: int | None, at: float) -> None:
        """A worker who has got an answer at ``at`` takes the next request."""
        if index is None:
            return
        delay = at + self.network_s - self.env.now
        if delay <= 0.0:
            self._offer(index)
            return
        self.env.timeout(delay).callbacks.append(lambda _: self._offer(index))

    # --- the run ---------------------------------------------------------------------------------

    def run(self) -> RunRecord:
        """Runs the clock until nothing is left to do."""
        started = perf_counter()
        interrupted = False
        reason = ""
        self._open()
        self._open_loop()
        if self._dependents is not None:
            for index, pause in self._dependents.first():
                self._send_later(index, pause)
        try:
            with _between_events(self.env), _without_collections():
                self.env.run()
                if self.progress is not None:
                    self.progress(self.ended_count, len(self.requests), self.env.now)
        except KeyboardInterrupt:
            interrupted = True
        except EndedEarlyError as ended:
            interrupted, reason = True, str(ended)
        if interrupted:
            self._note_progress()
        else:
            for replica in self.replicas:
                replica.scheduler.check_integrity()
        last = max([self._last_s, *(replica.last_s for replica in self.replicas)])
        return self._record(
            max(last, float(self.env.now)) if interrupted else last,
            interrupted=interrupted,
            reason=reason,
            wall_s=perf_counter() - started,
        )

    def _record(self, end_s: float, *, interrupted: bool, reason: str, wall_s: float) -> RunRecord:
        """What the run leaves behind."""
        return self.recorder.record(
            groups=tuple(self.recorded_groups()),
            held=None,
            stages=None if self._handover is None else self._handover.stages(),
            end_s=end_s,
            interrupted=interrupted,
            reason=reason,
            wall_s=wall_s,
        )

    def recorded_groups(self) -> Iterator[Group]:
        """The groups as a record has them."""
        first = 0
        for group in self.groups:
            yield group.recorded(first)
            first += group.replicas

    def _note_progress(self) -> None:
        """After an interruption: what the requests under way had got until then."""
        for replica in self.replicas:
            for sequence in replica.scheduler.unfinished():
                self.recorder.generated[sequence.index] = sequence.generated
                self.recorder.preemptions[sequence.index] = sequence.preemptions


@contextmanager
def _without_collections() -> Iterator[None]:
    """No garbage collection: nothing here forms cycles, and collections would cost a fifth."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def _between_events(env: Environment) -> Iterator[None]:
    """Ctrl-C interrupts between two events, so that what is recorded stays whole."""

    def interrupt(_: Event) -> None:
        raise KeyboardInterrupt

    def handle(*_: object) -> None:
        Wake(env, interrupt).after(0.0)

    try:
        before = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not the main thread, which alone gets signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
