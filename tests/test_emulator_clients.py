"""Clients that others wrote talk to the emulator over real sockets: the ``openai`` package and the
Prometheus text parser. Load clients: ``test_emulator_load.py``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.emulator.served import Served, served

KEY = "a secret"
MODEL = "llama-3.1-8b"
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Llama-3.1-8B on one H100, twenty times as fast as it would be."""
    log = tmp_path_factory.mktemp("server") / "said.log"
    with served(["chat-8b-h100", "--speed", "20", "--api-key", KEY], log) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def metrics(server: Served) -> dict[str, Metric]:
    return {
        family.name: family for family in text_string_to_metric_families(server.get("/metrics"))
    }


def value(families: dict[str, Metric], family: str, sample: str = "") -> float:
    """Sum of a family's samples of that name over all labels."""
    return sum(s.value for s in families[family].samples if s.name == (sample or family))


def eventually(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


# --- openai ------------------------------------------------------------------------------------


def test_the_model_is_listed(client: OpenAI) -> None:
    (model,) = client.models.list()
    assert model.id == MODEL
    assert client.models.retrieve(MODEL).id == MODEL


def test_a_whole_completion(client: OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt=list(range(100)), max_tokens=23,
                                       extra_body={"ignore_eos": True})  # fmt: skip
    (choice,) = answer.choices
    assert choice.text
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (100, 23)
    assert answer.usage.total_tokens == 123


def test_each_event_of_a_completion_is_a_token(client: OpenAI) -> None:
    events = list(
        client.completions.create(
            model=MODEL, prompt="Once upon a time", max_tokens=40, stream=True,
            stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
        )
    )  # fmt: skip
    *tokens, last = events
    assert len(tokens) == 40
    assert all(event.choices[0].text for event in tokens)
    assert [event.choices[0].finish_reason for event in tokens] == [None] * 39 + ["length"]
    assert not last.choices
    assert last.usage is not None
    assert last.usage.completion_tokens == 40


def test_each_event_of_a_chat_is_a_token(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hello"}], max_completion_tokens=30,
        stream=True, extra_body={"ignore_eos": True},
    )  # fmt: skip
    choices = [event.choices[0] for event in stream]
    assert len(choices) == 30
    assert all(choice.delta.content for choice in choices)
    assert [choice.delta.role for choice in choices] == ["assistant"] + [None] * 29
    assert choices[-1].finish_reason == "length"


def test_a_chat_that_ends_by_itself(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=[{"role": "user", "content": "Hello"}],
        stream_options={"include_usage": True},
    ) as stream:  # fmt: skip
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        answer = stream.get_final_completion()
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    assert choice.message.role == "assistant"
    assert choice.message.content == "".join(deltas)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(deltas)


def test_several_answers_to_a_chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, n=3, max_tokens=10, extra_body={"ignore_eos": True},
        messages=[{"role": "system", "content": "Be brief."},
                  {"role": "user", "content": [{"type": "text", "text": "Why?"}]}],
    )  # fmt: skip
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(choice.message.content for choice in answer.choices)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 30


