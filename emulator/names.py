"""Names of models: what clients call the models and adapters of a deployment."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from emulator.errors import ApiError, wrong_value
from simulator import UserError
from simulator.live import LiveDeployment

SESSIONS = 1 << 16
"""Conversations that are told apart; the one that was heard of longest ago is forgotten."""


@dataclass(frozen=True, slots=True)
class Served:
    """A model that clients can name.

    Args:
        name: which they use.
        root: name of the model whose weights it has; its own, or that of an adapter's base.
        adapter: number of the LoRA adapter, -1: none.
        classes: traffic classes whose requests its replicas serve; the first is taken where a
            request names none.
        max_model_len: tokens of prompt and answer together.
    """

    name: str
    root: str
    adapter: int
    classes: tuple[int, ...]
    max_model_len: int


class Names:
    """All names of a deployment.

    Args:
        deployment: what is served.
        given: names instead of the model's own, if there is one model; answers use the first.

    Raises:
        UserError: the deployment has several models, and names were given.
    """

    def __init__(self, deployment: LiveDeployment, given: Sequence[str] = ()) -> None:
        self._classes = deployment.classes
        models = list(dict.fromkeys(pool.deployment.model.name for pool in deployment.pools))
        if given and len(models) > 1:
            raise UserError(
                f"names one model, and the deployment has {len(models)}: {', '.join(models)}",
                where="--served-model-name",
            )
        self._served: dict[str, Served] = {}
        for model in models:
            pools = [p for p in deployment.pools if p.deployment.model.name == model]
            classes = self._classes_of(deployment, model)
            longest = max(pool.deployment.limits.max_model_len for pool in pools)
            ranks = deployment.traffic.adapter_ranks
            own = given or (model,)
            for name in own:
                self._served[name] = Served(name, own[0], -1, classes, longest)
            if any(pool.deployment.limits.adapters is not None for pool in pools):
                for adapter in range(len(ranks)):
                    name = f"{own[0]}-lora-{adapter}"
                    self._served[name] = Served(name, own[0], adapter, classes, longest)

    @staticmethod
    def _classes_of(deployment: LiveDeployment, model: str) -> tuple[int, ...]:
        """Classes that go to replicas of this model alone; else those that may go to them."""
        served = [
            {pool.deployment.model.name for pool in deployment.pools_of(name)}
            for name in deployment.classes
        ]
        alone = tuple(i for i, models in enumerate(served) if models == {model})
        return alone or tuple(i for i, models in enumerate(served) if model in models)

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())

    @property
    def first(self) -> Served:
        """What a request gets that names no model."""
        return next(iter(self._served.values()))

    def find(self, name: str | None) -> Served:
        """The model of a request.

        Raises:
            ApiError: there is none of that name.
        """
        if name is None:
            return self.first
        found = self._served.get(name)
        if found is None:
            raise ApiError(
                404, f"The model '{name[:200]}' does not exist here; GET /v1/models lists those"
                " that do.", "model_not_found", "model",
            )  # fmt: skip
        return found

    def class_of(self, served: Served, header: str | None) -> int:
        """The traffic class of a request, by the header that names it.

        Raises:
            ApiError: there is none of that name, or another model serves it.
        """
        if header is None:
            return served.classes[0]
        for number in served.classes:
            if self._classes[number] == header:
                return number
        known = ", ".join(self._classes[number] for number in served.classes)
        raise wrong_value(
            f"There is no traffic class '{header[:200]}' of model '{served.name}'; there are:"
            f" {known}.",
            "X-Traffic-Class",
        )


class Sessions:
    """Numbers of conversations, for routers that keep each on its replica."""

    def __init__(self) -> None:
        self._numbers: OrderedDict[bytes, int] = OrderedDict()

    def number(self, name: str | None) -> int:
        """Of a conversation; -1: none."""
        if not name:
            return -1
        numbers = self._numbers
        # Names may have megabytes, so they are not kept.
        key = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        found = numbers.get(key)
        if found is not None:
            numbers.move_to_end(key)
            return found
        fresh = len(numbers)
        if fresh == SESSIONS:
            _, fresh = numbers.popitem(last=False)
        numbers[key] = fresh
        return fresh
