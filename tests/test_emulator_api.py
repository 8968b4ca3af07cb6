"""The endpoints of the emulator: what they answer, and what they say of what they cannot."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import ROOT
from emulator_rig import CHAT, MODEL, TEXT, Answer, Rig, served

from emulator.schema import NEUTRAL, REFUSED, ChatRequest, CompletionRequest


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with served() as running:
        yield running


def chat(rig: Rig, text: Any = "Hello", **fields: Any) -> Answer:
    """One question."""
    return rig.post(CHAT, {"messages": [{"role": "user", "content": text}], **fields})


# --- answers -------------------------------------------------------------------------------------


def test_a_chat_is_answered_whole(rig: Rig) -> None:
    answer = chat(rig, model=MODEL, max_tokens=12, ignore_eos=True).json
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["model"] == MODEL
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["role"] == "assistant"
    counted = rig.post("/tokenize", {"prompt": choice["message"]["content"]}).json
    usage = answer["usage"]
    assert usage["completion_tokens"] == counted["count"] == 12
    asked = rig.post("/tokenize", {"messages": [{"role": "user", "content": "Hello"}]}).json
    assert usage["prompt_tokens"] == asked["count"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12


def test_a_stream_has_an_event_for_each_token(rig: Rig) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    whole = chat(rig, max_tokens=9, ignore_eos=True, seed=7).json
    *events, last = chat(
        rig, max_tokens=9, ignore_eos=True, seed=7, stream=True, stream_options=options
    ).events
    assert len(events) == 9
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    deltas = [event["choices"][0]["delta"] for event in events]
    assert [delta.get("role") for delta in deltas] == ["assistant", *[None] * 8]
    assert all(delta["content"] for delta in deltas)
    text = "".join(delta["content"] for delta in deltas)
    assert text == whole["choices"][0]["message"]["content"]
    reasons = [event["choices"][0]["finish_reason"] for event in events]
    assert reasons == [*[None] * 8, "length"]
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == list(range(1, 10))
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 9
    assert last["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]


def test_completions_take_texts_and_tokens(rig: Rig) -> None:
    tokens = rig.post("/tokenize", {"prompt": "one two three"}).json["tokens"]
    prompts = ["one two three", ["one two three", "four"], tokens, [tokens, [1, 2]]]
    for prompt in prompts:
        answer = rig.post(TEXT, {"prompt": prompt, "max_tokens": 3, "ignore_eos": True}).json
        several = isinstance(prompt, list) and not isinstance(prompt[0], int)
        assert len(answer["choices"]) == (2 if several else 1)
        assert answer["object"] == "text_completion"
        assert answer["usage"]["completion_tokens"] == 3 * len(answer["choices"])
        assert answer["usage"]["prompt_tokens"] == len(tokens) + (
            0 if not several else 1 if isinstance(prompt[0], str) else 2
        )
    text = rig.post("/detokenize", {"tokens": tokens}).json["prompt"]
    assert text == "one two three"


def test_several_answers_and_the_prompt_before_them(rig: Rig) -> None:
    body = {"prompt": ["a b", "c"], "n": 2, "max_tokens": 4, "ignore_eos": True, "echo": True}
    whole = rig.post(TEXT, {**body, "seed": 1}).json
    begins = [choice["text"][:3] for choice in whole["choices"]]
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    assert begins[:2] == ["a b", "a b"]
    assert [text[0] for text in begins[2:]] == ["c", "c"]
    assert whole["choices"][0]["text"] != whole["choices"][1]["text"]
    assert whole["usage"]["completion_tokens"] == 16
    texts = ["", "", "", ""]
    for event in rig.post(TEXT, {**body, "seed": 1, "stream": True}).events:
        [choice] = event["choices"]
        texts[choice["index"]] += choice["text"]
    assert texts == [choice["text"] for choice in whole["choices"]]


def test_models_health_version_and_root(rig: Rig) -> None:
    [card] = rig.get("/v1/models").json["data"]
    assert (card["id"], card["object"], card["max_model_len"]) == (MODEL, "model", 131_072)
    assert rig.get(f"/v1/models/{MODEL}").json == card
    assert rig.get("/v1/models/").json["data"] == [card]
    assert rig.get("/health").json == {"status": "ok"}
    assert rig.get("/version").json["version"]
    assert rig.get("/").json["models"] == [MODEL]
    assert rig.ask("HEAD", "/").status == 200
    metrics = rig.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert b"vllm:num_requests_running" in metrics.body


def test_a_request_keeps_its_id(rig: Rig) -> None:
    answer = rig.post(TEXT, {"prompt": "a", "max_tokens": 1}, {"X-Request-ID": "my-1"})
    assert answer.headers["x-request-id"] == "my-1"
    assert answer.json["id"] == "cmpl-my-1"
    odd = rig.post(TEXT, {"prompt": "a", "max_tokens": 1}, {"X-Request-ID": "\xe9\x7f"})
    assert odd.status == 400 or "x-request-id" not in odd.headers


# --- what is wrong -------------------------------------------------------------------------------

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 10**400}, "max_tokens"),
        ({"n": 1000}, "n"),
        ({"n": 1.5}, "n"),
        ({"stop": [1]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"min_tokens": 9, "max_tokens": 3}, "min_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"max_token": 5}, "max_token"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
    ],
)
def test_wrong_fields_are_told_by_name(rig: Rig, fields: dict[str, Any], param: str) -> None:
    answer = rig.post(CHAT, {**HELLO, **fields})
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["param"] == param
    assert answer.error["code"]


def test_fields_that_change_nothing_are_taken(rig: Rig) -> None:
    fields = {
        "temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.0,
        "frequency_penalty": 0, "presence_penalty": 0, "logprobs": None, "stop": None, "tools": [],
        "response_format": {"type": "text"}, "tool_choice": "none", "user": "me", "logit_bias": {},
        "skip_special_tokens": True, "max_tokens": 2, "stream": None, "stream_options": None,
    }  # fmt: skip
    assert rig.post(CHAT, {**HELLO, **fields}).status == 200


def test_the_page_tells_of_every_field() -> None:
    page = (ROOT / "docs" / "emulator.md").read_text(encoding="utf-8")
    table = page.partition("## Fields of requests")[2].partition("\n## ")[0]
    fields = {*CompletionRequest.model_fields, *ChatRequest.model_fields, *NEUTRAL, *REFUSED}
    assert set(re.findall(r"`(\w+)`", table)) - {"null", "text"} == fields - {
        "add_generation_prompt", "continue_final_message"
    }  # fmt: skip


def test_what_is_not_there_is_told(rig: Rig) -> None:
    answer = rig.post(CHAT, {**HELLO, "model": "gpt-9"})
    assert answer.status == 404
    assert (answer.error["code"], answer.error["param"]) == ("model_not_found", "model")
    answer = rig.get("/v1/nothing")
    assert (answer.status, answer.error["code"]) == (404, "unknown_url")
    answer = rig.get("/health/")
    assert (answer.status, answer.error["code"]) == (404, "unknown_url")
    answer = rig.get(CHAT)
    assert (answer.status, answer.error["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


def test_what_can_never_fit_is_told(rig: Rig) -> None:
    for body in (
        {"prompt": "Hello", "max_tokens": 131_072},
        {"prompt": [1] * 131_072, "max_tokens": 1},
        {"prompt": "x" * (131_072 * 600)},
    ):
        answer = rig.post(TEXT, body)
        if answer.status != 413:
            assert answer.status == 400
            assert answer.error["code"] == "context_length_exceeded"
    assert answer.status == 413


def test_what_is_too_much_for_one_request_is_told(rig: Rig) -> None:
    answer = rig.post(TEXT, {"prompt": "a", "n": 128, "max_tokens": 100_000, "ignore_eos": True})
    assert (answer.status, answer.error["param"]) == (400, "n")
    assert "12,800,128 tokens" in answer.error["message"]
    answer = rig.post(TEXT, {"prompt": ["a"] * 1025})
    assert (answer.status, answer.error["param"]) == (400, "prompt")
    for prompt in ([], [[]], [""]):
        assert rig.post(TEXT, {"prompt": prompt}).error["param"] == "prompt"


def test_prompts_can_be_cut_to_their_end(rig: Rig) -> None:
    body = {"prompt": [1, 2, 3, 4, 5], "max_tokens": 1, "truncate_prompt_tokens": 2}
    assert rig.post(TEXT, body).json["usage"]["prompt_tokens"] == 2


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"nothing", b'{"prompt": NaN}', b'{"prompt": "\xff"}',
     b'{"prompt": "\\ud800"}', b"[" * 100_000, b'{"a":' * 100_000, b'{"max_tokens": ' + b"9" * 5000 + b"}"],
)  # fmt: skip
def test_what_is_no_json_is_told(rig: Rig, body: bytes) -> None:
    answer = rig.post(TEXT, body)
    assert answer.status == 400
    assert answer.error["code"] == "invalid_json"


def test_bodies_must_say_that_they_are_json(rig: Rig) -> None:
    answer = rig.post(TEXT, {"prompt": "a"}, {"Content-Type": "text/plain"})
    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")


# --- what the deployment makes of it -------------------------------------------------------------


def test_the_prefix_cache_finds_what_was_said_before(rig: Rig) -> None:
    block = rig.service.deployment.block_size
    text = "A long beginning that two questions share. " * 40
    first = rig.post(TEXT, {"prompt": text, "max_tokens": 2}).json["usage"]
    again = rig.post(TEXT, {"prompt": text, "max_tokens": 2}).json["usage"]
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    most = (first["prompt_tokens"] - 1) // block * block
    assert again["prompt_tokens_details"]["cached_tokens"] == most > 0
    other = rig.post(TEXT, {"prompt": text, "max_tokens": 2, "cache_salt": "x"}).json["usage"]
    assert other["prompt_tokens_details"]["cached_tokens"] == 0
    assert rig.post("/reset_prefix_cache", None).status == 200
    fresh = rig.post(TEXT, {"prompt": text, "max_tokens": 2}).json["usage"]
    assert fresh["prompt_tokens_details"]["cached_tokens"] == 0


def test_the_next_turn_finds_question_and_answer(rig: Rig) -> None:
    block = rig.service.deployment.block_size
    messages = [{"role": "user", "content": "Tell me of the harbor. " * 20}]
    turn = rig.post(CHAT, {"messages": messages, "max_tokens": 100, "ignore_eos": True}).json
    said = turn["choices"][0]["message"]["content"]
    messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "Go on."}]
    found = rig.post(CHAT, {"messages": messages, "max_tokens": 1}).json["usage"]
    # All tokens of the first turn but the last, which is never computed, in full blocks.
    known = (turn["usage"]["total_tokens"] - 1) // block * block
    assert found["prompt_tokens_details"]["cached_tokens"] == known
    assert known > turn["usage"]["prompt_tokens"]


def test_stop_sequences_end_answers(rig: Rig) -> None:
    whole = chat(rig, seed=3, max_tokens=40, ignore_eos=True).json["choices"][0]["message"]
    stop = whole["content"].split()[7]
    body = {"seed": 3, "max_tokens": 40, "ignore_eos": True, "stop": [stop]}
    answer = chat(rig, **body).json
    [choice] = answer["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    assert choice["message"]["content"] == whole["content"].partition(stop)[0]
    assert answer["usage"]["completion_tokens"] < 40
    events = chat(rig, **body, stream=True).events
    told = "".join(event["choices"][0]["delta"]["content"] for event in events)
    assert told == choice["message"]["content"]
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    assert events[-1]["choices"][0]["stop_reason"] == stop


def test_parts_of_messages_are_text_alone(rig: Rig) -> None:
    plain = chat(rig, "one two", max_tokens=1).json["usage"]
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    assert chat(rig, parts, max_tokens=1).json["usage"]["prompt_tokens"] == plain["prompt_tokens"]
    image = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    answer = chat(rig, image)
    assert (answer.status, answer.error["param"]) == (400, "messages")


def test_thinking_is_told_apart() -> None:
    with served("reasoning-32b-h100", speed=100.0) as rig:
        answer = chat(rig, seed=1).json
        message, usage = answer["choices"][0]["message"], answer["usage"]
        thought = usage["completion_tokens_details"]["reasoning_tokens"]
        assert 0 < thought < usage["completion_tokens"]
        events = chat(rig, seed=1, stream=True).events
        deltas = [event["choices"][0]["delta"] for event in events]
        thoughts = "".join(delta.get("reasoning_content", "") for delta in deltas)
        told = "".join(delta.get("content", "") for delta in deltas)
        assert (told, thoughts) == (message["content"], message["reasoning_content"])
        assert sum("reasoning_content" in delta for delta in deltas) == thought
        cut = chat(rig, seed=1, max_tokens=5, stream=True).events
        assert len(cut) == 5
        assert all(event["choices"][0]["delta"]["reasoning_content"] for event in cut)


def test_hidden_thinking_is_counted_and_not_told() -> None:
    sets = ("workload.reasoning.hidden=true",)
    with served("reasoning-32b-h100", sets, speed=100.0) as rig:
        answer = chat(rig, seed=1).json
        usage = answer["usage"]
        thought = usage["completion_tokens_details"]["reasoning_tokens"]
        assert thought > 0
        assert "reasoning_content" not in answer["choices"][0]["message"]
        events = chat(rig, seed=1, stream=True).events
        assert len(events) == usage["completion_tokens"] - thought
        told = "".join(event["choices"][0]["delta"]["content"] for event in events)
        assert told == answer["choices"][0]["message"]["content"]
        [cut] = chat(rig, seed=1, max_tokens=5, stream=True).events
        assert cut["choices"][0] == {
            "index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None,
            "finish_reason": "length", "stop_reason": None,
        }  # fmt: skip
