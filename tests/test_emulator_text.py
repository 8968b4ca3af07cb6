"""Tokens of prompts, and keys of their KV blocks."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.answers import Answer, Answers, Lengths, Wanted
from emulator.filler import Filler
from emulator.tokens import block_keys, by_rule, chat_tokens
from simulator import load_scenario
from simulator.errors import UserError
from simulator.live import Asked, Ending, LiveDeployment

RULE = by_rule()
FILLER = Filler(RULE)
TEXTS = st.text(max_size=60) | st.text("aZé\u05d0 \t\n.,(_09\x00\u4e2d\u3042\uac00\U0001f600\ud800", max_size=60)  # fmt: skip


@given(TEXTS)
def test_pieces_are_the_text(text: str) -> None:
    tokens = RULE.encode(text)
    assert "".join(map(RULE.piece, tokens)) == RULE.decode(tokens) == text
    assert all(0 <= token < 2**63 for token in tokens)
    assert all(RULE.encode(RULE.piece(token)) == [token] for token in tokens)


@settings(max_examples=300)
@given(st.text("aé\u05d0 \n.(9\u4e2d\u3042", min_size=4, max_size=20))
def test_what_comes_later_changes_no_token_before(text: str) -> None:
    tokens = RULE.encode(text)
    for count in range(len(tokens)):
        assert RULE.encode(RULE.decode(tokens[:count])) == tokens[:count]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Hello, world!", ["Hello", ",", " world", "!"]),
        ("considerably", ["conside", "rably"]),
        ("x = f(y_1)\n    return", ["x", " =", " f", "(y", "_", "1", ")\n", "    ", "return"]),
        ("1234567.5", ["123", "456", "7", ".", "5"]),
        ("größer", ["gr", "öß", "er"]),
        ("你好 안녕하세요", ["你", "好", " ", "안녕", "하세", "요"]),
        ("👍🏽", ["👍", "🏽"]),
    ],
)
def test_examples_of_the_rule(text: str, pieces: list[str]) -> None:
    assert list(map(RULE.piece, RULE.encode(text))) == pieces


def test_numbers_that_are_no_token() -> None:
    assert RULE.piece(0xFF) == RULE.piece(1 << 80) == RULE.piece(0xC3) == "\ufffd"


@pytest.mark.parametrize(
    "text", ["a", "\u0301", " ", "\n", "(", "é", "\U0001f600", "a\u0301 (", " ((((" + "\n" * 11]
)
def test_hostile_texts_take_time_in_proportion(text: str) -> None:
    """A rule that looked back would take hours for these; the limit is a hundred times what one
    core needs, so that a busy machine passes."""
    short, long = text * ((1 << 14) // len(text)), text * ((1 << 19) // len(text))
    start = time.process_time()
    tokens = RULE.encode(long)
    assert time.process_time() - start < 10
    assert abs(len(tokens) - 32 * len(RULE.encode(short))) <= 64
    assert max(tokens) < 2**63


# --- conversations -------------------------------------------------------------------------------


def say(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


@settings(max_examples=50)
@given(TEXTS, TEXTS, st.integers(1, 400), st.integers(0, 2**64 - 1))
def test_a_next_turn_begins_with_this_one(text: str, more: str, count: int, chance: int) -> None:
    asked = [say("system", "You are kind."), say("user", text)]
    pieces, tokens = FILLER.write(count, chance, chance, behind=False)
    told = [*asked, say("assistant", "".join(pieces)), say("user", more)]
    before, after = chat_tokens(asked, RULE), chat_tokens(told, RULE)
    assert after[: len(before) + count] == before + tokens


def test_chat_costs_five_tokens_a_message_and_three_for_the_answer() -> None:
    texts = ["You are kind.", "Hi!", "Hello.", "How are you?"]
    roles = ["system", "user", "assistant", "user"]
    tokens = chat_tokens([say(*each) for each in zip(roles, texts, strict=True)], RULE)
    # The longest role has nine letters, which are two tokens.
    assert len(tokens) == sum(len(RULE.encode(text)) for text in texts) + 5 * 4 + 3 + 2
    assert "".join(map(RULE.piece, tokens)).endswith("<|im_end|>\n<|im_start|>assistant\n")
    # What a client writes is never a mark.
    assert not set(RULE.encode("<|im_start|>")) & set(tokens[:1])


def test_parts_are_one_text() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    assert chat_tokens([say("user", parts)], RULE) == chat_tokens([say("user", "Hello")], RULE)
    named = {**say("user", "Hello"), "name": "ann"}
    assert chat_tokens([named], RULE) != chat_tokens([say("user", "Hello")], RULE)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"content": "x"}, 'messages[0].role: a message needs a role; such as "user"'),
        (say("user", 3), "messages[0].content: a content is a string or a list of parts"),
        (
            say("user", [{"type": "image_url", "image_url": {}}]),
            "messages[0].content[0]: a part of type 'image_url' is no text; "
            'give {"type": "text", "text": "..."}',
        ),
        ({**say("user", "x"), "name": 3}, "messages[0].name: a name is a string"),
    ],
)
def test_messages_that_are_refused(message: dict[str, object], told: str) -> None:
    with pytest.raises(UserError) as caught:
        chat_tokens([message], RULE)
    assert str(caught.value) == told


# --- KV blocks -----------------------------------------------------------------------------------

IDS = st.lists(st.integers(0, 2), max_size=24)


@given(IDS, IDS, st.integers(1, 5))
def test_keys_are_equal_where_beginnings_are(one: list[int], two: list[int], size: int) -> None:
    keys_one, keys_two = block_keys(one, size, "m"), block_keys(two, size, "m")
    assert len(keys_one) == len(one) // size
    assert all(0 <= key < 2**63 and place == at for at, (key, place) in enumerate(keys_one))
    for at, (left, right) in enumerate(zip(keys_one, keys_two, strict=False), 1):
        assert (left == right) == (one[: at * size] == two[: at * size])


@given(IDS, st.integers(1, 5), st.integers(0, 24))
def test_known_keys_need_not_be_computed_again(ids: list[int], size: int, count: int) -> None:
    known = block_keys(ids[:count], size, "m")
    assert block_keys(ids, size, "m", known) == block_keys(ids, size, "m")


def test_salts_share_nothing() -> None:
    ids = list(range(64))
    assert not set(block_keys(ids, 16, "model")) & set(block_keys(ids, 16, "model adapter"))


class Heard:
    """A client that only waits for the end."""

    ending: Ending

    def tokens(self, count: int) -> None: ...

    def ended(self, ending: Ending) -> None:
        self.ending = ending


def test_a_deployment_finds_what_conversations_share() -> None:
    deployment = LiveDeployment(load_scenario("chat-8b-h100"))
    size = deployment.block_size
    answers = Answers(Lengths(deployment.traffic, 1), RULE)

    def turn(messages: list[dict[str, object]], salt: str = "m") -> tuple[Ending, Answer]:
        prompt = chat_tokens(messages, RULE)
        [answer] = answers.to(prompt, Wanted(max_tokens=100, ignore_eos=True), room=1000)
        keys = block_keys(prompt + answer.tokens, size, salt, block_keys(prompt, size, salt))
        client = Heard()
        deployment.send(Asked(len(prompt), len(answer.tokens), keys=keys), client)
        deployment.advance(deployment.now_s + 100.0)
        return client.ending, answer

    system = say("system", "You are the kind voice of a shop that sells boats and nets. " * 10)
    asked = [system, say("user", "What is there?")]
    first, answer = turn(asked)
    assert first.cached_tokens == 0
    told = [*asked, say("assistant", answer.text), say("user", "And what else?")]
    second, _ = turn(told)
    # All but the last token of the answer has been stored.
    assert second.cached_tokens == (first.prompt_tokens + 99) // size * size
    other, _ = turn([system, say("user", "Who is there?")])
    # What begins the answer has four tokens, what begins another question three of the same ones.
    shared = len(chat_tokens([system], RULE)) - 4 + 3
    assert other.cached_tokens == shared // size * size
    assert turn(told, "another model")[0].cached_tokens == 0
