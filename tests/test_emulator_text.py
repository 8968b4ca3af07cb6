"""Tokens of prompts and texts of answers."""

from __future__ import annotations

import json
import time
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.answers import Answer, Answers, Lengths, Wanted, stopped
from emulator.filler import Filler, _usual
from emulator.tokens import block_keys, by_rule, chat_tokens, from_file
from simulator import load_scenario
from simulator.errors import ScenarioError, UserError
from simulator.live import Asked, Ending, LiveDeployment
from simulator.workload.answers import Answers as AnswerColumns
from simulator.workload.requests import Requests

RULE = by_rule()
FILLER = Filler(RULE)
TEXTS = st.text(max_size=60) | st.text("aZé\u05d0 \t\n.,(_09\x00\u4e2d\u3042\uac00\U0001f600\ud800", max_size=60)  # fmt: skip
WORDS = "the of and a to in is you that it he was for on are as with they I at be this have"


def traffic(output: list[int], thinking: list[int] | None = None, classes: int = 1) -> Requests:
    n = len(output)
    zero = np.zeros(n, dtype=np.int64)
    answers = None
    if thinking is not None:
        flags = np.zeros(n, dtype=np.bool_)
        answers = AnswerColumns(np.arange(n), ~flags, flags, np.array(thinking), flags, flags)
    return Requests(
        arrival_s=np.zeros(n),
        input_tokens=zero + 1,
        output_tokens=np.array(output),
        class_id=np.arange(n) % classes,
        parent=zero - 1,
        pool=zero - 1,
        session=zero - 1,
        classes=tuple(f"class{number}" for number in range(classes)),
        answers=answers,
    )


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte-level BPE tokenizer, trained on a few words."""
    tokenizers = pytest.importorskip("tokenizers")
    cutter = tokenizers.Tokenizer(tokenizers.models.BPE())
    cutter.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    cutter.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600, show_progress=False, special_tokens=["<|im_start|>", "<|im_end|>", "<s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    cutter.train_from_iterator([WORDS] * 8, trainer)
    cutter.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", cutter.token_to_id("<s>"))]
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    cutter.save(str(folder / "tokenizer.json"))
    return folder


# --- the rule ------------------------------------------------------------------------------------


@given(TEXTS)
def test_pieces_are_the_text(text: str) -> None:
    tokens = RULE.encode(text)
    assert "".join(map(RULE.piece, tokens)) == RULE.decode(tokens) == text
    assert all(0 <= token < 2**63 for token in tokens)
    assert all(RULE.encode(RULE.piece(token)) == [token] for token in tokens)


@given(TEXTS, st.data())
def test_what_comes_later_changes_no_token_before(text: str, data: st.DataObject) -> None:
    tokens = RULE.encode(text)
    count = data.draw(st.integers(0, len(tokens)))
    assert RULE.encode("".join(map(RULE.piece, tokens[:count]))) == tokens[:count]


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


@pytest.mark.parametrize("text", ["a", "\u0301", " ", "\n", "(", "é", "\U0001f600", "a\u0301 ("])
def test_hostile_texts_take_time_in_proportion(text: str) -> None:
    """A rule that looked back would take hours for these; the limit is a hundred times what one
    core needs, so that a busy machine passes."""
    short, long = text * ((1 << 14) // len(text)), text * ((1 << 19) // len(text))
    start = time.process_time()
    tokens = RULE.encode(long)
    assert time.process_time() - start < 10
    assert abs(len(tokens) - 32 * len(RULE.encode(short))) <= 32


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


# --- lengths -------------------------------------------------------------------------------------


def test_answers_are_as_long_as_those_of_the_scenario() -> None:
    deployment = LiveDeployment(load_scenario("chat-8b-h100"))
    answers = Answers(Lengths(deployment.traffic, 1), RULE)
    drawn = [answers.to([1], Wanted(), room=100_000)[0] for _ in range(1000)]
    lengths = np.array([len(answer.tokens) for answer in drawn])
    natural = deployment.traffic.output_tokens
    assert set(lengths.tolist()) <= set(natural.tolist())
    error = natural.std() / np.sqrt(len(lengths))
    assert abs(lengths.mean() - natural.mean()) < 4 * error
    assert {answer.finish_reason for answer in drawn} == {"stop"}


def one(lengths: list[int], wanted: Wanted, room: int = 1000, **more: object) -> Answer:
    return Answers(Lengths(traffic(lengths), 1), RULE).to([1], wanted, room=room, **more)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "room", "tokens", "reason"),
    [
        (Wanted(), 1000, 50, "stop"),
        (Wanted(max_tokens=50), 1000, 50, "stop"),
        (Wanted(max_tokens=49), 1000, 49, "length"),
        (Wanted(), 40, 40, "length"),
        (Wanted(min_tokens=60), 1000, 60, "stop"),
        (Wanted(min_tokens=60, max_tokens=60), 1000, 60, "stop"),
        (Wanted(max_tokens=200, ignore_eos=True), 1000, 200, "length"),
        (Wanted(ignore_eos=True), 300, 300, "length"),
        (Wanted(max_tokens=1), 1000, 1, "length"),
    ],
)
def test_what_clients_say_of_lengths(wanted: Wanted, room: int, tokens: int, reason: str) -> None:
    answer = one([50], wanted, room)
    assert (len(answer.tokens), len(answer.pieces)) == (tokens, tokens)
    assert answer.finish_reason == reason
    assert all(answer.pieces)


def test_classes_have_their_own_lengths() -> None:
    answers = Answers(Lengths(traffic([10, 20] * 5, classes=2), 1), RULE)
    for class_id, tokens in ((0, 10), (1, 20)):
        assert len(answers.to([1], Wanted(), room=99, class_id=class_id)[0].tokens) == tokens


def test_a_class_without_requests_is_told() -> None:
    with pytest.raises(ScenarioError, match="workload: has no request of class class1"):
        Lengths(traffic([10], classes=2), 1)


def test_thinking_comes_first_and_is_part_of_max_tokens() -> None:
    answers = Answers(Lengths(traffic([50], [20]), 1), RULE)
    [answer] = answers.to([1], Wanted(), room=99)
    assert (answer.thinking, len(answer.pieces)) == (20, 50)
    assert RULE.encode(answer.thought) + RULE.encode(answer.text) == answer.tokens
    [cut] = answers.to([1], Wanted(max_tokens=12), room=99)
    assert (cut.thinking, len(cut.pieces), cut.text) == (12, 12, "")


# --- seeds ---------------------------------------------------------------------------------------


def test_a_seed_repeats_the_answer() -> None:
    lengths = list(range(10, 500))
    make = Answers(Lengths(traffic(lengths), 1), RULE).to
    again = Answers(Lengths(traffic(lengths), 1), RULE).to
    prompt = RULE.encode("Tell me.")
    seeded = make(prompt, Wanted(seed=7), room=999)
    make(prompt, Wanted(), room=999)
    assert make(prompt, Wanted(seed=7), room=999) == seeded
    assert make(prompt, Wanted(seed=8), room=999) != seeded
    assert make(RULE.encode("Tell us."), Wanted(seed=7), room=999) != seeded
    # A deployment that starts anew gives the same answers in the same order.
    first = [again([1], Wanted(), room=999)[0] for _ in range(5)]
    third = Answers(Lengths(traffic(lengths), 1), RULE).to
    assert [third([1], Wanted(), room=999)[0] for _ in range(5)] == first
    assert len({answer.text for answer in first}) == 5


def test_answers_to_one_prompt_differ() -> None:
    wanted = Wanted(max_tokens=1, ignore_eos=True, seed=3)
    make = Answers(Lengths(traffic([5]), 1), RULE).to
    assert len({a.text for a in make([1], wanted, room=99, answers=60)}) == 60
    wanted = Wanted(max_tokens=30, ignore_eos=True, seed=3)
    assert len({a.text for a in make([1], wanted, room=99, answers=128)}) == 128


# --- texts ---------------------------------------------------------------------------------------


def test_the_sentences_are_whole() -> None:
    sentences = list(_usual())
    assert len({sentence[0] for sentence in sentences}) == len(sentences) >= 60
    assert ["".join(s) for s in sentences] == ["".join(p) for p, _ in FILLER._sentences]
    assert all(max(map(len, sentence)) <= 8 for sentence in sentences)


def test_long_answers_are_not_one_sentence_over_and_over() -> None:
    pieces, _ = FILLER.write(20_000, 5, 11, behind=False)
    sentences = "".join(pieces).split(". ")
    assert len(set(sentences)) > 50
    assert max(sentences.count(each) for each in set(sentences)) < len(sentences) / 10


def test_a_completion_goes_on_behind_its_prompt() -> None:
    prompt = RULE.encode("Once upon a")
    [answer] = Answers(Lengths(traffic([40]), 1), RULE).to(prompt, Wanted(), room=99, chat=False)
    assert answer.pieces[0].startswith(" ")
    assert RULE.encode("Once upon a" + answer.text) == prompt + answer.tokens


# --- stop sequences ------------------------------------------------------------------------------

SAID = ["Here", " is", " the", " end", ".", " The", " end", "."]


def reference(pieces: list[str], wanted: Wanted) -> tuple[str, int]:
    """Token by token, as an engine looks for stop sequences."""
    text = ""
    for count, piece in enumerate(pieces, 1):
        text += piece
        old = len(text) - len(piece)
        found = [
            at
            for stop in wanted.stop
            for at in range(len(text))
            if text.startswith(stop, at) and at + len(stop) > old
        ]
        if count > wanted.min_tokens and found:
            return text[: min(found)], count
    return text, len(pieces)


@given(
    st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3),
    st.integers(0, 12),
    st.integers(0, 12),
)
def test_stop_sequences_end_answers(
    pieces: list[str], stops: list[str], least: int, thinking: int
) -> None:
    least, thinking = min(least, len(pieces)), min(thinking, len(pieces))
    wanted = Wanted(stop=tuple(stops), min_tokens=least)
    answer = stopped(Answer(list(range(len(pieces))), pieces, "length", thinking), wanted)
    text, count = reference(pieces, wanted)
    assert ("".join(answer.pieces), len(answer.pieces)) == (text, count)
    assert answer.tokens == list(range(count))
    assert answer.thinking == min(thinking, count)
    assert (answer.finish_reason == "stop") == (answer.stop_reason is not None)
    # Pieces are as they were up to where the stop sequence begins.
    for end, piece, before in zip(
        accumulate(map(len, pieces)), answer.pieces, pieces, strict=False
    ):
        assert piece == before or end > len(text)


def test_a_stop_sequence_over_several_tokens() -> None:
    answer = stopped(Answer(list(range(8)), SAID, "length"), Wanted(stop=("d. T", "zzz")))
    assert answer.pieces == ["Here", " is", " the", " en", "", ""]
    assert (answer.finish_reason, answer.stop_reason) == ("stop", "d. T")
    whole = Answer(list(range(8)), SAID, "length")
    assert stopped(whole, Wanted(stop=("zzz",))) == whole


# --- tokenizers of models ------------------------------------------------------------------------


def test_a_tokenizer_from_a_folder(bpe: Path) -> None:
    tokenizer = from_file(bpe)
    text = "that you was é 中 👍 \ud83d"
    assert "".join(map(tokenizer.piece, tokenizer.encode("that you was"))) == "that you was"
    assert tokenizer.decode(tokenizer.encode("it é 中 👍")) == "it é 中 👍"
    assert tokenizer.decode([*tokenizer.encode("it"), 1 << 40]) == "it\ufffd"
    assert tokenizer.prompt(text)[1:] == tokenizer.encode(text)
    assert tokenizer.piece(tokenizer.prompt("a")[0]) == "<s>"
    # One byte of a longer character has no text by itself; nor has a number beyond the vocabulary.
    assert tokenizer.piece(tokenizer.encode("中")[0]) == "\ufffd" == tokenizer.piece(1 << 40)


@pytest.mark.parametrize("count", [1, 2, 3, 50, 400])
def test_answers_are_cut_as_the_model_cuts_them(bpe: Path, count: int) -> None:
    tokenizer = from_file(bpe)
    filler = Filler(tokenizer)
    pieces, tokens = filler.write(count, 5, 99, behind=False)
    assert tokenizer.encode("".join(pieces)) == tokens
    asked = [say("user", "was it he?")]
    told = [*asked, say("assistant", "".join(pieces)), say("user", "yes")]
    before, after = chat_tokens(asked, tokenizer), chat_tokens(told, tokenizer)
    assert after[: len(before) + count] == before + tokens
    assert len({filler.write(8, place, 5, behind=False)[0][0] for place in range(3)}) > 1


def test_a_tokenizer_of_other_words(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"zwei": 0, "drei": 1, "<unk>": 2, "vier": 3}
    cutter = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    cutter.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    cutter.save(str(tmp_path / "tokenizer.json"))
    tokenizer = from_file(tmp_path / "tokenizer.json")
    pieces, tokens = Filler(tokenizer).write(20, 1, 1, behind=False)
    assert tokenizer.encode("".join(pieces)) == tokens
    assert set(tokens) <= {0, 1, 3}


LLAMA_LIKE = """{{- bos_token }}
{{- strftime_now("%Y")[:1] }}
{%- if messages[0]['role'] == 'system' %}
    {%- set rest = messages[1:] %}
    {{- '[' + messages[0]['content'] | trim + ']' }}
{%- else %}
    {%- set rest = messages %}
{%- endif %}
{%- for message in rest %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {%- if message['role'] not in ['user', 'assistant'] %}{% continue %}{% endif %}
    {{- '<|im_start|>' + message['role'] + '\n\n' }}
    {%- generation %}
    {{- message['content'] | trim }}
    {%- endgeneration %}
    {{- '<|im_end|>' }}
{%- endfor %}
{%- if tools is not none %}{{ tools | tojson }}{% endif %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n\n' }}{% endif %}
"""
"""Everything that templates of models use."""


@pytest.mark.parametrize("beside", [True, False])
def test_a_chat_template_is_followed(bpe: Path, tmp_path: Path, beside: bool) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    (tmp_path / "tokenizer.json").write_bytes((bpe / "tokenizer.json").read_bytes())
    config: dict[str, object] = {"bos_token": {"content": "<s>"}, "eos_token": "<|im_end|>"}
    if beside:
        (tmp_path / "chat_template.jinja").write_text(LLAMA_LIKE)
    else:
        other = {"name": "tool_use", "template": "x"}
        config["chat_template"] = [other, {"name": "default", "template": LLAMA_LIKE}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = from_file(tmp_path)
    pieces, tokens = Filler(tokenizer).write(40, 1, 2, behind=False)
    asked = [say("system", "be"), say("user", "was it he? ")]
    told = [*asked, say("assistant", "".join(pieces)), say("user", "yes")]
    before, after = chat_tokens(asked, tokenizer), chat_tokens(told, tokenizer)
    assert after[: len(before) + 40] == before + tokens
    texts, _ = utils.render_jinja_template(
        [asked, told], chat_template=LLAMA_LIKE, add_generation_prompt=True, bos_token="<s>"
    )
    assert [tokenizer.encode(text) for text in texts] == [before, after]
    with pytest.raises(UserError) as caught:
        chat_tokens([*told, told[-1]], tokenizer)
    assert str(caught.value) == "messages: the model's chat template: roles must alternate"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("chat_template.jinja", "{% for %}", "is no chat template: "),
        ("chat_template.jinja", "{{ messages.x.y }}", "the chat template fails on a plain message"),
        (
            "chat_template.jinja",
            "{{ ''.__class__.__mro__ }}",
            "the chat template fails on a plain message: the model's chat template: access to",
        ),
        ("tokenizer_config.json", "{", "is not JSON: "),
        ("tokenizer_config.json", "[]", "is not the settings of a tokenizer"),
    ],
)
def test_chat_templates_that_are_refused(
    bpe: Path, tmp_path: Path, name: str, content: str, told: str
) -> None:
    (tmp_path / "tokenizer.json").write_bytes((bpe / "tokenizer.json").read_bytes())
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as caught:
        from_file(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / name}: {told}")
    assert len(from_file(tmp_path / "tokenizer.json").encode("it")) > 0


def broken(folder: Path, content: str | None) -> Path:
    file = folder / "tokenizer.json"
    if content is not None:
        file.write_text(content)
    return file


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "there is no such file; give the tokenizer.json of a model, or the folder it is in"),
        ("{", "is no tokenizer that the package tokenizers reads"),
        (json.dumps({"model_type": "llama"}), "is no tokenizer that the package tokenizers reads"),
        ("\0\0", "is no tokenizer that the package tokenizers reads"),
    ],
)
def test_files_that_are_no_tokenizer(tmp_path: Path, content: str | None, told: str) -> None:
    with pytest.raises(UserError) as caught:
        from_file(broken(tmp_path, content))
    assert str(caught.value).startswith(f"{tmp_path / 'tokenizer.json'}: {told}")


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    with file.open("wb") as hole:
        hole.truncate(1 << 30)
    with pytest.raises(UserError, match="is too large for a tokenizer: 1,074 MB of at most 134"):
        from_file(file)


def test_the_missing_package_is_told(bpe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(UserError, match="reading a tokenizer needs the package tokenizers; pip"):
        from_file(bpe)


def test_a_vocabulary_without_words(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    cutter = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    cutter.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="has no words that are one token each"):
        Filler(from_file(tmp_path))
