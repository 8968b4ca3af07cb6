"""What the endpoints are about: the deployment, its names, tokens, metrics, and requests on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any
from uuid import uuid4

from emulator.asking import Asking
from emulator.clock import Clock
from emulator.errors import ApiError, internal, leaving, wanted_error, wrong_value
from emulator.faults import Faults, RequestFault
from emulator.metrics import Metrics
from emulator.names import Names, Served, Sessions
from emulator.options import Options
from emulator.recording import Recording
from emulator.replies import Reply, Told
from emulator.schema import MOST_CHOICES, ChatRequest, CompletionRequest
from emulator.streams import CHAT, TEXT, Format, Head
from emulator.texts import Texts
from emulator.tokens import Tokenizer
from simulator import UserError
from simulator.live import FaultSchedule, LiveDeployment


@dataclass(slots=True)
class Counts:
    """Requests for answers, by how they ended."""

    served: int = 0
    cancelled: int = 0
    refused: int = 0
    failed: int = 0

    def without_answer(self, status: int) -> None:
        """A request got this error in place of its answer, or of the rest of it."""
        if status == 429:
            self.refused += 1
        else:
            self.failed += 1


class Service:
    """See the module.

    Args:
        deployment: what is served.
        options: how clients are treated.
        tokenizer: of prompts; default: by rule.
        recording: hears of every request; None: nobody does.
        faults: what goes wrong, and when; the deployment has the schedule's faults of replicas.

    Raises:
        UserError: names, tokenizer or faults do not go with the deployment.
    """

    def __init__(
        self,
        deployment: LiveDeployment,
        options: Options | None = None,
        tokenizer: Tokenizer | None = None,
        recording: Recording | None = None,
        faults: FaultSchedule | None = None,
    ) -> None:
        self.deployment = deployment
        self.options = options or Options()
        self.names = Names(deployment, self.options.names)
        self.texts = Texts(self.names, tokenizer)
        own = self.options.names[0] if self.options.names else None
        self.metrics = Metrics(deployment, own, speed=self.options.speed)
        self.clock = Clock(deployment, self.options.speed, self.metrics.lateness)
        self.clock.on_failure = lambda: self.cut(internal())
        self._faults = Faults(
            faults, deployment, by_header=self.options.faults_by_header,
            models=[each.name for each in self.names],
        )  # fmt: skip
        self.counts = Counts()
        self.leaving = False
        self.scenario_name = deployment.scenario.name
        self._asking = Asking(deployment, self.texts.tokenizer)
        self._sessions = Sessions()
        self._replies: set[Reply] = set()
        self._recording = recording
        self._created = int(time.time())

    # --- what it is ------------------------------------------------------------------------------

    def card(self, served: Served) -> dict[str, Any]:
        """A model as ``/v1/models`` tells of it."""
        return {
            "id": served.name,
            "object": "model",
            "created": self._created,
            "owned_by": "servecast",
            "root": served.root,
            "parent": served.root if served.adapter >= 0 else None,
            "max_model_len": served.max_model_len,
        }

    def reset_prefix_cache(self) -> None:
        """No later request finds what earlier ones have left."""
        self._asking.forget_prefixes()

    # --- requests --------------------------------------------------------------------------------

    async def chat(
        self, body: ChatRequest, headers: Mapping[str, str], asked_at: float = inf
    ) -> tuple[Head, Reply]:
        """A conversation goes to the deployment.

        Args:
            body: of the request.
            headers: of the request.
            asked_at: when it was there, by ``time.monotonic``, unless that is now.

        Raises:
            ApiError: it cannot be served, with the reason.
        """
        served = self.names.find(body.model)
        tokens = await self.texts.chat(body.messages, served)
        return self._ask(CHAT, body, served, [tokens], [], headers, asked_at)

    async def complete(
        self, body: CompletionRequest, headers: Mapping[str, str], asked_at: float = inf
    ) -> tuple[Head, Reply]:
        """Prompts go to the deployment; see ``chat``."""
        served = self.names.find(body.model)
        prompts: Sequence[str | list[int]] = body.prompts
        if not prompts:
            raise wrong_value("There is no prompt.", "prompt")
        if len(prompts) * body.answers > MOST_CHOICES:
            raise wrong_value(
                f"There may be {MOST_CHOICES:,} answers at most to all prompts together.", "prompt"
            )
        tokens: list[list[int]] = []
        for place, each in enumerate(prompts):
            if place:
                await asyncio.sleep(0)  # others have a turn between two texts
            tokens.append(await self.texts.prompt(each, served) if isinstance(each, str) else each)
        echo = prompts if body.echo else []
        return self._ask(TEXT, body, served, tokens, echo, headers, asked_at)

    def _ask(
        self,
        form: Format,
        body: ChatRequest | CompletionRequest,
        served: Served,
        prompts: Sequence[list[int]],
        echo: Sequence[str | list[int]],
        headers: Mapping[str, str],
        asked_at: float,
    ) -> tuple[Head, Reply]:
        if self.leaving:
            raise leaving()
        try:  # all that follows happens at this moment, however long it takes
            self.clock.catch_up(asked_at)
        except RuntimeError:
            raise internal() from None
        class_id = self.names.class_of(served, headers.get("x-traffic-class"))
        fault = self._fault(served, class_id, headers)
        session = self._sessions.number(headers.get("x-session-id") or body.user)
        if body.truncate_prompt_tokens is not None:
            prompts = [prompt[-body.truncate_prompt_tokens :] for prompt in prompts]
        requests = self._asking.requests(body, served, prompts, class_id, session)
        count = sum(len(prompt) for prompt in prompts)
        number, created = headers.get("x-request-id") or uuid4().hex, int(time.time())
        each = body.answers
        said = (text if isinstance(text, str) else self.texts.text(text) for text in echo)
        echoes = [text for text in said for _ in range(each)]
        head = Head(form, number[:128], created, served.name, count, echoes)
        reply = Reply(self.clock, each, bool(body.stream), lambda told: self._ended(told, body))
        reply.send(requests, fault)
        self._replies.add(reply)
        if self._recording is not None:
            for asked, _ in requests:
                self._recording.sent(self.deployment.now_s, asked)
        return head, reply

    def _fault(
        self, served: Served, class_id: int, headers: Mapping[str, str]
    ) -> RequestFault | None:
        """What goes wrong with the answers to a request; None: nothing.

        Raises:
            ApiError: an error is wanted in place of an answer, or what is wanted cannot be.
        """
        try:
            fault = self._faults.of(
                headers, model=served.name, traffic_class=self.deployment.classes[class_id]
            )
        except UserError as error:
            raise wrong_value(f"{error}.", error.where or None) from None
        finally:
            self.clock.arm()
        if fault is not None and fault.status is not None:
            self.counts.without_answer(fault.status)
            raise wanted_error(fault.status, fault.retry_after_s)
        return fault if fault is not None and fault.of_answer else None

    def _ended(self, told: Told, body: ChatRequest | CompletionRequest) -> None:
        self.metrics.ended(told.ending, told.finish_reason, max_tokens=body.most_tokens)

    def closed(self, reply: Reply) -> None:
        """A reply's client has been told all, or is gone."""
        self._replies.discard(reply)
        endings = [choice.ending for choice in reply.choices if choice.ending is not None]
        for first in range(0, len(endings), reply.answers):
            some = endings[first : first + reply.answers]
            if all(ending.outcome == "completed" for ending in some):
                longest = max(ending.output_tokens for ending in some)
                self.metrics.answered(some[0].replica, len(some), longest)
        if reply.gone:
            self.counts.cancelled += 1
        elif reply.error is None:
            self.counts.served += 1
        else:
            self.counts.without_answer(reply.error.status)

    @property
    def open_replies(self) -> int:
        """Answers under way, or not yet told to the end."""
        return len(self._replies)

    def cut(self, error: ApiError) -> None:
        """All answers under way end with this."""
        for reply in list(self._replies):
            reply.fail(error)