def test_a_prompt_that_comes_again_is_found_in_the_cache(client: OpenAI) -> None:
    prompt = [7_000 + place for place in range(1_000)]
    cached = []
    for _ in range(2):
        usage = client.completions.create(model=MODEL, prompt=prompt, max_tokens=1).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        cached.append(usage.prompt_tokens_details.cached_tokens)
    assert cached == [0, 16 * (999 // 16)]


def test_a_stop_sequence_ends_an_answer(client: OpenAI) -> None:
    def text(**stop: str) -> tuple[str, str]:
        answer = client.completions.create(model=MODEL, prompt="The same prompt", max_tokens=60,
                                           seed=1, extra_body={"ignore_eos": True}, **stop)  # fmt: skip
        return answer.choices[0].text, answer.choices[0].finish_reason

    whole, reason = text()
    assert reason == "length"
    word = whole.split()[5]
    cut, reason = text(stop=word)
    assert reason == "stop"
    assert cut == whole[: whole.index(word)]


def test_many_async_streams_at_once(server: Served) -> None:
    async def one(client: AsyncOpenAI, tokens: int) -> int:
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": f"Count to {tokens}"}],
            max_tokens=tokens, stream=True, extra_body={"ignore_eos": True},
        )  # fmt: skip
        return len([event async for event in stream if event.choices[0].delta.content])

    async def all_of(counts: list[int]) -> list[int]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
            return list(await asyncio.gather(*(one(client, count) for count in counts)))

    counts = [10 + 3 * place for place in range(25)]
    assert asyncio.run(all_of(counts)) == counts


def test_who_closes_a_stream_frees_its_place(client: OpenAI, server: Served) -> None:
    stream = client.completions.create(
        model=MODEL, prompt="A long one", max_tokens=100_000, stream=True,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    next(iter(stream))
    assert value(metrics(server), "vllm:num_requests_running") >= 1
    stream.close()
    eventually(lambda: value(metrics(server), "vllm:num_requests_running") == 0)
    assert value(metrics(server), "vllm:kv_cache_usage_perc") == 0


# --- mistakes ----------------------------------------------------------------------------------


def test_an_unknown_model(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.completions.create(model="gpt-9", prompt="Hello")
    assert raised.value.code == "model_not_found"
    assert "gpt-9" in raised.value.message


def test_a_negative_limit(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(model=MODEL, prompt="Hello", max_tokens=-1)
    assert raised.value.param == "max_tokens"


def test_a_prompt_beyond_the_context(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(model=MODEL, prompt="word " * 140_000)
    assert raised.value.code == "context_length_exceeded"
    assert "131072" in raised.value.message.replace(",", "")


def test_a_wrong_key(server: Served) -> None:
    with (
        OpenAI(base_url=f"{server.url}/v1", api_key="another", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.completions.create(model=MODEL, prompt="Hello")


def test_a_client_that_gives_up(client: OpenAI, server: Served) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3).completions.create(
            model=MODEL, prompt="Hello", max_tokens=100_000, extra_body={"ignore_eos": True}
        )
    eventually(lambda: value(metrics(server), "vllm:num_requests_running") == 0)


# --- the Prometheus text parser ----------------------------------------------------------------


def test_metrics_count_what_clients_got(client: OpenAI, server: Served) -> None:
    before = metrics(server)
    client.completions.create(model=MODEL, prompt=list(range(300, 350)), max_tokens=17,
                              extra_body={"ignore_eos": True})  # fmt: skip
    after = metrics(server)
    grown = {
        family: value(after, family, sample) - value(before, family, sample)
        for family, sample in {
            "vllm:prompt_tokens": "vllm:prompt_tokens_total",
            "vllm:generation_tokens": "vllm:generation_tokens_total",
            "vllm:request_success": "vllm:request_success_total",
            "vllm:time_to_first_token_seconds": "vllm:time_to_first_token_seconds_count",
            "vllm:e2e_request_latency_seconds": "vllm:e2e_request_latency_seconds_count",
        }.items()
    }
    assert list(grown.values()) == [50, 17, 1, 1, 1]


def test_histograms_are_whole(client: OpenAI, server: Served) -> None:
    client.completions.create(model=MODEL, prompt="Hello", max_tokens=5)
    families = metrics(server)
    histograms = [family for family in families.values() if family.type == "histogram"]
    assert {family.name for family in histograms} >= {
        "vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds",
        "vllm:e2e_request_latency_seconds", "vllm:request_time_per_output_token_seconds",
    }  # fmt: skip
    for family in histograms:
        assert family.documentation
        by_labels: dict[frozenset[tuple[str, str]], list[tuple[float, float]]] = {}
        counts = {}
        for sample in family.samples:
            labels = frozenset((k, v) for k, v in sample.labels.items() if k != "le")
            if sample.name.endswith("_bucket"):
                bucket = float(sample.labels["le"]), sample.value
                by_labels.setdefault(labels, []).append(bucket)
            elif sample.name.endswith("_count"):
                counts[labels] = sample.value
        assert by_labels.keys() == counts.keys()
        for labels, buckets in by_labels.items():
            assert buckets == sorted(buckets)
            assert [count for _, count in buckets] == sorted(count for _, count in buckets)
            assert buckets[-1] == (float("inf"), counts[labels])


def test_a_server_that_has_gone(tmp_path: Path) -> None:
    with served(["chat-8b-h100"], tmp_path / "said.log") as running:
        url = running.url
        assert running.stop() == 0
    with (
        OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client,
        pytest.raises(openai.APIConnectionError),
    ):
        client.models.list()
