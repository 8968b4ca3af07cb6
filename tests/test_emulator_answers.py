"""Answers: how long they are, what they say and where they end."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.answers import Answer, Answers, Lengths, Wanted, stopped
from emulator.filler import Filler, _usual
from emulator.tokens import by_rule
from simulator import load_scenario
from simulator.errors import ScenarioError
from simulator.live import LiveDeployment
from simulator.workload.answers import Answers as AnswerColumns
from simulator.workload.requests import Requests

RULE = by_rule()
FILLER = Filler(RULE)


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


@settings(max_examples=400)
@given(
    st.lists(st.text("ab", min_size=1, max_size=2), min_size=4, max_size=10),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=2),
    st.integers(0, 6),
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
